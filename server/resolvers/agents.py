"""Launch agents: registered, heard of, told what to do."""

import asyncio
import json
import re
from random import Random
from typing import Any

from sqlalchemy import Connection

from protocol import names
from protocol.json_types import JsonObject
from server import ids
from server.errors import NotFound
from server.graphql import Info, Resolvers
from server.resolvers import projects as project_resolvers
from server.storage import agents, queue_items
from server.storage.queue_items import StopRequest
from server.storage.rows import AnyRow
from server.storage.tables import launch_agents
from server.times import iso
from server.wakeups import wait

resolvers = Resolvers()

MAX_NAME_CHARS = 63


def node(row: AnyRow, now: float, held: int = 0) -> dict[str, Any]:
    """Shape an agent's row for the SDL. One that holds items is running, though it may not have said so yet."""
    return {
        "row_id": row.id,
        "id": ids.encode("LaunchAgent", row.id),
        "name": row.name,
        "hostname": row.hostname,
        "runQueues": json.loads(row.queues),
        "agentStatus": "RUNNING" if held and row.status == "POLLING" else row.status,
        "isAlive": agents.is_alive(row, now),
        "stopPolling": row.stop_polling,
        "heartbeatAt": iso(row.heartbeat_at),
        "createdAt": iso(row.created_at),
    }


@resolvers.field("Project", "launchAgents")
async def launch_agents_of(project: dict[str, Any], info: Info) -> list[dict[str, Any]]:
    """List a project's agents."""

    def work(connection: Connection) -> tuple[list[AnyRow], dict[int, int]]:
        rows = agents.in_project(connection, project["row_id"])
        return rows, agents.held(connection, [row.id for row in rows])

    rows, held = await info.context.services.database.read(work)
    return [node(row, info.context.now, held.get(row.id, 0)) for row in rows]


@resolvers.field("Query", "launchAgent")
async def launch_agent(
    _: object,
    info: Info,
    id: str,
    knownStopRequests: list[str] | None = None,
) -> dict[str, Any]:
    """Return an agent; with `Prefer: wait=N` when there is something new for it to do."""
    context = info.context
    agent_id = ids.decode("LaunchAgent", id)
    known = {ids.decode("RunQueueItem", item) for item in knownStopRequests or []}
    clock = asyncio.get_running_loop().time
    deadline = clock() + context.wait_seconds
    with context.services.wakeups.listening([("agent", agent_id)]) as event:
        while True:
            row, stops = await context.services.database.read(_orders, agent_id)
            if not context.viewer.may_use(row.entity_name):
                raise NotFound("There is no such agent.")
            context.services.heartbeats.beat(launch_agents, agent_id, context.now)
            left = deadline - clock()
            news = row.stop_polling or {stop.item_id for stop in stops} != known
            if news or left <= 0 or context.is_gone():
                return {**node(row, context.now), "stopRequests": [_stop_request(stop) for stop in stops]}
            await wait(event, left)


def _orders(connection: Connection, agent_id: int) -> tuple[AnyRow, list[StopRequest]]:
    return agents.by_id(connection, agent_id), list(queue_items.stop_requests(connection, agent_id))


def _stop_request(stop: StopRequest) -> JsonObject:
    return {"itemId": ids.encode("RunQueueItem", stop.item_id), "runName": stop.run_name}


@resolvers.field("LaunchAgent", "stopRequests")
async def stop_requests(agent: dict[str, Any], info: Info) -> list[JsonObject]:
    """List an agent's stop requests."""
    if "stopRequests" in agent:
        return agent["stopRequests"]
    found = await info.context.services.database.read(queue_items.stop_requests, agent["row_id"])
    return [_stop_request(stop) for stop in found]


@resolvers.field("Mutation", "createLaunchAgent")
async def create_launch_agent(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Register an agent under a name that can be a run id and a label."""
    context = info.context
    name = _fresh_name(input["hostname"], context.services.random)

    def work(connection: Connection) -> int:
        project_id = project_resolvers.ensure(connection, context, input["entityName"], input["projectName"])
        return agents.create(
            connection,
            now=context.now,
            project_id=project_id,
            name=name,
            hostname=input["hostname"],
            queues=json.dumps(input["runQueues"]),
            config=input.get("agentConfig") or "{}",
            version=input.get("version"),
            created_by=context.viewer.id,
        )

    agent_id = await context.services.database.write(work)
    return {"launchAgentId": ids.encode("LaunchAgent", agent_id)}


def _fresh_name(hostname: str, random: Random) -> str:
    """Return a name that nobody has, which can be a run id and a Kubernetes label."""
    suffix = names.run_id(random)
    host = re.sub(r"[^a-z0-9-]+", "-", hostname.lower())[: MAX_NAME_CHARS - len(suffix) - 1].strip("-")
    return f"{host or 'agent'}-{suffix}"


@resolvers.field("Mutation", "updateLaunchAgent")
async def update_launch_agent(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Note what an agent says of itself."""
    context = info.context
    agent_id = ids.decode("LaunchAgent", input["launchAgentId"])

    def work(connection: Connection) -> None:
        context.viewer.must_see(agents.by_id(connection, agent_id).entity_name, "agent")
        if input.get("agentStatus"):
            agents.set_status(connection, agent_id, input["agentStatus"], context.now)

    await context.services.database.write(work)
    return {"success": True}


@resolvers.field("Mutation", "stopLaunchAgent")
async def stop_launch_agent(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Ask an agent to stop polling."""
    context = info.context
    agent_id = ids.decode("LaunchAgent", input["launchAgentId"])

    def work(connection: Connection) -> None:
        context.viewer.must_see(agents.by_id(connection, agent_id).entity_name, "agent")
        agents.ask_to_stop(connection, agent_id)

    await context.services.database.write(work)
    context.services.wakeups.notify(("agent", agent_id))
    return {"success": True}
