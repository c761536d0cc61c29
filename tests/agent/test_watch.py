"""What to do about the difference between what is held and what is observed: a table."""

import pytest

from agent.launch import MOVES, Launch, Outcome, Stage
from agent.watch import Action, Settle, Stop, decide, end_of
from backends.base import Handle, Observation, Phase

HANDLE = Handle("launch-1")


def launch(stage: Stage = Stage.STARTED, *, stop_requested: bool = False, handle: Handle | None = HANDLE) -> Launch:
    """Return a launch as the daemon holds it."""
    return Launch("item-1", 1, "q", {}, "run-1", stage, "local-process", handle, stop_requested=stop_requested)


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
        pytest.param(launch(stop_requested=True), Observation(Phase.RUNNING), "stop", id="a stop is passed on"),
        pytest.param(launch(stop_requested=True), Observation(Phase.FINISHED, 0), Outcome.FINISHED, id="too late"),
        pytest.param(launch(Stage.PREPARING, handle=None), None, None, id="not started yet"),
        pytest.param(launch(Stage.STARTING, handle=None), None, None, id="just being started"),
        pytest.param(launch(Stage.ENDED), Observation(Phase.RUNNING), None, id="already settled"),
    ],
)
def test_decide(held: Launch, seen: Observation | None, expected: Outcome | str | None) -> None:
    actions = decide([held], {HANDLE: seen} if seen else {})
    assert [_short(action) for action in actions] == ([expected] if expected else [])


def _short(action: Action) -> Outcome | str:
    return "stop" if isinstance(action, Stop) else action.end.outcome


def test_each_launch_is_decided_by_its_own_handle() -> None:
    first, second = launch(), launch(handle=Handle("launch-2"))
    seen = {HANDLE: Observation(Phase.FINISHED, 0), Handle("launch-2"): Observation(Phase.RUNNING)}
    assert decide([first, second], seen) == [Settle(first, end_of(seen[HANDLE]))]


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
    assert end_of(seen).message == message


def test_a_phase_that_is_no_end_is_refused() -> None:
    with pytest.raises(ValueError, match="running is not an end"):
        end_of(Observation(Phase.RUNNING))


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
