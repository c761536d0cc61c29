"""Run queue items: taken, acknowledged, ended, stopped, and why one waits."""

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection

from protocol.json_types import JsonObject
from protocol.launch_spec import SCHEDULER_URI, without_api_key
from protocol.states import ItemState, RunState
from server import ids
from server.context import Context
from server.errors import NotFound, RequestError
from server.graphql import Info, Resolvers
from server.resolvers import projects as project_resolvers
from server.resolvers import runs as run_resolvers
from server.resolvers.batches import Batch
from server.storage import agents, claims, queue_items, queues, runs, sweeps, users
from server.storage.rows import AnyRow
from server.times import iso
from server.waiting import waiting_reasons

resolvers = Resolvers()

ACK_REFUSED = "Error acking run queue item"
"""How a stock agent begins the message of a failure that only says that the item is somebody else's."""

_ENDS = {
    "finished": ("finished", ItemState.FINISHED),
    "failed": ("failed", ItemState.FAILED),
    "stopped": ("killed", ItemState.KILLED),
    "preempted": ("preempted", ItemState.PREEMPTED),
    "lost": ("crashed", ItemState.CRASHED),
}
"""What an agent says -> how the run ended, and what becomes of the item."""
_UNTOLD = {
    "finished": "The job exited successfully but never called wandb.init.",
    "failed": "The job failed.",
    "stopped": "Stopped on request.",
    "preempted": "The job was preempted.",
    "lost": "The job was lost: its platform does not know it any more.",
}
"""What is said of an end that the agent does not explain."""


def nodes(rows: Sequence[AnyRow], context: Context) -> list[dict[str, Any]]:
    """Shape items' rows for the SDL. What is costly to tell is told for all of them at once."""
    now = context.now
    reasons = Batch(lambda: context.services.database.read(waiting_reasons, rows, now))
    queue_ids = sorted({row.queue_id for row in rows})
    of_queues = Batch(lambda: context.services.database.read(queues.by_ids, queue_ids))
    return [{**_node(row, now), "reasons": reasons, "queues": of_queues} for row in rows]


def _node(row: AnyRow, now: float) -> dict[str, Any]:
    state = queue_items.state(row, now)
    run = queue_items.run_state(row, now)
    # A client that waits for the run to start waits for this name to appear.
    shown_run = row.run_name if state.is_ended or (run is not None and run is not RunState.PENDING) else None
    return {
        "row_id": row.id,
        "run_row_id": row.run_id,
        "id": ids.encode("RunQueueItem", row.id),
        "state": state.value,
        "associatedRunId": shown_run,
        "priority": row.priority,
        "runSpec": _spec(row),
        "createdAt": iso(row.created_at),
        "updatedAt": iso(row.updated_at),
        "claimedAt": iso(row.claimed_at),
        "endedAt": iso(row.ended_at),
        "exitCode": row.exit_code,
        "error": json.loads(row.error) if row.error else None,
        "warnings": json.loads(row.warnings),
        "createdBy": row.username,
        "status": row.status,
        "queue_row_id": row.queue_id,
        # Who lost a lease or a claim may still get it back, but does not have it.
        "agent": None if state is ItemState.PENDING else _agent(row),
    }


def _spec(row: AnyRow) -> JsonObject:
    """Return an item's launch spec, as it may be shown: one that an earlier version has stored may hold a key."""
    return without_api_key(json.loads(row.launch_spec))


def _agent(row: AnyRow) -> JsonObject | None:
    if row.agent_id is None:
        return None
    return {
        "row_id": row.agent_id,
        "id": ids.encode("LaunchAgent", row.agent_id),
        "name": row.agent_name,
        "agentStatus": row.agent_status,
        "heartbeatAt": iso(row.agent_heartbeat_at),
    }


@resolvers.field("Query", "runQueueItem")
async def run_queue_item(_: object, info: Info, id: str) -> dict[str, Any]:
    """Return an item."""
    context = info.context
    return nodes([await context.services.database.read(_visible, context, id)], context)[0]


@resolvers.field("RunQueueItem", "waitingReason")
async def reason(item: dict[str, Any], _: Info) -> str | None:
    """Say why an item is not running yet."""
    return await item["reasons"].get(item["row_id"])


