"""Automations as they are stored, and which of them something concerns."""

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, delete, exists, func, insert, or_, select, update

from server.storage.rows import AnyRow
from server.storage.tables import artifact_collections, automations, entities, projects, runs

_FULL: Select[Any] = select(automations, entities.c.name.label("entity_name")).join(
    entities, entities.c.id == automations.c.entity_id
)
_OF_NO_COLLECTION = automations.c.collection_id.is_(None)
_OF_ENTITY = and_(_OF_NO_COLLECTION, automations.c.project_id.is_(None))


def create(connection: Connection, **values: Any) -> int:
    """Add an automation."""
    return connection.execute(insert(automations), values).inserted_primary_key[0]  # type: ignore[index]


def change(connection: Connection, automation_id: int, **values: Any) -> None:
    """Set columns of an automation."""
    connection.execute(update(automations).where(automations.c.id == automation_id).values(**values))


def remove(connection: Connection, automation_id: int) -> None:
    """Forget an automation, with the record of what it did."""
    connection.execute(delete(automations).where(automations.c.id == automation_id))


def remove_of_collection(connection: Connection, collection_id: int) -> None:
    """Forget the automations of a collection that is deleted."""
    connection.execute(delete(automations).where(automations.c.collection_id == collection_id))


def by_id(connection: Connection, automation_id: int) -> AnyRow | None:
    """Return an automation with its entity's name."""
    return connection.execute(_FULL.where(automations.c.id == automation_id)).first()


def project_of(connection: Connection, automation: AnyRow) -> int | None:
    """Return the project that an automation, or its collection, is of; None if it is of an entity."""
    if automation.collection_id is None:
        return automation.project_id
    statement = select(artifact_collections.c.project_id)
    return connection.scalar(statement.where(artifact_collections.c.id == automation.collection_id))


def id_by_name(connection: Connection, entity_id: int, name: str) -> int | None:
    """Return the row number of an entity's automation."""
    statement = select(automations.c.id).where(automations.c.entity_id == entity_id, automations.c.name == name)
    return connection.scalar(statement)


def listing(
    connection: Connection,
    entity_id: int,
    within: Collection[int] | None,
    wanted: ColumnElement[bool] | None,
    after: int,
    limit: int,
) -> list[AnyRow]:
    """Return a page of an entity's automations, oldest first; only those that act in some projects, if these are
    given."""
    statement = _FULL.where(automations.c.entity_id == entity_id, automations.c.id > after)
    if within is not None:
        statement = statement.where(_acts_in(within))
    if wanted is not None:
        statement = statement.where(wanted)
    return list(connection.execute(statement.order_by(automations.c.id).limit(limit)))


def of_projects(connection: Connection, project_ids: Collection[int]) -> list[AnyRow]:
    """Return the automations of projects and of collections in them, oldest first; each with its `place_id`."""
    place_id = func.coalesce(automations.c.project_id, artifact_collections.c.project_id)
    statement = _FULL.add_columns(place_id.label("place_id")).outerjoin(
        artifact_collections, artifact_collections.c.id == automations.c.collection_id
    )
    return list(connection.execute(statement.where(place_id.in_(project_ids)).order_by(automations.c.id)))


def concerned_by_artifact(connection: Connection, event: str, collection_id: int) -> list[AnyRow]:
    """Return the automations that wait for such an event in a collection."""
    place = (
        select(artifact_collections.c.project_id, projects.c.entity_id)
        .join(projects, projects.c.id == artifact_collections.c.project_id)
        .where(artifact_collections.c.id == collection_id)
        .subquery()
    )
    concerned = or_(automations.c.collection_id == collection_id, _of_project(place.c))
    statement = select(automations).join(place, concerned)
    waiting = (automations.c.event_type == event, automations.c.enabled)
    return list(connection.execute(statement.where(*waiting).order_by(automations.c.id)))


def concerned_by_runs(connection: Connection, project_id: int, events: Sequence[str]) -> list[AnyRow]:
    """Return the automations that wait for such events of a project's runs."""
    statement = select(automations).join(projects, _of_project(projects.c, projects.c.id))
    waiting = (projects.c.id == project_id, automations.c.event_type.in_(events), automations.c.enabled)
    return list(connection.execute(statement.where(*waiting).order_by(automations.c.id)))


def set_up_since(connection: Connection, events: Sequence[str], since: float) -> list[AnyRow]:
    """Return the automations that wait for such events, and were made or changed since then."""
    at = func.coalesce(automations.c.updated_at, automations.c.created_at)
    waiting = (at > since, automations.c.event_type.in_(events), automations.c.enabled)
    return list(connection.execute(select(automations).where(*waiting)))


def any_concerned_by_run(events: Sequence[str]) -> ColumnElement[bool]:
    """Return the SQL of whether an automation waits for such events of a row of `runs`."""
    place = projects.alias("place_of_run")
    return exists().where(
        place.c.id == runs.c.project_id,
        automations.c.event_type.in_(events),
        automations.c.enabled,
        _of_project(place.c, place.c.id),
    )


def _of_project(place: Any, project_id: ColumnElement[int] | None = None) -> ColumnElement[bool]:
    """Return the SQL of whether an automation is one of a project, or of its entity."""
    own = automations.c.project_id == (place.project_id if project_id is None else project_id)
    return or_(and_(_OF_NO_COLLECTION, own), and_(_OF_ENTITY, automations.c.entity_id == place.entity_id))


def _acts_in(project_ids: Collection[int]) -> ColumnElement[bool]:
    of_collection = select(artifact_collections.c.id).where(artifact_collections.c.project_id.in_(project_ids))
    return or_(automations.c.project_id.in_(project_ids), automations.c.collection_id.in_(of_collection))
