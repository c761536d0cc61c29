"""Artifacts as they are read: by id, by name, by run, by collection; their files and their lineage."""

import base64
import json
import mimetypes
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection

from protocol.json_types import JsonObject
from server import ids
from server.context import Context
from server.errors import Gone, NotFound, RequestError
from server.graphql import Info, Resolvers
from server.resolvers import projects as project_resolvers
from server.resolvers import runs as run_resolvers
from server.resolvers.paging import MAX_PAGE, Page, connection_of
from server.storage import artifacts, collections, projects, runs
from server.storage.artifacts import Alias
from server.storage.rows import AnyRow
from server.times import iso

resolvers = Resolvers()

TTL_INHERITED = -1
FILES_PER_PAGE = 50


# --- shapes -----------------------------------------------------------------------------------------------------------


def node(row: AnyRow, aliases: Sequence[Alias]) -> dict[str, Any]:
    """Shape a version's row for the SDL."""
    project = _project(row)
    return {
        "__typename": "Artifact",
        "row": row,
        "row_id": row.id,
        "id": ids.encode("Artifact", row.id),
        "artifactType": _type(row.type_id, row.type_name, row.type_created_at),
        "artifactSequence": _collection(row.sequence_id, row.sequence_kind, row.sequence_name, project),
        "versionIndex": row.version_index,
        "state": row.state,
        "digest": row.digest,
        "digestAlgorithm": "MANIFEST_MD5",
        "description": row.description,
        "metadata": row.metadata,
        "size": row.size_bytes,
        "fileCount": row.file_count,
        "historyStep": row.history_step,
        "ttlDurationSeconds": TTL_INHERITED if row.ttl_seconds is None else row.ttl_seconds,
        "ttlIsInherited": row.ttl_seconds is None,
        "tags": [],
        "aliases": [_alias(alias, project) for alias in aliases],
        "createdAt": iso(row.created_at),
        "updatedAt": iso(row.updated_at),
    }


def _project(row: AnyRow) -> dict[str, Any]:
    return {
        "__typename": "Project",
        "row_id": row.project_id,
        "entity_id": row.entity_id,
        "id": ids.encode("Project", row.project_id),
        "internalId": ids.encode("ProjectInternalId", row.project_id),
        "name": row.project_name,
        "entityName": row.entity_name,
        "entity": {"id": ids.encode("Entity", row.entity_id), "name": row.entity_name},
    }


def _type(row_id: int, name: str, created_at: float, project_id: int | None = None) -> dict[str, Any]:
    return {
        "__typename": "ArtifactType",
        "row_id": row_id,
        "project_id": project_id,
        "id": ids.encode("ArtifactType", row_id),
        "name": name,
        "createdAt": iso(created_at),
    }


def _collection(row_id: int, kind: str, name: str, project: dict[str, Any]) -> dict[str, Any]:
    return {"__typename": kind, "row_id": row_id, "id": ids.encode(kind, row_id), "name": name, "project": project}


def _alias(alias: Alias, project: dict[str, Any]) -> JsonObject:
    return {
        "__typename": "ArtifactAlias",
        "id": ids.encode("ArtifactAlias", alias.id),
        "alias": alias.alias,
        "artifactCollection": _collection(alias.collection_id, alias.collection_kind, alias.collection_name, project),
    }


def collection_node(row: AnyRow, project: dict[str, Any]) -> dict[str, Any]:
    """Shape a collection's row for the SDL."""
    return {
        **_collection(row.id, row.kind, row.name, project),
        "description": row.description,
        "state": "READY",
        "createdAt": iso(row.created_at),
        "updatedAt": iso(row.updated_at),
        "defaultArtifactType": _type(row.type_id, row.type_name, row.created_at),
        "tags": {"edges": []},
    }


def nodes(connection: Connection, rows: Sequence[AnyRow]) -> list[dict[str, Any]]:
    """Shape versions, with their aliases from one query."""
    aliases = artifacts.aliases_of(connection, [row.id for row in rows])
    return [node(row, aliases[row.id]) for row in rows]


def usable(connection: Connection, context: Context, wire_id: str) -> AnyRow:
    """Return a version that the viewer may change or use; `Gone` if it was deleted."""
    row = visible(connection, context, wire_id)
    if row.state == "DELETED" or collections.by_id(connection, row.sequence_id) is None:
        raise Gone(f"Version v{row.version_index} of artifact {row.sequence_name!r} was deleted. Log it again.")
    return row


def visible(connection: Connection, context: Context, wire_id: str) -> AnyRow:
    """Return a version that the viewer may use; `NotFound` if there is none."""
    row = artifacts.by_id(connection, ids.decode("Artifact", wire_id))
    if row is None or not context.viewer.may_use(row.entity_name):
        raise NotFound("There is no such artifact.")
    return row


