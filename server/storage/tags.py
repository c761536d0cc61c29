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


def add_to_artifact(connection: Connection, artifact_id: int, names: Sequence[str]) -> None:
    """Tag a version; tags that it has already stay."""
    upsert(connection, artifact_tags, [{"artifact_id": artifact_id, "name": name} for name in names], update=())


def add_to_collection(connection: Connection, collection_id: int, names: Sequence[str]) -> None:
    """Tag a collection; tags that it has already stay."""
    rows = [{"collection_id": collection_id, "name": name} for name in names]
    upsert(connection, artifact_collection_tags, rows, update=())


def remove_from_artifact(connection: Connection, artifact_id: int, names: Sequence[str]) -> None:
    """Take tags from a version."""
    tags = artifact_tags.c
    connection.execute(delete(artifact_tags).where(tags.artifact_id == artifact_id, tags.name.in_(names)))


def remove_from_collection(connection: Connection, collection_id: int, names: Sequence[str]) -> None:
    """Take tags from a collection."""
    tags = artifact_collection_tags.c
    connection.execute(
        delete(artifact_collection_tags).where(tags.collection_id == collection_id, tags.name.in_(names))
    )
