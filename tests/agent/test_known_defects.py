"""What the stock agent does wrong, and ours must not: those of its defects that cost work, an agent or a secret.

Numbers are those of the list of defects that this project was begun with. A test of another module has its file before
it.

| defect of the stock agent | what must hold |
| --- | --- |
| 1.1 a failed poll ends the agent | test_an_agent_outlives_any_number_of_failed_calls |
| | end_to_end/test_outage.py: test_a_launch_gets_through_the_absence_of_its_server |
| 1.2 an agent that is told to end says so never, or not last | test_an_agent_that_is_told_to_end_says_goodbye_last |
| 1.2b what runs is reported failed when the agent ends | test_an_agent_that_ends_says_nothing_of_what_runs |
| 1.3 who loses an item fails it for its new owner | test_an_item_that_another_agent_took_is_left_alone |
| 1.4 an error in reporting an error keeps the place | test_a_place_is_free_although_the_end_cannot_be_told |
| 1.6 one slow launch stalls everything | test_a_launch_that_waits_for_the_server_stalls_nobody |
| | test_slow_disks_do_not_stall_the_agent |
| 1.7 a restarted agent has forgotten what runs | test_an_agent_that_ends_says_nothing_of_what_runs |
| | end_to_end/test_launch.py: test_a_launch_outlives_its_agent_and_the_next_one_reports_its_end |
| | test_life.py: test_a_retry_survives_the_agent |
| | backends/testing/contract.py: test_restarted_agent_finds_what_runs_and_its_end |
| 1.16b one failed look at the platform fails the launch | test_a_platform_that_cannot_be_reached_ends_no_launch |
| 4.1 the spec alone says where it runs | test_a_launch_runs_on_its_queues_resource_or_not_at_all |
| | test_only_a_sweeps_own_command_runs_where_jobs_may_not |
| | test_policy.py: TestTheResource |
| 4.2 macros read the agent's environment | test_macros_read_what_the_operator_lists_and_nothing_else |
| | test_render.py: test_of_the_agents_variables_macros_read_those_that_are_listed |
| 4.3 keys stand in plain sight | end_to_end/test_secrets.py |
| | backends/testing/contract.py: test_secrets_stand_nowhere |
| 4.5 jobs inherit the agent's environment | test_a_job_sees_of_the_agents_variables_what_is_harmless_or_listed |
| | backends/test_local_process.py: test_job_inherits_nothing_from_the_agent |
| 4.7 a launch may have secrets, namespaces and roles of a cluster | test_policy.py: TestResourceArgs |
| | test_cluster_policy.py: test_what_is_not_the_launchs_own_is_asked_for_by_its_name |
| | test_cluster_policy.py: test_only_kinds_that_run_pods_are_launches_or_beside_them |
| | test_what_a_launch_may_not_ask_for_reaches_no_platform |
| 4.8 documented configs are refused | test_cluster_policy.py: test_what_ordinary_queues_write_needs_no_policy |
| 4.9 secure mode looks at one place | test_cluster_policy.py: test_secure_mode_looks_into_all_pods_and_services |
| 5.1 a silent process is never stopped, nor is its group | test_a_silent_job_is_stopped_with_all_that_it_started |
| | backends/testing/contract.py: test_stop_kills_what_does_not_listen |
| 5.4 a byte that is not UTF-8 hangs the agent | test_output_is_bytes_and_costs_nothing_while_there_is_none |
| 5.9 what is in an unknown state is watched for ever | test_whatever_a_platform_says_a_launch_comes_to_an_end |
| | test_watch.py: test_decide |
"""

import asyncio
import os
import shutil
import signal
import sys
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import psutil
import pytest
import yaml
from aiohttp import web

from agent.config.model import Timeouts
from agent.control_plane import ControlPlane
from agent.launch import Launch, Stage
from agent.watch import Settle, Stop, decide
from backends.base import BackendUnavailable, Handle, Observation, Phase
from backends.fake import Behavior
from tests.agent.gate import Gate, gate
from tests.agent.world import QUEUE, World, until, world

KEY = "WANDB_API_KEY"
ENDED = ("FAILED", "FINISHED", "STOPPED", "KILLED", "CRASHED")
TELLS_THE_END = ("FinishRunQueueItem", "FailRunQueueItem")