# --- versions ---------------------------------------------------------------------------------------------------------


@resolvers.field("Query", "artifact")
async def artifact(_: object, info: Info, id: str) -> dict[str, Any] | None:
    """Return a version by id."""

    def work(connection: Connection) -> dict[str, Any] | None:
        try:
            return nodes(connection, [visible(connection, info.context, id)])[0]
        except NotFound:
            return None

    return await info.context.services.database.read(work)


@resolvers.field("Query", "clientIDMapping")
async def client_id_mapping(_: object, info: Info, clientID: str) -> JsonObject | None:
    """Return the version that a client made under an id of its own."""
    row = await info.context.services.database.read(artifacts.by_client_id, clientID)
    if row is None or not info.context.viewer.may_use(row.entity_name):
        return None
    return {"serverID": ids.encode("Artifact", row.id)}


@resolvers.field("Project", "artifact")
async def project_artifact(project: dict[str, Any], info: Info, name: str, **_unused: object) -> dict[str, Any] | None:
    """Return a version by `collection:alias`."""
    membership = await collection_membership(project, info, name)
    return membership["artifact"] if membership else None


@resolvers.field("Project", "artifactCollectionMembership")
async def collection_membership(project: dict[str, Any], info: Info, name: str) -> dict[str, Any] | None:
    """Return a version of a collection by `collection:alias` or `collection:vN`."""
    collection, _, version = name.partition(":")

    def work(connection: Connection) -> dict[str, Any] | None:
        row = collections.by_name(connection, project["row_id"], collection)
        return _membership(connection, collection_node(row, project), version or "latest") if row else None

    return await info.context.services.database.read(work)


def _membership(connection: Connection, collection: dict[str, Any], version: str) -> dict[str, Any] | None:
    row = collections.membership(connection, collection["row_id"], version)
    found = artifacts.by_id(connection, row.artifact_id) if row else None
    if row is None or found is None or found.state == "DELETED":
        return None
    shaped = nodes(connection, [found])[0]
    own = [alias for alias in shaped["aliases"] if alias["artifactCollection"]["row_id"] == collection["row_id"]]
    return {
        "__typename": "ArtifactCollectionMembership",
        "row_id": row.id,
        "id": ids.encode("ArtifactCollectionMembership", row.id),
        "versionIndex": row.version_index,
        "createdAt": iso(row.created_at),
        "aliases": own,
        "artifactCollection": collection,
        "artifact": shaped,
    }


@resolvers.field("Artifact", "artifactMemberships")
async def memberships(parent: dict[str, Any], info: Info, **_unused: object) -> JsonObject:
    """List where a version is: its own collection, and those that it is linked to."""

    def work(connection: Connection) -> list[tuple[int, dict[str, Any] | None]]:
        found: list[tuple[int, dict[str, Any] | None]] = []
        for row in collections.memberships_of(connection, parent["row_id"]):
            collection = collections.by_id(connection, row.collection_id)
            if collection is not None:
                project = projects.by_id(connection, collection.project_id)
                assert project is not None
                shaped = collection_node(collection, _project_node(project))
                found.append((row.id, _membership(connection, shaped, f"v{row.version_index}")))
        return found

    return connection_of(await info.context.services.database.read(work), Page(0, MAX_PAGE))


def _project_node(row: AnyRow) -> dict[str, Any]:

    return project_resolvers.node(row)


@resolvers.field("Artifact", "createdBy")
async def created_by(parent: dict[str, Any], info: Info) -> dict[str, Any] | None:
    """Return the run that logged a version; null if it was deleted."""
    run_id = parent["row"].created_by_run
    if run_id is None:
        return None
    row = await info.context.services.database.read(runs.by_id, run_id)
    return run_resolvers.node(row, info.context.now) if row.deleted_at is None else None


@resolvers.field("Artifact", "usedBy")
async def used_by(parent: dict[str, Any], info: Info, **_unused: object) -> JsonObject:
    """List the runs that used a version."""

    def work(connection: Connection) -> list[tuple[int, Any]]:
        found = artifacts.users_of(connection, parent["row_id"])
        return [(run, run_resolvers.node(runs.by_id(connection, run), info.context.now)) for run in found]

    return connection_of(await info.context.services.database.read(work), Page(0, MAX_PAGE))


@resolvers.field("Run", "outputArtifacts")
async def output_artifacts(
    run: dict[str, Any], info: Info, after: str | None = None, first: int | None = None
) -> JsonObject:
    """List what a run logged."""
    return await _of_run(run, info, "output", Page.of(first, after))


