"""Sweeps as they are changed: `upsertSweep` in all its forms, and their deletion.

The client tries up to five forms of one request, and shows the error of the last: each is answered in the same words.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from sqlalchemy import Connection

from protocol import names
from protocol.json_types import Json, JsonObject
from protocol.launch_spec import without_stray_quotes
from protocol.states import ItemState
from server import ids, pushing, run_filters
from server.context import Context
from server.errors import NotFound, RequestError
from server.graphql import Info, Resolvers
from server.resolvers import projects as project_resolvers
from server.resolvers import pushes
from server.resolvers import runs as run_resolvers
from server.resolvers import sweeps as sweep_resolvers
from server.stopping import notify_stop
from server.storage import queue_items, queues, runs, sweep_runs, sweeps
from server.storage.rows import AnyRow
from server.sweeps import ends as sweep_ends
from server.sweeps import local_controllers, made_runs
from server.sweeps.plans import Plan, plan_of
from server.sweeps.states import SweepState, move

resolvers = Resolvers()

SWEEP_ID_MARK = "WANDB_SWEEP_ID"
"""Stands in a scheduler's launch spec for the id that the sweep has not got yet."""


@dataclass(frozen=True, slots=True)
class _News:
    """Of whom somebody should be told after the commit."""

    queue_id: int | None = None
    """A queue into which an item has come."""
    stopped_runs: Sequence[int] = ()


