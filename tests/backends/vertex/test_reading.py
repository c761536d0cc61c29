"""Every state of a job, and what Vertex AI says when one fails, means something for a launch."""

from typing import Any

import pytest

from backends.base import Phase
from backends.vertex.access import _types, load
from backends.vertex.reading import PREFIX, Job, observation_of
from backends.vertex.secrets import THROUGH

EXIT = "The replica workerpool0-0 exited with a non-zero status of {}. To find out more check the logs: https://x"


def job(state: str, **more: Any) -> Job:
    given: dict[str, Any] = {"created_at": 1.0, "started_at": 2.0, "ended_at": 3.0, "image": "i:1", **more}
    return Job("projects/p/locations/r/customJobs/7", "launch-1", state, **given)


STATES = {
    "UNSPECIFIED": Phase.RUNNING,
    "QUEUED": Phase.QUEUED,
    "PENDING": Phase.STARTING,
    "RUNNING": Phase.RUNNING,
    "SUCCEEDED": Phase.FINISHED,
    "FAILED": Phase.FAILED,
    "CANCELLING": Phase.RUNNING,
    "CANCELLED": Phase.STOPPED,
    "PAUSED": Phase.QUEUED,
    "EXPIRED": Phase.FAILED,
    "UPDATING": Phase.RUNNING,
    "PARTIALLY_SUCCEEDED": Phase.FAILED,
}


def test_every_state_is_read() -> None:
    load("jobs")
    known = {each.name.removeprefix(PREFIX) for each in _types("jobs", "job_state").JobState}
    assert known == STATES.keys()
    for state, phase in STATES.items():
        seen = observation_of(job(state), is_stopped=False, last=Phase.RUNNING)
        assert seen.phase is phase, state
        assert seen.phase.is_terminal == job(state).is_over, state
        assert bool(seen.message) or state in {"RUNNING", "UPDATING", "SUCCEEDED"}, state
        assert (seen.ended_at is not None) == seen.phase.is_terminal


def test_a_state_that_is_newer_than_the_agent_changes_nothing() -> None:
    assert observation_of(job("99"), is_stopped=False, last=Phase.STARTING).phase is Phase.STARTING


@pytest.mark.parametrize(
    ("code", "error", "phase", "exit_code", "reason"),
    [
        pytest.param(3, EXIT.format(13), Phase.FAILED, 13, "", id="exit code"),
        pytest.param(3, EXIT.format("137(SIGKILL)"), Phase.FAILED, 137, "signal:SIGKILL", id="signal"),
        pytest.param(
            3,
            "The replica workerpool0-0 ran out-of-memory and exited with a non-zero status of 137(SIGKILL).",
            *(Phase.FAILED, 137, "oom_killed"),
            id="memory",
        ),
        pytest.param(
            8, "Resources are insufficient in region: us-central1.", Phase.PREEMPTED, None, "no_room", id="no room"
        ),
        pytest.param(
            3, "The following quota metrics exceed quota limits: x", Phase.PREEMPTED, None, "no_room", id="quota"
        ),
        pytest.param(10, "The job failed with a STOCKOUT error.", Phase.PREEMPTED, None, "preempted", id="spot"),
        pytest.param(14, "Machines were preempted.", Phase.PREEMPTED, None, "preempted", id="preempted"),
        pytest.param(4, "It took too long.", Phase.FAILED, None, "timeout", id="too long"),
        pytest.param(13, "Internal error occurred.", Phase.FAILED, None, "vertex:13", id="internal"),
        pytest.param(7, "Permission denied on the image.", Phase.FAILED, None, "vertex:7", id="refused"),
    ],
)
def test_why_a_job_failed_is_told(code: int, error: str, phase: Phase, exit_code: int | None, reason: str) -> None:
    seen = observation_of(job("FAILED", code=code, error=error), is_stopped=False)
    assert (seen.phase, seen.exit_code, seen.reason) == (phase, exit_code, reason)
    assert error in seen.message
    assert seen.is_platforms_fault == (code == 13)


def test_a_cancelled_job_was_stopped_by_us_by_somebody_or_by_its_time() -> None:
    ours = observation_of(job("CANCELLED"), is_stopped=True)
    assert (ours.phase, ours.message) == (Phase.STOPPED, "")
    others = observation_of(job("CANCELLED"), is_stopped=False)
    assert (others.phase, others.reason) == (Phase.STOPPED, "cancelled")
    assert "not by this agent" in others.message
    late = observation_of(job("CANCELLED", code=4, error="The job exceeded its maximum run time"), is_stopped=False)
    assert (late.phase, late.reason) == (Phase.FAILED, "timeout")
    taken = observation_of(job("CANCELLED", code=10, error="It was preempted"), is_stopped=False)
    assert taken.phase is Phase.PREEMPTED


def test_a_job_that_fails_by_the_signal_of_a_stop_was_stopped() -> None:
    by_signal, by_itself = (job("FAILED", code=3, error=EXIT.format(code)) for code in (143, 1))
    assert observation_of(by_signal, is_stopped=True).phase is Phase.STOPPED
    assert observation_of(by_signal, is_stopped=False).phase is Phase.FAILED
    assert observation_of(by_itself, is_stopped=True).phase is Phase.FAILED


@pytest.mark.parametrize("through", [(), THROUGH])
def test_a_program_that_is_not_in_the_image_is_named(through: tuple[str, ...]) -> None:
    told = job("FAILED", code=3, error=EXIT.format(127), command=(*through, "pyhton", "train.py"))
    assert "'pyhton'" in observation_of(told, is_stopped=False).message


def test_an_image_is_told_by_its_digest_alone() -> None:
    assert observation_of(job("RUNNING"), is_stopped=False).image == ""
    assert observation_of(job("RUNNING", image="i@sha256:0"), is_stopped=False).image == "i@sha256:0"
