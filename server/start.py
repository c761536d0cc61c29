"""Opens what a server needs, serves until told to stop, and closes everything again."""

import asyncio
import os
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog
from aiohttp import web
from sqlalchemy import Connection

from protocol.errors import LaunchbayError, system_words
from server import expiry, garbage
from server.app import build_app
from server.authentication import forget_changed_rights
from server.automations import sending, watching
from server.context import Services
from server.database.opening import open_database
from server.heartbeats import Heartbeats
from server.object_store import LocalObjectStore, ObjectStore
from server.resolvers.users import is_secret, new_secret
from server.storage import registries, users

log = structlog.get_logger(__name__)

SIGNING_FILE = "signing-secret"
"""The file of a data folder that signs the URLs of objects; made at the first start."""
ADMIN_KEY_FILE = "admin-api-key"
"""The file of a data folder with the first user's API key; made at the first start."""
OBJECTS_FOLDER = "objects"
"""The folder of a data folder with the objects, unless these are in a bucket."""


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """How a server runs."""

    data_dir: Path
    """Holds the database, the objects, the signing secret and the first user's API key."""
    host: str = "127.0.0.1"
    port: int = 8080
    """0 lets the system choose a free one."""
    database_url: str | None = None
    """PostgreSQL; without one it is SQLite, in the data folder."""
    object_store: str | None = None
    """`s3://bucket/prefix`; without one, files and artifacts are in the data folder."""


class CannotServe(LaunchbayError):
    """The server cannot have the address or the folder that it was given."""

    code = "cannot_serve"


@asynccontextmanager
async def running(settings: ServerSettings) -> AsyncGenerator[str]:
    """Serve while the block runs; gives the base URL."""
    async with opened(settings.data_dir, settings.database_url, settings.object_store) as services:
        runner = web.AppRunner(build_app(services), access_log=None, shutdown_timeout=5)
        await runner.setup()
        try:
            site = web.TCPSite(runner, settings.host, settings.port, backlog=1024)
            try:
                await site.start()
            except OSError as error:
                raise CannotServe(
                    f"Cannot listen on {settings.host}:{settings.port}: {system_words(error)}. "
                    "Choose another address with --host or --port."
                ) from error
            port = runner.addresses[0][1]
            shown = "127.0.0.1" if settings.host in {"0.0.0.0", "::"} else settings.host  # noqa: S104 -- compared, not bound
            async with _beside(watching.run(services), sending.run(services)):
                yield f"http://{shown}:{port}"
        finally:
            await runner.cleanup()


@asynccontextmanager
async def opened(
    data_dir: Path, database_url: str | None = None, object_store: str | None = None
) -> AsyncGenerator[Services]:
    """Open a data folder, its database and its objects, making them and the first user if they are new."""
    try:
        await asyncio.to_thread(data_dir.mkdir, parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise CannotServe(
            f"The data folder {data_dir} cannot be made: {system_words(error)}. Name another with --data-dir."
        ) from error
    database = await open_database(data_dir, database_url)
    try:
        objects = await asyncio.to_thread(_open_objects, data_dir, object_store)
        services = Services(database, objects, Heartbeats(database))
        await _ensure_admin(services, data_dir / ADMIN_KEY_FILE)
        await database.write(registries.ensure_organization, services.clock())
        try:
            async with _beside(
                services.heartbeats.run(),
                database.share(services.wakeups),
                forget_changed_rights(services),
                expiry.run(services),
                garbage.run(services),
            ):
                yield services
        finally:
            await services.heartbeats.flush()
    finally:
        await database.close()


@asynccontextmanager
async def _beside(*chores: Coroutine[None, None, None]) -> AsyncGenerator[None]:
    """Do chores that never end while the block runs."""
    tasks = [asyncio.create_task(chore) for chore in chores]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def _open_objects(data_dir: Path, url: str | None) -> ObjectStore:
    if url is None:
        return LocalObjectStore.open(data_dir / OBJECTS_FOLDER, data_dir / SIGNING_FILE)
    from server.s3_object_store import S3ObjectStore  # boto3 is an extra, and slow to import

    return S3ObjectStore.open(url)


async def _ensure_admin(services: Services, key_file: Path) -> None:
    """Make the user `admin` on the first start, and leave the key in a file that only the owner can read."""

    def work(connection: Connection) -> bool:
        if users.count(connection):
            return False
        # First of all: of several servers that start at once, only one comes further than this.
        user_id = users.create_user(connection, "admin", now=services.clock(), admin=True)
        # Written before the commit: a crash in between leaves a key for the next start, not a user whom nobody can use.
        secret = _kept_secret(key_file) or _write_secret(key_file, new_secret())
        users.create_key(connection, user_id, secret, now=services.clock(), description="made at the first start")
        return True

    if await services.database.write(work):
        log.info("made the first user", user="admin", key_file=str(key_file))


def _kept_secret(path: Path) -> str | None:
    """Return the key that is in the file already: of another database, which has no other copy of it."""
    kept = path.read_text("utf-8", "replace").strip() if path.exists() else ""
    return kept if is_secret(kept) else None


def _write_secret(path: Path, secret: str) -> str:
    path.unlink(missing_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(secret + "\n")
    return secret
