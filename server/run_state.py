"""A run's state follows from recorded facts, by this one function. Nothing ever stores a state."""

from dataclasses import dataclass

from protocol.states import RunState

HEARTBEAT_TIMEOUT_SECONDS = 300.0
"""A client sends at least every 30 s, but one attempt may take 180 s and waits between tries 60 s."""


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What is known of a run. Times in seconds since the epoch."""

    started_at: float | None = None
    """First word from a client."""
    heartbeat_at: float | None = None
    ended_at: float | None = None
    exit_code: int | None = None
    """Without an end: the run has said that it failed, and its agent has not confirmed it, as it may try again."""
    end_cause: RunState | None = None
    """How somebody else, an agent or a user, says that it ended. The run's own last word counts more."""
    preempting: bool = False
    stop_requested_at: float | None = None


def state_of(facts: RunFacts, now: float) -> RunState:
    """Return the run's state."""
    if facts.end_cause is not None:
        return facts.end_cause
    if facts.ended_at is not None:
        return _own_end(facts)
    if facts.started_at is None:
        return RunState.PENDING
    silent = now - (facts.heartbeat_at or facts.started_at) > HEARTBEAT_TIMEOUT_SECONDS
    if silent and facts.exit_code is not None:
        return _own_end(facts)
    if silent:
        return RunState.PREEMPTED if facts.preempting else RunState.CRASHED
    return RunState.PREEMPTING if facts.preempting else RunState.RUNNING


def _own_end(facts: RunFacts) -> RunState:
    if not facts.exit_code:
        return RunState.FINISHED
    if facts.preempting:
        return RunState.PREEMPTED
    return RunState.KILLED if facts.stop_requested_at is not None else RunState.FAILED
