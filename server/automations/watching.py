"""Looks at runs for automations: at the states that they come to, and at the metrics that they log.

Once a second, beside everything else: what writes to a run pays nothing for it, and a look that a crash cuts short is
taken again from where the last one that counted has ended.
"""

import asyncio
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import structlog
from sqlalchemy import Connection, select

from protocol.json_types import JsonObject
from protocol.states import RunState
from server import run_filters
from server.automations import events, metrics
from server.automations.event_types import METRIC_EVENTS, RUN_EVENTS, EventType, coarse
from server.automations.events import RunRule
from server.automations.metrics import Seen
from server.context import Services
from server.storage import automations, deliveries, runs, streams, watched_runs
from server.storage.rows import AnyRow
from server.storage.streams import Stream
from server.storage.tables import runs as runs_table
from server.summaries import parsed

SECONDS_BETWEEN = 1.0
RUNS_AT_ONCE = 20
LINES_AT_ONCE = 1000
"""Of all runs that are looked at together, so that few are in memory. No run gets its next ones before the others had
their turn."""
LONGEST_TRANSACTION_SECONDS = 10.0
"""No run takes longer to begin, nor an automation to be set up."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 5.0, 600.0
"""Before the next look at a run, if one has failed. The pause doubles."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Sight:
    """A run as it was looked at."""

    row: AnyRow
    automations: Sequence[AnyRow]
    """Those that wait for something in it."""
    lines: Sequence[str]
    """What is new of its history, as far as somebody asks for it."""
    lines_read: int


@dataclass(frozen=True, slots=True)
class Finding:
    """What is to be told of a run."""

    sight: Sight
    state: RunState
    seen: Mapping[str, Seen]
    """How far each condition has come, by automation."""
    values: Mapping[str, float]
    """The values at which conditions hold, by automation."""


@dataclass(frozen=True, slots=True)
class Rest:
    """A run is not looked at for so long, as the last look at it has failed."""

    seconds: float
    until: float


async def run(services: Services) -> None:
    """Look for ever."""
    watcher = Watcher(services)
    while True:
        try:
            await watcher.look()
        except Exception:  # the supervisor: the next look sees the same
            log.exception("runs could not be looked at for automations")
        await asyncio.sleep(SECONDS_BETWEEN)


