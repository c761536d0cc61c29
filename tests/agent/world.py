"""A world for agents in one process: a real server over HTTP, and a fake platform that outlives the agents."""

import asyncio
import json
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from agent.admission.inventory import Inventory
from agent.admission.slots import SlotTable
from agent.caches.artifacts import ArtifactCache
from agent.caches.bounded import BoundedCache
from agent.caches.environments import Environments
from agent.caches.image_environments import ImageEnvironments
from agent.caches.manifest import Limits
from agent.config.model import AgentConfig
from agent.context import AgentContext
from agent.control_plane import ControlPlane
from agent.daemon import Daemon
from agent.held import Launches
from agent.journal import Identity, Journal
from agent.observability.metrics import Metrics
from agent.observability.tracing import NoTracer
from agent.operations import agent_record, queue_ids, queue_resources, register, server_facts, set_status
from agent.sources.repositories import Repositories
from backends.base import Backend
from backends.fake import Behavior, FakeBackend, FakePlatform
from server.start import ServerSettings, running

LIMIT_SECONDS = 120.0
QUEUE = "q"
NOTHING = Inventory()


async def until(check: Callable[[], Awaitable[Any]], what: str) -> Any:
    """Look until there is something to see, and return it."""
    try:
        async with asyncio.timeout(LIMIT_SECONDS):
            while not (found := await check()):  # noqa: ASYNC110 -- what is awaited happens in another program
                await asyncio.sleep(0.02)
            return found
    except TimeoutError:
        raise AssertionError(f"never happened: {what}") from None


