"""Times in SQL, the same on both engines, and as `server.times` shows them."""

from typing import Any

from sqlalchemy import ColumnElement, Double, Text
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeEngine


def whole_seconds(column: ColumnElement[Any]) -> ColumnElement[float]:
    """Return the SQL for seconds since the epoch without their fraction."""
    return _WholeSeconds(column)


def iso_text(column: ColumnElement[Any]) -> ColumnElement[str]:
    """Return the SQL for seconds since the epoch as ISO 8601 in UTC, `2026-01-31T12:00:00Z`."""
    return _IsoText(_WholeSeconds(column))  # SQLite would round


class _WholeSeconds(FunctionElement[float]):
    name = "whole_seconds"
    type: TypeEngine[float] = Double()
    inherit_cache = True


class _IsoText(FunctionElement[str]):
    name = "iso_text"
    type = Text()
    inherit_cache = True


@compiles(_WholeSeconds, "sqlite")
def _whole_in_sqlite(element: _WholeSeconds, compiler: Any, **options: Any) -> str:
    return f"CAST({compiler.process(element.clauses, **options)} AS INTEGER)"


@compiles(_WholeSeconds, "postgresql")
def _whole_in_postgresql(element: _WholeSeconds, compiler: Any, **options: Any) -> str:
    return f"floor({compiler.process(element.clauses, **options)})"


@compiles(_IsoText, "sqlite")
def _text_in_sqlite(element: _IsoText, compiler: Any, **options: Any) -> str:
    return f"strftime('%Y-%m-%dT%H:%M:%SZ', {compiler.process(element.clauses, **options)}, 'unixepoch')"


@compiles(_IsoText, "postgresql")
def _text_in_postgresql(element: _IsoText, compiler: Any, **options: Any) -> str:
    time = f"to_timestamp({compiler.process(element.clauses, **options)}) AT TIME ZONE 'UTC'"
    return f"""to_char({time}, 'YYYY-MM-DD"T"HH24:MI:SS"Z"')"""
