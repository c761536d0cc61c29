"""Where automations and alerts are sent: webhooks and Slack channels, each of an entity."""

from typing import Any

from sqlalchemy import Connection, Select, delete, insert, or_, select

from server.errors import Conflict
from server.storage.rows import AnyRow
from server.storage.tables import automations, entities, integrations, members, projects, runs, users

WEBHOOK, SLACK = "webhook", "slack"

_FULL: Select[Any] = select(integrations, entities.c.name.label("entity_name")).join(entities)


def create(connection: Connection, entity_id: int, name: str, **values: Any) -> int:
    """Add an integration; `Conflict` if the entity has one of that name."""
    if by_name(connection, entity_id, name) is not None:
        raise Conflict(f"There is an integration {name!r} already. Choose another name, or delete that one first.")
    row = {"entity_id": entity_id, "name": name, **values}
    return connection.execute(insert(integrations), row).inserted_primary_key[0]  # type: ignore[index]


def by_id(connection: Connection, integration_id: int) -> AnyRow | None:
    """Return an integration with its entity's name."""
    return connection.execute(_FULL.where(integrations.c.id == integration_id)).first()


def by_name(connection: Connection, entity_id: int, name: str) -> AnyRow | None:
    """Return an entity's integration of that name."""
    return connection.execute(_FULL.where(integrations.c.entity_id == entity_id, integrations.c.name == name)).first()


def listing(connection: Connection, entity_id: int, after: int, limit: int) -> list[AnyRow]:
    """Return a page of an entity's integrations, oldest first."""
    statement = _FULL.where(integrations.c.entity_id == entity_id, integrations.c.id > after)
    return list(connection.execute(statement.order_by(integrations.c.id).limit(limit)))


def remove(connection: Connection, row: AnyRow) -> None:
    """Forget an integration; `Conflict` while automations of its entity use it.

    Members may have let automations of other entities use it. Those go with it: its entity cannot delete them, and may
    not know of them.
    """
    own = (automations.c.integration_id == row.id, automations.c.entity_id == row.entity_id)
    users_of_it = connection.scalars(select(automations.c.name).where(*own).order_by(automations.c.name)).all()
    if users_of_it:
        raise Conflict(f"Integration {row.name!r} is used by automations: {', '.join(users_of_it)}. Delete them first.")
    connection.execute(delete(integrations).where(integrations.c.id == row.id))


def for_alerts(connection: Connection, run_id: int) -> list[AnyRow]:
    """Return where alerts of a run go: what asks for them of its entity, and of who made it, if still a member."""
    whose = (
        select(projects.c.entity_id)
        .join(runs, runs.c.project_id == projects.c.id)
        .where(runs.c.id == run_id)
        .scalar_subquery()
    )
    makers = (
        select(users.c.entity_id)
        .join(runs, runs.c.created_by == users.c.id)
        .join(members, members.c.user_id == users.c.id)
        .where(runs.c.id == run_id, members.c.entity_id == whose)
    )
    of_either = or_(integrations.c.entity_id == whose, integrations.c.entity_id == makers.scalar_subquery())
    return list(connection.execute(_FULL.where(integrations.c.gets_alerts, of_either).order_by(integrations.c.id)))
