"""SQLite, the embedded default: one file.

It allows one writer at a time, and many writers that wait for a lock have long tails. So one thread writes, works
through a queue, and starts each transaction with `BEGIN IMMEDIATE`; a few read-only connections read beside it (WAL).
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Concatenate

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry, SingletonThreadPool

from server.database import P, T
from server.migrations.upgrade import upgrade
from server.wakeups import Wakeups

READERS = 4
BUSY_TIMEOUT_SECONDS = 10


class SqliteDatabase:
    """One file, one writer thread, a few readers."""

    def __init__(self, writer: Engine, readers: Engine) -> None:
        self._writer_engine = writer
        self._reader_engine = readers
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="sqlite-writer")
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="sqlite-reader")

    @classmethod
    async def open(cls, path: Path) -> "SqliteDatabase":
        """Open the file, make it if it is missing, and bring its schema up to date."""
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = _engine(path, begin="BEGIN IMMEDIATE")
        await asyncio.to_thread(upgrade, writer)
        return cls(writer, _engine(path, begin="BEGIN"))

    async def read(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """See `Database.read`."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._readers, lambda: _transact(self._reader_engine, work, *args, **kwargs))

    async def write(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """See `Database.write`."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._writer, lambda: _transact(self._writer_engine, work, *args, **kwargs))

    async def claim(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """See `Database.claim`. There is only one writer, so that nobody else claims at the same time."""
        return await self.write(work, *args, **kwargs)

    async def share(self, wakeups: Wakeups) -> None:
        """See `Database.share`. There is only one process."""
        await asyncio.Event().wait()

    async def close(self) -> None:
        """See `Database.close`."""
        await asyncio.to_thread(self._writer.shutdown)
        await asyncio.to_thread(self._readers.shutdown)
        self._writer_engine.dispose()
        self._reader_engine.dispose()


def _transact(engine: Engine, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
    with engine.begin() as connection:
        return work(connection, *args, **kwargs)


def _engine(path: Path, *, begin: str) -> Engine:
    """Make an engine with one connection per thread, whose transactions start with the given statement."""
    engine = create_engine(
        f"sqlite:///{path}",
        poolclass=SingletonThreadPool,
        pool_size=READERS + 1,
        connect_args={"timeout": BUSY_TIMEOUT_SECONDS, "check_same_thread": False, "isolation_level": None},
    )

    def configure(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        # In WAL mode NORMAL loses nothing when the process dies; only a power cut may cost the last transactions.
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    def start(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    event.listen(engine, "connect", configure)
    event.listen(engine, "begin", start)
    return engine
