"""Times in SQL, the same on both engines, and as `server.times` shows them."""

from typing import Any

from sqlalchemy import ColumnElement, Integer, cast, func

from server.storage.by_engine import by_engine


def whole_seconds(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return the SQL for seconds since the epoch without their fraction."""
    return by_engine(sqlite=cast(column, Integer), postgresql=func.floor(column))


def iso_text(column: ColumnElement[Any]) -> ColumnElement[str]:
    """Return the SQL for seconds since the epoch as ISO 8601 in UTC, `2026-01-31T12:00:00Z`."""
    seconds = whole_seconds(column)  # SQLite would round
    in_utc = func.timezone("UTC", func.to_timestamp(seconds))
    return by_engine(
        sqlite=func.strftime("%Y-%m-%dT%H:%M:%SZ", seconds, "unixepoch"),
        postgresql=func.to_char(in_utc, 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
    )
