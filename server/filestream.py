"""The file stream: history, summary, console, system events and the end of a run, as the client sends them.

A 4xx answer would end the stream for the rest of the run, so a line that cannot be read is skipped with a warning, and
only a run that was deleted, or never was, is told so.
"""

import asyncio
import json
import math
from dataclasses import dataclass
from typing import Any, cast

import orjson
import structlog
from sqlalchemy import Connection, update

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

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Part:
    """What a request says of one stream."""

    lines: list[Line]
    end: int
    """Number of the line that comes next. A line that was skipped keeps its number."""


@dataclass(frozen=True, slots=True)
class Update:
    """One request, understood."""

    history: Part
    events: Part
    console: Part
    summary: str | None
    preempting: bool
    complete: bool
    exit_code: int | None

    @property
    def is_heartbeat(self) -> bool:
        """Whether it says only that the run lives."""
        ends = self.history.end or self.events.end or self.console.end
        return not (ends or self.summary or self.preempting or self.complete)


async def receive(context: Context, entity: str, project: str, run: str, body: JsonObject) -> JsonObject:
    """Take in one request; tells the client whether somebody wants the run stopped."""
    context.viewer.must_use(entity)
    database = context.services.database
    # A request may hold 10 MiB of lines, which take longer to read than other requests should wait.
    change = await asyncio.to_thread(read, body) if body.get("files") else read(body)
    if change.is_heartbeat and not body.get("uploaded"):
        row = await database.read(runs.find, entity, project, run)
        if row is not None and row.started_at is not None and not _has_ended(row):
            context.services.heartbeats.beat(runs_table, row.id, context.now)
            return _answer(row.stop_requested_at)
    answer = _answer(await database.write(_apply, entity, project, run, change, context.writer, context.now))
    uploaded = body.get("uploaded")
    if isinstance(uploaded, list) and not context.services.objects.tells_arrivals:
        names = [str(name) for name in cast("list[object]", uploaded)]
        await arrivals.look_for_run_files(context.services, await database.read(_keys, entity, project, run, names))
    return answer


def _keys(connection: Connection, entity: str, project: str, run: str, names: list[str]) -> list[str]:
    row = runs.find(connection, entity, project, run)
    return run_files.keys(connection, row.id, names) if row is not None else []


def _answer(stop_requested_at: float | None) -> JsonObject:
    return {"stopped": True} if stop_requested_at is not None else {}


def read(body: JsonObject) -> Update:
    """Understand a request as far as it can be understood; what cannot be is skipped with a warning."""
    files = body.get("files")
    summary = _objects(files, SUMMARY).lines
    exit_code = body.get("exitcode")
    return Update(
        history=_objects(files, HISTORY),
        events=_objects(files, EVENTS),
        console=_console(files),
        summary=summary[-1].content if summary else None,
        preempting=bool(body.get("preempting")),
        complete=bool(body.get("complete")),
        exit_code=exit_code if isinstance(exit_code, int) else None,
    )


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
        parsed = _object(text)
        if parsed is not None:
            lines.append(Line(number, str(text), _step(parsed.get("_step"))))
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


def _object(text: object) -> dict[str, Any] | None:
    """Return the JSON object in a line, which may hold bare NaN and infinities; None if there is none."""
    if not isinstance(text, str):
        return None
    try:
        parsed: object = orjson.loads(text)
    except orjson.JSONDecodeError:
        try:
            parsed = json.loads(text)
        except (ValueError, RecursionError):
            return None
    return cast("dict[str, Any]", parsed) if isinstance(parsed, dict) else None


def _step(step: object) -> int | None:
    if isinstance(step, int | float) and math.isfinite(step) and abs(step) < MAX_STEP:
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
        run_values.change(connection, row.id, Place.SUMMARY, row.summary, summary)
    if change.events.lines:
        values["system_metrics"] = change.events.lines[-1].content
    connection.execute(update(runs_table).where(runs_table.c.id == row.id).values(**values))
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
    if not change.complete and _has_ended(row) and writer is None:
        # A late word: it lives after all. In shared mode others may still be at it when the one that ends it has.
        signs.update(ended_at=None, exit_code=None, end_cause=None, preempting=False)
        watched_runs.watch(connection, row.id)
    if change.preempting:
        signs["preempting"] = True
    if change.complete:
        is_open = failed and item is not None and queue_items.is_for_its_agent_to_end(item, now)
        signs.update(ended_at=None if is_open else now, exit_code=change.exit_code or 0, end_cause=None)
    return signs


def _has_ended(row: AnyRow) -> bool:
    return row.ended_at is not None or row.end_cause is not None or row.exit_code is not None
