"""Puts the server together: routes, authentication, and one shape for every error."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from functools import cache
from typing import TypeVar, cast

import structlog
from aiohttp import web

from protocol.json_types import JsonObject
from server import artifact_routes, filestream, item_log_routes, json_text, storage_routes
from server.authentication import Authenticator
from server.context import Context, Services
from server.errors import RequestError
from server.graphql import Executor, load_schema
from server.object_store import LocalObjectStore
from server.resolvers import ALL_RESOLVERS

MAX_BODY_BYTES = 64 * 1024 * 1024
"""File streams send up to 10 MiB a request; the limit leaves room, as a 413 would end a run's stream for ever."""
SMALL_BODY_BYTES = 64 * 1024
"""Larger ones are read in a thread, so that nobody else waits for them."""
MAX_WAIT_SECONDS = 60
MAX_REASON_CHARS = 500

T = TypeVar("T")

SERVICES = web.AppKey("services", Services)
AUTHENTICATOR = web.AppKey("authenticator", Authenticator)
EXECUTOR = web.AppKey("executor", Executor)

log = structlog.get_logger(__name__)


def build_app(services: Services) -> web.Application:
    """Return the application that serves these services."""
    app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[_errors])
    app[SERVICES] = services
    app[AUTHENTICATOR] = Authenticator(services)
    app[EXECUTOR] = executor()
    app.on_shutdown.append(_end_waiting)
    app.router.add_get("/healthz", _health)
    app.router.add_post("/graphql", _graphql)
    # Without a pattern of their own, names would be without braces.
    app.router.add_post("/files/{entity:[^/]+}/{project:[^/]+}/{run:[^/]+}/file_stream", _filestream)
    if isinstance(services.objects, LocalObjectStore):
        storage_routes.add(app, services, services.objects)
    item_log_routes.add(app, _context)
    artifact_routes.add(app, _context)
    return app


@cache
def executor() -> Executor:
    """Return what executes GraphQL. One for all servers of a process: schema and checked documents are the same."""
    return Executor(load_schema(ALL_RESOLVERS))


async def _health(_: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})


async def _graphql(request: web.Request) -> web.Response:
    context = await _context(request)
    body = await _decoded(request, lambda body: body)
    query, variables, operation = body.get("query"), body.get("variables") or {}, body.get("operationName")
    if not isinstance(query, str) or not isinstance(variables, dict):
        raise RequestError('Send a JSON object with "query" (a string) and "variables" (an object).')
    status, answer = await request.app[EXECUTOR].execute(
        query, variables, operation if isinstance(operation, str) else None, context
    )
    headers = {"Preference-Applied": f"wait={context.wait_seconds:g}"} if context.wait_seconds else None
    return _answer(answer, status, headers)


async def _filestream(request: web.Request) -> web.Response:
    context = await _context(request)
    match = request.match_info
    change = await _decoded(request, filestream.understand)
    return _answer(await filestream.receive(context, match["entity"], match["project"], match["run"], change))


async def _context(request: web.Request) -> Context:
    services = request.app[SERVICES]
    rights = services.viewers.times_forgotten
    viewer = await request.app[AUTHENTICATOR].viewer(request)
    return Context(
        services=services,
        viewer=viewer,
        base_url=f"{request.scheme}://{request.host}",
        writer=request.headers.get("X-WANDB-ASYNC-CLIENT-ID") or request.headers.get("X-WANDB-CLIENT-ID"),
        wait_seconds=_preferred_wait(request.headers.get("Prefer", "")),
        is_gone=lambda: (
            request.transport is None
            or request.transport.is_closing()
            or services.viewers.times_forgotten != rights
            or services.wakeups.is_closed
        ),
    )


def _preferred_wait(header: str) -> float:
    match = re.search(r"\bwait=(\d{1,6})\b", header)
    return min(float(match[1]), MAX_WAIT_SECONDS) if match else 0


async def _end_waiting(app: web.Application) -> None:
    """Let everybody go whose answer waits for something to happen: a restart must not wait for them."""
    app[SERVICES].wakeups.close()


async def _decoded(request: web.Request, understand: Callable[[JsonObject], T]) -> T:
    """Return what a request's body says."""
    raw = await request.read()
    if len(raw) <= SMALL_BODY_BYTES:
        return understand(_object(raw))
    return await asyncio.to_thread(lambda: understand(_object(raw)))


def _object(raw: bytes) -> JsonObject:
    try:
        body = json_text.parse(raw)
    except ValueError as error:
        raise RequestError(f"The request's body is not JSON: {error}.") from error
    if not isinstance(body, dict):
        raise RequestError("The request's body must be a JSON object.")
    return cast("JsonObject", body)


def _answer(body: JsonObject, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    reason = _reason(body) if status >= 400 else None
    return web.Response(
        body=json_text.dump(body), status=status, reason=reason, content_type="application/json", headers=headers
    )


def _reason(failure: JsonObject) -> str:
    """Return the first message as a reason phrase: often the public API of older clients shows nothing else."""
    first = cast("list[JsonObject]", failure["errors"])[0]
    return re.sub(r"[^ -~]+", " ", str(first["message"]))[:MAX_REASON_CHARS]


@web.middleware
async def _errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except RequestError as error:
        body: JsonObject = {"errors": [{"message": str(error), "extensions": {"code": error.code}}]}
        return _answer(body, error.status)
    except web.HTTPException as error:
        return _answer({"errors": [{"message": f"{error.reason}: {request.method} {request.path}"}]}, error.status)
    except Exception as error:  # the supervisor of one request: a bug must not end the connection without an answer
        if error is request.content.exception():  # the client's doing: it has hung up, most often
            log.info("the body of a request did not arrive", method=request.method, path=request.path, why=str(error))
            return _answer({"errors": [{"message": f"The request's body cannot be read: {error}"}]}, 400)
        log.exception("request failed", method=request.method, path=request.path)
        return _answer({"errors": [{"message": "Internal error. The server's log has the details."}]}, 500)
