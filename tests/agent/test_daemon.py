"""The daemon's own decisions, on a fake platform and without a server."""

import asyncio
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from agent.admission.inventory import Inventory
from agent.admission.slots import SlotTable
from agent.caches.artifacts import ArtifactCache
from agent.caches.bounded import BoundedCache
from agent.caches.environments import Environments
from agent.caches.image_environments import ImageEnvironments
from agent.caches.manifest import Limits
from agent.claim import claim
from agent.config.model import AgentConfig
from agent.context import AgentContext
from agent.control_plane import ControlPlane
from agent.daemon import OBSERVE_SECONDS, Daemon
from agent.errors import LaunchFailed
from agent.held import Launches
from agent.journal import Identity, Journal
from agent.launch import Launch, Stage, StopReason
from agent.observability.metrics import Metrics
from agent.observability.tracing import NoTracer
from agent.operations import QueueItem, ServerFacts
from agent.prepare import backend_for
from agent.sources.repositories import Repositories
from agent.supervise import supervise
from backends.base import BackendError, BackendUnavailable, Handle, Observation, Phase, Snapshot, StartRequest
from backends.fake import FakeBackend, FakePlatform
from protocol.launch_spec import parse_launch_spec


class SlowLook:
    """A backend whose look takes until it is let go."""

    def __init__(self) -> None:
        self.looking = asyncio.Event()
        self.go = asyncio.Event()
        self.seen: dict[Handle, Observation] = {}

    async def observe(self) -> Snapshot:
        """Return what was there when the look began."""
        seen = dict(self.seen)
        self.looking.set()
        await self.go.wait()
        return seen


@pytest.fixture
async def context(tmp_path: Path) -> Any:
    """An agent's surroundings; nothing in them is connected."""
    control = ControlPlane("http://server.test", "key", random=Random(1))
    journal = await Journal.open(tmp_path)
    launches = Launches()
    installed = BoundedCache(tmp_path / "environments", None, launches.in_use)
    yield AgentContext(
        config=AgentConfig.model_validate({"queues": ["q"]}),
        entity="e",
        server=control,
        facts=ServerFacts("e", "e", is_launchbay=True),
        identity=Identity("http://server.test", "e", "agent-1", "name"),
        journal=journal,
        owner="host:state",
        queue_resources={},
        launches=launches,
        slots=SlotTable(Inventory(), launches.assigned),
        backends={"local-process": SlowLook()},  # type: ignore[dict-item]
        artifacts=ArtifactCache(BoundedCache(tmp_path / "artifacts", None, launches.in_use), control, Limits()),
        repositories=Repositories(BoundedCache(tmp_path / "code", None, launches.in_use), tmp_path / "git", {}),
        environments=Environments(installed, {}),
        image_environments=ImageEnvironments(installed, tmp_path / "uv", {}, Random(1)),
        metrics=Metrics(launches),
        tracer=NoTracer(),
        state_dir=tmp_path,
        work_dir=tmp_path / "work",
        process_environment={},
        clock=lambda: 0.0,
        random=Random(1),
    )
    await journal.close()


def launch(name: str, stage: Stage) -> Launch:
    """Return a launch on the fake platform."""
    return Launch(f"item-{name}", 1, "q", {}, f"run-{name}", stage, resource="local-process", handle=Handle(name))


async def test_a_launch_that_starts_during_a_look_is_not_taken_for_lost(context: AgentContext) -> None:
    daemon, backend = Daemon(context), context.backends["local-process"]
    assert isinstance(backend, SlowLook)
    running, starting = launch("running", Stage.STARTED), launch("starting", Stage.STARTING)
    for each in (running, starting):
        daemon.launches.add(each)
    backend.seen[Handle("running")] = Observation(Phase.RUNNING)
    looking = asyncio.create_task(daemon._reconcile("local-process", backend))
    await backend.looking.wait()
    starting.move(Stage.STARTED)
    backend.go.set()
    await looking
    assert [held.launch.stage for held in daemon.launches] == [Stage.STARTED, Stage.STARTED]


class DeafToStops(FakeBackend):
    """A backend that some orders to stop do not reach at first."""

    def __init__(self, platform: FakePlatform, error: Exception) -> None:
        super().__init__(platform)
        self.asked: list[tuple[Handle, float]] = []
        self._errors = {Handle("deaf"): [error, error, error]}

    async def stop(self, handle: Handle, grace_seconds: float) -> None:
        """Fail three times for one launch; the job takes no notice."""
        self.asked.append((handle, asyncio.get_running_loop().time()))
        if errors := self._errors.get(handle):
            raise errors.pop()


