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


def node(row: AnyRow) -> dict[str, Any]:
    """Shape an agent's row for the SDL."""
    return {
        "row_id": row.id,
        "id": ids.encode("LaunchAgent", row.id),
        "name": row.name,
        "hostname": row.hostname,
        "runQueues": json.loads(row.queues),
        "agentStatus": row.status,
        "stopPolling": row.stop_polling,
        "heartbeatAt": iso(row.heartbeat_at),
        "createdAt": iso(row.created_at),
    }


@resolvers.field("Project", "launchAgents")
async def launch_agents_of(project: dict[str, Any], info: Info) -> list[dict[str, Any]]:
    """List a project's agents."""
    return [node(row) for row in await info.context.services.database.read(agents.in_project, project["row_id"])]


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
                return {**node(row), "stopRequests": [_stop_request(stop) for stop in stops]}
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
        context.viewer.must_use(agents.by_id(connection, agent_id).entity_name)
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
        context.viewer.must_use(agents.by_id(connection, agent_id).entity_name)
        agents.ask_to_stop(connection, agent_id)

    await context.services.database.write(work)
    context.services.wakeups.notify(("agent", agent_id))
    return {"success": True}
