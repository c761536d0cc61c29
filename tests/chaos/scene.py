"""A real server in this process, queues, and machines on which one agent after the other lives and dies."""

import asyncio
import json
import logging
import sqlite3
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest
import structlog
from aiohttp import web

import agent.operations
from agent.config.model import AgentConfig
from agent.control_plane import ControlPlane
from agent.daemon import Daemon
from agent.opening import Server, say_goodbye
from agent.opening import opened as opened_agent
from backends.base import Handle, Phase, Snapshot, StartRequest
from backends.fake import Behavior, FakeBackend, FakePlatform
from server.app import build_app
from server.start import opened
from server.storage import claims
from tests.chaos.evidence import BEGINS, ENDS, Event, attempts, violations
from tests.chaos.lives import Life, mortality
from tests.chaos.records import Records
from tests.chaos.stories import Story

PATIENCE_SECONDS = 120.0
LEASE_SECONDS = 0.3
PREEMPTED_AFTER_SECONDS = 0.01
LOOK_SECONDS = 0.004

QUEUE = "q"
GPU_QUEUE = "one-gpu"
"""Its launches ask for a GPU each."""
TWO_GPUS = {"slots": {"gpus": ["0", "1"]}}
"""What a machine is configured to have."""

_QUEUE = """mutation Queue($name: String!, $config: JSONString!) { upsertRunQueue(input: {
  entityName: "admin", projectName: "model-registry", queueName: $name, resourceType: "local-process",
  resourceConfig: $config
}) { success } }"""
_PUSH = """mutation Push($queue: String!, $spec: JSONString!) { pushToRunQueueByName(input: {
  entityName: "admin", projectName: "model-registry", queueName: $queue, runSpec: $spec
}) { runQueueItemId } }"""
_STOP = "mutation Stop($id: ID!) { stopRunQueueItem(input: {runQueueItemId: $id}) { success } }"


class Platform(FakePlatform):
    """Tells what begins and ends."""

    def __init__(self, scene: "Scene") -> None:
        super().__init__(self._begin)
        self._scene = scene

    def _begin(self, request: StartRequest) -> Behavior:
        item, attempt = request.labels["item"], int(request.labels["attempt"])
        self._scene.happened.append(Event(time.time(), item, BEGINS, attempt))
        if gpu := request.labels["gpus"]:
            live = [one for one in self.snapshot().values() if not one.phase.is_terminal]
            if gpu in {one.labels["gpus"] for one in live}:
                self._scene.errors.append(f"GPU {gpu} was given to item {item} while another launch had it")
        story = self._scene.stories[item]
        if attempt in story.preempted:
            asyncio.get_running_loop().call_later(PREEMPTED_AFTER_SECONDS, self._take_away, Handle(request.name))
        return story.behaviors[min(attempt, len(story.behaviors)) - 1]

    def _take_away(self, handle: Handle) -> None:
        if (launch := self.find(handle)) and not launch.observation.phase.is_terminal:
            self.preempt(handle)

    def _move(self, handle: Handle, phase: Phase, exit_code: int | None, reason: str, message: str) -> None:
        labels = self.snapshot()[handle].labels
        super()._move(handle, phase, exit_code, reason, message)
        self._scene.happened.append(Event(time.time(), labels["item"], ENDS, int(labels["attempt"])))


class Backend(FakeBackend):
    """Takes a step to ask the platform and another to hear its answer, so that an agent can die in between."""

    async def start(self, request: StartRequest) -> Handle:
        """See `Backend.start`."""
        await asyncio.sleep(0)
        handle = await super().start(request)
        await asyncio.sleep(0)
        return handle

    async def observe(self) -> Snapshot:
        """See `Backend.observe`."""
        await asyncio.sleep(0)
        observed = await super().observe()
        await asyncio.sleep(0)
        return observed

    async def stop(self, handle: Handle, grace_seconds: float) -> None:
        """See `Backend.stop`."""
        await asyncio.sleep(0)
        await super().stop(handle, grace_seconds)
        await asyncio.sleep(0)

    async def cleanup(self, handle: Handle) -> None:
        """See `Backend.cleanup`."""
        await asyncio.sleep(0)
        await super().cleanup(handle)
        await asyncio.sleep(0)


