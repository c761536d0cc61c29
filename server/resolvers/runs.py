"""Runs: made and changed with `upsertBucket`, read as `project.run`, listed as `project.runs`."""

import json
from typing import Any, cast

from sqlalchemy import ColumnElement, Connection

from protocol.json_types import JsonObject, dig
from protocol.names import run_storage_id
from protocol.states import RunState
from server import ids, run_filters
from server.context import Context
from server.display_names import display_name
from server.errors import Gone, NotFound, RequestError
from server.graphql import Info, Resolvers
from server.resolvers import projects as project_resolvers
from server.resolvers.paging import DEFAULT_PAGE, OrderedPage, connection_of
from server.stopping import notify_stop
from server.storage import artifacts, claims, lineage, queue_items, runs, streams, watched_runs
from server.storage.rows import AnyRow
from server.storage.streams import Stream
from server.times import iso

resolvers = Resolvers()

DEFAULT_PROJECT = "uncategorized"
FORBIDDEN_ID_CHARS = ": ; , # ? / ' %"
"""Those that the client refuses, and one that it sends unescaped in the path of the file stream."""
_DIRECT = {
    "displayName": "display_name",
    "notes": "notes",
    "description": "description",
    "groupName": "group_name",
    "jobType": "job_type",
    "config": "config",
    "summaryMetrics": "summary",
    "host": "host",
    "jobProgram": "program",
    "jobRepo": "git_repo",
    "commit": "git_commit",
    "sweep": "sweep",
}
"""Input field -> column, for what is stored as it comes."""


def node(row: AnyRow, now: float) -> dict[str, Any]:
    """Shape a run's row for the SDL. `row` is for the resolvers of its costly fields."""
    state = runs.state(row, now)
    return {
        "__typename": "Run",
        "row": row,
        "row_id": row.id,
        "id": run_storage_id(row.entity_name, row.project_name, row.name),
        "name": row.name,
        "projectId": row.project_id,
        "user": {"id": ids.encode("User", row.created_by), "name": row.username, "username": row.username},
        "displayName": row.display_name,
        "description": row.description,
        "notes": row.notes,
        "state": state.value,
        "tags": json.loads(row.tags),
        "group": row.group_name,
        "jobType": row.job_type,
        "sweepName": row.sweep,
        "commit": row.git_commit,
        "host": row.host,
        "config": row.config,
        "summaryMetrics": row.summary,
        "systemMetrics": row.system_metrics,
        "readOnly": False,
        "stopped": row.stop_requested_at is not None,
        "shouldStop": row.stop_requested_at is not None,
        "running": state is RunState.RUNNING,
        "failed": state is RunState.FAILED,
        "exitcode": row.exit_code,
        "createdAt": iso(row.created_at),
        "updatedAt": iso(row.updated_at),
        "heartbeatAt": iso(row.heartbeat_at or row.created_at),
        "historyLineCount": row.history_lines,
        "eventsLineCount": row.event_lines,
        "logLineCount": row.log_lines,
        "project": project_resolvers.node_beside(row),
    }


@resolvers.field("Project", "run")
async def run(project: dict[str, Any], info: Info, name: str, **_unused: object) -> dict[str, Any] | None:
    """Return a run of the project, or null."""
    context = info.context
    row = await context.services.database.read(runs.by_name, project["row_id"], name)
    return node(row, context.now) if row else None


@resolvers.field("Project", "bucket")
async def bucket(project: dict[str, Any], info: Info, name: str, **_unused: object) -> dict[str, Any] | None:
    """Return a run, for a client that wants to resume it: a missing one is null, not an error."""
    return await run(project, info, name)


@resolvers.field("Project", "runs")
async def run_list(
    project: dict[str, Any],
    info: Info,
    filters: str | None = None,
    after: str | None = None,
    first: int | None = None,
    order: str | None = None,
) -> JsonObject:
    """List the project's runs."""
    context = info.context
    condition = run_filters.condition(filters, project["row_id"], context.now)
    return await listing(context, project["row_id"], condition, order, first, after)


async def listing(
    context: Context,
    project_id: int,
    condition: ColumnElement[bool] | None,
    order: str | None,
    first: int | None,
    after: str | None,
    default: int = DEFAULT_PAGE,
) -> JsonObject:
    """Return the connection of those runs of a project for which a condition holds."""
    wanted = run_filters.order(order, context.now)
    page = OrderedPage.of(first, after, wanted.keys, default)
    found = await context.services.database.read(
        runs.listing, project_id, condition, wanted, page.behind, page.limit + 1
    )
    return connection_of([(listed.place, node(listed.row, context.now)) for listed in found], page)


