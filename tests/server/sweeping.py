"""The sweeps' part of the protocol in short sentences, for tests of the server. The documents are the client's."""

import json
from typing import Any

import yaml

from tests.server.conftest import Client

GRID = {"method": "grid", "parameters": {"a": {"values": [1, 2, 3]}}, "metric": {"name": "loss", "goal": "minimize"}}
RANDOM = {"method": "random", "parameters": {"a": {"min": 0.0, "max": 1.0, "distribution": "uniform"}}}

UPSERT = """mutation UpsertSweep(
  $id: ID, $config: String, $description: String, $entityName: String, $projectName: String, $controller: JSONString,
  $launchScheduler: JSONString, $templateVariableValues: JSONString, $scheduler: JSONString, $state: String,
  $priorRunsFilters: JSONString, $displayName: String,
) { upsertSweep(input: {
  id: $id, config: $config, description: $description, entityName: $entityName, projectName: $projectName,
  controller: $controller, launchScheduler: $launchScheduler, templateVariableValues: $templateVariableValues,
  scheduler: $scheduler, state: $state, priorRunsFilters: $priorRunsFilters, displayName: $displayName,
}) { sweep { id name project { id name entity { id name } } } configValidationWarnings } }"""
SET_STATE = """mutation UpsertSweep($id: ID, $state: String, $entityName: String, $projectName: String) {
  upsertSweep(input: {id: $id, state: $state, entityName: $entityName, projectName: $projectName}) { sweep { name } }
}"""
DELETE = "mutation($id: ID!) { deleteSweep(input: {id: $id}) { success } }"
ENQUEUE = """mutation EnqueueSweepRun($id: ID!, $config: JSONString!, $displayName: String) {
  enqueueSweepRun(input: {id: $id, config: $config, displayName: $displayName}) { id runQueueItemId }
}"""
CREATE_AGENT = """mutation CreateAgent($host: String!, $projectName: String, $entityName: String, $sweep: String!) {
  createAgent(input: {host: $host, projectName: $projectName, entityName: $entityName, sweep: $sweep}) { agent { id } }
}"""
HEARTBEAT = """mutation Heartbeat($id: ID!, $metrics: JSONString, $runState: JSONString) {
  agentHeartbeat(input: {id: $id, metrics: $metrics, runState: $runState}) { agent { id } commands }
}"""
SWEEP = """query SweepWithRuns($entity: String, $project: String, $sweep: String!, $specs: [JSONString!]!) {
  project(name: $project, entityName: $entity) { sweep(sweepName: $sweep) {
    id name method state description config createdAt heartbeatAt updatedAt earlyStopJobRunning bestLoss controller
    scheduler displayName runCount runCountExpected
    runs { edges { node {
      name state config exitcode heartbeatAt shouldStop failed stopped running summaryMetrics
      sampledHistory(specs: $specs)
    } } }
    agents { edges { node { id name host state totalRuns createdAt heartbeatAt } } }
  } }
}"""


async def make_sweep(client: Client, config: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """Make a sweep of project `p`; returns what the client gets."""
    text = yaml.safe_dump(GRID if config is None else config)
    given = {"entityName": "admin", "projectName": "p", "config": text, "templateVariableValues": "null", **more}
    return (await client.ask(UPSERT, **given))["upsertSweep"]["sweep"]


async def set_state(client: Client, sweep: dict[str, Any], state: str) -> None:
    """Ask for a state."""
    await client.ask(SET_STATE, id=sweep["id"], state=state, entityName="admin", projectName="p")


async def read_sweep(client: Client, sweep: dict[str, Any], specs: str = "{}") -> dict[str, Any]:
    """Return everything there is to know of a sweep; its runs and agents as lists."""
    data = await client.ask(SWEEP, entity="admin", project="p", sweep=sweep["name"], specs=specs)
    found = data["project"]["sweep"]
    for part in ("runs", "agents"):
        found[part] = [edge["node"] for edge in found[part]["edges"]]
    return found


async def state(client: Client, sweep: dict[str, Any]) -> str:
    """Return a sweep's state."""
    query = """query GetSweepState($entity: String, $project: String, $sweep: String!) {
      project(name: $project, entityName: $entity) { sweep(sweepName: $sweep) { state } }
    }"""
    data = await client.ask(query, entity="admin", project="p", sweep=sweep["name"])
    return data["project"]["sweep"]["state"]


async def enqueue(client: Client, sweep: dict[str, Any], config: dict[str, Any], name: str | None = None) -> str:
    """Put a run into a sweep; returns its short id."""
    data = await client.ask(ENQUEUE, id=sweep["id"], config=json.dumps(config), displayName=name)
    return data["enqueueSweepRun"]["id"]


async def make_agent(client: Client, sweep: dict[str, Any]) -> str:
    """Register an agent; returns its id."""
    data = await client.ask(CREATE_AGENT, host="box", projectName="p", entityName="admin", sweep=sweep["name"])
    return data["createAgent"]["agent"]["id"]


async def beat(client: Client, agent: str, *alive: str) -> list[dict[str, Any]]:
    """Send a heartbeat that tells of these runs; returns the commands."""
    told = json.dumps(dict.fromkeys(alive, True))
    data = await client.ask(HEARTBEAT, id=agent, metrics="{}", runState=told)
    return json.loads(data["agentHeartbeat"]["commands"])


async def next_run(client: Client, agent: str) -> dict[str, Any]:
    """Send a heartbeat that must bring a run; returns the command."""
    (command,) = await beat(client, agent)
    assert command["type"] == "run", command
    return command


def value(command: dict[str, Any], parameter: str = "a") -> Any:
    """Return the value of a parameter in a command."""
    return command["args"][parameter]["value"]
