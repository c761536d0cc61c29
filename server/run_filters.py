"""By what runs are filtered and ordered: their columns, and the values in their configs, summaries and tags."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, and_, case, false, func, not_, or_, select, true

from server import filters
from server.errors import RequestError
from server.filters import Field, FieldElsewhere, NumberField, TextField, TimeField
from server.storage import run_values
from server.storage.places import Key
from server.storage.run_values import Kind, Place
from server.storage.runs import Order, state_expression
from server.storage.tables import entities, projects, runs, users
from server.storage.tables import run_values as table
from server.storage.text_search import has_part

_USERNAME = select(users.c.username).where(users.c.id == runs.c.created_by).correlate(runs).scalar_subquery()
_ENTITY = (
    select(entities.c.name)
    .join(projects, projects.c.entity_id == entities.c.id)
    .where(projects.c.id == runs.c.project_id)
    .correlate(runs)
    .scalar_subquery()
)
_DURATION = func.coalesce(runs.c.ended_at, runs.c.heartbeat_at) - runs.c.started_at
_TEXTS: Mapping[str, ColumnElement[Any]] = {
    "name": runs.c.name,
    "display_name": runs.c.display_name,
    "group": runs.c.group_name,
    "job_type": runs.c.job_type,
    "sweep": runs.c.sweep,
    "host": runs.c.host,
    "notes": runs.c.notes,
    "description": runs.c.description,
    "commit": runs.c.git_commit,
}
_NAMES: Mapping[str, ColumnElement[Any]] = {"username": _USERNAME, "entity": _ENTITY}
_TIMES: Mapping[str, ColumnElement[Any]] = {
    "created_at": runs.c.created_at,
    "updated_at": runs.c.updated_at,
    "heartbeat_at": runs.c.heartbeat_at,
}
_NUMBERS: Mapping[str, ColumnElement[Any]] = {"duration": _DURATION}
_FIELDS: Mapping[str, Field] = {
    **{name: TextField(column) for name, column in _TEXTS.items()},
    **{name: TimeField(column) for name, column in _TIMES.items()},
    **{name: NumberField(column) for name, column in _NUMBERS.items()},
    "username": FieldElsewhere(runs.c.created_by, select(users.c.id), TextField(users.c.username)),
    "entity": FieldElsewhere(
        runs.c.project_id,
        select(projects.c.id).join(entities, entities.c.id == projects.c.entity_id),
        TextField(entities.c.name),
    ),
}
_PLACES = {"config.": Place.CONFIG, "summary_metrics.": Place.SUMMARY, "keys_info.keys.": Place.SUMMARY}
"""Prefix of a field -> where the values stand. The keys of a history are those of the summary."""
_SYNONYMS = {
    "displayName": "display_name",
    "jobType": "job_type",
    "createdAt": "created_at",
    "updatedAt": "updated_at",
    "heartbeatAt": "heartbeat_at",
    "user.username": "username",
}


def condition(text: str | None, project_id: int, now: float) -> ColumnElement[bool] | None:
    """Return the SQL of a filter of a project's runs; `RequestError` names what is not understood."""
    return filters.condition(text, _field_of(project_id, now))


def order(text: str | None, now: float) -> Order:
    """Return the order of a text, `+created_at` or `-summary_metrics.loss`. Runs without the value come last."""
    wanted = text or "+created_at"
    name = wanted.lstrip("+-")
    found = _value_at(name)
    if found is not None:
        place, paths = found
        number = case((table.c.kind == int(Kind.NUMBER), table.c.number))
        return Order(_directed(wanted, number, table.c.text), run_values.beside(place, paths[-1]))
    columns = {**_TEXTS, **_NAMES, **_TIMES, **_NUMBERS, "state": state_expression(now), "tags": runs.c.tags}
    column = columns.get(_SYNONYMS.get(name, name))
    if column is None:
        known = ", ".join(sorted(columns))
        raise RequestError(
            f"Runs cannot be ordered by {name!r}. Use config.<key>, summary_metrics.<key>, or one of: {known}."
        )
    return Order(_directed(wanted, column))


def _directed(wanted: str, *columns: ColumnElement[Any]) -> Sequence[Key]:
    return [Key(column, descending=wanted.startswith("-")) for column in columns]


