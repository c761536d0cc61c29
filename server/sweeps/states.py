"""The states of a sweep, and which moves between them a user may ask for. Pure."""

from collections.abc import Mapping
from enum import StrEnum

from server.errors import RequestError


class SweepState(StrEnum):
    """What a sweep is doing."""

    PENDING = "PENDING"
    """No agent has come yet."""
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    """No new runs for now; those that run go on."""
    FINISHED = "FINISHED"
    """No new runs any more: all were made, or somebody stopped it."""
    CANCELED = "CANCELED"
    """No new runs any more, and those that ran were stopped."""

    @property
    def is_over(self) -> bool:
        """Whether it makes no more runs."""
        return self in {SweepState.FINISHED, SweepState.CANCELED}


_ACTIVE = frozenset({SweepState.PENDING, SweepState.RUNNING, SweepState.PAUSED})
_ALLOWED: Mapping[SweepState, frozenset[SweepState]] = {
    SweepState.PENDING: frozenset({SweepState.PENDING}),
    SweepState.RUNNING: _ACTIVE,
    SweepState.PAUSED: frozenset({SweepState.RUNNING, SweepState.PAUSED}),
    SweepState.FINISHED: _ACTIVE | {SweepState.FINISHED},
    SweepState.CANCELED: _ACTIVE | {SweepState.CANCELED, SweepState.FINISHED},
}
"""Wanted state -> the states from which it can be reached."""
_HINTS: Mapping[SweepState, str] = {
    SweepState.PENDING: "Leave the state out, or queue its scheduler again: wandb launch-sweep --resume_id {name}",
    SweepState.RUNNING: "Make a new sweep, with --prior_run for the runs that it should learn from.",
    SweepState.PAUSED: "Only a running sweep can be paused.",
    SweepState.FINISHED: "Nothing is left to stop.",
}


def move(name: str, current: SweepState, wanted: str) -> SweepState:
    """Return the state of a sweep after somebody asked for one; `RequestError` if it cannot go there from here.

    Whoever cancels a sweep that has finished meanwhile gets his way: it stays finished.
    """
    try:
        state = SweepState(wanted.upper())
    except ValueError as error:
        raise RequestError(f"{wanted!r} is no state of a sweep; use one of: {', '.join(SweepState)}.") from error
    if current not in _ALLOWED[state]:
        raise RequestError(
            f"Sweep {name!r} is {current.lower()} and cannot become {state.lower()}. {_HINTS[state].format(name=name)}"
        )
    return current if current is SweepState.FINISHED else state
