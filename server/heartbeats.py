"""Remembers who was heard of, and writes it down in batches: a heartbeat is not worth a transaction."""

import asyncio
from collections import defaultdict
from collections.abc import Mapping

import structlog
from sqlalchemy import Connection, Table, bindparam, update

from server.database import Database

FLUSH_SECONDS = 1.0

log = structlog.get_logger(__name__)


class Heartbeats:
    """Rows of tables with a column `heartbeat_at`, and when each was last heard of."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._heard: defaultdict[Table, dict[int, float]] = defaultdict(dict)

    def beat(self, table: Table, row_id: int, now: float) -> None:
        """Note that somebody was heard of."""
        self._heard[table][row_id] = now

    async def flush(self) -> None:
        """Write down what was heard since the last time."""
        heard, self._heard = self._heard, defaultdict(dict)
        if not heard:
            return
        try:
            await self._database.claim(_store, heard)  # a heartbeat is right whatever else changes
        except BaseException:
            for table, beats in heard.items():
                self._heard[table] = {**beats, **self._heard[table]}  # what came meanwhile is newer
            raise

    async def run(self) -> None:
        """Flush for ever."""
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            try:
                await self.flush()
            except Exception:  # the supervisor: a full disk now must not make every run look crashed later
                log.exception("heartbeats could not be written; they are kept for the next try")


def _store(connection: Connection, heard: Mapping[Table, Mapping[int, float]]) -> None:
    for table, beats in heard.items():
        statement = (
            update(table)
            .where(table.c.id == bindparam("row_id"), table.c.heartbeat_at < bindparam("seen"))
            .values(heartbeat_at=bindparam("seen"))
        )
        # In one order, so that two servers do not wait for each other.
        connection.execute(statement, [{"row_id": row_id, "seen": beats[row_id]} for row_id in sorted(beats)])
