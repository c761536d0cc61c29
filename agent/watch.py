"""Watch: compare what is held with what is observed, and say what to do about the difference. Pure.

Level-triggered: a decision depends on the two states alone, never on which event brought us here, so an event that was
lost or came twice changes nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from agent.launch import End, Launch, Outcome, Stage
from backends.base import Observation, Phase, Snapshot

NEVER_INITIALIZED = (
    "The submitted job exited successfully but failed to call wandb.init, so there is no run on record. "
    "Call wandb.init() in the script; project and run id come from the environment."
)


@dataclass(frozen=True, slots=True)
class Settle:
    """The launch is over: write it down and report it."""

    launch: Launch
    end: End


@dataclass(frozen=True, slots=True)
class Stop:
    """Somebody wants the launch stopped, and it still runs: ask the backend for the ladder."""

    launch: Launch


Action: TypeAlias = Settle | Stop


def decide(held: Iterable[Launch], observed: Snapshot) -> list[Action]:
    """Return what to do about the started launches of one backend."""
    actions: list[Action] = []
    for launch in held:
        if launch.stage is not Stage.STARTED or launch.handle is None:
            continue
        seen = observed.get(launch.handle)
        if seen is None:
            actions.append(Settle(launch, _vanished()))
        elif seen.phase.is_terminal:
            actions.append(Settle(launch, end_of(seen)))
        elif launch.stop_requested:
            actions.append(Stop(launch))
    return actions


def end_of(seen: Observation) -> End:
    """Return the end that a terminal observation tells of."""
    code = seen.exit_code
    match seen.phase:
        case Phase.FINISHED:
            return End(Outcome.FINISHED, NEVER_INITIALIZED, code, seen.reason, "run")
        case Phase.STOPPED:
            return End(Outcome.STOPPED, seen.message or "The launch was stopped on request.", code, seen.reason, "run")
        case Phase.PREEMPTED:
            return End(Outcome.PREEMPTED, seen.message or "The platform took it away.", code, seen.reason, "run")
        case Phase.LOST:
            message = seen.message or "The process is gone and left no exit status. Was the machine restarted?"
            return End(Outcome.LOST, message, code, seen.reason, "run")
        case Phase.FAILED:
            return End(Outcome.FAILED, _failure(seen), code, seen.reason, "run")
        case Phase.STARTING | Phase.RUNNING:
            raise ValueError(f"{seen.phase} is not an end")


def _failure(seen: Observation) -> str:
    if seen.message:
        return seen.message
    if seen.reason.startswith("signal:"):
        return f"The job was ended by {seen.reason.removeprefix('signal:')} (exit code {seen.exit_code})."
    return f"The job ended with exit code {seen.exit_code}. Its log says why."


def _vanished() -> End:
    return End(Outcome.LOST, "The platform does not know this launch any more: somebody removed it.", stage="run")
