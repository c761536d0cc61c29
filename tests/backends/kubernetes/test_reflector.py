"""The exact state of a kind, whatever befalls the watch. In virtual time."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from random import Random
from typing import Any, cast

import looptime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from backends.kubernetes.api import KubeApi, KubeObject, KubeRefused, KubeUnavailable, WatchExpired
from backends.kubernetes.reflector import (
    CALM_SECONDS,
    JITTER,
    LAST_PAUSE_SECONDS,
    RELIST_SECONDS,
    SILENCE_SECONDS,
    Reflector,
)
from tests.backends.kubernetes.replicas import JOB, LATENCY_SECONDS, Replica

pytestmark = pytest.mark.looptime

Told = list[tuple[str, KubeObject | None, KubeObject | None]]


class Watched:
    """A reflector and everything that it told."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self.told: Told = []
        self.mirror: dict[str, str] = {}
        self.reflector = Reflector(
            cast("KubeApi", replica), JOB, "ns", "launchbay.dev/owner=us", self._changed, random=Random(1)
        )

    def _changed(self, name: str, old: KubeObject | None, new: KubeObject | None) -> None:
        self.told.append((name, old, new))
        assert (old is None) == (name not in self.mirror), "what is told continues what was told"
        assert old is None or old["metadata"]["uid"] == self.mirror[name]
        if new is None:
            del self.mirror[name]
        else:
            self.mirror[name] = new["metadata"]["uid"]
            assert old is None or new["metadata"]["uid"] == old["metadata"]["uid"], (
                "another object is a change of its own"
            )

    @property
    def brief(self) -> list[str]:
        """What was told since the last look."""
        told, self.told = self.told, []
        words = {(True, False): "new", (False, True): "gone", (False, False): "changed"}
        return [f"{words[old is None, new is None]} {name}" for name, old, new in told]

    @property
    def is_exact(self) -> bool:
        """Whether the cache is what the cluster has, and what was told adds up to it."""
        seen = {name: object_["metadata"]["resourceVersion"] for name, object_ in self.reflector.objects.items()}
        there = {name: object_["metadata"] for name, object_ in self.replica.objects.items()}
        return seen == {name: metadata["resourceVersion"] for name, metadata in there.items()} and self.mirror == {
            name: metadata["uid"] for name, metadata in there.items()
        }


@asynccontextmanager
async def watching(replica: Replica) -> AsyncGenerator[Watched]:
    """Have a reflector that runs."""
    watched = Watched(replica)
    watched.reflector.start()
    try:
        yield watched
    finally:
        await watched.reflector.close()


def now() -> float:
    """Return the time of the loop."""
    return asyncio.get_running_loop().time()


async def test_what_is_there_is_listed_and_what_happens_then_is_told_at_once() -> None:
    replica = Replica()
    replica.put("a")
    async with watching(replica) as watched:
        assert not watched.reflector.is_synced
        await watched.reflector.synced()
        assert watched.reflector.is_synced
        assert watched.brief == ["new a"]
        await asyncio.sleep(1)
        replica.put("b", status={"active": 1})
        replica.put("a")
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)
        assert watched.brief == ["new b", "changed a"]
        assert watched.reflector.objects["b"]["status"] == {"active": 1}
        replica.delete("a")
        await asyncio.sleep(0.001)
        (name, old, new) = watched.told[-1]
        assert (name, new) == ("a", None)
        assert old is not None
        assert old["metadata"]["resourceVersion"] == str(replica.version), "what is gone is told in its last state"
        assert watched.is_exact
        assert len(replica.lists) == len(replica.watches) == 1


async def test_what_nobody_reads_is_dropped_from_what_is_listed_and_what_is_watched() -> None:
    replica = Replica()
    replica.put("a")
    async with watching(replica) as watched:
        await asyncio.sleep(1)
        replica.put("b")
        await asyncio.sleep(1)
        assert [sorted(each["metadata"]) for each in watched.reflector.objects.values()] == [
            ["name", "resourceVersion", "uid"]
        ] * 2


