"""Artifact versions: their making, their contents, and which runs made and used them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, delete, func, insert, select, update

from server.artifact_manifest import Entry
from server.storage.rows import AnyRow
from server.storage.tables import (
    artifact_aliases,
    artifact_collections,
    artifact_contents,
    artifact_entries,
    artifact_manifests,
    artifact_memberships,
    artifact_types,
    artifacts,
    entities,
    projects,
    run_artifacts,
    runs,
)
from server.storage.upsert import upsert

_FULL: Select[Any] = (
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
        artifact_memberships.c.version_index,
        artifact_memberships.c.id.label("membership_id"),
    )
    .join(artifact_collections, artifact_collections.c.id == artifacts.c.sequence_id)
    .join(artifact_types, artifact_types.c.id == artifact_collections.c.type_id)
    .join(projects, projects.c.id == artifact_collections.c.project_id)
    .join(entities, entities.c.id == projects.c.entity_id)
    .outerjoin(
        artifact_memberships,
        (artifact_memberships.c.artifact_id == artifacts.c.id)
        & (artifact_memberships.c.collection_id == artifacts.c.sequence_id),
    )
)


@dataclass(frozen=True, slots=True)
class Alias:
    """An alias of a version in a collection."""

    id: int
    alias: str
    collection_id: int
    collection_name: str
    collection_kind: str


def by_id(connection: Connection, artifact_id: int) -> AnyRow | None:
    """Return a version with its collection, type, project and entity."""
    return connection.execute(_FULL.where(artifacts.c.id == artifact_id)).first()


def by_client_id(connection: Connection, client_id: str) -> AnyRow | None:
    """Return the version that a client has made under that id of its own, if it is not deleted."""
    return connection.execute(
        _FULL.where(
            artifacts.c.client_id == client_id,
            artifacts.c.state != "DELETED",
            artifact_collections.c.deleted_at.is_(None),
        )
    ).first()


def by_digest(connection: Connection, sequence_id: int, digest: str) -> AnyRow | None:
    """Return a collection's committed version with that digest, the newest."""
    return connection.execute(
        _FULL.where(
            artifacts.c.sequence_id == sequence_id,
            artifacts.c.digest == digest,
            artifacts.c.state == "COMMITTED",
            artifact_collections.c.deleted_at.is_(None),
        ).order_by(artifacts.c.id.desc())
    ).first()


def latest(connection: Connection, sequence_id: int) -> AnyRow | None:
    """Return a collection's newest committed version."""
    return connection.execute(
        _FULL.where(artifacts.c.sequence_id == sequence_id, artifacts.c.state == "COMMITTED")
        .order_by(artifact_memberships.c.version_index.desc())
        .limit(1)
    ).first()


def in_collection(
    connection: Connection, collection_id: int, *, descending: bool, offset: int, limit: int
) -> list[AnyRow]:
    """Return a collection's committed versions."""
    order = artifact_memberships.c.version_index
    return list(
        connection.execute(
            _FULL.where(artifact_memberships.c.collection_id == collection_id, artifacts.c.state == "COMMITTED")
            .order_by(order.desc() if descending else order)
            .offset(offset)
            .limit(limit)
        )
    )


def of_run(connection: Connection, run_id: int, role: str, after: int, limit: int) -> list[AnyRow]:
    """Return the versions that a run logged (output) or used (input)."""
    return list(
        connection.execute(
            _FULL.join(run_artifacts, run_artifacts.c.artifact_id == artifacts.c.id)
            .where(run_artifacts.c.run_id == run_id, run_artifacts.c.role == role, artifacts.c.state == "COMMITTED")
            .where(artifacts.c.id > after)
            .order_by(artifacts.c.id)
            .limit(limit)
        )
    )


def count_of_run(connection: Connection, run_id: int, role: str) -> int:
    """Return how many versions a run logged or used."""
    statement = (
        select(func.count())
        .select_from(run_artifacts)
        .join(artifacts, artifacts.c.id == run_artifacts.c.artifact_id)
        .where(run_artifacts.c.run_id == run_id, run_artifacts.c.role == role, artifacts.c.state == "COMMITTED")
    )
    return connection.scalar(statement) or 0


def aliases_of(connection: Connection, artifact_ids: Sequence[int]) -> Mapping[int, list[Alias]]:
    """Return the aliases of versions, in one query."""
    rows = connection.execute(
        select(
            artifact_memberships.c.artifact_id,
            artifact_aliases.c.id,
            artifact_aliases.c.alias,
            artifact_collections.c.id.label("collection_id"),
            artifact_collections.c.name,
            artifact_collections.c.kind,
        )
        .join(artifact_memberships, artifact_memberships.c.id == artifact_aliases.c.membership_id)
        .join(artifact_collections, artifact_collections.c.id == artifact_memberships.c.collection_id)
        .where(artifact_memberships.c.artifact_id.in_(artifact_ids))
        .order_by(artifact_aliases.c.id)
    )
    found: dict[int, list[Alias]] = {artifact_id: [] for artifact_id in artifact_ids}
    for row in rows:
        found[row.artifact_id].append(Alias(row.id, row.alias, row.collection_id, row.name, row.kind))
    return found


