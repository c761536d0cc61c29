"""SQL that each engine has in words of its own."""

from typing import Any, TypeVar, cast

from sqlalchemy import ColumnElement
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

T = TypeVar("T")


def by_engine(*, sqlite: ColumnElement[T], postgresql: ColumnElement[T]) -> ColumnElement[T]:
    """Return the SQL that is one thing on SQLite and another one on PostgreSQL."""
    # Without a type: what is a boolean to SQLAlchemy is compared with 1 on SQLite, which then stops at no first AND.
    return cast("ColumnElement[T]", _ByEngine(sqlite, postgresql))


class _ByEngine(FunctionElement[Any]):
    """Two expressions, of which one is used."""

    name = "by_engine"
    inherit_cache = True


@compiles(_ByEngine, "sqlite")
def _in_sqlite(element: _ByEngine, compiler: Any, **options: Any) -> str:
    on_sqlite, _ = element.clauses
    return f"({compiler.process(on_sqlite, **options)})"


@compiles(_ByEngine, "postgresql")
def _in_postgresql(element: _ByEngine, compiler: Any, **options: Any) -> str:
    _, on_postgresql = element.clauses
    return f"({compiler.process(on_postgresql, **options)})"
