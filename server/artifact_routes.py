"""Contents of artifacts by digest, with credentials: where clients look when they have no signed URL for a file."""

import base64
from collections.abc import Awaitable, Callable

from aiohttp import web
from sqlalchemy import Connection

from server.context import Context
from server.errors import NotFound
from server.storage import artifact_contents, users


def add(app: web.Application, context_of: Callable[[web.Request], Awaitable[Context]]) -> None:
    """Serve the two layouts of the fallback download."""

    async def get(request: web.Request) -> web.Response:
        context = await context_of(request)
        match = request.match_info
        context.viewer.must_use(match["entity"])
        try:
            digest = base64.b64encode(bytes.fromhex(match["digest"])).decode()
        except ValueError as error:
            raise NotFound(f"{match['digest']!r} is not a digest in hex.") from error
        key = await context.services.database.read(_key, match["entity"], digest)
        url = context.services.objects.download_url(context.base_url, key)
        return web.Response(status=302, headers={"Location": url})

    prefix = "/artifactsV2/{region}/{entity}/{project}/{collection}"
    app.router.add_get(prefix + "/{birth}/{digest}/{name}", get)
    app.router.add_get(prefix + "/{artifact}/{birth}/{digest}/{name}", get)
    app.router.add_get("/artifacts/{entity}/{digest}", get)


def _key(connection: Connection, entity: str, digest: str) -> str:
    found = artifact_contents.known(connection, users.entity_id(connection, entity), [digest]).get(digest)
    if found is None or found.size_bytes is None:
        raise NotFound("There is no artifact content with this digest.")
    return found.object_key
