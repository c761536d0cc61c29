"""Rows of artifacts as the SDL shapes them, with the type names that clients check."""

import base64
import hashlib
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection

from server import ids
from server.context import Context, Viewer
from server.errors import Forbidden, Gone, NotFound
from server.registry_roles import Role
from server.resolvers.projects import node as project_node
from server.resolvers.projects import node_beside
from server.storage import artifacts, collections, memberships, projects, tags
from server.storage.rows import AnyRow
from server.times import iso

TTL_INHERITED = -1


def nodes(connection: Connection, rows: Sequence[AnyRow]) -> list[dict[str, Any]]:
    """Shape versions, with their aliases from one query, and their tags from another."""
    artifact_ids = [row.id for row in rows]
    aliases = memberships.aliases_of_artifacts(connection, artifact_ids)
    tagged = tags.of_artifacts(connection, artifact_ids)
    return [_node(row, aliases[row.id], tagged[row.id]) for row in rows]


def node(connection: Connection, artifact_id: int) -> dict[str, Any]:
    """Shape the version of a row number that is known to be there, as it is now."""
    row = artifacts.by_id(connection, artifact_id)
    assert row is not None
    return nodes(connection, [row])[0]


def visible(connection: Connection, context: Context, wire_id: str) -> AnyRow:
    """Return a version that the viewer may see, be it where it was logged or where it is linked to."""
    row = artifacts.by_id(connection, ids.decode("Artifact", wire_id))
    if row is None or not _has_role(connection, context.viewer, row, Role.RESTRICTED_VIEWER):
        raise NotFound("There is no such artifact.")
    return row


def _has_role(connection: Connection, viewer: Viewer, row: AnyRow, role: Role) -> bool:
    """Whether the viewer has a role wherever a version is."""
    if viewer.may_use(row.entity_name):
        return True
    places = memberships.places(connection, row.id)
    return any(viewer.has_role(role, place.entity_name, place.project_id) for place in places)


def alive(connection: Connection, context: Context, wire_id: str) -> AnyRow:
    """Return a version that the viewer may see; `NotFound` if there is none, `Gone` if it was deleted."""
    row = visible(connection, context, wire_id)
    if row.state == "DELETED":
        number = "A version" if row.version_index is None else f"Version v{row.version_index}"
        raise Gone(f"{number} of artifact {row.sequence_name!r} was deleted. Log it again.")
    return row


def usable(connection: Connection, context: Context, wire_id: str) -> AnyRow:
    """Return a version, not deleted, that the viewer may see and whose files he may read; `Forbidden` if not these."""
    row = alive(connection, context, wire_id)
    if not _has_role(connection, context.viewer, row, Role.VIEWER):
        raise Forbidden(f"Reading artifact {row.sequence_name!r} needs the role {Role.VIEWER} in a registry.")
    return row


def changeable(connection: Connection, context: Context, wire_id: str) -> AnyRow:
    """Return a version that is not deleted, and that the viewer may change: where it was logged, that is."""
    row = usable(connection, context, wire_id)
    context.viewer.must_use(row.entity_name)
    return row


def collection(
    connection: Connection, context: Context, wire_id: str, role: Role = Role.MEMBER
) -> tuple[AnyRow, dict[str, Any]]:
    """Return a collection and its project's node.

    `NotFound` if there is none that the viewer may see, `Forbidden` if what is asked for needs a higher role.
    """
    kind = collections.PORTFOLIO if ids.is_of(collections.PORTFOLIO, wire_id) else collections.SEQUENCE
    row = collections.by_kind(connection, kind, ids.decode(kind, wire_id))
    project = projects.by_id(connection, row.project_id) if row else None
    if (
        row is None
        or project is None
        or not context.viewer.has_role(Role.RESTRICTED_VIEWER, project.entity_name, project.id)
    ):
        raise NotFound("There is no such artifact collection.")
    context.viewer.must_have_role(role, project.entity_name, project.id, project.name)
    return row, project_node(project)


