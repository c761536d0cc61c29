"""What to do about the difference between what is held and what is observed: a table."""

import re

import pytest

from agent.config.model import Timeouts
from agent.launch import MOVES, Cause, End, Launch, Outcome, Stage, StopReason
from agent.watch import Action, Settle, Stop, decide, end_of, next_deadline
from backends.base import Handle, Observation, Phase, Step

HANDLE = Handle("launch-1")
ASKED = StopReason.REQUEST


NOW = 1000.0
TIMEOUTS = Timeouts(admit=20, schedule=10, start=30, run=60)


def launch(
    stage: Stage = Stage.STARTED,
    *,
    stop: StopReason | None = None,
    handle: Handle | None = HANDLE,
    since: float = NOW,
) -> Launch:
    """Return a launch as the daemon holds it."""
    return Launch("item-1", 1, "q", {}, "run-1", stage, since=since, resource="local-process", handle=handle, stop=stop)


@pytest.mark.parametrize(
    ("held", "seen", "expected"),
    [
        pytest.param(launch(), Observation(Phase.RUNNING), None, id="running is left alone"),
        pytest.param(launch(), Observation(Phase.STARTING), None, id="starting is left alone"),
        pytest.param(launch(), Observation(Phase.FINISHED, 0), Outcome.FINISHED, id="finished"),
        pytest.param(launch(), Observation(Phase.FAILED, 3), Outcome.FAILED, id="failed"),
        pytest.param(launch(), Observation(Phase.STOPPED, 143), Outcome.STOPPED, id="stopped"),
        pytest.param(launch(), Observation(Phase.PREEMPTED), Outcome.PREEMPTED, id="preempted"),
        pytest.param(launch(), Observation(Phase.LOST), Outcome.LOST, id="lost"),
        pytest.param(launch(), None, Outcome.LOST, id="unknown to the platform is lost"),
        pytest.param(launch(stop=ASKED), Observation(Phase.RUNNING), ASKED, id="a stop is passed on"),
        pytest.param(launch(stop=ASKED), Observation(Phase.FINISHED, 0), Outcome.FINISHED, id="too late"),
        pytest.param(launch(), Observation(Phase.RUNNING, started_at=NOW - 59), None, id="still in its time"),
        pytest.param(launch(), Observation(Phase.RUNNING, started_at=NOW - 60), StopReason.RUN_TIMEOUT, id="too long"),
        pytest.param(launch(), Observation(Phase.STARTING, started_at=NOW - 29), None, id="may yet start"),
        pytest.param(
            launch(), Observation(Phase.STARTING, started_at=NOW - 30), StopReason.START_TIMEOUT, id="does not start"
        ),
        pytest.param(launch(since=NOW - 29), Observation(Phase.STARTING), None, id="untold, may yet start"),
        pytest.param(
            launch(since=NOW - 30), Observation(Phase.STARTING), StopReason.START_TIMEOUT, id="untold, does not start"
        ),
        pytest.param(launch(since=NOW - 60), Observation(Phase.RUNNING), StopReason.RUN_TIMEOUT, id="untold, too long"),
        pytest.param(launch(stop=ASKED), Observation(Phase.RUNNING, started_at=0), ASKED, id="the first reason stays"),
        pytest.param(launch(stop=ASKED), None, Outcome.STOPPED, id="a platform may stop a launch by removing it"),
        pytest.param(launch(since=0), Observation(Phase.QUEUED, since=NOW - 19), None, id="queued by its platform"),
        pytest.param(
            launch(), Observation(Phase.QUEUED, since=NOW - 20), StopReason.ADMIT_TIMEOUT, id="queued for too long"
        ),
        pytest.param(
            launch(),
            Observation(Phase.STARTING, started_at=NOW - 29, step=Step.SCHEDULE, since=NOW - 9),
            None,
            id="may yet be scheduled",
        ),
        pytest.param(
            launch(),
            Observation(Phase.STARTING, started_at=NOW - 29, step=Step.SCHEDULE, since=NOW - 10),
            StopReason.SCHEDULE_TIMEOUT,
            id="is not scheduled",
        ),
        pytest.param(
            launch(), Observation(Phase.STARTING, step=Step.PULL, since=0), None, id="a step without a limit of its own"
        ),
        pytest.param(launch(), Observation(Phase.STARTING, hopeless_at=NOW + 1), None, id="may yet be put right"),
        pytest.param(
            launch(), Observation(Phase.STARTING, hopeless_at=NOW), StopReason.HOPELESS, id="cannot start as it is"
        ),
        pytest.param(launch(), Observation(Phase.RUNNING, hopeless_at=0), None, id="what runs is not hopeless"),
        pytest.param(launch(Stage.PREPARING, handle=None), None, None, id="not started yet"),
        pytest.param(launch(Stage.STARTING, handle=None), None, None, id="just being started"),
        pytest.param(launch(Stage.ENDED), Observation(Phase.RUNNING), None, id="already settled"),
    ],
)
def test_decide(held: Launch, seen: Observation | None, expected: Outcome | StopReason | None) -> None:
    actions = decide([held], {HANDLE: seen} if seen else {}, NOW, TIMEOUTS)
    assert [_short(action) for action in actions] == ([expected] if expected else [])


