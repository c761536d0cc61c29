"""Of several agents of one name one works, whatever befalls the cluster between them. In virtual time, and against a
real API server.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, cast

import aiohttp
import psutil
import pytest

from agent.config.model import LeaderElection
from agent.errors import ConfigError, LeaseLost
from agent.leadership import Election
from agent.leadership import candidate as standing_for_election
from backends.kubernetes.api import Kind, KubeApi, KubeObject, KubeRefused
from launchbay.exits import LEASE_LOST
from server.start import ServerSettings, running
from tests.agent.world import until
from tests.cluster.control_plane import ControlPlane
from tests.engines import free_port

LAUNCHBAY = Path(sys.executable).with_name("launchbay")
SECONDS = 15
SETTINGS = LeaderElection(lease="launchbay", seconds=SECONDS)


class Store:
    """What an API server keeps of one Lease."""

    def __init__(self) -> None:
        self.lease: KubeObject | None = None
        self.version = 0

    def write(self, spec: KubeObject) -> KubeObject:
        self.version += 1
        self.lease = {"metadata": {"name": "launchbay", "resourceVersion": str(self.version)}, "spec": spec}
        return self.lease


class Way:
    """A candidate's way to the store, on which things happen."""

    default_namespace = "ns"

    def __init__(self, store: Store) -> None:
        self.store = store
        self.is_cut = False
        """Nothing is answered."""
        self.is_deaf = False
        """What is asked is done, and no answer comes back."""
        self.refusal: KubeRefused | None = None
        self.latency = 0.05

    async def get(self, kind: Kind, namespace: str, name: str) -> KubeObject | None:
        async with self._travel():
            return json.loads(json.dumps(self.store.lease))

    async def create(self, kind: Kind, namespace: str, manifest: KubeObject) -> KubeObject:
        async with self._travel():
            if self.store.lease:
                raise KubeRefused("it is there", status=409)
            return self.store.write(manifest["spec"])

    async def patch(self, kind: Kind, namespace: str, name: str, patch: dict[str, Any]) -> KubeObject | None:
        async with self._travel():
            if self.store.lease is None:
                return None
            if patch["metadata"]["resourceVersion"] != self.store.lease["metadata"]["resourceVersion"]:
                raise KubeRefused("it is another version", status=409)
            merged = {**self.store.lease["spec"], **patch["spec"]}
            return self.store.write({key: value for key, value in merged.items() if value is not None})

    @asynccontextmanager
    async def _travel(self) -> AsyncGenerator[None]:
        await asyncio.sleep(self.latency / 2)
        if self.refusal:
            raise self.refusal
        if self.is_cut:
            await asyncio.sleep(3600)
        yield
        if self.is_deaf:
            await asyncio.sleep(3600)
        await asyncio.sleep(self.latency / 2)


class Candidate:
    """An agent that waits, works, and stands again when it has lost its place."""

    def __init__(self, store: Store, name: str, at_work: set[str], wrong_by: timedelta = timedelta()) -> None:
        self.name, self.way = name, Way(store)
        self.at_work = at_work
        self.lost: list[str] = []
        self.met: set[str] = set()
        """Who worked at the same time."""
        self.alarm: float | None = None
        """When it would be ended by force."""
        self.election = self._new(wrong_by)
        self._wrong_by = wrong_by
        self.task = asyncio.create_task(self._live())

    def _new(self, wrong_by: timedelta) -> Election:
        def clock() -> datetime:
            return datetime(2030, 1, 1, tzinfo=UTC) + timedelta(seconds=now()) + wrong_by

        return Election(cast("KubeApi", self.way), SETTINGS, self.name, alarm=self._set_alarm, clock=clock)

    def _set_alarm(self, seconds: float | None) -> None:
        self.alarm = None if seconds is None else now() + seconds

    async def _live(self) -> None:
        while True:
            await self.election.win()
            self.met |= self.at_work
            self.at_work.add(self.name)
            try:
                await self.election.keep()
            except LeaseLost as error:
                self.lost.append(str(error))
            finally:
                self.at_work.discard(self.name)
            self.election = self._new(self._wrong_by)

    async def vanish(self) -> None:
        """End without a word."""
        self.task.cancel()
        await asyncio.wait([self.task])

    async def end(self) -> None:
        """End as one does."""
        await self.vanish()
        await self.election.release()


