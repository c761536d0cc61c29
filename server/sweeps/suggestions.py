"""Between the database and the pure searches of `server.sweeps`: what they look at, and what comes of it.

A Bayesian search takes long, and so may the curves of many runs. So what they look at is read in one transaction, and
thought about in a thread. What comes out is checked by the one who uses it.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from sqlalchemy import Connection

from protocol.json_types import JsonObject
from protocol.states import RunState
from server import run_filters
from server.context import Services
from server.stopping import notify_stop
from server.storage import streams, sweep_runs, sweeps
from server.storage.rows import AnyRow
from server.storage.streams import Line, Stream
from server.summaries import number_at, parsed
from server.sweeps import ends as sweep_ends
from server.sweeps.commands import Suggestion
from server.sweeps.config import Metric
from server.sweeps.curves import Curve
from server.sweeps.early_stop import to_stop
from server.sweeps.plans import Plan, plan_of
from server.sweeps.search import PastRun
from server.sweeps.search import suggest as next_params

EARLY_STOP_SECONDS = 10.0
"""How often the runs of a sweep are compared."""
CHUNK_LINES = 5_000
"""How much of a run's history is read at a time."""


async def suggest(services: Services, sweep_id: int) -> Suggestion:
    """Return the parameters to try next."""
    sweep, past = await services.database.read(_past, sweep_id, services.clock())
    args = await asyncio.to_thread(_suggested, plan_of(sweep.config), past, services.random)
    return Suggestion(sweep.version, args)


def _past(connection: Connection, sweep_id: int, now: float) -> tuple[AnyRow, Sequence[AnyRow]]:
    sweep = sweeps.by_id(connection, sweep_id)
    learned_from = run_filters.condition(sweep.prior_runs, sweep.project_id, now)
    return sweep, sweep_runs.past(connection, sweep, learned_from, now)


def _suggested(plan: Plan, past: Sequence[AnyRow], random: Random) -> JsonObject | None:
    return next_params(plan.config, [_past_run(row, plan.config.metric) for row in past], random)


def _past_run(row: AnyRow, metric: Metric | None) -> PastRun:
    params: dict[str, Any] = json.loads(row.args) if row.args else parsed(row.config)
    return PastRun(params, row.state, number_at(parsed(row.summary), metric.name) if metric else None)


async def best_values(services: Services, rows: Sequence[AnyRow]) -> Mapping[int, float]:
    """Return by sweep the best value of its metric in the summaries of its runs; sweeps without are left out."""
    plans = {row.id: plan_of(row.config) for row in rows}
    found = await services.database.read(sweeps.summaries, list(plans))
    return await asyncio.to_thread(_best, plans, found)


def _best(plans: Mapping[int, Plan], found: Sequence[AnyRow]) -> Mapping[int, float]:
    best: dict[int, float] = {}
    for row in found:
        metric = plans[row.sweep_id].config.metric
        value = number_at(parsed(row.summary), metric.name) if metric else None
        if metric is not None and value is not None:
            choose = max if metric.goal == "maximize" else min
            best[row.sweep_id] = choose(value, best.get(row.sweep_id, value))
    return best


async def stop_early(services: Services, sweep_id: int) -> None:
    """Ask those runs of a sweep to stop that are not worth going on; no effect if they were compared just now."""
    now = services.clock()
    if not services.intervals.due(("early stop", sweep_id), now, first=0, every=EARLY_STOP_SECONDS):
        return
    sweep = await services.database.read(sweeps.by_id, sweep_id)
    config = plan_of(sweep.config).config
    if config.early_stop is None or config.metric is None:
        return
    rows = await services.database.read(sweep_runs.courses, sweep, now)
    if not any(row.state == RunState.RUNNING for row in rows):
        return
    histories = {row.name: (await _read_curve(services, row, config.metric.name)).values for row in rows}
    names = await asyncio.to_thread(to_stop, config, histories)
    unwanted = [row.id for row in rows if row.name in names and row.state == RunState.RUNNING]
    for run_id in await services.database.write(sweep_ends.stop_runs, unwanted, now):
        await notify_stop(services, run_id)


async def _read_curve(services: Services, row: AnyRow, metric: str) -> Curve:
    """Return a run's curve; of a long history that nobody has read yet, this is the first part."""
    curve = services.curves.of(row.id, metric, row.history_lines)
    if curve.next_line < row.history_lines:
        first = curve.next_line
        lines = await services.database.read(streams.page, row.id, Stream.HISTORY, first, CHUNK_LINES)
        values = await asyncio.to_thread(_values, lines, metric)
        if lines:
            services.curves.extend(curve, values, lines[-1].number + 1)
    return curve


def _values(lines: Sequence[Line], metric: str) -> list[float]:
    found = (number_at(parsed(line.content), metric) for line in lines)
    return [value for value in found if value is not None]
