"""What artifact versions consist of: manifests, their entries, and the contents that entries name by digest.

Contents are shared inside one entity, and only there: that a content is known would tell a stranger that it exists.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, func, insert, select, true, update

from server.artifact_manifest import Entry
from server.storage import discarded_objects
from server.storage.rows import AnyRow
from server.storage.tables import (
    artifact_collections,
    artifact_contents,
    artifact_entries,
    artifact_manifests,
    artifacts,
    projects,
)
from server.storage.upsert import upsert

DIGESTS_PER_QUERY = 500
"""Below every engine's limit of parameters."""


FULL = "FULL"
"""The kind of a manifest that names all files. One of several parts is a PATCH."""
INCREMENTAL = "INCREMENTAL"
"""The kind of a manifest that names what is added to a base."""


def announce_manifest(
    connection: Connection, artifact_id: int, name: str, digest: str, *, object_key: str, now: float
) -> AnyRow:
    """Return a version's full manifest of that name and digest, made now if nobody has announced it yet."""
    same = (
        artifact_manifests.c.artifact_id == artifact_id,
        artifact_manifests.c.name == name,
        artifact_manifests.c.digest == digest,
        artifact_manifests.c.kind == FULL,
    )
    known = connection.execute(select(artifact_manifests).where(*same)).first()
    if known is not None:
        return known
    return add_manifest(connection, artifact_id, name, digest, FULL, object_key=object_key, now=now)


def add_manifest(
    connection: Connection,
    artifact_id: int,
    name: str,
    digest: str,
    kind: str,
    *,
    object_key: str,
    now: float,
    base_artifact_id: int | None = None,
) -> AnyRow:
    """Return a new manifest of a version. Each of those who make a version together has one of his own."""
    row = {
        "artifact_id": artifact_id,
        "name": name,
        "digest": digest,
        "kind": kind,
        "object_key": object_key,
        "created_at": now,
        "base_artifact_id": base_artifact_id,
    }
    made = connection.execute(insert(artifact_manifests).values(row))
    return _manifest(connection, made.inserted_primary_key[0])  # type: ignore[index]


def manifest_by_id(connection: Connection, manifest_id: int) -> AnyRow | None:
    """Return a manifest."""
    return connection.execute(select(artifact_manifests).where(artifact_manifests.c.id == manifest_id)).first()


def set_manifest_digest(connection: Connection, manifest_id: int, digest: str, base_artifact_id: int | None) -> AnyRow:
    """Note the digest of a manifest that was announced without one, and what it is added to."""
    values = {"digest": digest} | ({} if base_artifact_id is None else {"base_artifact_id": base_artifact_id})
    connection.execute(update(artifact_manifests).where(artifact_manifests.c.id == manifest_id).values(values))
    return _manifest(connection, manifest_id)


def _manifest(connection: Connection, manifest_id: int) -> AnyRow:
    return connection.execute(select(artifact_manifests).where(artifact_manifests.c.id == manifest_id)).one()


def manifests(connection: Connection, artifact_id: int) -> list[AnyRow]:
    """Return a version's manifests whose digest is known, the oldest first."""
    return list(
        connection.execute(
            select(artifact_manifests)
            .where(artifact_manifests.c.artifact_id == artifact_id, artifact_manifests.c.digest != "")
            .order_by(artifact_manifests.c.id)
        )
    )


def manifest(connection: Connection, artifact_id: int) -> AnyRow | None:
    """Return a version's manifest: the last one announced with a digest, and after the commit the only one."""
    found = manifests(connection, artifact_id)
    return found[-1] if found else None


def known(connection: Connection, entity_id: int, digests: Sequence[str]) -> Mapping[str, AnyRow]:
    """Return which of these contents an entity has or has announced; the latter have no size yet."""
    found: dict[str, AnyRow] = {}
    for start in range(0, len(digests), DIGESTS_PER_QUERY):
        part = digests[start : start + DIGESTS_PER_QUERY]
        rows = connection.execute(
            select(artifact_contents).where(
                artifact_contents.c.entity_id == entity_id, artifact_contents.c.digest.in_(part)
            )
        )
        found.update({row.digest: row for row in rows})
    return found


def by_key(connection: Connection, entity_id: int, object_key: str) -> AnyRow | None:
    """Return an entity's content by where it is stored."""
    mine = (artifact_contents.c.entity_id == entity_id) & (artifact_contents.c.object_key == object_key)
    return connection.execute(select(artifact_contents).where(mine)).first()


def announce(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Note contents that are going to be uploaded; those known already stay as they are."""
    upsert(connection, artifact_contents, rows, update=())


def want(connection: Connection, contents: Iterable[AnyRow]) -> None:
    """Note of contents that an upload or a commit counts on them: none of them is unused. See `garbage`."""
    for content in contents:
        if content.unused_since is not None:
            same = (artifact_contents.c.entity_id == content.entity_id) & (artifact_contents.c.digest == content.digest)
            connection.execute(update(artifact_contents).where(same).values(unused_since=None))


def store(connection: Connection, artifact_id: int, manifest_id: int, entries: Sequence[Entry], now: float) -> None:
    """Store a version's entries, and discard its manifests but the one that they were read from."""
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
    others = (artifact_manifests.c.artifact_id == artifact_id) & (artifact_manifests.c.id != manifest_id)
    keys = connection.scalars(select(artifact_manifests.c.object_key).where(others)).all()
    discarded_objects.add(connection, dict.fromkeys(keys), now)
    connection.execute(delete(artifact_manifests).where(others))


def entries(
    connection: Connection, artifact_id: int, names: Sequence[str] | None, after_path: str, limit: int
) -> list[AnyRow]:
    """Return a page of a version's entries by path; `object_key` is null for references."""
    statement = (
        select(artifact_entries, artifact_contents.c.object_key)
        .join(artifacts, artifacts.c.id == artifact_entries.c.artifact_id)
        .join(artifact_collections, artifact_collections.c.id == artifacts.c.sequence_id)
        .join(projects, projects.c.id == artifact_collections.c.project_id)
        .outerjoin(
            artifact_contents,
            (artifact_contents.c.entity_id == projects.c.entity_id)
            & (artifact_contents.c.digest == artifact_entries.c.digest)
            & artifact_entries.c.ref.is_(None),
        )
        .where(_named(artifact_id, names), artifact_entries.c.path > after_path)
    )
    return list(connection.execute(statement.order_by(artifact_entries.c.path).limit(limit)))


def count_entries(connection: Connection, artifact_id: int, names: Sequence[str] | None) -> int:
    """Return how many entries a version has, of these names or of any."""
    return connection.scalar(select(func.count()).select_from(artifact_entries).where(_named(artifact_id, names))) or 0


def _named(artifact_id: int, names: Sequence[str] | None) -> ColumnElement[bool]:
    named = artifact_entries.c.path.in_(names) if names is not None else true()
    return (artifact_entries.c.artifact_id == artifact_id) & named
