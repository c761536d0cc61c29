"""A build is made once for all who want it, ends when nobody wants it any more, and leaves nothing behind."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random

import pytest

from backends.base import BackendError
from backends.kubernetes.api import KubeRefused
from backends.kubernetes.builds import Build, BuildFailed, Order, running
from backends.kubernetes.builds.manifest import job_of
from backends.kubernetes.names import WANTED
from tests.backends.kubernetes.build_orders import order
from tests.backends.kubernetes.building_cluster import FakeCluster

SECONDS = 60.0


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "LOOK_SECONDS", 0.005)
    monkeypatch.setattr(running, "AGAIN_SECONDS", 0.005)


@pytest.fixture(name="cluster")
def _cluster() -> FakeCluster:
    return FakeCluster()


class Agent:
    """One of those who want an image, in the place of an agent."""

    def __init__(self, cluster: FakeCluster, folder: Path, name: str = "one", asked: Order | None = None) -> None:
        self.told: list[str] = []
        self.heard = bytearray()
        self.others_wait = False
        self._build = Build(cluster.api, asked or order(), name, folder / name, self._tell, random=Random(1))
        self.task = asyncio.create_task(self._build.run(self.heard.extend, lambda: self.others_wait))

    async def _tell(self, what: str) -> None:
        self.told.append(what)

    async def stop(self) -> None:
        """Stop the launch that wants it."""
        self.task.cancel()
        await asyncio.wait([self.task])


async def until(check: Callable[[], object]) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(SECONDS):
        while not check():  # noqa: ASYNC110 -- of several tasks
            await asyncio.sleep(0.002)


async def made(cluster: FakeCluster) -> None:
    """Wait until there is all of a build."""
    await until(lambda: len(cluster.objects) == 2)


def marks(cluster: FakeCluster) -> int:
    """Return how many agents wait."""
    job = cluster.job()
    return sum(key.startswith(WANTED) for key in job["metadata"]["annotations"]) if job else 0


async def done(work: Awaitable[None]) -> None:
    """Wait for something that ends by itself."""
    async with asyncio.timeout(SECONDS):
        await work


async def test_what_it_says_is_heard_and_nothing_is_left(cluster: FakeCluster, tmp_path: Path) -> None:
    agent = Agent(cluster, tmp_path)
    await made(cluster)
    cluster.says = [b"#1 a step", b"#2 another"]
    cluster.set_pod("Running", main={"running": {}})
    await until(lambda: b"#2 another\n" in agent.heard)
    cluster.says.append(b"#3 the last")
    cluster.end("Complete")
    await done(agent.task)
    assert bytes(agent.heard) == b"#1 a step\n#2 another\n#3 the last\n"
    assert cluster.objects == {}


async def test_two_agents_build_it_once_and_both_hear_it(cluster: FakeCluster, tmp_path: Path) -> None:
    agents = [Agent(cluster, tmp_path, name) for name in ("one", "two")]
    await until(lambda: marks(cluster) == 2)
    cluster.says = [b"#1 a step"]
    cluster.end("Complete")
    for agent in agents:
        await done(agent.task)
        assert bytes(agent.heard) == b"#1 a step\n"
    assert cluster.made == ["Job", "Secret"]
    assert cluster.objects == {}


async def test_a_stop_ends_the_build_unless_another_agent_waits_for_it(cluster: FakeCluster, tmp_path: Path) -> None:
    one, two = (Agent(cluster, tmp_path, name) for name in ("one", "two"))
    await until(lambda: marks(cluster) == 2)
    await one.stop()
    assert one.task.cancelled()
    assert marks(cluster) == 1
    await two.stop()
    assert cluster.objects == {}


async def test_a_stop_leaves_the_build_to_another_launch_of_the_agent(cluster: FakeCluster, tmp_path: Path) -> None:
    first = Agent(cluster, tmp_path)
    await made(cluster)
    first.others_wait = True
    await first.stop()
    assert marks(cluster) == 1
    second = Agent(cluster, tmp_path)
    cluster.end("Complete")
    # It had ended before anybody could join: that one is of another time, and there is a new one.
    await until(lambda: cluster.made.count("Job") == 2)
    cluster.end("Complete")
    await done(second.task)
    assert cluster.objects == {}


async def test_who_comes_while_the_last_one_leaves_is_not_left_without(cluster: FakeCluster, tmp_path: Path) -> None:
    one = Agent(cluster, tmp_path)
    await made(cluster)
    newcomer: list[Agent] = []

    def come() -> None:
        if not newcomer:
            job = cluster.job()
            assert job
            job["metadata"]["annotations"][f"{WANTED}another"] = "true"
            cluster._touch(job)
            newcomer.append(one)

    cluster.before_delete = come
    await one.stop()
    assert marks(cluster) == 1


async def test_a_build_that_failed_says_how_and_goes(cluster: FakeCluster, tmp_path: Path) -> None:
    agent = Agent(cluster, tmp_path)
    await made(cluster)
    cluster.says = [b"error: failed to solve: exit code: 7"]
    cluster.end("Failed", 1)
    with pytest.raises(BuildFailed) as error:
        await done(agent.task)
    assert (error.value.seen.exit_code, error.value.seen.reason) == (1, "")
    assert b"exit code: 7" in agent.heard
    assert cluster.objects == {}


async def test_code_that_cannot_be_fetched_is_told_apart(cluster: FakeCluster, tmp_path: Path) -> None:
    agent = Agent(cluster, tmp_path)
    await made(cluster)
    cluster.end("Failed")
    words = {"terminated": {"exitCode": 75, "message": "The server is away."}}
    cluster.set_pod("Failed", init=words)
    with pytest.raises(BuildFailed, match="The server is away") as error:
        await done(agent.task)
    assert error.value.is_of_code


async def test_memory_that_does_not_suffice_is_told(cluster: FakeCluster, tmp_path: Path) -> None:
    agent = Agent(cluster, tmp_path)
    await made(cluster)
    cluster.end("Failed", 137, reason="OOMKilled")
    with pytest.raises(BuildFailed, match="more memory"):
        await done(agent.task)


async def test_an_image_that_cannot_be_pulled_is_told_and_given_up(cluster: FakeCluster, tmp_path: Path) -> None:
    agent = Agent(cluster, tmp_path)
    await made(cluster)
    waiting = {"reason": "InvalidImageName", "message": "couldn't parse image name"}
    cluster.set_pod("Pending", init={"waiting": waiting})
    with pytest.raises(BuildFailed, match="couldn't parse image name"):
        await done(agent.task)
    assert cluster.objects == {}


async def test_a_job_that_somebody_removes_is_told(cluster: FakeCluster, tmp_path: Path) -> None:
    agent = Agent(cluster, tmp_path)
    await made(cluster)
    cluster.objects.clear()
    with pytest.raises(BuildFailed, match="deleted by somebody else"):
        await done(agent.task)


async def test_a_job_that_is_somebody_elses_is_left_alone(cluster: FakeCluster, tmp_path: Path) -> None:
    job = job_of(order())
    del job["metadata"]["labels"]
    await cluster.create(running.JOB, "builds", job)
    agent = Agent(cluster, tmp_path)
    with pytest.raises(BackendError, match="builds no image of ours"):
        await done(agent.task)
    assert cluster.job()


async def test_a_secret_that_an_agent_never_made_is_made_by_the_next(cluster: FakeCluster, tmp_path: Path) -> None:
    await cluster.create(running.JOB, "builds", job_of(order()))
    agent = Agent(cluster, tmp_path)
    await made(cluster)
    cluster.end("Complete")
    await done(agent.task)
    assert cluster.objects == {}


async def test_a_cluster_that_is_away_is_waited_for(cluster: FakeCluster, tmp_path: Path) -> None:
    cluster.is_away = True
    agent = Agent(cluster, tmp_path)
    await until(lambda: agent.told)
    assert agent.told == ["waiting: the cluster is away"]
    cluster.is_away = False
    await made(cluster)
    cluster.end("Complete")
    await done(agent.task)


async def test_a_right_that_is_missing_is_told_and_nothing_is_left(cluster: FakeCluster, tmp_path: Path) -> None:
    cluster.may_not = {("create", "Secret")}
    with pytest.raises(KubeRefused, match="secrets is forbidden"):
        await done(Agent(cluster, tmp_path).task)
    assert cluster.objects == {}
