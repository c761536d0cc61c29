"""What the agent tells of itself: alive, ready, its metrics, and what it holds."""

import asyncio
import json
import re
import socket
import stat
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from click.testing import CliRunner, Result

from agent.admission.inventory import Gpu, Inventory
from agent.admission.slots import SlotTable
from agent.config.model import AgentConfig
from agent.control_plane import ControlPlane
from agent.errors import ConfigError
from agent.held import Launches
from agent.journal import Identity
from agent.launch import Assigned, Cause, Launch, Stage, StopReason
from agent.observability.health import BLOCKED_SECONDS, LATELY_SECONDS, SILENT_SECONDS, Health
from agent.observability.metrics import Metrics
from agent.observability.status import agent_status
from agent.observability.status_app import SOCKET, AgentSilent, ask_status, serving
from launchbay.commands import agent_status as status_command
from launchbay.errors import NotThere
from protocol.json_types import JsonObject

DOCUMENT = {"name": "agent"}


class Watched:
    """The health of an agent whose loop is measured, in virtual time."""

    def __init__(self, **config: Any) -> None:
        self.skipped = 0.0
        self.launches = Launches()
        self.config = AgentConfig.model_validate({"queues": ["q", "r"], "max_jobs": 2, **config})
        self.metrics = Metrics(self.launches)
        self.health = Health(self.launches, lambda: self.config, self.metrics, self._clock)

    def block(self, seconds: float) -> None:
        """Let time go by without the loop."""
        self.skipped += seconds

    def hold(self, *names: str, queue: str = "q") -> None:
        """Hold launches."""
        for name in names:
            self.launches.add(Launch(name, 1, queue, {"project": "p"}, name, Stage.STARTED))

    def let_go(self) -> None:
        """Hold nothing any more."""
        for held in self.launches:
            self.launches.remove(held)

    def _clock(self) -> float:
        return asyncio.get_running_loop().time() + self.skipped


@asynccontextmanager
async def watched(**config: Any) -> AsyncGenerator[Watched]:
    """Measure the loop while the block runs."""
    made = Watched(**config)
    watching = asyncio.create_task(made.health.watch())
    try:
        yield made
    finally:
        watching.cancel()
        await asyncio.wait([watching])


# --- alive -----------------------------------------------------------------------------------------------------------


@pytest.mark.looptime
async def test_a_loop_that_runs_is_alive() -> None:
    async with watched() as agent:
        await asyncio.sleep(3600)
        assert agent.health.why_not_alive() is None


@pytest.mark.looptime
async def test_a_blocked_loop_is_held_against_the_agent_for_a_while() -> None:
    async with watched() as agent:
        await asyncio.sleep(10.25)
        agent.block(BLOCKED_SECONDS + 7)
        assert agent.health.why_not_alive() == "the event loop was blocked for 11 s", "seen before the next look too"
        await asyncio.sleep(2)
        assert agent.health.why_not_alive() == "the event loop was blocked for 12 s"
        await asyncio.sleep(LATELY_SECONDS)
        assert agent.health.why_not_alive() is None
        assert agent.metrics.registry.get_sample_value("launchbay_agent_loop_lag_seconds_sum") == pytest.approx(12)


@pytest.mark.looptime
async def test_a_short_hiccup_is_not() -> None:
    async with watched() as agent:
        agent.block(BLOCKED_SECONDS - 2)
        await asyncio.sleep(2)
        assert agent.health.why_not_alive() is None


@pytest.mark.looptime
async def test_nobody_measuring_is_not_alive() -> None:
    agent = Watched()
    await asyncio.sleep(60)
    assert agent.health.why_not_alive() is not None


async def test_work_that_blocks_the_real_loop_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.observability.health.LOOK_SECONDS", 0.01)
    monkeypatch.setattr("agent.observability.health.BLOCKED_SECONDS", 0.2)
    agent = Watched()
    watching = asyncio.create_task(agent.health.watch())
    await asyncio.sleep(0.05)
    time.sleep(0.3)
    await asyncio.sleep(0.05)
    watching.cancel()
    assert agent.health.why_not_alive() is not None


# --- ready -----------------------------------------------------------------------------------------------------------


@pytest.mark.looptime
async def test_an_agent_that_polls_is_ready() -> None:
    async with watched() as agent:
        for _ in range(100):
            await asyncio.sleep(25)
            agent.health.polled("q")
            assert agent.health.why_not_ready() is None, "one queue is enough"


@pytest.mark.looptime
async def test_an_agent_that_cannot_poll_is_not_ready_and_says_so() -> None:
    async with watched() as agent:
        await asyncio.sleep(SILENT_SECONDS - 1)
        assert agent.health.why_not_ready() is None, "it has only just started"
        await asyncio.sleep(3)
        assert agent.health.why_not_ready() == (
            "no queue could be polled for 62 s, although there is room; the log says why"
        )
        agent.health.polled("r")
        assert agent.health.why_not_ready() is None