HOPELESS = Observation(
    Phase.STARTING,
    127,
    "start_failed",
    "There is no such program.",
    hopeless_at=NOW,
    details=("Failed: no such program",),
)


@pytest.mark.parametrize("gone", [None, Observation(Phase.STOPPED, 137, "signal:SIGKILL")], ids=["gone", "stopped"])
def test_what_cannot_start_is_stopped_and_ends_as_what_it_was(gone: Observation | None) -> None:
    """Once it is stopped, nobody can see any more what was the matter."""
    held = launch()
    [action] = decide([held], {HANDLE: HOPELESS}, NOW, TIMEOUTS)
    assert isinstance(action, Stop)
    held.stop, held.verdict = action.reason, action.end
    [settled] = decide([held], {HANDLE: gone} if gone else {}, NOW, TIMEOUTS)
    message = "There is no such program.\n    Failed: no such program"
    assert settled == Settle(held, End(Outcome.FAILED, message, 127, "start_failed", "run", Cause.WORKLOAD))
    held.stop = ASKED
    [settled] = decide([held], {HANDLE: gone} if gone else {}, NOW, TIMEOUTS)
    assert isinstance(settled, Settle)
    assert settled.end.outcome is Outcome.STOPPED, "somebody wanted it stopped meanwhile"


@pytest.mark.parametrize("gone", [None, Observation(Phase.STOPPED, 143)], ids=["gone", "stopped"])
def test_what_has_had_its_time_tells_what_it_waited_for(gone: Observation | None) -> None:
    held = launch()
    waiting = Observation(Phase.STARTING, message="0/3 nodes are available.", step=Step.SCHEDULE, since=NOW - 10)
    [action] = decide([held], {HANDLE: waiting}, NOW, TIMEOUTS)
    assert isinstance(action, Stop)
    held.stop, held.verdict = action.reason, action.end
    [settled] = decide([held], {HANDLE: gone} if gone else {}, NOW, TIMEOUTS)
    assert isinstance(settled, Settle)
    assert (settled.end.outcome, settled.end.reason) == (Outcome.FAILED, "timeout:schedule")
    assert settled.end.cause is Cause.INFRASTRUCTURE
    assert settled.end.message.endswith("(timeouts.schedule of the agent). 0/3 nodes are available.")
    assert settled.end.exit_code == (gone.exit_code if gone else None)


def test_what_ended_by_itself_meanwhile_ended_so() -> None:
    held = launch(stop=StopReason.HOPELESS)
    held.verdict = End(Outcome.FAILED, "It cannot start.")
    [settled] = decide([held], {HANDLE: Observation(Phase.FINISHED, 0)}, NOW, TIMEOUTS)
    assert isinstance(settled, Settle)
    assert settled.end.outcome is Outcome.FINISHED


def _short(action: Action) -> Outcome | StopReason:
    return action.reason if isinstance(action, Stop) else action.end.outcome