def create(connection: Connection, sequence_id: int, digest: str, now: float, **values: Any) -> int:
    """Add a version that waits for its files."""
    row = {"state": "PENDING", "size_bytes": 0, "file_count": 0, "created_at": now, "updated_at": now}
    statement = insert(artifacts).values(sequence_id=sequence_id, digest=digest, **row, **values)
    return connection.execute(statement).inserted_primary_key[0]  # type: ignore[index]


def change(connection: Connection, artifact_id: int, now: float, **values: Any) -> None:
    """Set columns of a version."""
    connection.execute(update(artifacts).where(artifacts.c.id == artifact_id).values(updated_at=now, **values))


def record_use(
    connection: Connection, run_id: int, artifact_id: int, role: str, now: float, used_as: str | None = None
) -> None:
    """Note that a run logged or used a version."""
    row = {"run_id": run_id, "artifact_id": artifact_id, "role": role, "used_as": used_as, "created_at": now}
    upsert(connection, run_artifacts, [row], update=())


def users_of(connection: Connection, artifact_id: int) -> list[int]:
    """Return the runs that used a version."""
    return list(
        connection.scalars(
            select(run_artifacts.c.run_id)
            .join(runs, runs.c.id == run_artifacts.c.run_id)
            .where(
                run_artifacts.c.artifact_id == artifact_id,
                run_artifacts.c.role == "input",
                runs.c.deleted_at.is_(None),
            )
        )
    )


def add_manifest(connection: Connection, artifact_id: int, object_key: str, now: float, **values: Any) -> int:
    """Announce a manifest."""
    statement = insert(artifact_manifests).values(
        artifact_id=artifact_id, object_key=object_key, created_at=now, **values
    )
    return connection.execute(statement).inserted_primary_key[0]  # type: ignore[index]


def manifest(connection: Connection, artifact_id: int) -> AnyRow | None:
    """Return a version's manifest: the last one that was announced with a digest."""
    return connection.execute(
        select(artifact_manifests)
        .where(artifact_manifests.c.artifact_id == artifact_id, artifact_manifests.c.digest != "")
        .order_by(artifact_manifests.c.id.desc())
        .limit(1)
    ).first()


def known_contents(connection: Connection, entity_id: int, digests: Sequence[str]) -> Mapping[str, AnyRow]:
    """Return which of these contents an entity has, or has announced."""
    found: dict[str, AnyRow] = {}
    for start in range(0, len(digests), 500):  # below every engine's limit of parameters
        part = digests[start : start + 500]
        rows = connection.execute(
            select(artifact_contents).where(
                artifact_contents.c.entity_id == entity_id, artifact_contents.c.digest.in_(part)
            )
        )
        found.update({row.digest: row for row in rows})
    return found


def announce_contents(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Note contents that are going to be uploaded."""
    upsert(connection, artifact_contents, rows, update=())


def commit(connection: Connection, artifact_id: int, entries: Sequence[Entry], now: float) -> None:
    """Store a version's entries and make it final."""
    connection.execute(delete(artifact_entries).where(artifact_entries.c.artifact_id == artifact_id))
    rows = [
        {
            "artifact_id": artifact_id,
            "path": entry.path,
            "digest": entry.digest,
            "size_bytes": entry.size_bytes,
            "ref": entry.ref,
        }
        for entry in entries
    ]
    if rows:
        connection.execute(insert(artifact_entries), rows)
    size = sum(entry.size_bytes for entry in entries)
    change(connection, artifact_id, now, state="COMMITTED", size_bytes=size, file_count=len(entries))


def entries(
    connection: Connection, artifact_id: int, names: Sequence[str] | None, after_path: str, limit: int
) -> list[AnyRow]:
    """Return a page of a version's entries by path, each with the key of its content."""
    statement = (
        select(artifact_entries, artifact_contents.c.object_key)
        .join(artifacts, artifacts.c.id == artifact_entries.c.artifact_id)
        .join(artifact_collections, artifact_collections.c.id == artifacts.c.sequence_id)
        .join(projects, projects.c.id == artifact_collections.c.project_id)
        .outerjoin(
            artifact_contents,
            (artifact_contents.c.entity_id == projects.c.entity_id)
            & (artifact_contents.c.digest == artifact_entries.c.digest),
        )
        .where(artifact_entries.c.artifact_id == artifact_id, artifact_entries.c.path > after_path)
    )
    if names is not None:
        statement = statement.where(artifact_entries.c.path.in_(names))
    return list(connection.execute(statement.order_by(artifact_entries.c.path).limit(limit)))


def remove(connection: Connection, artifact_id: int, now: float) -> None:
    """Mark a version as deleted and take its aliases away."""
    memberships = select(artifact_memberships.c.id).where(artifact_memberships.c.artifact_id == artifact_id)
    connection.execute(delete(artifact_aliases).where(artifact_aliases.c.membership_id.in_(memberships)))
    change(connection, artifact_id, now, state="DELETED")
