"""Artifact types and collections of a project."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, insert, select, update

from server.errors import Conflict
from server.storage import places
from server.storage.places import Key
from server.storage.rows import AnyRow
from server.storage.tables import artifact_collections, artifact_types

SEQUENCE = "ArtifactSequence"
"""What runs log versions to."""
PORTFOLIO = "ArtifactPortfolio"
"""What versions are linked to."""

_FULL = select(
    artifact_collections,
    artifact_types.c.name.label("type_name"),
    artifact_types.c.created_at.label("type_created_at"),
).join(artifact_types, artifact_types.c.id == artifact_collections.c.type_id)


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
    return connection.execute(_FULL.where(_there(project_id), artifact_collections.c.name == name)).first()


def by_id(connection: Connection, collection_id: int) -> AnyRow | None:
    """Return a collection."""
    return connection.execute(
        _FULL.where(artifact_collections.c.id == collection_id, artifact_collections.c.deleted_at.is_(None))
    ).first()


def by_ids(connection: Connection, collection_ids: Sequence[int]) -> list[AnyRow]:
    """Return collections, in whatever order."""
    return list(connection.execute(_FULL.where(artifact_collections.c.id.in_(collection_ids))))


def by_kind(connection: Connection, kind: str, collection_id: int) -> AnyRow | None:
    """Return a collection if it is of this kind."""
    row = by_id(connection, collection_id)
    return row if row is not None and row.kind == kind else None


def listing(
    connection: Connection,
    project_id: int,
    type_id: int | None,
    wanted: ColumnElement[bool] | None,
    order: Key,
    behind: Sequence[Any] | None,
    limit: int,
) -> list[AnyRow]:
    """Return a page of a project's collections, of one type or of all. Each row has its place: `places.place_of`."""
    statement = _FULL.where(_there(project_id, type_id, wanted))
    return list(connection.execute(places.page(statement, [order], artifact_collections.c.id, behind, limit)))


def names(connection: Connection, project_id: int, type_name: str, *, starting_with: str) -> Sequence[str]:
    """Return the names of a project's collections of a type, the newest first."""
    statement = (
        select(artifact_collections.c.name)
        .join(artifact_types, artifact_types.c.id == artifact_collections.c.type_id)
        .where(
            _there(project_id),
            artifact_types.c.name == type_name,
            artifact_collections.c.name.startswith(starting_with, autoescape=True),
        )
    )
    return connection.scalars(statement.order_by(artifact_collections.c.id.desc())).all()


def count(connection: Connection, project_id: int, type_id: int | None, wanted: ColumnElement[bool] | None) -> int:
    """Return how many collections a project has, of one type or of all."""
    statement = select(func.count()).select_from(artifact_collections).where(_there(project_id, type_id, wanted))
    return connection.scalar(statement) or 0


def _there(
    project_id: int, type_id: int | None = None, wanted: ColumnElement[bool] | None = None
) -> ColumnElement[bool]:
    there = (artifact_collections.c.project_id == project_id) & artifact_collections.c.deleted_at.is_(None)
    if type_id is not None:
        there &= artifact_collections.c.type_id == type_id
    return there if wanted is None else there & wanted


def ensure(connection: Connection, project_id: int, kind: str, type_name: str, name: str, now: float) -> int:
    """Return the collection of that name, made now if it is missing; `Conflict` if the name is of something else."""
    known = by_name(connection, project_id, name)
    if known is not None:
        if known.type_name != type_name:
            verb = "logged as" if kind == SEQUENCE else "linked to as"
            raise Conflict(f"Artifact {name!r} has type {known.type_name!r}; it cannot be {verb} {type_name!r}.")
        if known.kind != kind:
            raise Conflict(_OTHER_KIND[kind].format(name=name))
        return known.id
    statement = insert(artifact_collections).values(
        project_id=project_id,
        type_id=ensure_type(connection, project_id, type_name, now),
        kind=kind,
        name=name,
        next_version=0,
        created_at=now,
        updated_at=now,
    )
    return connection.execute(statement).inserted_primary_key[0]  # type: ignore[index]


_OTHER_KIND = {
    SEQUENCE: "{name!r} collects linked versions; nothing can be logged to it. Use another name.",
    PORTFOLIO: "Runs log versions to {name!r}; nothing can be linked to it. Use another name.",
}


def change(connection: Connection, collection_id: int, now: float, **values: Any) -> None:
    """Set columns of a collection."""
    connection.execute(
        update(artifact_collections).where(artifact_collections.c.id == collection_id).values(updated_at=now, **values)
    )
