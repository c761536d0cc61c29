"""Filters as the public API sends them, in MongoDB's language, as SQL that is never null.

What is filtered says which fields it has (`Field`); this module has the language and the fields that are columns. What
is not understood is refused by name, never ignored.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol, cast

from sqlalchemy import ColumnElement, Connection, Select, and_, false, func, literal, not_, or_, select, true
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql import visitors
from sqlalchemy.sql.functions import FunctionElement

from server import json_text, regular_expressions
from server.errors import RequestError
from server.storage.sql_times import iso_text, whole_seconds
from server.storage.text_search import has_part

OPERATORS = (
    *("$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin", "$not", "$exists", "$regex", "$contains"),
    *("$and", "$or", "$nor"),
)
MAX_DEPTH = 20
MAX_CONDITIONS = 500
"""SQLite takes no expression that is deeper than 1000, and each alternative is one deeper than the one before."""
MAX_VALUES = 10_000


class Field(Protocol):
    """Something that can be filtered by."""

    def test(self, operator: str, operand: Any) -> ColumnElement[bool] | None:
        """Return the SQL of one operator, such as `$eq` or `$gt`; None for one that this field does not have.

        `$ne`, `$nin` and `$not` are negations and made of others.
        """
        ...


def condition(text: str | None, field: Callable[[str], Field]) -> ColumnElement[bool] | None:
    """Return the SQL of a filter; None if it leaves nothing out. `field` finds a field by name, or raises."""
    if not text:
        return None
    try:
        raw: Any = json_text.parse(text)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"The filter is not JSON: {error}.") from error
    if "\\u0000" in text:
        raise RequestError("The filter holds a zero byte, which not every database can look for.")
    _check_size(raw)
    return _all_of(raw, field) if raw else None


def _check_size(raw: Any) -> None:
    """Raise `RequestError` for a filter that no database would take."""
    conditions, values, level = 0, 0, [raw]
    for _ in range(MAX_DEPTH):
        nested: list[Any] = []
        for part in level:
            if isinstance(part, dict):
                conditions += len(cast("dict[str, Any]", part))
                nested += cast("dict[str, Any]", part).values()
            elif isinstance(part, list):
                nested += cast("list[Any]", part)
            else:
                values += 1
        if conditions > MAX_CONDITIONS:
            raise RequestError(f"The filter has more than {MAX_CONDITIONS} conditions; for many values, use $in.")
        if values > MAX_VALUES:
            raise RequestError(f"The filter has more than {MAX_VALUES} values.")
        if not nested:
            return
        level = nested
    raise RequestError(f"The filter is nested more than {MAX_DEPTH} deep.")


def among(fields: Mapping[str, Field], *others: str) -> Callable[[str], Field]:
    """Return what finds one of these fields. The others are said to be there, too, where one is not found."""

    def find(name: str) -> Field:
        if name not in fields:
            raise RequestError(f"There is no filter by {name!r}. Use one of: {', '.join([*others, *sorted(fields)])}.")
        return fields[name]

    return find


class _ColumnField(ABC):
    """A column. Whether there is a value in it is asked in one way, whatever its values are."""

    def __init__(self, column: ColumnElement[Any]) -> None:
        self._column = column

    def test(self, operator: str, operand: Any) -> ColumnElement[bool] | None:
        """See `Field`."""
        match operator:
            case "$eq" if operand is None:
                return self._column.is_(None)
            case "$exists":
                return exists(self._column, operand)
            case _:
                return self._test(operator, operand)

    @abstractmethod
    def _test(self, operator: str, operand: Any) -> ColumnElement[bool] | None: ...


class TextField(_ColumnField):
    """A column of texts."""

    def _test(self, operator: str, operand: Any) -> ColumnElement[bool] | None:
        column = self._column
        match operator:
            case "$in":
                wanted = listed(operator, operand)
                given = column.in_([text(operator, entry) for entry in wanted if entry is not None])
                return or_(known(column, given), column.is_(None)) if None in wanted else known(column, given)
            case "$regex":
                return known(column, matches(column, operand))
            case "$contains":
                return known(column, has_part(column, text(operator, operand)))
            case _:
                return compared(column, operator, text(operator, operand))


class NumberField(_ColumnField):
    """A column of numbers."""

    def _test(self, operator: str, operand: Any) -> ColumnElement[bool] | None:
        match operator:
            case "$in":
                return known(self._column, self._column.in_([self._read(entry) for entry in listed(operator, operand)]))
            case _:
                return compared(self._column, operator, self._read(operand))

    def _read(self, operand: Any) -> float:
        return number(operand)


class TimeField(_ColumnField):
    """A column of times, compared with ISO 8601 texts or seconds since the epoch.

    Clients are shown whole seconds, so such a one means all of itself; `$regex` and `$contains` look at what is shown.
    """

    def _test(self, operator: str, operand: Any) -> ColumnElement[bool] | None:
        column = self._column
        match operator:
            case "$in":
                wanted = [_seconds(entry) for entry in listed(operator, operand)]
                whole = whole_seconds(column).in_([entry for entry in wanted if entry.is_integer()])
                return known(column, or_(whole, column.in_([entry for entry in wanted if not entry.is_integer()])))
            case "$regex":
                return known(column, matches(iso_text(column), operand))
            case "$contains":
                return known(column, has_part(iso_text(column), text(operator, operand)))
            case _:
                return self._compared(operator, operand)

    def _compared(self, operator: str, operand: Any) -> ColumnElement[bool] | None:
        first = _seconds(operand)
        after = first + 1 if first.is_integer() else math.nextafter(first, math.inf)
        match operator:
            case "$eq":
                return known(self._column, and_(self._column >= first, self._column < after))
            case "$gt":
                return compared(self._column, "$gte", after)
            case "$lte":
                return compared(self._column, "$lt", after)
            case _:
                return compared(self._column, operator, first)


class FieldElsewhere:
    """A field of another table, in which far fewer rows are looked at."""

    def __init__(self, reference: ColumnElement[Any], referred: Select[Any], field: Field) -> None:
        self._reference = reference
        self._referred = referred
        self._field = field

    def test(self, operator: str, operand: Any) -> ColumnElement[bool] | None:
        """See `Field`."""
        found = self._field.test(operator, operand)
        return None if found is None else self._reference.in_(self._referred.where(found))


def known(column: ColumnElement[Any], test: ColumnElement[bool]) -> ColumnElement[bool]:
    """Make a test false where there is no value. In SQL it would be null, and so would its negation."""
    return and_(column.is_not(None), test)


def exists(column: ColumnElement[Any], wanted: Any) -> ColumnElement[bool]:
    """Return the SQL of `$exists`."""
    return column.is_not(None) if wanted else column.is_(None)


def compared(column: ColumnElement[Any], operator: str, operand: Any) -> ColumnElement[bool] | None:
    """Return the SQL of a comparison; None if the operator is none."""
    match operator:
        case "$eq":
            return known(column, column == operand)
        case "$gt":
            return known(column, column > operand)
        case "$gte":
            return known(column, column >= operand)
        case "$lt":
            return known(column, column < operand)
        case "$lte":
            return known(column, column <= operand)
        case _:
            return None


def listed(operator: str, raw: Any) -> list[Any]:
    """Return the operand of an operator that takes a list."""
    if not isinstance(raw, list):
        raise RequestError(f"The filter {operator!r} takes a list, not {raw!r}.")
    return cast("list[Any]", raw)


def text(operator: str, raw: Any) -> str:
    """Return the operand of an operator that takes a text here."""
    if not isinstance(raw, str):
        raise RequestError(f"The filter {operator!r} takes a string here, not {raw!r}.")
    return raw


def matches(column: ColumnElement[Any], pattern: Any) -> ColumnElement[bool]:
    """Return the SQL for a text in which a regular expression of RE2 is found."""
    regular_expressions.check(text("$regex", pattern))
    parts = regular_expressions.certain_parts(pattern)
    searched = func.lower(column) if parts.in_small_letters else column
    each = [and_(*(has_part(searched, part) for part in together)) for together in parts.alternatives]
    likely = or_(false(), *each) if each else true()
    return _Matches(column, pattern, regular_expressions.in_postgresql(pattern), likely)


def try_expressions(connection: Connection, condition: ColumnElement[bool]) -> None:
    """Look for each regular expression of a condition once: the database says at once what it has no words for."""
    for part in visitors.iterate(condition):
        if isinstance(part, _Matches):
            _, pattern, *_ = part.clauses
            connection.scalar(select(matches(literal(""), pattern.value)))


class _Matches(FunctionElement[bool]):
    """Whether a regular expression is found in a text.

    It is given as RE2 has it, and as PostgreSQL does; and with what is true for the text if it is found.
    """

    name = "matches"
    inherit_cache = True


@compiles(_Matches, "sqlite")
def _in_sqlite(element: _Matches, compiler: Any, **options: Any) -> str:
    column, pattern, _, likely = element.clauses
    found = f"regexp({compiler.process(pattern, **options)}, {compiler.process(column, **options)})"
    # For expressions SQLite calls back into Python. The rest it does by itself, making only letters of ASCII small.
    return f"(({compiler.process(likely, **options)}) AND {found})"


@compiles(_Matches, "postgresql")
def _in_postgresql(element: _Matches, compiler: Any, **options: Any) -> str:
    column, _, pattern, _ = element.clauses
    return f"({compiler.process(column, **options)} ~ {compiler.process(pattern, **options)})"


def _all_of(raw: Any, field: Callable[[str], Field]) -> ColumnElement[bool]:
    return and_(true(), *(_part(key, value, field) for key, value in _object(raw).items()))


def _part(key: str, value: Any, field: Callable[[str], Field]) -> ColumnElement[bool]:
    match key:
        case "$and":
            return and_(true(), *(_all_of(part, field) for part in listed(key, value)))
        case "$or":
            return or_(false(), *(_all_of(part, field) for part in listed(key, value)))
        case "$nor":
            return not_(or_(false(), *(_all_of(part, field) for part in listed(key, value))))
        case "$not":
            return not_(_all_of(value, field))
        case _ if key.startswith("$"):
            raise _no_operator(key)
        case _:
            return _tests(key, value, field(key))


def _tests(key: str, value: Any, field: Field) -> ColumnElement[bool]:
    operators = _object(value) if isinstance(value, dict) else {"$eq": value}
    return and_(true(), *(_test(key, name, operand, field) for name, operand in operators.items()))


def _test(key: str, operator: str, operand: Any, field: Field) -> ColumnElement[bool]:
    match operator:
        case "$ne":
            return not_(_test(key, "$eq", operand, field))
        case "$nin":
            return not_(_test(key, "$in", operand, field))
        case "$not":
            return not_(_tests(key, operand, field))
        case _ if operator not in OPERATORS:
            raise _no_operator(operator)
        case _:
            found = field.test(operator, operand)
            if found is None:
                raise RequestError(f"The filter {{{key!r}: {{{operator!r}: ...}}}} is not understood.")
            return found


def _no_operator(name: str) -> RequestError:
    return RequestError(f"The filter has {name!r}, which is no operator. Use one of: {', '.join(OPERATORS)}.")


def _object(raw: Any) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise RequestError(f"A filter must be an object, not {raw!r}.")
    return cast("dict[str, Any]", raw)


def _seconds(raw: Any) -> float:
    if isinstance(raw, str):
        try:
            at = datetime.fromisoformat(raw)
        except ValueError as error:
            raise RequestError(f"The filter by a time takes ISO 8601, as 2026-01-31T12:00:00Z: {error}.") from error
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    return number(raw)


def number(raw: Any) -> float:
    """Return the operand of an operator that takes a number here."""
    if isinstance(raw, bool) or not isinstance(raw, int | float) or raw != raw:
        raise RequestError(f"The filter takes a number here, not {raw!r}.")
    try:
        return float(raw)
    except OverflowError as error:
        raise RequestError("The filter takes no number of more than 308 digits.") from error