class Scene:
    """Candidates for one Lease. At no moment two of them work."""

    def __init__(self) -> None:
        self.store, self.at_work = Store(), set[str]()
        self.candidates: list[Candidate] = []

    def add(self, name: str, wrong_by: timedelta = timedelta()) -> Candidate:
        self.candidates.append(Candidate(self.store, name, self.at_work, wrong_by))
        return self.candidates[-1]

    async def pass_time(self, seconds: float) -> None:
        """Let time go by."""
        await asyncio.sleep(seconds)
        for each in self.candidates:
            assert each.met == set(), f"{each.name} worked beside {each.met}"

    async def until_works(self, name: str) -> float:
        """Wait until one works; returns for how long."""
        began = now()
        while self.at_work != {name}:
            await self.pass_time(0.05)
            assert now() - began < 10 * SECONDS, f"{name} does not work"
        return now() - began


def now() -> float:
    return asyncio.get_running_loop().time()


@pytest.fixture(name="scene")
async def _scene() -> AsyncGenerator[Scene]:
    scene = Scene()
    yield scene
    for candidate in scene.candidates:
        await candidate.vanish()


@pytest.mark.looptime
async def test_one_works_and_the_others_wait(scene: Scene) -> None:
    a, b, c = (scene.add(name) for name in "abc")
    await scene.pass_time(600)
    assert len(scene.at_work) == 1
    (leader,) = scene.at_work
    assert {each.election.leader for each in (a, b, c)} == {leader}
    assert (a.lost, b.lost, c.lost) == ([], [], [])
    assert scene.store.lease
    assert scene.store.lease["spec"]["leaseTransitions"] == 0


@pytest.mark.looptime
async def test_one_that_ends_is_followed_at_once(scene: Scene) -> None:
    a = scene.add("a")
    await scene.until_works("a")
    scene.add("b")
    await scene.pass_time(100)
    await a.end()
    assert a.alarm is None, "nobody is ended by force who has ended"
    assert await scene.until_works("b") < 1.5


@pytest.mark.looptime
async def test_one_that_vanishes_is_followed_after_its_time(scene: Scene) -> None:
    a = scene.add("a")
    await scene.until_works("a")
    scene.add("b")
    await scene.pass_time(100)
    await a.vanish()
    assert SECONDS * 0.8 < await scene.until_works("b") < SECONDS + 3


@pytest.mark.looptime
@pytest.mark.parametrize("wrong_by", [timedelta(hours=-5), timedelta(days=400)])
async def test_wall_clocks_do_not_count(scene: Scene, wrong_by: timedelta) -> None:
    scene.add("a", wrong_by)
    await scene.until_works("a")
    scene.add("b")
    await scene.pass_time(200)
    assert scene.at_work == {"a"}


@pytest.mark.looptime
@pytest.mark.parametrize("fault", ["is_cut", "is_deaf"])
async def test_one_that_cannot_renew_ends_before_another_begins(scene: Scene, fault: str) -> None:
    """Also where its renewals arrive and it does not learn so."""
    a = scene.add("a")
    await scene.until_works("a")
    scene.add("b")
    await scene.pass_time(30)
    setattr(a.way, fault, True)
    assert a.alarm
    await scene.pass_time(a.alarm - now())
    assert scene.at_work == set(), "its work is over before it would be ended by force"
    assert "it could not be renewed for 10 s: no answer within 2.5 s" in a.lost[0]
    if fault == "is_cut":
        await scene.until_works("b")
    a.way.is_cut = a.way.is_deaf = False
    await scene.pass_time(100)
    assert len(scene.at_work) == 1


@pytest.mark.looptime
async def test_a_holders_time_counts_from_its_question(scene: Scene) -> None:
    """Others see its answer earlier than it does."""
    a = scene.add("a")
    a.way.latency = 1.2
    asked = now()
    await scene.until_works("a")
    a.way.is_cut = True
    assert a.alarm == pytest.approx(asked + SECONDS * 5 / 6, abs=0.01)
    await scene.pass_time(asked + SECONDS * 2 / 3 + 0.1 - now())
    assert a.lost


