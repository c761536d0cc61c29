"""The launch half of the protocol in short sentences, for tests of the server."""

import asyncio
import json
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, select

from server.authentication import RIGHTS
from server.storage import queue_items
from server.storage.tables import run_queue_items
from tests.server.conftest import Client

SPEC = {"entity": "admin", "project": "p", "docker": {"docker_image": "busybox"}, "resource": None}

CREATE_QUEUE = """mutation CreateRunQueue($input: CreateRunQueueInput!) {
  createRunQueue(input: $input) { success queueID }
}"""
UPSERT_QUEUE = """mutation UpsertRunQueue($input: UpsertRunQueueInput!) {
  upsertRunQueue(input: $input) { success configSchemaValidationErrors }
}"""
PUSH_BY_NAME = """mutation pushToRunQueueByName($input: PushToRunQueueByNameInput!) {
  pushToRunQueueByName(input: $input) { runQueueItemId runSpec }
}"""
PUSH_BY_ID = """mutation pushToRunQueue($input: PushToRunQueueInput!) {
  pushToRunQueue(input: $input) { runQueueItemId }
}"""
POP = """mutation popFromRunQueue($input: PopFromRunQueueInput!) {
  popFromRunQueue(input: $input) { runQueueItemId runSpec enqueuedAt }
}"""
ACK = "mutation ackRunQueueItem($input: AckRunQueueItemInput!) { ackRunQueueItem(input: $input) { success } }"
FAIL = "mutation failRunQueueItem($input: FailRunQueueItemInput!) { failRunQueueItem(input: $input) { success } }"
FINISH = """mutation finish($input: FinishRunQueueItemInput!) { finishRunQueueItem(input: $input) { itemState } }"""
STOP = "mutation stop($input: StopRunQueueItemInput!) { stopRunQueueItem(input: $input) { success } }"
DELETE = (
    "mutation DeleteFromRunQueue($input: DeleteFromRunQueueInput!) { deleteFromRunQueue(input: $input) { success } }"
)
TELL = (
    """mutation tell($input: UpdateRunQueueItemStatusInput!) { updateRunQueueItemStatus(input: $input) { success } }"""
)
RELEASE = """mutation release($input: ReleaseRunQueueItemInput!) { releaseRunQueueItem(input: $input) { success } }"""
ADOPT = """mutation adopt($input: AdoptRunQueueItemInput!) {
  adoptRunQueueItem(input: $input) { success itemState runSpec heldBy }
}"""
ITEM = """query item($id: ID!) { runQueueItem(id: $id) {
  state associatedRunId priority waitingReason status exitCode createdBy runSpec claimedAt endedAt
  error { message stage filePaths } warnings { message } agent { name } associatedRun { name state }
  runQueue { name pendingCount project { name } }
} }"""
CREATE_AGENT = """mutation createLaunchAgent($input: CreateLaunchAgentInput!) {
  createLaunchAgent(input: $input) { launchAgentId }
}"""
AGENT = """query LaunchAgent($id: ID!, $known: [ID!]) { launchAgent(id: $id, knownStopRequests: $known) {
  id name runQueues hostname agentStatus stopPolling heartbeatAt stopRequests { itemId runName }
} }"""


async def make_queue(client: Client, name: str = "q", **changes: Any) -> str:
    """Make a queue (`local-container` unless told otherwise); returns its id."""
    given = {
        "entityName": "admin",
        "projectName": "model-registry",
        "queueName": name,
        "resourceType": "local-container",
        "resourceConfig": json.dumps({"resource_args": {"local-container": {}}}),
        **changes,
    }
    assert (await client.ask(UPSERT_QUEUE, input=given))["upsertRunQueue"]["success"]
    data = await client.ask(
        """query GetRunQueueMetadata($name: String!) {
             project(entityName: "admin", name: "model-registry") { runQueue(name: $name) { id } }
           }""",
        name=name,
    )
    return data["project"]["runQueue"]["id"]


def by_name(spec: dict[str, Any] | None = None, queue: str = "q", **more: Any) -> dict[str, Any]:
    """Return the input of a push by name."""
    return {
        "entityName": "admin",
        "projectName": "model-registry",
        "queueName": queue,
        "runSpec": json.dumps(SPEC if spec is None else spec),
        **more,
    }


async def push(client: Client, spec: dict[str, Any] | None = None, queue: str = "q", **more: Any) -> str:
    """Push by name; returns the item's id."""
    data = await client.ask(PUSH_BY_NAME, input=by_name(spec, queue, **more))
    return data["pushToRunQueueByName"]["runQueueItemId"]


async def push_by_id(client: Client, queue_id: str, spec: dict[str, Any] | None = None, **more: Any) -> str:
    """Push by id; returns the item's id."""
    given = {"queueID": queue_id, "runSpec": json.dumps(SPEC if spec is None else spec), **more}
    return (await client.ask(PUSH_BY_ID, input=given))["pushToRunQueue"]["runQueueItemId"]