@resolvers.field("Project", "runCount")
async def run_count(project: dict[str, Any], info: Info, filters: str | None = None) -> int:
    """Count the project's runs."""
    context = info.context
    condition = run_filters.condition(filters, project["row_id"], context.now)
    return await context.services.database.read(runs.count, project["row_id"], condition)


@resolvers.field("Mutation", "upsertBucket")
async def upsert_bucket(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Make or change a run. Null leaves a value as it is; an empty list of tags clears them."""
    context = info.context

    def work(connection: Connection) -> tuple[AnyRow, bool]:
        if input.get("id"):
            row = by_storage_id(connection, context, input["id"])
            if _is_client_start(input):
                runs.revive(connection, row, context.now)
            runs.change(connection, row.id, context.now, **_changes(input))
            return runs.by_id(connection, row.id), False
        return _upsert_by_name(connection, context, input)

    row, inserted = await context.services.database.write(work)
    bucket = node(row, context.now)
    if context.writer is not None:
        bucket["historyLineCount"] = 0  # each writer of a run in shared mode has numbers of its own
    # Older clients show these messages to the user, and stumble over their absence.
    return {"bucket": bucket, "inserted": inserted, "serverSettings": {"serverMessages": []}}


@resolvers.field("Mutation", "rewindRun")
async def rewind_run(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Cut a run's history behind a step."""
    context = info.context
    if input["metricName"] != "_step":
        raise RequestError("A run can be rewound only to a value of `_step`.")

    def work(connection: Connection) -> AnyRow:
        row = find(connection, context, input.get("entityName"), input.get("projectName"), input["runName"])
        step = int(input["metricValue"])
        left = streams.truncate_after(connection, row.id, step)
        streams.clear(connection, row.id, Stream.EVENTS, Stream.CONSOLE)  # the client numbers those anew
        history = {"history_lines": left, "last_step": min(row.last_step, step)}
        runs.change(connection, row.id, context.now, **history, event_lines=0, log_lines=0)
        runs.revive(connection, row, context.now)  # it is watched from where its history ends now
        return runs.by_id(connection, row.id)

    return {"rewoundRun": node(await context.services.database.write(work), context.now)}


@resolvers.field("Mutation", "updateRunState")
async def update_run_state(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Say of a run that it waits again, or that it has failed."""
    context = info.context
    allowed = {
        "pending": {RunState.RUNNING, RunState.FAILED, RunState.CRASHED, RunState.PREEMPTED},
        "failed": {RunState.PENDING, RunState.RUNNING},
    }

    def work(connection: Connection) -> None:
        row = by_storage_id(connection, context, input["id"])
        state = runs.state(row, context.now)
        if row.sweep is not None or state not in allowed.get(input["state"], set()):
            whose = f" (of sweep {row.sweep!r})" if row.sweep else ""
            raise RequestError(f"invalid state transition of run {row.name!r}{whose}: {state} -> {input['state']}")
        if input["state"] == "pending":
            runs.wait_again(connection, row.id, context.now)
        else:
            runs.record_end(connection, row.id, "failed", None, context.now)

    await context.services.database.write(work)
    return {"success": True}


@resolvers.field("Mutation", "stopRun")
async def stop_run(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Ask a run to stop. It learns of it through its file stream, a launched one also through its agent.

    One whose item is back in its queue ends with it: who takes the item next would start it as another run.
    """
    context = info.context

    def work(connection: Connection) -> int:
        row = by_storage_id(connection, context, input["id"])
        item_id = queue_items.waiting_again(connection, row.id)
        if item_id is not None and runs.state(row, context.now) is RunState.PENDING:
            message = "Its run was stopped while it waited in the queue."
            claims.stop_unstarted(connection, item_id, row.id, message, "queue", context.now)
        runs.request_stop(connection, row.id, context.now)
        return row.id

    await notify_stop(context.services, await context.services.database.write(work))
    return {"success": True}


@resolvers.field("Mutation", "deleteRun")
async def delete_run(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Delete a run. Its id is not given out again; artifacts that it logged stay, unless they are to go as well."""
    context = info.context

    def work(connection: Connection) -> None:
        row = by_storage_id(connection, context, input["id"])
        runs.remove(connection, row.id, context.now)
        for artifact_id in lineage.made_by(connection, row.id) if input.get("deleteArtifacts") else ():
            artifacts.delete(connection, artifact_id, context.now)

    await context.services.database.write(work)
    return {"clientMutationId": None}


def find(connection: Connection, context: Context, entity: str | None, project: str | None, name: str) -> AnyRow:
    """Return a run that the viewer may use; `NotFound` if there is none."""
    owner = entity or context.viewer.entity
    context.viewer.must_use(owner)
    row = runs.find(connection, owner, project or DEFAULT_PROJECT, name)
    if row is None:
        raise NotFound(f"There is no run {owner}/{project or DEFAULT_PROJECT}/{name}.")
    return row


def by_storage_id(connection: Connection, context: Context, storage_id: str) -> AnyRow:
    """Return the run of a storage id."""
    key = ids.decode_run(storage_id)
    return find(connection, context, key.entity, key.project, key.run)


def _upsert_by_name(connection: Connection, context: Context, input: dict[str, Any]) -> tuple[AnyRow, bool]:
    name = input.get("name") or ""
    _check_id(name)
    entity, project = input.get("entityName") or context.viewer.entity, input.get("modelName") or DEFAULT_PROJECT
    context.viewer.must_use(entity)
    known = runs.find(connection, entity, project, name)
    if known is None:
        project_id = project_resolvers.ensure(connection, context, entity, project)
        if runs.by_name(connection, project_id, name, deleted=True) is not None:
            raise Gone(f"Run {name!r} was previously created and deleted; use another run id.")
        made = _create(connection, context, project_id, name, input)
        _fork(connection, project_id, made, input, context.now)
        return runs.by_id(connection, made), True
    if _is_client_start(input) and context.writer is None:
        runs.restart(connection, known, context.now)
        _fork(connection, known.project_id, known.id, input, context.now)
    elif _is_client_start(input) or (known.started_at is None and _starts_without_host(input)):
        runs.revive(connection, known, context.now)
    runs.change(connection, known.id, context.now, **_changes(input))
    return runs.by_id(connection, known.id), False


def _create(connection: Connection, context: Context, project_id: int, name: str, input: dict[str, Any]) -> int:
    waiting = input.get("state") == "pending"
    alive = {} if waiting else {"started_at": context.now, "heartbeat_at": context.now}
    named = {"display_name": display_name(context.services.random, runs.made(connection, project_id) + 1)}
    return runs.create(
        connection,
        project_id,
        name,
        user_id=context.viewer.id,
        now=context.now,
        **{**named, **alive, **_changes(input)},
    )


def _fork(connection: Connection, project_id: int, run_id: int, input: dict[str, Any], now: float) -> None:
    """Give a run without a history that of the one that it branches off, if its config says so."""
    branch = dig(json.loads(input.get("config") or "{}"), "_wandb", "value", "branch_point")
    name, step = dig(branch, "run_id"), dig(branch, "step")
    if not isinstance(name, str) or not isinstance(step, int):
        return
    parent = runs.by_name(connection, project_id, name)
    if parent is None:
        raise NotFound(f"There is no run {name!r} in the project to fork from.")
    lines = streams.copy_until(connection, parent.id, run_id, step)
    runs.change(connection, run_id, now, history_lines=lines, last_step=min(step, parent.last_step))
    watched_runs.watch(connection, run_id)  # from here on: what it was given is not its own


def _changes(input: dict[str, Any]) -> dict[str, Any]:
    values = {column: input[field] for field, column in _DIRECT.items() if input.get(field) is not None}
    for column in ("config", "summary"):
        if column in values:
            _check_object(column, values[column])
    if input.get("tags") is not None:
        values["tags"] = runs.set_tags(input["tags"])
    return values


def _check_object(what: str, text: str) -> None:
    """Raise `RequestError` unless the text holds a JSON object; the bare NaN of clients is fine."""
    try:
        good = isinstance(json.loads(text), dict)
    except ValueError:
        good = False
    if not good:
        raise RequestError(f"The {what} of a run must be the text of a JSON object.")


def _is_client_start(input: dict[str, Any]) -> bool:
    """Whether this is a run stream at its start, rather than a change to a run that goes on."""
    return input.get("host") is not None or input.get("jobProgram") is not None


def _starts_without_host(input: dict[str, Any]) -> bool:
    """Whether a waiting run has begun, though no host is named: the public API says so, or a client's config does."""
    if input.get("state") is not None:
        return input["state"] == "running"
    return "_wandb" in (input.get("config") or "")


def _check_id(name: str) -> None:
    if not name or len(name) > 128 or set(name).intersection(FORBIDDEN_ID_CHARS.split()) or name in (".", ".."):
        raise RequestError(f"{name!r} cannot be a run id: use 1 to 128 characters without {FORBIDDEN_ID_CHARS}")


@resolvers.field("Run", "wandbConfig")
async def wandb_config(parent: dict[str, Any], _: Info, keys: list[str] | None = None) -> JsonObject:
    """Return the client's own part of the config, restricted to some keys."""
    own = dig(json.loads(parent["config"]), "_wandb", "value")
    if not isinstance(own, dict):
        return {}
    entries = cast("JsonObject", own)
    return {key: entries[key] for key in keys or entries if key in entries}
