"""Projects of an entity. Names are compared without regard to case, as some agents lower-case them."""

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, delete, insert, or_, select, update

from server.errors import Conflict
from server.storage.rows import AnyRow
from server.storage.tables import entities, projects

# Made once, as every acknowledgement needs it.
_ID_BY_NAME = select(projects.c.id).where(
    projects.c.entity_id == bindparam("of_entity"), projects.c.name_key == bindparam("named")
)


def find(connection: Connection, entity: str, project: str) -> AnyRow | None:
    """Return the project's row, with its entity's name as `entity_name`, or None."""
    return connection.execute(
        select(projects, entities.c.name.label("entity_name"))
        .join(entities, entities.c.id == projects.c.entity_id)
        .where(entities.c.name == entity, projects.c.name_key == project.lower())
    ).first()


def by_id(connection: Connection, project_id: int) -> AnyRow | None:
    """Return the project's row, with its entity's name as `entity_name`, or None."""
    return connection.execute(
        select(projects, entities.c.name.label("entity_name"))
        .join(entities, entities.c.id == projects.c.entity_id)
        .where(projects.c.id == project_id)
    ).first()


def by_ids(connection: Connection, project_ids: Sequence[int]) -> list[AnyRow]:
    """Return projects with their entities' names, in whatever order."""
    statement = select(projects, entities.c.name.label("entity_name")).join(
        entities, entities.c.id == projects.c.entity_id
    )
    return list(connection.execute(statement.where(projects.c.id.in_(project_ids))))


def ensure(
    connection: Connection,
    entity_id: int,
    name: str,
    *,
    user_id: int | None,
    now: float,
    description: str | None = None,
) -> tuple[int, bool]:
    """Return the id of the entity's project of that name, and whether it was made just now."""
    known = connection.scalar(_ID_BY_NAME, {"of_entity": entity_id, "named": name.lower()})
    if known is not None:
        return known, False
    statement = insert(projects).values(
        entity_id=entity_id,
        name=name,
        name_key=name.lower(),
        description=description,
        access="PRIVATE",
        any_artifact_type=True,
        created_by=user_id,
        created_at=now,
    )
    return connection.execute(statement).inserted_primary_key[0], True  # type: ignore[index]


def listing(connection: Connection, entity: str, after: int, limit: int) -> list[AnyRow]:
    """Return the entity's projects in the order of their making, from after the given id on."""
    return list(
        connection.execute(
            select(projects, entities.c.name.label("entity_name"))
            .join(entities, entities.c.id == projects.c.entity_id)
            .where(entities.c.name == entity, projects.c.id > after)
            .order_by(projects.c.id)
            .limit(limit)
        )
    )


def page(
    connection: Connection, names: Collection[str], project_ids: Collection[int], after: int, limit: int
) -> list[AnyRow]:
    """Return projects of these entities, and these projects, in the order of their making."""
    statement = select(projects, entities.c.name.label("entity_name")).join(
        entities, entities.c.id == projects.c.entity_id
    )
    wanted = or_(entities.c.name.in_(names), projects.c.id.in_(project_ids))
    return list(connection.execute(statement.where(wanted, projects.c.id > after).order_by(projects.c.id).limit(limit)))


def change(connection: Connection, project_id: int, now: float, **values: Any) -> None:
    """Set columns of a project."""
    connection.execute(update(projects).where(projects.c.id == project_id).values(updated_at=now, **values))


def rename(connection: Connection, project: AnyRow, name: str, now: float) -> None:
    """Give a project another name; `Conflict` if its entity has a project of that name."""
    known = connection.scalar(_ID_BY_NAME, {"of_entity": project.entity_id, "named": name.lower()})
    if known not in {None, project.id}:
        raise Conflict(f"{project.entity_name!r} has a project {name!r} already.")
    change(connection, project.id, now, name=name, name_key=name.lower())


def remove(connection: Connection, project_id: int) -> None:
    """Forget a project and all that is in it."""
    connection.execute(delete(projects).where(projects.c.id == project_id))
