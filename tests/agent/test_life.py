"""The life of launches with a real server and a fake platform: retries, timeouts, stops and drains."""

import asyncio
from collections.abc import AsyncIterator
from contextvars import Context
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import structlog
from aiohttp import web
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

import agent.operations
from agent.admission.inventory import Gpu, Inventory
from agent.control_plane import ControlPlane
from agent.daemon import AMONG_QUEUES_SECONDS, LONG_POLL_SECONDS, SHARED_POLL_SECONDS
from agent.launch import Assigned, Stage
from agent.log_fields import LAUNCH_NAMES
from agent.observability.metrics import Metrics
from agent.prepare import prepare
from backends.base import Handle, Phase, PlatformFull, StartRequest
from backends.fake import Behavior, FakeBackend, FakePlatform
from tests.agent.gate import gate
from tests.agent.world import LIMIT_SECONDS, World, until, world

log = structlog.get_logger(__name__)

SOON = {"first_seconds": 0.1, "longest_seconds": 0.1}


@pytest.fixture(name="world")
async def _world(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as made:
        yield made


async def running(world: World, count: int = 1) -> list[Handle]:
    """Wait until that many launches run, and return their handles."""

    def live() -> list[Handle]:
        return [handle for handle, seen in world.platform.snapshot().items() if seen.phase is Phase.RUNNING]

    async def look() -> bool:
        return len(live()) == count

    await until(look, f"{count} launches running")
    return live()


async def test_how_long_it_took_to_start_counts_from_the_push(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(Metrics, "enqueued_to_started", lambda *told: waited.append(told[-1]))
    item_id = await world.push()
    await asyncio.sleep(0.5)
    async with world.agent():
        await world.in_state(item_id, "FAILED")  # it never called wandb.init
    assert len(waited) == 1
    assert 0.5 <= waited[0] < LIMIT_SECONDS


async def test_a_preempted_launch_goes_on_under_its_item_and_run(world: World) -> None:
    world.behave("p", Behavior(output=b"first\n"), Behavior(seconds=0.1, output=b"second\n"))
    async with world.agent(retries=[{"on": ["preempted"], "attempts": 2, **SOON}]):
        item_id = await world.push()
        (first,) = await running(world)
        world.platform.preempt(first)
        item = await world.in_state(item_id, "FAILED")  # it never calls wandb.init, so its item fails in the end
    attempts = [(request.labels["attempt"], request.labels["run"]) for request in world.platform.started]
    assert [attempt for attempt, _ in attempts] == ["1", "2"]
    assert len({run for _, run in attempts}) == 1
    assert [request.environment.get("WANDB_RESUME") for request in world.platform.started] == [None, "allow"]
    assert item["associatedRun"]["name"] == attempts[0][1]
    assert await world.output(item_id) == b"first\nsecond\n"
    assert world.platform.snapshot() == {}


async def test_what_is_not_in_the_rules_is_not_tried_again(world: World) -> None:
    world.behave("p", Behavior(seconds=0.05, exit_code=3))
    async with world.agent(retries=[{"on": ["preempted"]}]):
        item = await world.in_state(await world.push(), "FAILED")
    assert item["exitCode"] == 3
    assert len(world.platform.started) == 1


async def test_an_exit_code_of_the_rules_is_tried_until_the_budget_is_spent(world: World) -> None:
    world.behave("p", Behavior(seconds=0.05, exit_code=75))
    async with world.agent(retries=[{"on": [{"exit_code": [75]}], "attempts": 2, **SOON}]):
        item = await world.in_state(await world.push(), "FAILED")
    assert item["exitCode"] == 75
    assert len(world.platform.started) == 3


async def test_what_the_server_refuses_is_the_servers_fault_and_has_a_budget_of_its_own(world: World) -> None:
    """The agent's key is not accepted for a moment, say. That there is no such job is the launch's own fault."""
    asked: list[Any] = []

    async def refuse_twice(variables: Any) -> web.Response | None:
        asked.append(variables)
        return web.json_response({"errors": [{"message": "not yours"}]}, status=403) if len(asked) < 3 else None

    async with (
        gate(world.server.base_url) as before,
        ControlPlane(before.url, world.server.api_key, random=Random(1)) as behind,
        replace(world, server=behind).agent(retries=[{"on": ["control_plane"], "attempts": 2, **SOON}]),
    ):
        before.before["ArtifactMembershipByName"] = refuse_twice
        item = await world.in_state(await world.push(job="admin/p/none:latest", uri=None), "FAILED")
    assert "There is no artifact" in item["error"]["message"]
    assert len(asked) == 3


async def test_a_launch_that_waits_for_its_retry_takes_no_place_and_can_be_stopped(world: World) -> None:
    world.behave("p", Behavior(seconds=0.05, exit_code=75))
    world.behave("other", Behavior())
    rule = {"on": [{"exit_code": [75]}], "first_seconds": 3600, "longest_seconds": 3600}
    async with world.agent(max_jobs=1, retries=[rule]):
        waiting = await world.push()

        async def told() -> bool:
            return "Trying again in" in ((await world.item(waiting))["waitingReason"] or "")

        await until(told, "the server is told of the retry")
        await world.push("other")
        await running(world)
        await world.stop(waiting)
        assert (await world.in_state(waiting, "STOPPED"))["error"]["message"]


async def test_a_launch_whose_job_never_calls_init_is_said_to_be_running(world: World) -> None:
    world.behave("p", Behavior())
    async with world.agent():
        item_id = await world.push()

        async def told() -> bool:
            return ": running, and wandb.init" in ((await world.item(item_id))["waitingReason"] or "")

        await until(told, "the server is told that it runs")


async def test_what_the_platform_says_before_a_launch_runs_is_told(world: World) -> None:
    world.behave("p", Behavior(waits_for="pulling an image: 10%", output=b"words"))
    async with world.agent():
        item_id = await world.push()

        async def told(what: str) -> bool:
            return what in ((await world.item(item_id))["waitingReason"] or "")

        await until(lambda: told("pulling an image: 10%"), "the server is told of the pull")
        assert await world.output(item_id) == b""
        (handle,) = world.platform.snapshot()
        world.platform.begin(handle)
        await until(lambda: told(": running, and wandb.init"), "the server is told that it runs")


@pytest.mark.parametrize("refused", [False, True], ids=["stopped meanwhile", "refused meanwhile"])
async def test_a_start_that_was_cut_short_leaves_nothing_running(
    world: World, monkeypatch: pytest.MonkeyPatch, refused: bool
) -> None:
    """The agent dies with the job started and its handle unknown; the next one must not start it any more."""
    world.behave("p", Behavior())
    start = FakeBackend.start

    async def die(self: FakeBackend, request: StartRequest) -> Handle:
        await start(self, request)
        return await asyncio.Future[Handle]()

    monkeypatch.setattr(FakeBackend, "start", die)
    async with world.agent():
        item_id = await world.push()
        await running(world)
    monkeypatch.setattr(FakeBackend, "start", start)
    if not refused:
        await world.stop(item_id)
    async with world.agent(resources=["local-container" if refused else "local-process"]):
        await world.in_state(item_id, "FAILED" if refused else "STOPPED")

        async def gone() -> bool:
            return not world.platform.snapshot()

        await until(gone, "nothing is left on the platform")


async def test_a_launch_whose_services_are_waited_for_can_be_stopped(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = asyncio.Event()

    async def with_services(*launch: Any) -> StartRequest:
        return replace(await prepare(*launch), services=[{"config": {"kind": "Deployment"}}])

    async def wait(self: FakeBackend, request: StartRequest) -> Handle:
        waiting.set()
        return await asyncio.Future[Handle]()

    monkeypatch.setattr("agent.drive.prepare", with_services)
    monkeypatch.setattr(FakeBackend, "start", wait)
    async with world.agent():
        item_id = await world.push()
        await asyncio.wait_for(waiting.wait(), LIMIT_SECONDS)
        await world.stop(item_id)
        await world.in_state(item_id, "STOPPED")
    assert world.platform.snapshot() == {}


async def test_a_retry_survives_the_agent(world: World) -> None:
    world.behave("p", Behavior(seconds=0.05, exit_code=75), Behavior(seconds=0.05))
    rule = {"on": [{"exit_code": [75]}], "first_seconds": 2, "longest_seconds": 2}
    async with world.agent(retries=[rule]) as daemon:
        item_id = await world.push()

        async def retrying() -> bool:
            return any(held.launch.stage is Stage.RETRYING and held.launch.end is None for held in daemon.launches)

        await until(retrying, "the launch waits for its retry")
    assert len(world.platform.started) == 1
    async with world.agent(retries=[rule]):
        await world.in_state(item_id, "FAILED")
    assert [request.labels["attempt"] for request in world.platform.started] == ["1", "2"]


async def test_a_launch_that_runs_too_long_fails_by_its_timeout(world: World) -> None:
    world.behave("p", Behavior())
    async with world.agent(timeouts={"run": 0.3}):
        item = await world.in_state(await world.push(), "FAILED")
    assert "ran longer than 0.3 seconds" in item["error"]["message"]
    assert "timeouts.run" in item["error"]["message"]


async def test_a_launch_that_cannot_start_is_stopped_and_told_as_what_it_is(world: World) -> None:
    world.behave("p", Behavior(waits_for="pulling"))
    async with world.agent():
        item_id = await world.push()

        async def waiting() -> list[Handle]:
            return list(world.platform.snapshot())

        (handle,) = await until(waiting, "the platform has it")
        world.platform.say(
            handle,
            reason="image_pull",
            message="The image train:v9 cannot be pulled: not found.",
            hopeless_at=0.0,
            details=("Failed: Failed to pull image",),
        )
        item = await world.in_state(item_id, "FAILED")

        async def gone() -> bool:
            return not world.platform.snapshot()

        await until(gone, "nothing is left on the platform")
    assert item["error"]["message"].startswith("The image train:v9 cannot be pulled: not found.\n    Failed: Failed")


async def test_a_queue_has_a_limit_of_its_own(world: World) -> None:
    world.behave("p", Behavior())
    async with world.agent(max_jobs=-1, queue_limits={"q": 2}) as daemon:
        for _ in range(4):
            await world.push()
        await running(world, 2)
        assert daemon.launches.jobs() == 2


async def test_queues_take_turns_however_much_is_in_each(world: World) -> None:
    await world.make_queue("other")
    pushed = [await world.push("q") for _ in range(8)] + [await world.push("other", queue="other") for _ in range(3)]
    async with world.agent(queues=["q", "other"], max_jobs=1):
        for item_id in pushed:
            await world.in_state(item_id, "FAILED")  # they never called wandb.init
    order = [request.labels["project"] for request in world.platform.started]
    assert "other" not in order[7:], f"each queue is served at every second turn or so: {order}"


@pytest.mark.parametrize(
    ("max_jobs", "queues", "longest"),
    [
        pytest.param(3, ["q", "empty"], SHARED_POLL_SECONDS, id="less room than queues"),
        pytest.param(4, ["q", "empty"], AMONG_QUEUES_SECONDS, id="room for each queue"),
        pytest.param(-1, ["q", "empty"], LONG_POLL_SECONDS, id="no limit"),
        pytest.param(3, ["q"], LONG_POLL_SECONDS, id="one queue"),
    ],
)
async def test_no_poll_keeps_room_for_long_that_another_queue_may_need(
    world: World, monkeypatch: pytest.MonkeyPatch, max_jobs: int, queues: list[str], longest: float
) -> None:
    waits: list[float] = []
    pop = agent.operations.pop

    def noted(*given: Any, wait: float, **others: Any) -> Any:
        waits.append(wait)
        return pop(*given, wait=wait, **others)

    await world.make_queue("empty")
    world.behave("p", Behavior())
    async with world.agent(max_jobs=2):
        await world.push()
        await world.push()
        await running(world, 2)
    monkeypatch.setattr(agent.operations, "pop", noted)
    async with world.agent(queues=queues, max_jobs=max_jobs):
        await world.push()
        await running(world, 3)
    assert max(waits) == longest


async def test_every_poll_that_was_answered_counts_also_while_there_are_items(world: World) -> None:
    world.behave("p", Behavior())
    for _ in range(3):
        await world.push()
    async with world.agent(max_jobs=3) as daemon:
        await running(world, 3)
        assert "q" in daemon.health.polled_at
        registry = daemon._context.metrics.registry
        assert registry.get_sample_value("launchbay_agent_polls_total", {"queue": "q", "result": "item"}) == 3


async def test_a_drain_leaves_what_runs_and_hands_back_what_does_not(world: World, monkeypatch: Any) -> None:
    world.behave("p", Behavior())
    async with world.agent(max_jobs=2) as daemon:
        await world.push()
        await running(world)
        daemon.drain()
        assert await world.left == 1
        later = await world.push()
    async with world.agent(max_jobs=2):
        await running(world, 2)
        assert (await world.item(later))["state"] == "CLAIMED"
    assert len(world.platform.started) == 2


async def test_a_drain_can_wait(world: World) -> None:
    world.behave("p", Behavior())
    async with world.agent(drain={"running": "wait"}) as daemon:
        item_id = await world.push()
        (handle,) = await running(world)
        daemon.drain()
        world.platform.end(handle, 3)
        assert await world.left == 0
        assert (await world.item(item_id))["state"] == "FAILED"


async def test_a_drain_does_not_wait_for_ever(world: World) -> None:
    world.behave("p", Behavior())
    async with world.agent(drain={"running": "wait", "wait_seconds": 0.2}) as daemon:
        await world.push()
        await running(world)
        daemon.drain()
        assert await world.left == 1


async def test_a_second_signal_stops_what_runs(world: World) -> None:
    world.behave("p", Behavior())
    async with world.agent(drain={"running": "wait"}) as daemon:
        item_id = await world.push()
        await running(world)
        daemon.drain()
        daemon.drain()
        assert await world.left == 0
    item = await world.item(item_id)
    assert item["state"] == "STOPPED"
    assert "told to end" in item["error"]["message"]


async def test_a_third_signal_leaves_at_once(world: World) -> None:
    world.behave("p", Behavior(ignores_term=True))
    async with world.agent(drain={"running": "wait"}) as daemon:
        await world.push()
        await running(world)
        for _ in range(3):
            daemon.drain()
        assert await world.left == 1


async def test_a_reload_changes_limits_at_once(world: World) -> None:
    world.behave("p", Behavior())
    async with world.agent(max_jobs=1) as daemon:
        for _ in range(3):
            await world.push()
        await running(world, 1)
        config = daemon._context.config
        daemon.reload(config.model_copy(update={"max_jobs": 2}))
        await running(world, 2)
        daemon.reload(config.model_copy(update={"queue_limits": {"q": 0}}))
        first, second = await running(world, 2)
        world.platform.end(first, 1)
        world.platform.end(second, 1)
        await running(world, 0)


# --- slots -----------------------------------------------------------------------------------------------------------


async def test_launches_get_gpus_of_their_own_and_wait_for_them(world: World) -> None:
    world.behave("p", Behavior())
    box = Inventory((Gpu("GPU-a", 0), Gpu("GPU-b", 1)), 8, 2**30, "CUDA_VISIBLE_DEVICES")
    asks: dict[str, Any] = {"resource_args": {"local-process": {"gpus": 1}}}
    async with world.agent(max_jobs=-1, inventory=box):
        for _ in range(2):
            await world.push(**asks)
        first, _ = await running(world, 2)
        waiting = await world.push(**asks)

        async def told() -> bool:
            return "waiting for 1 GPU: 0 of 2 are free" in ((await world.item(waiting))["waitingReason"] or "")

        await until(told, "people are told what it waits for")
        world.platform.end(first)
        await running(world, 2)
    seen = [request.environment["CUDA_VISIBLE_DEVICES"] for request in world.platform.started]
    assert sorted(seen[:2]) == ["GPU-a", "GPU-b"]
    assert seen[2] == next(r.environment["CUDA_VISIBLE_DEVICES"] for r in world.platform.started if r.name == first)


async def test_who_asks_for_more_than_there_is_fails_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is fetched or made for it."""
    monkeypatch.setattr("agent.drive.prepare", None)
    async with world.agent():
        item = await world.in_state(await world.push(resource_args={"local-process": {"gpus": 1}}), "FAILED")
    assert "asks for 1 GPU" in item["error"]["message"]
    assert world.platform.started == []


async def test_what_was_given_stays_given_over_a_restart(world: World) -> None:
    world.behave("p", Behavior())
    box = Inventory((Gpu("GPU-a", 0), Gpu("GPU-b", 1)), 8, 2**30, "CUDA_VISIBLE_DEVICES")
    asks: dict[str, Any] = {"resource_args": {"local-process": {"gpus": 1}}}
    for state in ("state", "state", "lost"):
        async with world.agent(state=state, max_jobs=-1, inventory=box) as daemon:
            if not world.platform.started:
                await world.push(**asks)
                await running(world)
            assert await until(lambda: _true(daemon.launches.assigned()), "it is held") == [Assigned(("GPU-a",))]
            await world.goodbye(daemon)


# --- the labels are the journal --------------------------------------------------------------------------------------


class Talking(FakeBackend):
    """A backend that tells what it does for a stop when it has been asked for it, and then of all launches at once."""

    async def stop(self, handle: Handle, grace_seconds: float) -> None:
        """Stop it later, in a task of its own."""
        self._stopping = asyncio.create_task(self._stop(handle, grace_seconds))

    async def _stop(self, handle: Handle, grace_seconds: float) -> None:
        log.info("told to stop by the backend")
        await asyncio.create_task(self._look_around(handle), context=Context())
        await super().stop(handle, grace_seconds)

    async def _look_around(self, handle: Handle) -> None:
        log.info("seen by the backend", launch=handle)


async def test_every_line_about_a_launch_names_item_attempt_and_queue(world: World) -> None:
    world.behave("retried", Behavior(seconds=0.05, exit_code=75), Behavior())
    world.behave("stopped", Behavior())
    with capture_logs([merge_contextvars, LAUNCH_NAMES]) as lines:
        backends = {"local-process": Talking(world.platform)}
        retries = [{"on": [{"exit_code": [75]}], **SOON}]
        async with world.agent(max_jobs=4, retries=retries, backends=backends) as daemon:
            wrong = await world.push(resource_args={"local-process": {"gpus": 3}})
            await world.in_state(wrong, "FAILED")
            retried, stopped = await world.push("retried"), await world.push("stopped")
            await until(lambda: _true({held.launch.attempt for held in daemon.launches} == {1, 2}), "a retry")
            await running(world, 2)
            await world.stop(stopped)
            await world.in_state(stopped, "STOPPED")
            await world.goodbye(daemon)
        async with world.agent(state="lost") as daemon:
            await until(lambda: _true(retried in daemon.launches), "it is adopted")
    told = {line["event"]: (line.get("item"), line.get("attempt"), line.get("queue")) for line in lines}
    assert told["launch ended before its start"] == (wrong, 1, "q")
    assert told["attempt failed, another follows"] == (retried, 1, "q")
    assert told["stopping"] == told["told to stop by the backend"] == told["seen by the backend"] == (stopped, 1, "q")
    assert told["adopted a launch by its labels"] == (retried, 2, "q")
    # An agent that the server takes for gone may be refused a poll, which is about no launch.
    assert [event for event, about in told.items() if None in about and event != "cannot claim"] == []


async def test_launches_are_adopted_by_their_labels_where_the_journal_is_lost(world: World) -> None:
    world.behave("p", Behavior(output=b"before\n"))
    async with world.agent() as daemon:
        item_id = await world.push()
        (handle,) = await running(world)
        await world.goodbye(daemon)
    async with world.agent(state="lost") as daemon:
        await until(lambda: _true(item_id in daemon.launches), "it is adopted")
        world.platform.write(handle, b"after\n")
        world.platform.end(handle, 3)
        assert (await world.in_state(item_id, "FAILED"))["exitCode"] == 3
    assert len(world.platform.started) == 1
    assert await world.output(item_id) == b"before\nafter\n"


async def test_who_waits_for_what_another_agent_holds_ends_when_told(world: World) -> None:
    """The other one was killed, and is not taken for dead yet."""
    world.behave("p", Behavior())
    async with world.agent():
        item_id = await world.push()
        await running(world)
    with capture_logs() as told:
        async with world.agent(state="lost") as daemon:
            await until(lambda: _true(any(line.get("doing") == "adopting an item" for line in told)), "it waits")
            daemon.drain()
            assert await asyncio.wait_for(world.left, 60) == 0
    assert (await world.item(item_id))["state"] == "CLAIMED"


async def test_an_orphan_is_put_down(world: World) -> None:
    """Its item is over: somebody deleted it while no agent was there."""
    world.behave("p", Behavior())
    async with world.agent() as daemon:
        item_id = await world.push()
        await running(world)
        await world.goodbye(daemon)
    await world.server.ask(
        """mutation Fail($id: ID!) { failRunQueueItem(input: {runQueueItemId: $id, message: "m", stage: "agent"}) {
             success } }""",
        id=item_id,
    )
    async with world.agent(state="lost") as daemon:
        await running(world, 0)
        await until(lambda: _true(not world.platform.snapshot()), "nothing is left")
        assert not daemon.launches


async def _true(value: Any) -> Any:
    return value


# --- handing back ----------------------------------------------------------------------------------------------------


async def test_a_drain_hands_back_what_waits_for_slots(world: World) -> None:
    world.behave("p", Behavior())
    box = Inventory((Gpu("GPU-a", 0),), 8, 2**30, "CUDA_VISIBLE_DEVICES")
    asks: dict[str, Any] = {"resource_args": {"local-process": {"gpus": 1}}}
    async with world.agent(max_jobs=2, inventory=box) as daemon:
        await world.push(**asks)
        await running(world)
        waiting = await world.push(**asks)

        async def told() -> bool:
            return "waiting for 1 GPU" in ((await world.item(waiting))["waitingReason"] or "")

        await until(told, "it waits")
        daemon.drain()
        assert await world.left == 1
        item = await world.item(waiting)
        assert (item["state"], item["agent"]) == ("PENDING", None)


# --- evidence --------------------------------------------------------------------------------------------------------


async def test_the_last_lines_stand_on_a_failed_item_and_no_secret(world: World) -> None:
    own_key = "e" * 40
    output = "\n".join([*(f"line {number}" for number in range(20)), f"key {own_key}", "10%\r99%\rKeyError: 'x'", ""])
    world.behave("p", Behavior(seconds=0.05, exit_code=3, output=output.encode()))

    def bring_key(data: Any) -> None:
        if data["popFromRunQueue"]:
            data["popFromRunQueue"]["runSpec"]["_wandb_api_key"] = own_key

    async with (
        gate(world.server.base_url) as before,
        ControlPlane(before.url, world.server.api_key, random=Random(1)) as behind,
        replace(world, server=behind).agent(),
    ):
        before.after["PopFromRunQueue"] = bring_key
        item_id = await world.push()
        message = (await world.in_state(item_id, "FAILED"))["error"]["message"]
    assert message.startswith("The job ended with exit code 3. Its log says why. Last lines:\n    line 12\n")
    assert message.endswith(f"key {'*' * 40}\n    KeyError: 'x'")
    sent = await world.output(item_id)
    assert len(sent) == len(output)
    assert own_key.encode() not in sent


class Full(FakeBackend):
    """A platform without room for a launch, for as long as the test says so."""

    def __init__(self, platform: FakePlatform, retry_seconds: float) -> None:
        super().__init__(platform)
        self.full: PlatformFull | None = PlatformFull("The quota is used up.", retry_seconds=retry_seconds)

    async def start(self, request: StartRequest) -> Handle:
        """See `Backend.start`."""
        if self.full:
            raise self.full
        return await super().start(request)


async def test_a_launch_waits_for_room_on_its_platform_and_says_so(world: World) -> None:
    backend = Full(world.platform, retry_seconds=0.05)
    async with world.agent(backends={"local-process": backend}):
        item = await world.push()

        async def waits() -> bool:
            return "quota is used up" in ((await world.item(item))["waitingReason"] or "")

        await until(waits, "the item tells what it waits for")
        backend.full = None
        await world.in_state(item, "FINISHED", "FAILED")
    assert len(world.platform.started) == 1


async def test_a_launch_that_waits_for_room_can_be_stopped(world: World) -> None:
    backend = Full(world.platform, retry_seconds=3600)
    async with world.agent(backends={"local-process": backend}):
        item = await world.push()

        async def waits() -> bool:
            return "quota is used up" in ((await world.item(item))["waitingReason"] or "")

        await until(waits, "the item tells what it waits for")
        await world.stop(item)
        await world.in_state(item, "STOPPED")
    assert world.platform.started == []
