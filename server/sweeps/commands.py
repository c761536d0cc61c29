"""What an agent of a sweep is told to do: decided in one transaction that holds the sweep, so that no two agents, and
no two servers, make the same run twice.

An agent asks every five seconds, and says which runs are alive with it. It is given one run at a time. What it was
given and does not have goes to it once more, as the answer may have been lost; so a question that is asked again makes
no second run. What an agent had that is gone goes to the next one that asks.

The next parameters are found outside of the transaction, as that can take long, for the sweep as it was at some
version; if it has another one by then, they are void, and the agent's question is decided again.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from random import Random

from sqlalchemy import Connection

from protocol.json_types import Json, JsonObject
from protocol.states import ItemState
from server.storage import runs, sweep_agents, sweep_runs, sweeps
from server.storage.rows import AnyRow
from server.sweeps import local_controllers, made_runs
from server.sweeps.plans import plan_of
from server.sweeps.states import SweepState

MAX_HAND_OUTS = 3
"""How often a run is handed out that nobody ever starts."""
MAX_ALIVE = 1000
"""How many runs of one agent are looked at."""

EXIT: JsonObject = {"type": "exit"}


@dataclass(frozen=True, slots=True)
class Suggestion:
    """The parameters to try next."""

    version: int
    """Of the sweep for which they were found."""
    args: JsonObject | None
    """`{<parameter>: {"value": ...}}`; None if nothing is left to try."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided: commands, unless parameters are missing for a new run."""

    sweep_id: int
    commands: Sequence[JsonObject] | None


@dataclass(frozen=True, slots=True)
class _Asking:
    """One agent's question, in its transaction."""

    connection: Connection
    sweep: AnyRow
    agent: AnyRow
    user_id: int
    random: Random
    now: float


def decide(
    connection: Connection,
    agent: AnyRow,
    alive: Collection[str],
    suggestion: Suggestion | None,
    *,
    user_id: int,
    random: Random,
    now: float,
) -> Decision:
    """Return what an agent is to do, on whom these runs are alive."""
    sweeps.lock(connection, agent.sweep_id)
    sweeps.begin(connection, agent.sweep_id, now)
    asking = _Asking(connection, sweeps.by_id(connection, agent.sweep_id), agent, user_id, random, now)
    sweep_agents.change(connection, agent.id, heartbeat_at=now, busy=bool(alive), dismissed=False)
    some = list(alive)[:MAX_ALIVE]
    if some:
        sweep_runs.note_taken(connection, agent.id, some)
        canceled = asking.sweep.state == SweepState.CANCELED
        unwanted = some if canceled else sweep_runs.unwanted(connection, asking.sweep, some)
        return Decision(agent.sweep_id, [{"type": "stop", "run_id": name} for name in unwanted])
    return Decision(agent.sweep_id, _for_idle(asking, suggestion))


def _for_idle(asking: _Asking, suggestion: Suggestion | None) -> Sequence[JsonObject] | None:
    match SweepState(asking.sweep.state):
        case SweepState.FINISHED | SweepState.CANCELED:
            return _leave(asking)
        case SweepState.PAUSED:
            return []
        case SweepState.PENDING | SweepState.RUNNING:
            return _waiting(asking) or _new(asking, suggestion)


def _leave(asking: _Asking) -> Sequence[JsonObject]:
    """Let the agent go. A scheduler that is told so stops all runs, so it stays until there are none to stop."""
    for run in sweep_runs.waiting_with(asking.connection, asking.agent.id):
        if not _is_queued(asking, run):
            runs.record_end(asking.connection, run.run_id, "killed", None, asking.now)
    finished = asking.sweep.state == SweepState.FINISHED
    if finished and asking.sweep.launched and sweep_runs.unended(asking.connection, asking.sweep, asking.now):
        return []
    sweep_agents.change(asking.connection, asking.agent.id, dismissed=True)
    return [EXIT]


