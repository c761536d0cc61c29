"""What the agent must not forget: who it is, and which launches it holds. SQLite, in the agent's state folder.

The intent is written before an item is acknowledged, the handle after the start. Whatever a crash interrupts, the next
agent finds here how far each launch had come, and goes on. The one secret that an item may carry, an API key for its
run alone, is not written.
"""

import asyncio
import fcntl
import os
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import orjson
import structlog

from agent.errors import StateFolderInUse
from agent.launch import Assigned, Cause, End, Launch, Outcome, Stage, StopReason
from protocol.launch_spec import without_api_key

T = TypeVar("T")

AGAIN_SECONDS = 2.0

log = structlog.get_logger(__name__)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS identity (base_url TEXT, entity TEXT, agent_id TEXT, agent_name TEXT);
CREATE TABLE IF NOT EXISTS held (item_id TEXT PRIMARY KEY, launch BLOB) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this agent is to its server. Kept across restarts, so that the server knows whose the claimed items are."""

    base_url: str
    entity: str
    agent_id: str
    agent_name: str


@dataclass(frozen=True, slots=True)
class _Write:
    statement: str
    values: tuple[str | bytes, ...]
    done: asyncio.Future[None]


class Journal:
    """The journal of one agent. All work is done by one thread, in the order of the calls.

    What is to be written while the thread is busy is written together, in one transaction: a launch is written down
    several times on its way, and a turn of the thread costs more than what it writes.
    """

    def __init__(self, connection: sqlite3.Connection, lock: int) -> None:
        self._connection = connection
        self._lock = lock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._unwritten: list[_Write] = []
        self._writing: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, folder: Path) -> "Journal":
        """Open the journal in a state folder; `StateFolderInUse` if another agent lives there."""
        return await asyncio.to_thread(cls._open, folder)

    @classmethod
    def _open(cls, folder: Path) -> "Journal":
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(folder / "agent.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock)
            raise StateFolderInUse(
                f"Another agent is using the state folder {folder}. Stop it, or give this one its own with --state-dir."
            ) from error
        database = os.open(folder / "journal.db", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.close(database)
        connection = sqlite3.connect(folder / "journal.db", check_same_thread=False, isolation_level=None)
        # NORMAL in WAL mode: nothing is lost when the agent is killed.
        connection.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;" + _SCHEMA)
        return cls(connection, lock)

    async def identity(self) -> Identity | None:
        """Return who this agent was the last time."""

        def work() -> Identity | None:
            row = self._connection.execute("SELECT base_url, entity, agent_id, agent_name FROM identity").fetchone()
            return Identity(*row) if row else None

        return await self._do(work)

    async def remember_identity(self, identity: Identity) -> None:
        """Write down who this agent is."""

        def work() -> None:
            self._connection.execute("DELETE FROM identity")
            values = (identity.base_url, identity.entity, identity.agent_id, identity.agent_name)
            self._connection.execute("INSERT INTO identity VALUES (?, ?, ?, ?)", values)

        await self._do(work)

    async def record(self, launch: Launch) -> None:
        """Write down how far a launch has come."""
        await self.record_soon(launch)

    def record_soon(self, launch: Launch) -> asyncio.Future[None]:
        """Have it written down how far a launch has come, which may go on meanwhile: what follows is written later."""
        return self._enqueue("INSERT OR REPLACE INTO held VALUES (?, ?)", launch.item_id, _text(launch))

    async def forget(self, launch: Launch) -> None:
        """Strike out a launch that has ended and been reported."""
        await self._enqueue("DELETE FROM held WHERE item_id = ?", launch.item_id)

    async def launches(self) -> list[Launch]:
        """Return every launch that an earlier agent left."""

        def work() -> list[Launch]:
            rows = self._connection.execute("SELECT launch FROM held ORDER BY item_id")
            return [_launch(orjson.loads(text)) for (text,) in rows]

        return await self._do(work)

    async def close(self) -> None:
        """Finish writing and let go of the state folder."""
        if self._writing is not None:
            await asyncio.wait([self._writing], timeout=AGAIN_SECONDS)
            self._writing.cancel()  # the disk is full, and nobody is left who waits for it
            await asyncio.wait([self._writing])
        await asyncio.to_thread(self._thread.shutdown)
        self._connection.close()
        os.close(self._lock)

    def _enqueue(self, statement: str, *values: str | bytes) -> asyncio.Future[None]:
        write = _Write(statement, values, asyncio.get_running_loop().create_future())
        self._unwritten.append(write)
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_all())
        return write.done

    async def _write_all(self) -> None:
        structlog.contextvars.clear_contextvars()  # what is written here is of several launches
        while writes := self._unwritten:
            self._unwritten = []
            try:
                await self._write_together(writes)
            except sqlite3.Error as error:
                for write in writes:
                    if not write.done.done():
                        write.done.set_exception(error)
            for write in writes:
                if not write.done.done():
                    write.done.set_result(None)

    async def _write_together(self, writes: Sequence[_Write]) -> None:
        """Write, as soon as it can be done: no launch may go on that is not written down, and none is lost over it."""

        def work() -> None:
            with self._connection:  # commits, or takes it all back
                self._connection.execute("BEGIN")
                for write in writes:
                    self._connection.execute(write.statement, write.values)

        while True:
            try:
                await self._do(work)
                return
            except sqlite3.OperationalError as error:
                log.error("the journal cannot be written: is the disk full?", error=str(error))
                await asyncio.sleep(AGAIN_SECONDS)

    async def _do(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _text(launch: Launch) -> bytes:
    # All of the spec but the key is needed as it is, to go on after a restart.
    return orjson.dumps(replace(launch, spec=without_api_key(launch.spec)))


def _launch(values: dict[str, Any]) -> Launch:
    """Read a launch as this or an earlier version wrote it: what a later version added is ignored after a downgrade."""
    known = {field.name for field in fields(Launch)}
    launch = Launch(**{name: value for name, value in values.items() if name in known})
    launch.stage = Stage(launch.stage)
    launch.stop = StopReason(launch.stop) if launch.stop else None
    launch.end, launch.verdict = _end(values.get("end")), _end(values.get("verdict"))
    uses: list[str] | None = values.get("uses")
    launch.uses = None if uses is None else tuple(uses)
    assigned: dict[str, Any] | None = values.get("assigned")
    if assigned:
        launch.assigned = Assigned(tuple(assigned["gpus"]), assigned["cpus"], assigned["memory"])
    return launch


def _end(values: dict[str, Any] | None) -> End | None:
    if not values:
        return None
    end = End(**values)
    return replace(end, outcome=Outcome(end.outcome), cause=Cause(end.cause))