@pytest.mark.looptime
async def test_a_short_outage_changes_nothing(scene: Scene) -> None:
    a = scene.add("a")
    await scene.until_works("a")
    b = scene.add("b")
    for _ in range(5):
        a.way.is_cut = b.way.is_cut = True
        await scene.pass_time(5)
        a.way.is_cut = b.way.is_cut = False
        await scene.pass_time(20)
    assert (scene.at_work, a.lost) == ({"a"}, [])


@pytest.mark.looptime
async def test_one_that_finds_another_in_its_place_ends_at_once(scene: Scene) -> None:
    a = scene.add("a")
    await scene.until_works("a")
    await scene.pass_time(10)
    assert scene.store.lease
    scene.store.write({**scene.store.lease["spec"], "holderIdentity": "somebody"})
    await scene.pass_time(3.5)
    assert "somebody has it" in a.lost[0]
    assert a.alarm, "it is ended by force if it does not"


@pytest.mark.looptime
async def test_a_lease_that_somebody_has_removed_is_made_again(scene: Scene) -> None:
    a = scene.add("a")
    await scene.until_works("a")
    scene.store.lease = None
    await scene.pass_time(60)
    assert scene.store.lease
    assert (scene.at_work, a.lost) == ({"a"}, [])


@pytest.mark.looptime
async def test_who_has_no_right_says_so_and_goes_on_asking(scene: Scene) -> None:
    a = scene.add("a")
    a.way.refusal = KubeRefused("leases is forbidden", status=403)
    await scene.pass_time(30)
    assert (scene.at_work, a.election.error) == (set(), "leases is forbidden")
    a.way.refusal = None
    await scene.until_works("a")
    assert a.election.error is None


@pytest.mark.looptime
@pytest.mark.parametrize("seed", range(5))
async def test_never_two_work_whatever_happens(scene: Scene, seed: int) -> None:
    random = Random(seed)
    for name in "abc":
        scene.add(name, timedelta(seconds=random.uniform(-9999, 9999)))
    for _ in range(60):
        one = random.choice(scene.candidates)
        one.way.is_cut, one.way.is_deaf = random.random() < 0.4, random.random() < 0.3
        one.way.latency = random.choice([0.01, 0.5, 2.5, 6])
        if random.random() < 0.2:
            await (one.vanish() if random.random() < 0.5 or one.way.is_cut or one.way.is_deaf else one.end())
            scene.candidates.remove(one)
            scene.add(f"{one.name}'")
        await scene.pass_time(random.uniform(0, 12))
    for one in scene.candidates:
        one.way.is_cut = one.way.is_deaf = False
        one.way.latency = 0.05
    await scene.pass_time(3 * SECONDS)
    assert len(scene.at_work) == 1


ALARMED = "import os, signal, time; from agent.leadership import end_process_in as e; e(600); e(None); e(0.2); "


async def alarmed(then: str) -> asyncio.subprocess.Process:
    """Start a process that ends in a moment, and what it does meanwhile."""
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", ALARMED + then, stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2]
    )


async def test_an_agent_that_hangs_is_ended() -> None:
    process = await alarmed("time.sleep(600)")
    assert await asyncio.wait_for(process.wait(), 240) == -signal.SIGALRM


async def test_an_agent_that_comes_back_too_late_does_nothing_more() -> None:
    process = await alarmed("os.kill(os.getpid(), signal.SIGSTOP); print('works on', flush=True)")

    async def is_stopped() -> bool:
        # Or over before it came to that, on a machine that is slow.
        is_over = process.returncode is not None
        return is_over or psutil.Process(process.pid).status() in {psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE}

    await until(is_stopped, "it is stopped")
    await asyncio.sleep(0.3)
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGCONT)
    said, _ = await asyncio.wait_for(process.communicate(), 240)
    assert process.returncode == -signal.SIGALRM
    assert said == b""


async def test_an_agent_that_the_kernel_would_not_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getpid", lambda: 1)
    with pytest.raises(ConfigError, match="through an init"):
        async with standing_for_election(LeaderElection(lease="l")):
            pass


# --- a real cluster --------------------------------------------------------------------------------------------------