class Machine:
    """A state folder and a platform, and one agent after the other."""

    def __init__(self, scene: "Scene", name: str, **config: Any) -> None:
        self._scene = scene
        self.folder = scene.folder / name
        self.platform = Platform(scene)
        self.config = AgentConfig.model_validate(
            {"queues": [QUEUE], "max_jobs": 8, "state_dir": self.folder, "stopped_run_timeout": 5, **config}
        )
        self.life = Life()
        self._daemon: Daemon | None = None
        self._living: asyncio.Task[None] | None = None
        self.deaths = 0
        """How often an agent has died in the middle of something."""

    def start(self, last: int | None = None) -> None:
        """Start an agent, which dies after that many steps."""
        self.life = self._scene.new_life(last)
        self._daemon = None
        self._living = self.life.begin(self._live())

    async def _live(self) -> None:
        async with opened_agent(self.config, self._scene.server, version="launchbay@chaos") as context:
            context.backends = {"local-process": Backend(self.platform)}
            self._daemon = Daemon(context)
            await self._daemon.run()
            await say_goodbye(context)

    async def restart(self) -> None:
        """Kill the agent, if it is not dead already, and start the next one."""
        await self.kill()
        self.start()

    async def kill(self) -> None:
        """Kill the agent, and have the kernel clean up."""
        self.deaths += self.life.over.is_set()
        await self.life.die()
        if self._living is not None and self._living.done():
            self._living.result()  # a crash of its own is none of ours

    def drain(self) -> None:
        """Tell the agent to end, if it has come far enough to listen."""
        if self._daemon is not None:
            self._daemon.drain()

    async def ended(self) -> None:
        """Wait until the agent has ended by itself, or is dead."""
        over = asyncio.create_task(self.life.over.wait())
        assert self._living is not None
        await asyncio.wait([self._living, over], return_when=asyncio.FIRST_COMPLETED)
        over.cancel()

    async def disown(self) -> None:
        """Let the server take the agent for one that has said goodbye, so that the next one is somebody else."""
        with closing(sqlite3.connect(self.folder / "journal.db", timeout=60)) as journal:
            identity = journal.execute("SELECT agent_id FROM identity").fetchone()
        if identity is not None:
            await agent.operations.set_status(self._scene.control, identity[0], "KILLED")

    def lose_journal(self) -> None:
        """Remove what a dead agent has written down."""
        for file in self.folder.glob("journal.db*"):
            file.unlink()

    @property
    def leftovers(self) -> list[str]:
        """Return what is left of launches in the journal, on the platform and on the disk."""
        left = [f"on the platform: {handle}" for handle in self.platform.snapshot()]
        if (self.folder / "journal.db").exists():
            # An agent that has just begun may not have made the table yet.
            with (
                closing(sqlite3.connect(self.folder / "journal.db", timeout=60)) as journal,
                suppress(sqlite3.OperationalError),
            ):
                left += [f"in the journal: {text}" for (text,) in journal.execute("SELECT launch FROM held")]
        if (self.folder / "work").exists():
            left += [f"on the disk: {path.name}" for path in (self.folder / "work").iterdir()]
        return left


