"""Watch: compare what is held with what is observed, and say what to do about the difference. Pure.

Level-triggered: a decision depends on the two states and the time alone, never on which event brought us here, so an
event that was lost or came twice changes nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from agent.config.model import Timeouts
from agent.launch import Cause, End, Launch, Outcome, Stage, StopReason
from backends.base import Observation, Phase, Snapshot

NEVER_INITIALIZED = (
    "The submitted job exited successfully but failed to call wandb.init, so there is no run on record. "
    "Call wandb.init() in the script; project and run id come from the environment."
)


@dataclass(frozen=True, slots=True)
class Settle:
    """The attempt is over: write it down, and report it or try again."""

    launch: Launch
    end: End


@dataclass(frozen=True, slots=True)
class Stop:
    """The launch is to be stopped, and it still runs: ask the backend for the ladder."""

    launch: Launch
    reason: StopReason


Action: TypeAlias = Settle | Stop


def decide(held: Iterable[Launch], observed: Snapshot, now: float, timeouts: Timeouts) -> list[Action]:
    """Return what to do about the started launches of one backend. `now` is in seconds since the epoch."""
    actions: list[Action] = []
    for launch in held:
        if launch.stage is not Stage.STARTED or launch.handle is None:
            continue
        seen = observed.get(launch.handle)
        if seen is None:
            actions.append(Settle(launch, _vanished()))
        elif seen.phase.is_terminal:
            actions.append(Settle(launch, end_of(seen, launch.stop, timeouts)))
        elif reason := launch.stop or _overdue(launch, seen, now, timeouts):
            actions.append(Stop(launch, reason))
    return actions


def next_deadline(held: Iterable[Launch], observed: Snapshot, timeouts: Timeouts) -> float | None:
    """Return when the first of these launches has had its time, in seconds since the epoch; None if none has one."""
    deadlines = [
        deadline
        for launch in held
        if launch.handle is not None and launch.stop is None
        if (seen := observed.get(launch.handle)) and (deadline := _deadline(launch, seen, timeouts)) is not None
    ]
    return min(deadlines, default=None)


def end_of(seen: Observation, stop: StopReason | None, timeouts: Timeouts) -> End:
    """Return the end that a terminal observation tells of, of a launch that was asked to stop for this reason."""
    code = seen.exit_code
    match seen.phase:
        case Phase.FINISHED:
            return End(Outcome.FINISHED, NEVER_INITIALIZED, code, seen.reason, "run")
        case Phase.STOPPED:
            return _stopped(seen, stop, timeouts)
        case Phase.PREEMPTED:
            message = seen.message or "The platform took it away."
            return End(Outcome.PREEMPTED, message, code, seen.reason, "run", Cause.PREEMPTED)
        case Phase.LOST:
            message = seen.message or "The process is gone and left no exit status. Was the machine restarted?"
            return End(Outcome.LOST, message, code, seen.reason, "run", Cause.NODE_LOST)
        case Phase.FAILED:
            cause = Cause.INFRASTRUCTURE if seen.is_platforms_fault else Cause.WORKLOAD
            return End(Outcome.FAILED, _failure(seen), code, seen.reason, "run", cause)
        case Phase.STARTING | Phase.RUNNING:
            raise ValueError(f"{seen.phase} is not an end")


def _deadline(launch: Launch, seen: Observation, timeouts: Timeouts) -> float | None:
    limit = timeouts.start if seen.phase is Phase.STARTING else timeouts.run
    if limit is None:
        return None
    # Not every platform says when something began that waits there; then its time runs since it was handed over.
    return (launch.since if seen.started_at is None else seen.started_at) + limit


def _overdue(launch: Launch, seen: Observation, now: float, timeouts: Timeouts) -> StopReason | None:
    deadline = _deadline(launch, seen, timeouts)
    if deadline is None or now < deadline:
        return None
    return StopReason.START_TIMEOUT if seen.phase is Phase.STARTING else StopReason.RUN_TIMEOUT


def _stopped(seen: Observation, stop: StopReason | None, timeouts: Timeouts) -> End:
    code = seen.exit_code
    match stop:
        case StopReason.RUN_TIMEOUT:
            message = f"The job ran longer than {_limit(timeouts.run)} and was stopped (timeouts.run of the agent)."
            return End(Outcome.FAILED, message, code, stop, "run")
        case StopReason.START_TIMEOUT:
            why = f" {seen.message}" if seen.message else ""
            message = f"The job was not running after {_limit(timeouts.start)} (timeouts.start of the agent).{why}"
            return End(Outcome.FAILED, message, code, stop, "run", Cause.INFRASTRUCTURE)
        case StopReason.DRAIN:
            message = "The agent was told to end and to stop what it runs. Push the launch again."
            return End(Outcome.STOPPED, message, code, stop, "run")
        case StopReason.REQUEST | None:
            message = seen.message or "The launch was stopped on request."
            return End(Outcome.STOPPED, message, code, seen.reason, "run")


def _limit(seconds: float | None) -> str:
    return "its limit" if seconds is None else f"{seconds:g} seconds"


def _failure(seen: Observation) -> str:
    if seen.message:
        return seen.message
    if seen.reason.startswith("signal:"):
        return f"The job was ended by {seen.reason.removeprefix('signal:')} (exit code {seen.exit_code})."
    return f"The job ended with exit code {seen.exit_code}. Its log says why."


def _vanished() -> End:
    message = "The platform does not know this launch any more: somebody removed it."
    return End(Outcome.LOST, message, stage="run", cause=Cause.NODE_LOST)
