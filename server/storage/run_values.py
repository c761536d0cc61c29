"""The values in runs' configs, summaries and tags, each by its path, so that the database can look for them.

The texts themselves are no help there: they hold bare NaN, which is no JSON to a database, and to read a hundred
thousand of them takes seconds. Nested values have dotted paths. What has a `_type`, a media file or a histogram, counts
as one value, as do lists in summaries; a list in a config also has its elements.
"""

import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from enum import IntEnum
from typing import Any, NamedTuple, TypeAlias, cast

from sqlalchemy import ColumnElement, Connection, FromClause, and_, bindparam, case, delete, func, or_, select

from server.storage.by_engine import by_engine
from server.storage.tables import run_values, runs
from server.storage.upsert import upsert_columns
from server.summaries import parsed

MAX_PATH_CHARS = 300
"""Longer paths are left out: an index on PostgreSQL cannot hold them."""
MAX_START_CHARS: int = run_values.c.text.type.length  # type: ignore[attr-defined]
MAX_ELEMENTS = 100
"""Of a list, so many can be looked for."""


class Place(IntEnum):
    """Where a value stands."""

    CONFIG = 0
    SUMMARY = 1
    TAGS = 2


class Kind(IntEnum):
    """What a value is. Values of different kinds are never equal."""

    NULL = 0
    BOOLEAN = 1
    NUMBER = 2
    TEXT = 3
    OBJECT = 4
    LIST = 5


class Value(NamedTuple):
    """A value as it is stored."""

    kind: Kind
    number: float | None = None
    text: str | None = None
    rest: str | None = None


Values: TypeAlias = Mapping[tuple[str, int], Value]
"""By path and element: 0 is the value itself, and from 1 on come the elements of a list."""

_row = run_values.alias()
_REST = (
    select(func.coalesce(_row.c.rest, ""))
    .where(*(_row.c[column.name] == column for column in run_values.primary_key))
    .scalar_subquery()
)
"""What comes behind the start of a value's text."""
_REMOVE = delete(run_values).where(
    run_values.c.run_id == bindparam("of_run"),
    run_values.c.place == bindparam("of_place"),
    run_values.c.path == bindparam("of_path"),
    run_values.c.element == bindparam("of_element"),
)


def change(connection: Connection, run_id: int, project_id: int, place: Place, before: str | None, now: str) -> None:
    """Note what a run's text of that place holds from now on; `before` is the one that was noted last."""
    if before == now:
        return
    old: Values = values_in(place, before) if before is not None else {}
    new = values_in(place, now)
    gone = [key for key in old if key not in new]
    if gone:
        removed = [
            {"of_run": run_id, "of_place": int(place), "of_path": path, "of_element": element} for path, element in gone
        ]
        connection.execute(_REMOVE, removed)
    changed = [(*key, *value) for key, value in new.items() if old.get(key) != value]
    if changed:
        shared = {"run_id": run_id, "place": int(place), "project_id": project_id}
        columns = dict(zip(("path", "element", *Value._fields), zip(*changed, strict=True), strict=True))
        upsert_columns(connection, run_values, shared, columns)


def forget(connection: Connection, run_id: int) -> None:
    """Remove a run's values."""
    connection.execute(delete(run_values).where(run_values.c.run_id == run_id))


def having(project_id: int, place: Place, paths: Sequence[str], test: ColumnElement[bool]) -> ColumnElement[bool]:
    """Return the SQL for runs of a project that have a value at one of the paths for which the test holds."""
    found = select(run_values.c.run_id).where(
        run_values.c.project_id == project_id, run_values.c.place == int(place), run_values.c.path.in_(paths), test
    )
    # With an offset PostgreSQL asks this once: it guesses badly how many there are, and would rather ask for each run.
    return runs.c.id.in_(found.offset(0))


def beside(place: Place, path: str) -> FromClause:
    """Return the runs, each beside its value of that path or nothing."""
    of_run = and_(
        run_values.c.run_id == runs.c.id,
        run_values.c.place == int(place),
        run_values.c.path == path,
        run_values.c.element == 0,
    )
    return runs.outerjoin(run_values, of_run)


