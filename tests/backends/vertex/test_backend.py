"""The gcp-vertex backend where things go wrong: what Google refuses, forgets, delays, or does without saying so."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from backends.base import (
    Backend,
    BackendError,
    BackendUnavailable,
    Handle,
    Observation,
    Phase,
    PlatformFull,
    StartRequest,
)
from backends.registry import load
from backends.vertex.backend import VertexBackend
from tests.backends.vertex.google import CODES, Fault, Google
from tests.backends.vertex.test_contract import ARGS

LIMIT_SECONDS = 60.0
LAUNCH = Handle("launch-1")
create = load("gcp-vertex")


def request(name: str = "launch-1", **more: Any) -> StartRequest:
    given: Mapping[str, Any] = {"environment": {}, "image": "i:1", "labels": {"item": "A==", "run": "r"}, **more}
    return StartRequest(name, ("train",), **given, resource_args=ARGS)


def opened(google: Google, state_dir: Path, owner: str = "me", **block: Any) -> VertexBackend:
    return cast(VertexBackend, create(state_dir, owner, {**google.config, **block}))


@pytest.fixture
async def backend(google: Google, tmp_path: Path) -> AsyncGenerator[VertexBackend]:
    """Its jobs do what the test says."""
    google.runs = False
    backend = opened(google, tmp_path)
    yield backend
    await backend.close()


async def until(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(LIMIT_SECONDS):
        while not holds():  # noqa: ASYNC110 -- of another program there are no events
            await asyncio.sleep(0.02)


async def until_told(ask: Callable[[], Awaitable[object]]) -> None:
    """Ask until there is an answer."""
    async with asyncio.timeout(LIMIT_SECONDS):
        while True:
            try:
                await ask()
                return
            except BackendUnavailable:
                await asyncio.sleep(0.02)


async def seen(backend: Backend, accept: Callable[[Observation], bool], handle: Handle = LAUNCH) -> Observation:
    async with asyncio.timeout(LIMIT_SECONDS):
        async for _ in backend.changes():
            found = (await backend.observe()).get(handle)
            if found and accept(found):
                return found
    raise AssertionError("the hints have ended")


# --- exactly one start ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0.0, 1.5])
async def test_a_job_that_was_made_without_an_answer_is_found_and_not_made_again(
    google: Google, backend: VertexBackend, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    await backend.observe()
    monkeypatch.setattr("backends.vertex.access.CALL_SECONDS", 1.0)
    google.faults.append(Fault("create_custom_job", CODES.DEADLINE_EXCEEDED, happens=True, seconds=seconds))
    google.list_lag = 0.3
    with pytest.raises(BackendUnavailable):
        await backend.start(request())
    await until_told(lambda: backend.start(request()))
    assert google.calls["create_custom_job"] == len(google.messages) == 1


async def test_the_same_holds_for_an_agent_that_was_killed_meanwhile(
    google: Google, backend: VertexBackend, tmp_path: Path
) -> None:
    google.faults.append(Fault("create_custom_job", CODES.UNAVAILABLE, happens=True))
    with pytest.raises(BackendUnavailable):
        await backend.start(request())
    again = opened(google, tmp_path)
    assert await again.start(request()) == LAUNCH
    assert len(google.messages) == 1
    await again.close()


async def test_a_job_that_was_not_made_is_made_once_that_is_certain(
    google: Google, backend: VertexBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    google.faults.append(Fault("create_custom_job", CODES.INTERNAL))
    with pytest.raises(BackendUnavailable):
        await backend.start(request())
    with pytest.raises(BackendUnavailable, match="before it is asked again"):
        await backend.start(request())
    monkeypatch.setattr("backends.vertex.backend.SETTLE_SECONDS", 0)
    assert await backend.start(request()) == LAUNCH
    assert len(google.messages) == 1


async def test_a_request_that_was_thought_lost_and_comes_late_makes_no_second_launch(
    google: Google, backend: VertexBackend
) -> None:
    await backend.start(request())
    first = google.messages[0]
    late = type(first)()
    late.CopyFrom(first)
    asked = google.types["jobs"].CreateCustomJobRequest.pb()(parent=first.name.rpartition("/customJobs/")[0])
    asked.custom_job.CopyFrom(late)
    google.create_custom_job(asked)
    await until(lambda: [each.state for each in google.messages] == [2, 7])
    assert list(await backend.observe()) == [LAUNCH]


async def test_lists_that_are_behind_lose_nothing(google: Google, backend: VertexBackend) -> None:
    google.list_lag = 1.0
    await backend.start(request())
    for _ in range(10):
        assert LAUNCH in await backend.observe()
        await asyncio.sleep(0.05)
    google.move("launch-1", "RUNNING")
    await seen(backend, lambda found: found.phase is Phase.RUNNING)


async def test_the_labels_are_the_journal(google: Google, backend: VertexBackend, tmp_path: Path) -> None:
    await backend.start(request())
    google.move("launch-1", "RUNNING")
    elsewhere = opened(google, tmp_path / "fresh")
    found = (await elsewhere.observe())[LAUNCH]
    assert (found.phase, found.labels) == (Phase.RUNNING, {"item": "A==", "run": "r"})
    assert await elsewhere.start(request()) == LAUNCH
    assert len(google.messages) == 1
    await elsewhere.close()


async def test_agents_do_not_see_each_others_launches(google: Google, backend: VertexBackend, tmp_path: Path) -> None:
    await backend.start(request())
    other = opened(google, tmp_path / "other", "another")
    assert await other.observe() == {}
    await other.close()


# --- quotas, limits and faults ----------------------------------------------------------------------------------------


async def test_a_quota_is_waited_for(google: Google, backend: VertexBackend) -> None:
    google.room = 0
    with pytest.raises(PlatformFull, match="custom_model_training_cpus"):
        await backend.start(request())
    google.room = 1
    assert await backend.start(request()) == LAUNCH


async def test_who_asks_too_much_asks_less_and_sooner_again(google: Google, backend: VertexBackend) -> None:
    await backend.observe()
    assert backend._access
    before = backend._access._limits["jobs"].rate
    words = "Quota exceeded for quota metric 'Resource management (CRUD) requests' and limit 'per minute per region'"
    google.faults.append(Fault("create_custom_job", CODES.RESOURCE_EXHAUSTED, words))
    with pytest.raises(PlatformFull) as caught:
        await backend.start(request())
    assert caught.value.retry_seconds < 60
    assert backend._access._limits["jobs"].rate < before


async def test_a_job_that_finds_no_room_may_be_tried_again(google: Google, backend: VertexBackend) -> None:
    await backend.start(request())
    google.move("launch-1", "FAILED", code=8, error="Resources are insufficient in region: us-central1.")
    found = await seen(backend, lambda each: each.phase.is_terminal)
    assert (found.phase, found.reason) == (Phase.PREEMPTED, "no_room")


async def test_what_google_refuses_is_told_in_its_words_and_can_be_asked_again(
    google: Google, backend: VertexBackend
) -> None:
    google.faults.append(Fault("create_custom_job", CODES.INVALID_ARGUMENT, "Machine type x is not supported."))
    with pytest.raises(BackendError, match="Machine type x is not supported"):
        await backend.start(request())
    assert await backend.start(request()) == LAUNCH


@pytest.mark.parametrize(
    "code", [CODES.UNAVAILABLE, CODES.UNAUTHENTICATED, CODES.RESOURCE_EXHAUSTED, CODES.PERMISSION_DENIED]
)
async def test_while_google_does_not_tell_nothing_is_known(google: Google, backend: VertexBackend, code: Any) -> None:
    await backend.start(request())
    google.faults.append(Fault("list_custom_jobs", code, "away for a while", times=10**6))
    await until(lambda: backend._tracker and backend._tracker.error)
    with pytest.raises(BackendUnavailable, match="away for a while"):
        await backend.observe()
    google.faults.clear()
    await until_told(backend.observe)
    assert LAUNCH in await backend.observe()


async def test_expired_credentials_are_no_failed_launch(google: Google, backend: VertexBackend) -> None:
    google.faults.append(Fault("create_custom_job", CODES.UNAUTHENTICATED, "invalid_grant: Token has been expired"))
    with pytest.raises(BackendUnavailable, match="Credentials may have expired"):
        await backend.start(request())
    assert await backend.start(request()) == LAUNCH  # it is certain that nothing was made


async def test_a_hundred_starts_are_in_flight_at_once(google: Google, backend: VertexBackend) -> None:
    google.latency = 0.3
    handles = await asyncio.gather(*(backend.start(request(f"launch-{n}")) for n in range(100)))
    assert len(set(handles)) == len(google.messages) == 100
    assert google.most_in_flight > 20


async def test_a_quiet_thousand_costs_one_question_per_interval(google: Google, tmp_path: Path) -> None:
    google.runs = False
    google.most_jobs = 1000
    backend = opened(google, tmp_path, poll_seconds=0.3)
    await asyncio.gather(*(backend.start(request(f"launch-{n}")) for n in range(300)))
    for message in google.messages:
        google._move(message, "RUNNING")
    await until(lambda: all(each.phase is Phase.RUNNING for each in backend._known.values()))
    google.most_jobs = 100
    before = google.calls.copy()
    await until(lambda: google.calls["list_custom_jobs"] - before["list_custom_jobs"] >= 3)
    assert google.calls["get_custom_job"] - before["get_custom_job"] <= 0
    google.move("launch-7", "FAILED", code=3, error="exited with a non-zero status of 2.")
    found = await seen(backend, lambda each: each.phase.is_terminal, Handle("launch-7"))
    assert found.exit_code == 2
    await backend.close()


# --- stops, removals --------------------------------------------------------------------------------------------------


async def test_a_stop_is_asked_for_until_google_has_heard_it(google: Google, backend: VertexBackend) -> None:
    await backend.start(request())
    google.faults.append(Fault("cancel_custom_job", CODES.UNAVAILABLE, times=3))
    await backend.stop(LAUNCH, 5)
    assert (await seen(backend, lambda each: each.phase.is_terminal)).phase is Phase.STOPPED
    assert google.calls["cancel_custom_job"] == 4


async def test_a_stop_is_remembered(google: Google, backend: VertexBackend, tmp_path: Path) -> None:
    await backend.start(request())
    google.jobs[google.messages[0].name].is_deaf = True
    await backend.stop(LAUNCH, 5)
    await seen(backend, lambda each: each.reason == "cancelling")
    again = opened(google, tmp_path)
    google.move("launch-1", "CANCELLED")
    assert (await seen(again, lambda each: each.phase.is_terminal)).reason == ""
    await again.close()


async def test_removed_by_hand_is_gone(google: Google, backend: VertexBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backends.vertex.tracker.LIST_ALL_SECONDS", 0.1)
    await backend.start(request())
    google.move("launch-1", "RUNNING")
    await seen(backend, lambda each: each.phase is Phase.RUNNING)
    google.remove("launch-1")
    await until(lambda: not backend._known)
    assert await backend.observe() == {}
    assert await backend.start(request()) == LAUNCH
    assert not google.messages


# --- output -----------------------------------------------------------------------------------------------------------


async def output(backend: Backend, since: int = 0, *, follow: bool = False) -> bytes:
    async with asyncio.timeout(LIMIT_SECONDS):
        return b"".join([chunk.data async for chunk in backend.logs(LAUNCH, since, follow=follow)])


async def test_lines_that_come_late_are_taken_once_and_machines_say_who_they_are(
    google: Google, backend: VertexBackend, tmp_path: Path
) -> None:
    await backend.start(request())
    google.write("launch-1", "late", lag=0.3)
    google.write("launch-1", "first")
    google.write("launch-1", "", fields={"message": "second"})
    google.write("launch-1", "third", task="workerpool1-0")
    assert await output(backend) == b"first\nsecond\n[workerpool1-0] third\n"
    google.write("launch-1", "last")
    await until(lambda: google.lines[0].found_at < time.time())
    whole = await output(backend)
    assert whole == b"first\nsecond\n[workerpool1-0] third\nlate\nlast\n"
    again = opened(google, tmp_path)
    assert await output(again) == whole
    assert await output(again, 6) == whole[6:]
    await again.close()


async def test_many_that_are_followed_are_asked_for_together(google: Google, backend: VertexBackend) -> None:
    handles = [await backend.start(request(f"launch-{n}")) for n in range(20)]

    async def follow(handle: Handle) -> bytes:
        return b"".join([chunk.data async for chunk in backend.logs(handle, follow=True)])

    following = [asyncio.create_task(follow(handle)) for handle in handles]
    await until(lambda: all(stream.read_at for stream in backend._logs._streams.values()) and backend._logs._streams)
    before = google.calls["list_log_entries"]
    for number in range(20):
        google.write(f"launch-{number}", f"line {number}")
        google.move(f"launch-{number}", "SUCCEEDED")
    async with asyncio.timeout(LIMIT_SECONDS):
        told = await asyncio.gather(*following)
    assert told == [b"line %d\n" % number for number in range(20)]
    looks = google.calls["list_log_entries"] - before
    assert looks < 20 * 3


async def test_logs_that_cannot_be_read_are_followed_again(google: Google, backend: VertexBackend) -> None:
    await backend.start(request())
    google.faults.append(Fault("list_log_entries", CODES.UNAVAILABLE, times=2))
    with pytest.raises(BackendUnavailable):
        await output(backend)
    google.write("launch-1", "words")
    google.move("launch-1", "SUCCEEDED")
    assert await output(backend, follow=True) == b"words\n"


# --- secrets ----------------------------------------------------------------------------------------------------------


async def test_a_launchs_secret_goes_with_it(google: Google, tmp_path: Path) -> None:
    google.runs = False
    backend = opened(google, tmp_path, secrets={"prefix": "launchbay-"})
    await backend.start(request(secrets={"WANDB_API_KEY": "do-not-show"}))
    assert list(google.secrets) == ["projects/tests/secrets/launchbay-launch-1"]
    assert "do-not-show" not in str(google.messages)
    google.move("launch-1", "SUCCEEDED")
    await seen(backend, lambda each: each.phase.is_terminal)
    await backend.cleanup(LAUNCH)
    assert not google.secrets
    google.room = 0
    with pytest.raises(PlatformFull):
        await backend.start(request("launch-2", secrets={"WANDB_API_KEY": "x"}))
    assert not google.secrets
    await backend.close()
