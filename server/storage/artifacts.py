"""Artifact versions: made as pending, made final by a commit, deleted. They hold no bytes; see `artifact_contents`."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, exists, func, insert, select, update

from server import json_text
from server.storage import memberships
from server.storage.rows import AnyRow
from server.storage.tables import (
    artifact_client_ids,
    artifact_collections,
    artifact_memberships,
    artifact_types,
    artifacts,
    entities,
    projects,
    users,
)
from server.storage.upsert import upsert

FULL: Select[Any] = (
    select(
        artifacts,
        artifact_collections.c.name.label("sequence_name"),
        artifact_collections.c.kind.label("sequence_kind"),
        artifact_collections.c.project_id,
        artifact_types.c.id.label("type_id"),
        artifact_types.c.name.label("type_name"),
        artifact_types.c.created_at.label("type_created_at"),
        projects.c.name.label("project_name"),
        projects.c.entity_id,
        entities.c.name.label("entity_name"),
        users.c.username.label("creator_name"),
        artifact_memberships.c.version_index,
        artifact_memberships.c.id.label("membership_id"),
    )
    .join(artifact_collections, artifact_collections.c.id == artifacts.c.sequence_id)
    .join(artifact_types, artifact_types.c.id == artifact_collections.c.type_id)
    .join(projects, projects.c.id == artifact_collections.c.project_id)
    .join(entities, entities.c.id == projects.c.entity_id)
    .outerjoin(users, users.c.id == artifacts.c.created_by)
    .outerjoin(
        artifact_memberships,
        (artifact_memberships.c.artifact_id == artifacts.c.id)
        & (artifact_memberships.c.collection_id == artifacts.c.sequence_id),
    )
)
"""A version with the collection that it was logged to, and where that is. Pending ones have no `version_index`."""

_listed = artifact_memberships.alias("listed")
_LISTED: Select[Any] = FULL.add_columns(
    _listed.c.collection_id.label("listed_in"), _listed.c.version_index.label("listed_index")
).join(_listed, _listed.c.artifact_id == artifacts.c.id)
"""A version as one of a collection, be that its own or one that it is linked to, with its number there."""


def by_id(connection: Connection, artifact_id: int) -> AnyRow | None:
    """Return a version with its collection, type, project and entity."""
    return connection.execute(FULL.where(artifacts.c.id == artifact_id)).first()


def by_ids(connection: Connection, artifact_ids: Sequence[int]) -> list[AnyRow]:
    """Return versions with their collections, in whatever order."""
    return list(connection.execute(FULL.where(artifacts.c.id.in_(artifact_ids))))


def by_client_id(connection: Connection, client_id: str) -> AnyRow | None:
    """Return the version that a client knows under that id of its own."""
    return connection.execute(
        FULL.join(artifact_client_ids, artifact_client_ids.c.artifact_id == artifacts.c.id).where(
            artifact_client_ids.c.client_id == client_id
        )
    ).first()


def remember_client_id(
    connection: Connection, artifact_id: int, client_id: str, sequence_client_id: str | None
) -> None:
    """Note under which id a client knows a version. Logged tables refer to it, so it is kept for ever."""
    row = {"client_id": client_id, "artifact_id": artifact_id, "sequence_client_id": sequence_client_id}
    upsert(connection, artifact_client_ids, [row], update=("artifact_id", "sequence_client_id"))


def by_digest(connection: Connection, sequence_id: int, digest: str) -> AnyRow | None:
    """Return a collection's committed version with that digest, the newest."""
    return connection.execute(
        FULL.where(
            artifacts.c.sequence_id == sequence_id, artifacts.c.digest == digest, artifacts.c.state == "COMMITTED"
        ).order_by(artifacts.c.id.desc())
    ).first()


def pending_of(connection: Connection, sequence_id: int, distributed_id: str) -> AnyRow | None:
    """Return the version that is being made under this id by several, the newest."""
    return connection.execute(
        FULL.where(
            artifacts.c.sequence_id == sequence_id,
            artifacts.c.distributed_id == distributed_id,
            artifacts.c.state == "PENDING",
        ).order_by(artifacts.c.id.desc())
    ).first()


def latest(connection: Connection, collection_id: int) -> AnyRow | None:
    """Return a collection's newest committed version."""
    found = in_collection(connection, collection_id, newest_first=True, after=None, limit=1)
    return found[0] if found else None


def in_collection(
    connection: Connection, collection_id: int, *, newest_first: bool, after: int | None, limit: int
) -> list[AnyRow]:
    """Return a page of a collection's committed versions with their `listed_index`, from behind index `after` on."""
    index = _listed.c.version_index
    statement = _LISTED.where(_committed_in([collection_id])).order_by(index.desc() if newest_first else index)
    if after is not None:
        statement = statement.where(index < after if newest_first else index > after)
    return list(connection.execute(statement.limit(limit)))


def in_collections(connection: Connection, collection_ids: Sequence[int]) -> Mapping[int, list[AnyRow]]:
    """Return all committed versions of several collections in one query, the newest first."""
    found: dict[int, list[AnyRow]] = {collection_id: [] for collection_id in collection_ids}
    statement = _LISTED.where(_committed_in(collection_ids)).order_by(_listed.c.version_index.desc())
    for row in connection.execute(statement):
        found[row.listed_in].append(row)
    return found