@resolvers.field("Run", "inputArtifacts")
async def input_artifacts(
    run: dict[str, Any], info: Info, after: str | None = None, first: int | None = None
) -> JsonObject:
    """List what a run used."""
    return await _of_run(run, info, "input", Page.of(first, after))


async def _of_run(run: dict[str, Any], info: Info, role: str, page: Page) -> JsonObject:
    def work(connection: Connection) -> JsonObject:
        rows = artifacts.of_run(connection, run["row_id"], role, page.after, page.limit + 1)
        found = [(each["row_id"], each) for each in nodes(connection, rows)]
        return connection_of(found, page, totalCount=artifacts.count_of_run(connection, run["row_id"], role))

    return await info.context.services.database.read(work)


# --- files ------------------------------------------------------------------------------------------------------------


@resolvers.field("Artifact", "currentManifest")
async def current_manifest(parent: dict[str, Any], info: Info) -> JsonObject | None:
    """Return a version's manifest as a file."""
    row = await info.context.services.database.read(artifacts.manifest, parent["row_id"])
    if row is None:
        return None
    url = info.context.services.objects.download_url(info.context.base_url, row.object_key)
    file = {"__typename": "File", "id": ids.encode("ArtifactManifest", row.id), "name": row.name, "directUrl": url}
    return {"id": ids.encode("ArtifactManifest", row.id), "digest": row.digest, "file": file}


@resolvers.field("Artifact", "files")
async def artifact_files(
    parent: dict[str, Any],
    info: Info,
    names: list[str] | None = None,
    after: str | None = None,
    first: int | None = None,
) -> JsonObject:
    """List a version's files, references included."""
    limit = min(max(first or FILES_PER_PAGE, 1), MAX_PAGE)
    after_path = _path_behind(after) if after else ""
    rows = await info.context.services.database.read(artifacts.entries, parent["row_id"], names, after_path, limit + 1)
    edges = [{"node": _file(row, info.context), "cursor": _path_cursor(row.path)} for row in rows[:limit]]
    return {
        "edges": edges,
        "totalCount": parent["fileCount"],
        "pageInfo": {"endCursor": edges[-1]["cursor"] if edges else None, "hasNextPage": len(rows) > limit},
    }


@resolvers.field("ArtifactCollectionMembership", "files")
async def membership_files(parent: dict[str, Any], info: Info, **arguments: Any) -> JsonObject:
    """List the files of a collection's version."""
    return await artifact_files(parent["artifact"], info, **arguments)


@resolvers.field("Artifact", "filesByManifestEntries")
async def files_by_manifest_entries(
    parent: dict[str, Any],
    info: Info,
    entries: list[dict[str, Any]] | None = None,
    after: str | None = None,
    first: int | None = None,
    **_unused: object,
) -> JsonObject:
    """List the files of some manifest entries."""
    names = [entry["name"] for entry in entries] if entries is not None else None
    return await artifact_files(parent, info, names, after, first or MAX_PAGE)


def _path_behind(cursor: str) -> str:
    try:
        return base64.b64decode(cursor, validate=True).decode()
    except ValueError as error:
        raise RequestError(f"{cursor!r} is not a cursor of this server.") from error


def _path_cursor(path: str) -> str:
    return base64.b64encode(path.encode()).decode()


def _file(row: AnyRow, context: Context) -> JsonObject:
    url = context.services.objects.download_url(context.base_url, row.object_key) if row.object_key else row.ref or ""
    return {
        "__typename": "File",
        "id": base64.b64encode(f"ArtifactFile:{row.artifact_id}:{row.path}".encode()).decode(),
        "name": row.path,
        "displayName": row.path,
        "url": url,
        "directUrl": url,
        "sizeBytes": row.size_bytes,
        "mimetype": mimetypes.guess_type(row.path)[0],
        "digest": row.digest,
        "md5": row.digest,
        "storagePath": row.object_key,
    }


# --- types and collections --------------------------------------------------------------------------------------------


@resolvers.field("Project", "artifactType")
async def artifact_type(project: dict[str, Any], info: Info, name: str) -> dict[str, Any] | None:
    """Return an artifact type of a project, or null."""
    row = await info.context.services.database.read(collections.type_by_name, project["row_id"], name)
    return {**_type(row.id, row.name, row.created_at), "project": project} if row else None


@resolvers.field("Project", "artifactTypes")
async def artifact_types(
    project: dict[str, Any], info: Info, after: str | None = None, first: int | None = None, **_unused: object
) -> JsonObject:
    """List a project's artifact types."""
    page = Page.of(first, after)
    rows = await info.context.services.database.read(collections.types, project["row_id"], page.after, page.limit + 1)
    found = [(row.id, {**_type(row.id, row.name, row.created_at), "project": project}) for row in rows]
    return connection_of(found, page)