@pytest.mark.looptime
async def test_an_agent_whose_loop_is_blocked_is_not_ready() -> None:
    async with watched() as agent:
        agent.block(BLOCKED_SECONDS + 2)
        agent.health.polled("q")
        assert agent.health.why_not_ready() == agent.health.why_not_alive() == "the event loop was blocked for 6 s"
        await asyncio.sleep(LATELY_SECONDS + 2)
        assert agent.health.why_not_ready() is None


@pytest.mark.looptime
async def test_a_full_agent_is_ready_and_has_time_to_poll_when_it_is_not_full_any_more() -> None:
    async with watched() as agent:
        agent.hold("a", "b")
        await asyncio.sleep(3600)
        assert agent.health.why_not_ready() is None
        agent.let_go()
        await asyncio.sleep(SILENT_SECONDS - 1)
        assert agent.health.why_not_ready() is None
        await asyncio.sleep(3)
        assert agent.health.why_not_ready() is not None


@pytest.mark.looptime
async def test_room_for_one_queue_is_room() -> None:
    async with watched(queue_limits={"q": 1}) as agent:
        agent.hold("a")
        assert agent.health.why_full("q") == "at limit queue_limits.q=1"
        assert agent.health.why_full("r") is None
        await asyncio.sleep(SILENT_SECONDS + 2)
        assert agent.health.why_not_ready() is not None
        agent.hold("b", queue="r")
        assert agent.health.why_full("r") == "at limit max_jobs=2"
        assert agent.health.why_not_ready() is None


@pytest.mark.looptime
async def test_an_agent_without_a_limit_is_never_full() -> None:
    async with watched(max_jobs=-1) as agent:
        agent.hold(*"abcdef")
        assert agent.health.why_full("q") is None


@pytest.mark.looptime
async def test_a_draining_agent_is_alive_and_not_ready() -> None:
    async with watched() as agent:
        agent.health.polled("q")
        agent.health.draining = True
        assert agent.health.why_not_ready() == "draining: it claims nothing more"
        assert agent.health.why_not_alive() is None


# --- polls -----------------------------------------------------------------------------------------------------------


@pytest.mark.looptime
async def test_a_poll_that_is_on_its_way_is_known() -> None:
    """Of several the oldest counts; and one that fails is over."""
    health = Watched().health
    assert health.seconds_polling("q") is None
    with health.polling("q"):
        await asyncio.sleep(5)
        with suppress(TimeoutError), health.polling("q"):
            await asyncio.sleep(2)
            assert (health.seconds_polling("q"), health.seconds_polling("r")) == (7, None)
            raise TimeoutError
        assert health.seconds_polling("q") == 7
    assert health.seconds_polling("q") is None


# --- over HTTP -------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def served(folder: Path, agent: Watched, listen: str | None = None) -> AsyncGenerator[None]:
    """Serve a small status."""
    async with serving(agent.metrics, agent.health, lambda: dict(DOCUMENT), folder, listen):
        yield


async def get(address: Path | str, path: str) -> tuple[int, str, str]:
    """Return status, content type and body of an answer on the socket, or at HOST:PORT."""
    connector = aiohttp.UnixConnector(str(address / SOCKET)) if isinstance(address, Path) else None
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.get(f"http://{'agent' if connector else address}{path}") as response,
    ):
        return response.status, response.headers["Content-Type"], await response.text()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A state folder whose path is short enough for a plain socket address."""
    with TemporaryDirectory() as path:
        yield Path(path)


def free_address() -> str:
    """Return an address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


async def test_probes_and_metrics_are_served(folder: Path) -> None:
    agent = Watched()
    async with served(folder, agent):
        assert await get(folder, "/livez") == (200, "text/plain; charset=utf-8", "ok\n")
        assert await get(folder, "/readyz") == (200, "text/plain; charset=utf-8", "ok\n")
        code, kind, text = await get(folder, "/metrics")
        assert (code, kind.split(";")[0]) == (200, "text/plain")
        assert "# TYPE launchbay_agent_launches gauge" in text
        agent.health.draining = True
        assert (await get(folder, "/readyz"))[::2] == (503, "draining: it claims nothing more\n")
        assert (await get(folder, "/livez"))[0] == 200
        agent.block(3600)
        assert (await get(folder, "/livez"))[0] == 503


async def test_the_socket_is_the_users_own_and_goes_with_the_agent(folder: Path) -> None:
    state = folder / "new" / "state"
    async with served(state, Watched()):
        assert stat.S_IMODE((state / SOCKET).stat().st_mode) == 0o600
        assert stat.S_IMODE(state.stat().st_mode) == 0o700
        assert await ask_status(state) == DOCUMENT
    assert not (state / SOCKET).exists()
    assert await ask_status(state) is None