@dataclass
class Agents:
    """A world whose agents meet their server through a gate."""

    world: World
    gate: Gate

    @property
    def behind(self) -> World:
        """The world as agents in this process meet it, on the fake platform."""
        plane = ControlPlane(self.gate.url, self.world.server.api_key, random=Random(1))
        return replace(self.world, server=plane)

    @asynccontextmanager
    async def process(
        self, *, env: dict[str, str] | None = None, **config: Any
    ) -> AsyncGenerator[asyncio.subprocess.Process]:
        """Run a real agent with real jobs while the block runs; kill it then, if it has not ended."""
        folder = self.world.folder
        file = folder / "launch-config.yaml"
        file.write_text(yaml.safe_dump({"queues": [QUEUE], "max_jobs": 4, **config}))
        polls = self.gate.times("PopFromRunQueue")
        with (folder / "agent.log").open("ab") as log:
            running = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "launchbay", "agent", "-c", str(file), "--state-dir", str(folder / "real")),
                env={**os.environ, "WANDB_BASE_URL": self.gate.url, KEY: self.world.server.api_key, **(env or {})},
                stdout=log,
                stderr=log,
            )
        try:
            await until(self.once(lambda: self.gate.times("PopFromRunQueue") > polls), "the agent polls")
            yield running
        finally:
            if running.returncode is None:
                running.kill()
            await running.wait()

    def statuses(self) -> list[str]:
        """Return what agents said of themselves."""
        return [variables["status"] for name, variables in self.gate.asked if name == "UpdateLaunchAgent"]

    @staticmethod
    def once(check: Callable[[], Any]) -> Callable[[], Awaitable[Any]]:
        """Return a check to wait for."""

        async def look() -> Any:
            return check()

        return look

    async def running(self, count: int = 1) -> list[Any]:
        """Wait until that many launches run on the fake platform; returns their handles."""

        def live() -> list[Any]:
            return [handle for handle, seen in self.world.platform.snapshot().items() if seen.phase is Phase.RUNNING]

        await until(self.once(lambda: len(live()) == count), f"{count} launches running")
        return live()


