"""SQLite, the embedded default: one file.

It allows one writer at a time, and many writers that wait for a lock have long tails. So one thread writes: whatever is
waiting when it looks goes into one transaction, each piece of work behind a savepoint of its own, because a commit
costs more than most of the work. A few read-only connections read beside it (WAL).
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Concatenate

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry, SingletonThreadPool

from server import regular_expressions
from server.database import P, T
from server.migrations.upgrade import upgrade
from server.wakeups import Wakeups

READERS = 4
BUSY_TIMEOUT_SECONDS = 10
MAX_TOGETHER = 16
"""So that nobody waits long for the work of others."""


class SqliteDatabase:
    """One file, one writer thread, a few readers."""

    def __init__(self, writer: Engine, readers: Engine) -> None:
        self._writer = _Writer(writer)
        self._reader_engine = readers
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

        def transact() -> T:
            with self._reader_engine.begin() as connection:
                return work(connection, *args, **kwargs)

        return await asyncio.get_running_loop().run_in_executor(self._readers, transact)

    async def write(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """See `Database.write`."""
        return await self._writer.run(lambda connection: work(connection, *args, **kwargs))

    async def claim(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """See `Database.claim`. There is only one writer, so that nobody else claims at the same time."""
        return await self.write(work, *args, **kwargs)

    async def share(self, wakeups: Wakeups) -> None:
        """See `Database.share`. There is only one process."""
        await asyncio.Event().wait()

    async def close(self) -> None:
        """See `Database.close`."""
        await asyncio.to_thread(self._writer.close)
        await asyncio.to_thread(self._readers.shutdown)
        self._reader_engine.dispose()


@dataclass(frozen=True, slots=True)
class _Job:
    """Work for the writer, and who waits for its outcome."""

    work: Callable[[Connection], Any]
    future: asyncio.Future[Any]


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What came of a job: a result, or the error that undid it."""

    job: _Job
    result: Any = None
    error: BaseException | None = None

    def deliver(self) -> None:
        """Tell who waits, if he still does."""
        if self.job.future.done():
            return
        if self.error is None:
            self.job.future.set_result(self.result)
        else:
            self.job.future.set_exception(self.error)


class _Writer:
    """The thread that writes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread = Thread(target=self._work_off, name="sqlite-writer", daemon=True)
        self._thread.start()

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Do work in a transaction, committed when this returns."""
        if not self._thread.is_alive():
            raise RuntimeError("The database is closed.")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._jobs.put(_Job(work, future))
        return await future

    def close(self) -> None:
        """Finish what is queued, and end."""
        self._jobs.put(None)
        self._thread.join()
        self._engine.dispose()

    def _work_off(self) -> None:
        while (first := self._jobs.get()) is not None:
            together, closing = self._with_waiting(first)
            outcomes = _transact(self._engine, together)
            loop = first.future.get_loop()
            if not loop.is_closed():
                loop.call_soon_threadsafe(_deliver, outcomes)
            if closing:
                return

    def _with_waiting(self, first: _Job) -> tuple[list[_Job], bool]:
        """Return the jobs that wait by now, and whether nothing comes after them."""
        together = [first]
        while len(together) < MAX_TOGETHER:
            try:
                job = self._jobs.get_nowait()
            except Empty:
                break
            if job is None:
                return together, True
            together.append(job)
        return together, False


def _deliver(outcomes: Sequence[_Outcome]) -> None:
    for outcome in outcomes:
        outcome.deliver()


def _transact(engine: Engine, jobs: Sequence[_Job]) -> list[_Outcome]:
    """Do all jobs in one transaction. One that fails is undone alone; if the commit fails, all are."""
    try:
        with engine.begin() as connection:
            return [_attempt(connection, job) for job in jobs]
    except BaseException as error:  # noqa: BLE001 -- whatever it is, it belongs to those who wait
        return [_Outcome(job, error=error) for job in jobs]


def _attempt(connection: Connection, job: _Job) -> _Outcome:
    raw: Any = connection.connection.dbapi_connection
    raw.execute("SAVEPOINT one")  # past SQLAlchemy, for which a savepoint is as much work as a claim
    try:
        outcome = _Outcome(job, job.work(connection))
    except BaseException as error:  # noqa: BLE001 -- whatever it is, it belongs to who waits
        raw.execute("ROLLBACK TO one")
        outcome = _Outcome(job, error=error)
    raw.execute("RELEASE one")
    return outcome


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
        raw: Any = connection
        raw.create_function("regexp", 2, regular_expressions.is_found, deterministic=True)

    def start(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    event.listen(engine, "connect", configure)
    event.listen(engine, "begin", start)
    return engine
