"""Tags of artifact versions and of collections: words that many may share, unlike aliases."""

from collections.abc import Mapping, Sequence

from sqlalchemy import Column, Connection, delete, select

from server.storage.tables import artifact_collection_tags, artifact_tags
from server.storage.upsert import upsert


def of_artifacts(connection: Connection, artifact_ids: Sequence[int]) -> Mapping[int, list[str]]:
    """Return the tags of versions in one query, by name."""
    return _of(connection, artifact_tags.c.artifact_id, artifact_tags.c.name, artifact_ids)


def of_collections(connection: Connection, collection_ids: Sequence[int]) -> Mapping[int, list[str]]:
    """Return the tags of collections in one query, by name."""
    tags = artifact_collection_tags.c
    return _of(connection, tags.collection_id, tags.name, collection_ids)


def _of(connection: Connection, owner: Column[int], name: Column[str], ids: Sequence[int]) -> Mapping[int, list[str]]:
    found: dict[int, list[str]] = {each: [] for each in ids}
    for row in connection.execute(select(owner.label("owner"), name).where(owner.in_(ids)).order_by(name)):
        found[row.owner].append(row.name)
    return found


def add_to_artifact(connection: Connection, artifact_id: int, names: Sequence[str]) -> list[str]:
    """Tag a version; returns the tags that it did not have."""
    had = of_artifacts(connection, [artifact_id])[artifact_id] if names else []
    upsert(connection, artifact_tags, [{"artifact_id": artifact_id, "name": name} for name in names], update=())
    return [name for name in names if name not in had]


def add_to_collection(connection: Connection, collection_id: int, names: Sequence[str]) -> list[str]:
    """Tag a collection; returns the tags that it did not have."""
    had = of_collections(connection, [collection_id])[collection_id]
    rows = [{"collection_id": collection_id, "name": name} for name in names]
    upsert(connection, artifact_collection_tags, rows, update=())
    return [name for name in names if name not in had]


def remove_from_artifact(connection: Connection, artifact_id: int, names: Sequence[str]) -> list[str]:
    """Take tags from a version; returns those that it had."""
    tags = artifact_tags.c
    had = of_artifacts(connection, [artifact_id])[artifact_id] if names else []
    connection.execute(delete(artifact_tags).where(tags.artifact_id == artifact_id, tags.name.in_(names)))
    return [name for name in names if name in had]


def remove_from_collection(connection: Connection, collection_id: int, names: Sequence[str]) -> list[str]:
    """Take tags from a collection; returns those that it had."""
    tags = artifact_collection_tags.c
    had = of_collections(connection, [collection_id])[collection_id]
    connection.execute(
        delete(artifact_collection_tags).where(tags.collection_id == collection_id, tags.name.in_(names))
    )
    return [name for name in names if name in had]