class Agents:
    """Agents of one name, with a server and a cluster."""

    def __init__(self, folder: Path, url: str, key: str, plane: ControlPlane) -> None:
        self.folder = folder
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "KUBE"))},
            "WANDB_BASE_URL": url,
            "WANDB_API_KEY": key,
            "KUBECONFIG": str(plane.kubeconfig),
            "HOME": str(folder),
        }

    async def run(self, *words: str | Path) -> None:
        """Run a command to its good end."""
        process = await asyncio.create_subprocess_exec(LAUNCHBAY, *words, env=self._environment)
        assert await asyncio.wait_for(process.wait(), 240) == 0

    @asynccontextmanager
    async def agent(self, name: str) -> AsyncGenerator["Agent"]:
        """Run one while the block runs."""
        port = free_port()
        config = {
            "queues": ["box"],
            "name": "the-agent",
            "listen": f"127.0.0.1:{port}",
            "leader_election": {"lease": "the-agent", "seconds": 6},
        }
        (self.folder / f"{name}.yaml").write_text(json.dumps(config))
        words = ("agent", "-c", self.folder / f"{name}.yaml", "--state-dir", self.folder / name)
        with (self.folder / f"{name}.log").open("w") as log:
            process = await asyncio.create_subprocess_exec(LAUNCHBAY, *words, env=self._environment, stderr=log)
        try:
            yield Agent(process, port, self.folder / f"{name}.log")
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.kill()
            await process.wait()


class Agent:
    """An agent as a process."""

    def __init__(self, process: asyncio.subprocess.Process, port: int, log: Path) -> None:
        self.process, self.log = process, log
        self._url = f"http://127.0.0.1:{port}"

    async def ready(self) -> str | None:
        """Return what a probe is told; None if nobody answers."""
        try:
            async with aiohttp.ClientSession() as session, session.get(f"{self._url}/readyz") as answer:
                return f"{answer.status} {(await answer.text()).strip()}"
        except aiohttp.ClientError:
            return None

    async def leads(self) -> bool:
        """Return whether its metrics say that it works."""
        try:
            async with aiohttp.ClientSession() as session, session.get(f"{self._url}/metrics") as answer:
                return "launchbay_agent_leader 1.0" in await answer.text()
        except aiohttp.ClientError:
            return False

    async def waits(self) -> bool:
        """Return whether it is ready to take over."""
        return (await self.ready() or "").startswith("200 waits for the lease default/the-agent, which ")

    async def ended(self) -> int:
        """Return its exit code."""
        return await asyncio.wait_for(self.process.wait(), 240)


async def test_agents_take_turns(tmp_path: Path, control_plane: ControlPlane) -> None:
    async with running(ServerSettings(tmp_path / "data", "127.0.0.1", 0)) as url:
        agents = Agents(tmp_path, url, (tmp_path / "data" / "admin-api-key").read_text().strip(), control_plane)
        await agents.run("queue", "create", "box", "-r", "local-process")
        async with agents.agent("a") as a:
            await until(a.leads, "a works")
            async with agents.agent("b") as b:
                await until(b.waits, "b waits")
                assert not (tmp_path / "b").exists(), "who waits holds nothing"
                # Ended as one does: the other takes over without waiting for the time to be over.
                a.process.send_signal(signal.SIGTERM)
                assert await a.ended() == 0
                assert "has let go of the lease" in a.log.read_text()
                await until(b.leads, "b works")
                async with agents.agent("c") as c:
                    await until(c.waits, "c waits")
                    # Hangs, and comes back when its time is over: it ends, and the other works.
                    b.process.send_signal(signal.SIGSTOP)
                    await until(c.leads, "c works")
                    b.process.send_signal(signal.SIGCONT)
                    assert await b.ended() in {-signal.SIGALRM, LEASE_LOST}
                    assert await c.leads()
                    assert (await c.ready() or "").startswith("200")
                    async with agents.agent("d") as d:
                        await until(d.waits, "d waits")
                        d.process.send_signal(signal.SIGTERM)
                        assert await d.ended() == 0, "who waits may be told to end"
                    # The cluster is away: nobody may work.
                    control_plane.kill()
                    assert await c.ended() == LEASE_LOST
                    assert "This agent no longer has the lease default/the-agent" in c.log.read_text()
