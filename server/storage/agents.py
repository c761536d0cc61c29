"""Launch agents: who serves queues, and who is still there."""

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, func, insert, select, update

from protocol.launch_spec import SCHEDULER_URI
from server.errors import NotFound
from server.storage.rows import AnyRow
from server.storage.tables import entities, launch_agents, projects, run_queue_items, runs

ALIVE_SECONDS = 90.0
"""An agent that was not heard of for longer is taken for dead; a long poll lasts two thirds of it."""

OUR_AGENTS = "launchbay@"
"""How the versions of agents begin that say how far a launch is, and how it ended."""
PREPARING, STARTING, RETRYING = "preparing", "starting", "retrying"
"""What such an agent says of a launch that matters here: only while it prepares one, there is surely nothing of it."""

# Made once, as every claim needs it.
_OF_PROJECT = select(launch_agents.c.id).where(
    launch_agents.c.id == bindparam("agent"), launch_agents.c.project_id == bindparam("of_project")
)


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


def must_exist(connection: Connection, agent_id: int, project_id: int) -> None:
    """Raise `NotFound` unless this is an agent of the project."""
    if connection.scalar(_OF_PROJECT, {"agent": agent_id, "of_project": project_id}) is None:
        raise NotFound("There is no such agent here. Register it again, by starting it anew.")


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


def note_heard(connection: Connection, agent_id: int, now: float) -> None:
    """Note at once that an agent was heard of, where others must not take it for dead in the next moment."""
    connection.execute(update(launch_agents).where(launch_agents.c.id == agent_id).values(heartbeat_at=now))


def ask_to_stop(connection: Connection, agent_id: int) -> None:
    """Ask an agent to stop."""
    connection.execute(update(launch_agents).where(launch_agents.c.id == agent_id).values(stop_polling=True))


def is_alive(row: AnyRow, now: float) -> bool:
    """Whether an agent is at work, as far as one can know."""
    return is_at_work(row.status, row.heartbeat_at, now)


def is_at_work(status: str | None, heard_at: float, now: float) -> bool:
    """Whether one who has said this of himself, and was last heard of then, is taken for alive."""
    return status != "KILLED" and now - heard_at <= ALIVE_SECONDS


def serving(connection: Connection, project_id: int, wire_queue_id: str, now: float) -> list[AnyRow]:
    """Return the living agents of a queue."""
    return [
        row
        for row in in_project(connection, project_id)
        if is_alive(row, now) and wire_queue_id in json.loads(row.queues)
    ]


def held(connection: Connection, agent_ids: Sequence[int], *, besides: Sequence[int] = ()) -> dict[int, int]:
    """Return how many unfinished jobs each of these agents holds, `besides` these items; who holds none is left out."""
    statement = (
        select(run_queue_items.c.agent_id, func.count().label("held"))
        .outerjoin(runs, runs.c.id == run_queue_items.c.run_id)
        .where(
            run_queue_items.c.agent_id.in_(agent_ids),
            run_queue_items.c.id.not_in(besides),
            run_queue_items.c.state.in_(("LEASED", "CLAIMED")),
            # One that waits for its next attempt leaves its place to others.
            func.coalesce(run_queue_items.c.status, "") != RETRYING,
            # Schedulers of sweeps do not count as jobs.
            run_queue_items.c.launch_spec.not_like(f'%"uri": "{SCHEDULER_URI}"%'),
            # Stock agents do not tell the end of an item; its run does.
            runs.c.ended_at.is_(None),
            runs.c.end_cause.is_(None),
        )
        .group_by(run_queue_items.c.agent_id)
    )
    return {row.agent_id: row.held for row in connection.execute(statement)}
