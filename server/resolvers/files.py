"""Files of runs: announced, uploaded by signed URL, listed, deleted."""

import mimetypes
from typing import Any

from sqlalchemy import Connection

from protocol.json_types import JsonObject
from server import arrivals, ids, object_keys
from server.artifact_manifest import MAX_PATH_BYTES
from server.errors import NotFound, RequestError
from server.graphql import Info, Resolvers
from server.resolvers import runs as run_resolvers
from server.resolvers.paging import Page, connection_of
from server.storage import discarded_objects, run_files, runs
from server.storage.rows import AnyRow
from server.times import iso

resolvers = Resolvers()

MAX_NAME_CHARS = 1024


@resolvers.field("Mutation", "createRunFiles")
async def create_run_files(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Return an upload URL for each file; exactly one entry a name."""
    context = info.context
    names = list(dict.fromkeys(input["files"]))
    for name in names:
        is_long = len(name) > MAX_NAME_CHARS or len(name.encode()) > MAX_PATH_BYTES
        if not name or is_long or name.startswith("/") or ".." in name.split("/"):
            raise RequestError(f"{name!r} cannot be a run file's name.")

    def work(connection: Connection) -> tuple[int, dict[str, AnyRow]]:
        row = run_resolvers.find(connection, context, input["entityName"], input["projectName"], input["runName"])
        fresh = [object_keys.of_run_file(row.id) for _ in names]
        return row.id, run_files.announce(connection, row.id, names, fresh, context.now)

    run_id, rows = await context.services.database.write(work)
    files = [
        {
            "id": ids.encode("RunFile", rows[name].id),
            "name": name,
            "displayName": name,
            "sizeBytes": rows[name].size_bytes or 0,
            "uploadUrl": context.services.objects.upload_url(context.base_url, rows[name].object_key),
        }
        for name in names
    ]
    return {"runID": ids.encode("RunRow", run_id), "uploadHeaders": [], "files": files}


@resolvers.field("Mutation", "markRunFilesUploaded")
async def mark_run_files_uploaded(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Accept that uploads are done, which the store may have told already. Does not revive a finished run."""
    context = info.context
    where = (input["entityName"], input["projectName"], input["runName"])
    row = await context.services.database.read(run_resolvers.find, context, *where)
    keys = await context.services.database.read(run_files.keys, row.id, input["files"])
    await arrivals.look_for_run_files(context.services, keys)
    return {"success": True}


@resolvers.field("Mutation", "deleteFiles")
async def delete_files(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Delete files of runs that the viewer may use."""
    context = info.context
    file_ids = [ids.decode("RunFile", file) for file in input["files"]]

    def work(connection: Connection) -> list[str]:
        rows = run_files.by_ids(connection, file_ids)
        owners = {runs.by_id(connection, run_id).entity_name for run_id in {row.run_id for row in rows}}
        if len(rows) != len(file_ids) or not all(context.viewer.may_use(owner) for owner in owners):
            raise NotFound("One of these files does not exist.")
        run_files.remove(connection, file_ids)
        keys = [row.object_key for row in rows]
        # Once more when nobody has a URL any more by which it may come again.
        discarded_objects.add(connection, dict.fromkeys(keys), context.now)
        return keys

    await context.services.objects.delete(await context.services.database.write(work))
    return {"success": True}


@resolvers.field("Run", "fileCount")
async def file_count(run: dict[str, Any], info: Info) -> int:
    """Count a run's files."""
    await _look_for_new(info, run)
    return await info.context.services.database.read(run_files.count, run["row_id"])


@resolvers.field("Run", "files")
async def files(
    run: dict[str, Any],
    info: Info,
    names: list[str] | None = None,
    after: str | None = None,
    first: int | None = None,
    pattern: str | None = None,
) -> JsonObject:
    """List a run's files."""
    context = info.context
    page = Page.of(first, after)
    # People ask for `./name`, as they gave it to `run.save`.
    wanted = [name.removeprefix("./") for name in names or []]
    await _look_for_new(info, run)
    rows = await context.services.database.read(
        run_files.listing, run["row_id"], wanted, pattern, page.after, page.limit + 1
    )
    return connection_of([(row.id, _node(row, info)) for row in rows], page)


async def _look_for_new(info: Info, run: dict[str, Any]) -> None:
    """See whether files have arrived whose upload nobody has told of."""
    services = info.context.services
    if not services.objects.tells_arrivals:
        await arrivals.look_for_run_files(services, await services.database.read(run_files.waiting, run["row_id"]))


def _node(row: AnyRow, info: Info) -> JsonObject:
    url = info.context.services.objects.download_url(info.context.base_url, row.object_key)
    return {
        "__typename": "File",
        "id": ids.encode("RunFile", row.id),
        "name": row.name,
        "displayName": row.name,
        "url": url,
        "directUrl": url,
        "sizeBytes": row.size_bytes,
        "mimetype": mimetypes.guess_type(row.name)[0],
        "md5": row.md5,
        "updatedAt": iso(row.updated_at),
    }