class Watcher:
    """Looks at runs. One at which it cannot look is left alone for a while, and holds up no other."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._resting: dict[str, Rest] = {}  # by path of a run, until a look at it succeeds

    async def look(self) -> None:
        """Look at each run of which there is something to tell, until nothing is unread of their histories."""
        database, clock = self._services.database, self._services.clock
        since = clock() - LONGEST_TRANSACTION_SECONDS
        if new := await database.read(automations.set_up_since, RUN_EVENTS, since):
            await database.write(_watch_missed, new, clock())
        while await self._look_at_each():
            pass

    async def _look_at_each(self) -> bool:
        """Look at each run once; whether more is to be read."""
        now, after, is_behind = self._services.clock(), 0, False
        while page := await self._services.database.read(_page, after, now):
            after = page[-1].run_id
            rows = [row for row in page if not self._rests(_path(row), now)]
            while rows:
                sights = await self._supervised(rows, now)
                is_behind |= any(sight.lines_read < sight.row.history_lines for sight in sights)
                rows = rows[max(len(sights), 1) :]
        return is_behind

    async def _supervised(self, rows: Sequence[AnyRow], now: float) -> Sequence[Sight]:
        """Look at the first ones of these runs; at none of them if the first one has to rest."""
        try:
            sights = await self._look_at(rows, now)
        except Exception:  # the supervisor of these runs: what is wrong with one of them concerns that one alone
            if len(rows) > 1:
                return await self._supervised(rows[:1], now)
            path = _path(rows[0])
            if path not in self._resting:
                log.exception("a run could not be looked at for automations; tried again ever more rarely", run=path)
            self._rest(path, now)
            return []
        for sight in sights:
            self._resting.pop(_path(sight.row), None)
        return sights

    async def _look_at(self, rows: Sequence[AnyRow], now: float) -> Sequence[Sight]:
        """Look at the first ones of these runs, until there are enough lines."""
        sights = await self._services.database.read(_sights, rows, now)
        findings = await asyncio.to_thread(_find_all, sights, now)
        await self._services.database.write(_tell, findings, now)
        return sights

    def _rests(self, path: str, now: float) -> bool:
        rest = self._resting.get(path)
        return rest is not None and now < rest.until

    def _rest(self, path: str, now: float) -> None:
        last = self._resting.get(path)
        pause = min(2 * last.seconds, LONGEST_PAUSE_SECONDS) if last else FIRST_PAUSE_SECONDS
        self._resting[path] = Rest(pause, now + pause)


def _path(row: AnyRow) -> str:
    return f"{row.entity_name}/{row.project_name}/{row.name}"


def _watch_missed(connection: Connection, new: Sequence[AnyRow], now: float) -> None:
    """Watch the runs that began while these automations were set up: neither of two transactions has seen the other."""
    for automation in new:
        state = runs.state_expression(now)
        watched_runs.watch_unwatched(connection, automation.project_id, automation.entity_id, state, now)


def _page(connection: Connection, after: int, now: float) -> list[AnyRow]:
    return watched_runs.page(connection, runs.state_expression(now), now, after, RUNS_AT_ONCE)


def _sights(connection: Connection, rows: Sequence[AnyRow], now: float) -> list[Sight]:
    """Return the first ones of these runs as they are, until there are enough lines."""
    concerned = {
        project_id: automations.concerned_by_runs(connection, project_id, RUN_EVENTS)
        for project_id in {row.project_id for row in rows}
    }
    sights: list[Sight] = []
    room = LINES_AT_ONCE
    for row in rows:
        meant = [each for each in concerned[row.project_id] if _is_meant(connection, row, each, now)]
        sights.append(_sight(connection, row, meant, room))
        room -= len(sights[-1].lines)
        if not room:
            break
    return sights


def _is_meant(connection: Connection, row: AnyRow, automation: AnyRow, now: float) -> bool:
    """Whether an automation is for such a run."""
    condition = run_filters.condition(_rule(automation).run_filter, row.project_id, now)
    statement = select(runs_table.c.id).where(runs_table.c.id == row.run_id)
    return condition is None or connection.scalar(statement.where(condition)) is not None


def _sight(connection: Connection, row: AnyRow, concerned: Sequence[AnyRow], room: int) -> Sight:
    told = [key for key, seen in _seen(row).items() if seen.is_told]
    if not any(each.event_type in METRIC_EVENTS and _key(each) not in told for each in concerned):
        return Sight(row, concerned, (), row.history_lines)
    found = streams.page(connection, row.run_id, Stream.HISTORY, row.lines_read, room)
    lines = [line for line in found if line.number < row.history_lines]  # others have come since the row was read
    # Numbers have gaps where a line could not be read.
    read = lines[-1].number + 1 if len(lines) == room else row.history_lines
    return Sight(row, concerned, [line.content for line in lines], read)


def _find_all(sights: Sequence[Sight], now: float) -> list[Finding]:
    return [_find(sight, now) for sight in sights]


def _find(sight: Sight, now: float) -> Finding:
    seen, lines = _seen(sight.row), [parsed(line) for line in sight.lines]
    values: dict[str, float] = {}
    for automation in sight.automations:
        condition, key = _rule(automation).condition, _key(automation)
        if condition is not None:
            seen[key], value = metrics.look(condition, seen.get(key, Seen()), lines)
            if value is not None:
                values[key] = value
    return Finding(sight, runs.state(sight.row, now), seen, values)


def _seen(row: AnyRow) -> dict[str, Seen]:
    return {key: Seen(**told) for key, told in json.loads(row.metrics).items()}


def _tell(connection: Connection, findings: Sequence[Finding], now: float) -> None:
    for finding in findings:
        row, sight = finding.sight.row, finding.sight
        told = coarse(finding.state) or row.told
        seen = json.dumps({key: asdict(each) for key, each in finding.seen.items()})
        if row.is_over and sight.lines_read >= row.history_lines:
            counts = watched_runs.forget(connection, row)
        else:
            counts = watched_runs.note(connection, row, told=told, lines_read=sight.lines_read, metrics=seen)
        if not counts or row.deleted_at is not None:
            continue
        for automation in sight.automations:
            about = _about(finding, automation, is_new_state=told != row.told)
            if about is not None:
                deliveries.add_of_automation(connection, automation, about, now)


def _about(finding: Finding, automation: AnyRow, *, is_new_state: bool) -> JsonObject | None:
    """Return what there is to tell to an automation, or None."""
    row, rule = finding.sight.row, _rule(automation)
    about: JsonObject = {
        "event_type": automation.event_type,
        "event_author": row.username,
        "entity_name": row.entity_name,
        "project_name": row.project_name,
        "run_id": row.name,
        "run_name": row.display_name,
    }
    if rule.condition is None:
        is_awaited = is_new_state and coarse(finding.state) in rule.states
        return {**about, "run_state": finding.state.value} if is_awaited else None
    value = finding.values.get(_key(automation))
    return None if value is None else {**about, "metric_name": rule.condition.name, "metric_value": value}


def _rule(automation: AnyRow) -> RunRule:
    return events.run_rule(EventType(automation.event_type), automation.filter)


def _key(automation: AnyRow) -> str:
    """Return the name of an automation's condition: one that was changed begins anew.

    So does one that has come with the number of one that was deleted, as SQLite gives it.
    """
    told = f"{automation.created_at}:{automation.filter}"
    return f"{automation.id}:{zlib.crc32(told.encode()):x}"
