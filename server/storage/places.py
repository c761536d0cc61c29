"""Places in ordered lists: the values of what a list is ordered by, and a row number, which makes the order total.

A place stays where it is when entries come and go. So whoever goes through a list page by page meets every entry once,
even if he deletes each.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, String, and_, false, or_

from server.storage.rows import AnyRow


@dataclass(frozen=True, slots=True)
class Key:
    """What a list is ordered by. Entries without it come last."""

    column: ColumnElement[Any]
    descending: bool = False

    @property
    def directed(self) -> ColumnElement[Any]:
        """Return what goes behind ORDER BY."""
        return self.column.desc().nulls_last() if self.descending else self.column.asc().nulls_last()

    def may_be(self, value: object) -> bool:
        """Whether an entry can have such a value: a text or a number, as the column has."""
        if isinstance(self.column.type, String):
            return value is None or isinstance(value, str)
        return value is None or (isinstance(value, int | float) and not isinstance(value, bool))

    def is_behind(self, value: Any) -> ColumnElement[bool]:
        """Return the SQL for what comes later than this value."""
        if value is None:
            return false()
        return or_(self.column < value if self.descending else self.column > value, self.column.is_(None))

    def is_at(self, value: Any) -> ColumnElement[bool]:
        """Return the SQL for what stands where this value does."""
        return self.column.is_(None) if value is None else self.column == value


def page(
    statement: Select[Any], keys: Sequence[Key], row_id: ColumnElement[int], behind: Sequence[Any] | None, limit: int
) -> Select[Any]:
    """Return what of a statement comes behind a place, or first; each row has its place in its last columns."""
    if behind is not None:
        statement = statement.where(_is_behind(keys, row_id, behind))
    columns = [key.column.label(f"place_{index}") for index, key in enumerate(keys)]
    ordered = statement.add_columns(*columns, row_id.label("place_id"))
    return ordered.order_by(*(key.directed for key in keys), row_id).limit(limit)


def place_of(row: AnyRow, keys: Sequence[Key]) -> Sequence[Any]:
    """Return the place of a row of a `page`."""
    return list(row[-len(keys) - 1 :])


def _is_behind(keys: Sequence[Key], row_id: ColumnElement[int], place: Sequence[Any]) -> ColumnElement[bool]:
    behind: ColumnElement[bool] = row_id > place[-1]
    for key, value in zip(reversed(keys), reversed(place[:-1]), strict=True):
        behind = or_(key.is_behind(value), and_(key.is_at(value), behind))
    return behind
