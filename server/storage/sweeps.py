"""Sweeps: what is recorded of them, and which runs they have."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, func, insert, select, true, update

from server.errors import NotFound
from server.storage.rows import AnyRow
from server.storage.tables import entities, projects, runs, sweep_agents, sweeps, users
from server.sweeps.states import SweepState

_FULL = (
    select(
        sweeps,
        projects.c.name.label("project_name"),
        projects.c.entity_id,
        entities.c.name.label("entity_name"),
        users.c.username,
    )
    .join(projects, projects.c.id == sweeps.c.project_id)
    .join(entities, entities.c.id == projects.c.entity_id)
    .join(users, users.c.id == sweeps.c.created_by)
)
GONE = "There is no such sweep. It may have been deleted."
_OWN_RUNS = and_(runs.c.project_id == sweeps.c.project_id, runs.c.sweep == sweeps.c.name, runs.c.deleted_at.is_(None))


def by_name(connection: Connection, project_id: int, name: str) -> AnyRow | None:
    """Return a sweep of a project, with its project, entity and user."""
    return connection.execute(_FULL.where(sweeps.c.project_id == project_id, sweeps.c.name == name)).first()


def by_id(connection: Connection, sweep_id: int) -> AnyRow:
    """Return the sweep of that row number; `NotFound` if there is none (any more)."""
    row = connection.execute(_FULL.where(sweeps.c.id == sweep_id)).first()
    if row is None:
        raise NotFound(GONE)
    return row


def find(connection: Connection, entity: str, project: str, name: str) -> AnyRow:
    """Return a sweep by its full path; `NotFound` if there is none."""
    path = (entities.c.name == entity, projects.c.name_key == project.lower(), sweeps.c.name == name)
    row = connection.execute(_FULL.where(*path)).first()
    if row is None:
        raise NotFound(f"There is no sweep {entity}/{project}/{name}.")
    return row


def lock(connection: Connection, sweep_id: int) -> None:
    """Let nobody else decide about this sweep until the transaction ends. What was read of it before may be old."""
    connection.execute(select(sweeps.c.id).where(sweeps.c.id == sweep_id).with_for_update())


def create(connection: Connection, project_id: int, name: str, *, user_id: int, now: float, **values: Any) -> int:
    """Add a sweep; returns its id."""
    row = {"state": SweepState.PENDING, "version": 0, "launched": False, "created_at": now, "updated_at": now}
    statement = insert(sweeps).values(project_id=project_id, name=name, created_by=user_id, **{**row, **values})
    return connection.execute(statement).inserted_primary_key[0]  # type: ignore[index]


def change(connection: Connection, sweep_id: int, now: float, **values: Any) -> None:
    """Set columns of a sweep; suggestions that were made for what it was are void."""
    connection.execute(
        update(sweeps).where(sweeps.c.id == sweep_id).values(updated_at=now, version=sweeps.c.version + 1, **values)
    )


def begin(connection: Connection, sweep_id: int, now: float) -> None:
    """Note that somebody works on the sweep; no effect unless it waited for that."""
    connection.execute(
        update(sweeps)
        .where(sweeps.c.id == sweep_id, sweeps.c.state == SweepState.PENDING)
        .values(state=SweepState.RUNNING, updated_at=now)
    )


def begin_scheduled(connection: Connection, item_id: int, now: float) -> None:
    """Note that an agent has taken the item of a sweep's scheduler; no effect for other items."""
    connection.execute(
        update(sweeps)
        .where(sweeps.c.scheduler_item_id == item_id, sweeps.c.state == SweepState.PENDING)
        .values(state=SweepState.RUNNING, updated_at=now)
    )


def remove(connection: Connection, sweep_id: int) -> None:
    """Delete a sweep with its agents. Its runs stay."""
    connection.execute(sweeps.delete().where(sweeps.c.id == sweep_id))


def attach_runs(connection: Connection, row: AnyRow, chosen: ColumnElement[bool], now: float) -> None:
    """Make runs of the project a part of the sweep that belong to none."""
    connection.execute(
        update(runs)
        .where(runs.c.project_id == row.project_id, runs.c.sweep.is_(None), runs.c.deleted_at.is_(None), chosen)
        .values(sweep=row.name, updated_at=now)
    )


def listing(
    connection: Connection, project_id: int, condition: ColumnElement[bool] | None, before: int, limit: int
) -> list[AnyRow]:
    """Return a project's sweeps, newest first, from before the given id on."""
    statement: Select[Any] = _FULL.where(
        sweeps.c.project_id == project_id,
        sweeps.c.id < before if before else true(),
        true() if condition is None else condition,
    )
    return list(connection.execute(statement.order_by(sweeps.c.id.desc()).limit(limit)))


def count(connection: Connection, project_id: int) -> int:
    """Return how many sweeps a project has."""
    statement = select(func.count()).select_from(sweeps).where(sweeps.c.project_id == project_id)
    return connection.scalar(statement) or 0


def run_counts(connection: Connection, sweep_ids: Sequence[int]) -> dict[int, int]:
    """Return how many runs each of these sweeps has; who has none is left out."""
    statement = (
        select(sweeps.c.id, func.count().label("runs"))
        .join(runs, _OWN_RUNS)
        .where(sweeps.c.id.in_(sweep_ids))
        .group_by(sweeps.c.id)
    )
    return {row.id: row.runs for row in connection.execute(statement)}


def heartbeats(connection: Connection, sweep_ids: Sequence[int]) -> dict[int, float]:
    """Return when an agent of each of these sweeps was heard of last."""
    statement = (
        select(sweep_agents.c.sweep_id, func.max(sweep_agents.c.heartbeat_at).label("last"))
        .where(sweep_agents.c.sweep_id.in_(sweep_ids))
        .group_by(sweep_agents.c.sweep_id)
    )
    return {row.sweep_id: row.last for row in connection.execute(statement)}


def summaries(connection: Connection, sweep_ids: Sequence[int]) -> list[AnyRow]:
    """Return the summaries of these sweeps' runs, each with its `sweep_id`."""
    statement = select(sweeps.c.id.label("sweep_id"), runs.c.summary).join(runs, _OWN_RUNS)
    return list(connection.execute(statement.where(sweeps.c.id.in_(sweep_ids)).order_by(runs.c.id)))
