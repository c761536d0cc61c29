"""Uploads and downloads of the local object store, by signed URL.

What is small goes in and out in one piece: that is most of what there is of some artifacts, and a file that is opened,
read and closed by itself costs several times as much.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from aiohttp import web

from server import arrivals, object_keys
from server.context import Services
from server.errors import NotFound
from server.object_store import LocalObjectStore

SMALL_BYTES = 256 * 1024
CHUNK_BYTES = 1024 * 1024
DOWNLOAD_CHUNK_BYTES = 256 * 1024
"""Smaller: clients fetch a large file by many requests at once, and each has some chunks in memory."""


def add(app: web.Application, services: Services, objects: LocalObjectStore) -> None:
    """Serve `/storage/<key>`."""

    async def put(request: web.Request) -> web.Response:
        key, md5 = _checked(request, objects)
        if request.content_length is not None and request.content_length <= SMALL_BYTES:
            info = await objects.keep(key, await request.read(), md5)
        else:
            info = await objects.receive(key, _chunks(request), md5)
        if object_keys.is_of_run_file(key):
            await services.database.write(arrivals.record_run_file, key, info, services.clock())
        return web.Response()

    async def get(request: web.Request) -> web.StreamResponse:
        key, _ = _checked(request, objects)
        path = objects.path_of(key)
        small = await asyncio.to_thread(_read_small, path)
        if small is None or "Range" in request.headers:
            return web.FileResponse(path, chunk_size=DOWNLOAD_CHUNK_BYTES)
        return web.Response(body=small, headers={"Accept-Ranges": "bytes"})

    app.router.add_put("/storage/{key:.+}", put)
    app.router.add_get("/storage/{key:.+}", get)


def _checked(request: web.Request, objects: LocalObjectStore) -> tuple[str, str]:
    key, query = request.match_info["key"], request.query
    md5 = query.get("md5", "")
    method = "GET" if request.method == "HEAD" else request.method
    objects.check(method, key, query.get("expires", "0"), md5, query.get("signature", ""))
    return key, md5


def _read_small(path: Path) -> bytes | None:
    """Return the whole of a small file; None if it is large."""
    try:
        return path.read_bytes() if path.stat().st_size <= SMALL_BYTES else None
    except FileNotFoundError as error:
        raise NotFound("This file was announced, but its upload never arrived.") from error


async def _chunks(request: web.Request) -> AsyncIterator[bytes]:
    async for chunk in request.content.iter_chunked(CHUNK_BYTES):
        yield chunk