class ValueField:
    """A value in a config, a summary, or one of the tags."""

    def __init__(self, project_id: int, place: Place, paths: Sequence[str]) -> None:
        self._having: Callable[[ColumnElement[bool]], ColumnElement[bool]] = lambda test: run_values.having(
            project_id, place, paths, test
        )

    def test(self, operator: str, operand: Any) -> ColumnElement[bool] | None:
        """See `Field`. Values are compared with their like only: 1 is neither true nor "1"."""
        match operator:
            case "$exists":
                return self._having(true()) if operand else not_(self._having(true()))
            case "$eq" if operand is None:
                return self._missing()
            case "$in":
                wanted = filters.listed(operator, operand)
                given = self._having(_one_of([entry for entry in wanted if entry is not None]))
                return or_(given, self._missing()) if None in wanted else given
            case "$regex":
                return self._having(and_(run_values.is_text(), filters.matches(run_values.whole_text(), operand)))
            case "$contains":
                return self._having(_contains(filters.text(operator, operand)))
            case "$eq":
                return self._having(_equal(operand))
            case _:
                found = _compared(operator, operand)
                return None if found is None else self._having(found)

    def _missing(self) -> ColumnElement[bool]:
        return not_(self._having(table.c.kind != int(Kind.NULL)))


def _equal(operand: Any) -> ColumnElement[bool]:
    if isinstance(operand, str):
        return run_values.text_is(operand)
    kind, number = _number(operand)
    return _of_kind(kind, table.c.number == number)


def _one_of(wanted: Sequence[Any]) -> ColumnElement[bool]:
    texts = [entry for entry in wanted if isinstance(entry, str)]
    numbers = [_number(entry) for entry in wanted if not isinstance(entry, str)]
    tests = [run_values.text_is_one_of(texts)] if texts else []
    for kind in (Kind.BOOLEAN, Kind.NUMBER):
        alike = [number for found, number in numbers if found is kind]
        # Only where there are some, as an index serves for one kind alone.
        tests += [_of_kind(kind, table.c.number.in_(alike))] if alike else []
    return or_(false(), *tests)


def _contains(part: str) -> ColumnElement[bool]:
    """A list contains what one of its elements is; a text, what is a part of it."""
    is_part = and_(table.c.element == 0, has_part(run_values.whole_text(), part))
    return or_(and_(run_values.is_text(), is_part), and_(table.c.element > 0, run_values.text_is(part)))


def _compared(operator: str, operand: Any) -> ColumnElement[bool] | None:
    if isinstance(operand, str):
        found = filters.compared(run_values.whole_text(), operator, operand)
        return None if found is None else and_(run_values.is_text(), found)
    kind, number = _number(operand)
    found = filters.compared(table.c.number, operator, number)
    return None if found is None else _of_kind(kind, found)


def _of_kind(kind: Kind, test: ColumnElement[bool]) -> ColumnElement[bool]:
    return and_(table.c.kind == int(kind), test)


def _number(operand: Any) -> tuple[Kind, float]:
    if isinstance(operand, bool):
        return Kind.BOOLEAN, float(operand)
    if isinstance(operand, int | float):
        return Kind.NUMBER, filters.number(operand)
    raise RequestError(f"The filter takes a string, a number, true or false here, not {json.dumps(operand)}.")


def _field_of(project_id: int, now: float) -> Callable[[str], Field]:
    others = ("config.<key>", "summary_metrics.<key>", "tags")
    column = filters.among({**_FIELDS, "state": TextField(state_expression(now))}, *others)

    def find(name: str) -> Field:
        found = _value_at(name)
        if found is not None:
            return ValueField(project_id, *found)
        return ValueField(project_id, Place.TAGS, [""]) if name == "tags" else column(_SYNONYMS.get(name, name))

    return find


def _value_at(name: str) -> tuple[Place, Sequence[str]] | None:
    """Return where the values are that a field means, and the paths that it may mean; None if it is a column."""
    spelled = name.replace("summaryMetrics.", "summary_metrics.", 1)
    for prefix, place in _PLACES.items():
        if spelled.startswith(prefix):
            path = spelled.removeprefix(prefix)
            return place, _config_paths(path) if place is Place.CONFIG else [path]
    return None


def _config_paths(path: str) -> Sequence[str]:
    """Return the paths of a value in a config, which people write with `.value` behind the key, or without it."""
    parts = path.split(".")
    if "value" not in parts[1:]:
        return [path]
    at = parts.index("value", 1)
    return [path, ".".join([*parts[:at], *parts[at + 1 :]])]
