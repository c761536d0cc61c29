"""Run filters and orders of the public API, as SQL. The common ones; another one is refused by name, never ignored."""

import json
from collections.abc import Mapping
from typing import Any, cast

from sqlalchemy import ColumnElement, String, and_, false, func, literal, not_, or_, true

from server.errors import RequestError
from server.storage.tables import runs

_COLUMNS: Mapping[str, ColumnElement[Any]] = {
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
    "created_at": runs.c.created_at,
    "createdAt": runs.c.created_at,
    "updated_at": runs.c.updated_at,
    "updatedAt": runs.c.updated_at,
    "heartbeat_at": runs.c.heartbeat_at,
    "heartbeatAt": runs.c.heartbeat_at,
}


def condition(text: str | None) -> ColumnElement[bool] | None:
    """Return the SQL of a filter; `RequestError` names what is not understood."""
    if not text:
        return None
    try:
        raw = json.loads(text)
    except ValueError as error:
        raise RequestError(f"The filter is not JSON: {error}.") from error
    return _all_of(raw) if raw else None


def order(text: str | None) -> ColumnElement[Any]:
    """Return the SQL of an order string, `+created_at` or `-created_at`."""
    wanted = text or "+created_at"
    name = wanted.lstrip("+-")
    column = _COLUMNS.get(name)
    if column is None:
        raise RequestError(f"Runs cannot be ordered by {name!r} yet. Use one of: {', '.join(sorted(_COLUMNS))}.")
    return column.desc().nulls_last() if wanted.startswith("-") else column.asc().nulls_last()


def _all_of(raw: Any) -> ColumnElement[bool]:
    return and_(true(), *(_part(key, value) for key, value in _object(raw).items()))


def _part(key: str, value: Any) -> ColumnElement[bool]:
    match key:
        case "$and":
            return and_(true(), *(_all_of(part) for part in value))
        case "$or":
            return or_(false(), *(_all_of(part) for part in value))
        case "$nor":
            return not_(or_(false(), *(_all_of(part) for part in value)))
        case "tags":
            return _tags(value)
        case _:
            column = _COLUMNS.get(key)
            if column is None:
                known = ", ".join(sorted([*_COLUMNS, "tags"]))
                raise RequestError(f"Runs cannot be filtered by {key!r} yet. Use one of: {known}.")
            return _comparison(column, key, value)


def _comparison(column: ColumnElement[Any], key: str, value: Any) -> ColumnElement[bool]:
    if not isinstance(value, dict):
        return column.is_(None) if value is None else column == value
    return and_(true(), *(_operator(column, key, name, operand) for name, operand in _object(value).items()))


def _object(raw: Any) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise RequestError(f"A filter must be an object, not {raw!r}.")
    return cast("dict[str, Any]", raw)


def _operator(column: ColumnElement[Any], key: str, name: str, operand: Any) -> ColumnElement[bool]:
    match name:
        case "$eq":
            return column.is_(None) if operand is None else column == operand
        case "$ne":
            return column.is_not(None) if operand is None else or_(column != operand, column.is_(None))
        case "$in":
            return column.in_(operand)
        case "$nin":
            return or_(column.not_in(operand), column.is_(None))
        case "$exists":
            return column.is_not(None) if operand else column.is_(None)
        case _:
            raise RequestError(f"The filter {{{key!r}: {{{name!r}: ...}}}} is not understood yet.")


def _tags(value: Any) -> ColumnElement[bool]:
    if value is None:
        return runs.c.tags == "[]"
    wanted: Any = _object(value).get("$in") if isinstance(value, dict) else [value]
    if not isinstance(wanted, list):
        raise RequestError(f"The tags filter {value!r} is not understood yet; use a tag or {{'$in': [...]}}.")
    names = cast("list[str]", wanted)
    # Tags are stored as a JSON list, whose encoder quotes every tag the same way.
    return or_(false(), *(func.instr(runs.c.tags, literal(json.dumps(tag), String)) > 0 for tag in names))