@dataclass
class Scene:
    """Where it all happens."""

    folder: Path
    server: Server
    control: ControlPlane
    records: Records
    new_life: Callable[[int | None], Life]
    patience: float = PATIENCE_SECONDS
    happened: list[Event] = field(default_factory=list[Event])
    """What the platforms have seen."""
    stories: dict[str, Story] = field(default_factory=dict[str, Story])
    """By item."""
    machines: list[Machine] = field(default_factory=list[Machine])
    errors: list[str] = field(default_factory=list[str])
    """Bugs that the agents' supervisors have caught."""

    def machine(self, name: str = "machine", **config: Any) -> Machine:
        """Set up another machine."""
        self.machines.append(Machine(self, name, **config))
        return self.machines[-1]

    async def push(self, story: Story, queue: str = QUEUE) -> str:
        """Push an item whose attempts behave like that; returns its id."""
        spec = {
            "entity": "admin",
            "project": "p",
            "uri": "placeholder",
            "resource": "local-process",
            "overrides": {"entry_point": ["true"]},
        }
        pushed = await self.control.ask(_PUSH, queue=queue, spec=json.dumps(spec))
        item = pushed["pushToRunQueueByName"]["runQueueItemId"]
        self.stories[item] = story
        return item

    async def begun(self, item: str) -> None:
        """Wait until a workload of an item has begun."""
        async with asyncio.timeout(self.patience):
            while not attempts(self.happened, item):  # noqa: ASYNC110 -- a platform tells its backend alone
                await asyncio.sleep(0)

    async def stop(self, item: str) -> None:
        """Ask for a stop."""
        await self.control.ask(_STOP, id=item)

    async def over(self, *, or_dead: Machine | None = None) -> None:
        """Wait until all items have ended and nothing is left of them, or until the agent of a machine is dead."""

        def left() -> str:
            if or_dead is not None and or_dead.life.over.is_set():
                return ""
            unfinished = self.records.unfinished()
            leftovers = [] if unfinished else [one for machine in self.machines for one in machine.leftovers]
            return f"not over: {unfinished}, {leftovers}" if unfinished or leftovers else ""

        await self._until_none(left)

    async def ended(self) -> None:
        """Wait until the server says that all items have ended."""
        await self._until_none(lambda: ", ".join(self.records.unfinished()))

    async def _until_none(self, left: Callable[[], str]) -> None:
        before, deadline = "", 0.0
        while found := left():
            if found != before:  # patience begins anew
                before, deadline = found, time.monotonic() + self.patience
            assert time.monotonic() < deadline, found
            await asyncio.sleep(LOOK_SECONDS)

    def check(self) -> None:
        """Fail if anything has gone wrong so far. All must be over."""
        events = [*self.happened, *self.records.events()]
        wrong = [*violations(events), *self.errors]
        for item, story in self.stories.items():
            wrong += [f"item {item}: {text}" for text in self._differences(item, story)]
        assert not wrong, "\n".join(wrong)

    def _differences(self, item: str, story: Story) -> list[str]:
        found = {
            "state": (self.records.state(item), story.state),
            "exit code": (self.records.exit_code(item), story.exit_code),
            "output": (self.records.output(item), story.output),
            "attempts": (tuple(attempts(self.happened, item)), story.attempts),
        }
        if story.attempts is None:
            del found["attempts"], found["exit code"]
        if story.output is None:
            del found["output"]
        return [f"its {what} is {got!r}, not {wanted!r}" for what, (got, wanted) in found.items() if got != wanted]


@asynccontextmanager
async def scene(folder: Path, patch: pytest.MonkeyPatch) -> AsyncGenerator[Scene]:
    """Set a scene: leases are short, logs are streamed at once."""
    patch.setattr(claims, "LEASE_SECONDS", LEASE_SECONDS)
    patch.setattr("agent.drive.LOG_AFTER_SECONDS", 0.0)
    patch.setattr("agent.drive.LOG_PAUSE_SECONDS", 0.0)
    async with opened(folder / "server") as services:
        # Whoever still waits for an answer at the end is dead.
        runner = web.AppRunner(build_app(services), access_log=None, shutdown_timeout=0.01)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        server = Server(url, (folder / "server" / "admin-api-key").read_text().strip())
        async with ControlPlane(url, server.api_key, random=Random(1)) as control, mortality(patch) as new_life:
            for queue, args in ((QUEUE, {}), (GPU_QUEUE, {"gpus": 1})):
                await control.ask(_QUEUE, name=queue, config=json.dumps({"resource_args": {"local-process": args}}))
            with closing(Records(folder / "server")) as records, _bugs() as errors:
                yield Scene(folder, server, control, records, new_life, errors=errors)
        await runner.cleanup()


@contextmanager
def _bugs() -> Generator[list[str]]:
    """Collect what is logged as an error: the agents' supervisors have caught a bug."""
    errors: list[str] = []

    def keep(_: Any, __: str, event: Any) -> Any:
        if Life.current():
            errors.append(f"logged as an error: {event}")
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(processors=[keep], wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    yield errors
    structlog.configure(**before)