@resolvers.field("Mutation", "upsertSweep")
async def upsert_sweep(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Make a sweep, or change one. Null leaves a value as it is."""
    context = info.context
    plan = plan_of(input["config"]) if input.get("config") else None
    if plan is not None and plan.config.method == "bayes" and find_spec("optuna") is None:
        # Told now: agents would only log it, and wait for ever.
        raise RequestError("This server cannot search: install launchbay[sweeps] there, or use method 'random'.")

    def work(connection: Connection) -> tuple[AnyRow, _News]:
        if input.get("id"):
            sweep_id, news = _change(connection, context, input, plan)
        else:
            sweep_id, news = _create(connection, context, input, plan)
        return sweeps.by_id(connection, sweep_id), news

    row, news = await context.services.database.write(work)
    if news.queue_id is not None:
        context.services.wakeups.notify_one(("queue", news.queue_id))
    for run_id in news.stopped_runs:
        await notify_stop(context.services, run_id)
    warnings = list(plan.warnings) if plan else []
    return {"sweep": sweep_resolvers.nodes([row], context)[0], "configValidationWarnings": warnings}


@resolvers.field("Mutation", "enqueueSweepRun")
async def enqueue_run(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Put a run into a sweep. Its agents ask for it, so that no item of a queue tells of it."""
    context = info.context
    config = pushing.read_object(input["config"], "config")

    def work(connection: Connection) -> AnyRow:
        return made_runs.enqueue(
            connection,
            _visible(connection, context, input["id"]).id,
            config,
            input.get("displayName"),
            user_id=context.viewer.id,
            random=context.services.random,
            now=context.now,
        )

    run = await context.services.database.write(work)
    return {"id": run.name, "runQueueItemId": None}


@resolvers.field("Mutation", "deleteSweep")
async def delete_sweep(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Delete a sweep. What its agents run goes on to its end, and then they leave."""
    context = info.context

    def work(connection: Connection) -> None:
        row = _visible(connection, context, input["id"])
        sweep_ends.withdraw(connection, row, context.now)
        sweeps.remove(connection, row.id)

    await context.services.database.write(work)
    return {"success": True}


def _create(connection: Connection, context: Context, input: dict[str, Any], plan: Plan | None) -> tuple[int, _News]:
    if plan is None:
        raise RequestError("A sweep needs a `config`: YAML that says at least `method` and `parameters`.")
    entity = input.get("entityName") or context.viewer.entity
    project = input.get("projectName") or run_resolvers.DEFAULT_PROJECT
    project_id = project_resolvers.ensure(connection, context, entity, project)
    name = _fresh_name(connection, context, project_id)
    sweep_id = sweeps.create(
        connection,
        project_id,
        name,
        user_id=context.viewer.id,
        now=context.now,
        state=move(name, SweepState.PENDING, input.get("state") or SweepState.PENDING),
        method=plan.config.method,
        config=input["config"],
        **_texts(input),
    )
    _attach_prior_runs(connection, context, sweep_id, input)
    return sweep_id, _launch(connection, context, sweep_id, input)


def _fresh_name(connection: Connection, context: Context, project_id: int) -> str:
    while True:
        name = names.run_id(context.services.random)
        if sweeps.by_name(connection, project_id, name) is None:
            return name


def _change(connection: Connection, context: Context, input: dict[str, Any], plan: Plan | None) -> tuple[int, _News]:
    sweep_id = _visible(connection, context, input["id"]).id
    sweeps.lock(connection, sweep_id)
    row = sweeps.by_id(connection, sweep_id)
    values: dict[str, Any] = _texts(input)
    if plan is not None and plan.raw != plan_of(row.config).raw:
        _check_unstarted(connection, row)
        values |= {"config": input["config"], "method": plan.config.method}
    news = _News()
    if input.get("launchScheduler"):
        _check_scheduler_ended(connection, row, context.now)
    elif input.get("state"):
        values["state"] = move(row.name, SweepState(row.state), input["state"])
        news = _enter(connection, context, row, values["state"])
    sweeps.change(connection, sweep_id, context.now, **values)
    if input.get("controller"):
        changed = sweeps.by_id(connection, sweep_id)
        unwanted = sweep_runs.numbers(connection, changed, local_controllers.unwanted(changed))
        news = _News(stopped_runs=[*news.stopped_runs, *sweep_ends.stop_runs(connection, unwanted, context.now)])
    _attach_prior_runs(connection, context, sweep_id, input)
    return sweep_id, _launch(connection, context, sweep_id, input) if input.get("launchScheduler") else news


def _texts(input: dict[str, Any]) -> dict[str, str]:
    """Return the columns that are stored as they come."""
    columns = {
        "description": "description",
        "displayName": "display_name",
        "controller": "controller",
        "scheduler": "scheduler",
        "priorRunsFilters": "prior_runs",
    }
    for field in ("controller", "scheduler", "priorRunsFilters"):
        pushing.read_object(input.get(field), field)
    return {column: input[field] for field, column in columns.items() if input.get(field) is not None}


def _check_unstarted(connection: Connection, row: AnyRow) -> None:
    if sweep_runs.made(connection, row.id).all:
        raise RequestError(
            f"Sweep {row.name!r} has made runs already, so its config cannot be changed any more. Make a new sweep, "
            "with --prior_run for the runs that it should learn from."
        )


def _enter(connection: Connection, context: Context, row: AnyRow, state: SweepState) -> _News:
    """Do what a move to this state means."""
    if state == row.state:
        return _News()
    match state:
        case SweepState.CANCELED:
            sweep_ends.withdraw(connection, row, context.now)
            unended = [run.id for run in sweep_runs.unended(connection, row, context.now)]
            return _News(stopped_runs=sweep_ends.stop_runs(connection, unended, context.now))
        case SweepState.FINISHED:
            sweep_ends.withdraw_unbegun(connection, row, context.now)
        case SweepState.RUNNING if row.launched and _scheduler_state(connection, row, context.now).is_ended:
            raise RequestError(
                f"The scheduler of sweep {row.name!r} has ended, so nobody would make its runs. Queue it again: "
                f"wandb launch-sweep --resume_id {row.name} --queue QUEUE"
            )
        case _:
            pass
    return _News()


def _check_scheduler_ended(connection: Connection, row: AnyRow, now: float) -> None:
    if not row.launched:
        return
    state = _scheduler_state(connection, row, now)
    if not state.is_ended:
        raise RequestError(
            f"Sweep {row.name!r} has a scheduler that is {state.lower()}. Wait for its end, or stop it, before another "
            "one is queued."
        )


def _scheduler_state(connection: Connection, row: AnyRow, now: float) -> ItemState:
    if row.scheduler_item_id is None:  # somebody has deleted it
        return ItemState.STOPPED
    return queue_items.state(queue_items.by_id(connection, row.scheduler_item_id), now)


def _attach_prior_runs(connection: Connection, context: Context, sweep_id: int, input: dict[str, Any]) -> None:
    """Make earlier runs a part of the sweep. It learns from those of other sweeps too, but they stay there."""
    row = sweeps.by_id(connection, sweep_id)
    chosen = run_filters.condition(input.get("priorRunsFilters"), row.project_id, context.now)
    if chosen is None:
        return
    if not runs.count(connection, row.project_id, chosen):
        raise RequestError(
            f"None of the prior runs is in project {row.project_name!r}. Give ids of runs of this project "
            f"({input['priorRunsFilters']})."
        )
    sweeps.attach_runs(connection, row, chosen, context.now)


def _launch(connection: Connection, context: Context, sweep_id: int, input: dict[str, Any]) -> _News:
    """Queue the sweep's scheduler, if it has one, and keep what it was queued with: resuming reads it."""
    document = pushing.read_object(input.get("launchScheduler"), "launchScheduler")
    if not document:
        return _News()
    row = sweeps.by_id(connection, sweep_id)
    queue_name, text = document.get("queue"), document.get("run_spec")
    if not isinstance(queue_name, str) or not isinstance(text, str):
        raise RequestError("launchScheduler must say `queue`, and `run_spec` as the text of a JSON object.")
    spec = _unquoted(pushing.read_object(text.replace(SWEEP_ID_MARK, row.name), "run_spec"))
    values = pushing.read_object(input.get("templateVariableValues"), "templateVariableValues")
    queue_project = str(document.get("run_queue_project") or row.project_name)
    queue = queues.find(connection, row.entity_name, queue_project, queue_name)
    item_id, _completed = pushes.enqueue(connection, context, queue, pushes.Push(spec, values))
    sweeps.change(
        connection,
        sweep_id,
        context.now,
        state=SweepState.PENDING,
        launched=True,
        scheduler_item_id=item_id,
        scheduler=json.dumps({**document, "run_spec": json.dumps(pushing.without_key(spec))}),
    )
    return _News(queue_id=queue.id)


def _unquoted(spec: JsonObject) -> JsonObject:
    """Take the stray quotes off a scheduler's arguments: the stock client writes them, and nobody removes them."""
    overrides = spec.get("overrides")
    args = overrides.get("args") if isinstance(overrides, Mapping) else None
    if not isinstance(overrides, Mapping) or isinstance(args, str) or not isinstance(args, Sequence):
        return spec
    bare: list[Json] = list(without_stray_quotes([str(word) for word in args]))
    return {**spec, "overrides": {**overrides, "args": bare}}


def _visible(connection: Connection, context: Context, wire_id: str) -> AnyRow:
    row = sweeps.by_id(connection, ids.decode("Sweep", wire_id))
    if not context.viewer.may_use(row.entity_name):
        raise NotFound(sweeps.GONE)
    return row