def text_is(text: str) -> ColumnElement[bool]:
    """Return the SQL for a value that is this text."""
    start, rest = _split(text)
    is_start = run_values.c.text == start
    if len(start) < MAX_START_CHARS:
        return is_start  # nothing comes behind it, and so the index alone tells
    return and_(is_start, run_values.c.rest.is_not_distinct_from(rest))


def text_is_one_of(texts: Sequence[str]) -> ColumnElement[bool]:
    """Return the SQL for a value that is one of these texts."""
    long = [text for text in texts if len(text) >= MAX_START_CHARS]
    is_short = run_values.c.text.in_([text for text in texts if len(text) < MAX_START_CHARS])
    if not long:
        return is_short  # see `text_is`
    starts = {_split(text)[0] for text in long}
    return or_(is_short, and_(run_values.c.text.in_(starts), whole_text().in_(long)))


def is_text() -> ColumnElement[bool]:
    """Return the SQL for a value that is a text.

    Texts alone have a start, and SQLite reads it in the index of texts without a look at the row. PostgreSQL looks at
    each row in any case, and the index of kinds has them in the order in which they stand.
    """
    return by_engine(sqlite=run_values.c.text.is_not(None), postgresql=run_values.c.kind == int(Kind.TEXT))


def whole_text() -> ColumnElement[str]:
    """Return the SQL of a value's text."""
    start, rest = run_values.c.text, run_values.c.rest
    # Where there can be something behind the start, SQLite looks it up: it is in no index.
    looked_up = case((func.length(start) < MAX_START_CHARS, start), else_=start + _REST)
    return by_engine(sqlite=looked_up, postgresql=func.coalesce(start + rest, start))


def values_in(place: Place, text: str) -> Values:
    """Return the values in a text as it is stored with a run."""
    match place:
        case Place.TAGS:
            return {("", index): _value(tag) for index, tag in enumerate(json.loads(text), 1)}
        case Place.SUMMARY:
            return dict(_by_path(parsed(text), elements=0))
        case Place.CONFIG:
            config = {key: _unwrapped(entry) for key, entry in parsed(text).items() if key != "_wandb"}
            return dict(_by_path(config, elements=MAX_ELEMENTS))


def _unwrapped(entry: Any) -> Any:
    """Return a config's value, which stands beside its description."""
    return cast("dict[str, Any]", entry).get("value", entry) if isinstance(entry, dict) else entry


def _by_path(values: Mapping[str, Any], elements: int) -> Iterator[tuple[tuple[str, int], Value]]:
    """Go through values, nested ones by a dotted path. A dot that is a part of a key counts more than such a path."""
    waiting = deque(values.items())
    seen: set[str] = set()
    while waiting:
        path, value = waiting.popleft()
        path = _storable(path)
        if path in seen or len(path) > MAX_PATH_CHARS:
            continue
        seen.add(path)
        yield (path, 0), _value(value)
        if isinstance(value, dict) and "_type" not in value:
            nested = cast("dict[str, Any]", value)
            waiting.extend((f"{path}.{key}", entry) for key, entry in nested.items())
        elif isinstance(value, list):
            for index, entry in enumerate(cast("list[Any]", value)[:elements], 1):
                yield (path, index), _value(entry)


def _value(value: Any) -> Value:
    if value is None:
        return Value(Kind.NULL)
    if isinstance(value, bool):
        return Value(Kind.BOOLEAN, float(value))
    if isinstance(value, int | float):
        return Value(Kind.NUMBER, _number(value))
    if isinstance(value, str):
        start, rest = _split(_storable(value))
        return Value(Kind.TEXT, text=start, rest=rest)
    return Value(Kind.LIST if isinstance(value, list) else Kind.OBJECT)


def _split(text: str) -> tuple[str, str | None]:
    return text[:MAX_START_CHARS], text[MAX_START_CHARS:] or None


def _number(value: float) -> float | None:
    """Return what can be compared: no NaN, and no integer beyond all floats."""
    try:
        number = float(value)
    except OverflowError:
        return None
    return None if number != number else number


def _storable(text: str) -> str:
    """Return a text without what PostgreSQL cannot hold: NUL, and halves of pairs."""
    return text if text.isprintable() else text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
