"""The runs that a sweep has made for its agents.

A run is handed out once, and again only while it cannot have started: the answer was lost, or the agent is. Whoever
decides about that has locked the sweep.
"""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, exists, func, insert, or_, select, update

from protocol.states import ItemState, RunState
from server.storage.claims import in_state
from server.storage.rows import AnyRow
from server.storage.runs import state_expression
from server.storage.sweep_agents import SILENT_SECONDS
from server.storage.tables import projects, run_queue_items, run_queues, runs, sweep_agents, sweep_runs

_MADE = select(sweep_runs, runs.c.name, runs.c.stop_requested_at).join(runs, runs.c.id == sweep_runs.c.run_id)
_UNENDED = and_(runs.c.ended_at.is_(None), runs.c.end_cause.is_(None), runs.c.deleted_at.is_(None))
_WAITING = and_(_UNENDED, runs.c.started_at.is_(None))


class Made(NamedTuple):
    """How many runs a sweep has made."""

    all: int
    searched: int
    """Those that its own search has found."""


def add(connection: Connection, run_id: int, sweep_id: int, agent_id: int, args: str) -> None:
    """Note that the search has made a run, and that it goes to an agent."""
    _add(connection, run_id=run_id, sweep_id=sweep_id, agent_id=agent_id, args=args, enqueued=False, hand_outs=1)


def enqueue(connection: Connection, run_id: int, sweep_id: int, args: str) -> None:
    """Note that somebody has made a run for a sweep. It goes to the next agent that asks."""
    _add(connection, run_id=run_id, sweep_id=sweep_id, agent_id=None, args=args, enqueued=True, hand_outs=0)


def _add(connection: Connection, **values: Any) -> None:
    connection.execute(insert(sweep_runs).values(taken=False, **values))


def hand_again(connection: Connection, run_id: int, agent_id: int, hand_outs: int) -> None:
    """Note that a run goes to an agent once more, or to another one, for that many times by now."""
    connection.execute(
        update(sweep_runs)
        .where(sweep_runs.c.run_id == run_id)
        .values(agent_id=agent_id, hand_outs=hand_outs, taken=False)
    )


def note_taken(connection: Connection, agent_id: int, names: Collection[str]) -> None:
    """Note that an agent is at work on these of its runs."""
    of_name = exists().where(runs.c.id == sweep_runs.c.run_id, runs.c.name.in_(names))
    connection.execute(
        update(sweep_runs)
        .where(sweep_runs.c.agent_id == agent_id, sweep_runs.c.taken.is_(False), of_name)
        .values(taken=True)
    )


def waiting_with(connection: Connection, agent_id: int) -> Sequence[AnyRow]:
    """Return an agent's runs that have not started."""
    statement = _MADE.where(sweep_runs.c.agent_id == agent_id, _WAITING)
    return connection.execute(statement.order_by(sweep_runs.c.run_id)).all()


def unattended(connection: Connection, sweep_id: int, now: float) -> Sequence[AnyRow]:
    """Return a sweep's runs that have not started and that no agent has, or one that is gone."""
    gone = or_(sweep_agents.c.heartbeat_at < now - SILENT_SECONDS, sweep_agents.c.dismissed)
    statement = (
        _MADE.outerjoin(sweep_agents, sweep_agents.c.id == sweep_runs.c.agent_id)
        .where(sweep_runs.c.sweep_id == sweep_id, _WAITING)
        .where(or_(sweep_runs.c.agent_id.is_(None), gone))
    )
    return connection.execute(statement.order_by(sweep_runs.c.run_id)).all()


def never_handed_out(connection: Connection, sweep_id: int) -> Sequence[int]:
    """Return the row numbers of a sweep's runs that wait for the first agent to ask."""
    nobodys = (sweep_runs.c.sweep_id == sweep_id, sweep_runs.c.agent_id.is_(None), _WAITING)
    return connection.scalars(select(runs.c.id).join(sweep_runs).where(*nobodys).order_by(runs.c.id)).all()