def count_in_collection(connection: Connection, collection_id: int) -> int:
    """Return how many committed versions a collection has."""
    versions = select(func.count()).select_from(_listed).join(artifacts, artifacts.c.id == _listed.c.artifact_id)
    return connection.scalar(versions.where(_committed_in([collection_id]))) or 0


def any_in_collection(connection: Connection, sequence_id: int) -> bool:
    """Whether a collection has versions, or has ever had one that was final, or waits for one."""
    waiting = select(artifacts.c.id).where(artifacts.c.sequence_id == sequence_id, artifacts.c.state == "PENDING")
    numbered = select(artifact_memberships.c.id).where(artifact_memberships.c.collection_id == sequence_id)
    return connection.scalar(select(waiting.exists() | numbered.exists())) or False


def _committed_in(collection_ids: Sequence[int]) -> ColumnElement[bool]:
    return _listed.c.collection_id.in_(collection_ids) & (artifacts.c.state == "COMMITTED")


def create(connection: Connection, sequence_id: int, digest: str, now: float, **values: Any) -> int:
    """Add a version that waits for its files."""
    row = {
        "state": "PENDING",
        "requested_aliases": "[]",
        "size_bytes": 0,
        "file_count": 0,
        "created_at": now,
        "updated_at": now,
    }
    statement = insert(artifacts).values(sequence_id=sequence_id, digest=digest, **row, **_stored(values))
    return connection.execute(statement).inserted_primary_key[0]  # type: ignore[index]


def request_aliases(connection: Connection, row: AnyRow, aliases: Sequence[str]) -> None:
    """Note aliases that a pending version is to have at its commit, beside those asked for before."""
    wanted = list(dict.fromkeys([*requested_aliases(row), *aliases]))
    connection.execute(update(artifacts).where(artifacts.c.id == row.id).values(requested_aliases=json.dumps(wanted)))


def requested_aliases(row: AnyRow) -> list[str]:
    """Return the aliases that a version is to have at its commit."""
    return json.loads(row.requested_aliases)


def change(connection: Connection, artifact_id: int, now: float, **values: Any) -> None:
    """Set columns of a version."""
    changes = {"updated_at": now, **_stored(values)}
    connection.execute(update(artifacts).where(artifacts.c.id == artifact_id).values(changes))


def _stored(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return columns with those that follow from them."""
    if "metadata" not in values:
        return dict(values)
    return {**values, "metadata_json": json_text.proper(values["metadata"])}


def go_on(connection: Connection, artifact_id: int, now: float) -> None:
    """Note that somebody goes on with the upload of a version, if it waits for that: it is not abandoned."""
    is_pending = (artifacts.c.id == artifact_id) & (artifacts.c.state == "PENDING")
    connection.execute(update(artifacts).where(is_pending).values(updated_at=now))


def commit(
    connection: Connection, artifact_id: int, *, digest: str, size_bytes: int, file_count: int, now: float
) -> bool:
    """Make a pending version final; returns whether this call did it."""
    done = connection.execute(
        update(artifacts)
        .where(artifacts.c.id == artifact_id, artifacts.c.state == "PENDING")
        .values(state="COMMITTED", digest=digest, size_bytes=size_bytes, file_count=file_count, updated_at=now)
    )
    return done.rowcount == 1


def delete(connection: Connection, artifact_id: int, now: float) -> None:
    """Mark a version as deleted, and take its aliases, wherever it is; `latest` goes to the newest that is left."""
    change(connection, artifact_id, now, state="DELETED")
    memberships.remove_aliases(connection, select(artifacts.c.id).where(artifacts.c.id == artifact_id))
    for place in memberships.of_artifact(connection, artifact_id):
        memberships.point_latest(connection, place.collection_id)


def expired(connection: Connection, now: float, limit: int) -> list[AnyRow]:
    """Return versions whose time to live is over, and that are linked nowhere: `id` and `sequence_id`."""
    is_linked = exists().where(
        _listed.c.artifact_id == artifacts.c.id,
        _listed.c.collection_id != artifacts.c.sequence_id,
        artifact_collections.c.id == _listed.c.collection_id,
        artifact_collections.c.deleted_at.is_(None),
    )
    is_over = (artifacts.c.ttl_seconds > 0) & (artifacts.c.created_at + artifacts.c.ttl_seconds <= now)
    statement = select(artifacts.c.id, artifacts.c.sequence_id).where(
        artifacts.c.state == "COMMITTED", is_over, ~is_linked
    )
    return list(connection.execute(statement.order_by(artifacts.c.id).limit(limit)))


def delete_of_collection(connection: Connection, sequence_id: int, now: float) -> None:
    """Mark all versions of a collection as deleted, pending ones too, and take their aliases, wherever they are."""
    mine = artifacts.c.sequence_id == sequence_id
    connection.execute(update(artifacts).where(mine).values(state="DELETED", updated_at=now))
    versions = select(artifacts.c.id).where(mine)
    memberships.remove_aliases(connection, versions)
    for collection_id in memberships.collections_with(connection, versions):
        memberships.point_latest(connection, collection_id)
