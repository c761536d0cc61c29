"""The push: a launch spec is completed from its queue and stored as an item, whoever asks for it."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from protocol.json_types import JsonObject
from protocol.names import QUEUE_PROJECT
from server import ids, pushing
from server.context import Context
from server.graphql import Info, Resolvers
from server.resolvers import projects as project_resolvers
from server.storage import claims, queue_items, queues
from server.storage.rows import AnyRow

resolvers = Resolvers()

TWIN_SECONDS = 60.0
KEY_NOT_KEPT = claims.problem(
    "The launch spec came with an API key (`_wandb_api_key`). It was not kept, as an item can be read by everybody who "
    "may use its queue: the run gets the key of its agent. Leave the key out. For runs in the name of who has pushed "
    "them, give the agent the key of a service account of the team.",
    "queue",
)


@dataclass(frozen=True, slots=True)
class Push:
    """What somebody wants queued: a launch spec, values of template variables, and how urgent it is."""

    spec: JsonObject
    values: JsonObject
    priority: int | None = None


@resolvers.field("Mutation", "pushToRunQueueByName")
async def push_by_name(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Push a launch spec to a queue by name."""
    context = info.context
    context.viewer.must_use(input["entityName"])

    def find(connection: Connection) -> AnyRow:
        return queues.find(connection, input["entityName"], input["projectName"] or QUEUE_PROJECT, input["queueName"])

    item_id, spec = await _push(context, find, input, by_id=False)
    return {"runQueueItemId": item_id, "runSpec": json.dumps(spec)}


@resolvers.field("Mutation", "pushToRunQueue")
async def push_by_id(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Push a launch spec to a queue by id: what the stock client tries when its push by name went wrong."""
    context = info.context

    def find(connection: Connection) -> AnyRow:
        row = queues.by_id(connection, ids.decode("RunQueue", input["queueID"]))
        context.viewer.must_see(row.entity_name, "queue")
        return row

    item_id, _spec = await _push(context, find, input, by_id=True)
    return {"runQueueItemId": item_id}


async def _push(
    context: Context, find: Callable[[Connection], AnyRow], input: dict[str, Any], *, by_id: bool
) -> tuple[str, JsonObject]:
    push = Push(
        spec=pushing.read_object(input["runSpec"], "runSpec"),
        values=pushing.read_object(input.get("templateVariableValues"), "templateVariableValues"),
        priority=input.get("priority"),
    )
    text = json.dumps([push.spec, push.values, push.priority], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()

    def work(connection: Connection) -> tuple[int, int, JsonObject]:
        queue = find(connection)
        # The stock client pushes by name, and when the answer is slow pushes the same again by id. So a push by id
        # finds its twin, once. Two pushes by name are two launches, and so are two by id: people do run the same job
        # twice.
        twin = _take_twin(connection, context, queue, digest) if by_id else None
        if twin is not None:
            return queue.id, twin, _completed(connection, context, queue, push)
        item_id, spec = enqueue(connection, context, queue, push, digest="" if by_id else digest)
        return queue.id, item_id, spec

    queue_id, item_id, spec = await context.services.database.write(work)
    context.services.wakeups.notify_one(("queue", queue_id))
    return ids.encode("RunQueueItem", item_id), spec


def enqueue(
    connection: Connection, context: Context, queue: AnyRow, push: Push, *, digest: str = ""
) -> tuple[int, JsonObject]:
    """Add an item to a queue; returns its id and the spec as an agent will get it.

    The right to use the queue was checked before; that to use the run's entity is checked here. Who calls this wakes
    those who wait for the queue, after the commit. `digest` names a push that may come again by id.
    """
    spec = _completed(connection, context, queue, push)
    warnings = [KEY_NOT_KEPT] if pushing.brings_key(push.spec) else []
    item_id = claims.push(
        connection,
        queue.id,
        now=context.now,
        priority=pushing.check_priority(push.priority, queues.rules(queue)),
        launch_spec=json.dumps(spec),
        spec_digest=digest,
        warnings=json.dumps(warnings),
        created_by=context.viewer.id,
    )
    return item_id, spec


def _completed(connection: Connection, context: Context, queue: AnyRow, push: Push) -> JsonObject:
    earlier = queue_items.earlier_spec(connection, queue.id, push.spec) if pushing.is_preempted(push.spec) else None
    spec = pushing.complete(push.spec, queues.rules(queue), push.values, context.viewer.username, earlier=earlier)
    context.viewer.must_use(str(spec["entity"]))
    if spec["project"]:
        project_resolvers.check_name(str(spec["project"]))
    return spec


def _take_twin(connection: Connection, context: Context, queue: AnyRow, digest: str) -> int | None:
    return queue_items.take_twin(connection, queue.id, context.viewer.id, digest, context.now - TWIN_SECONDS)