@resolvers.field("Project", "artifactCollection")
async def project_collection(project: dict[str, Any], info: Info, name: str) -> dict[str, Any] | None:
    """Return a collection of a project, or null."""
    row = await info.context.services.database.read(collections.by_name, project["row_id"], name)
    return collection_node(row, project) if row else None


@resolvers.field("ArtifactType", "artifactCollection")
async def type_collection(parent: dict[str, Any], info: Info, name: str) -> dict[str, Any] | None:
    """Return a collection of a type, or null."""
    row = await info.context.services.database.read(collections.by_name, parent["project"]["row_id"], name)
    return collection_node(row, parent["project"]) if row and row.type_id == parent["row_id"] else None


@resolvers.field("Project", "artifactCollections")
async def project_collections(project: dict[str, Any], info: Info, **arguments: Any) -> JsonObject:
    """List a project's collections."""
    return await _collections(project, None, info, **arguments)


@resolvers.field("ArtifactType", "artifactCollections")
async def type_collections(parent: dict[str, Any], info: Info, **arguments: Any) -> JsonObject:
    """List a type's collections."""
    return await _collections(parent["project"], parent["row_id"], info, **arguments)


async def _collections(
    project: dict[str, Any],
    type_id: int | None,
    info: Info,
    after: str | None = None,
    first: int | None = None,
    filters: str | None = None,
    order: str | None = None,
) -> JsonObject:
    if (filters and json.loads(filters)) or order:
        raise RequestError("Collections cannot be filtered or ordered yet. Leave filters and order out.")
    page = Page.of(first, after)
    rows = await info.context.services.database.read(
        collections.listing, project["row_id"], type_id, page.after, page.limit + 1
    )
    found = [(row.id, collection_node(row, project)) for row in rows]
    return connection_of(found, page, totalCount=len(found))


@resolvers.field("Query", "artifactCollection")
async def collection_by_id(_: object, info: Info, id: str) -> dict[str, Any] | None:
    """Return a collection by id."""

    def work(connection: Connection) -> dict[str, Any] | None:
        row = collections.by_id(connection, ids.decode(collections.SEQUENCE, id))
        project = projects.by_id(connection, row.project_id) if row else None
        if row is None or project is None or not info.context.viewer.may_use(project.entity_name):
            return None
        return collection_node(row, _project_node(project))

    return await info.context.services.database.read(work)


async def collection_aliases(parent: dict[str, Any], info: Info, **_unused: object) -> JsonObject:
    """List a collection's aliases."""
    rows = await info.context.services.database.read(collections.aliases, parent["row_id"])
    found = [
        (row.id, {"__typename": "ArtifactAlias", "id": ids.encode("ArtifactAlias", row.id), "alias": row.alias})
        for row in rows
    ]
    return connection_of(found, Page(0, MAX_PAGE))


async def collection_artifacts(
    parent: dict[str, Any],
    info: Info,
    after: str | None = None,
    first: int | None = None,
    order: str | None = None,
    **_unused: object,
) -> JsonObject:
    """List a collection's versions, newest first unless another order is asked for."""
    page = Page.of(first, after)

    def work(connection: Connection) -> JsonObject:
        rows = artifacts.in_collection(
            connection,
            parent["row_id"],
            descending=not (order or "-").startswith("+"),
            offset=page.after,
            limit=page.limit + 1,
        )
        found = [(page.after + index + 1, each) for index, each in enumerate(nodes(connection, rows))]
        listed = connection_of(found, page, totalCount=collections.version_count(connection, parent["row_id"]))
        for edge in listed["edges"]:
            edge["version"] = f"v{edge['node']['versionIndex']}"
        return listed

    return await info.context.services.database.read(work)


async def collection_version(parent: dict[str, Any], info: Info, aliasName: str) -> dict[str, Any] | None:
    """Return a collection's version by alias or `vN`."""
    return await info.context.services.database.read(_membership, parent, aliasName)


for _kind in ("ArtifactSequence", "ArtifactPortfolio"):
    resolvers.field(_kind, "aliases")(collection_aliases)
    resolvers.field(_kind, "artifacts")(collection_artifacts)
    resolvers.field(_kind, "artifactMembership")(collection_version)


@resolvers.field("ArtifactSequence", "latestArtifact")
async def latest_artifact(parent: dict[str, Any], info: Info) -> dict[str, Any] | None:
    """Return a collection's newest committed version."""
    row = await info.context.services.database.read(artifacts.latest, parent["row_id"])
    return node(row, []) if row else None
