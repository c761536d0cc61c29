"""What a run has logged: history, system events and console, sampled, by step, or page by page."""

import asyncio
import json
import math
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar, cast

from sqlalchemy import Connection

from protocol.json_types import JsonObject
from server.database import Database
from server.graphql import Info, Resolvers
from server.resolvers.paging import Page, cursor
from server.storage import streams
from server.storage.streams import Line, Stream
from server.summaries import parsed

resolvers = Resolvers()

T = TypeVar("T")

DEFAULT_SAMPLES = 500
DEFAULT_LOG_LINES = 1000


@resolvers.field("Run", "history")
async def history(
    run: dict[str, Any],
    info: Info,
    samples: int | None = None,
    minStep: int | None = None,
    maxStep: int | None = None,
) -> list[str]:
    """Return JSON lines: of a range of steps all of them, of the whole run at most `samples`."""
    database = info.context.services.database
    if minStep is not None and maxStep is not None:
        return await database.read(streams.steps, run["row_id"], minStep, maxStep)
    found = await database.read(
        streams.sample, run["row_id"], Stream.HISTORY, run["historyLineCount"], samples or DEFAULT_SAMPLES
    )
    return _texts(found)


@resolvers.field("Run", "events")
async def events(run: dict[str, Any], info: Info, samples: int | None = None) -> list[str]:
    """Return system metrics as JSON lines."""
    found = await info.context.services.database.read(
        streams.sample, run["row_id"], Stream.EVENTS, run["eventsLineCount"], samples or DEFAULT_SAMPLES
    )
    return _texts(found)


@resolvers.field("Run", "sampledHistory")
async def sampled_history(run: dict[str, Any], info: Info, specs: list[str]) -> list[list[JsonObject]]:
    """Return per spec the rows that have all of its keys."""
    return [await _sampled(run, info, json.loads(spec)) for spec in specs]


async def _sampled(run: dict[str, Any], info: Info, spec: dict[str, Any]) -> list[JsonObject]:
    keys: list[str] = spec.get("keys") or []
    if not keys:
        return []
    database = info.context.services.database
    samples = int(spec.get("samples") or DEFAULT_SAMPLES)
    if spec.get("minStep") is None:
        return await _of_run(database, run["row_id"], run["historyLineCount"], keys, samples)
    first, last = int(spec["minStep"]), int(spec.get("maxStep", run["row"].last_step))
    # The upper bound belongs to the range when as many samples are asked for as it has steps. Older clients ask for as
    # many as a page has, and mean the steps before the bound: the next page begins with it.
    end = last + 1 if "maxStep" not in spec or samples == last + 1 - first else last
    return await database.read(_of_steps, run["row_id"], first, end, keys, samples)


def _of_steps(
    connection: Connection, run_id: int, first: int, end: int, keys: list[str], samples: int
) -> list[JsonObject]:
    return thinned(_with_all(streams.steps(connection, run_id, first, end), keys), samples)


