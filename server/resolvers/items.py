"""Run queue items: taken, acknowledged, ended, stopped, and why one waits."""

import json
from typing import Any

from sqlalchemy import Connection

from protocol.json_types import JsonObject
from protocol.states import ItemState, RunState
from server import ids
from server.context import Context
from server.errors import NotFound, RequestError
from server.graphql import Info, Resolvers
from server.resolvers import projects as project_resolvers
from server.storage import claims, queue_items, queues, runs, users
from server.storage.rows import AnyRow
from server.storage.tables import launch_agents
from server.times import iso
from server.waiting import waiting_reason
from server.wakeups import wait

resolvers = Resolvers()

_ENDS = {
    "finished": ("finished", ItemState.FINISHED),
    "failed": ("failed", ItemState.FAILED),
    "stopped": ("killed", ItemState.KILLED),
    "preempted": ("preempted", ItemState.PREEMPTED),
    "lost": ("crashed", ItemState.CRASHED),
}
"""What an agent says -> how the run ended, and what becomes of the item."""


def node(row: AnyRow, now: float) -> dict[str, Any]:
    """Shape an item's row for the SDL."""
    state = queue_items.state(row, now)
    run = queue_items.run_state(row, now)
    # A client that waits for the run to start waits for this name to appear.
    shown_run = row.run_name if state.is_ended or (run is not None and run is not RunState.PENDING) else None
    return {
        "row": row,
        "row_id": row.id,
        "id": ids.encode("RunQueueItem", row.id),
        "state": state.value,
        "associatedRunId": shown_run,
        "priority": row.priority,
        "runSpec": json.loads(row.launch_spec),
        "createdAt": iso(row.created_at),
        "updatedAt": iso(row.updated_at),
        "claimedAt": iso(row.claimed_at),
        "endedAt": iso(row.ended_at),
        "exitCode": row.exit_code,
        "error": json.loads(row.error) if row.error else None,
        "warnings": json.loads(row.warnings),
        "createdBy": row.username,
        "status": row.status,
        "runQueue": {"row_id": row.queue_id, "id": ids.encode("RunQueue", row.queue_id), "name": row.queue_name},
        "agent": _agent(row),
    }


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
    return node(await context.services.database.read(_visible, context, id), context.now)


@resolvers.field("RunQueueItem", "waitingReason")
async def reason(item: dict[str, Any], info: Info) -> str | None:
    """Say why an item is not running yet."""
    if ItemState(item["state"]).is_ended or item["state"] == ItemState.RUNNING:
        return None
    return await info.context.services.database.read(waiting_reason, item["row"], info.context.now)


@resolvers.field("Mutation", "popFromRunQueue")
async def pop(_: object, info: Info, input: dict[str, Any]) -> JsonObject | None:
    """Lease the next item to an agent; with `Prefer: wait=N` wait for one."""
    context = info.context
    context.viewer.must_use(input["entityName"])
    agent_id = ids.decode("LaunchAgent", input["launchAgentId"]) if input.get("launchAgentId") else None

    def look(connection: Connection) -> AnyRow:
        return queues.find(connection, input["entityName"], input["projectName"], input["queueName"])

    queue = await context.services.database.read(look)
    deadline = context.now + context.wait_seconds
    with context.services.wakeups.listening([("queue", queue.id)]) as event:
        while not context.is_gone():
            if agent_id is not None:
                context.services.heartbeats.beat(launch_agents, agent_id, context.now)
            taken, expiry = await context.services.database.write(_take, queue, agent_id, context.now)
            if taken is not None:
                spec = json.loads(taken.launch_spec)
                return {"runQueueItemId": ids.encode("RunQueueItem", taken.id), "runSpec": spec}
            left = deadline - context.now
            if left <= 0:
                return None
            # A lease that ends wakes nobody, so the look is repeated then.
            await wait(event, left if expiry is None else min(left, max(expiry - context.now, 0.05)))
    return None


def _take(
    connection: Connection, queue: AnyRow, agent_id: int | None, now: float
) -> tuple[AnyRow | None, float | None]:
    taken = claims.take(connection, queue.id, agent_id, now)
    return taken, None if taken else claims.next_expiry(connection, queue.id)


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
        if spec.get("entity") and spec.get("project") and claimed.run_id is None:
            entity_id = users.entity_id(connection, spec["entity"])
            project_id = project_resolvers.ensure_of_entity(
                connection, entity_id, spec["project"], claimed.created_by, context.now
            )
            run_id = runs.ensure_pending(
                connection,
                project_id,
                input["runName"],
                user_id=claimed.created_by,
                now=context.now,
                display_name=spec.get("name"),
                sweep=spec.get("sweep_id"),
            )
            claims.link_run(connection, item_id, run_id)
        return True

    return {"success": await context.services.database.write(work)}


