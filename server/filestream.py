"""The file stream: history, summary, console, system events and the end of a run, as the client sends them.

A 4xx answer would end the stream for the rest of the run, so a line that cannot be read is skipped with a warning, and
only a run that was deleted, or never was, is told so.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import orjson
import structlog
from sqlalchemy import Connection

from protocol.json_types import JsonObject
from server import arrivals
from server.context import Context
from server.errors import NotFound
from server.storage import queue_items, run_files, run_values, run_writers, runs, streams, watched_runs
from server.storage.agents import RETRYING
from server.storage.rows import AnyRow
from server.storage.run_values import Place
from server.storage.streams import Line, Stream
from server.storage.tables import runs as runs_table
from server.summaries import parsed

HISTORY, EVENTS, SUMMARY, CONSOLE = "wandb-history.jsonl", "wandb-events.jsonl", "wandb-summary.json", "output.log"
MAX_LINE_NUMBER = 2**31 - 2
MAX_STEP = 2**62
LINES_AT_ONCE = 1000
"""So many are stored in one transaction at most, for which others wait."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Part:
    """What a request says of one stream."""

    lines: list[Line]
    end: int
    """Number of the line that comes next. A line that was skipped keeps its number."""


_NOTHING = Part([], 0)


@dataclass(frozen=True, slots=True)
class Update:
    """One request, understood."""

    history: Part = _NOTHING
    events: Part = _NOTHING
    console: Part = _NOTHING
    summary: str | None = None
    preempting: bool = False
    complete: bool = False
    is_before_end: bool = False
    """Whether it is a piece of a request that ends the run, which its last piece does."""
    exit_code: int | None = None
    uploaded: Sequence[str] = ()
    """Names of files whose upload is over."""

    @property
    def is_heartbeat(self) -> bool:
        """Whether it says only that the run lives."""
        ends = self.history.end or self.events.end or self.console.end
        return not (ends or self.summary or self.preempting or self.complete or self.uploaded)


async def receive(context: Context, entity: str, project: str, run: str, change: Update) -> JsonObject:
    """Take in one request; tells the client whether somebody wants the run stopped."""
    context.viewer.must_use(entity)
    database = context.services.database
    if change.is_heartbeat:
        row = await database.read(runs.find, entity, project, run)
        if row is not None and row.started_at is not None and not _has_ended(row):
            context.services.heartbeats.beat(runs_table, row.id, context.now)
            return _answer(row.stop_requested_at)
    *first, last = in_pieces(change)
    for piece in first:
        await database.write(_apply, entity, project, run, piece, context.writer, context.now)
    answer = _answer(await database.write(_apply, entity, project, run, last, context.writer, context.now))
    if change.uploaded and not context.services.objects.tells_arrivals:
        keys = await database.read(_keys, entity, project, run, change.uploaded)
        await arrivals.look_for_run_files(context.services, keys)
    return answer


def _keys(connection: Connection, entity: str, project: str, run: str, names: Sequence[str]) -> list[str]:
    row = runs.find(connection, entity, project, run)
    return run_files.keys(connection, row.id, names) if row is not None else []


def _answer(stop_requested_at: float | None) -> JsonObject:
    return {"stopped": True} if stop_requested_at is not None else {}


def understand(body: JsonObject) -> Update:
    """Understand a request as far as it can be understood; what cannot be is skipped with a warning."""
    files = body.get("files")
    summary = _objects(files, SUMMARY).lines
    exit_code, uploaded = body.get("exitcode"), body.get("uploaded")
    return Update(
        history=_objects(files, HISTORY),
        events=_objects(files, EVENTS),
        console=_console(files),
        summary=summary[-1].content if summary else None,
        preempting=bool(body.get("preempting")),
        complete=bool(body.get("complete")),
        exit_code=exit_code if isinstance(exit_code, int) else None,
        uploaded=[str(name) for name in cast("list[object]", uploaded)] if isinstance(uploaded, list) else (),
    )


def in_pieces(change: Update) -> list[Update]:
    """Split a request with many lines into several, as if the client had sent them one after the other."""
    *first_rows, rows = _split(change.history)
    *first_lines, lines = _split(change.console)
    return [
        *(Update(history=part, is_before_end=change.complete) for part in first_rows),
        *(Update(console=part, is_before_end=change.complete) for part in first_lines),
        replace(change, history=rows, console=lines),
    ]


def _split(part: Part) -> list[Part]:
    lines = part.lines
    starts = range(0, max(len(lines), 1), LINES_AT_ONCE)
    ends = [*(lines[start].number for start in starts[1:]), part.end]
    return [Part(lines[start : start + LINES_AT_ONCE], end) for start, end in zip(starts, ends, strict=True)]


def _console(files: object) -> Part:
    offset, content = _content(files, CONSOLE)
    # Programs print NUL, which PostgreSQL cannot hold.
    lines = [Line(number, str(text).replace("\0", "\ufffd")) for number, text in enumerate(content, offset)]
    return Part(lines, offset + len(content) if content else 0)


