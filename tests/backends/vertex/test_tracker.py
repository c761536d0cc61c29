"""What is known of jobs gets newer, and never older."""

from dataclasses import replace
from typing import Any, cast

from backends.vertex.reading import Job
from backends.vertex.tracker import Tracker

NAME = "projects/p/locations/r/customJobs/7"
KNOWN = Job(NAME, "launch-1", "RUNNING", updated_at=2.0, labels={"run": "r"}, command=("train",), image="i:1")


async def test_a_list_that_is_behind_takes_nothing_back() -> None:
    told: list[str] = []
    tracker = Tracker(cast(Any, None), "me", 1.0, told.append)
    tracker.put(KNOWN)
    await tracker._take(replace(KNOWN, state="PENDING", updated_at=1.0, is_whole=False))
    assert tracker.jobs["launch-1"] == KNOWN
    await tracker._take(Job(NAME, "launch-1", "FAILED", updated_at=3.0, error="words", is_whole=False))
    ended = replace(KNOWN, state="FAILED", updated_at=3.0, error="words")
    assert tracker.jobs["launch-1"] == ended, "what a list leaves out is still known"
    await tracker._take(replace(KNOWN, updated_at=3.0))
    await tracker._take(ended)
    assert tracker.jobs["launch-1"] == ended
    assert told == ["launch-1"] * 2, "what is as it was is not told"


async def test_what_was_removed_does_not_come_back_by_a_list_that_is_behind() -> None:
    tracker = Tracker(cast(Any, None), "me", 1.0, lambda _: None)
    tracker.put(KNOWN)
    tracker.forget(KNOWN)
    await tracker._take(KNOWN)
    assert tracker.jobs == {}
