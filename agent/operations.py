"""What the agent says to a server, one function per sentence of the protocol.

Works against any server that speaks it. Where a server says that it is a Launchbay server (feature `LAUNCHBAY`), the
agent uses what that adds: acknowledging twice is harmless, stops are told at once, and the end of a launch is one call.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent.control_plane import ControlPlane
from agent.errors import ControlPlaneRefused, ControlPlaneUnavailable
from agent.launch import End, Launch
from protocol.json_types import JsonObject, dig
from protocol.names import QUEUE_PROJECT, run_storage_id

_POP = """mutation PopFromRunQueue($entity: String!, $project: String!, $queue: String!, $agent: ID) {
  popFromRunQueue(input: {
    entityName: $entity, projectName: $project, queueName: $queue, launchAgentId: $agent
  }) { runQueueItemId runSpec %s }
}"""


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What the agent asks a server about itself once, at the start."""

    entity: str
    """The default entity of the key's user."""
    username: str
    is_launchbay: bool


@dataclass(frozen=True, slots=True)
class QueueItem:
    """An item under a lease."""

    item_id: str
    spec: JsonObject
    enqueued_at: float = 0
    """When it was pushed, in seconds since the epoch by the server's clock; 0 if the server does not say."""


@dataclass(frozen=True, slots=True)
class Orders:
    """What the server wants of this agent."""

    stop_polling: bool
    stop_items: frozenset[str]


async def server_facts(server: ControlPlane) -> ServerFacts:
    """Ask who we are and what the server can do."""
    data = await server.ask(
        "query LaunchAgentServer { viewer { entity username } serverInfo { features { name isEnabled } } }"
    )
    viewer = data["viewer"]
    if viewer is None:
        raise ControlPlaneRefused(f"The server at {server.base_url} does not know this API key.")
    features: list[dict[str, Any]] = dig(data, "serverInfo", "features") or []
    enabled = {feature["name"] for feature in features if feature["isEnabled"]}
    return ServerFacts(viewer["entity"], viewer["username"], "LAUNCHBAY" in enabled)


async def queue_ids(server: ControlPlane, entity: str) -> dict[str, str]:
    """Return the ids of an entity's queues by name."""
    data = await server.ask(
        """query ProjectRunQueues($entity: String!, $project: String!) {
             project(entityName: $entity, name: $project) { runQueues { id name } }
           }""",
        entity=entity,
        project=QUEUE_PROJECT,
    )
    if data["project"] is None:
        return {}
    return {queue["name"]: queue["id"] for queue in data["project"]["runQueues"]}


async def queue_resources(server: ControlPlane, entity: str) -> dict[str, str]:
    """Return by name the resources of an entity's queues. Only a Launchbay server tells them."""
    data = await server.ask(
        """query QueueResources($entity: String!, $project: String!) {
             project(entityName: $entity, name: $project) { runQueues { name defaultResourceConfig { resource } } }
           }""",
        entity=entity,
        project=QUEUE_PROJECT,
    )
    queues: list[dict[str, Any]] = dig(data, "project", "runQueues") or []
    return {
        queue["name"]: queue["defaultResourceConfig"]["resource"] for queue in queues if queue["defaultResourceConfig"]
    }


async def register(
    server: ControlPlane, *, entity: str, queues: Sequence[str], hostname: str, config: JsonObject, version: str
) -> str:
    """Register a new agent; returns its id."""
    data = await server.ask(
        """mutation CreateLaunchAgent($input: CreateLaunchAgentInput!) {
             createLaunchAgent(input: $input) { launchAgentId }
           }""",
        input={
            "entityName": entity,
            "projectName": QUEUE_PROJECT,
            "runQueues": list(queues),
            "hostname": hostname,
            "agentConfig": json.dumps(config),
            "version": version,
        },
    )
    return data["createLaunchAgent"]["launchAgentId"]


async def agent_record(server: ControlPlane, agent_id: str) -> Mapping[str, Any] | None:
    """Return the server's record of an agent, or None if it does not know it."""
    try:
        data = await server.ask(
            "query LaunchAgent($id: ID!) { launchAgent(id: $id) { name stopPolling agentStatus } }", id=agent_id
        )
    except ControlPlaneRefused:
        return None
    return data["launchAgent"]