async def test_a_dead_agents_socket_is_in_nobodys_way(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(folder / SOCKET))
    assert (folder / SOCKET).exists()
    assert await ask_status(folder) is None
    async with served(folder, Watched()):
        assert await ask_status(folder) == DOCUMENT


async def test_the_state_folder_may_lie_deep(folder: Path) -> None:
    deep = folder.joinpath(*["a-folder-with-a-long-name"] * 8)
    async with served(deep, Watched()):
        assert await ask_status(deep) == DOCUMENT


async def test_there_is_no_agent_where_there_is_no_folder(folder: Path) -> None:
    assert await ask_status(folder / "none") is None


async def test_an_agent_that_cannot_tell_its_status_says_so(folder: Path) -> None:
    def broken() -> JsonObject:
        raise ValueError("a bug")

    agent = Watched()
    async with serving(agent.metrics, agent.health, broken, folder, None):
        with pytest.raises(AgentSilent, match=r"answers 500\. Its log says why"):
            await ask_status(folder)
        assert (await get(folder, "/livez"))[0] == 200


async def test_an_agent_that_hangs_is_told_from_one_that_is_not_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.observability.status_app.ANSWER_SECONDS", 0.1)
    with socket.socket(socket.AF_UNIX) as hanging:
        hanging.bind(str(folder / SOCKET))
        hanging.listen()
        with pytest.raises(AgentSilent, match=r"has not answered for 0\.1 seconds"):
            await ask_status(folder)


async def test_it_listens_on_tcp_if_it_is_told_to(folder: Path) -> None:
    address = free_address()
    async with served(folder, Watched(), address):
        assert json.loads((await get(address, "/status"))[2]) == DOCUMENT
        assert await ask_status(folder) == DOCUMENT
        with pytest.raises(ConfigError, match=rf"cannot listen on {address} \(`listen`\): Address already in use\."):
            async with served(folder / "other", Watched(), address):
                pass
    assert not (folder / "other" / SOCKET).exists()


# --- status ----------------------------------------------------------------------------------------------------------

SECRET = "a-token-that-nobody-may-see"


@pytest.mark.looptime
async def test_the_status_tells_of_a_launch_without_its_spec() -> None:
    agent = Watched(queues=["q"], max_jobs=1)
    launch = Launch(
        "item-1",
        2,
        "q",
        {"project": "p", "overrides": {"args": [SECRET]}, "_wandb_api_key": SECRET},
        "run-1",
        Stage.PREPARING,
        claimed_at=1.5,
        since=61.5,
        resource="local-process",
        assigned=Assigned(("GPU-b",), 2, 1024),
        stop=StopReason.REQUEST,
        tries={Cause.PREEMPTED: 1},
    )
    agent.launches.add(launch).waits_for = "waiting for 2 GPUs"
    agent.health.polled("q")
    await asyncio.sleep(6)
    poll = agent.health.polling("q")
    poll.__enter__()
    await asyncio.sleep(4)
    context: Any = SimpleNamespace(
        config=agent.config,
        entity="admin",
        identity=Identity("http://server.test", "admin", "agent-id", "agent-1"),
        clock=lambda: 110.0,
        server=ControlPlane("http://server.test", SECRET, random=Random(1)),
        launches=agent.launches,
        slots=SlotTable(Inventory((Gpu("GPU-a", 0), Gpu("GPU-b", 1)), 8, 4096), agent.launches.assigned),
    )
    text = json.dumps(agent_status(context, agent.health, "launchbay@1"))
    assert SECRET not in text
    assert json.loads(text) == {
        "name": "agent-1",
        "version": "launchbay@1",
        "entity": "admin",
        "started_at": "1970-01-01T00:01:40.000+00:00",
        "draining": False,
        "problem": "the event loop was blocked for 9 s",
        "limits": {
            "max_jobs": 1,
            "max_schedulers": 1,
            "queue_limits": {},
            "gpus": ["GPU-a", "GPU-b"],
            "cpus": 8,
            "memory_bytes": 4096,
        },
        "jobs": 1,
        "schedulers": 0,
        "queues": [
            {
                "name": "q",
                "jobs": 1,
                "polling_since": "1970-01-01T00:01:46.000+00:00",
                "polled_at": "1970-01-01T00:01:40.000+00:00",
                "full": "at limit max_jobs=1",
            }
        ],
        "launches": [
            {
                "item": "item-1",
                "queue": "q",
                "attempt": 2,
                "run": "run-1",
                "resource": "local-process",
                "stage": "preparing",
                "since": "1970-01-01T00:01:01.500+00:00",
                "claimed_at": "1970-01-01T00:00:01.500+00:00",
                "waits_for": "waiting for 2 GPUs",
                "stop": "request",
                "gpus": ["GPU-b"],
                "retries": {"preempted": 1},
            }
        ],
    }