async def test_a_watch_that_ends_goes_on_from_where_it_was() -> None:
    replica = Replica()
    async with watching(replica) as watched:
        for error in (None, KubeUnavailable("cut")):
            await asyncio.sleep(2 * CALM_SECONDS)
            replica.put("a")
            replica.end_watches(error)
            replica.put("b")
            await asyncio.sleep(0.5)
            assert watched.is_exact
            assert watched.reflector.is_synced
        assert len(replica.lists) == 1
        assert len(replica.watches) == 3


async def test_deletions_that_nobody_watched_are_found_by_listing_again() -> None:
    replica = Replica()
    for name in ("a", "b", "c"):
        replica.put(name)
    async with watching(replica) as watched:
        await asyncio.sleep(2 * CALM_SECONDS)
        assert sorted(watched.brief) == ["new a", "new b", "new c"]
        replica.end_watches(WatchExpired("410"))
        replica.delete("a")
        replica.delete("b")
        replica.put("b")
        replica.forget()
        await asyncio.sleep(0.5)
        assert watched.is_exact
        assert sorted(watched.brief) == ["gone a", "gone b", "new b"], "another b is not the b that was"
        assert len(replica.lists) == 2


async def test_a_silent_watch_is_torn_down() -> None:
    replica = Replica()
    async with watching(replica) as watched:
        await asyncio.sleep(10)
        replica.is_frozen = True
        replica.put("a")
        await asyncio.sleep(1)
        replica.is_frozen = False
        assert watched.brief == []
        await asyncio.sleep(SILENCE_SECONDS)
        assert watched.brief == ["new a"]
        assert watched.is_exact


async def test_a_watch_that_only_brings_bookmarks_is_alive() -> None:
    replica = Replica()
    async with watching(replica):
        await asyncio.sleep(3 * SILENCE_SECONDS)
        assert len(replica.lists) == len(replica.watches) == 1


async def test_everything_is_listed_once_in_a_while() -> None:
    replica = Replica()
    async with watching(replica):
        await asyncio.sleep(10 * RELIST_SECONDS)
        between = [b - a for a, b in zip(replica.lists, replica.lists[1:], strict=False)]
        assert len(set(between)) == len(between) > 7, "agents that began together do not list together"
        assert all((1 - JITTER) * RELIST_SECONDS <= each <= (1 + JITTER) * RELIST_SECONDS + 1 for each in between)


async def test_while_the_server_is_away_it_is_blind_and_knows_why_and_then_sees_everything_again() -> None:
    replica = Replica()
    replica.put("a")
    async with watching(replica) as watched:
        await watched.reflector.synced()
        await asyncio.sleep(CALM_SECONDS)
        replica.is_away = True
        replica.end_watches(KubeUnavailable("reset"))
        await asyncio.sleep(1)
        assert not watched.reflector.is_synced
        assert "away" in str(watched.reflector.error)
        assert "a" in watched.reflector.objects, "away does not mean gone"
        for wait in (watched.reflector.synced, watched.reflector.refresh):
            with pytest.raises(KubeUnavailable, match="away"):
                await wait()
        replica.delete("a")
        replica.put("b")
        replica.forget()
        await asyncio.sleep(10 * CALM_SECONDS)
        assert watched.brief == ["new a"]
        replica.is_away = False
        await asyncio.sleep(LAST_PAUSE_SECONDS * (1 + JITTER) + 1)
        assert watched.reflector.is_synced
        assert watched.reflector.error is None
        assert watched.brief == ["gone a", "new b"]


async def test_a_server_that_is_away_is_asked_ever_less_often() -> None:
    replica = Replica()
    replica.is_away = True
    async with watching(replica) as watched:
        with pytest.raises(KubeUnavailable, match="away"):
            await watched.reflector.synced()
        await asyncio.sleep(600)
        between = [b - a for a, b in zip(replica.lists, replica.lists[1:], strict=False)]
        assert between[0] < 0.2
        assert len(between) < 60
        assert max(between) <= LAST_PAUSE_SECONDS * (1 + JITTER) + LATENCY_SECONDS + 0.01


