"""Watch: compare what is held with what is observed, and say what to do about the difference. Pure.

Level-triggered: a decision depends on the two states and the time alone, never on which event brought us here, so an
event that was lost or came twice changes nothing.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

from agent.config.model import Timeouts
from agent.launch import Cause, End, Launch, Outcome, Stage, StopReason
from backends.base import Observation, Phase, Snapshot, Step

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
    end: End | None = None
    """How it is to end then, where nobody asked for the stop."""


Action: TypeAlias = Settle | Stop


def decide(held: Iterable[Launch], observed: Snapshot, now: float, timeouts: Timeouts) -> list[Action]:
    """Return what to do about the started launches of one backend. `now` is in seconds since the epoch."""
    actions: list[Action] = []
    for launch in held:
        if launch.stage is not Stage.STARTED or launch.handle is None:
            continue
        seen = observed.get(launch.handle)
        if seen is None or seen.phase.is_terminal:
            actions.append(Settle(launch, _settled(launch, seen, timeouts)))
        elif launch.stop is not None:
            actions.append(Stop(launch, launch.stop))
        elif reason := _overdue(launch, seen, now, timeouts):
            actions.append(Stop(launch, reason, _verdict(seen, reason, timeouts)))
    return actions


def next_deadline(held: Iterable[Launch], observed: Snapshot, timeouts: Timeouts) -> float | None:
    """Return when the first of these launches has had its time, in seconds since the epoch; None if none has one."""
    deadlines = [
        deadline
        for launch in held
        if launch.handle is not None and launch.stop is None and (seen := observed.get(launch.handle))
        for deadline, _ in _deadlines(launch, seen, timeouts)
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
            message = _told(seen.message or "The platform took it away.", seen)
            return End(Outcome.PREEMPTED, message, code, seen.reason, "run", Cause.PREEMPTED)
        case Phase.LOST:
            message = seen.message or "The process is gone and left no exit status. Was the machine restarted?"
            message = _told(message, seen)
            return End(Outcome.LOST, message, code, seen.reason, "run", Cause.NODE_LOST)
        case Phase.FAILED:
            cause = Cause.INFRASTRUCTURE if seen.is_platforms_fault else Cause.WORKLOAD
            return End(Outcome.FAILED, _told(_failure(seen), seen), code, seen.reason, "run", cause)
        case Phase.QUEUED | Phase.STARTING | Phase.RUNNING:
            raise ValueError(f"{seen.phase} is not an end")


_STEPS = {
    Step.SCHEDULE: StopReason.SCHEDULE_TIMEOUT,
    Step.PULL: StopReason.PULL_TIMEOUT,
}
_WAITED_FOR = {
    StopReason.ADMIT_TIMEOUT: "The platform's own queue did not let the job start within",
    StopReason.SCHEDULE_TIMEOUT: "The job had no place to run after",
    StopReason.PULL_TIMEOUT: "The job's image was not there after",
    StopReason.START_TIMEOUT: "The job was not running after",
}


def _deadlines(launch: Launch, seen: Observation, timeouts: Timeouts) -> Iterator[tuple[float, StopReason]]:
    """Yield when a launch has had its time in what it is at, each with what is the matter then."""
    # Not every platform says when something began that waits there; then its time runs since it was handed over.
    since = launch.since if seen.since is None else seen.since
    started_at = launch.since if seen.started_at is None else seen.started_at
    limits: list[tuple[float, StopReason]] = []
    match seen.phase:
        case Phase.QUEUED:
            limits = [(since, StopReason.ADMIT_TIMEOUT)]
        case Phase.STARTING:
            if seen.hopeless_at is not None:
                yield seen.hopeless_at, StopReason.HOPELESS
            limits = [(started_at, StopReason.START_TIMEOUT)]
            if seen.step in _STEPS:
                limits.append((since, _STEPS[seen.step]))
        case Phase.RUNNING:
            limits = [(started_at, StopReason.RUN_TIMEOUT)]
        case _:
            pass
    for begin, reason in limits:
        if (limit := _limit_of(reason, timeouts)) is not None:
            yield begin + limit, reason


def _overdue(launch: Launch, seen: Observation, now: float, timeouts: Timeouts) -> StopReason | None:
    return next((reason for deadline, reason in sorted(_deadlines(launch, seen, timeouts)) if now >= deadline), None)


def _settled(launch: Launch, seen: Observation | None, timeouts: Timeouts) -> End:
    has_stopped = launch.stop is not None if seen is None else seen.phase is Phase.STOPPED
    if launch.verdict is not None and has_stopped and not launch.is_unwanted:
        code = seen.exit_code if seen and launch.verdict.exit_code is None else launch.verdict.exit_code
        return replace(launch.verdict, exit_code=code)
    return _vanished(launch.stop, timeouts) if seen is None else end_of(seen, launch.stop, timeouts)


def _verdict(seen: Observation, reason: StopReason, timeouts: Timeouts) -> End:
    """Return how a launch is to end that is stopped for this reason, by what is seen of it now."""
    if reason is StopReason.HOPELESS:
        return end_of(replace(seen, phase=Phase.FAILED), None, timeouts)
    return _stopped(replace(seen, exit_code=None), reason, timeouts)


def _stopped(seen: Observation, stop: StopReason | None, timeouts: Timeouts) -> End:
    code = seen.exit_code
    match stop:
        case StopReason.RUN_TIMEOUT:
            message = f"The job ran longer than {_limit(stop, timeouts)} and was stopped ({_key(stop)} of the agent)."
            return End(Outcome.FAILED, message, code, stop, "run")
        case (
            StopReason.ADMIT_TIMEOUT | StopReason.SCHEDULE_TIMEOUT | StopReason.PULL_TIMEOUT | StopReason.START_TIMEOUT
        ):
            why = f" {seen.message}" if seen.message else ""
            message = f"{_WAITED_FOR[stop]} {_limit(stop, timeouts)} ({_key(stop)} of the agent).{why}"
            return End(Outcome.FAILED, _told(message, seen), code, stop, "run", Cause.INFRASTRUCTURE)
        case StopReason.HOPELESS:
            message = "The job could not start as things were, and was stopped."
            return End(Outcome.FAILED, message, code, stop, "run")
        case StopReason.DRAIN:
            message = "The agent was told to end and to stop what it runs. Push the launch again."
            return End(Outcome.STOPPED, message, code, stop, "run")
        case StopReason.REQUEST | None:
            message = seen.message or "The launch was stopped on request."
            return End(Outcome.STOPPED, message, code, seen.reason, "run")


def _limit_of(reason: StopReason, timeouts: Timeouts) -> float | None:
    limit: float | None = getattr(timeouts, reason.removeprefix("timeout:"))
    return limit


def _limit(reason: StopReason, timeouts: Timeouts) -> str:
    seconds = _limit_of(reason, timeouts)
    return "its limit" if seconds is None else f"{seconds:g} seconds"


def _key(reason: StopReason) -> str:
    return f"timeouts.{reason.removeprefix('timeout:')}"


def _failure(seen: Observation) -> str:
    if seen.message:
        return seen.message
    if seen.reason.startswith("signal:"):
        return f"The job was ended by {seen.reason.removeprefix('signal:')} (exit code {seen.exit_code})."
    return f"The job ended with exit code {seen.exit_code}. Its log says why."


def _told(message: str, seen: Observation) -> str:
    """Return a message with what the platform has said lately below it: only the first line is seen everywhere."""
    return "\n".join([message, *(f"    {line}" for line in seen.details)])


def _vanished(stop: StopReason | None, timeouts: Timeouts) -> End:
    if stop is not None:
        # Some platforms stop a launch by removing it, and an agent may have been restarted meanwhile.
        return _stopped(Observation(Phase.STOPPED), stop, timeouts)
    message = "The platform does not know this launch any more: somebody removed it."
    return End(Outcome.LOST, message, stage="run", cause=Cause.NODE_LOST)
