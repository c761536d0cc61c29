"""INSERT ... ON CONFLICT, which both engines have under the same words but in different modules."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

from sqlalchemy import Connection, Dialect, Table
from sqlalchemy.dialects import postgresql, sqlite

_MOST_ROWS = 64
"""In a statement on SQLite, whose parameters are limited."""


def insert_into(table: Table, dialect: str) -> Any:
    """Return an INSERT that an ON CONFLICT can be added to."""
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)


def upsert(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]], *, update: Sequence[str]) -> None:
    """Insert rows, all with the same columns; where the primary key is there already, set the columns `update`.

    Past SQLAlchemy, which takes longer to look at a row of a history than the database takes to store it. So values
    must be as the driver wants them.
    """
    if not rows:
        return
    sql, names = _statement(connection.dialect, table, tuple(rows[0]), tuple(update))
    connection.exec_driver_sql(sql, [tuple([row[name] for name in names]) for row in rows])


def upsert_columns(
    connection: Connection, table: Table, shared: Mapping[str, Any], columns: Mapping[str, Sequence[Any]]
) -> None:
    """Insert many rows, given by columns; `shared` are columns of which all have the same value.

    Where the primary key is there already, the others are set. Many rows are one statement: between two statements of a
    thread others get their turn, and it has to wait for its own.
    """
    names, values = (*shared, *columns), tuple(columns.values())
    if connection.dialect.name == "postgresql":
        sql = _from_arrays(connection.dialect, table, names, len(shared))
        connection.exec_driver_sql(sql, (*shared.values(), *map(list, values)))
        return
    start, count, left = 0, _MOST_ROWS, len(values[0])
    while left:
        while count > left:
            count //= 2  # so that there are few different statements, which are prepared once
        rows = zip(*(column[start : start + count] for column in values), strict=True)
        sql = _with_rows(connection.dialect, table, names, len(shared), count)
        connection.exec_driver_sql(sql, (*shared.values(), *chain.from_iterable(rows)))
        start, left = start + count, left - count


@lru_cache
def _with_rows(dialect: Dialect, table: Table, names: tuple[str, ...], shared: int, count: int) -> str:
    """Return the SQL with the values of so many rows as parameters."""
    row = ", ".join([*(f"?{number}" for number in range(1, shared + 1)), *("?" for _ in names[shared:])])
    return _inserting(dialect, table, names, "VALUES " + ", ".join([f"({row})"] * count))


@lru_cache
def _from_arrays(dialect: Dialect, table: Table, names: tuple[str, ...], shared: int) -> str:
    """Return the SQL with an array for each column."""
    types = [table.c[name].type.compile(dialect) for name in names]
    numbered = list(enumerate(types, 1))
    values = ", ".join(f"${number}::{kind}" for number, kind in numbered[:shared])
    arrays = ", ".join(f"${number}::{kind}[]" for number, kind in numbered[shared:])
    return _inserting(dialect, table, names, f"SELECT {values}, * FROM unnest({arrays})")  # noqa: S608 -- all of it is ours


def _inserting(dialect: Dialect, table: Table, names: Sequence[str], what: str) -> str:
    quote = dialect.identifier_preparer.quote
    keys = [column.name for column in table.primary_key.columns]
    changes = ", ".join(f"{quote(name)} = excluded.{quote(name)}" for name in names if name not in keys)
    listed = ", ".join(map(quote, names))
    conflict = f"ON CONFLICT ({', '.join(map(quote, keys))}) DO UPDATE SET {changes}"
    return f"INSERT INTO {quote(table.name)} ({listed}) {what} {conflict}"


@lru_cache
def _statement(
    dialect: Dialect, table: Table, columns: tuple[str, ...], update: tuple[str, ...]
) -> tuple[str, Sequence[str]]:
    """Return the SQL, and the columns in the order of its parameters."""
    statement = insert_into(table, dialect.name)
    keys = [column.name for column in table.primary_key.columns]
    if update:
        changes = {name: statement.excluded[name] for name in update}
        statement = statement.on_conflict_do_update(index_elements=keys, set_=changes)
    else:
        statement = statement.on_conflict_do_nothing(index_elements=keys)
    compiled = statement.compile(dialect=dialect, column_keys=columns)
    assert compiled.positiontup is not None
    return compiled.string, compiled.positiontup
