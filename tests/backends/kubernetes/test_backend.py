"""What only clusters can do with launches, on a real one."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backends.base import Backend, BackendError, Handle, Observation, Phase, StartRequest
from backends.registry import load
from backends.testing.contract import LIMIT_SECONDS, end_of, observed, output_of, printed
from backends.testing.shell import sh
from tests.backends.kubernetes.test_contract import KubernetesHarness
from tests.clusters import BUSYBOX, Cluster

FOREVER = ("echo up", "exec sleep 1000")


@pytest.fixture
def harness(kube_cluster: Cluster, tmp_path: Path) -> Iterator[KubernetesHarness]:
    with kube_cluster.namespace() as namespace:
        yield KubernetesHarness(kube_cluster, namespace, tmp_path / "state")


@pytest.fixture
async def backend(harness: KubernetesHarness) -> AsyncGenerator[Backend]:
    async with opened(harness) as backend:
        yield backend


@asynccontextmanager
async def opened(harness: KubernetesHarness) -> AsyncGenerator[Backend]:
    backend = harness.open()
    try:
        yield backend
    finally:
        await backend.close()


def request(harness: KubernetesHarness, *steps: str, name: str = "launch-1", **fields: Any) -> StartRequest:
    return replace(harness.complete(StartRequest(name, sh(*steps), {})), **fields)


def there(harness: KubernetesHarness, kinds: str = "jobs,pods,secrets,configmaps,services") -> list[str]:
    """Return what there is of launches in the namespace."""
    return harness.cluster.kubectl(
        *("get", kinds, "--namespace", harness.namespace, "--selector", "launchbay.dev/owner", "--output", "name")
    ).split()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT_SECONDS):
        while not await asyncio.to_thread(holds):  # noqa: ASYNC110 -- kubectl tells no more
            await asyncio.sleep(0.2)


def is_running(seen: Observation) -> bool:
    return seen.phase is Phase.RUNNING


async def test_what_a_launch_has_goes_with_it(harness: KubernetesHarness, backend: Backend) -> None:
    notes = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "notes"}, "data": {"a": "b"}}
    asked = request(harness, "true", secrets={"TOKEN": "s3cret"}, services=[{"config": notes}])
    handle = await backend.start(asked)
    await end_of(backend, handle)
    kept = await asyncio.to_thread(there, harness)
    assert {name.partition("/")[0] for name in kept} == {"job.batch", "pod", "secret", "configmap"}
    assert {"job.batch/launch-1", "secret/launch-1", "configmap/notes"} <= set(kept)
    await backend.cleanup(handle)
    await until(lambda: there(harness) == [])
    assert list(harness.state_dir.glob("launches/*")) == []


async def test_what_cannot_be_made_whole_leaves_nothing_behind(harness: KubernetesHarness, backend: Backend) -> None:
    quota = ["create", "quota", "none", "--hard", "count/secrets=0", "--namespace", harness.namespace]
    await asyncio.to_thread(harness.cluster.kubectl, *quota)
    with pytest.raises(BackendError, match=r"exceeded quota: none"):
        await backend.start(request(harness, *FOREVER, secrets={"TOKEN": "s3cret"}))
    await until(lambda: there(harness) == [])
    assert await backend.observe() == {}


async def test_what_the_server_refuses_is_told_in_its_words(harness: KubernetesHarness, backend: Backend) -> None:
    wrong = {"spec": {"completions": -1, **harness.complete(StartRequest("x", (), {})).resource_args["spec"]}}  # type: ignore[dict-item]
    with pytest.raises(BackendError, match=r"spec\.completions.*greater than or equal to 0"):
        await backend.start(request(harness, "true", resource_args=wrong))


async def test_agents_do_not_see_each_others_launches(harness: KubernetesHarness, backend: Backend) -> None:
    handle = await backend.start(request(harness, *FOREVER))
    config = {"config_file": str(harness.cluster.kubeconfig), "namespace": harness.namespace}
    other = load("kubernetes")(harness.state_dir / "other", "somebody else", config)
    try:
        assert await other.observe() == {}
        with pytest.raises(BackendError, match="is not this launch's"):
            await other.start(request(harness, *FOREVER))
        await other.stop(handle, 0)
        await other.cleanup(handle)
        await observed(backend, handle, is_running)
    finally:
        await other.close()


async def test_deleted_by_hand_is_lost_and_does_not_run_on(harness: KubernetesHarness, backend: Backend) -> None:
    handle = await backend.start(request(harness, *FOREVER, secrets={"TOKEN": "s3cret"}))
    await printed(backend, handle, b"up\n")
    await asyncio.to_thread(
        harness.cluster.kubectl, "delete", "job/launch-1", "--cascade=orphan", "--namespace", harness.namespace
    )
    seen = await end_of(backend, handle)
    assert seen.phase is Phase.LOST
    assert "launch-1 was deleted by somebody else" in seen.message
    await until(lambda: not [name for name in there(harness) if name.startswith("pod")] or _all_leave(harness))
    assert await output_of(backend, handle) == b"up\n"
    async with opened(harness) as again:
        assert await again.observe() == {handle: seen}
        await again.cleanup(handle)


def _all_leave(harness: KubernetesHarness) -> bool:
    pods = json.loads(harness.cluster.kubectl("get", "pods", "--output", "json", "--namespace", harness.namespace))
    return all("deletionTimestamp" in pod["metadata"] for pod in pods["items"])


async def test_without_its_state_folder_an_agent_finds_its_launches_and_their_output(
    harness: KubernetesHarness, backend: Backend, tmp_path: Path
) -> None:
    labels = {"item": "aXRlbQ==", "attempt": "1"}
    handle = await backend.start(request(harness, *FOREVER, labels=labels))
    await printed(backend, handle, b"up\n")
    harness.state_dir = tmp_path / "fresh"
    async with opened(harness) as again:
        seen = (await again.observe())[handle]
        assert (seen.phase, seen.labels) == (Phase.RUNNING, labels)
        assert await output_of(again, handle) == b"up\n"
        await again.stop(handle, 5)
        assert (await end_of(again, handle)).phase is Phase.STOPPED
    assert (await end_of(backend, handle)).phase is Phase.STOPPED


async def test_last_words_of_what_is_stopped_are_kept(harness: KubernetesHarness, backend: Backend) -> None:
    handle = await backend.start(
        request(harness, "trap 'echo saved; exit 3' TERM", "echo up", "while :; do sleep 0.1; done")
    )
    await printed(backend, handle, b"up\n")
    await backend.stop(handle, 30)
    seen = await end_of(backend, handle)
    assert (seen.phase, seen.exit_code) == (Phase.STOPPED, 3)
    await until(lambda: there(harness) == [])
    assert await output_of(backend, handle) == b"up\nsaved\n"
    async with opened(harness) as again:
        assert await again.observe() == {handle: seen}
        assert await output_of(again, handle) == b"up\nsaved\n"


async def test_containers_beside_the_job_say_who_they_are(harness: KubernetesHarness, backend: Backend) -> None:
    beside = {"name": "proxy", "image": BUSYBOX, "command": sh("echo beside")}
    before = {"name": "prepare", "image": BUSYBOX, "command": sh("echo before")}
    pod = {"containers": [{"name": "job"}, beside], "initContainers": [before]}
    asked = request(harness, "sleep 2", "echo job", resource_args={"spec": {"template": {"spec": pod}}})
    handle = await backend.start(asked)
    await end_of(backend, handle)
    assert await output_of(backend, handle) == b"[prepare] before\njob\n[proxy] beside\n"


async def test_what_does_not_start_says_why(harness: KubernetesHarness, backend: Backend) -> None:
    nowhere = {"spec": {"template": {"spec": {"nodeSelector": {"moon": "yes"}}}}}
    first = await backend.start(request(harness, "true", image="127.0.0.1:9/none:1"))
    second = await backend.start(request(harness, "true", name="launch-2", resource_args=nowhere))
    seen = await observed(backend, first, lambda seen: seen.reason.startswith("image") and bool(seen.details))
    assert seen.phase is Phase.STARTING
    assert "127.0.0.1:9/none:1" in seen.message
    seen = await observed(backend, second, lambda seen: seen.reason == "unschedulable")
    assert "node affinity/selector" in seen.message
    for handle in (first, second):
        await backend.stop(handle, 60)
        assert (await end_of(backend, handle)).phase is Phase.STOPPED


def deployment(*probe: str, **timing: int) -> dict[str, Any]:
    """Return the manifest of a service that is ready when its probe says so."""
    marks = {"app": "model-server"}
    ready = {"exec": {"command": list(probe)}, "periodSeconds": 1, **timing}
    container = {"name": "server", "image": BUSYBOX, "command": sh(*FOREVER), "readinessProbe": ready}
    template = {"metadata": {"labels": marks}, "spec": {"containers": [container], "terminationGracePeriodSeconds": 1}}
    spec = {"selector": {"matchLabels": marks}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "model-server"}, "spec": spec}


SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "model"},
    "spec": {"selector": {"app": "model-server"}, "ports": [{"port": 80}]},
}
WITH_SERVICES = "jobs,pods,secrets,services,deployments"


async def test_a_launch_begins_when_its_services_are_ready_and_takes_them_along(
    harness: KubernetesHarness, backend: Backend
) -> None:
    services = [{"config": SERVICE}, {"config": deployment("true", initialDelaySeconds=2)}]
    asked = request(harness, "true", secrets={"TOKEN": "s3cret"}, services=services)
    handle = await backend.start(asked)
    assert await backend.start(asked) == handle
    await end_of(backend, handle)
    get = ["get", "jobs,pods", "--output", "json", "--namespace", harness.namespace]
    job, *pods = json.loads(await asyncio.to_thread(harness.cluster.kubectl, *get))["items"]
    (server,) = (pod for pod in pods if pod["metadata"]["labels"].get("app"))
    (since,) = (each["lastTransitionTime"] for each in server["status"]["conditions"] if each["type"] == "Ready")
    assert since <= job["metadata"]["creationTimestamp"]
    await backend.cleanup(handle)
    await until(lambda: there(harness, WITH_SERVICES) == [])


@pytest.mark.parametrize("how", ["stop", "cancel", "close"])
async def test_who_stops_waiting_for_services_leaves_nothing_behind(
    harness: KubernetesHarness, backend: Backend, how: str
) -> None:
    asked = request(harness, *FOREVER, secrets={"TOKEN": "s3cret"}, services=[{"config": deployment("false")}])
    starting = asyncio.create_task(backend.start(asked))
    await until(lambda: "deployment.apps/model-server" in there(harness, WITH_SERVICES))
    if how == "cancel":
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
    else:
        await (backend.stop(harness.handle("launch-1"), 60) if how == "stop" else backend.close())
        with pytest.raises(BackendError, match="stopped while it waited"):
            await starting
    await until(lambda: there(harness, WITH_SERVICES) == [])


async def test_services_that_are_not_ready_in_time_are_told(harness: KubernetesHarness, backend: Backend) -> None:
    resource_args = {"wait_timeout": 1, **harness.complete(StartRequest("x", (), {})).resource_args}
    services = [{"config": deployment("false")}]
    with pytest.raises(BackendError, match=r"Deployment .*/model-server.* not ready after 1 seconds .*0 of 1 replicas"):
        await backend.start(request(harness, *FOREVER, services=services, resource_args=resource_args))
    await until(lambda: there(harness, WITH_SERVICES) == [])
    assert await backend.observe() == {}


async def test_what_the_quota_refuses_to_a_job_is_told(harness: KubernetesHarness, backend: Backend) -> None:
    quota = ["create", "quota", "none", "--hard", "pods=0", "--namespace", harness.namespace]
    await asyncio.to_thread(harness.cluster.kubectl, *quota)
    handle = await backend.start(request(harness, "true"))
    seen = await observed(backend, handle, lambda seen: bool(seen.reason))
    assert seen.phase is Phase.STARTING
    assert "exceeded quota: none" in seen.message


async def test_suspended_is_queued_and_can_be_stopped(harness: KubernetesHarness, backend: Backend) -> None:
    held = {"spec": {**harness.complete(StartRequest("x", (), {})).resource_args["spec"], "suspend": True}}  # type: ignore[dict-item]
    handle = await backend.start(request(harness, "true", resource_args=held))
    assert (await observed(backend, handle, lambda seen: seen.reason == "suspended")).phase is Phase.QUEUED
    await backend.stop(handle, 60)
    assert (await end_of(backend, handle)).phase is Phase.STOPPED


async def test_handles_of_others_mean_nothing(backend: Backend) -> None:
    for handle in (Handle(""), Handle("a/b"), Handle("elsewhere/default/Job.v1.batch/launch-1"), Handle("//Job/")):
        await backend.stop(handle, 0)
        await backend.cleanup(handle)
        assert await output_of(backend, handle) == b""