def preempted(connection: Connection, sweep_id: int, now: float) -> AnyRow | None:
    """Return a sweep's first run that was taken away before it was through, and that nobody wants stopped."""
    gone = and_(state_expression(now) == RunState.PREEMPTED.value, runs.c.stop_requested_at.is_(None))
    statement = _MADE.where(sweep_runs.c.sweep_id == sweep_id, runs.c.deleted_at.is_(None), gone)
    return connection.execute(statement.order_by(sweep_runs.c.run_id).limit(1)).first()


def items_of(connection: Connection, sweep: AnyRow, spec_part: str, *states: ItemState) -> list[int]:
    """Return the items in these states that came into a queue since the sweep began and have this text in their spec.

    Before an agent has acknowledged an item, only its launch spec tells which run it is for. So this reads all items
    in these states. It is asked when a scheduler has lost a run and when a sweep is canceled, which is rare.
    """
    statement = (
        select(run_queue_items.c.id)
        .join(run_queues, run_queues.c.id == run_queue_items.c.queue_id)
        .join(projects, projects.c.id == run_queues.c.project_id)
        .where(projects.c.entity_id == sweep.entity_id, in_state(*states))
        .where(run_queue_items.c.created_at >= sweep.created_at)
        .where(run_queue_items.c.launch_spec.contains(spec_part, autoescape=True))
    )
    return list(connection.scalars(statement.order_by(run_queue_items.c.id)))


def made(connection: Connection, sweep_id: int) -> Made:
    """Return how many runs a sweep has made. One that was deleted is not counted: it may be made again."""
    statement = (
        select(func.count(), func.count().filter(sweep_runs.c.enqueued.is_(False)))
        .select_from(sweep_runs)
        .join(runs, runs.c.id == sweep_runs.c.run_id)
        .where(sweep_runs.c.sweep_id == sweep_id, runs.c.deleted_at.is_(None))
    )
    return Made(*connection.execute(statement).one())


def unended(connection: Connection, sweep: AnyRow, now: float) -> Sequence[AnyRow]:
    """Return the row numbers and states of a sweep's runs that wait or go on, handed out or not."""
    state = state_expression(now)
    alive = (RunState.PENDING.value, RunState.RUNNING.value, RunState.PREEMPTING.value)
    statement = select(runs.c.id, state.label("state")).where(_of(sweep), _UNENDED, state.in_(alive))
    return connection.execute(statement.order_by(runs.c.id)).all()


def unwanted(connection: Connection, sweep: AnyRow, names: Collection[str]) -> Sequence[str]:
    """Return those of a sweep's runs, by name, that somebody wants stopped."""
    wish = runs.c.stop_requested_at.is_not(None)
    statement = select(runs.c.name).where(_of(sweep), runs.c.name.in_(names), wish)
    return connection.scalars(statement.order_by(runs.c.id)).all()


def numbers(connection: Connection, sweep: AnyRow, names: Collection[str]) -> Sequence[int]:
    """Return the row numbers of a sweep's runs of these names."""
    statement = select(runs.c.id).where(_of(sweep), runs.c.name.in_(names))
    return connection.scalars(statement.order_by(runs.c.id)).all()


def past(
    connection: Connection, sweep: AnyRow, learned_from: ColumnElement[bool] | None, now: float
) -> Sequence[AnyRow]:
    """Return the runs that a search looks back on: the sweep's own, and those that it learns from besides."""
    own = _of(sweep)
    chosen = own if learned_from is None else or_(own, and_(runs.c.project_id == sweep.project_id, learned_from))
    columns: tuple[Any, ...] = (runs.c.config, runs.c.summary)
    statement = (
        select(*columns, sweep_runs.c.args, state_expression(now).label("state"))
        .outerjoin(sweep_runs, sweep_runs.c.run_id == runs.c.id)
        .where(chosen, runs.c.deleted_at.is_(None))
    )
    return connection.execute(statement.order_by(runs.c.id)).all()


def courses(connection: Connection, sweep: AnyRow, now: float) -> Sequence[AnyRow]:
    """Return a sweep's runs with the length of their histories."""
    statement = select(runs.c.id, runs.c.name, runs.c.history_lines, state_expression(now).label("state"))
    return connection.execute(statement.where(_of(sweep)).order_by(runs.c.id)).all()


def _of(sweep: AnyRow) -> ColumnElement[bool]:
    return and_(runs.c.project_id == sweep.project_id, runs.c.sweep == sweep.name, runs.c.deleted_at.is_(None))
