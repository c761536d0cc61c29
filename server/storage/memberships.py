"""Artifact versions in collections: each has a number there, and aliases that move between them.

A version has one membership from its commit on, in the collection that it was logged to; links add more.
"""

from collections.abc import Mapping, Sequence

from sqlalchemy import ColumnElement, Connection, Select, delete, insert, select, update

from server.storage.rows import AnyRow
from server.storage.tables import (
    artifact_aliases,
    artifact_collections,
    artifact_memberships,
    artifacts,
    entities,
    projects,
)

LATEST = "latest"


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


def link(connection: Connection, collection_id: int, artifact_id: int, now: float) -> int:
    """Put an artifact into a collection, unless it is there already; returns the membership's id."""
    known = in_collection(connection, artifact_id, collection_id)
    return add_version(connection, collection_id, artifact_id, now) if known is None else known.id


def unlink(connection: Connection, membership_id: int) -> None:
    """Take an artifact out of a collection, with its aliases there. Its number is not given out again."""
    connection.execute(delete(artifact_aliases).where(artifact_aliases.c.membership_id == membership_id))
    connection.execute(delete(artifact_memberships).where(artifact_memberships.c.id == membership_id))


def by_id(connection: Connection, membership_id: int) -> AnyRow:
    """Return a membership that is known to be there."""
    return connection.execute(select(artifact_memberships).where(artifact_memberships.c.id == membership_id)).one()


def by_version(connection: Connection, collection_id: int, version: str) -> AnyRow | None:
    """Return the version of a collection that an alias or `vN` names."""
    statement = select(artifact_memberships).where(artifact_memberships.c.collection_id == collection_id)
    number = version_number(version)
    if number is not None:
        return connection.execute(statement.where(artifact_memberships.c.version_index == number)).first()
    named = artifact_aliases.c.membership_id == artifact_memberships.c.id
    return connection.execute(
        statement.join(artifact_aliases, named).where(artifact_aliases.c.alias == version)
    ).first()


def version_number(version: str) -> int | None:
    """Return N of `vN`; None for an alias."""
    digits = version[1:]
    return int(digits) if version.startswith("v") and digits.isdecimal() and len(digits) < 10 else None


def of_artifact(connection: Connection, artifact_id: int) -> list[AnyRow]:
    """Return where an artifact is a version, its own collection first."""
    return list(
        connection.execute(
            select(artifact_memberships)
            .join(artifact_collections, artifact_collections.c.id == artifact_memberships.c.collection_id)
            .where(artifact_memberships.c.artifact_id == artifact_id, artifact_collections.c.deleted_at.is_(None))
            .order_by(artifact_memberships.c.id)
        )
    )


def places(connection: Connection, artifact_id: int) -> list[AnyRow]:
    """Return where an artifact is a version: each collection's `project_id` and `entity_name`."""
    return list(
        connection.execute(
            select(artifact_collections.c.project_id, entities.c.name.label("entity_name"))
            .join(artifact_memberships, artifact_memberships.c.collection_id == artifact_collections.c.id)
            .join(projects, projects.c.id == artifact_collections.c.project_id)
            .join(entities, entities.c.id == projects.c.entity_id)
            .where(artifact_memberships.c.artifact_id == artifact_id, artifact_collections.c.deleted_at.is_(None))
        )
    )


def described(connection: Connection, membership_id: int) -> AnyRow:
    """Return a version in a collection with the names of all that it is in, and its metadata."""
    statement = (
        select(
            artifact_memberships,
            artifact_collections.c.name.label("collection_name"),
            projects.c.name.label("project_name"),
            entities.c.name.label("entity_name"),
            artifacts.c.metadata,
        )
        .join(artifact_collections, artifact_collections.c.id == artifact_memberships.c.collection_id)
        .join(projects, projects.c.id == artifact_collections.c.project_id)
        .join(entities, entities.c.id == projects.c.entity_id)
        .join(artifacts, artifacts.c.id == artifact_memberships.c.artifact_id)
    )
    return connection.execute(statement.where(artifact_memberships.c.id == membership_id)).one()


def is_such(connection: Connection, membership_id: int, condition: ColumnElement[bool]) -> bool:
    """Whether a condition of versions in collections holds for one."""
    statement = select(artifact_memberships.c.id).join(artifacts, artifacts.c.id == artifact_memberships.c.artifact_id)
    return connection.scalar(statement.where(artifact_memberships.c.id == membership_id, condition)) is not None


