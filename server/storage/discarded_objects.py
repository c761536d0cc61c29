"""Objects that nothing refers to any more, noted by whoever forgot them, until they are removed from the store."""

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, delete, select

from server.storage.rows import AnyRow
from server.storage.tables import discarded_objects
from server.storage.upsert import upsert

AT_ONCE = 500
"""How many are removed in one request to the store."""


def add(connection: Connection, sizes: Mapping[str, int | None], now: float) -> None:
    """Note objects with their sizes, as far as these are known. They need not be there."""
    rows = [{"object_key": key, "size_bytes": size or 0, "discarded_at": now} for key, size in sizes.items()]
    upsert(connection, discarded_objects, rows, update=())


def page(connection: Connection, before: float, after: str) -> list[AnyRow]:
    """Return a page of the objects that were discarded before a time, by key."""
    is_due = (discarded_objects.c.discarded_at <= before) & (discarded_objects.c.object_key > after)
    statement = select(discarded_objects).where(is_due).order_by(discarded_objects.c.object_key)
    return list(connection.execute(statement.limit(AT_ONCE)))


def forget(connection: Connection, keys: Sequence[str]) -> None:
    """Note that objects have been removed."""
    connection.execute(delete(discarded_objects).where(discarded_objects.c.object_key.in_(keys)))
