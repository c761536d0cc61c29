"""Agents take items from queues: at once, or as soon as there is one (`Prefer: wait=N`)."""

import asyncio
import json
from typing import Any

from sqlalchemy import Connection

from protocol.json_types import JsonObject
from protocol.names import QUEUE_PROJECT
from server import ids
from server.context import Context, Place
from server.graphql import Info, Resolvers
from server.storage import agents, claims, queues
from server.storage.rows import AnyRow
from server.storage.tables import launch_agents
from server.wakeups import wait

resolvers = Resolvers()

EXPIRED_SECONDS = 0.2
"""How often a queue is searched for leases that have ended."""
ABANDONED_SECONDS = 10.0
"""How often it is searched for claims of agents that are gone."""


@resolvers.field("Mutation", "popFromRunQueue")
async def pop(_: object, info: Info, input: dict[str, Any]) -> JsonObject | None:
    """Lease the next item to an agent; with `Prefer: wait=N` wait for one."""
    context = info.context
    context.viewer.must_use(input["entityName"])
    place = await _place(context, input)
    taken = await _look(context, place)
    if taken is None and context.wait_seconds > 0:
        taken = await _wait_for_item(context, place)
    if taken is None:
        return None
    return {
        "runQueueItemId": ids.encode("RunQueueItem", taken.id),
        "runSpec": json.loads(taken.launch_spec),
        "enqueuedAt": taken.created_at,
    }


async def _place(context: Context, input: dict[str, Any]) -> Place:
    """Find the queue and the agent that the client speaks of; `NotFound` if they are not there."""
    path = (input["entityName"], input["projectName"] or QUEUE_PROJECT, input["queueName"])
    agent_id = ids.decode("LaunchAgent", input["launchAgentId"]) if input.get("launchAgentId") else None

    def work(connection: Connection) -> Place:
        queue = queues.find(connection, *path)
        if agent_id is not None:
            agents.must_exist(connection, agent_id, queue.project_id)
        return Place(queue.id, agent_id)

    places = context.services.places
    known = places.get((path, agent_id), context.now)
    return known or places.put((path, agent_id), await context.services.database.read(work), context.now)


async def _wait_for_item(context: Context, place: Place) -> AnyRow | None:
    """Look whenever something may have come, until there is an item or the client's patience is over."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + context.wait_seconds
    wakeups = context.services.wakeups
    with wakeups.listening([("queue", place.queue_id)]) as event:
        while True:
            if context.is_gone():
                wakeups.notify_one(("queue", place.queue_id))  # what woke this one is for the next
                return None
            taken = await _look(context, place)
            left = deadline - clock()
            if taken is not None or left <= 0:
                return taken
            expiry = await context.services.database.read(claims.next_expiry, place.queue_id)
            await wait(event, left if expiry is None else min(left, max(expiry - context.now, 0)))
            if expiry is not None and expiry <= context.now:  # a lease that ends wakes nobody else
                await context.services.database.claim(claims.return_expired, place.queue_id, context.now)


async def _look(context: Context, place: Place) -> AnyRow | None:
    """Take the next item, if there is one, after the chores that are due."""
    services, now = context.services, context.now
    if place.agent_id is not None:
        services.heartbeats.beat(launch_agents, place.agent_id, now)
    if services.intervals.due(("expired leases", place.queue_id), now, first=0, every=EXPIRED_SECONDS):
        await services.database.claim(claims.return_expired, place.queue_id, now)
    # Nobody is taken for dead before he had the time to speak to this server, which may have been away itself.
    chore = ("abandoned items", place.queue_id)
    if services.intervals.due(chore, now, first=agents.ALIVE_SECONDS, every=ABANDONED_SECONDS):
        returned = await services.database.write(claims.return_abandoned, place.queue_id, now)
        if len(returned) > 1:
            services.wakeups.notify(("queue", place.queue_id))
    return await services.database.claim(claims.take, place.queue_id, place.agent_id, now)
