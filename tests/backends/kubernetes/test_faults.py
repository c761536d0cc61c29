"""The API server goes, comes back, and knows kinds that nobody told us of; what is between us fails, and clocks differ:
nothing is lost, and nothing made up.
"""

import asyncio
import base64
import json
import ssl
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml
from aiohttp import web

import backends.kubernetes.backend as backend_module
import backends.kubernetes.connection as connection
import backends.kubernetes.names as names
import backends.kubernetes.reflector as reflector
import backends.kubernetes.stopping as stopping
from backends.base import Backend, BackendError, BackendUnavailable, Handle, Observation, Phase, StartRequest
from backends.kubernetes.access import find_source
from backends.kubernetes.backend import KubernetesBackend
from backends.kubernetes.client import KubeClient
from backends.kubernetes.clock import ClusterClock
from backends.kubernetes.settings import Settings
from backends.registry import load
from backends.testing.contract import LIMIT_SECONDS, end_of, observed
from protocol.json_types import JsonObject
from tests.backends.kubernetes.faulty import FaultyProxy, faulty_proxy
from tests.backends.kubernetes.manifest_cases import FOLDER
from tests.backends.kubernetes.test_client import ADMIN, PEOPLE, kubeconfig
from tests.cluster import control_plane as control_planes
from tests.cluster.control_plane import ControlPlane
from tests.engines import free_port

POD = {"containers": [{"name": "job", "image": "busybox"}]}
RENEWED = "token-that-is-newer"


def definition(api_version: str, kind: str, plural: str) -> dict[str, Any]:
    """Return what makes a kind known to a cluster. Its objects may be anything."""
    group, _, version = api_version.partition("/")
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    served = {"name": version, "served": True, "storage": True, "subresources": {"status": {}}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "names": {"kind": kind, "plural": plural},
            "scope": "Namespaced",
            "versions": [{**served, "schema": {"openAPIV3Schema": schema}}],
        },
    }


@pytest.fixture(scope="module", name="plane")
def _plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """An API server that stays, and knows people by tokens."""
    if why := control_planes.missing():
        pytest.skip(f"no API server here: {why}")
    tokens = tmp_path_factory.mktemp("tokens") / "tokens.csv"
    tokens.write_text(f"{PEOPLE}{RENEWED},us,3,system:masters\n")
    with control_planes.running("--token-auth-file", str(tokens)) as running:
        yield running


@pytest.fixture(name="proxy")
async def _proxy(plane: ControlPlane) -> AsyncGenerator[FaultyProxy]:
    async with faulty_proxy(plane.url) as running:
        yield running