async def set_status(server: ControlPlane, agent_id: str, status: str) -> None:
    """Tell the server what the agent is doing: POLLING, RUNNING or KILLED."""
    await server.ask(
        """mutation UpdateLaunchAgent($id: ID!, $status: String) {
             updateLaunchAgent(input: {launchAgentId: $id, agentStatus: $status}) { success }
           }""",
        id=agent_id,
        status=status,
    )


async def pop(
    server: ControlPlane, *, entity: str, queue: str, agent_id: str, wait: float, is_launchbay: bool = False
) -> tuple[QueueItem | None, bool]:
    """Take the next item of a queue under a lease; and whether the server waited for one."""
    answer = await server.execute(
        _POP % ("enqueuedAt" if is_launchbay else ""),
        {"entity": entity, "project": QUEUE_PROJECT, "queue": queue, "agent": agent_id},
        wait=wait,
    )
    popped = answer.data["popFromRunQueue"]
    if not popped:
        return None, answer.waited
    return QueueItem(popped["runQueueItemId"], popped["runSpec"], popped.get("enqueuedAt") or 0), answer.waited


async def acknowledge(server: ControlPlane, launch: Launch, agent_id: str, *, is_launchbay: bool) -> bool:
    """Turn a lease into a claim. False: the item belongs to somebody else now."""
    # A Launchbay server knows the claim by its agent, so that a claim repeated after a crash is still ours.
    owner = {"launchAgentId": agent_id} if is_launchbay else {}
    data = await server.ask(
        """mutation AckRunQueueItem($input: AckRunQueueItemInput!) { ackRunQueueItem(input: $input) { success } }""",
        input={"runQueueItemId": launch.item_id, "runName": launch.run_id, **owner},
    )
    return bool(data["ackRunQueueItem"]["success"])


async def fail(server: ControlPlane, item_id: str, end: End, files: Sequence[str]) -> None:
    """Fail an item for good, with a message and the files that hold the evidence."""
    await server.ask(
        """mutation FailRunQueueItem($id: ID!, $message: String!, $stage: String!, $files: [String!]) {
             failRunQueueItem(input: {runQueueItemId: $id, message: $message, stage: $stage, filePaths: $files}) {
               success
             }
           }""",
        id=item_id,
        message=end.message,
        stage=end.stage,
        files=list(files),
    )


async def finish(server: ControlPlane, launch: Launch, end: End, agent_id: str, files: Sequence[str]) -> str:
    """Tell a Launchbay server how a launch ended; returns the state that its item has now."""
    data = await server.ask(
        """mutation FinishRunQueueItem($input: FinishRunQueueItemInput!) {
             finishRunQueueItem(input: $input) { itemState }
           }""",
        input={
            "runQueueItemId": launch.item_id,
            "launchAgentId": agent_id,
            "state": end.outcome,
            "exitCode": end.exit_code,
            "reason": end.reason,
            "message": end.message,
            "filePaths": list(files),
        },
    )
    return str(data["finishRunQueueItem"]["itemState"])


async def tell_progress(server: ControlPlane, item_id: str, agent_id: str, status: str, message: str) -> bool:
    """Tell a Launchbay server how far a launch is, and what it waits for; whether the item is still this agent's."""
    data = await server.ask(
        """mutation UpdateRunQueueItemStatus($input: UpdateRunQueueItemStatusInput!) {
             updateRunQueueItemStatus(input: $input) { success }
           }""",
        input={"runQueueItemId": item_id, "launchAgentId": agent_id, "status": status, "message": message},
    )
    return bool(data["updateRunQueueItemStatus"]["success"])


async def release(server: ControlPlane, item_id: str, agent_id: str) -> bool:
    """Hand an item back to a Launchbay server that has not been started; False: it was not ours to give, or has."""
    data = await server.ask(
        """mutation ReleaseRunQueueItem($input: ReleaseRunQueueItemInput!) {
             releaseRunQueueItem(input: $input) { success }
           }""",
        input={"runQueueItemId": item_id, "launchAgentId": agent_id},
    )
    return bool(data["releaseRunQueueItem"]["success"])


