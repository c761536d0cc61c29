"""Whether a text is a part of another one, the same on both engines: LIKE has no case on SQLite, and is slow there."""

from typing import Any

from sqlalchemy import ColumnElement, func

from server.storage.by_engine import by_engine


def has_part(column: ColumnElement[Any], part: str) -> ColumnElement[bool]:
    """Return the SQL for a text that contains another."""
    return by_engine(sqlite=func.instr(column, part), postgresql=func.strpos(column, part)) > 0