@resolvers.field("RunQueueItem", "associatedRun")
async def associated_run(item: dict[str, Any], info: Info) -> dict[str, Any] | None:
    """Return an item's run, also while it is pending, if the viewer may see it."""
    if item["run_row_id"] is None:
        return None
    context = info.context
    row = await context.services.database.read(runs.by_id, item["run_row_id"])
    return run_resolvers.node(row, context.now) if context.viewer.may_use(row.entity_name) else None


@resolvers.field("Mutation", "ackRunQueueItem")
async def acknowledge(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Turn a lease into a claim, and make its run known as pending."""
    context = info.context
    agent_id = ids.decode("LaunchAgent", input["launchAgentId"]) if input.get("launchAgentId") else None
    item_id = ids.decode("RunQueueItem", input["runQueueItemId"])

    def work(connection: Connection) -> bool:
        _visible(connection, context, input["runQueueItemId"])
        claimed = claims.acknowledge(connection, item_id, agent_id, input["runName"], context.now)
        if claimed is None:
            return False
        spec = json.loads(claimed.launch_spec)
        run_id = _ensure_run(connection, claimed, spec, context.now)
        if claimed.run_id not in {None, run_id}:
            # An agent that is gone had chosen it. Nobody will start it any more.
            runs.record_end(connection, claimed.run_id, "failed", None, context.now)
        claims.link_run(connection, item_id, run_id)
        if spec.get("run_id"):
            # Only then can another item have had the same run.
            queue_items.settle_earlier(connection, item_id, run_id, context.now)
        if spec.get("uri") == SCHEDULER_URI:
            sweeps.begin_scheduled(connection, item_id, context.now)
        return True

    return {"success": await context.services.database.write(work)}


def _ensure_run(connection: Connection, item: AnyRow, spec: dict[str, Any], now: float) -> int:
    """Return the run of a claimed item, made as pending, and its project with it, if they are not there yet."""
    entity_id = users.entity_id(connection, spec["entity"])
    project = spec["project"] or run_resolvers.DEFAULT_PROJECT
    return runs.ensure_pending(
        connection,
        project_resolvers.ensure_of_entity(connection, entity_id, project, item.created_by, now),
        item.run_name,
        user_id=item.created_by,
        now=now,
        display_name=spec.get("name"),
        sweep=spec.get("sweep_id"),
    )


@resolvers.field("Mutation", "releaseRunQueueItem")
async def release(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Hand an item back that its agent has not started; if somebody wants it stopped, that is its end.

    Doing it again is a success, too, as long as nobody else has taken the item.
    """
    context = info.context
    agent_id = ids.decode("LaunchAgent", input["launchAgentId"])

    def work(connection: Connection) -> tuple[bool, int | None]:
        row = _visible(connection, context, input["runQueueItemId"])
        stored = ItemState(row.state)
        if row.agent_id != agent_id or stored.is_ended:
            was_before = (ItemState.PENDING, None), (ItemState.STOPPED, agent_id)
            return (stored, row.agent_id) in was_before, None
        if _has_started(row, context.now):
            return False, None
        if _is_unwanted(row):
            _stop_unstarted(connection, row, "Stopped before it was started.", "agent", context.now)
            return True, None
        return claims.release(connection, row.id, agent_id, context.now), row.queue_id

    success, queue_id = await context.services.database.write(work)
    if queue_id is not None:
        context.services.wakeups.notify_one(("queue", queue_id))
    _wake_log_readers(context, input["runQueueItemId"])
    return {"success": success}


@resolvers.field("Mutation", "adoptRunQueueItem")
async def adopt(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Give a claim to an agent that has found its launch on a platform, unless another agent at work holds it."""
    context = info.context
    now = context.now
    agent_id = ids.decode("LaunchAgent", input["launchAgentId"])

    def work(connection: Connection) -> JsonObject:
        try:
            row = _visible(connection, context, input["runQueueItemId"])
        except NotFound:
            return {"success": False}
        agents.must_exist(connection, agent_id, row.project_id)
        refused = {"success": False, "itemState": queue_items.state(row, now)}
        went_back = row.state == ItemState.PENDING and row.claimed_at is not None
        if row.run_name != input["runName"] or not (went_back or row.state == ItemState.CLAIMED):
            return refused
        gone = queue_items.holder_is_gone(row, now, context.services.listening_since)
        if not (went_back or row.agent_id == agent_id or gone):
            return {**refused, "heldBy": row.agent_name or "unknown"}
        claims.hand_over(connection, row.id, agent_id, now)
        # Of two who adopt at once, the second must find the first one at work.
        agents.note_heard(connection, agent_id, now)
        adopted = queue_items.by_id(connection, row.id)
        return {"success": True, "itemState": queue_items.state(adopted, now), "runSpec": _spec(row)}

    answer = await context.services.database.write(work)
    context.services.wakeups.notify(("agent", agent_id))  # somebody may want it stopped
    return answer


@resolvers.field("Mutation", "failRunQueueItem")
async def fail(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Fail an item for good.

    A stock agent whose acknowledgement was refused fails the item all the same, though it is somebody else's by then,
    and does not say who it is, but what has happened to it. So a claim is left alone if that is the reason, or if its
    run has started; so is an item that has ended. That is a success: an error would stop the agent from going on.
    """
    context = info.context
    error = _problem(input)

    def work(connection: Connection) -> None:
        row = _visible(connection, context, input["runQueueItemId"])
        is_refusal = error["message"].startswith(ACK_REFUSED)
        if ItemState(row.state).is_ended or _has_started(row, context.now) or is_refusal:
            return
        claims.end(connection, row.id, ItemState.FAILED, context.now, error=json.dumps(error))
        if row.run_id is not None:
            runs.record_end(connection, row.run_id, "failed", None, context.now)

    await context.services.database.write(work)
    _wake_log_readers(context, input["runQueueItemId"])
    return {"success": True}


@resolvers.field("Mutation", "finishRunQueueItem")
async def finish(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Take an agent's word on how a launch ended, and decide what it means for item and run."""
    context = info.context
    if input["state"] not in _ENDS:
        raise RequestError(f"A launch cannot end as {input['state']!r}; use one of: {', '.join(_ENDS)}.")

    def work(connection: Connection) -> str:
        row = _visible(connection, context, input["runQueueItemId"])
        stored = ItemState(row.state)
        agent = ids.decode("LaunchAgent", input["launchAgentId"]) if input.get("launchAgentId") else row.agent_id
        if stored.is_ended or agent != row.agent_id:
            return stored
        if row.run_exit_code is not None:
            runs.confirm_end(connection, row.run_id)
        state, values = _ending(connection, row, input, context.now)
        claims.end(connection, row.id, state, context.now, exit_code=input.get("exitCode"), **values)
        return state

    state = await context.services.database.write(work)
    _wake_log_readers(context, input["runQueueItemId"])
    return {"success": True, "itemState": state}


def _ending(connection: Connection, row: AnyRow, input: dict[str, Any], now: float) -> tuple[ItemState, dict[str, Any]]:
    cause, state = _ENDS[input["state"]]
    run = queue_items.run_state(row, now)
    message = input.get("message") or input.get("reason") or _UNTOLD[input["state"]]
    error = {"error": json.dumps(_problem({**input, "message": message, "stage": "run"}))}
    if run is None or run is RunState.PENDING:
        stopped = _is_unwanted(row) or input["state"] == "stopped"
        if row.run_id is not None:
            runs.record_end(connection, row.run_id, "killed" if stopped else "failed", input.get("exitCode"), now)
        return (ItemState.STOPPED if stopped else ItemState.FAILED), error
    if not run.is_ended or run is RunState.CRASHED:
        # It did not say a last word of its own: it was killed, or its last word is lost.
        runs.record_end(connection, row.run_id, cause, input.get("exitCode"), now)
        return state, {} if state is ItemState.FINISHED else error
    own = ItemState(run.value.upper())
    return own, {} if own is ItemState.FINISHED else error


@resolvers.field("Mutation", "updateRunQueueItemWarning")
async def warn(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Attach a warning to an item; the same one only once."""
    context = info.context
    warning = _problem(input)

    def work(connection: Connection) -> None:
        row = _visible(connection, context, input["runQueueItemId"])
        warnings: list[JsonObject] = json.loads(row.warnings)
        if warning not in warnings:
            queue_items.change(connection, row.id, context.now, warnings=json.dumps([*warnings, warning]))

    await context.services.database.write(work)
    return {"success": True}


@resolvers.field("Mutation", "updateRunQueueItemStatus")
async def update_status(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Note how far an agent says that a launch is; without success if it is not his (any more).

    One that is `retrying` starts the launch once more, under the same item and run: the run's past says nothing about
    the item any more.
    """
    context = info.context
    agent_id = ids.decode("LaunchAgent", input["launchAgentId"]) if input.get("launchAgentId") else None
    status = input["status"]
    # It may quote what a program has printed: NUL, too, which PostgreSQL cannot hold.
    message = (input.get("message") or "").replace("\0", "\ufffd") or None

    def work(connection: Connection) -> bool:
        row = _visible(connection, context, input["runQueueItemId"])
        is_his = claims.note_progress(connection, row.id, agent_id, status, message, context.now)
        if is_his and status == agents.RETRYING and row.run_id is not None:
            runs.await_retry(connection, row.run_id, context.now)
        return is_his

    return {"success": await context.services.database.write(work)}


@resolvers.field("Mutation", "deleteFromRunQueue")
async def delete(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Take an item out of its queue. One that a living agent has claimed is stopped first, by its agent."""
    context = info.context

    def work(connection: Connection) -> None:
        row = _visible(connection, context, input["runQueueItemId"])
        if row.queue_id != ids.decode("RunQueue", input["queueID"]):
            raise NotFound("There is no such item in this queue.")
        live = queue_items.state(row, context.now) in {ItemState.CLAIMED, ItemState.RUNNING}
        if live and not queue_items.holder_is_gone(row, context.now):
            raise RequestError(
                f"This item is with agent {row.agent_name!r}. Stop it first: launchbay stop {input['runQueueItemId']}"
            )
        queue_items.remove(connection, row.id)

    await context.services.database.write(work)
    return {"success": True}


@resolvers.field("Mutation", "stopRunQueueItem")
async def stop(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Stop an item: one that waits ends at once, one that an agent has claimed is stopped by it."""
    context = info.context

    def work(connection: Connection) -> int | None:
        row = _visible(connection, context, input["runQueueItemId"])
        if row.state in {ItemState.PENDING, ItemState.LEASED}:
            # Who holds the lease learns of it when he wants to acknowledge.
            _stop_unstarted(connection, row, "Stopped while it waited in the queue.", "queue", context.now)
            return None
        if ItemState(row.state).is_ended:
            return None
        queue_items.change(connection, row.id, context.now, stop_requested_at=context.now)
        if row.run_id is not None:
            runs.request_stop(connection, row.run_id, context.now)
        return row.agent_id

    agent_id = await context.services.database.write(work)
    if agent_id is not None:
        context.services.wakeups.notify(("agent", agent_id))
    _wake_log_readers(context, input["runQueueItemId"])
    return {"success": True}


def _stop_unstarted(connection: Connection, row: AnyRow, message: str, stage: str, now: float) -> None:
    """End an item that nobody is going to start any more, and its run: the one that it was claimed for, or the one that
    a sweep waits for."""
    claims.stop_unstarted(connection, row.id, row.run_id, message, stage, now)
    spec: JsonObject = json.loads(row.launch_spec)
    name = spec.get("run_id")
    if not name:
        return
    project = str(spec.get("project") or run_resolvers.DEFAULT_PROJECT)
    run = runs.find(connection, str(spec.get("entity")), project, str(name))
    if run is not None and runs.state(run, now) is RunState.PENDING:
        runs.record_end(connection, run.id, "killed", None, now)


def _has_started(row: AnyRow, now: float) -> bool:
    run = queue_items.run_state(row, now)
    return run is not None and run is not RunState.PENDING


def _is_unwanted(row: AnyRow) -> bool:
    """Whether somebody wants the launch stopped, by its item or by its run."""
    return row.stop_requested_at is not None or row.run_stop_requested_at is not None


def _wake_log_readers(context: Context, wire_id: str) -> None:
    """Let those look again who follow an item's output: there may be no more to come."""
    context.services.wakeups.notify(("item-log", ids.decode("RunQueueItem", wire_id)))


def _visible(connection: Connection, context: Context, wire_id: str) -> AnyRow:
    row = queue_items.by_id(connection, ids.decode("RunQueueItem", wire_id))
    if not context.viewer.may_use(row.entity_name):
        raise NotFound("There is no such item.")
    return row


def _problem(input: dict[str, Any]) -> dict[str, Any]:
    return claims.problem(input.get("message") or "", input.get("stage"), input.get("filePaths") or ())
