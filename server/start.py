"""Opens what a server needs, serves until told to stop, and closes everything again."""

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog
from aiohttp import web
from sqlalchemy import Connection

from server.app import build_app
from server.context import Services
from server.database import SqliteDatabase
from server.heartbeats import Heartbeats
from server.object_store import LocalObjectStore
from server.resolvers.users import new_secret
from server.storage import users

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """How a server runs."""

    data_dir: Path
    """Holds the database, the objects, the signing secret and the first user's API key."""
    host: str = "127.0.0.1"
    port: int = 8080
    """0 lets the system choose a free one."""


@asynccontextmanager
async def running(settings: ServerSettings) -> AsyncGenerator[str]:
    """Serve while the block runs; gives the base URL."""
    async with opened(settings.data_dir) as services:
        runner = web.AppRunner(build_app(services), access_log=None, shutdown_timeout=5)
        await runner.setup()
        try:
            site = web.TCPSite(runner, settings.host, settings.port, backlog=1024)
            await site.start()
            port = runner.addresses[0][1]
            shown = "127.0.0.1" if settings.host in {"0.0.0.0", "::"} else settings.host  # noqa: S104 -- compared, not bound
            yield f"http://{shown}:{port}"
        finally:
            await runner.cleanup()


@asynccontextmanager
async def opened(data_dir: Path) -> AsyncGenerator[Services]:
    """Open a data folder, making it and its first user if it is new."""
    await asyncio.to_thread(data_dir.mkdir, parents=True, exist_ok=True, mode=0o700)
    database = await SqliteDatabase.open(data_dir / "launchbay.db")
    try:
        objects = await asyncio.to_thread(LocalObjectStore.open, data_dir / "objects", data_dir / "signing-secret")
        services = Services(database, objects, Heartbeats(database))
        await _ensure_admin(services, data_dir / "admin-api-key")
        flushing = asyncio.create_task(services.heartbeats.run())
        try:
            yield services
        finally:
            flushing.cancel()
            await asyncio.wait([flushing])
            await services.heartbeats.flush()
    finally:
        await database.close()


async def _ensure_admin(services: Services, key_file: Path) -> None:
    """Make the user `admin` on the first start, and leave the key in a file that only the owner can read."""

    def work(connection: Connection) -> str | None:
        if users.count(connection):
            return None
        user_id = users.create_user(connection, "admin", now=services.clock(), admin=True)
        secret = new_secret()
        # Written before the commit: a crash in between leaves a useless file, not a user whom nobody can use.
        _write_secret(key_file, secret)
        users.create_key(connection, user_id, secret, now=services.clock(), description="made at the first start")
        return secret

    if await services.database.write(work):
        log.info("made the first user", user="admin", key_file=str(key_file))


def _write_secret(path: Path, secret: str) -> None:
    path.unlink(missing_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(secret + "\n")