async def _of_run(database: Database, run_id: int, total: int, keys: list[str], samples: int) -> list[JsonObject]:
    """Sample the rows that have all keys. Mostly all rows have them; if not, the whole run has to be looked through,
    its halves at the same time.
    """
    rows = await database.read(_of_sample, run_id, total, keys, samples)
    if rows is not None:
        return rows
    halves = ((0, total // 2), (total // 2, total))
    naming = (database.read(streams.numbers_naming, run_id, keys, start, end) for start, end in halves)
    first, second = await asyncio.gather(*naming)
    return await database.read(_of_numbers, run_id, thinned([*first, *second], samples), keys, samples)


def _of_sample(
    connection: Connection, run_id: int, total: int, keys: list[str], samples: int
) -> list[JsonObject] | None:
    """Return the rows of lines that are spread evenly; None if others of the run may have all keys and they do not."""
    lines = streams.sample(connection, run_id, Stream.HISTORY, total, samples)
    rows = list(_with_all(_texts(lines), keys))
    return rows if total <= samples or len(rows) == len(lines) else None


def _of_numbers(
    connection: Connection, run_id: int, numbers: list[int], keys: list[str], samples: int
) -> list[JsonObject]:
    """Return the rows of lines that seem to have all keys; if some do not, a sample of all that seem so."""
    lines = streams.numbered(connection, run_id, Stream.HISTORY, numbers)
    rows = list(_with_all(_texts(lines), keys))
    if len(rows) == len(lines):
        return rows
    return thinned(_with_all((line.content for line in streams.each_naming(connection, run_id, keys)), keys), samples)


def _texts(lines: Iterable[Line]) -> list[str]:
    return [line.content for line in lines]


def thinned(rows: Iterable[T], count: int) -> list[T]:
    """Return at most `count` rows, spread evenly, the first and the last among them; holds twice as many at most."""
    kept: list[T] = []
    stride = 1
    index = -1
    row: T | None = None
    for index, row in enumerate(rows):
        if index % stride == 0:
            kept.append(row)
        if len(kept) > 2 * count:
            kept, stride = kept[::2], stride * 2
    if row is not None and index % stride:
        kept.append(row)
    if len(kept) <= count:
        return kept
    last = len(kept) - 1
    return [kept[position * last // max(count - 1, 1)] for position in range(count)]


def _with_all(texts: Iterable[str], keys: list[str]) -> Iterator[JsonObject]:
    for text in texts:
        row = parsed(text)
        picked = {key: row[key] if key in row else _at_path(row, key) for key in keys}
        if not any(value is _MISSING for value in picked.values()):
            yield _finite(picked)


_MISSING = object()


def _at_path(row: dict[str, Any], path: str) -> Any:
    """Return the value to which the parts of a dotted key lead."""
    value: Any = row
    for part in path.split("."):
        if not isinstance(value, dict) or part not in value:
            return _MISSING
        value = cast("dict[str, Any]", value)[part]
    return value


def _finite(value: Any) -> Any:
    """Replace what raw JSON cannot hold by its name: a bare NaN makes the client refuse the whole answer.

    Integers beyond 64 bits become floats, which is what clients make of them.
    """
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return _finite(float(value) if abs(value) < 1e308 else math.inf if value > 0 else -math.inf)
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_finite(entry) for entry in cast("list[Any]", value)]
    return value


@resolvers.field("Run", "historyKeys")
async def history_keys(run: dict[str, Any], info: Info) -> JsonObject:
    """Return the last step, and each logged key with its last value; nested keys with dots.

    Last values stand in the summary, unless the user chose otherwise; the last row has those that do not.
    """
    lines = await info.context.services.database.read(streams.tail, run["row_id"], Stream.HISTORY, 1)
    last: dict[str, Any] = json.loads(lines[0].content) if lines else {}
    values = dict(_flat({**json.loads(run["summaryMetrics"]), **last}))
    keys: JsonObject = {key: {"typeCounts": [], "previousValue": _finite(value)} for key, value in values.items()}
    return {"lastStep": run["row"].last_step, "keys": keys}


def _flat(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, entry in value.items():
        if isinstance(entry, dict) and "_type" not in entry and key != "_wandb":
            yield from _flat(cast("dict[str, Any]", entry), f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", entry


@resolvers.field("Run", "parquetHistory")
async def parquet_history(run: dict[str, Any], _info: Info, **_unused: object) -> JsonObject:
    """Tell clients that all of the history is live, from the first step that there can be.

    There are no exports (docs/architecture.md says why). The step makes a download of exports fail for want of rows,
    and older clients look at the live history at all.
    """
    return {"parquetUrls": [], "liveData": [{"_step": 0}] if run["historyLineCount"] else []}


@resolvers.field("Run", "historyTail")
async def history_tail(run: dict[str, Any], info: Info) -> list[str]:
    """Return the last line of the history, for a run that is resumed."""
    lines = await info.context.services.database.read(streams.tail, run["row_id"], Stream.HISTORY, 1)
    return [line.content for line in lines]


@resolvers.field("Run", "eventsTail")
async def events_tail(run: dict[str, Any], info: Info) -> list[str]:
    """Return the last line of the system events, for a run that is resumed."""
    lines = await info.context.services.database.read(streams.tail, run["row_id"], Stream.EVENTS, 1)
    return [line.content for line in lines]


@resolvers.field("Run", "logLines")
async def log_lines(
    run: dict[str, Any],
    info: Info,
    first: int | None = None,
    after: str | None = None,
    last: int | None = None,
    **_unused: object,
) -> JsonObject:
    """Return console lines, from a cursor on or the last ones."""
    database = info.context.services.database
    page = Page.of(first, after, DEFAULT_LOG_LINES)
    if last is not None:
        found = await database.read(streams.tail, run["row_id"], Stream.CONSOLE, last)
        more = False
    else:
        found = await database.read(streams.page, run["row_id"], Stream.CONSOLE, page.after, page.limit + 1)
        more = len(found) > page.limit
        found = found[: page.limit]
    # A cursor names the line that comes next.
    edges = [{"node": _console_line(line), "cursor": cursor(line.number + 1)} for line in found]
    return {"edges": edges, "pageInfo": {"endCursor": edges[-1]["cursor"] if edges else after, "hasNextPage": more}}


def _console_line(line: Line) -> JsonObject:
    """Read a structured line (`{"ts":..., "content":...}`); older clients send text with a prefix."""
    try:
        told: Any = json.loads(line.content)
    except ValueError:
        told = None
    if not isinstance(told, dict) or "content" not in told:
        return {"number": line.number, "line": line.content}
    told = cast("dict[str, Any]", told)
    return {
        "number": line.number,
        "timestamp": told.get("ts"),
        "level": told.get("level"),
        "label": told.get("label"),
        "line": str(told["content"]),
    }