# --- launchbay agent status ------------------------------------------------------------------------------------------

ANSWER: dict[str, Any] = {
    "name": "agent-1",
    "version": "launchbay@1",
    "entity": "admin",
    "started_at": "2020-01-01T00:00:00+00:00",
    "draining": False,
    "problem": None,
    "limits": {"max_jobs": 2},
    "jobs": 1,
    "schedulers": 0,
    "queues": [
        {
            "name": "q",
            "jobs": 1,
            "polling_since": "2020-01-01T00:00:00+00:00",
            "polled_at": None,
            "full": "at limit queue_limits.q=1",
        }
    ],
    "launches": [
        {
            "item": "item-1",
            "queue": "q",
            "attempt": 3,
            "run": "run-1",
            "stage": "preparing",
            "since": "2020-01-01T00:00:00+00:00",
            "waits_for": "making its environment",
            "stop": None,
            "gpus": ["GPU-a", "GPU-b"],
        }
    ],
}


@asynccontextmanager
async def agents(root: Path, *names: str) -> AsyncGenerator[None]:
    """Have agents answer, each in a state folder of its own, for a queue of its own name beside `q`."""
    async with AsyncExitStack() as stack:
        for name in names:
            answer = {**ANSWER, "name": name, "queues": [*ANSWER["queues"], {**ANSWER["queues"][0], "name": name}]}
            agent = Watched()
            folder = root / f"agent-{name}"
            await stack.enter_async_context(
                serving(agent.metrics, agent.health, lambda answer=answer: answer, folder, None)
            )
        yield


async def ask(*arguments: str) -> Result:
    """Run the command; it has a loop of its own."""
    invoke = partial(CliRunner().invoke, status_command.command, list(arguments), standalone_mode=False)
    return await asyncio.to_thread(invoke)


async def test_the_command_shows_the_agent_of_a_folder(folder: Path) -> None:
    async with agents(folder, "one"):
        result = await ask("--state-dir", str(folder / "agent-one"))
    assert result.return_value == 0, result.output
    assert "one (launchbay@1) of admin, up for " in result.output
    assert "ready; jobs: 1 (of 2), schedulers: 0" in result.output
    assert re.search(r"q +1 +now, for \d+d +at limit queue_limits.q=1", result.output)
    assert re.search(r"item-1 +q +3 +run-1 +preparing +\d+d +GPU-a,GPU-b +making its environment", result.output), (
        result.output
    )


@pytest.mark.parametrize(
    ("queue", "shown"),
    [
        ({"polling_since": None, "polled_at": None}, r"never"),
        ({"polling_since": None, "polled_at": "2020-01-01T00:00:00+00:00"}, r"\d+d ago"),
        ({"polled_at": None}, r"never"),
    ],
)
async def test_the_command_tells_when_a_queue_was_asked(
    folder: Path, monkeypatch: pytest.MonkeyPatch, queue: dict[str, Any], shown: str
) -> None:
    """The last one is of an agent that does not say whether it is asking."""
    told = {"name": "q", "jobs": 0, "full": None, **queue}
    monkeypatch.setitem(ANSWER, "queues", [told])
    async with agents(folder, "one"):
        result = await ask("--state-dir", str(folder / "agent-one"))
    assert re.search(rf"q +0 +{shown} +claiming", result.output), result.output


async def test_the_command_finds_the_agents_of_this_machine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_command, "STATE_ROOT", folder)
    async with agents(folder, "one", "two"):
        assert [agent["name"] for agent in json.loads((await ask("--json")).output)] == ["one", "two"]
        assert [agent["name"] for agent in json.loads((await ask("--json", "-q", "two")).output)] == ["two"]
        assert len(json.loads((await ask("--json", "-q", "q", "-e", "admin")).output)) == 2
        strange = (await ask("-e", "others")).exception
    assert isinstance(strange, NotThere)
    assert "There are: one, two." in str(strange)


async def test_an_agent_that_hangs_does_not_hide_the_others(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_command, "STATE_ROOT", folder)
    monkeypatch.setattr("agent.observability.status_app.ANSWER_SECONDS", 0.3)
    (folder / "agent-hanging").mkdir()
    with socket.socket(socket.AF_UNIX) as hanging:
        hanging.bind(str(folder / "agent-hanging" / SOCKET))
        hanging.listen()
        async with agents(folder, "one"):
            result = await ask()
    assert result.return_value == 1
    assert "one (launchbay@1) of admin" in result.stdout
    assert "agent-hanging has not answered" in result.stderr


async def test_the_command_says_that_no_agent_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_command, "STATE_ROOT", folder)
    result = await ask()
    assert isinstance(result.exception, NotThere)
    assert "--state-dir" in str(result.exception)