def test_each_launch_is_decided_by_its_own_handle() -> None:
    first, second = launch(), launch(handle=Handle("launch-2"))
    seen = {HANDLE: Observation(Phase.FINISHED, 0), Handle("launch-2"): Observation(Phase.RUNNING)}
    assert decide([first, second], seen, NOW, TIMEOUTS) == [Settle(first, end_of(seen[HANDLE], None, TIMEOUTS))]


def test_the_next_deadline_is_the_first() -> None:
    launches = [launch(), launch(handle=Handle("2")), launch(handle=Handle("3")), launch(handle=Handle("4"))]
    seen = {
        HANDLE: Observation(Phase.RUNNING, started_at=500),
        Handle("2"): Observation(Phase.STARTING, started_at=510),
        Handle("3"): Observation(Phase.RUNNING),
    }
    assert next_deadline(launches, seen, TIMEOUTS) == 540
    assert next_deadline(launches, seen, Timeouts(start=None, run=None)) is None
    seen[HANDLE] = Observation(Phase.STARTING, started_at=520, hopeless_at=530)
    assert next_deadline(launches, seen, TIMEOUTS) == 530
    assert next_deadline([launch(stop=ASKED)], seen, TIMEOUTS) is None, "it has been told already"


@pytest.mark.parametrize(
    ("stop", "outcome", "cause", "words"),
    [
        (StopReason.REQUEST, Outcome.STOPPED, Cause.WORKLOAD, "on request"),
        (StopReason.DRAIN, Outcome.STOPPED, Cause.WORKLOAD, "Push the launch again"),
        (StopReason.RUN_TIMEOUT, Outcome.FAILED, Cause.WORKLOAD, "longer than 60 seconds .*timeouts.run"),
        (StopReason.START_TIMEOUT, Outcome.FAILED, Cause.INFRASTRUCTURE, "after 30 seconds .*timeouts.start.*no node"),
    ],
)
def test_a_stop_ends_as_what_it_was_asked_for(stop: StopReason, outcome: Outcome, cause: Cause, words: str) -> None:
    message = "no node fits" if stop is StopReason.START_TIMEOUT else ""
    end = end_of(Observation(Phase.STOPPED, 143, message=message), stop, TIMEOUTS)
    assert (end.outcome, end.cause) == (outcome, cause)
    assert re.search(words, end.message)


@pytest.mark.parametrize(
    ("seen", "message"),
    [
        (Observation(Phase.FAILED, 3), "The job ended with exit code 3. Its log says why."),
        (Observation(Phase.FAILED, 137, "signal:SIGKILL"), "The job was ended by SIGKILL (exit code 137)."),
        (Observation(Phase.FAILED, 127, message="no such program"), "no such program"),
        (Observation(Phase.STOPPED, 143), "The launch was stopped on request."),
    ],
)
def test_an_end_says_what_happened(seen: Observation, message: str) -> None:
    assert end_of(seen, None, TIMEOUTS).message == message


@pytest.mark.parametrize(("is_platforms_fault", "cause"), [(True, Cause.INFRASTRUCTURE), (False, Cause.WORKLOAD)])
def test_a_failure_may_be_the_platforms_fault(is_platforms_fault: bool, cause: Cause) -> None:
    seen = Observation(Phase.FAILED, message="The image cannot be had.", is_platforms_fault=is_platforms_fault)
    assert end_of(seen, None, TIMEOUTS).cause is cause


def test_a_phase_that_is_no_end_is_refused() -> None:
    with pytest.raises(ValueError, match="running is not an end"):
        end_of(Observation(Phase.RUNNING), None, TIMEOUTS)


@pytest.mark.parametrize("stage", Stage)
@pytest.mark.parametrize("target", Stage)
def test_stages_move_by_the_table_alone(stage: Stage, target: Stage) -> None:
    moving = launch(stage)
    if target in MOVES[stage]:
        moving.move(target)
        assert moving.stage is target
    else:
        with pytest.raises(ValueError, match="illegal move"):
            moving.move(target)


def test_every_launch_can_end_and_nothing_leaves_the_end() -> None:
    assert all(Stage.ENDED in MOVES[stage] for stage in Stage if stage is not Stage.ENDED)
    assert MOVES[Stage.ENDED] == frozenset()
