"""Sweeps as they are read: `project.sweep`, `project.sweeps`, and what hangs on them."""

import json
from collections.abc import Sequence
from typing import Any

from protocol.json_types import JsonObject
from server import ids, run_filters
from server.context import Context
from server.filters import TextField, among, condition
from server.graphql import Info, Resolvers
from server.resolvers import projects as project_resolvers
from server.resolvers import runs as run_resolvers
from server.resolvers.batches import Batch
from server.resolvers.paging import MAX_PAGE, Page, connection_of
from server.storage import sweeps
from server.storage.rows import AnyRow
from server.storage.tables import sweeps as table
from server.sweeps import ends as sweep_ends
from server.sweeps import suggestions as sweep_search
from server.sweeps.plans import plan_of
from server.sweeps.states import SweepState
from server.times import iso

resolvers = Resolvers()

SETTLE_SECONDS = 5.0
"""How often a sweep that is read is looked at for whether it is through."""


_FILTERED = {
    "name": TextField(table.c.name),
    "display_name": TextField(table.c.display_name),
    "displayName": TextField(table.c.display_name),
    "description": TextField(table.c.description),
    "method": TextField(table.c.method),
    "state": TextField(table.c.state),
}


def nodes(rows: Sequence[AnyRow], context: Context) -> list[dict[str, Any]]:
    """Shape sweeps' rows for the SDL. What is costly to tell is told for all of them at once."""
    database = context.services.database
    sweep_ids = [row.id for row in rows]
    shared = {
        "run_counts": Batch(lambda: database.read(sweeps.run_counts, sweep_ids)),
        "heartbeats": Batch(lambda: database.read(sweeps.heartbeats, sweep_ids)),
        "best": Batch(lambda: sweep_search.best_values(context.services, rows)),
    }
    return [{**_node(row), **shared} for row in rows]


def _node(row: AnyRow) -> dict[str, Any]:
    plan = plan_of(row.config)
    return {
        "__typename": "Sweep",
        "row": row,
        "row_id": row.id,
        "id": ids.encode("Sweep", row.id),
        "name": row.name,
        "displayName": row.display_name,
        "description": row.description,
        "method": row.method,
        "state": row.state,
        "config": row.config,
        "createdAt": iso(row.created_at),
        "updatedAt": iso(row.updated_at),
        "earlyStopJobRunning": plan.config.early_stop is not None and row.state == SweepState.RUNNING,
        "controller": row.controller,
        "scheduler": row.scheduler,
        "project": project_resolvers.node_beside(row),
        "user": {"id": ids.encode("User", row.created_by), "name": row.username, "username": row.username},
        "controllerRunName": row.name,
        "runCountExpected": plan.expected,
    }


@resolvers.field("Project", "sweep")
async def sweep(project: dict[str, Any], info: Info, sweepName: str) -> dict[str, Any] | None:
    """Return a sweep of the project, or null."""
    context = info.context
    database = context.services.database
    row = await database.read(sweeps.by_name, project["row_id"], sweepName)
    if row is None:
        return None
    if row.state == SweepState.RUNNING and _is_due(context, row):
        # The agents may have left with their last runs, and launch schedulers ask only when they are idle.
        await sweep_search.stop_early(context.services, row.id)
        await database.write(sweep_ends.settle, row.id, context.now)
        row = await database.read(sweeps.by_name, project["row_id"], sweepName)
    return nodes([row], context)[0] if row else None


def _is_due(context: Context, row: AnyRow) -> bool:
    return context.services.intervals.due(("settle sweep", row.id), context.now, first=0, every=SETTLE_SECONDS)


@resolvers.field("Project", "sweeps")
async def sweep_list(
    project: dict[str, Any],
    info: Info,
    after: str | None = None,
    first: int | None = None,
    filters: str | None = None,
) -> JsonObject:
    """List the project's sweeps, newest first."""
    context = info.context
    page = Page.of(first, after)
    chosen = condition(filters, among(_FILTERED))
    rows = await context.services.database.read(sweeps.listing, project["row_id"], chosen, page.after, page.limit + 1)
    return connection_of([(row.id, node) for row, node in zip(rows, nodes(rows, context), strict=True)], page)


@resolvers.field("Project", "totalSweeps")
async def total_sweeps(project: dict[str, Any], info: Info) -> int:
    """Count the project's sweeps."""
    return await info.context.services.database.read(sweeps.count, project["row_id"])


@resolvers.field("Sweep", "runCount")
async def run_count(sweep: dict[str, Any], _: Info) -> int:
    """Count a sweep's runs."""
    return await sweep["run_counts"].get(sweep["row_id"]) or 0


@resolvers.field("Sweep", "heartbeatAt")
async def heartbeat_at(sweep: dict[str, Any], _: Info) -> str | None:
    """Tell when an agent was heard of last."""
    return iso(await sweep["heartbeats"].get(sweep["row_id"]))


@resolvers.field("Sweep", "bestLoss")
async def best_loss(sweep: dict[str, Any], _: Info) -> float | None:
    """Return the best value that a run has reached."""
    return await sweep["best"].get(sweep["row_id"])


@resolvers.field("Sweep", "runs")
async def runs_of(
    sweep: dict[str, Any],
    info: Info,
    after: str | None = None,
    first: int | None = None,
    order: str | None = None,
) -> JsonObject:
    """List a sweep's runs, all at once unless told otherwise: clients count them."""
    row = sweep["row"]
    condition = run_filters.condition(json.dumps({"sweep": row.name}), row.project_id, info.context.now)
    return await run_resolvers.listing(info.context, row.project_id, condition, order, first, after, MAX_PAGE)
