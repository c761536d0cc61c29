"""Run queue items, as they are read and changed beside the claim."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, func, or_, select, update

from protocol.states import ItemState, RunState
from server.errors import NotFound
from server.run_state import RunFacts, state_of
from server.storage.rows import AnyRow
from server.storage.tables import entities, launch_agents, projects, run_queue_items, run_queues, runs, users

_RUN_FACTS = (
    runs.c.started_at,
    runs.c.heartbeat_at.label("run_heartbeat_at"),
    runs.c.ended_at.label("run_ended_at"),
    runs.c.exit_code.label("run_exit_code"),
    runs.c.end_cause,
    runs.c.preempting,
    runs.c.stop_requested_at.label("run_stop_requested_at"),
)
_FULL = (
    select(
        run_queue_items,
        run_queues.c.name.label("queue_name"),
        run_queues.c.prioritization_mode,
        projects.c.id.label("project_id"),
        entities.c.name.label("entity_name"),
        users.c.username,
        launch_agents.c.name.label("agent_name"),
        launch_agents.c.heartbeat_at.label("agent_heartbeat_at"),
        launch_agents.c.status.label("agent_status"),
        *_RUN_FACTS,
    )
    .join(run_queues, run_queues.c.id == run_queue_items.c.queue_id)
    .join(projects, projects.c.id == run_queues.c.project_id)
    .join(entities, entities.c.id == projects.c.entity_id)
    .join(users, users.c.id == run_queue_items.c.created_by)
    .outerjoin(launch_agents, launch_agents.c.id == run_queue_items.c.agent_id)
    .outerjoin(runs, runs.c.id == run_queue_items.c.run_id)
)


@dataclass(frozen=True, slots=True)
class StopRequest:
    """A claimed item that somebody wants stopped."""

    item_id: int
    run_name: str | None


def by_id(connection: Connection, item_id: int) -> AnyRow:
    """Return an item with its queue, agent and run; `NotFound` if there is none."""
    row = connection.execute(_FULL.where(run_queue_items.c.id == item_id)).first()
    if row is None:
        raise NotFound("There is no such item.")
    return row


def in_queue(connection: Connection, queue_id: int, before: int | None, limit: int) -> list[AnyRow]:
    """Return a queue's items, newest first."""
    statement = _FULL.where(run_queue_items.c.queue_id == queue_id)
    if before:
        statement = statement.where(run_queue_items.c.id < before)
    return list(connection.execute(statement.order_by(run_queue_items.c.id.desc()).limit(limit)))


def state(row: AnyRow, now: float) -> ItemState:
    """Return what has become of an item: while it is claimed, its run's state tells."""
    stored = ItemState(row.state)
    if stored is not ItemState.CLAIMED:
        return stored
    run = run_state(row, now)
    if run is None or run is RunState.PENDING:
        return stored
    return ItemState.RUNNING if run is RunState.PREEMPTING else ItemState(run.value.upper())


def run_state(row: AnyRow, now: float) -> RunState | None:
    """Return the state of an item's run, if it has one."""
    if row.run_id is None:
        return None
    facts = RunFacts(
        started_at=row.started_at,
        heartbeat_at=row.run_heartbeat_at,
        ended_at=row.run_ended_at,
        exit_code=row.run_exit_code,
        end_cause=RunState(row.end_cause) if row.end_cause else None,
        preempting=bool(row.preempting),
        stop_requested_at=row.run_stop_requested_at,
    )
    return state_of(facts, now)


def change(connection: Connection, item_id: int, now: float, **values: Any) -> None:
    """Set columns of an item."""
    connection.execute(update(run_queue_items).where(run_queue_items.c.id == item_id).values(updated_at=now, **values))


def remove(connection: Connection, item_id: int) -> None:
    """Delete an item."""
    connection.execute(delete(run_queue_items).where(run_queue_items.c.id == item_id))


def ahead_of(connection: Connection, row: AnyRow) -> int:
    """Return how many waiting items come before this one."""
    before = or_(
        run_queue_items.c.priority < row.priority,
        (run_queue_items.c.priority == row.priority) & (run_queue_items.c.id < row.id),
    )
    statement = select(func.count()).where(
        run_queue_items.c.queue_id == row.queue_id, run_queue_items.c.state == "PENDING", before
    )
    return connection.scalar(statement) or 0


def stop_requests(connection: Connection, agent_id: int) -> Sequence[StopRequest]:
    """Return an agent's claimed items that somebody wants stopped, by the item itself or by its run."""
    rows = connection.execute(
        select(run_queue_items.c.id, run_queue_items.c.run_name)
        .outerjoin(runs, runs.c.id == run_queue_items.c.run_id)
        .where(
            run_queue_items.c.agent_id == agent_id,
            run_queue_items.c.state == "CLAIMED",
            or_(run_queue_items.c.stop_requested_at.is_not(None), runs.c.stop_requested_at.is_not(None)),
        )
    )
    return [StopRequest(row.id, row.run_name) for row in rows]


def agent_of_run(connection: Connection, run_id: int) -> int | None:
    """Return the agent that holds a run's item."""
    return connection.scalar(
        select(run_queue_items.c.agent_id).where(
            run_queue_items.c.run_id == run_id, run_queue_items.c.state == "CLAIMED"
        )
    )


def recent_twin(connection: Connection, queue_id: int, user_id: int, digest: str, since: float) -> int | None:
    """Return an identical item that the same user pushed by name a moment ago and that nobody pushed by id yet."""
    return connection.scalar(
        select(run_queue_items.c.id)
        .where(
            run_queue_items.c.queue_id == queue_id,
            run_queue_items.c.created_by == user_id,
            run_queue_items.c.spec_digest == digest,
            run_queue_items.c.created_at >= since,
        )
        .order_by(run_queue_items.c.id)
        .limit(1)
    )
