"""Whether a text is a part of another one, the same on both engines: LIKE has no case on SQLite, and is slow there."""

from typing import Any

from sqlalchemy import ColumnElement, Integer
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement


def has_part(column: ColumnElement[Any], part: str) -> ColumnElement[bool]:
    """Return the SQL for a text that contains another."""
    return _Position(column, part) > 0


class _Position(FunctionElement[int]):
    """Where a text begins in another one; 0 if it does not."""

    name = "position_in_text"
    type = Integer()
    inherit_cache = True


@compiles(_Position, "sqlite")
def _in_sqlite(element: _Position, compiler: Any, **options: Any) -> str:
    return f"instr({compiler.process(element.clauses, **options)})"


@compiles(_Position, "postgresql")
def _in_postgresql(element: _Position, compiler: Any, **options: Any) -> str:
    return f"strpos({compiler.process(element.clauses, **options)})"