def in_collection(connection: Connection, artifact_id: int, collection_id: int) -> AnyRow | None:
    """Return an artifact's membership of one collection."""
    return connection.execute(
        select(artifact_memberships).where(
            artifact_memberships.c.artifact_id == artifact_id, artifact_memberships.c.collection_id == collection_id
        )
    ).first()


def aliases_of_artifacts(connection: Connection, artifact_ids: Sequence[int]) -> Mapping[int, list[AnyRow]]:
    """Return the aliases of versions across all collections, in one query; each with its collection and project."""
    statement = _ALIASES.where(artifact_memberships.c.artifact_id.in_(artifact_ids)).order_by(artifact_aliases.c.id)
    found: dict[int, list[AnyRow]] = {artifact_id: [] for artifact_id in artifact_ids}
    for row in connection.execute(statement):
        found[row.artifact_id].append(row)
    return found


def aliases_in_collection(connection: Connection, collection_id: int, after: int, limit: int) -> list[AnyRow]:
    """Return a page of a collection's aliases."""
    statement = select(artifact_aliases).where(
        artifact_aliases.c.collection_id == collection_id, artifact_aliases.c.id > after
    )
    return list(connection.execute(statement.order_by(artifact_aliases.c.id).limit(limit)))


def set_alias(connection: Connection, collection_id: int, membership_id: int, alias: str) -> bool:
    """Point an alias at a version, taking it from whichever had it; whether the version did not have it."""
    the_alias = (artifact_aliases.c.collection_id == collection_id, artifact_aliases.c.alias == alias)
    holder = connection.scalar(select(artifact_aliases.c.membership_id).where(*the_alias))
    if holder is None:
        connection.execute(
            insert(artifact_aliases).values(collection_id=collection_id, membership_id=membership_id, alias=alias)
        )
    elif holder != membership_id:
        connection.execute(update(artifact_aliases).where(*the_alias).values(membership_id=membership_id))
    return holder != membership_id


def remove_alias(connection: Connection, membership_id: int, alias: str) -> None:
    """Take an alias from a version; no effect if another one has it by now."""
    connection.execute(
        delete(artifact_aliases).where(
            artifact_aliases.c.membership_id == membership_id, artifact_aliases.c.alias == alias
        )
    )


def point_latest(connection: Connection, collection_id: int) -> None:
    """Let `latest` mean a collection's newest committed version, if it means none."""
    if by_version(connection, collection_id, LATEST) is not None:
        return
    newest = connection.execute(
        select(artifact_memberships.c.id)
        .join(artifacts, artifacts.c.id == artifact_memberships.c.artifact_id)
        .where(artifact_memberships.c.collection_id == collection_id, artifacts.c.state == "COMMITTED")
        .order_by(artifact_memberships.c.version_index.desc())
    ).first()
    if newest is not None:
        set_alias(connection, collection_id, newest.id, LATEST)


def remove_aliases(connection: Connection, artifact_ids: Select[tuple[int]]) -> None:
    """Take all aliases from versions, in every collection."""
    of_versions = select(artifact_memberships.c.id).where(artifact_memberships.c.artifact_id.in_(artifact_ids))
    connection.execute(delete(artifact_aliases).where(artifact_aliases.c.membership_id.in_(of_versions)))


def collections_with(connection: Connection, artifact_ids: Select[tuple[int]]) -> Sequence[int]:
    """Return the collections that have any of these versions."""
    statement = select(artifact_memberships.c.collection_id).distinct()
    return connection.scalars(statement.where(artifact_memberships.c.artifact_id.in_(artifact_ids))).all()


def empty(connection: Connection, collection_id: int) -> None:
    """Take all aliases of a collection that is being deleted."""
    connection.execute(delete(artifact_aliases).where(artifact_aliases.c.collection_id == collection_id))


_ALIASES: Select[tuple[object, ...]] = (
    select(
        artifact_aliases,
        artifact_memberships.c.artifact_id,
        artifact_collections.c.name.label("collection_name"),
        artifact_collections.c.kind.label("collection_kind"),
        artifact_collections.c.project_id,
        projects.c.name.label("project_name"),
        projects.c.entity_id,
        entities.c.name.label("entity_name"),
    )
    .join(artifact_memberships, artifact_memberships.c.id == artifact_aliases.c.membership_id)
    .join(artifact_collections, artifact_collections.c.id == artifact_memberships.c.collection_id)
    .join(projects, projects.c.id == artifact_collections.c.project_id)
    .join(entities, entities.c.id == projects.c.entity_id)
)