@pytest.mark.parametrize("error", [None, KubeUnavailable("cut"), WatchExpired("410"), KubeRefused("no", status=403)])
async def test_watches_that_end_at_once_are_no_hot_loop(error: Exception | None) -> None:
    replica = Replica()
    replica.ends_at_once = True
    replica.end_watches(error)
    async with watching(replica) as watched:
        await asyncio.sleep(600)
        assert 30 < len(replica.watches) < 80
        assert len(replica.lists) <= len(replica.watches)
        replica.ends_at_once = False
        replica.put("a")
        await asyncio.sleep(2 * LAST_PAUSE_SECONDS)
        assert watched.is_exact


async def test_a_watch_that_ends_without_having_watched_is_followed_by_a_list() -> None:
    replica = Replica()
    async with watching(replica) as watched:
        await asyncio.sleep(1)
        replica.end_watches()
        replica.put("a")
        replica.changes.clear()  # a server that has forgotten, and does not say so
        await asyncio.sleep(1)
        assert watched.is_exact


async def test_a_quiet_watch_that_is_cut_after_a_while_does_not_cost_a_list() -> None:
    replica = Replica()
    async with watching(replica):
        for _ in range(20):
            await asyncio.sleep(30)
            replica.end_watches(KubeUnavailable("idle for too long"))
        assert len(replica.lists) == 1


async def test_the_server_says_when_it_wants_to_be_asked_again() -> None:
    replica = Replica()
    replica.list_errors.append(KubeUnavailable("429", retry_after=7))
    async with watching(replica) as watched:
        await asyncio.sleep(6.9)
        assert len(replica.lists) == 1
        await asyncio.sleep(0.2)
        assert len(replica.lists) == 2
        assert watched.reflector.is_synced


async def test_what_is_forbidden_is_told_as_such() -> None:
    replica = Replica()
    replica.list_errors.append(KubeRefused("jobs is forbidden", status=403, reason="Forbidden"))
    async with watching(replica) as watched:
        with pytest.raises(KubeRefused, match="jobs is forbidden") as refused:
            await watched.reflector.synced()
        assert (refused.value.status, refused.value.reason) == (403, "Forbidden")
        await asyncio.sleep(1)
        assert watched.reflector.is_synced, "rights are given"


async def test_a_refresh_is_a_list_that_began_after_it_was_asked_for() -> None:
    replica = Replica()
    async with watching(replica) as watched:
        early = asyncio.create_task(watched.reflector.synced())
        await asyncio.sleep(LATENCY_SECONDS / 2)  # the first list is under way
        late = asyncio.create_task(watched.reflector.refresh())
        await early
        assert not late.done()
        await late
        assert len(replica.lists) == 2
        await asyncio.sleep(10)
        replica.is_frozen = True
        replica.put("a")
        began = now()
        await asyncio.gather(*(watched.reflector.refresh() for _ in range(5)))
        assert now() - began < 0.1
        assert watched.is_exact
        assert len(replica.lists) == 3


async def test_a_refresh_is_not_lost_among_events() -> None:
    replica = Replica()
    async with watching(replica) as watched:
        await asyncio.sleep(1)
        for _ in range(5):
            replica.put("a")
            refreshing = asyncio.create_task(watched.reflector.refresh())
            await asyncio.sleep(0)
            replica.put("a")
            await asyncio.wait_for(refreshing, 1)


async def test_who_waits_is_told_when_nobody_watches_any_more() -> None:
    watched = Watched(Replica())
    watched.reflector.start()
    waiting = asyncio.create_task(watched.reflector.synced())
    await asyncio.sleep(0)
    await watched.reflector.close()
    with pytest.raises(KubeUnavailable, match="no longer watched"):
        await waiting
    with pytest.raises(KubeUnavailable, match="no longer watched"):
        await watched.reflector.refresh()
    await watched.reflector.close()


