"""PostgreSQL, where several server processes share one database.

Everything runs on the event loop, over a pool of connections. Transactions see one snapshot (REPEATABLE READ), and one
that met somebody else's change is run again, so that the functions of `server.storage` are as right here as they are
with SQLite's one writer. Only claims see more than a snapshot: see `Database.claim`.
"""

import asyncio
from collections.abc import Callable
from random import Random, SystemRandom
from typing import Any, Concatenate, Final

import asyncpg  # type: ignore[import-untyped]
from sqlalchemy import Connection, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from server.database import DatabaseUnusable, P, T
from server.database.notifications import Notifications
from server.errors import RequestError
from server.migrations.upgrade import upgrade_connection
from server.wakeups import Wakeups

POOL_SIZE = 10
CLAIMERS = 10
ATTEMPTS = 50
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.001, 0.1
_MIGRATION_LOCK: Final = 0x6C61756E
"""Any number will do, as long as nobody else in the database uses it."""

_BEGIN_AGAIN: Final = {
    "40001",  # serialization failure: somebody else changed what we had read
    "40P01",  # deadlock
    "23505",  # unique violation: somebody else has just made the row that was missing when we looked
    "23503",  # foreign key violation: somebody else has just deleted the row that was there when we looked
}
_BAD_VALUES: Final = "22"
"""The class of errors of a value that the database cannot hold or has no words for, such as a NUL in a text."""


class PostgresDatabase:
    """A PostgreSQL database, shared by any number of server processes."""

    def __init__(self, engine: AsyncEngine, random: Random) -> None:
        self._engine = engine
        self._random = random
        self._readers = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        self._writers = engine.execution_options(isolation_level="REPEATABLE READ")
        # Claims come so often that taking their connections from the pool would be a fifth of their work.
        self._idle: list[AsyncConnection] = []
        self._claiming = asyncio.Semaphore(CLAIMERS)
        self._claimers = engine.execution_options(isolation_level="AUTOCOMMIT")

    @classmethod
    async def open(cls, url: URL, random: Random | None = None) -> "PostgresDatabase":
        """Connect, and bring the schema up to date; `DatabaseUnusable` if that cannot be done."""
        engine = create_async_engine(
            url,
            pool_size=POOL_SIZE,
            max_overflow=CLAIMERS + 1,  # one listens
            # Compiling the statements for milliseconds of work at the start of every connection is a waste.
            connect_args={"server_settings": {"jit": "off", "application_name": "launchbay"}},
        )
        try:
            async with engine.begin() as connection:
                # Of several servers that start at once, one makes the schema and the others wait for it.
                await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATION_LOCK})
                await connection.run_sync(upgrade_connection)
        except (OSError, DBAPIError, asyncpg.PostgresError) as error:
            await engine.dispose()
            reason = error.orig if isinstance(error, DBAPIError) else error
            raise DatabaseUnusable(
                f"Database {url.render_as_string(hide_password=True)} cannot be used: {reason}. "
                "Check that PostgreSQL runs there, and name, user and password."
            ) from error
        return cls(engine, random or SystemRandom())

    async def read(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """See `Database.read`."""
        return await self._run(self._readers, lambda connection: work(connection, *args, **kwargs))

    async def write(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """See `Database.write`."""
        return await self._run(self._writers, lambda connection: work(connection, *args, **kwargs))

    async def claim(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """See `Database.claim`."""
        async with self._claiming:
            while True:
                connection = self._idle.pop() if self._idle else await self._claimers.connect()
                try:
                    result = await connection.run_sync(_commit_each, lambda sync: work(sync, *args, **kwargs))
                except BaseException as error:
                    await connection.close()
                    # What was done in spite of it was done to nobody: such a lease ends by itself.
                    if isinstance(error, DBAPIError) and _may_begin_again(error):
                        continue
                    raise
                self._idle.append(connection)
                return result

    async def share(self, wakeups: Wakeups) -> None:
        """See `Database.share`."""
        await Notifications(self._engine, wakeups, self._random).run()

    async def close(self) -> None:
        """See `Database.close`."""
        for connection in self._idle:
            await connection.close()
        await self._engine.dispose()

    async def _run(self, engine: AsyncEngine, work: Callable[[Connection], T]) -> T:
        pause = FIRST_PAUSE_SECONDS
        for attempts_left in reversed(range(ATTEMPTS)):
            async with engine.connect() as connection, connection.begin() as transaction:
                try:
                    result = await connection.run_sync(work)
                except DBAPIError as error:
                    if _state(error).startswith(_BAD_VALUES):
                        raise RequestError(f"This cannot be stored, or looked for: {error.orig}.") from error
                    if not attempts_left or not _may_begin_again(error):
                        raise
                    await transaction.rollback()
                else:
                    # Not tried again: if the connection breaks here, nobody knows whether it was committed.
                    await transaction.commit()
                    return result
            # By chance, so that those who got into each other's way do not meet again.
            await asyncio.sleep(pause * self._random.random())
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
        raise AssertionError("unreachable")


def _commit_each(connection: Connection, work: Callable[[Connection], T]) -> T:
    """Run statements each of which is committed at once, and end what SQLAlchemy takes for a transaction."""
    result = work(connection)
    connection.commit()
    return result


def _may_begin_again(error: DBAPIError) -> bool:
    # A connection that broke before the commit has done nothing; asking for one from the pool again finds a good one.
    return error.connection_invalidated or _state(error) in _BEGIN_AGAIN


def _state(error: DBAPIError) -> str:
    """Return the SQLSTATE of an error."""
    original: Any = error.orig
    return getattr(original, "sqlstate", None) or ""


def parse_url(given: str) -> URL:
    """Read a database URL as people write it for PostgreSQL; `DatabaseUnusable` if it is none."""
    try:
        url = make_url(given)
    except ArgumentError as error:
        raise DatabaseUnusable("The database URL cannot be read. Write postgresql://USER@HOST:PORT/NAME.") from error
    if url.drivername not in {"postgresql", "postgres"}:
        raise DatabaseUnusable(
            f"A database of kind {url.drivername!r} cannot be used. Write postgresql://USER@HOST:PORT/NAME, or leave "
            "the URL out for SQLite."
        )
    query = dict(url.query)
    if "sslmode" in query:
        query["ssl"] = query.pop("sslmode")  # what the driver calls it
    return url.set(drivername="postgresql+asyncpg", query=query)