async def adopt(server: ControlPlane, item_id: str, run_id: str, agent_id: str) -> JsonObject | None:
    """Ask a Launchbay server for the item of a launch that was found on a platform; returns its launch spec.

    None: the item is over, deleted, or meant for another run by now, so that the launch is an orphan. Raises
    `ControlPlaneUnavailable` while another agent holds the item that may be at work: ask again, and stop nothing.
    """
    data = await server.ask(
        """mutation AdoptRunQueueItem($input: AdoptRunQueueItemInput!) {
             adoptRunQueueItem(input: $input) { success runSpec heldBy }
           }""",
        input={"runQueueItemId": item_id, "runName": run_id, "launchAgentId": agent_id},
    )
    adopted = data["adoptRunQueueItem"]
    if adopted["heldBy"] is not None:
        raise ControlPlaneUnavailable(
            f"Item {item_id} is with agent {adopted['heldBy']}, which may be at work: it was heard of lately, or the "
            "server has just been started."
        )
    return adopted["runSpec"] if adopted["success"] else None


async def wait_for_orders(
    server: ControlPlane, agent_id: str, known_stops: frozenset[str], *, wait: float
) -> tuple[Orders, bool]:
    """Return a Launchbay server's wishes, as soon as they differ from what is known; and whether it waited."""
    answer = await server.execute(
        """query LaunchAgentOrders($id: ID!, $known: [ID!]) {
             launchAgent(id: $id, knownStopRequests: $known) { stopPolling stopRequests { itemId } }
           }""",
        {"id": agent_id, "known": sorted(known_stops)},
        wait=wait,
    )
    agent = answer.data["launchAgent"]
    if agent is None:
        return Orders(stop_polling=False, stop_items=frozenset()), answer.waited
    stops = frozenset(request["itemId"] for request in agent["stopRequests"])
    return Orders(bool(agent["stopPolling"]), stops), answer.waited


async def run_stopped(server: ControlPlane, entity: str, project: str, run_id: str) -> bool:
    """Whether somebody asked for a run to be stopped."""
    run = await _run(server, entity, project, run_id, "stopped")
    return bool(run and run["stopped"])


async def run_state(server: ControlPlane, entity: str, project: str, run_id: str) -> str | None:
    """Return a run's state, or None if there is no such run."""
    run = await _run(server, entity, project, run_id, "state")
    return run["state"] if run else None


async def _run(server: ControlPlane, entity: str, project: str, run_id: str, field: str) -> Mapping[str, Any] | None:
    data = await server.ask(
        f"""query LaunchedRun($entity: String!, $project: String!, $name: String!) {{
              project(entityName: $entity, name: $project) {{ run(name: $name) {{ {field} }} }}
            }}""",
        entity=entity,
        project=project,
        name=run_id,
    )
    return dig(data, "project", "run")


async def fail_run(server: ControlPlane, entity: str, project: str, run_id: str) -> None:
    """Say of a run that it failed: its process died without a last word. Servers differ in whether they take it."""
    await server.ask(
        "mutation UpdateRunState($input: UpdateRunStateInput!) { updateRunState(input: $input) { success } }",
        input={"id": run_storage_id(entity, project, run_id), "state": "failed"},
    )


async def upload_file(server: ControlPlane, *, entity: str, agent_name: str, name: str, content: bytes) -> None:
    """Store a file among the files of the agent's own run, where the protocol keeps the logs of failed items."""
    await server.ask(
        """mutation UpsertBucket($entity: String!, $project: String!, $name: String!) {
             upsertBucket(input: {
               entityName: $entity, modelName: $project, name: $name, jobType: "sweep-controller", state: "running"
             }) { bucket { id } }
           }""",
        entity=entity,
        project=QUEUE_PROJECT,
        name=agent_name,
    )
    data = await server.ask(
        """mutation CreateRunFiles($entity: String!, $project: String!, $run: String!, $files: [String!]!) {
             createRunFiles(input: {entityName: $entity, projectName: $project, runName: $run, files: $files}) {
               uploadHeaders files { name uploadUrl }
             }
           }""",
        entity=entity,
        project=QUEUE_PROJECT,
        run=agent_name,
        files=[name],
    )
    created = data["createRunFiles"]
    given: list[str] = created["uploadHeaders"] or []
    headers = dict(header.split(": ", 1) for header in given)
    for file in created["files"]:
        await server.upload(file["uploadUrl"], content, headers)
