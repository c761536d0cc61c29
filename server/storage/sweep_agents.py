"""The agents of sweeps: who asks for runs, and when each was heard of last."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, insert, or_, select, true, update

from server.errors import NotFound
from server.run_state import HEARTBEAT_TIMEOUT_SECONDS
from server.storage.rows import AnyRow
from server.storage.tables import entities, projects, runs, sweep_agents, sweep_runs, sweeps

SILENT_SECONDS = HEARTBEAT_TIMEOUT_SECONDS
"""An agent that was not heard of for longer is gone. It asks every five seconds, through outages for minutes."""

GONE = "There is no such agent of a sweep. The sweep may have been deleted."


def create(connection: Connection, sweep_id: int, name: str, host: str, *, user_id: int, now: float) -> int:
    """Register an agent; returns its id."""
    statement = insert(sweep_agents).values(
        sweep_id=sweep_id,
        name=name,
        host=host,
        busy=False,
        dismissed=False,
        created_by=user_id,
        heartbeat_at=now,
        created_at=now,
    )
    return connection.execute(statement).inserted_primary_key[0]  # type: ignore[index]


def by_id(connection: Connection, agent_id: int) -> AnyRow:
    """Return an agent with the entity of its sweep; `NotFound` if it is gone, or its sweep is."""
    row = connection.execute(
        select(sweep_agents, entities.c.name.label("entity_name"))
        .join(sweeps, sweeps.c.id == sweep_agents.c.sweep_id)
        .join(projects, projects.c.id == sweeps.c.project_id)
        .join(entities, entities.c.id == projects.c.entity_id)
        .where(sweep_agents.c.id == agent_id)
    ).first()
    if row is None:
        raise NotFound(GONE)
    return row


def find(connection: Connection, sweep_id: int, name: str, agent_id: int | None) -> AnyRow | None:
    """Return an agent of a sweep, by name or by id."""
    named = sweep_agents.c.name == name
    wanted = named if agent_id is None else or_(named, sweep_agents.c.id == agent_id)
    return connection.execute(select(sweep_agents).where(sweep_agents.c.sweep_id == sweep_id, wanted)).first()


def of_sweep(connection: Connection, sweep_id: int, after: int, limit: int) -> Sequence[AnyRow]:
    """Return a sweep's agents in the order of their making, from after the given id on."""
    behind = sweep_agents.c.id > after if after else true()
    statement = select(sweep_agents).where(sweep_agents.c.sweep_id == sweep_id, behind)
    return connection.execute(statement.order_by(sweep_agents.c.id).limit(limit)).all()


def was_given(agent_id: int) -> ColumnElement[bool]:
    """Return the condition that a run was given to an agent."""
    return runs.c.id.in_(select(sweep_runs.c.run_id).where(sweep_runs.c.agent_id == agent_id))


def run_counts(connection: Connection, agent_ids: Sequence[int]) -> dict[int, int]:
    """Return how many runs each of these agents was given; who got none is left out."""
    statement = (
        select(sweep_runs.c.agent_id, func.count().label("runs"))
        .join(runs, runs.c.id == sweep_runs.c.run_id)
        .where(sweep_runs.c.agent_id.in_(agent_ids), runs.c.deleted_at.is_(None))
        .group_by(sweep_runs.c.agent_id)
    )
    return {row.agent_id: row.runs for row in connection.execute(statement)}


def change(connection: Connection, agent_id: int, **values: Any) -> None:
    """Set columns of an agent."""
    connection.execute(update(sweep_agents).where(sweep_agents.c.id == agent_id).values(**values))


def state(row: AnyRow, now: float) -> str:
    """Return what an agent is doing, as far as one can know: most leave without a word."""
    if row.dismissed:
        return "FINISHED"
    if now - row.heartbeat_at <= SILENT_SECONDS:
        return "RUNNING"
    return "CRASHED" if row.busy else "FINISHED"