class Room:
    """A namespace for one test."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane
        self.name = f"test-{uuid4().hex[:8]}"

    async def kubectl(self, *arguments: str, given: Any = None) -> str:
        """Run kubectl in it."""
        text = None if given is None else json.dumps(given)
        return await asyncio.to_thread(self.plane.kubectl, "--namespace", self.name, *arguments, given=text)

    async def make(self, *objects: Any) -> None:
        """Make objects."""
        items = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        await self.kubectl("create", "--filename", "-", given=items)

    async def set_status(self, what: str, status: Any) -> None:
        """Say of an object how it is, as its controller would."""
        patch = ["--subresource", "status", "--type", "merge", "--patch", json.dumps({"status": status})]
        await self.kubectl("patch", what, *patch)


@pytest.fixture(name="room")
async def _room(plane: ControlPlane) -> Room:
    room = Room(plane)
    await room.make({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": room.name}})
    # Without it no pod is let in. The controllers that make it do not run.
    await room.make({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}})
    return room


@asynccontextmanager
async def opened(plane: ControlPlane, state_dir: Path, **block: Any) -> AsyncGenerator[Backend]:
    backend = load("kubernetes")(state_dir, "test", {"config_file": str(plane.kubeconfig), **block})
    try:
        yield backend
    finally:
        await backend.close()


def request(name: str = "launch-1", args: JsonObject | None = None) -> StartRequest:
    return StartRequest(name, ["true"], {}, image="busybox", secrets={"TOKEN": "s3cret"}, resource_args=args or {})


def leaving(plane: ControlPlane) -> dict[str, bool]:
    """Return which Jobs there are, and whether they are to go."""
    jobs = json.loads(plane.kubectl("get", "jobs", "--output", "json"))
    return {job["metadata"]["name"]: "deletionTimestamp" in job["metadata"] for job in jobs["items"]}


async def unavailable(backend: Backend, words: str = "") -> None:
    """Wait until nothing can be seen, for a reason with these words."""
    async with asyncio.timeout(LIMIT_SECONDS):
        while True:
            try:
                await backend.observe()
            except BackendUnavailable as error:
                if words in str(error):
                    return
            await asyncio.sleep(0.05)


async def available(backend: Backend) -> None:
    """Wait until something can be seen."""
    async with asyncio.timeout(LIMIT_SECONDS):
        while True:
            with suppress(BackendUnavailable):
                await backend.observe()
                return
            await asyncio.sleep(0.05)


async def started(backend: Backend, asked: StartRequest) -> Handle:
    """Start a launch as soon as the cluster can, as the agent does."""
    async with asyncio.timeout(LIMIT_SECONDS):
        while True:
            try:
                return await backend.start(asked)
            except BackendUnavailable:
                await asyncio.sleep(0.1)


def has_begun(seen: Observation) -> bool:
    return seen.phase is Phase.STARTING


async def test_an_api_server_that_is_away_is_neither_the_end_nor_fine(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    async with opened(control_plane, tmp_path) as backend:
        first = await backend.start(request())
        assert set(await backend.observe()) == {first}
        await asyncio.to_thread(control_plane.kill)
        with pytest.raises(BackendUnavailable):
            await backend.start(request("launch-2"))
        await unavailable(backend)
        await backend.stop(first, 5)  # it is told when there is somebody to tell
        async with opened(control_plane, tmp_path) as other:
            with pytest.raises(BackendUnavailable):
                await other.observe()
        await asyncio.to_thread(control_plane.start)
        second = await backend.start(request("launch-2"))
        async with asyncio.timeout(LIMIT_SECONDS):
            expected = {"launch-1": True, "launch-2": False}
            while await asyncio.to_thread(leaving, control_plane) != expected:  # noqa: ASYNC110 -- kubectl only asks
                await asyncio.sleep(0.1)
        assert set(await backend.observe()) == {first, second}


async def test_what_was_deleted_while_nobody_looked_is_noticed(control_plane: ControlPlane, tmp_path: Path) -> None:
    async with opened(control_plane, tmp_path) as backend:
        handle = await backend.start(request())
        await observed(backend, handle, lambda seen: seen.phase is Phase.STARTING)
        await asyncio.to_thread(control_plane.restart)
        await asyncio.to_thread(control_plane.kubectl, "delete", "job", "launch-1", "--cascade=background")
        seen = await end_of(backend, handle)
    assert (seen.phase, seen.reason) == (Phase.LOST, "deleted")
    async with opened(control_plane, tmp_path) as again:
        assert await again.observe() == {handle: seen}


async def test_kinds_that_nobody_listed_are_found_again(room: Room, tmp_path: Path) -> None:
    await room.make(definition("example.com/v1", "Training", "trainings"))
    await room.kubectl("wait", "crd/trainings.example.com", "--for=condition=Established")
    training = {"apiVersion": "example.com/v1", "kind": "Training", "spec": {"workers": {"template": {"spec": POD}}}}
    async with opened(room.plane, tmp_path, namespace=room.name) as backend:
        handle = await started(backend, request(args=training))
        assert handle == f"/{room.name}/Training.v1.example.com/launch-1"
    async with opened(room.plane, tmp_path, namespace=room.name) as again:
        assert (await again.observe())[handle].phase is Phase.STARTING
        status = {"conditions": [{"type": "Failed", "status": "True", "reason": "X", "message": "no luck"}]}
        await room.set_status("training/launch-1", status)
        seen = await end_of(again, handle)
        assert seen.phase is Phase.FAILED
        assert "no luck" in seen.message
        await again.cleanup(handle)
        assert await again.observe() == {}


async def test_a_start_that_was_cut_short_is_made_whole_by_the_next(room: Room, tmp_path: Path) -> None:
    async with opened(room.plane, tmp_path, namespace=room.name) as backend:
        handle = await backend.start(request())
    await room.kubectl("delete", "secret", "launch-1")  # as if it had never been made
    async with opened(room.plane, tmp_path, namespace=room.name) as again:
        assert await again.start(request()) == handle
        assert list(await again.observe()) == [handle]
    secret = json.loads(await room.kubectl("get", "secret", "launch-1", "--output", "json"))
    job = json.loads(await room.kubectl("get", "job", "launch-1", "--output", "json"))
    assert [owner["uid"] for owner in secret["metadata"]["ownerReferences"]] == [job["metadata"]["uid"]]


async def test_a_secret_that_is_left_of_another_gives_way(room: Room, tmp_path: Path) -> None:
    async with opened(room.plane, tmp_path, namespace=room.name) as backend:
        await backend.start(request())
        left = json.loads(await room.kubectl("get", "secret", "launch-1", "-o", "json"))
        left["metadata"]["ownerReferences"][0]["uid"] = "00000000-0000-0000-0000-000000000000"
        await room.kubectl("replace", "--filename", "-", given=left)
        with pytest.raises(BackendUnavailable, match="left from before"):
            await backend.start(request())
        await backend.start(request())


async def test_a_token_that_has_expired_is_told_and_nothing_is_lost(
    room: Room, proxy: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "RENEW_SECONDS", 0.1)
    monkeypatch.setattr(reflector, "LAST_PAUSE_SECONDS", 0.2)
    token = tmp_path / "token"
    token.write_text(ADMIN)
    config = kubeconfig(tmp_path, proxy.url, tokenFile=str(token))
    async with opened(room.plane, tmp_path, config_file=config, namespace=room.name) as backend:
        first = await backend.start(request())
        await observed(backend, first, has_begun)
        proxy.expired = ADMIN
        proxy.cut()  # servers let watches go on that have begun
        await unavailable(backend, "does not know who we are")
        with pytest.raises(BackendUnavailable, match="does not know who we are"):
            await backend.start(request("launch-2"))
        await room.kubectl("delete", "job", "launch-1", "--cascade=background")
        token.write_text(RENEWED)
        await available(backend)
        assert (await end_of(backend, first)).reason == "deleted"
        second = await backend.start(request("launch-2"))
        await observed(backend, second, has_begun)


async def test_launches_go_to_the_contexts_that_queues_name_and_one_that_is_away_hides_no_other(
    room: Room, proxy: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same name in two clusters is two launches."""
    monkeypatch.setattr(reflector, "LAST_PAUSE_SECONDS", 0.2)
    other = Room(room.plane)
    await other.make({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": other.name}})
    contexts = {"near": (room.plane.url, room.name), "far": (proxy.url, other.name)}
    user = {"name": "us", "user": {"token": ADMIN}}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "near",
        "users": [user],
        "clusters": [
            {"name": name, "cluster": {"server": url, **({} if name == "far" else {"insecure-skip-tls-verify": True})}}
            for name, (url, _) in contexts.items()
        ],
        "contexts": [
            {"name": name, "context": {"cluster": name, "user": "us", "namespace": namespace}}
            for name, (_, namespace) in contexts.items()
        ],
    }
    config = tmp_path / "kubeconfig"
    config.write_text(json.dumps(content))
    block = {"config_file": str(config), "contexts": ["far"]}
    async with opened(room.plane, tmp_path / "state", **block) as backend:
        near = await backend.start(request())
        far = await backend.start(request(args={"context": "far"}))
        assert (near, far) == (f"/{room.name}/Job.v1.batch/launch-1", f"far/{other.name}/Job.v1.batch/launch-1")
        for handle in (near, far):
            await observed(backend, handle, has_begun)
        await other.kubectl("delete", "job", "launch-1", "--cascade=background")
        assert (await end_of(backend, far)).phase is Phase.LOST
        assert (await backend.observe())[near].phase is Phase.STARTING
        proxy.expired = ADMIN
        proxy.cut()
        with pytest.raises(BackendUnavailable):
            await backend.start(request("launch-2", {"context": "far"}))
        second = await backend.start(request("launch-2"))
        assert set(await backend.observe()) == {near, far, second}
        proxy.expired = ""
        third = await backend.start(request("launch-3", {"context": "far"}))
    async with opened(room.plane, tmp_path / "fresh", **block) as again:
        assert set(await again.observe()) == {near, second, third}


class Webhook:
    """Somebody whom the API server asks about each Job of a namespace."""

    def __init__(self) -> None:
        self.says: Callable[[], str] = str
        """Why not; nothing lets it pass."""
        self.is_slow = False
        self.asked = 0

    async def answer(self, asking: web.Request) -> web.Response:
        """Answer a review."""
        self.asked += 1
        review = await asking.json()
        if self.is_slow:
            await asyncio.sleep(LIMIT_SECONDS)
        why = self.says()
        answer = {"uid": review["request"]["uid"], "allowed": not why, "status": {"message": why}}
        return web.json_response({**review, "response": answer})


@pytest.fixture(name="webhook")
async def _webhook(room: Room) -> AsyncGenerator[Webhook]:
    webhook, folder, port = Webhook(), room.plane.folder, free_port()
    room.plane.authority.make("webhook", "webhook", hosts=["127.0.0.1"])
    security = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    security.load_cert_chain(folder / "webhook.crt", folder / "webhook.key")
    application = web.Application()
    application.router.add_post("/", webhook.answer)
    runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, ssl_context=security).start()
    authority = base64.b64encode((folder / "ca.crt").read_bytes()).decode()
    hook = {
        "name": "jobs.policy.test",
        "clientConfig": {"url": f"https://127.0.0.1:{port}/", "caBundle": authority},
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": room.name}},
        "rules": [{"apiGroups": ["batch"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["jobs"]}],
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "timeoutSeconds": 1,
        "failurePolicy": "Fail",
    }
    kind = "ValidatingWebhookConfiguration"
    named = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": room.name}}
    await room.make({**named, "webhooks": [hook]})
    async with asyncio.timeout(LIMIT_SECONDS):
        while not webhook.asked:
            with suppress(AssertionError):  # on a busy machine it may be asked, and answer too late
                await room.kubectl("create", "job", "probe", "--image=busybox", "--dry-run=server")
    yield webhook
    await room.kubectl("delete", kind, room.name)
    await runner.cleanup()


async def test_a_webhook_that_refuses_or_is_slow_is_named(room: Room, webhook: Webhook, tmp_path: Path) -> None:
    async with opened(room.plane, tmp_path, namespace=room.name) as backend:
        webhook.says = lambda: "no GPUs on Fridays"
        with pytest.raises(BackendError, match=r'webhook "jobs\.policy\.test" denied the request: no GPUs on Fridays'):
            await started(backend, request())
        webhook.is_slow = True
        with pytest.raises(BackendUnavailable, match=r'failed calling webhook "jobs\.policy\.test"'):
            await backend.start(request())
        assert await backend.observe() == {}
        webhook.is_slow, webhook.says = False, str
        handle = await started(backend, request())
        await observed(backend, handle, has_begun)


@pytest.mark.parametrize("hours", [-1, 1])
async def test_a_clock_that_is_wrong_shortens_no_time_and_prolongs_none(room: Room, tmp_path: Path, hours: int) -> None:
    """What the cluster's clock has stamped is told as the agent's own would have."""

    def ours() -> float:
        return time.time() + hours * 3600

    async def connect(context: str) -> KubeClient:
        source = await find_source(str(room.plane.kubeconfig), context or None)
        source.clock = ClusterClock(ours)
        return KubeClient(source)

    backend = KubernetesBackend(connect, tmp_path, "test", Settings(namespace=room.name), clock=ours)
    try:
        # Its image has no valid name, so it is to be given up at once.
        pod = {"apiVersion": "v1", "kind": "Pod", "spec": {**POD, "nodeName": "node-1"}}
        before = ours()
        handle = await started(backend, request(args=pod))
        waiting = {"waiting": {"reason": "InvalidImageName", "message": "no"}}
        status: dict[str, Any] = {
            "name": "job",
            "image": "?",
            "imageID": "",
            "ready": False,
            "restartCount": 0,
            "state": waiting,
        }
        await room.set_status("pod/launch-1", {"phase": "Pending", "containerStatuses": [status]})
        seen = await observed(backend, handle, lambda seen: seen.reason == "image_pull")
        for told in (seen.started_at, seen.since, seen.hopeless_at):
            assert told is not None
            assert before - 60 < told < ours() + 60
        # It is over at once, and not when the clocks have met.
        ended = {"exitCode": 3, "finishedAt": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        status["state"] = {"terminated": ended}
        await room.set_status("pod/launch-1", {"phase": "Failed", "containerStatuses": [status]})
        seen = await end_of(backend, handle)
        assert seen.exit_code == 3
        assert seen.ended_at
        assert before - 60 < seen.ended_at < ours() + 60
    finally:
        await backend.close()


async def test_a_pod_whose_node_is_gone_does_not_hold_a_stop_up(
    room: Room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in {"SLACK": 0.1, "LOOK": 0.1, "NODE": -10.0}.items():
        monkeypatch.setattr(stopping, f"{name}_SECONDS", seconds)
    node = f"node-of-{room.name}"
    async with opened(room.plane, tmp_path, namespace=room.name) as backend:
        pod = {"apiVersion": "v1", "kind": "Pod", "spec": {**POD, "nodeName": node}}
        await room.make({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}})
        await room.set_status(f"node/{node}", {"conditions": [{"type": "Ready", "status": "True"}]})
        handle = await backend.start(request(args=pod))
        await observed(backend, handle, has_begun)
        asked = asyncio.Event()
        real = stopping.Ladder._has_lost_its_node

        async def looked(self: stopping.Ladder, pod: Any) -> bool:
            lost = await real(self, pod)
            asked.set()
            return lost

        monkeypatch.setattr(stopping.Ladder, "_has_lost_its_node", looked)
        await backend.stop(handle, 0)
        async with asyncio.timeout(LIMIT_SECONDS):
            await asked.wait()
        assert (await backend.observe())[handle].phase is Phase.STARTING, "its node is there, and may still run it"
        await room.set_status(f"node/{node}", {"conditions": [{"type": "Ready", "status": "Unknown"}]})
        assert (await end_of(backend, handle)).phase is Phase.STOPPED


async def test_services_of_a_launch_that_never_came_to_be_are_removed(
    room: Room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an agent that has died while it waited for them, and whose successor knows nothing of the launch."""
    monkeypatch.setattr(backend_module, "CHORES_SECONDS", 0.1)
    monkeypatch.setattr(backend_module, "SWEEP_SECONDS", 0.1)
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "other", "uid": str(uuid4())}

    def left(launch: str, whose: str = "test", **more: Any) -> Iterator[dict[str, Any]]:
        labels = names.labels_of(whose, launch, {})
        yield {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": launch, "labels": labels, **more}}
        labels = {**labels, names.SERVICE: "0"}
        yield {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": launch, "labels": labels}, "spec": POD}

    await room.make(*left("left"), *left("has-one", ownerReferences=[owner]), *left("of-another", "somebody else"))
    async with opened(room.plane, tmp_path, namespace=room.name) as backend:
        await backend.start(request())
        # The agent has died before the services were its own, and has found it again.
        await room.kubectl("patch", "secret", "launch-1", "--patch", '{"metadata": {"ownerReferences": null}}')
        _, pod = left("launch-1")
        await room.make(pod)
        await room.make(*left("last"))
        async with asyncio.timeout(LIMIT_SECONDS):
            while {"left", "last"} & await secrets_in(room):  # noqa: ASYNC110 -- kubectl only asks
                await asyncio.sleep(0.1)
    assert await secrets_in(room) == {"has-one", "of-another", "launch-1"}


async def secrets_in(room: Room) -> set[str]:
    """Return the names of the Secrets that there are."""
    found = json.loads(await room.kubectl("get", "secrets", "--output", "json"))
    return {each["metadata"]["name"] for each in found["items"]}


@dataclass(frozen=True)
class Operator:
    """A kind of others, and the status with which one ends that its operator has given up, or that went well."""

    api_version: str
    kind: str
    status: Mapping[str, Any]
    words: str = ""
    """Why it failed; empty if it went well."""


def condition(name: str, **more: str) -> Mapping[str, Any]:
    return {"conditions": [{"type": name, "status": "True", **more}]}


BAD = "no luck"
OPERATORS = {
    "volcano": Operator("batch.volcano.sh/v1alpha1", "Job", {"state": {"phase": "Failed", "message": BAD}}, BAD),
    "jobset": Operator("jobset.x-k8s.io/v1alpha2", "JobSet", condition("Failed", message=BAD), BAD),
    "pytorchjob": Operator("kubeflow.org/v1", "PyTorchJob", condition("Succeeded")),
    "rayjob": Operator(
        "ray.io/v1", "RayJob", {"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "message": BAD}, BAD
    ),
    "trainjob": Operator("trainer.kubeflow.org/v1alpha1", "TrainJob", condition("Complete")),
}
"""By the cases of `manifests/`."""


async def test_kinds_of_operators_are_made_found_again_and_read_to_their_end(room: Room, tmp_path: Path) -> None:
    """Their definitions are their names alone: what an operator would have said of an object is said here."""
    handles: dict[str, Handle] = {}
    plurals = {name: f"{each.kind.lower()}s" for name, each in OPERATORS.items()}
    definitions = [definition(each.api_version, each.kind, plurals[name]) for name, each in OPERATORS.items()]
    await room.make(*definitions)
    names = [f"crd/{each['metadata']['name']}" for each in definitions]
    await room.kubectl("wait", *names, "--for=condition=Established")
    async with opened(room.plane, tmp_path, namespace=room.name) as backend:
        for name in OPERATORS:
            args = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())["resource_args"]
            handles[name] = await started(backend, request(f"launch-{name}", args))
    async with opened(room.plane, tmp_path / "fresh", namespace=room.name) as again:
        seen = await again.observe()
        assert {seen[handle].phase for handle in handles.values()} <= {Phase.STARTING, Phase.QUEUED}
        assert seen[handles["volcano"]].phase is Phase.QUEUED, "in Volcano's queue"
        for name, each in OPERATORS.items():
            group, made = each.api_version.partition("/")[0], handles[name].rpartition("/")[2]
            await room.set_status(f"{plurals[name]}.{group}/{made}", each.status)
            end = await end_of(again, handles[name])
            assert end.phase is (Phase.FAILED if each.words else Phase.FINISHED), name
            assert each.words in end.message
            await again.cleanup(handles[name])
        assert await again.observe() == {}


async def test_what_kueue_holds_back_is_queued_until_it_lets_it_in(room: Room, tmp_path: Path) -> None:
    held: Any = {"metadata": {"labels": {"kueue.x-k8s.io/queue-name": "gpus"}}, "spec": {"suspend": True}}
    async with opened(room.plane, tmp_path, namespace=room.name) as backend:
        handle = await backend.start(request(args=held))
        seen = await observed(backend, handle, lambda seen: seen.phase is Phase.QUEUED)
        assert "in its queue gpus" in seen.message
        await room.kubectl("patch", "job", "launch-1", "--type", "merge", "--patch", '{"spec": {"suspend": false}}')
        await observed(backend, handle, has_begun)
