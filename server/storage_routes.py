"""Uploads and downloads of the local object store, by signed URL."""

from collections.abc import AsyncIterator

from aiohttp import web
from sqlalchemy import Connection, update

from server.context import Services
from server.errors import NotFound
from server.object_store import ObjectInfo
from server.storage.tables import artifact_contents, run_files

CHUNK_BYTES = 1024 * 1024


def add(app: web.Application, services: Services) -> None:
    """Serve `/storage/<key>`."""

    async def put(request: web.Request) -> web.Response:
        key, md5 = _checked(request, services)
        info = await services.objects.receive(key, _chunks(request), md5)
        await services.database.write(record_upload, key, info, services.clock())
        return web.Response()

    async def get(request: web.Request) -> web.StreamResponse:
        key, _ = _checked(request, services)
        path = services.objects.path_of(key)
        if not path.is_file():
            raise NotFound("This file was announced, but its upload never arrived.")
        return web.FileResponse(path, chunk_size=CHUNK_BYTES)

    app.router.add_put("/storage/{key:.+}", put)
    app.router.add_get("/storage/{key:.+}", get)


def record_upload(connection: Connection, key: str, info: ObjectInfo, now: float) -> None:
    """Note on whatever was waiting for this object that it has arrived."""
    connection.execute(
        update(run_files)
        .where(run_files.c.object_key == key)
        .values(size_bytes=info.size_bytes, md5=info.md5, updated_at=now)
    )
    connection.execute(
        update(artifact_contents).where(artifact_contents.c.object_key == key).values(size_bytes=info.size_bytes)
    )


def _checked(request: web.Request, services: Services) -> tuple[str, str]:
    key, query = request.match_info["key"], request.query
    md5 = query.get("md5", "")
    method = "GET" if request.method == "HEAD" else request.method
    services.objects.check(method, key, query.get("expires", "0"), md5, query.get("signature", ""))
    return key, md5


async def _chunks(request: web.Request) -> AsyncIterator[bytes]:
    async for chunk in request.content.iter_chunked(CHUNK_BYTES):
        yield chunk