@pytest.mark.looptime
@pytest.mark.parametrize("error", [BackendUnavailable("cannot reach it"), BackendError("may not")])
async def test_a_stop_that_did_not_reach_the_backend_is_sent_again_and_holds_nothing_up(
    context: AgentContext, error: Exception
) -> None:
    platform = FakePlatform()
    backend = DeafToStops(platform, error)
    daemon = Daemon(context)
    for name in ("deaf", "other"):
        platform.start(StartRequest(name, ["train"], {}))
        daemon.launches.add(launch(name, Stage.STARTED)).launch.stop = StopReason.REQUEST
    watching = asyncio.create_task(supervise("watch", daemon._watching("local-process", backend)))
    await asyncio.sleep(10 * OBSERVE_SECONDS)
    watching.cancel()
    await asyncio.wait([watching])
    begun = backend.asked[0][1]
    assert [when - begun for handle, when in backend.asked if handle == "other"] == [0]
    # The hint that every backend gives at first is a reason to look, too.
    again = [when - begun for handle, when in backend.asked if handle == "deaf"]
    assert again == pytest.approx([0, 0, OBSERVE_SECONDS, 2 * OBSERVE_SECONDS])


def _always() -> bool:
    return True


SCHEDULER = {
    "entity": "e",
    "project": "p",
    "uri": "placeholder-uri-scheduler",
    "resource": "local-process",
    "overrides": {"entry_point": ["wandb", "scheduler", "sweep-1"], "args": ["--queue", "'q'"]},
}


async def test_an_item_that_is_held_already_is_not_taken_a_second_time(
    context: AgentContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first launch keeps its run id, which the server may know."""

    async def pop(*_: Any, **__: Any) -> tuple[QueueItem, bool]:
        return QueueItem("item-1", {"project": "p"}), True

    monkeypatch.setattr("agent.operations.pop", pop)
    first, _ = await claim(context, "q", 0, frozenset(), may_schedule=_always)
    assert first is not None
    assert await claim(context, "q", 0, {first.item_id}, may_schedule=_always) == (None, True)
    assert [kept.run_id for kept in await context.journal.launches()] == [first.run_id]


async def test_a_poll_that_waits_for_an_item_is_known_while_it_does(
    context: AgentContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, may_answer = asyncio.Event(), asyncio.Event()

    async def pop(*_: Any, **__: Any) -> tuple[None, bool]:
        asked.set()
        await may_answer.wait()
        return None, True

    monkeypatch.setattr("agent.operations.pop", pop)
    daemon = Daemon(context)
    claiming = asyncio.create_task(daemon._claim("q", lambda: 30))
    await asked.wait()
    assert daemon.health.seconds_polling("q") is not None
    may_answer.set()
    assert await claiming == (None, True)
    assert daemon.health.seconds_polling("q") is None


@pytest.mark.parametrize(
    ("pushed", "kept", "began"),
    [
        pytest.param(90.5, 90.5, 90.5, id="it waited in its queue"),
        pytest.param(103.0, 100.0, 100.0, id="the server's clock is ahead"),
        pytest.param(0, 0, 100.0, id="the server does not say"),
    ],
)
async def test_a_launch_begins_at_its_push_and_never_after_its_claim(
    context: AgentContext, monkeypatch: pytest.MonkeyPatch, pushed: float, kept: float, began: float
) -> None:
    async def pop(*_: Any, **__: Any) -> tuple[QueueItem, bool]:
        return QueueItem("item-1", {"project": "p"}, pushed), True

    monkeypatch.setattr("agent.operations.pop", pop)
    at_100 = replace(context, clock=lambda: 100.0)
    claimed, _ = await claim(at_100, "q", 0, frozenset(), may_schedule=_always)
    assert claimed is not None
    assert (claimed.enqueued_at, claimed.known_since) == (kept, began)
    assert await context.journal.launches() == [claimed]


async def test_a_scheduler_without_room_is_left_on_its_queue(
    context: AgentContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def pop(*_: Any, **__: Any) -> tuple[QueueItem, bool]:
        return QueueItem("item-1", SCHEDULER), True

    monkeypatch.setattr("agent.operations.pop", pop)
    assert await claim(context, "q", 0, frozenset(), may_schedule=lambda: False) == (None, True)
    assert await context.journal.launches() == []
    launch, _ = await claim(context, "q", 0, frozenset(), may_schedule=_always)
    assert launch is not None
    assert launch.is_scheduler


async def test_a_scheduler_takes_no_room_from_jobs(context: AgentContext) -> None:
    daemon = Daemon(context)
    assert daemon._may_schedule()
    daemon.launches.add(Launch("item-1", 1, "q", SCHEDULER, "sweep-1"))
    assert daemon.launches.jobs() == 0
    assert not daemon._may_schedule(), "max_schedulers is 1"
    daemon.launches.add(Launch("item-2", 1, "q", {"project": "p"}, "run-2"))
    assert daemon.launches.jobs() == 1


async def test_only_schedulers_run_on_a_resource_that_is_not_served(context: AgentContext) -> None:
    config = AgentConfig.model_validate({"queues": ["q"], "resources": ["local-container"]})
    backends: Any = {"local-process": SlowLook()}
    elsewhere = replace(context, config=config, backends=backends)
    assert backend_for(elsewhere, parse_launch_spec(SCHEDULER)) is backends["local-process"]
    command = {**SCHEDULER, "uri": "placeholder", "overrides": {"entry_point": ["sh", "-c", "id"]}}
    with pytest.raises(LaunchFailed, match="does not serve resource 'local-process'; it serves: local-container"):
        backend_for(elsewhere, parse_launch_spec(command))
