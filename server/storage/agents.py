"""Launch agents: who serves queues, and who is still there."""

import json
from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from server.errors import NotFound
from server.storage.rows import AnyRow
from server.storage.tables import entities, launch_agents, projects, run_queue_items

ALIVE_SECONDS = 90.0
"""An agent that was not heard of for longer is taken for dead; a long poll lasts less than half of it."""


def create(connection: Connection, *, now: float, **values: Any) -> int:
    """Register an agent."""
    row = {"status": "POLLING", "stop_polling": False, "heartbeat_at": now, "created_at": now}
    return connection.execute(insert(launch_agents).values(**row, **values)).inserted_primary_key[0]  # type: ignore[index]


def by_id(connection: Connection, agent_id: int) -> AnyRow:
    """Return an agent with its entity; `NotFound` if there is none."""
    row = connection.execute(
        select(launch_agents, entities.c.name.label("entity_name"))
        .join(projects, projects.c.id == launch_agents.c.project_id)
        .join(entities, entities.c.id == projects.c.entity_id)
        .where(launch_agents.c.id == agent_id)
    ).first()
    if row is None:
        raise NotFound("There is no such agent.")
    return row


def in_project(connection: Connection, project_id: int) -> list[AnyRow]:
    """Return a project's agents, newest first."""
    statement = select(launch_agents).where(launch_agents.c.project_id == project_id)
    return list(connection.execute(statement.order_by(launch_agents.c.id.desc())))


def set_status(connection: Connection, agent_id: int, status: str, now: float) -> None:
    """Note what an agent says of itself. KILLED is final: some agents say POLLING once more after it."""
    connection.execute(
        update(launch_agents)
        .where(launch_agents.c.id == agent_id, launch_agents.c.status != "KILLED")
        .values(status=status, heartbeat_at=now)
    )


def ask_to_stop(connection: Connection, agent_id: int) -> None:
    """Ask an agent to stop."""
    connection.execute(update(launch_agents).where(launch_agents.c.id == agent_id).values(stop_polling=True))


def is_alive(row: AnyRow, now: float) -> bool:
    """Whether an agent is at work, as far as one can know."""
    return row.status != "KILLED" and now - row.heartbeat_at <= ALIVE_SECONDS


def serving(connection: Connection, project_id: int, wire_queue_id: str, now: float) -> list[AnyRow]:
    """Return the living agents of a queue."""
    return [
        row
        for row in in_project(connection, project_id)
        if is_alive(row, now) and wire_queue_id in json.loads(row.queues)
    ]


def held(connection: Connection, agent_id: int) -> int:
    """Return how many items an agent holds."""
    statement = select(func.count()).where(
        run_queue_items.c.agent_id == agent_id, run_queue_items.c.state.in_(("LEASED", "CLAIMED"))
    )
    return connection.scalar(statement) or 0
