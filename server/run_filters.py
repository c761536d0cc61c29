"""Run filters and orders of the public API, as SQL. The common ones; another one is refused by name, never ignored."""

import json
from collections.abc import Mapping
from typing import Any, TypeAlias, cast

from sqlalchemy import ColumnElement, and_, false, func, not_, or_, true

from server.errors import RequestError
from server.storage.runs import BySummary, state_expression
from server.storage.tables import runs

Columns: TypeAlias = Mapping[str, ColumnElement[Any]]

IN_SUMMARY = "summary_metrics."
TAGS = "tags"

_TEXTS: Columns = {
    "name": runs.c.name,
    "display_name": runs.c.display_name,
    "displayName": runs.c.display_name,
    "group": runs.c.group_name,
    "job_type": runs.c.job_type,
    "jobType": runs.c.job_type,
    "sweep": runs.c.sweep,
    "host": runs.c.host,
    "notes": runs.c.notes,
    "description": runs.c.description,
    "commit": runs.c.git_commit,
}
_TIMES: Columns = {
    "created_at": runs.c.created_at,
    "createdAt": runs.c.created_at,
    "updated_at": runs.c.updated_at,
    "updatedAt": runs.c.updated_at,
    "heartbeat_at": runs.c.heartbeat_at,
    "heartbeatAt": runs.c.heartbeat_at,
}


def condition(text: str | None, now: float) -> ColumnElement[bool] | None:
    """Return the SQL of a filter of runs; `RequestError` names what is not understood."""
    return condition_on({**_TEXTS, "state": state_expression(now), TAGS: runs.c.tags}, text)


def condition_on(columns: Columns, text: str | None) -> ColumnElement[bool] | None:
    """Return the SQL of a filter on these columns, which hold text."""
    if not text:
        return None
    try:
        raw: Any = json.loads(text)
    except ValueError as error:
        raise RequestError(f"The filter is not JSON: {error}.") from error
    return _all_of(raw, columns) if raw else None


def order(text: str | None, now: float) -> ColumnElement[Any] | BySummary:
    """Return the SQL of an order string, `+created_at` or `-summary_metrics.loss`. Runs without the value come last."""
    wanted = text or "+created_at"
    name = wanted.lstrip("+-")
    if name.startswith(IN_SUMMARY):
        return BySummary(name.removeprefix(IN_SUMMARY), descending=wanted.startswith("-"))
    columns: Columns = {**_TEXTS, **_TIMES, "state": state_expression(now)}
    column = columns.get(name)
    if column is None:
        known = ", ".join(sorted(columns))
        raise RequestError(f"Runs cannot be ordered by {name!r} yet. Use {IN_SUMMARY}<metric>, or one of: {known}.")
    return column.desc().nulls_last() if wanted.startswith("-") else column.asc().nulls_last()


def _all_of(raw: Any, columns: Columns) -> ColumnElement[bool]:
    return and_(true(), *(_part(key, value, columns) for key, value in _object(raw).items()))


def _part(key: str, value: Any, columns: Columns) -> ColumnElement[bool]:
    match key:
        case "$and":
            return and_(true(), *(_all_of(part, columns) for part in _list(key, value)))
        case "$or":
            return or_(false(), *(_all_of(part, columns) for part in _list(key, value)))
        case "$nor":
            return not_(or_(false(), *(_all_of(part, columns) for part in _list(key, value))))
        case "tags" if key in columns:
            return _tags(value)
        case _:
            column = columns.get(key)
            if column is None:
                known = ", ".join(sorted(columns))
                raise RequestError(f"There is no filter by {key!r} yet. Use one of: {known}.")
            operators = _object(value) if isinstance(value, dict) else {"$eq": value}
            return and_(true(), *(_operator(column, key, name, operand) for name, operand in operators.items()))


def _operator(column: ColumnElement[Any], key: str, name: str, operand: Any) -> ColumnElement[bool]:
    match name:
        case "$eq":
            return column.is_(None) if operand is None else _known(column, column == _text(key, operand))
        case "$ne":
            return column.is_not(None) if operand is None else or_(column != _text(key, operand), column.is_(None))
        case "$in":
            return _known(column, column.in_(_texts(key, operand)))
        case "$nin":
            return or_(column.not_in(_texts(key, operand)), column.is_(None))
        case "$exists":
            return column.is_not(None) if operand else column.is_(None)
        case _:
            raise _not_understood(key, name)


def _known(column: ColumnElement[Any], comparison: ColumnElement[bool]) -> ColumnElement[bool]:
    """Make the comparison false where there is no value. In SQL it would be null, and so would its negation."""
    return and_(column.is_not(None), comparison)


def _tags(value: Any) -> ColumnElement[bool]:
    if value is None:
        return runs.c.tags == "[]"
    operators = _object(value) if isinstance(value, dict) else {"$eq": value}
    return and_(true(), *(_tag_operator(name, operand) for name, operand in operators.items()))


def _tag_operator(name: str, operand: Any) -> ColumnElement[bool]:
    match name:
        case "$eq":
            return _has_tag(_text("tags", operand))
        case "$ne":
            return not_(_has_tag(_text("tags", operand)))
        case "$in":
            return or_(false(), *(_has_tag(tag) for tag in _texts("tags", operand)))
        case "$nin":
            return not_(or_(false(), *(_has_tag(tag) for tag in _texts("tags", operand))))
        case _:
            raise _not_understood("tags", name)


def _has_tag(tag: str) -> ColumnElement[bool]:
    # Tags are stored as a JSON list, whose encoder quotes every tag the same way. Unlike LIKE, `replace` respects case
    # on every engine.
    return func.replace(runs.c.tags, json.dumps(tag), "") != runs.c.tags


def _object(raw: Any) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise RequestError(f"A filter must be an object, not {raw!r}.")
    return cast("dict[str, Any]", raw)


def _list(key: str, raw: Any) -> list[Any]:
    if not isinstance(raw, list):
        raise RequestError(f"The filter {key!r} takes a list, not {raw!r}.")
    return cast("list[Any]", raw)


def _texts(key: str, raw: Any) -> list[str]:
    return [_text(key, entry) for entry in _list(key, raw)]


def _text(key: str, raw: Any) -> str:
    if not isinstance(raw, str):
        raise RequestError(f"The filter by {key!r} takes a string, not {raw!r}.")
    return raw


def _not_understood(key: str, operator: str) -> RequestError:
    return RequestError(f"The filter {{{key!r}: {{{operator!r}: ...}}}} is not understood yet.")
