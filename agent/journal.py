"""What the agent must not forget: who it is, and which launches it holds. SQLite, in the agent's state folder.

The intent is written before an item is acknowledged, the handle after the start. Whatever a crash interrupts, the next
agent finds here how far each launch had come, and goes on. The one secret that an item may carry, an API key for its
run alone, is not written.
"""

import asyncio
import fcntl
import json
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from agent.errors import StateFolderInUse
from agent.launch import End, Launch, Outcome, Stage
from backends.base import Handle
from protocol.launch_spec import without_api_key

T = TypeVar("T")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS identity (base_url TEXT, entity TEXT, agent_id TEXT, agent_name TEXT);
CREATE TABLE IF NOT EXISTS launches (
    item_id TEXT PRIMARY KEY, attempt INTEGER, queue TEXT, spec TEXT, run_id TEXT, stage TEXT, resource TEXT,
    handle TEXT, end TEXT, stop_requested INTEGER, log_offset INTEGER
) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this agent is to its server. Kept across restarts, so that the server knows whose the claimed items are."""

    base_url: str
    entity: str
    agent_id: str
    agent_name: str


class Journal:
    """The journal of one agent. All work is done by one thread, in the order of the calls."""

    def __init__(self, connection: sqlite3.Connection, lock: int) -> None:
        self._connection = connection
        self._lock = lock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal")

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
        values = _values(launch)

        def work() -> None:
            marks = ", ".join("?" * len(values))
            self._connection.execute(f"INSERT OR REPLACE INTO launches VALUES ({marks})", values)  # noqa: S608

        await self._do(work)

    async def forget(self, launch: Launch) -> None:
        """Strike out a launch that has ended and been reported."""
        await self._do(lambda: self._connection.execute("DELETE FROM launches WHERE item_id = ?", (launch.item_id,)))

    async def launches(self) -> list[Launch]:
        """Return every launch that an earlier agent left."""

        def work() -> list[Launch]:
            return [_launch(row) for row in self._connection.execute("SELECT * FROM launches ORDER BY item_id")]

        return await self._do(work)

    async def close(self) -> None:
        """Finish writing and let go of the state folder."""
        await asyncio.to_thread(self._thread.shutdown)
        self._connection.close()
        os.close(self._lock)

    async def _do(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _values(launch: Launch) -> tuple[str | int | None, ...]:
    return (
        launch.item_id,
        launch.attempt,
        launch.queue,
        json.dumps(without_api_key(launch.spec)),  # all the rest is needed as it is, to go on after a restart
        launch.run_id,
        launch.stage,
        launch.resource,
        launch.handle,
        json.dumps(asdict(launch.end)) if launch.end else None,
        int(launch.stop_requested),
        launch.log_offset,
    )


def _launch(row: tuple[str, int, str, str, str, str, str, str | None, str | None, int, int]) -> Launch:
    item_id, attempt, queue, spec, run_id, stage, resource, handle, end, stop_requested, log_offset = row
    return Launch(
        item_id=item_id,
        attempt=attempt,
        queue=queue,
        spec=json.loads(spec),
        run_id=run_id,
        stage=Stage(stage),
        resource=resource,
        handle=Handle(handle) if handle is not None else None,
        end=_end(json.loads(end)) if end else None,
        stop_requested=bool(stop_requested),
        log_offset=log_offset,
    )


def _end(raw: dict[str, str | int | None]) -> End:
    return End(**{**raw, "outcome": Outcome(raw["outcome"])})  # type: ignore[arg-type]
