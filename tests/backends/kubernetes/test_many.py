"""Many launches on a control plane whose node is played: none is lost, none is there twice, and all output comes."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import psutil
import pytest

from backends.base import Backend, Handle, Observation, Phase, StartRequest
from backends.kubernetes.access import find_source
from backends.kubernetes.connection import Connection
from backends.registry import load
from backends.testing.contract import end_of, observed
from tests import clusters
from tests.cluster import kubelet_double
from tests.cluster.control_plane import ControlPlane

LIMIT_SECONDS = 120


@pytest.fixture(scope="module", name="plane")
def _plane() -> Iterator[ControlPlane]:
    if why := clusters.missing_control_plane():
        pytest.skip(why)
    with clusters.running_control_plane(with_controllers=True) as running:
        yield running


@dataclass(frozen=True)
class Cluster:
    """A control plane with a node, and a namespace of it for one test."""

    plane: ControlPlane
    connection: Connection
    namespace: str

    @asynccontextmanager
    async def opened(self, state_dir: Path) -> AsyncGenerator[Backend]:
        config = {"config_file": str(self.plane.kubeconfig), "namespace": self.namespace}
        backend = load("kubernetes")(state_dir, "test", config)
        try:
            yield backend
        finally:
            await backend.close()

    async def jobs(self) -> list[Any]:
        return await self._objects("apis/batch/v1", "jobs")

    async def pods(self) -> list[Any]:
        return await self._objects("api/v1", "pods")

    async def accounts(self) -> list[Any]:
        return await self._objects("api/v1", "serviceaccounts")

    async def _objects(self, version: str, plural: str) -> list[Any]:
        return (await self.connection.call("GET", f"/{version}/namespaces/{self.namespace}/{plural}"))["items"]


@pytest.fixture(name="cluster")
async def _cluster(plane: ControlPlane) -> AsyncGenerator[Cluster]:
    connection = Connection(await find_source(str(plane.kubeconfig), None))
    made = Cluster(plane, connection, f"test-{uuid4().hex[:12]}")
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": made.namespace}}
    await connection.call("POST", "/api/v1/namespaces", body=namespace)
    async with kubelet_double.running(plane.folder):
        # Pods are refused until the controllers have made the account that they have by default.
        await eventually(made.accounts)
        yield made
    await connection.close()
    port = urlsplit(plane.url).port

    async def all_is_closed() -> bool:  # what the loop closes goes on for a moment, to tell the other side
        connections = psutil.Process().net_connections("tcp")
        return not any(each.raddr and each.raddr[1] == port for each in connections)

    await eventually(all_is_closed)


async def eventually(holds: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(LIMIT_SECONDS):
        while True:
            if await holds():
                return
            await asyncio.sleep(0.05)


def request(name: str, **args: Any) -> StartRequest:
    labels = {"item": name, "attempt": "1"}
    return StartRequest(name, ["true"], {}, image="busybox", secrets={"A": "b"}, labels=labels, resource_args=args)


async def until(backend: Backend, holds: Callable[[dict[Handle, Observation]], bool]) -> dict[Handle, Observation]:
    """Wait for hints as the agent does until what is seen is as wanted."""
    changes: Any = backend.changes()
    async with asyncio.timeout(LIMIT_SECONDS), aclosing(changes):
        async for _ in changes:
            seen = dict(await backend.observe())
            if holds(seen):
                return seen
    raise AssertionError("no more changes")


async def test_of_300_launches_none_is_lost_and_none_is_there_twice(cluster: Cluster, tmp_path: Path) -> None:
    """Also where the agent dies while it starts them, and the next one starts them again."""
    random, wanted = Random(1), [f"launch-{number}" for number in range(300)]
    async with cluster.opened(tmp_path) as first:
        starting = [asyncio.create_task(first.start(request(name))) for name in wanted[:200]]
        await asyncio.wait(starting, return_when=asyncio.FIRST_COMPLETED)
    started = {task.result() for task in starting if task.done() and not task.exception()}
    async with cluster.opened(tmp_path / "its state is lost") as second:
        adopted = set(await second.observe())
        assert adopted >= started
        handles = await asyncio.gather(*(second.start(request(name)) for name in wanted))
        assert len(set(handles)) == 300
        seen = await until(second, lambda seen: all(each.phase is Phase.RUNNING for each in seen.values()))
        assert {handle: each.labels["item"] for handle, each in seen.items()} == dict(zip(handles, wanted, strict=True))
        assert sorted(job["metadata"]["name"] for job in await cluster.jobs()) == sorted(wanted)
        pods = await cluster.pods()
        assert len(pods) == 300
        ended = {pod["metadata"]["labels"]["launchbay.dev/launch"]: pod for pod in random.sample(pods, 20)}
        for pod in ended.values():
            await kubelet_double.finish(cluster.connection, pod)

        def are_over(seen: dict[Handle, Observation]) -> bool:
            return sum(each.phase is Phase.FINISHED for each in seen.values()) >= 20

        seen = await until(second, are_over)
        assert {each.labels["item"] for each in seen.values() if each.phase.is_terminal} == set(ended)


async def test_a_pod_can_be_a_launch_itself(cluster: Cluster, tmp_path: Path) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [{"name": "main"}]}}
    async with cluster.opened(tmp_path) as backend:
        handle = await backend.start(request("alone", **pod))
        await observed(backend, handle, lambda seen: seen.phase is Phase.RUNNING)
        async with cluster.opened(tmp_path / "other") as again:
            assert (await again.observe())[handle].phase is Phase.RUNNING
        await kubelet_double.finish(cluster.connection, (await cluster.pods())[0], 3)
        seen = await end_of(backend, handle)
        assert (seen.phase, seen.exit_code) == (Phase.FAILED, 3)
        await backend.cleanup(handle)
        assert await backend.observe() == {}


async def test_all_output_comes_where_few_are_followed_at_a_time(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backends.kubernetes.logs.FOLLOWED", 2)
    monkeypatch.setattr("backends.kubernetes.logs.TURN_SECONDS", 0.0)
    monkeypatch.setattr("backends.kubernetes.logs.AGAIN_SECONDS", (0.05, 0.1))
    async with cluster.opened(tmp_path) as backend:
        handles = [await backend.start(request(f"launch-{number}")) for number in range(6)]
        came: dict[Handle, bytes] = dict.fromkeys(handles, b"")

        async def read(handle: Handle) -> None:
            chunks: Any = backend.logs(handle, follow=True)
            async with aclosing(chunks):
                async for chunk in chunks:
                    came[handle] += chunk.data

        async def all_came() -> bool:
            return all(came.values())

        await until(backend, lambda seen: all(each.phase is Phase.RUNNING for each in seen.values()))
        readers = [asyncio.create_task(read(handle)) for handle in handles]
        async with asyncio.timeout(LIMIT_SECONDS):
            await eventually(all_came)  # while they run
            for pod in await cluster.pods():
                await kubelet_double.finish(cluster.connection, pod)
            await asyncio.gather(*readers)
