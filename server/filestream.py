"""The file stream: history, summary, console, system events and the end of a run, as the client sends them.

A 4xx answer would end the stream for the rest of the run, so a line that cannot be read is skipped with a warning, and
only a run that was deleted, or never was, is told so.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy import Connection, update

from protocol.json_types import JsonObject, dig
from server.context import Context
from server.errors import NotFound
from server.storage import runs, streams
from server.storage.streams import Line, Stream
from server.storage.tables import runs as runs_table

HISTORY, EVENTS, SUMMARY, CONSOLE = "wandb-history.jsonl", "wandb-events.jsonl", "wandb-summary.json", "output.log"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Update:
    """One request, understood."""

    history: list[Line]
    events: list[Line]
    console: list[Line]
    summary: str | None
    system_metrics: str | None
    preempting: bool
    complete: bool
    exit_code: int | None

    @property
    def is_heartbeat(self) -> bool:
        """Whether it says only that the run lives."""
        return not (self.history or self.events or self.console or self.summary or self.preempting or self.complete)


async def receive(context: Context, entity: str, project: str, run: str, body: JsonObject) -> JsonObject:
    """Take in one request; tells the client whether somebody wants the run stopped."""
    context.viewer.must_use(entity)
    change = _read(body)
    database = context.services.database
    if change.is_heartbeat:
        row = await database.read(runs.find, entity, project, run)
        if row is not None and row.started_at is not None and row.ended_at is None and row.end_cause is None:
            context.services.heartbeats.beat(runs_table, row.id, context.now)
            return _answer(row.stop_requested_at)
    return _answer(await database.write(_apply, entity, project, run, change, context.now))


def _answer(stop_requested_at: float | None) -> JsonObject:
    return {"stopped": True} if stop_requested_at is not None else {}


def _read(body: JsonObject) -> Update:
    files: Any = body.get("files") or {}
    events = _json_lines(files.get(EVENTS))
    history = [Line(line.number, line.content, _step(line.content)) for line in _json_lines(files.get(HISTORY))]
    content: list[str] = dig(files, SUMMARY, "content") or []
    exit_code = body.get("exitcode")
    return Update(
        history=history,
        events=events,
        console=_lines(files.get(CONSOLE)),
        summary=content[-1] if content else None,
        system_metrics=events[-1].content if events else None,
        preempting=bool(body.get("preempting")),
        complete=bool(body.get("complete")),
        exit_code=exit_code if isinstance(exit_code, int) else None,
    )


def _lines(part: Mapping[str, Any] | None) -> list[Line]:
    if not part:
        return []
    offset = int(part.get("offset") or 0)
    return [Line(offset + index, content) for index, content in enumerate(part.get("content") or [])]


def _json_lines(part: Mapping[str, Any] | None) -> list[Line]:
    """Return the lines that hold a JSON object. A bad one becomes an empty object, to keep the numbers dense."""
    checked: list[Line] = []
    for line in _lines(part):
        try:
            good = isinstance(json.loads(line.content), dict)
        except ValueError:
            good = False
        if not good:
            log.warning("a line of a file stream is not a JSON object", line=line.content[:200])
        checked.append(line if good else Line(line.number, "{}"))
    return checked


def _step(content: str) -> int | None:
    step = json.loads(content).get("_step")
    return int(step) if isinstance(step, int | float) else None


def _apply(connection: Connection, entity: str, project: str, run: str, change: Update, now: float) -> float | None:
    row = runs.find(connection, entity, project, run)
    if row is None:
        raise NotFound(f"There is no run {entity}/{project}/{run}: it was deleted.")
    values: dict[str, Any] = {"heartbeat_at": now, "updated_at": now}
    if row.started_at is None:
        values["started_at"] = now
    if not change.complete and (row.ended_at is not None or row.end_cause is not None):
        values.update(ended_at=None, exit_code=None, end_cause=None)  # a late word: it lives after all
    for stream, lines, counter in (
        (Stream.HISTORY, change.history, "history_lines"),
        (Stream.EVENTS, change.events, "event_lines"),
        (Stream.CONSOLE, change.console, "log_lines"),
    ):
        if lines:
            streams.store(connection, row.id, stream, lines)
            values[counter] = max(getattr(row, counter), lines[-1].number + 1)
    steps = [line.step for line in change.history if line.step is not None]
    if steps:
        values["last_step"] = max(row.last_step, *steps)
    if change.summary is not None:
        values["summary"] = change.summary
    if change.system_metrics is not None:
        values["system_metrics"] = change.system_metrics
    if change.preempting:
        values["preempting"] = True
    if change.complete:
        values.update(ended_at=now, exit_code=change.exit_code or 0, end_cause=None)
    connection.execute(update(runs_table).where(runs_table.c.id == row.id).values(**values))
    return row.stop_requested_at
