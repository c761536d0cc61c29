"""Artifact types and collections of a project."""

from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from server.errors import Conflict
from server.storage.rows import AnyRow
from server.storage.tables import (
    artifact_aliases,
    artifact_collections,
    artifact_memberships,
    artifact_types,
    artifacts,
)

SEQUENCE = "ArtifactSequence"

_FULL = select(artifact_collections, artifact_types.c.name.label("type_name")).join(
    artifact_types, artifact_types.c.id == artifact_collections.c.type_id
)


def type_by_name(connection: Connection, project_id: int, name: str) -> AnyRow | None:
    """Return an artifact type of a project."""
    return connection.execute(
        select(artifact_types).where(artifact_types.c.project_id == project_id, artifact_types.c.name == name)
    ).first()


def types(connection: Connection, project_id: int, after: int, limit: int) -> list[AnyRow]:
    """Return a project's artifact types."""
    statement = select(artifact_types).where(artifact_types.c.project_id == project_id, artifact_types.c.id > after)
    return list(connection.execute(statement.order_by(artifact_types.c.id).limit(limit)))


def ensure_type(connection: Connection, project_id: int, name: str, now: float) -> int:
    """Return a type's id, made now if it is missing."""
    known = type_by_name(connection, project_id, name)
    if known is not None:
        return known.id
    statement = insert(artifact_types).values(project_id=project_id, name=name, created_at=now)
    return connection.execute(statement).inserted_primary_key[0]  # type: ignore[index]


def by_name(connection: Connection, project_id: int, name: str) -> AnyRow | None:
    """Return a collection of a project."""
    return connection.execute(
        _FULL.where(
            artifact_collections.c.project_id == project_id,
            artifact_collections.c.name == name,
            artifact_collections.c.deleted_at.is_(None),
        )
    ).first()


def by_id(connection: Connection, collection_id: int) -> AnyRow | None:
    """Return a collection."""
    return connection.execute(
        _FULL.where(artifact_collections.c.id == collection_id, artifact_collections.c.deleted_at.is_(None))
    ).first()


def listing(connection: Connection, project_id: int, type_id: int | None, after: int, limit: int) -> list[AnyRow]:
    """Return a project's collections, of one type or of all."""
    statement = _FULL.where(
        artifact_collections.c.project_id == project_id,
        artifact_collections.c.deleted_at.is_(None),
        artifact_collections.c.id > after,
    )
    if type_id is not None:
        statement = statement.where(artifact_collections.c.type_id == type_id)
    return list(connection.execute(statement.order_by(artifact_collections.c.id).limit(limit)))


def ensure_sequence(connection: Connection, project_id: int, type_name: str, name: str, now: float) -> int:
    """Return the collection that runs log versions to; `Conflict` if the name holds another type."""
    known = by_name(connection, project_id, name)
    if known is not None:
        if known.type_name != type_name:
            raise Conflict(f"Artifact {name!r} has type {known.type_name!r}; it cannot be logged as {type_name!r}.")
        return known.id
    statement = insert(artifact_collections).values(
        project_id=project_id,
        type_id=ensure_type(connection, project_id, type_name, now),
        kind=SEQUENCE,
        name=name,
        next_version=0,
        created_at=now,
        updated_at=now,
    )
    return connection.execute(statement).inserted_primary_key[0]  # type: ignore[index]


def change(connection: Connection, collection_id: int, now: float, **values: Any) -> None:
    """Set columns of a collection."""
    connection.execute(
        update(artifact_collections).where(artifact_collections.c.id == collection_id).values(updated_at=now, **values)
    )


def add_version(connection: Connection, collection_id: int, artifact_id: int, now: float) -> int:
    """Put an artifact into a collection as its next version; returns the membership's id."""
    version = connection.scalar(
        update(artifact_collections)
        .where(artifact_collections.c.id == collection_id)
        .values(next_version=artifact_collections.c.next_version + 1, updated_at=now)
        .returning(artifact_collections.c.next_version - 1)
    )
    statement = insert(artifact_memberships).values(
        collection_id=collection_id, artifact_id=artifact_id, version_index=version, created_at=now
    )
    return connection.execute(statement).inserted_primary_key[0]  # type: ignore[index]


def set_alias(connection: Connection, collection_id: int, membership_id: int, alias: str) -> None:
    """Point an alias at a version, taking it from whichever had it."""
    moved = connection.execute(
        update(artifact_aliases)
        .where(artifact_aliases.c.collection_id == collection_id, artifact_aliases.c.alias == alias)
        .values(membership_id=membership_id)
    )
    if moved.rowcount == 0:
        connection.execute(
            insert(artifact_aliases).values(collection_id=collection_id, membership_id=membership_id, alias=alias)
        )


def remove_alias(connection: Connection, collection_id: int, alias: str) -> None:
    """Take an alias away."""
    connection.execute(
        artifact_aliases.delete().where(
            artifact_aliases.c.collection_id == collection_id, artifact_aliases.c.alias == alias
        )
    )


def aliases(connection: Connection, collection_id: int) -> list[AnyRow]:
    """Return a collection's aliases."""
    return list(connection.execute(select(artifact_aliases).where(artifact_aliases.c.collection_id == collection_id)))


def membership(connection: Connection, collection_id: int, version: str) -> AnyRow | None:
    """Return the version of a collection that an alias or `vN` names."""
    statement = select(artifact_memberships).where(artifact_memberships.c.collection_id == collection_id)
    if version.startswith("v") and version[1:].isdecimal():
        statement = statement.where(artifact_memberships.c.version_index == int(version[1:]))
    else:
        statement = statement.join(
            artifact_aliases, artifact_aliases.c.membership_id == artifact_memberships.c.id
        ).where(artifact_aliases.c.alias == version)
    return connection.execute(statement).first()


def memberships_of(connection: Connection, artifact_id: int) -> list[AnyRow]:
    """Return where an artifact is a version."""
    return list(
        connection.execute(
            select(artifact_memberships)
            .where(artifact_memberships.c.artifact_id == artifact_id)
            .order_by(artifact_memberships.c.id)
        )
    )


def version_count(connection: Connection, collection_id: int) -> int:
    """Return how many versions a collection has, without deleted ones."""
    statement = (
        select(func.count())
        .select_from(artifact_memberships)
        .join(artifacts, artifacts.c.id == artifact_memberships.c.artifact_id)
        .where(artifact_memberships.c.collection_id == collection_id, artifacts.c.state == "COMMITTED")
    )
    return connection.scalar(statement) or 0
