"""Agents, as commands ask the server for them."""

from collections.abc import Mapping
from typing import Any

from agent.control_plane import ControlPlane
from launchbay.errors import NotThere
from protocol.names import QUEUE_PROJECT

AGENT_FIELDS = "id name hostname agentStatus stopPolling isAlive heartbeatAt"


async def agents_of(server: ControlPlane, entity: str) -> list[Mapping[str, Any]]:
    """Return an entity's agents that have not said goodbye, newest first."""
    data = await server.ask(
        f"""query Agents($entity: String!, $project: String!) {{
              project(entityName: $entity, name: $project) {{ launchAgents {{ {AGENT_FIELDS} }} }}
            }}""",
        entity=entity,
        project=QUEUE_PROJECT,
    )
    agents: list[Mapping[str, Any]] = data["project"]["launchAgents"] if data["project"] else []
    return [agent for agent in agents if agent["agentStatus"] != "KILLED"]


async def agent_named(server: ControlPlane, entity: str, name: str) -> Mapping[str, Any]:
    """Return the agent of that name; `NotThere` names those that there are."""
    agents = await agents_of(server, entity)
    for agent in agents:
        if agent["name"] == name:
            return agent
    known = ", ".join(agent["name"] for agent in agents) or "none"
    raise NotThere(f"Entity {entity!r} has no agent {name!r} at work. It has: {known}.")


def shown_status(agent: Mapping[str, Any]) -> str:
    """Return for people what an agent is doing."""
    if not agent["isAlive"]:
        return "SILENT"
    return f"{agent['agentStatus']}, stopping" if agent["stopPolling"] else agent["agentStatus"]