@dataclass
class World:
    """Where agents come and go."""

    folder: Path
    server: ControlPlane
    platform: FakePlatform
    behaviors: dict[str, list[Behavior]] = field(default_factory=dict[str, list[Behavior]])
    """By project, what its launches do, one after the other; the last stays."""
    config: dict[str, Any] = field(default_factory=dict[str, Any])

    def behave(self, project: str, *behaviors: Behavior) -> None:
        """Say what the launches of a project do."""
        self.behaviors[project] = list(behaviors)

    async def make_queue(self, name: str, resource: str = "local-process") -> None:
        """Make a queue of a resource."""
        await self.server.ask(
            """mutation Queue($name: String!, $resource: String!, $config: JSONString!) { upsertRunQueue(input: {
                 entityName: "admin", projectName: "model-registry", queueName: $name, resourceType: $resource,
                 resourceConfig: $config
               }) { success } }""",
            name=name,
            resource=resource,
            config=json.dumps({"resource_args": {resource: {}}}),
        )

    async def push(self, project: str = "p", *, queue: str = QUEUE, **changes: Any) -> str:
        """Push a launch; returns its item's id."""
        spec = {
            "entity": "admin",
            "project": project,
            "uri": "placeholder",
            "resource": "local-process",
            "overrides": {"entry_point": ["true"]},
            **changes,
        }
        data = await self.server.ask(
            """mutation Push($queue: String!, $spec: JSONString!) { pushToRunQueueByName(input: {
                 entityName: "admin", projectName: "model-registry", queueName: $queue, runSpec: $spec
               }) { runQueueItemId } }""",
            queue=queue,
            spec=json.dumps(spec),
        )
        return data["pushToRunQueueByName"]["runQueueItemId"]

    async def item(self, item_id: str) -> dict[str, Any]:
        """Return what the server says of an item."""
        data = await self.server.ask(
            """query Item($id: ID!) { runQueueItem(id: $id) {
                 id state status waitingReason exitCode error { message stage } agent { name } associatedRun { name }
               } }""",
            id=item_id,
        )
        return dict(data["runQueueItem"])

    async def in_state(self, item_id: str, *states: str) -> dict[str, Any]:
        """Wait until an item is in one of these states."""

        async def look() -> dict[str, Any] | None:
            item = await self.item(item_id)
            return item if item["state"] in states else None

        return await until(look, f"{item_id} in {states}")

    async def output(self, item_id: str) -> bytes:
        """Return the output of an item's launch that the server has."""
        return await self.server.request("GET", "/launchbay/item-log", item=item_id)

    async def stop(self, item_id: str) -> None:
        """Ask for a stop."""
        await self.server.ask(
            "mutation Stop($id: ID!) { stopRunQueueItem(input: {runQueueItemId: $id}) { success } }", id=item_id
        )

    async def goodbye(self, daemon: Daemon) -> None:
        """Let the server know that an agent is gone, as if it had been silent for long."""
        await set_status(self.server, daemon._context.identity.agent_id, "KILLED")

    @asynccontextmanager
    async def agent(
        self,
        *,
        state: str = "state",
        inventory: Inventory = NOTHING,
        backends: Mapping[str, Backend] | None = None,
        **config: Any,
    ) -> AsyncGenerator[Daemon]:
        """Run an agent while the block runs; it is cancelled then, if it has not ended by itself."""
        folder = self.folder / state
        journal = await Journal.open(folder)
        given = AgentConfig.model_validate({"queues": [QUEUE], **self.config, **config})
        async with ControlPlane(self.server.base_url, self.server.api_key, random=Random(1)) as control:
            facts = await server_facts(control)
            launches = Launches()
            installed = BoundedCache(folder / "environments", None, launches.in_use)
            context = AgentContext(
                config=given,
                entity="admin",
                server=control,
                facts=facts,
                identity=await _identity(control, journal),
                journal=journal,
                owner="owner",
                queue_resources=await queue_resources(control, "admin"),
                launches=launches,
                slots=SlotTable(inventory, launches.assigned),
                backends=backends or {"local-process": FakeBackend(self.platform)},
                artifacts=ArtifactCache(BoundedCache(folder / "artifacts", None, launches.in_use), control, Limits()),
                repositories=Repositories(
                    BoundedCache(folder / "code", None, launches.in_use), folder / "git", dict(os.environ)
                ),
                environments=Environments(installed, {}),
                image_environments=ImageEnvironments(installed, folder / "uv", {}, Random(1)),
                metrics=Metrics(launches),
                tracer=NoTracer(),
                state_dir=folder,
                work_dir=folder / "work",
                process_environment={},
                clock=time.time,
                random=Random(1),
            )
            daemon = Daemon(context)
            running_daemon = asyncio.create_task(daemon.run())
            self.left = running_daemon
            try:
                yield daemon
            finally:
                running_daemon.cancel()
                await asyncio.wait([running_daemon])
                await journal.close()


@asynccontextmanager
async def world(folder: Path, resource: str = "local-process") -> AsyncGenerator[World]:
    """Make a world with one queue of a resource."""
    async with running(ServerSettings(folder / "server", port=0)) as url:
        key = (folder / "server" / "admin-api-key").read_text().strip()
        async with ControlPlane(url, key, random=Random(1)) as server:
            made = World(folder, server, FakePlatform())
            await made.make_queue(QUEUE, resource)
            made.platform = FakePlatform(lambda request: _next(made.behaviors, request.labels["project"]))
            yield made


def _next(behaviors: dict[str, list[Behavior]], project: str) -> Behavior:
    given = behaviors.get(project, [Behavior(seconds=0.05)])
    return given.pop(0) if len(given) > 1 else given[0]


async def _identity(control: ControlPlane, journal: Journal) -> Identity:
    known = await journal.identity()
    if known is not None:
        return known
    queues = await queue_ids(control, "admin")
    agent_id = await register(
        control,
        entity="admin",
        queues=[queues[QUEUE]],
        hostname="host",
        config={"max_jobs": 1},
        version="launchbay@test",
    )
    record = await agent_record(control, agent_id)
    assert record is not None
    identity = Identity(control.base_url, "admin", agent_id, record["name"])
    await journal.remember_identity(identity)
    return identity
