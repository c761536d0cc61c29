"""Serves metrics, health and status over HTTP: on a socket in the state folder, and on TCP where `listen` says so.

Read only. On the socket (mode 0600) it answers the agent's own user and nobody else.
"""

import asyncio
import os
import socket
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from agent.config.forms import parse_address
from agent.errors import ConfigError
from agent.observability.health import Health
from agent.observability.metrics import Metrics
from protocol.errors import LaunchbayError, system_words
from protocol.json_types import JsonObject

SOCKET = "agent.sock"
ANSWER_SECONDS = 5.0
"""An agent that is well answers in milliseconds."""


class AgentSilent(LaunchbayError):
    """There is an agent, and it does not answer."""

    code = "agent_silent"


@asynccontextmanager
async def serving(
    metrics: Metrics, health: Health, status: Callable[[], JsonObject], state_dir: Path, listen: str | None
) -> AsyncGenerator[None]:
    """Serve while the block runs. Nobody else may be using the state folder: a socket that is there is a dead one's.

    `listen` is HOST:PORT, or None for the socket alone. Raises `ConfigError` if that cannot be listened on.
    """
    app = _app(metrics, health.why_not_alive, health.why_not_ready, lambda: "ok")

    async def show_status(_: web.Request) -> web.Response:
        return web.Response(body=orjson.dumps(status()), content_type="application/json")

    app.router.add_get("/status", show_status)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.SockSite(runner, await asyncio.to_thread(_bind, state_dir)).start()
        if listen:
            await _listen(runner, listen)
        yield
    finally:
        await runner.cleanup()
        await asyncio.to_thread((state_dir / SOCKET).unlink, missing_ok=True)


@asynccontextmanager
async def serving_at_the_start(
    metrics: Metrics, why_not_ready: Callable[[], str | None], doing: Callable[[], str], listen: str | None
) -> AsyncGenerator[None]:
    """Answer probes on TCP while the block runs, for an agent that has no state folder yet. See `serving`.

    `doing` says in a few words what it does if it is ready.
    """
    if listen is None:
        yield
        return
    runner = web.AppRunner(_app(metrics, lambda: None, why_not_ready, doing), access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        await _listen(runner, listen)
        yield
    finally:
        await runner.cleanup()


async def ask_status(state_dir: Path) -> dict[str, Any] | None:
    """Return what the agent of a state folder says of itself; None if none is running there.

    Raises `AgentSilent` if there is one that does not answer, or not to us.
    """
    try:
        with _short_path(state_dir) as path:
            connector, timeout = aiohttp.UnixConnector(path), aiohttp.ClientTimeout(total=ANSWER_SECONDS)
            async with (
                aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
                session.get("http://agent/status") as response,
            ):
                if response.status != 200:
                    raise AgentSilent(f"The agent in {state_dir} answers {response.status}. Its log says why.")
                return orjson.loads(await response.read())
    except (FileNotFoundError, NotADirectoryError, aiohttp.ServerDisconnectedError):
        return None
    except aiohttp.ClientConnectorError as error:
        if isinstance(error.os_error, ConnectionRefusedError | FileNotFoundError):
            return None
        raise AgentSilent(f"The agent in {state_dir} cannot be asked: {error.os_error.strerror}.") from error
    except PermissionError as error:
        raise AgentSilent(
            f"Whether there is an agent in {state_dir} is not for you to know: it is not yours."
        ) from error
    except TimeoutError as error:
        raise AgentSilent(
            f"The agent in {state_dir} has not answered for {ANSWER_SECONDS:g} seconds: it hangs. Its log may say why."
        ) from error


def _app(
    metrics: Metrics,
    why_not_alive: Callable[[], str | None],
    why_not_ready: Callable[[], str | None],
    doing: Callable[[], str],
) -> web.Application:
    async def show_metrics(_: web.Request) -> web.Response:
        return web.Response(body=metrics.exposition(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def live(_: web.Request) -> web.Response:
        return _probe(why_not_alive(), "ok")

    async def ready(_: web.Request) -> web.Response:
        return _probe(why_not_ready(), doing())

    app = web.Application()
    app.router.add_get("/metrics", show_metrics)
    app.router.add_get("/livez", live)
    app.router.add_get("/readyz", ready)
    return app


async def _listen(runner: web.AppRunner, listen: str) -> None:
    try:
        await web.TCPSite(runner, *parse_address(listen)).start()
    except OSError as error:
        raise ConfigError(f"The agent cannot listen on {listen} (`listen`): {system_words(error)}.") from error


def _probe(problem: str | None, fine: str) -> web.Response:
    return web.Response(status=503 if problem else 200, text=f"{problem or fine}\n")


def _bind(state_dir: Path) -> socket.socket:
    state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    (state_dir / SOCKET).unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Before it has a name, so that there is no moment at which others could connect.
        os.fchmod(listening.fileno(), 0o600)
        with _short_path(state_dir) as path:
            listening.bind(path)
    except BaseException:
        listening.close()
        raise
    return listening


@contextmanager
def _short_path(state_dir: Path) -> Generator[str]:
    """Yield a path to the socket that fits into the 107 bytes of a socket's address, however deep the folder lies."""
    folder = os.open(state_dir, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{SOCKET}"
    finally:
        os.close(folder)
