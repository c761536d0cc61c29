"""Run queues and their resource configs."""

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, insert, select, update

from protocol.states import ItemState
from server.errors import NotFound
from server.pushing import DEFAULT_PRIORITY, QueueRules
from server.storage.claims import in_state
from server.storage.rows import AnyRow
from server.storage.tables import entities, projects, resource_configs, run_queue_items, run_queues

_FULL = (
    select(
        run_queues,
        projects.c.name.label("project_name"),
        projects.c.entity_id,
        entities.c.name.label("entity_name"),
        resource_configs.c.resource,
        resource_configs.c.config,
        resource_configs.c.template_variables,
    )
    .join(projects, projects.c.id == run_queues.c.project_id)
    .join(entities, entities.c.id == projects.c.entity_id)
    .outerjoin(resource_configs, resource_configs.c.id == run_queues.c.resource_config_id)
)

# Made once, as every claim needs it.
_OF_PROJECT = _FULL.where(entities.c.name == bindparam("of_entity"), projects.c.name_key == bindparam("of_project"))
_BY_PATH = _OF_PROJECT.where(run_queues.c.name == bindparam("named"))


def in_project(connection: Connection, project_id: int) -> list[AnyRow]:
    """Return a project's queues in the order of their making."""
    return list(connection.execute(_FULL.where(run_queues.c.project_id == project_id).order_by(run_queues.c.id)))


def by_name(connection: Connection, project_id: int, name: str) -> AnyRow | None:
    """Return a queue of a project."""
    return connection.execute(_FULL.where(run_queues.c.project_id == project_id, run_queues.c.name == name)).first()


def find(connection: Connection, entity: str, project: str, name: str) -> AnyRow:
    """Return a queue by its full path; `NotFound` names those that there are."""
    path = {"of_entity": entity, "of_project": project.lower()}
    row = connection.execute(_BY_PATH, {**path, "named": name}).first()
    if row is None:
        known = [other.name for other in connection.execute(_OF_PROJECT.order_by(run_queues.c.name), path)]
        raise NotFound(f"Entity {entity!r} has no queue {name!r}. It has: {', '.join(known) or 'none'}.")
    return row


def by_id(connection: Connection, queue_id: int) -> AnyRow:
    """Return a queue; `NotFound` if there is none."""
    row = connection.execute(_FULL.where(run_queues.c.id == queue_id)).first()
    if row is None:
        raise NotFound("There is no such queue.")
    return row


def by_ids(connection: Connection, queue_ids: Sequence[int]) -> dict[int, AnyRow]:
    """Return queues by their row numbers."""
    return {row.id: row for row in connection.execute(_FULL.where(run_queues.c.id.in_(queue_ids)))}


def create_config(
    connection: Connection, entity_id: int, resource: str, config: str, variables: str, now: float
) -> int:
    """Store a resource config; returns its id."""
    statement = insert(resource_configs).values(
        entity_id=entity_id, resource=resource, config=config, template_variables=variables, created_at=now
    )
    return connection.execute(statement).inserted_primary_key[0]  # type: ignore[index]


def config_by_id(connection: Connection, entity_id: int, config_id: int) -> AnyRow | None:
    """Return a resource config of an entity."""
    return connection.execute(
        select(resource_configs).where(resource_configs.c.id == config_id, resource_configs.c.entity_id == entity_id)
    ).first()


def create(connection: Connection, project_id: int, name: str, *, user_id: int, now: float, **values: Any) -> int:
    """Add a queue."""
    row = {"project_id": project_id, "name": name, "created_by": user_id, "created_at": now, "updated_at": now}
    statement = insert(run_queues).values(**row, **{"external_links": '{"links": []}', **values})
    return connection.execute(statement).inserted_primary_key[0]  # type: ignore[index]


def change(connection: Connection, queue_id: int, now: float, **values: Any) -> None:
    """Set columns of a queue."""
    connection.execute(update(run_queues).where(run_queues.c.id == queue_id).values(updated_at=now, **values))


def remove(connection: Connection, queue_id: int) -> None:
    """Delete a queue with its items."""
    connection.execute(delete(run_queues).where(run_queues.c.id == queue_id))


def pending_counts(connection: Connection, queue_ids: Sequence[int]) -> dict[int, int]:
    """Return by queue how many items wait; queues in which none waits are left out."""
    statement = (
        select(run_queue_items.c.queue_id, func.count().label("waiting"))
        .where(run_queue_items.c.queue_id.in_(queue_ids), in_state(ItemState.PENDING))
        .group_by(run_queue_items.c.queue_id)
    )
    return {row.queue_id: row.waiting for row in connection.execute(statement)}


def forget_priorities(connection: Connection, queue_id: int) -> None:
    """Give all items that may still be claimed the same priority: the claim goes by priority in every queue."""
    connection.execute(
        update(run_queue_items)
        .where(run_queue_items.c.queue_id == queue_id, in_state(ItemState.PENDING, ItemState.LEASED, ItemState.CLAIMED))
        .values(priority=DEFAULT_PRIORITY)
    )


def rules(row: AnyRow) -> QueueRules:
    """Return what a queue says about its items."""
    config: dict[str, Any] = json.loads(row.config) if row.config else {}
    return QueueRules(
        name=row.name,
        resource=row.resource,
        resource_args=config.get("resource_args") or {},
        variables=json.loads(row.template_variables) if row.template_variables else {},
        prioritized=row.prioritization_mode == "V0",
    )
