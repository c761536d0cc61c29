"""How a sweep comes to its end, beside the word of an agent: stopped by somebody, or through with all its runs."""

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection

from protocol.states import ItemState, RunState
from server.storage import claims, queue_items, runs, sweep_runs, sweeps
from server.storage.rows import AnyRow
from server.sweeps.plans import plan_of
from server.sweeps.states import SweepState


def settle(connection: Connection, sweep_id: int, now: float) -> None:
    """Finish a sweep that has made all its runs, if they are through, though no agent is left that would ask."""
    sweeps.lock(connection, sweep_id)
    sweep = sweeps.by_id(connection, sweep_id)
    if sweep.state != SweepState.RUNNING or not plan_of(sweep.config).is_through(sweep_runs.made(connection, sweep.id)):
        return
    lost = None if sweep.launched else sweep_runs.preempted(connection, sweep.id, now)
    if lost is None and not sweep_runs.unended(connection, sweep, now):
        sweeps.change(connection, sweep.id, now, state=SweepState.FINISHED)


def stop_runs(connection: Connection, run_ids: Sequence[int], now: float) -> Sequence[int]:
    """Ask runs to stop; returns them, as their agents should be told."""
    for run_id in run_ids:
        runs.request_stop(connection, run_id, now)
    return run_ids


def withdraw(connection: Connection, sweep: AnyRow, now: float) -> None:
    """Take what waits out of the queue, and end the runs that nobody can start any more."""
    withdraw_unbegun(connection, sweep, now)
    if sweep.launched:
        unstartable = _withdraw_items(connection, sweep, now)
    else:
        unstartable = [run.run_id for run in sweep_runs.unattended(connection, sweep.id, now)]
    for run_id in unstartable:
        runs.record_end(connection, run_id, "killed", None, now)


def _withdraw_items(connection: Connection, sweep: AnyRow, now: float) -> Sequence[int]:
    """Take what waits for the sweep out of the queues; returns the runs that it was for."""
    part = f'"sweep_id": "{sweep.name}"'
    found = sweep_runs.items_of(connection, sweep, part, ItemState.PENDING, ItemState.LEASED)
    return [run_id for item_id in found for run_id in _withdraw_item(connection, sweep, item_id, now)]


def withdraw_unbegun(connection: Connection, sweep: AnyRow, now: float) -> None:
    """Take a sweep's scheduler out of its queue if nobody has taken it up, and end the runs that no agent was given."""
    for run_id in sweep_runs.never_handed_out(connection, sweep.id):
        runs.record_end(connection, run_id, "killed", None, now)
    if sweep.scheduler_item_id is not None:
        item = queue_items.by_id(connection, sweep.scheduler_item_id)
        if item.state in {ItemState.PENDING, ItemState.LEASED}:
            _withdraw_item(connection, sweep, item.id, now)


def _withdraw_item(connection: Connection, sweep: AnyRow, item_id: int, now: float) -> list[int]:
    """Take an item out of its queue; returns its run if it is known and has not started."""
    spec: Any = json.loads(queue_items.by_id(connection, item_id).launch_spec)
    error = claims.problem(f"Sweep {sweep.name!r} was stopped while this waited.", "queue")
    claims.end(connection, item_id, ItemState.STOPPED, now, error=json.dumps(error))
    run = runs.by_name(connection, sweep.project_id, str(spec.get("run_id")))
    return [run.id] if run is not None and runs.state(run, now) is RunState.PENDING else []