async def test_a_bug_in_who_listens_makes_nobody_blind() -> None:
    replica = Replica()
    replica.put("a")
    told: list[str] = []

    def changed(name: str, old: KubeObject | None, new: KubeObject | None) -> None:
        told.append(name)
        raise ZeroDivisionError

    reflector = Reflector(cast("KubeApi", replica), JOB, "ns", "", changed, random=Random(1))
    reflector.start()
    await asyncio.sleep(1)
    replica.put("b")
    await asyncio.sleep(1)
    assert told == ["a", "b"]
    assert reflector.is_synced
    await reflector.close()


async def test_what_cannot_be_understood_ends_nothing() -> None:
    replica = Replica()
    async with watching(replica) as watched:
        await asyncio.sleep(1)
        replica.changes.append((replica.version + 1, "ADDED", {"metadata": {}}))
        replica.put("a")
        replica.changes.pop(0)
        await asyncio.sleep(1)
        assert watched.is_exact
        replica.list_errors.append(TypeError("bug"))
        with pytest.raises(KubeUnavailable, match="bug"):
            await watched.reflector.refresh()
        replica.put("b")
        await asyncio.sleep(2)
        assert watched.is_exact
        assert watched.reflector.is_synced


async def test_what_has_not_changed_is_the_same_object_after_another_list() -> None:
    """So that ten thousand objects are not there twice, and nobody looks at them again."""
    replica = Replica()
    replica.put("a")
    replica.put("b")
    async with watching(replica) as watched:
        await watched.reflector.synced()
        before = dict(watched.reflector.objects)
        replica.put("b")
        await watched.reflector.refresh()
        assert watched.reflector.objects["a"] is before["a"]
        assert watched.reflector.objects["b"] is not before["b"]


NAMES = st.sampled_from("abc")
FAULTS = st.sampled_from(
    [None, KubeUnavailable("cut"), WatchExpired("410"), KubeRefused("no", status=403), RuntimeError("bug")]
)
STEPS = st.one_of(
    st.tuples(st.just("put"), NAMES),
    st.tuples(st.just("delete"), NAMES),
    st.tuples(st.just("replace"), NAMES),
    st.tuples(st.just("end"), FAULTS),
    st.tuples(st.just("list_error"), FAULTS.filter(lambda fault: fault is not None)),
    st.tuples(st.sampled_from(["forget", "away", "back", "freeze", "thaw", "refresh"]), st.none()),
    st.tuples(st.just("wait"), st.sampled_from([0.0, LATENCY_SECONDS / 2, 0.1, 3.0, 20.0, 61.0, 200.0, 2500.0])),
)


@settings(max_examples=50)
@given(st.lists(STEPS, max_size=25))
def test_after_any_faults_the_cache_is_what_the_cluster_has_and_each_change_was_told(
    steps: list[tuple[str, Any]],
) -> None:
    async def play() -> None:
        replica = Replica()
        async with watching(replica) as watched:
            for step, value in steps:
                await take(replica, watched, step, value)
            replica.is_away = replica.is_frozen = False
            replica.list_errors.clear()
            await asyncio.sleep(SILENCE_SECONDS + 4 * LAST_PAUSE_SECONDS)
            assert watched.reflector.is_synced
            assert watched.is_exact
            assert len(replica.lists) + len(replica.watches) < 20 + now(), "no hot loop"

    # To print each bug with its stack trace would take a minute.
    with capture_logs(), asyncio.Runner(loop_factory=looptime.new_event_loop) as runner:
        runner.run(play())


async def take(replica: Replica, watched: Watched, step: str, value: Any) -> None:
    """Do one step of many."""
    match step:
        case "put":
            replica.put(value)
        case "delete":
            replica.delete(value)
        case "replace":
            replica.delete(value)
            replica.put(value)
        case "end":
            replica.end_watches(value)
        case "list_error":
            replica.list_errors.append(value)
        case "forget":
            replica.forget()
        case "away" | "back":
            replica.is_away = step == "away"
            replica.end_watches(KubeUnavailable("reset"))
        case "freeze" | "thaw":
            replica.is_frozen = step == "freeze"
        case "refresh":
            asyncio.ensure_future(watched.reflector.refresh()).add_done_callback(lambda done: done.exception())
        case _:
            await asyncio.sleep(value)
