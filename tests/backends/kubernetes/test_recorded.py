"""What a real cluster told of Jobs, watch by watch: however late each is, the first end that is read is the one."""

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, TypeAlias

import pytest

from backends.base import Observation, Phase
from backends.kubernetes.reading import read, read_gone

Change: TypeAlias = tuple[float, str, str, str, dict[str, Any]]
"""When it came, what happened, to what kind of object of what name, and its form."""

LATE_SECONDS = 4.0
"""How much later one watch may be than another."""


def recorded() -> dict[str, list[Change]]:
    """Return what came, by Job."""
    found: dict[str, list[Change]] = defaultdict(list)
    for line in (Path(__file__).parent / "objects" / "recorded.jsonl").read_text().splitlines():
        at, job, *change = json.loads(line)
        found[job].append((at, *change))
    return found


RECORDED = recorded()
ENDS: dict[str, tuple[Phase, str, int | None]] = {
    "again": (Phase.FAILED, "", 1),
    "crash": (Phase.FAILED, "", 1),
    "deadline": (Phase.FAILED, "deadline_exceeded", None),
    "evicted": (Phase.PREEMPTED, "evicted", None),
    "exit3": (Phase.FAILED, "", 3),
    "indexed": (Phase.FAILED, "", 1),
    "initfails": (Phase.FAILED, "init_failed", 5),
    "jobdeleted": (Phase.LOST, "deleted", None),
    "nope": (Phase.FAILED, "", 127),
    "ok": (Phase.FINISHED, "", 0),
    "oom": (Phase.FAILED, "oom_killed", 137),
    "poddeadline": (Phase.FAILED, "deadline_exceeded", None),
    "poddeleted": (Phase.LOST, "pod_deleted", None),
    "policy": (Phase.FAILED, "", 42),
    "preempted": (Phase.PREEMPTED, "preempted", None),
    "storage": (Phase.FAILED, "evicted", None),
    "tainted": (Phase.LOST, "node_lost", None),
    "three": (Phase.FINISHED, "", 0),
}
GO_ON = {
    "novolume": (Phase.STARTING, "config_error", None),
    "security": (Phase.STARTING, "admission", None),
    "suspendlater": (Phase.QUEUED, "suspended", None),
}


def readings(changes: list[Change]) -> Iterator[Observation]:
    """Read a launch after each change, and when what was read says so."""
    job: dict[str, Any] | None = None
    last: dict[str, Any] = {}
    pods: dict[str, dict[str, Any]] = {}
    gone: dict[str, dict[str, Any]] = {}
    events: dict[str, dict[str, Any]] = {}
    again_at: float | None = None

    def look(now: float) -> Observation:
        nonlocal again_at
        if job is None:
            return read_gone(last, [*gone.values(), *pods.values()], events.values(), now=now)
        reading = read(job, pods.values(), events.values(), now=now, gone=gone.values())
        again_at = reading.again_at
        return reading.observation

    for at, happened, kind, name, form in changes:
        if again_at is not None and again_at < at:
            yield look(again_at)
        if kind == "Job":
            job, last = None if happened == "DELETED" else form, form
        elif kind == "Event":
            events[name] = form
        elif happened == "DELETED":
            pods.pop(name, None)
            gone[name] = form
        else:
            pods[name] = form
        if last:
            yield look(at)
    while again_at is not None:
        yield look(again_at)


def first_end(changes: list[Change]) -> Observation:
    """Return the first end that is read; what is read last, if there is none."""
    seen = Observation(Phase.STARTING)
    for seen in readings(changes):
        if seen.phase.is_terminal:
            break
    return seen


def late(changes: list[Change], random: Random) -> list[Change]:
    """Return the changes as they come if each watch is late in its own way."""
    delays = {kind: random.uniform(0, LATE_SECONDS) for kind in ("Job", "Pod", "Event")}
    return sorted(((at + delays[kind], happened, kind, *rest) for at, happened, kind, *rest in changes), key=_at)  # type: ignore[misc]


def _at(change: Change) -> float:
    return change[0]


@pytest.mark.parametrize("job", sorted(RECORDED))
def test_the_first_end_is_the_one_however_late_a_watch_is(job: str) -> None:
    random = Random(7)
    expected = (ENDS | GO_ON)[job]
    for changes in [RECORDED[job], *(late(RECORDED[job], random) for _ in range(10))]:
        seen = first_end(changes)
        assert (seen.phase, seen.reason, seen.exit_code) == expected


@pytest.mark.parametrize("job", sorted(ENDS))
def test_what_comes_after_an_end_does_not_change_it(job: str) -> None:
    """Whoever looks later, as an agent that was away, reads the same."""
    seen = list(readings(RECORDED[job]))[-1]
    assert (seen.phase, seen.reason, seen.exit_code) == ENDS[job]
