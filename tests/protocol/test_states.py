"""The states of runs and items, in the spelling of the wire."""

from protocol.states import RUN_STATES_ENDED, ItemState, RunState


def test_states_of_runs_are_lower_case_on_the_wire() -> None:
    wire = ["running", "pending", "preempting", "crashed", "failed", "killed", "finished", "preempted"]
    assert set(RunState) == set(wire)
    assert str(RunState("finished")) == "finished"


def test_a_run_is_ended_once_it_no_longer_computes() -> None:
    assert set(RunState) - RUN_STATES_ENDED == {"running", "pending", "preempting"}
    assert {state for state in RunState if state.is_ended} == RUN_STATES_ENDED


def test_states_of_items_are_upper_case_on_the_wire() -> None:
    wire = [
        "PENDING",
        "LEASED",
        "CLAIMED",
        "RUNNING",
        "FINISHED",
        "FAILED",
        "CRASHED",
        "KILLED",
        "PREEMPTED",
        "STOPPED",
    ]
    assert set(ItemState) == set(wire)


def test_an_item_is_ended_unless_it_waits_or_runs() -> None:
    assert {state for state in ItemState if not state.is_ended} == {"PENDING", "LEASED", "CLAIMED", "RUNNING"}