@pytest.fixture(name="agents")
async def _agents(tmp_path: Path) -> AsyncIterator[Agents]:
    async with world(tmp_path) as made, gate(made.server.base_url) as before:
        yield Agents(made, before)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Agents in this process do not take their time."""
    for name, seconds in (
        ("daemon.LONG_POLL_SECONDS", 0.2),
        ("daemon.FIRST_POLL_SECONDS", 0.02),
        ("daemon.LAST_POLL_SECONDS", 0.1),
        ("daemon.OBSERVE_SECONDS", 0.1),
        ("daemon.FOREIGN_ORDERS_SECONDS", 0.1),
        ("supervise.FIRST_PAUSE_SECONDS", 0.02),
    ):
        monkeypatch.setattr(f"agent.{name}", seconds)


# --- 1. the loop -----------------------------------------------------------------------------------------------------


def _errors(status: int) -> web.Response:
    return web.json_response({"errors": [{"message": "not today"}]}, status=status)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(lambda: _errors(500), id="server error"),
        pytest.param(lambda: _errors(429), id="overloaded"),
        pytest.param(lambda: _errors(400), id="refused"),
        pytest.param(lambda: _errors(403), id="forbidden"),
        pytest.param(lambda: web.Response(text="<html>maintenance</html>"), id="not even JSON"),
        pytest.param(lambda: web.json_response({"data": None}), id="nothing"),
    ],
)
async def test_an_agent_outlives_any_number_of_failed_calls(agents: Agents, answer: Callable[[], web.Response]) -> None:
    calls = ("PopFromRunQueue", "LaunchAgentOrders", "UpdateLaunchAgent", "LaunchAgent")
    agents.world.behave("long", Behavior())
    behind = agents.behind
    async with behind.agent(max_jobs=2):
        item_id = await agents.world.push("long")
        (handle,) = await agents.running()

        async def instead(_: Any) -> web.Response:
            return answer()

        agents.gate.before.update(dict.fromkeys(calls, instead))
        for call in calls[:2]:
            asked = agents.gate.times(call)
            await until(agents.once(lambda call=call, asked=asked: agents.gate.times(call) >= asked + 3), f"3 x {call}")
        agents.gate.mend(*calls)
        await agents.world.in_state(await agents.world.push(), *ENDED)
        agents.world.platform.end(handle, 3)
        assert (await agents.world.in_state(item_id, *ENDED))["exitCode"] == 3
        assert not behind.left.done()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_an_agent_that_is_told_to_end_says_goodbye_last(agents: Agents, number: signal.Signals) -> None:
    async with agents.process() as process:
        process.send_signal(number)
        assert await asyncio.wait_for(process.wait(), 120) == 0
    assert agents.statuses()[-1] == "KILLED"
    assert agents.statuses().count("KILLED") == 1


@pytest.mark.parametrize("told", ["SIGINT", "SIGTERM", "by its server"])
async def test_an_agent_that_ends_says_nothing_of_what_runs(agents: Agents, told: str) -> None:
    """Neither that it failed, nor that the agent is free; only that it ends: the next agent goes on with it."""
    folder = agents.world.folder
    script = f"echo $$ > {folder}/pid; while [ ! -e {folder}/go ]; do sleep 0.05; done; exit 3"
    async with agents.process() as process:
        item_id = await agents.world.push(overrides={"entry_point": ["sh", "-c", script]})
        await until(agents.once((folder / "pid").exists), "the job to run")
        said = len(agents.statuses())
        if told == "by its server":
            await agents.world.server.ask(
                "mutation Stop($id: ID!) { stopLaunchAgent(input: {launchAgentId: $id}) { success } }",
                id=next(variables["id"] for name, variables in agents.gate.asked if name == "LaunchAgentOrders"),
            )
        else:
            process.send_signal(signal.Signals[told])
        assert await asyncio.wait_for(process.wait(), 120) == 8, "a launch is left"
    assert agents.gate.times(*TELLS_THE_END) == 0
    assert agents.statuses()[-1] == "KILLED", "so that whoever finds it need not wait"
    assert set(agents.statuses()[said:-1]) <= {"RUNNING"}
    assert (await agents.world.item(item_id))["state"] not in ENDED
    assert psutil.pid_exists(int((folder / "pid").read_text()))
    async with agents.process():
        (folder / "go").touch()
        assert (await agents.world.in_state(item_id, *ENDED))["exitCode"] == 3


async def test_an_item_that_another_agent_took_is_left_alone(agents: Agents) -> None:
    async def another_is_faster(variables: dict[str, Any]) -> None:
        await agents.world.server.ask(
            "mutation Theirs($input: AckRunQueueItemInput!) { ackRunQueueItem(input: $input) { success } }",
            input={"runQueueItemId": variables["input"]["runQueueItemId"], "runName": "theirs"},
        )

    agents.gate.before["AckRunQueueItem"] = another_is_faster
    async with agents.behind.agent() as daemon:
        item_id = await agents.world.push()
        await until(agents.once(lambda: agents.gate.times("AckRunQueueItem")), "the agent acknowledges")
        await until(agents.once(lambda: not daemon.launches), "the agent lets go")
        agents.gate.before.clear()
        await agents.world.in_state(await agents.world.push("later"), *ENDED)
    told = [str(variables) for name, variables in agents.gate.asked if name in TELLS_THE_END]
    assert len(told) == 1, "the later one's end"
    assert item_id not in told[0]
    found = await agents.world.item(item_id)
    assert (found["state"], found["error"], found["associatedRun"]["name"]) == ("CLAIMED", None, "theirs")
    assert [request.labels["project"] for request in agents.world.platform.started] == ["later"]


@pytest.mark.parametrize("status", [400, 500])
@pytest.mark.parametrize("fails", ["before its start", "by itself"])
async def test_a_place_is_free_although_the_end_cannot_be_told(agents: Agents, status: int, fails: str) -> None:
    agents.world.behave("bad", Behavior(seconds=0.05, exit_code=3))
    agents.world.behave("next", Behavior())
    agents.gate.fail(*TELLS_THE_END, status=status)
    async with agents.behind.agent(max_jobs=1):
        bad = {"job": "admin/bad/no-such-job:latest"} if fails == "before its start" else {}
        item_id = await agents.world.push("bad", **bad)
        await until(agents.once(lambda: agents.gate.times(*TELLS_THE_END)), "the agent tells the end")
        await agents.world.push("next")
        await agents.running()
        assert agents.world.platform.started[-1].labels["project"] == "next"
        if status == 500:
            agents.gate.mend(*TELLS_THE_END)
            assert (await agents.world.in_state(item_id, *ENDED))["state"] == "FAILED"


async def test_a_launch_that_waits_for_the_server_stalls_nobody(agents: Agents) -> None:
    let_go = asyncio.Event()

    async def slow(_: Any) -> None:
        await let_go.wait()

    agents.gate.before["ArtifactMembershipByName"] = slow
    async with agents.behind.agent(max_jobs=3):
        item_id = await agents.world.push("slow", job="admin/slow/no-such-job:latest")
        await until(agents.once(lambda: agents.gate.times("ArtifactMembershipByName")), "the agent asks for the job")
        orders = agents.gate.times("LaunchAgentOrders")
        for _ in range(3):
            await agents.world.in_state(await agents.world.push(), *ENDED)
        await until(agents.once(lambda: agents.gate.times("LaunchAgentOrders") > orders), "the agent to listen")
        assert (await agents.world.item(item_id))["state"] not in ENDED
        let_go.set()
        assert "no artifact" in (await agents.world.in_state(item_id, "FAILED"))["error"]["message"]


async def test_slow_disks_do_not_stall_the_agent(agents: Agents, monkeypatch: pytest.MonkeyPatch) -> None:
    """What may take long is done beside the loop."""
    remove, threads = shutil.rmtree, list[threading.Thread]()

    def noted(path: Any, ignore_errors: bool = False) -> None:
        threads.append(threading.current_thread())
        remove(path, ignore_errors=ignore_errors)

    monkeypatch.setattr(shutil, "rmtree", noted)
    async with agents.behind.agent():
        await agents.world.in_state(await agents.world.push(), *ENDED)
    assert threads, "the disk was in the way"
    assert threading.main_thread() not in threads


async def test_a_platform_that_cannot_be_reached_ends_no_launch(agents: Agents) -> None:
    agents.world.behave("p", Behavior())
    platform = agents.world.platform
    async with agents.behind.agent():
        item_id = await agents.world.push()
        (handle,) = await agents.running()
        looks: list[str] = []

        class Throttled(BackendUnavailable):
            def __str__(self) -> str:
                looks.append("looked")
                return "throttled"

        platform.error = Throttled()
        platform.end(handle, 3)
        await until(agents.once(lambda: len(looks) >= 3), "the agent to look three times")
        assert (await agents.world.item(item_id))["state"] not in ENDED
        platform.error = None
        found = await agents.world.in_state(item_id, *ENDED)
    assert found["exitCode"] == 3
    assert "throttled" not in found["error"]["message"]


# --- 4. security -----------------------------------------------------------------------------------------------------


def _rewritten(**changes: Any) -> Callable[[Any], None]:
    """Return what a server does that does not check what is pushed."""

    def change(data: Any) -> None:
        if popped := data["popFromRunQueue"]:
            popped["runSpec"].update(changes)

    return change


@pytest.mark.parametrize(
    ("serves", "asks", "rule"),
    [
        pytest.param(["local-process", "local-container"], "local-container", "queue.resource", id="not the queue's"),
        pytest.param(["local-container"], "local-process", "resources", id="not the agent's"),
    ],
)
async def test_a_launch_runs_on_its_queues_resource_or_not_at_all(
    agents: Agents, serves: list[str], asks: str, rule: str
) -> None:
    agents.gate.after["PopFromRunQueue"] = _rewritten(resource=asks)
    async with agents.behind.agent(resources=serves):
        found = await agents.world.in_state(await agents.world.push(), *ENDED)
    assert found["state"] == "FAILED"
    assert f"Refused by `{rule}`" in found["error"]["message"]
    assert agents.world.platform.started == []


async def test_only_a_sweeps_own_command_runs_where_jobs_may_not(agents: Agents) -> None:
    uri = {"uri": "placeholder-uri-scheduler"}
    sweep = {**uri, "overrides": {"entry_point": ["wandb", "scheduler", "sweep-1"]}}
    changes: dict[str, Any] = {}
    agents.gate.after["PopFromRunQueue"] = lambda data: _rewritten(**changes)(data)
    async with agents.behind.agent(resources=["local-container"]):
        for wrong in ({"entry_point": ["sh", "-c", "id"]}, {"entry_point": ["wandb", "launch"]}):
            changes = {**uri, "overrides": wrong}
            found = await agents.world.in_state(await agents.world.push(), *ENDED)
            assert "Refused by `resources`" in found["error"]["message"]
        assert agents.world.platform.started == []
        changes = sweep
        await agents.world.push("sweep")
        await until(agents.once(lambda: agents.world.platform.started), "the scheduler to start")


async def test_macros_read_what_the_operator_lists_and_nothing_else(agents: Agents) -> None:
    asked = {"site": "${SITE}", "key": "${WANDB_API_KEY}", "home": "${HOME}", "run": "${run_id}"}
    async with agents.behind.agent(policy={"macro_environment": ["SITE", "run_id"]}) as daemon:
        own = {"SITE": "north", KEY: "s3cret", "HOME": "/root", "run_id": "mine"}
        daemon._context.process_environment = own
        item_id = await agents.world.push(resource_args={"local-process": asked})
        await agents.world.in_state(item_id, *ENDED)
    (started,) = agents.world.platform.started
    assert started.resource_args == {**asked, "site": "north", "run": started.labels["run"]}


async def test_a_job_sees_of_the_agents_variables_what_is_harmless_or_listed(agents: Agents) -> None:
    own = {"WANDB_SERVICE": "3-unix-/tmp/agents", "AWS_SECRET_ACCESS_KEY": "s3cret", "SITE": "north", "LANG": "C"}
    async with agents.process(env=own, job_environment=["SITE"]):
        item_id = await agents.world.push(overrides={"entry_point": ["env"]})
        await agents.world.in_state(item_id, *ENDED)
    output = (await agents.world.output(item_id)).decode()
    seen = dict(line.split("=", 1) for line in output.splitlines() if "=" in line)
    assert (seen["SITE"], seen["LANG"]) == ("north", "C")
    assert not seen.keys() & {"WANDB_SERVICE", "AWS_SECRET_ACCESS_KEY"}
    assert agents.world.server.api_key not in output, "nor is the job's own key in its log, though it prints it"


async def test_what_a_launch_may_not_ask_for_reaches_no_platform(agents: Agents) -> None:
    """Neither a manifest's secrets, nor what else is to be made with the agent's rights."""
    secret = {"spec": {"containers": [{"envFrom": [{"secretRef": {"name": "agents"}}]}]}}
    wishes: list[dict[str, Any]] = [
        {"resource_args": {"local-process": secret}},
        {"resource_args": {"local-process": {"metadata": {"namespace": "kube-system"}}}},
        {"additional_services": [{"name": "x", "config": {"kind": "RoleBinding"}}]},
    ]
    allowed = {"resource_args": {"local-process": ["cpus", "spec.containers.resources"]}}
    async with agents.behind.agent(policy=allowed):
        for wish in wishes:
            agents.gate.after["PopFromRunQueue"] = _rewritten(**wish)
            found = await agents.world.in_state(await agents.world.push(), *ENDED)
            assert "Refused by `policy.resource_args`" in found["error"]["message"]
    assert agents.world.platform.started == []


# --- 5. local processes ----------------------------------------------------------------------------------------------


def _alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def test_a_silent_job_is_stopped_with_all_that_it_started(agents: Agents) -> None:
    """It prints nothing, does not listen, and has children that do not either."""
    folder = agents.world.folder
    deaf = "import os, signal, time; signal.signal(15, signal.SIG_IGN); os.fork(); "
    deaf += f"open(f'{folder}/pid-{{os.getpid()}}', 'w').close(); time.sleep(60)"
    async with agents.process(stopped_run_timeout=0.3):
        item_id = await agents.world.push(overrides={"entry_point": [sys.executable, "-c", deaf]})
        await until(agents.once(lambda: len([*folder.glob("pid-*")]) == 2), "the job to run")
        await agents.world.stop(item_id)
        assert (await agents.world.in_state(item_id, *ENDED))["state"] == "STOPPED"
    pids = [int(path.name.removeprefix("pid-")) for path in folder.glob("pid-*")]
    await until(agents.once(lambda: not any(map(_alive, pids))), "both processes to be gone")


@pytest.mark.parametrize("phase", Phase)
def test_whatever_a_platform_says_a_launch_comes_to_an_end(phase: Phase) -> None:
    """There is no word for what is neither over nor has its time."""
    started, limits = Handle("launch-1"), Timeouts(admit=1, start=1, run=1)
    launch = Launch("item-1", 1, QUEUE, {}, "run-1", Stage.STARTED, handle=started)
    (action,) = decide([launch], {started: Observation(phase, started_at=0)}, 10, limits)
    assert isinstance(action, Settle if phase.is_terminal else Stop)


async def test_output_is_bytes_and_costs_nothing_while_there_is_none(agents: Agents) -> None:
    script = r"printf 'before \377\376\303'; exec sleep 60"
    async with agents.process() as process:
        item_id = await agents.world.push(overrides={"entry_point": ["sh", "-c", script]})

        async def sent() -> bool:
            return await agents.world.output(item_id) == b"before \xff\xfe\xc3"

        await until(sent, "what is no text to arrive while the job runs")
        watched = psutil.Process(process.pid)
        before = sum(watched.cpu_times()[:2])
        await asyncio.sleep(1)
        assert sum(watched.cpu_times()[:2]) - before < 0.5
        await agents.world.stop(item_id)
        assert (await agents.world.in_state(item_id, *ENDED))["state"] == "STOPPED"
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 120) == 0
