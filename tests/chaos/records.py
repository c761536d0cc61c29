"""The server's own event log: every state that an item gets into is written down by its database."""

import sqlite3
from pathlib import Path
from typing import Any

from server.ids import decode, encode
from tests.chaos.evidence import Event

_TRIGGERS = """
CREATE TABLE IF NOT EXISTS chaos (item INTEGER, state TEXT, at REAL);
CREATE TRIGGER IF NOT EXISTS chaos_state AFTER UPDATE OF state ON run_queue_items BEGIN
  INSERT INTO chaos VALUES (new.id, new.state, (julianday('now') - 2440587.5) * 86400.0);
END;
"""


class Records:
    """Reads the database of a server on SQLite, beside the server."""

    def __init__(self, data_dir: Path) -> None:
        self._database = sqlite3.connect(data_dir / "launchbay.db", timeout=60, isolation_level=None)
        self._database.executescript(_TRIGGERS)

    def events(self) -> list[Event]:
        """Return what happened to items."""
        rows = self._database.execute("SELECT at, item, state FROM chaos").fetchall()
        return [Event(at, encode("RunQueueItem", item), state) for at, item, state in rows]

    def unfinished(self) -> dict[str, str]:
        """Return the states of the items that have not ended."""
        rows = self._database.execute("SELECT id, state FROM run_queue_items WHERE ended_at IS NULL")
        return {encode("RunQueueItem", row_id): state for row_id, state in rows}

    def state(self, item: str) -> str:
        """Return the state of an item."""
        return self._one("SELECT state FROM run_queue_items WHERE id = ?", item)

    def exit_code(self, item: str) -> int | None:
        """Return the exit code of an item's launch."""
        return self._one("SELECT exit_code FROM run_queue_items WHERE id = ?", item)

    def output(self, item: str) -> bytes:
        """Return the output of an item's launch."""
        query = "SELECT content FROM item_log_chunks WHERE item_id = ? ORDER BY offset"
        return b"".join(content for (content,) in self._database.execute(query, (_row(item),)))

    def close(self) -> None:
        """Read no more."""
        self._database.close()

    def _one(self, query: str, item: str) -> Any:
        return self._database.execute(query, (_row(item),)).fetchone()[0]


def _row(item: str) -> int:
    return decode("RunQueueItem", item)