async def store_key(client: Client, key: str) -> None:
    """Put an API key into every item, as an earlier version of the server kept it when it came with a push."""

    def work(connection: Connection) -> None:
        for row in connection.execute(select(run_queue_items)).all():
            spec = json.dumps({**json.loads(row.launch_spec), "_wandb_api_key": key})
            queue_items.change(connection, row.id, row.updated_at, launch_spec=spec)

    await client.context.services.database.write(work)


async def pop(client: Client, agent: str | None = None, queue: str = "q", *, wait: float = 0) -> str | None:
    """Pop, and return the item's id."""
    given = {"entityName": "admin", "projectName": "model-registry", "queueName": queue, "launchAgentId": agent}
    waiting = replace(client, context=replace(client.context, wait_seconds=wait))
    popped = (await waiting.ask(POP, input=given))["popFromRunQueue"]
    return popped and popped["runQueueItemId"]


async def acknowledge(client: Client, item: str, run: str = "run1", agent: str | None = None) -> bool:
    """Acknowledge, as a stock agent or as ours."""
    given = {"runQueueItemId": item, "runName": run, **({"launchAgentId": agent} if agent else {})}
    return (await client.ask(ACK, input=given))["ackRunQueueItem"]["success"]


async def fail(client: Client, item: str, message: str = "it broke", stage: str = "agent") -> None:
    """Fail an item."""
    given = {"runQueueItemId": item, "message": message, "stage": stage, "filePaths": ["a/b"]}
    assert (await client.ask(FAIL, input=given))["failRunQueueItem"]["success"]


async def finish(client: Client, item: str, state: str, **more: Any) -> str:
    """Tell the end as our agent does; returns the item's state."""
    given = {"runQueueItemId": item, "state": state, **more}
    return (await client.ask(FINISH, input=given))["finishRunQueueItem"]["itemState"]


async def tell(client: Client, item: str, agent: str, status: str, message: str | None = None) -> bool:
    """Tell how far a launch is, as our agent does."""
    given = {"runQueueItemId": item, "launchAgentId": agent, "status": status, "message": message}
    return (await client.ask(TELL, input=given))["updateRunQueueItemStatus"]["success"]


async def release(client: Client, item: str, agent: str) -> bool:
    """Hand an item back."""
    given = {"runQueueItemId": item, "launchAgentId": agent}
    return (await client.ask(RELEASE, input=given))["releaseRunQueueItem"]["success"]


async def adopt(client: Client, item: str, agent: str, run: str = "run1") -> dict[str, Any]:
    """Ask for the item of a launch that was found on a platform."""
    given = {"runQueueItemId": item, "launchAgentId": agent, "runName": run}
    return (await client.ask(ADOPT, input=given))["adoptRunQueueItem"]


async def read_item(client: Client, item: str) -> dict[str, Any]:
    """Return everything there is to know of an item."""
    return (await client.ask(ITEM, id=item))["runQueueItem"]


async def make_agent(client: Client, *queue_ids: str, **more: Any) -> str:
    """Register an agent; returns its id."""
    given = {
        "entityName": "admin",
        "projectName": "model-registry",
        "runQueues": list(queue_ids),
        "hostname": "Box.example",
        "agentConfig": '{"max_jobs": 1}',
        "version": "wandb@0.31.0",
        **more,
    }
    return (await client.ask(CREATE_AGENT, input=given))["createLaunchAgent"]["launchAgentId"]


async def make_our_agent(client: Client, *queue_ids: str) -> str:
    """Register an agent that says how far a launch is, and how it ended; returns its id."""
    return await make_agent(client, *queue_ids, version="launchbay@0.1.0")


async def say_goodbye(client: Client, agent: str) -> None:
    """Say that an agent ends."""
    await client.ask(
        """mutation updateLaunchAgent($id: ID!) {
             updateLaunchAgent(input: {launchAgentId: $id, agentStatus: "KILLED"}) { success }
           }""",
        id=agent,
    )


async def start_run(client: Client, run: str = "run1", project: str = "p") -> None:
    """Say what a run says at its start."""
    await client.ask(
        """mutation UpsertBucket($project: String!, $name: String!) {
             upsertBucket(input: {entityName: "admin", modelName: $project, name: $name, host: "h"}) { bucket { id } }
           }""",
        project=project,
        name=run,
    )


async def until_somebody_waits(client: Client) -> None:
    """Go on when there are long polls and all of them have looked and sleep."""
    waiting = client.context.services.wakeups._waiting

    def sleep() -> bool:
        polls = [event for topic, events in waiting.items() if topic != RIGHTS for event in events]
        return bool(polls) and all(event._waiters for event in polls)

    # Falling asleep is no event that could be awaited.
    while not sleep():  # noqa: ASYNC110
        await asyncio.sleep(0)