def _node(row: AnyRow, aliases: Sequence[AnyRow], tagged: Sequence[str]) -> dict[str, Any]:
    return {
        "__typename": "Artifact",
        "row_id": row.id,
        "created_by_run": row.created_by_run,
        "creator": _user(row.created_by, row.creator_name) if row.creator_name else None,
        "id": ids.encode("Artifact", row.id),
        "artifactType": type_node(row.type_id, row.type_name, row.type_created_at),
        "artifactSequence": _collection(row.sequence_id, row.sequence_kind, row.sequence_name, node_beside(row)),
        "versionIndex": row.version_index,
        "state": row.state,
        "digest": row.digest,
        "digestAlgorithm": "MANIFEST_MD5",
        "description": row.description,
        "metadata": row.metadata,
        "size": row.size_bytes,
        "fileCount": row.file_count,
        "historyStep": row.history_step,
        "commitHash": None if row.state == "PENDING" else _commit_hash(row),
        "ttlDurationSeconds": TTL_INHERITED if row.ttl_seconds is None else row.ttl_seconds,
        "ttlIsInherited": row.ttl_seconds is None,
        "tags": [tag_node(name) for name in tagged],
        "aliases": [_alias(alias) for alias in aliases],
        "createdAt": iso(row.created_at),
        "updatedAt": iso(row.updated_at),
    }


def _commit_hash(row: AnyRow) -> str:
    """Return what stands for this version alone: others may hold the same, and then have the same digest."""
    return hashlib.sha256(f"{row.id}:{row.digest}".encode()).hexdigest()[:20]


def _user(user_id: int, name: str) -> dict[str, Any]:
    return {"__typename": "User", "id": ids.encode("User", user_id), "name": name, "username": name}


def type_node(
    row_id: int, name: str, created_at: float, project: dict[str, Any] | None = None, description: str | None = None
) -> dict[str, Any]:
    """Shape a type; its collections can be read if the project is given."""
    return {
        "__typename": "ArtifactType",
        "row_id": row_id,
        "project": project,
        "id": ids.encode("ArtifactType", row_id),
        "name": name,
        "description": description,
        "createdAt": iso(created_at),
    }


def collection_node(row: AnyRow, project: dict[str, Any]) -> dict[str, Any]:
    """Shape a collection's row."""
    return {
        **_collection(row.id, row.kind, row.name, project),
        "description": row.description,
        "state": "READY",
        "createdAt": iso(row.created_at),
        "updatedAt": iso(row.updated_at),
        "defaultArtifactType": type_node(row.type_id, row.type_name, row.type_created_at),
    }


def membership_node(row: AnyRow, collection: dict[str, Any], artifact: dict[str, Any]) -> dict[str, Any]:
    """Shape a version in a collection, with the aliases that it has there."""
    own = [alias for alias in artifact["aliases"] if alias["artifactCollection"]["row_id"] == collection["row_id"]]
    return {
        "__typename": "ArtifactCollectionMembership",
        "row_id": row.id,
        "id": ids.encode("ArtifactCollectionMembership", row.id),
        "versionIndex": row.version_index,
        "createdAt": iso(row.created_at),
        "aliases": own,
        "artifactCollection": collection,
        "artifact": artifact,
    }


def linked_node(artifact: dict[str, Any], collection: dict[str, Any], version_index: int) -> dict[str, Any]:
    """Shape a version that is listed in a collection into which it is linked.

    Its own `versionIndex` is that of its source. Clients take the one that it has here from an alias of this form, and
    ask for its files by that.
    """
    alias = f"v{version_index}"
    wire_id = base64.b64encode(f"ArtifactAlias:{collection['id']}:{alias}".encode()).decode()
    here = {"__typename": "ArtifactAlias", "id": wire_id, "alias": alias, "artifactCollection": collection}
    return {**artifact, "aliases": [*artifact["aliases"], here]}


def tag_node(name: str) -> dict[str, Any]:
    """Shape a tag. It is nothing but its name."""
    return {"__typename": "Tag", "id": base64.b64encode(f"Tag:{name}".encode()).decode(), "name": name}


def alias_node(row: AnyRow) -> dict[str, Any]:
    """Shape an alias without its collection."""
    return {"__typename": "ArtifactAlias", "id": ids.encode("ArtifactAlias", row.id), "alias": row.alias}


def _alias(row: AnyRow) -> dict[str, Any]:
    collection = _collection(row.collection_id, row.collection_kind, row.collection_name, node_beside(row))
    return {**alias_node(row), "artifactCollection": collection}


def _collection(row_id: int, kind: str, name: str, project: dict[str, Any]) -> dict[str, Any]:
    return {"__typename": kind, "row_id": row_id, "id": ids.encode(kind, row_id), "name": name, "project": project}