@resolvers.field("Mutation", "failRunQueueItem")
async def fail(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Fail an item for good.

    A stock agent whose acknowledgement was refused fails the item all the same, though it is somebody else's by then,
    and does not say who it is. So an item whose run is alive, or that has ended, is left alone, and that is a success.
    """
    context = info.context
    error = _problem(input)

    def work(connection: Connection) -> None:
        row = _visible(connection, context, input["runQueueItemId"])
        run = queue_items.run_state(row, context.now)
        if ItemState(row.state).is_ended or (run is not None and run is not RunState.PENDING):
            return
        claims.end(connection, row.id, ItemState.FAILED, context.now, error=json.dumps(error))
        if row.run_id is not None:
            runs.record_end(connection, row.run_id, "failed", None, context.now)

    await context.services.database.write(work)
    return {"success": True}


@resolvers.field("Mutation", "finishRunQueueItem")
async def finish(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Take an agent's word on how a launch ended, and decide what it means for item and run."""
    context = info.context
    if input["state"] not in _ENDS:
        raise RequestError(f"A launch cannot end as {input['state']!r}; use one of: {', '.join(_ENDS)}.")

    def work(connection: Connection) -> tuple[str, int]:
        row = _visible(connection, context, input["runQueueItemId"])
        stored = ItemState(row.state)
        agent = ids.decode("LaunchAgent", input["launchAgentId"]) if input.get("launchAgentId") else row.agent_id
        if stored.is_ended or agent != row.agent_id:
            return stored, row.id
        state, values = _ending(connection, row, input, context.now)
        claims.end(connection, row.id, state, context.now, exit_code=input.get("exitCode"), **values)
        return state, row.id

    state, item_id = await context.services.database.write(work)
    context.services.wakeups.notify(("item-log", item_id))
    return {"success": True, "itemState": state}


def _ending(connection: Connection, row: AnyRow, input: dict[str, Any], now: float) -> tuple[ItemState, dict[str, Any]]:
    cause, state = _ENDS[input["state"]]
    run = queue_items.run_state(row, now)
    error = {"error": json.dumps(_problem({**input, "stage": "run"}))}
    if run is None or run is RunState.PENDING:
        stopped = input["state"] == "stopped"
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
    """Note how far an agent says that a launch is."""
    context = info.context

    def work(connection: Connection) -> None:
        row = _visible(connection, context, input["runQueueItemId"])
        if row.state == ItemState.CLAIMED:
            told = {"status": input["status"], "status_message": input.get("message")}
            queue_items.change(connection, row.id, context.now, **told)

    await context.services.database.write(work)
    return {"success": True}


@resolvers.field("Mutation", "deleteFromRunQueue")
async def delete(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Take an item out of its queue. One that an agent has claimed is stopped first, by its agent."""
    context = info.context

    def work(connection: Connection) -> None:
        row = _visible(connection, context, input["runQueueItemId"])
        if row.state == ItemState.CLAIMED:
            raise RequestError("This item is with an agent. Stop it instead: launchbay stop ITEM.")
        queue_items.remove(connection, row.id)

    await context.services.database.write(work)
    return {"success": True}


@resolvers.field("Mutation", "stopRunQueueItem")
async def stop(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Stop an item: one that waits ends at once, one that an agent holds is stopped by it."""
    context = info.context

    def work(connection: Connection) -> int | None:
        row = _visible(connection, context, input["runQueueItemId"])
        if row.state == ItemState.PENDING:
            message: JsonObject = {
                "message": "Stopped while it waited in the queue.",
                "stage": "queue",
                "filePaths": [],
            }
            claims.end(connection, row.id, ItemState.STOPPED, context.now, error=json.dumps(message))
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
    return {"success": True}


def _visible(connection: Connection, context: Context, wire_id: str) -> AnyRow:
    row = queue_items.by_id(connection, ids.decode("RunQueueItem", wire_id))
    if not context.viewer.may_use(row.entity_name):
        raise NotFound("There is no such item.")
    return row


def _problem(input: dict[str, Any]) -> dict[str, Any]:
    return {
        "message": input.get("message") or "",
        "stage": input.get("stage"),
        "filePaths": input.get("filePaths") or [],
    }
