"""INSERT ... ON CONFLICT, which both engines have under the same words but in different modules."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, Dialect, Table
from sqlalchemy.dialects import postgresql, sqlite


def upsert(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]], *, update: Sequence[str]) -> None:
    """Insert rows, all with the same columns; where the primary key is there already, set the columns `update`.

    Past SQLAlchemy, which takes longer to look at a row of a history than the database takes to store it. So values
    must be as the driver wants them.
    """
    if not rows:
        return
    sql, names = _statement(connection.dialect, table, tuple(rows[0]), tuple(update))
    connection.exec_driver_sql(sql, [tuple([row[name] for name in names]) for row in rows])


@lru_cache
def _statement(
    dialect: Dialect, table: Table, columns: tuple[str, ...], update: tuple[str, ...]
) -> tuple[str, Sequence[str]]:
    """Return the SQL, and the columns in the order of its parameters."""
    insert = postgresql.insert if dialect.name == "postgresql" else sqlite.insert
    statement = insert(table)
    keys = [column.name for column in table.primary_key.columns]
    if update:
        changes = {name: statement.excluded[name] for name in update}
        statement = statement.on_conflict_do_update(index_elements=keys, set_=changes)
    else:
        statement = statement.on_conflict_do_nothing(index_elements=keys)
    compiled = statement.compile(dialect=dialect, column_keys=columns)
    assert compiled.positiontup is not None
    return compiled.string, compiled.positiontup