def _objects(files: object, name: str) -> Part:
    """Return the lines that hold a JSON object."""
    offset, content = _content(files, name)
    lines: list[Line] = []
    for number, text in enumerate(content, offset):
        if isinstance(text, str) and (parsed := _object(text)) is not None:
            lines.append(Line(number, text, _step(parsed.get("_step"))))
    if len(lines) < len(content):
        log.warning("skipped lines that are no JSON object", stream=name, lines=len(content) - len(lines))
    return Part(lines, offset + len(content) if content else 0)


def _content(files: object, name: str) -> tuple[int, list[object]]:
    """Return the number of the first line, and the lines."""
    part = cast("dict[str, object]", files).get(name) if isinstance(files, dict) else None
    if part is None:
        return 0, []
    told = cast("dict[str, object]", part) if isinstance(part, dict) else {}
    offset, content = told.get("offset", 0), told.get("content")
    if not isinstance(content, list) or not isinstance(offset, int):
        log.warning("skipped a stream without offset and content", stream=name)
        return 0, []
    lines = cast("list[object]", content)
    if not 0 <= offset <= MAX_LINE_NUMBER - len(lines):
        log.warning("skipped a stream with an impossible offset", stream=name, offset=offset)
        return 0, []
    return offset, lines


def _object(text: str) -> dict[str, Any] | None:
    """Return the JSON object in a line, which may hold bare NaN and infinities; None if there is none."""
    try:
        parsed: object = orjson.loads(text)
    except orjson.JSONDecodeError:
        try:
            parsed = json.loads(text)
        except (ValueError, RecursionError):
            return None
    return cast("dict[str, Any]", parsed) if isinstance(parsed, dict) else None


def _step(step: object) -> int | None:
    if isinstance(step, (int, float)) and -MAX_STEP < step < MAX_STEP:  # NaN is not
        return int(step)
    return None


def _apply(
    connection: Connection, entity: str, project: str, run: str, change: Update, writer: str | None, now: float
) -> float | None:
    row = runs.find(connection, entity, project, run)
    if row is None:
        raise NotFound(f"There is no run {entity}/{project}/{run}, or it was deleted.")
    values: dict[str, Any] = {"updated_at": now, **_signs_of_life(connection, row, change, writer, now)}
    for stream, part, counter in (
        (Stream.HISTORY, change.history, "history_lines"),
        (Stream.EVENTS, change.events, "event_lines"),
        (Stream.CONSOLE, change.console, "log_lines"),
    ):
        known: int = getattr(row, counter)
        lines, end = part.lines, part.end
        if writer is not None:
            lines, end = run_writers.appended(connection, row.id, writer, stream, lines, end, known)
        streams.store(connection, row.id, stream, lines)
        if end:
            values[counter] = max(known, end)
    values["last_step"] = max([row.last_step, *(line.step for line in change.history.lines if line.step is not None)])
    if change.summary is not None:
        # Each writer tells what it knows.
        summary = change.summary if writer is None else json.dumps(parsed(row.summary) | parsed(change.summary))
        values["summary"] = summary
        run_values.change(connection, row.id, row.project_id, Place.SUMMARY, row.summary, summary)
    if change.events.lines:
        values["system_metrics"] = change.events.lines[-1].content
    runs.set_columns(connection, row.id, **values)
    return row.stop_requested_at


def _signs_of_life(
    connection: Connection, row: AnyRow, change: Update, writer: str | None, now: float
) -> dict[str, Any]:
    """Return what a request says about whether the run is alive.

    A launch that has failed may be tried again. So a failure is the end of its run only when its agent says so; and
    what is still heard of an attempt that is over is no sign of life of the next one.
    """
    failed = change.complete and bool(change.exit_code)
    item = queue_items.claimed_for(connection, row.id) if failed or row.started_at is None else None
    if row.started_at is None and item is not None and item.status == RETRYING:
        return {}
    signs: dict[str, Any] = {"heartbeat_at": now}
    if row.started_at is None:
        signs["started_at"] = now
    is_last_word = change.complete or change.is_before_end
    if not is_last_word and _has_ended(row) and writer is None:
        # A late word: it lives after all. In shared mode others may still be at it when the one that ends it has.
        signs.update(ended_at=None, exit_code=None, end_cause=None, preempting=False)
        watched_runs.watch(connection, row.id)
    if change.preempting:
        signs["preempting"] = True
    if change.complete:
        is_open = failed and item is not None and queue_items.is_for_its_agent_to_end(item, now)
        signs.update(ended_at=None if is_open else now, exit_code=change.exit_code or 0, end_cause=None)
        if row.end_cause is not None:  # it has not ended as somebody else has said
            watched_runs.watch(connection, row.id)
    return signs


def _has_ended(row: AnyRow) -> bool:
    return row.ended_at is not None or row.end_cause is not None or row.exit_code is not None
