"""Uploads and downloads of the local object store, by signed URL."""

from collections.abc import AsyncIterator

from aiohttp import web

from server import arrivals
from server.context import Services
from server.errors import NotFound
from server.object_store import LocalObjectStore

CHUNK_BYTES = 1024 * 1024
DOWNLOAD_CHUNK_BYTES = 256 * 1024
"""Smaller: clients fetch a large file by many requests at once, and each has some chunks in memory."""


def add(app: web.Application, services: Services, objects: LocalObjectStore) -> None:
    """Serve `/storage/<key>`."""

    async def put(request: web.Request) -> web.Response:
        key, md5 = _checked(request, objects)
        info = await objects.receive(key, _chunks(request), md5)
        await services.database.write(arrivals.record, key, info, services.clock())
        return web.Response()

    async def get(request: web.Request) -> web.StreamResponse:
        key, _ = _checked(request, objects)
        path = objects.path_of(key)
        if not path.is_file():
            raise NotFound("This file was announced, but its upload never arrived.")
        return web.FileResponse(path, chunk_size=DOWNLOAD_CHUNK_BYTES)

    app.router.add_put("/storage/{key:.+}", put)
    app.router.add_get("/storage/{key:.+}", get)


def _checked(request: web.Request, objects: LocalObjectStore) -> tuple[str, str]:
    key, query = request.match_info["key"], request.query
    md5 = query.get("md5", "")
    method = "GET" if request.method == "HEAD" else request.method
    objects.check(method, key, query.get("expires", "0"), md5, query.get("signature", ""))
    return key, md5


async def _chunks(request: web.Request) -> AsyncIterator[bytes]:
    async for chunk in request.content.iter_chunked(CHUNK_BYTES):
        yield chunk