def _waiting(asking: _Asking) -> Sequence[JsonObject]:
    """Hand out a run that this agent has not got, that another one has lost, or that somebody has enqueued."""
    connection, sweep = asking.connection, asking.sweep
    for run in sweep_runs.waiting_with(connection, asking.agent.id):
        # What it had taken up is over, and was never heard of: the program did not get as far as that.
        if _may_go_again(asking, run, given_up=run.taken):
            return _hand_again(asking, run, "run", run.hand_outs + 1)
    for run in sweep_runs.unattended(connection, sweep.id, asking.now):
        if _may_go_again(asking, run, given_up=False):
            return _hand_again(asking, run, "run", run.hand_outs + 1)
    # A launched run that was preempted is queued again by its launch agent.
    preempted = None if sweep.launched else sweep_runs.preempted(connection, sweep.id, asking.now)
    if preempted is None:
        return []
    runs.wait_again(connection, preempted.run_id, asking.now)
    return _hand_again(asking, preempted, "resume", hand_outs=1)


def _may_go_again(asking: _Asking, run: AnyRow, *, given_up: bool) -> bool:
    """Whether a waiting run can be handed out once more; one that never can is ended here."""
    if _is_queued(asking, run):
        return False
    if run.stop_requested_at is not None:
        runs.record_end(asking.connection, run.run_id, "killed", None, asking.now)
        return False
    if given_up or run.hand_outs >= MAX_HAND_OUTS:
        runs.record_end(asking.connection, run.run_id, "failed", None, asking.now)
        return False
    return True


def _is_queued(asking: _Asking, run: AnyRow) -> bool:
    if not asking.sweep.launched:
        return False
    part = f'"run_id": "{run.name}"'
    live = (ItemState.PENDING, ItemState.LEASED, ItemState.CLAIMED)
    return bool(sweep_runs.items_of(asking.connection, asking.sweep, part, *live))


def _hand_again(asking: _Asking, run: AnyRow, command: str, hand_outs: int) -> Sequence[JsonObject]:
    sweep_runs.hand_again(asking.connection, run.run_id, asking.agent.id, hand_outs)
    sweeps.change(asking.connection, asking.sweep.id, asking.now)
    return [_run_command(asking, command, run.name, json.loads(run.args))]


def _new(asking: _Asking, suggestion: Suggestion | None) -> Sequence[JsonObject] | None:
    """Make a run, if there is one to make."""
    connection, sweep = asking.connection, asking.sweep
    plan = plan_of(sweep.config)
    if plan.is_through(sweep_runs.made(connection, sweep.id)):
        return _through(asking)
    if plan.local_controller:
        return _as_wished(asking)
    if plan.searched_elsewhere:
        return []
    if suggestion is None or suggestion.version != sweep.version:
        return None
    if suggestion.args is None:
        return _through(asking)
    return [_make(asking, suggestion.args)]


def _as_wished(asking: _Asking) -> Sequence[JsonObject]:
    wish = local_controllers.next_wish(asking.sweep)
    if wish is None:
        return []
    if wish.args is None:
        return _through(asking)
    command = _make(asking, wish.args)
    scheduler = local_controllers.with_begun(asking.sweep, wish, str(command["run_id"]))
    sweeps.change(asking.connection, asking.sweep.id, asking.now, scheduler=scheduler)
    return [command]


def _make(asking: _Asking, args: JsonObject) -> JsonObject:
    """Make a run for the agent that asks."""
    connection, sweep = asking.connection, asking.sweep
    run = made_runs.create(connection, sweep, args, user_id=asking.user_id, random=asking.random, now=asking.now)
    sweep_runs.add(connection, run.id, sweep.id, asking.agent.id, json.dumps(args))
    sweeps.change(connection, sweep.id, asking.now)
    return _run_command(asking, "run", run.name, args)


def _through(asking: _Asking) -> Sequence[JsonObject]:
    """Finish the sweep if nothing goes on any more. Until then the agent waits: a run may be lost, and come to it."""
    if sweep_runs.unended(asking.connection, asking.sweep, asking.now):
        return []
    sweeps.change(asking.connection, asking.sweep.id, asking.now, state=SweepState.FINISHED)
    sweep_agents.change(asking.connection, asking.agent.id, dismissed=True)
    return [EXIT]


def _run_command(asking: _Asking, command: str, name: str, args: JsonObject) -> JsonObject:
    program = plan_of(asking.sweep.config).program
    return {"type": command, "id": name, "run_id": name, "args": args, "program": program, "logs": list[Json]()}
