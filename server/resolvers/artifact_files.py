"""Files of artifact versions: the manifest, and one entry for each file with a URL to its content."""

import asyncio
import base64
import binascii
import mimetypes
from typing import Any

from protocol.json_types import JsonObject
from server import ids
from server.context import Context
from server.errors import RequestError
from server.graphql import Info, Resolvers
from server.resolvers import artifact_shapes as shapes
from server.resolvers.paging import MAX_PAGE
from server.storage import artifact_contents
from server.storage.rows import AnyRow

resolvers = Resolvers()

FILES_PER_PAGE = 50


@resolvers.field("Artifact", "currentManifest")
async def current_manifest(parent: dict[str, Any], info: Info) -> JsonObject | None:
    """Return a version's manifest as a file."""
    await _must_read(parent, info)
    row = await info.context.services.database.read(artifact_contents.manifest, parent["row_id"])
    if row is None:
        return None
    wire_id = ids.encode("ArtifactManifest", row.id)
    url = info.context.services.objects.download_url(info.context.base_url, row.object_key)
    file: JsonObject = {"__typename": "File", "id": wire_id, "name": row.name, "displayName": row.name}
    return {"id": wire_id, "digest": row.digest, "file": {**file, "url": url, "directUrl": url}}


@resolvers.field("Artifact", "files")
async def artifact_files(
    parent: dict[str, Any],
    info: Info,
    names: list[str] | None = None,
    after: str | None = None,
    first: int | None = None,
) -> JsonObject:
    """List a version's files by path, references included: clients fetch only what is listed."""
    await _must_read(parent, info)
    database, artifact_id = info.context.services.database, parent["row_id"]
    limit = min(max(first or FILES_PER_PAGE, 1), MAX_PAGE)
    rows = await database.read(artifact_contents.entries, artifact_id, names, _path(after), limit + 1)
    # Signing thousands of URLs takes longer than others should wait.
    nodes = await asyncio.to_thread(lambda: [_file(row, info.context) for row in rows[:limit]])
    edges = [{"node": node, "cursor": _cursor(node["name"])} for node in nodes]
    return {
        "edges": edges,
        "totalCount": await database.read(artifact_contents.count_entries, artifact_id, names),
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


async def _must_read(parent: dict[str, Any], info: Info) -> None:
    """Raise `Forbidden` if the viewer sees a version only by a role that does not open its files."""
    if not info.context.viewer.may_use(parent["artifactSequence"]["project"]["entityName"]):
        await info.context.services.database.read(shapes.usable, info.context, parent["id"])


def _cursor(path: str) -> str:
    return base64.b64encode(path.encode()).decode()


def _path(cursor: str | None) -> str:
    try:
        return base64.b64decode(cursor or "", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise RequestError(f"{cursor!r} is not a cursor of this server.") from error


def _file(row: AnyRow, context: Context) -> dict[str, Any]:
    url = context.services.objects.download_url(context.base_url, row.object_key) if row.object_key else row.ref
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
