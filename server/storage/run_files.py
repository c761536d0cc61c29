"""Files of runs: their names, and where their bytes are."""

from collections.abc import Sequence

from sqlalchemy import Connection, bindparam, delete, func, insert, select

from server.storage.rows import AnyRow
from server.storage.tables import run_files

_MAX_PARAMETERS = 500
"""Below every engine's limit; a client may announce thousands of files at once."""
# Made once, as every run has files.
_NAMED = select(run_files).where(
    run_files.c.run_id == bindparam("of_run"), run_files.c.name.in_(bindparam("names", expanding=True))
)
_INSERT = insert(run_files)


def announce(
    connection: Connection, run_id: int, names: Sequence[str], new_keys: Sequence[str], now: float
) -> dict[str, AnyRow]:
    """Make room for files that will be uploaded; returns the row of each name. A known file keeps its object key."""
    known = _by_name(connection, run_id, names)
    fresh = {name: key for name, key in zip(names, new_keys, strict=True) if name not in known}
    if fresh:
        rows = [{"run_id": run_id, "name": name, "object_key": key, "updated_at": now} for name, key in fresh.items()]
        connection.execute(_INSERT, rows)
    return known | _by_name(connection, run_id, list(fresh))


def _by_name(connection: Connection, run_id: int, names: Sequence[str]) -> dict[str, AnyRow]:
    found: dict[str, AnyRow] = {}
    for start in range(0, len(names), _MAX_PARAMETERS):
        chosen = names[start : start + _MAX_PARAMETERS]
        found |= {row.name: row for row in connection.execute(_NAMED, {"of_run": run_id, "names": chosen})}
    return found


def keys(connection: Connection, run_id: int, names: Sequence[str]) -> list[str]:
    """Return where files of these names are stored, of those that were announced."""
    return [row.object_key for row in _by_name(connection, run_id, names).values()]


def waiting(connection: Connection, run_id: int) -> list[str]:
    """Return where files are to be stored whose upload has not arrived, as far as is known."""
    statement = select(run_files.c.object_key).where(run_files.c.run_id == run_id, run_files.c.size_bytes.is_(None))
    return list(connection.scalars(statement))


def listing(
    connection: Connection, run_id: int, names: Sequence[str], pattern: str | None, after: int, limit: int
) -> list[AnyRow]:
    """Return files whose upload has arrived; of some names, or of a LIKE pattern."""
    statement = select(run_files).where(
        run_files.c.run_id == run_id, run_files.c.size_bytes.is_not(None), run_files.c.id > after
    )
    if names:
        statement = statement.where(run_files.c.name.in_(names))
    if pattern:
        # As MySQL's LIKE, which the client's documentation promises: case does not count, and a backslash escapes.
        statement = statement.where(run_files.c.name.ilike(pattern, escape="\\"))
    return list(connection.execute(statement.order_by(run_files.c.id).limit(limit)))


def count(connection: Connection, run_id: int) -> int:
    """Return how many files a run has."""
    statement = select(func.count()).where(run_files.c.run_id == run_id, run_files.c.size_bytes.is_not(None))
    return connection.scalar(statement) or 0


def by_ids(connection: Connection, file_ids: Sequence[int]) -> list[AnyRow]:
    """Return files by row number."""
    return list(connection.execute(select(run_files).where(run_files.c.id.in_(file_ids))))


def remove(connection: Connection, file_ids: Sequence[int]) -> None:
    """Forget files."""
    connection.execute(delete(run_files).where(run_files.c.id.in_(file_ids)))
