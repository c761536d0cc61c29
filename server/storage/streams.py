"""The streams of a run: history, system events and console, as numbered lines.

A line is stored under its number, replacing what was there. So a request that is sent again after a lost answer changes
nothing, and a progress bar that rewrites its line is one line.
"""

import re
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, and_, delete, func, insert, literal, or_, select

from server.storage.tables import run_lines
from server.storage.text_search import has_part
from server.storage.upsert import upsert_columns

_FETCHED = 1000
_EVERYWHERE = {"_step", "_runtime", "_timestamp"}
_SPELLED_AS_IT_IS = re.compile(r"[A-Za-z0-9_ /:.-]+")
_MAX_PARAMETERS = 500
"""Below every engine's limit."""


class Stream(IntEnum):
    """Which lines."""

    HISTORY = 0
    EVENTS = 1
    CONSOLE = 2


class Line(NamedTuple):
    """One line of a stream; `step` is that of history lines."""

    number: int
    content: str
    step: int | None = None


def store(connection: Connection, run_id: int, stream: Stream, lines: Sequence[Line]) -> None:
    """Store lines under their numbers."""
    if not lines:
        return
    numbers, contents, steps = zip(*lines, strict=True)
    columns = {"number": numbers, "step": steps, "content": contents}
    upsert_columns(connection, run_lines, {"run_id": run_id, "stream": int(stream)}, columns)


def tail(connection: Connection, run_id: int, stream: Stream, count: int) -> list[Line]:
    """Return the last lines, oldest first."""
    found = connection.execute(_of(run_id, stream).order_by(run_lines.c.number.desc()).limit(count))
    return [Line._make(row) for row in found][::-1]


def page(connection: Connection, run_id: int, stream: Stream, first_number: int, count: int) -> list[Line]:
    """Return lines from a number on."""
    found = connection.execute(
        _of(run_id, stream).where(run_lines.c.number >= first_number).order_by(run_lines.c.number).limit(count)
    )
    return [Line._make(row) for row in found]


def steps(connection: Connection, run_id: int, min_step: int, max_step: int) -> list[str]:
    """Return the text of every history line with `min_step <= step < max_step`, in order; several may have the same
    step."""
    found = connection.scalars(
        select(run_lines.c.content)
        .where(run_lines.c.run_id == run_id, run_lines.c.stream == int(Stream.HISTORY))
        .where(run_lines.c.step >= min_step, run_lines.c.step < max_step)
        .order_by(run_lines.c.step, run_lines.c.number)
    )
    return list(found)


def sample(connection: Connection, run_id: int, stream: Stream, total: int, count: int) -> list[Line]:
    """Return at most `count` lines, spread evenly, the first and the last among them. Numbers are dense, so they are
    picked by number: a long run costs no more than a short one."""
    if total <= count:
        return page(connection, run_id, stream, 0, count)
    last = total - 1
    numbers = [index * last // (count - 1) for index in range(count)] if count > 1 else [last]
    return numbered(connection, run_id, stream, numbers)


def numbered(connection: Connection, run_id: int, stream: Stream, numbers: Sequence[int]) -> list[Line]:
    """Return the lines of these numbers, which are in order."""
    lines: list[Line] = []
    for start in range(0, len(numbers), _MAX_PARAMETERS):
        chosen = numbers[start : start + _MAX_PARAMETERS]
        found = connection.execute(
            _of(run_id, stream).where(run_lines.c.number.in_(chosen)).order_by(run_lines.c.number)
        )
        lines += [Line._make(row) for row in found]
    return lines


def numbers_naming(connection: Connection, run_id: int, keys: Sequence[str], start: int, end: int) -> list[int]:
    """Return the numbers of the history lines from `start` to before `end` that name all the keys somewhere, in
    order."""
    statement = _naming(run_id, keys).where(run_lines.c.number >= start, run_lines.c.number < end)
    return list(connection.scalars(statement.with_only_columns(run_lines.c.number)))


def each_naming(connection: Connection, run_id: int, keys: Sequence[str]) -> Iterator[Line]:
    """Go through the history lines that name all the keys somewhere, in order, holding few of them at a time."""
    for row in connection.execution_options(yield_per=_FETCHED).execute(_naming(run_id, keys)):
        yield Line._make(row)


def _naming(run_id: int, keys: Sequence[str]) -> Select[int, str, int]:
    # Other characters may be escaped in the stored text, and to look for what all lines have takes time for nothing.
    named = [_named(key) for key in keys if key not in _EVERYWHERE and _SPELLED_AS_IT_IS.fullmatch(key)]
    return _of(run_id, Stream.HISTORY).where(*named).order_by(run_lines.c.number)


def _named(key: str) -> ColumnElement[bool]:
    """Return the SQL for a line with the key, or, as it may be a dotted path, with all the keys on the way."""
    on_the_way = and_(*(has_part(run_lines.c.content, f'"{part}"') for part in key.split(".")))
    return or_(has_part(run_lines.c.content, f'"{key}"'), on_the_way) if "." in key else on_the_way


def copy_until(connection: Connection, run_id: int, other_id: int, step: int) -> int:
    """Give another run the history of this one up to a step; returns the number of the line that comes next."""
    copied = select(
        literal(other_id), run_lines.c.stream, run_lines.c.number, run_lines.c.step, run_lines.c.content
    ).where(run_lines.c.run_id == run_id, run_lines.c.stream == int(Stream.HISTORY), run_lines.c.step <= step)
    columns = ["run_id", "stream", "number", "step", "content"]
    connection.execute(insert(run_lines).from_select(columns, copied))
    return _next_history_number(connection, other_id)


def truncate_after(connection: Connection, run_id: int, step: int) -> int:
    """Remove history after a step; returns the number of the line that comes next."""
    of_history = (run_lines.c.run_id == run_id, run_lines.c.stream == int(Stream.HISTORY))
    connection.execute(delete(run_lines).where(*of_history, run_lines.c.step > step))
    return _next_history_number(connection, run_id)


def clear(connection: Connection, run_id: int, *which: Stream) -> None:
    """Remove all lines of some streams."""
    numbers = [int(stream) for stream in which]
    connection.execute(delete(run_lines).where(run_lines.c.run_id == run_id, run_lines.c.stream.in_(numbers)))


def _next_history_number(connection: Connection, run_id: int) -> int:
    of_history = (run_lines.c.run_id == run_id, run_lines.c.stream == int(Stream.HISTORY))
    last = connection.scalar(select(func.max(run_lines.c.number)).where(*of_history))
    return 0 if last is None else last + 1


def _of(run_id: int, stream: Stream) -> Select[int, str, int]:
    return select(run_lines.c.number, run_lines.c.content, run_lines.c.step).where(
        run_lines.c.run_id == run_id, run_lines.c.stream == int(stream)
    )
