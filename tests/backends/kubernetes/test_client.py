"""The client against a real API server, and against what comes between."""

import asyncio
import gc
import json
import socket
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any
from uuid import uuid4

import aiohttp
import pytest
from aiohttp import web

import backends.kubernetes.client as client
import backends.kubernetes.connection as connection
import backends.kubernetes.reflector as reflector
from backends.kubernetes.access import Access, KubeconfigFile, NoCluster, Pod, find_source
from backends.kubernetes.api import Kind, KubeObject, KubeRefused, KubeUnavailable, WatchExpired
from backends.kubernetes.client import KubeClient
from backends.kubernetes.reflector import Reflector
from tests.backends.kubernetes.faulty import Answer, FaultyProxy, faulty_proxy
from tests.cluster import control_plane
from tests.cluster.control_plane import ControlPlane
from tests.engines import free_port

SECONDS = 60.0
"""No condition takes longer, on a busy machine."""
CONFIG_MAP = Kind("", "v1", "ConfigMap", "configmaps")
JOB = Kind("batch", "v1", "Job", "jobs")
LEASE = Kind("coordination.k8s.io", "v1", "Lease", "leases")
NAMESPACE = Kind("", "v1", "Namespace", "namespaces", is_namespaced=False)
ADMIN, STRANGER = "token-of-the-admin", "token-of-a-stranger"
PEOPLE = f"{ADMIN},admin,1,system:masters\n{STRANGER},stranger,2\n"


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Generator[ControlPlane]:
    """An API server that knows two people by tokens."""
    if why := control_plane.missing():
        pytest.skip(f"no API server here: {why}")
    tokens = tmp_path_factory.mktemp("tokens") / "tokens.csv"
    tokens.write_text(PEOPLE + "before,us,3,system:masters\n")
    with control_plane.running("--token-auth-file", str(tokens)) as running:
        yield running


def kubeconfig(folder: Path, url: str, **user: Any) -> str:
    """Write a kubeconfig file for a server whose certificate nobody checks."""
    file = folder / f"kubeconfig-{uuid4().hex[:6]}"
    cluster = {"server": url, **({"insecure-skip-tls-verify": True} if url.startswith("https") else {})}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "there", "cluster": cluster}],
        "users": [{"name": "us", "user": user}],
        "contexts": [{"name": "ours", "context": {"cluster": "there", "user": "us", "namespace": "team"}}],
        "current-context": "ours",
    }
    file.write_text(json.dumps(content))
    return str(file)


@asynccontextmanager
async def opened(config_file: str, context: str | None = None) -> AsyncGenerator[KubeClient]:
    """Have a client while the block runs."""
    cluster = await KubeClient.open(config_file, context)
    try:
        yield cluster
    finally:
        await cluster.close()


@pytest.fixture
async def cluster(plane: ControlPlane) -> AsyncGenerator[KubeClient]:
    """A client of the administrator's."""
    async with opened(str(plane.kubeconfig)) as opened_one:
        yield opened_one


@pytest.fixture
async def proxy(plane: ControlPlane) -> AsyncGenerator[FaultyProxy]:
    """A proxy before the API server."""
    async with faulty_proxy(plane.url) as running:
        yield running


@pytest.fixture
async def behind(proxy: FaultyProxy, tmp_path: Path) -> AsyncGenerator[KubeClient]:
    """A client of the administrator's that goes through the proxy."""
    async with opened(kubeconfig(tmp_path, proxy.url, token=ADMIN)) as opened_one:
        yield opened_one


@pytest.fixture
async def namespace(cluster: KubeClient) -> str:
    """A namespace for one test."""
    name = f"test-{uuid4().hex[:8]}"
    await cluster.create(NAMESPACE, "", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    return name


async def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(SECONDS):
        while not holds():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)


def config_map(name: str, **data: str) -> KubeObject:
    """Return a small object."""
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"who": "us"}}, "data": data}


def job(name: str) -> KubeObject:
    """Return a Job."""
    pod = {"restartPolicy": "Never", "containers": [{"name": "main", "image": "image"}]}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": {"template": {"spec": pod}}}


class Seen:
    """What a reflector has told."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __call__(self, name: str, old: KubeObject | None, new: KubeObject | None) -> None:
        """Take note."""
        self.names.append(name if new else f"-{name}")


@asynccontextmanager
async def watching(api: KubeClient, kind: Kind, namespace: str, seen: Seen) -> AsyncGenerator[Reflector]:
    """Have a reflector while the block runs."""
    watcher = Reflector(api, kind, namespace, "who=us", seen, random=Random(1))
    watcher.start()
    try:
        yield watcher
    finally:
        await watcher.close()


async def test_an_object_from_its_making_to_its_end(cluster: KubeClient, namespace: str) -> None:
    assert (await cluster.version()).startswith("v1.")
    made = await cluster.create(JOB, namespace, job("a"))
    assert made["metadata"]["managedFields"][0]["manager"] == "launchbay"
    assert made["metadata"]["managedFields"][0]["operation"] == "Update"
    with pytest.raises(KubeRefused, match='"a" already exists') as refused:
        await cluster.create(JOB, namespace, job("a"))
    assert (refused.value.status, refused.value.reason) == (409, "AlreadyExists")
    patched = await cluster.patch(JOB, namespace, "a", {"metadata": {"annotations": {"launchbay.dev/stop": "1"}}})
    assert patched
    found = await cluster.get(JOB, namespace, "a")
    assert found
    assert found == patched
    listing = await cluster.list(JOB, namespace)
    assert list(listing.items) == [found], "what is listed looks like what is watched"
    async with aclosing(cluster.watch(JOB, namespace, listing.resource_version)) as events:
        opened_event = await anext(events)
        assert (opened_event.type, opened_event.resource_version) == ("BOOKMARK", listing.resource_version)
        assert not await cluster.delete(JOB, namespace, "a", uid="another"), "not the one that was meant"
        assert not await cluster.delete(JOB, namespace, "a", resource_version="1"), "nor one that has changed since"
        assert await cluster.delete(JOB, namespace, "a", propagation="Background", uid=found["metadata"]["uid"])
        gone = await anext(events)
        assert (gone.type, gone.object["metadata"]["uid"]) == ("DELETED", found["metadata"]["uid"])
    assert not await cluster.delete(JOB, namespace, "a")
    assert await cluster.get(JOB, namespace, "a") is None
    assert await cluster.patch(JOB, namespace, "a", {}) is None


async def test_a_change_to_what_somebody_else_has_changed_is_refused(cluster: KubeClient, namespace: str) -> None:
    """Leader election stands on this."""
    lease: KubeObject = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "agent"},
        "spec": {"holderIdentity": "a"},
    }
    version = (await cluster.create(LEASE, namespace, lease))["metadata"]["resourceVersion"]
    take: Any = {"metadata": {"resourceVersion": version}, "spec": {"holderIdentity": "b"}}
    assert await cluster.patch(LEASE, namespace, "agent", take)
    with pytest.raises(KubeRefused) as refused:
        await cluster.patch(LEASE, namespace, "agent", {**take, "spec": {"holderIdentity": "c"}})
    assert (refused.value.status, refused.value.reason) == (409, "Conflict")


async def test_what_will_never_work_is_refused_and_not_tried_again(cluster: KubeClient, namespace: str) -> None:
    manifest = job("a")
    manifest["spec"]["paralelism"] = 1
    with pytest.raises(KubeRefused, match=r'unknown field "spec\.paralelism"') as refused:
        await cluster.create(JOB, namespace, manifest)
    assert refused.value.status == 400
    manifest = job("A_B")
    with pytest.raises(KubeRefused, match="RFC 1123") as refused:
        await cluster.create(JOB, namespace, manifest)
    assert refused.value.status == 422
    with pytest.raises(KubeRefused, match="nowhere") as refused:
        await cluster.create(JOB, "nowhere", job("a"))
    assert (refused.value.status, refused.value.about) == (404, "nowhere")


async def test_a_webhook_that_does_not_answer_is_a_reason_to_try_again(cluster: KubeClient, namespace: str) -> None:
    hook = {
        "name": "hook.launchbay.test",
        "clientConfig": {"url": f"https://127.0.0.1:{free_port()}/", "caBundle": ""},
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}],
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
    }
    group = "admissionregistration.k8s.io"
    hooks = Kind(group, "v1", "ValidatingWebhookConfiguration", "validatingwebhookconfigurations", is_namespaced=False)
    manifest = {"apiVersion": f"{group}/v1", "kind": hooks.kind, "metadata": {"name": namespace}, "webhooks": [hook]}
    await cluster.create(hooks, "", manifest)

    async def create() -> None:
        for number in range(10_000):  # the server takes a moment to know of the webhook
            await cluster.create(CONFIG_MAP, namespace, config_map(f"a{number}"))
            await asyncio.sleep(0.02)

    with pytest.raises(KubeUnavailable, match="failed calling webhook"):
        await asyncio.wait_for(create(), SECONDS)
    assert await cluster.delete(hooks, "", namespace)


async def test_what_is_missing_is_told_from_a_kind_that_is_missing(cluster: KubeClient, namespace: str) -> None:
    """So that nothing is taken for gone because its kind is not served just now."""
    nothing = Kind("batch", "v1", "Jobling", "joblings")
    for call in (
        cluster.get(nothing, namespace, "a"),
        cluster.patch(nothing, namespace, "a", {}),
        cluster.delete(nothing, namespace, "a"),
        cluster.list(nothing, namespace),
    ):
        with pytest.raises(KubeRefused) as refused:
            await call
        assert refused.value.status == 404


@pytest.mark.parametrize(
    ("namespace", "name"), [("..", "a"), ("a", ".."), (".", "a"), ("a/b", "a"), ("a", "a/../../b"), ("a", "")]
)
async def test_names_do_not_lead_elsewhere(cluster: KubeClient, namespace: str, name: str) -> None:
    with pytest.raises(KubeRefused, match="called"):
        await cluster.delete(CONFIG_MAP, namespace, name)


async def test_a_list_is_asked_for_page_by_page_and_trimmed(
    behind: KubeClient, proxy: FaultyProxy, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "PAGE", 2)
    for name in "abcde":
        await behind.create(CONFIG_MAP, namespace, config_map(name, text=name))
    proxy.asked.clear()
    listing = await behind.list(CONFIG_MAP, namespace, trim=lambda object_: {"data": object_["data"]})
    assert list(listing.items) == [{"data": {"text": name}} for name in "abcde"]
    assert len(proxy.asked) == 3
    chosen = await behind.list(CONFIG_MAP, namespace, labels="who=us", fields="metadata.name=c")
    assert [each["metadata"]["name"] for each in chosen.items] == ["c"]
    assert len((await behind.list(CONFIG_MAP, "", labels="who=us")).items) >= 5, "of all namespaces"


async def test_a_list_whose_moment_the_server_has_forgotten_is_begun_again(
    behind: KubeClient, proxy: FaultyProxy, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "PAGE", 2)
    for name in "abc":
        await behind.create(CONFIG_MAP, namespace, config_map(name))
    expired = Answer(410, json.dumps({"kind": "Status", "message": "too old", "reason": "Expired", "code": 410}))
    proxy.say(expired, fits=lambda path: "continue=" in path)
    assert len((await behind.list(CONFIG_MAP, namespace)).items) == 3
    proxy.say(expired, times=client.STARTS, fits=lambda path: "continue=" in path)
    with pytest.raises(WatchExpired):
        await behind.list(CONFIG_MAP, namespace)


async def test_a_kind_that_is_installed_meanwhile_is_found(cluster: KubeClient, namespace: str) -> None:
    group = f"{namespace}.launchbay.test"
    with pytest.raises(KubeRefused, match=f"knows no kind Sheep of {group}/v1") as refused:
        await cluster.kind(f"{group}/v1", "Sheep")
    assert refused.value.status == 404
    definitions = await cluster.kind("apiextensions.k8s.io/v1", "CustomResourceDefinition")
    assert not definitions.is_namespaced
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    manifest = {
        "apiVersion": definitions.api_version,
        "kind": definitions.kind,
        "metadata": {"name": f"sheep.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": "Sheep", "plural": "sheep", "singular": "sheep"},
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}],
        },
    }
    await cluster.create(definitions, "", manifest)

    async def found() -> Kind:
        while True:
            try:
                return await cluster.kind(f"{group}/v1", "Sheep")
            except KubeRefused:
                await asyncio.sleep(0.05)

    kind = await asyncio.wait_for(found(), SECONDS)
    assert kind == Kind(group, "v1", "Sheep", "sheep"), "a plural is not always the kind with an s"
    dolly: KubeObject = {"apiVersion": f"{group}/v1", "kind": "Sheep", "metadata": {"name": "dolly"}, "spec": {"a": 1}}
    await cluster.create(kind, namespace, dolly)
    assert [each["spec"] for each in (await cluster.list(kind, namespace)).items] == [{"a": 1}]

    async def likely() -> None:
        while True:
            with pytest.raises(KubeRefused) as near:
                await cluster.kind(f"{group}/v1", "Sheeep")
            if f"Near it: Sheep of {group}/v1" in str(near.value):
                return
            await asyncio.sleep(0.05)

    await asyncio.wait_for(likely(), SECONDS)


async def test_a_kind_that_is_misspelt_is_told_with_what_may_have_been_meant(cluster: KubeClient) -> None:
    for api_version, kind in (("batch/v1", "job"), ("batch/v1beta1", "Job"), ("v1", "Job"), ("bacth/v1", "Job")):
        with pytest.raises(KubeRefused, match="Near it: Job of batch/v1"):
            await cluster.kind(api_version, kind)
    for nonsense in ("", "/", "a/b/c", "../v1", "batch/v1?x=y", "v1/../../../version"):
        with pytest.raises(KubeRefused, match="knows no kind"):
            await cluster.kind(nonsense, "Job")
    assert await cluster.kind("v1", "Pod") == Kind("", "v1", "Pod", "pods"), "and not one of its parts"


async def test_a_kind_is_asked_for_once(behind: KubeClient, proxy: FaultyProxy) -> None:
    for _ in range(3):
        for kind in ("Job", "CronJob"):
            await behind.kind("batch/v1", kind)
    assert len(proxy.asked) == 1


async def test_who_has_no_right_is_told_so(plane: ControlPlane, tmp_path: Path, cluster: KubeClient) -> None:
    assert await cluster.may("create", JOB, "team")
    async with opened(kubeconfig(tmp_path, plane.url, token=STRANGER)) as stranger:
        assert stranger.default_namespace == "team"
        assert not await stranger.may("create", JOB, "team")
        assert not await stranger.may("get", Kind("", "v1", "Pod", "pods"), "team", subresource="log")
        for call in (
            stranger.list(JOB, "team"),
            stranger.get(JOB, "team", "a"),
            stranger.create(JOB, "team", job("a")),
        ):
            with pytest.raises(KubeRefused, match='User "stranger" cannot') as refused:
                await call
            assert (refused.value.status, refused.value.reason) == (403, "Forbidden")


async def test_an_overloaded_server_says_when_to_come_again(behind: KubeClient, proxy: FaultyProxy) -> None:
    status = {"kind": "Status", "message": "too many requests", "reason": "TooManyRequests", "code": 429}
    proxy.say(Answer(429, json.dumps(status), {"Retry-After": "7"}))
    with pytest.raises(KubeUnavailable, match=r"429 TooManyRequests.*too many requests") as unavailable:
        await behind.version()
    assert unavailable.value.retry_after == 7
    proxy.say(Answer(504, json.dumps({**status, "details": {"retryAfterSeconds": 2}})))
    with pytest.raises(KubeUnavailable) as unavailable:
        await behind.version()
    assert unavailable.value.retry_after == 2
    assert await behind.version()


async def test_a_page_of_somebody_between_is_told_in_short(behind: KubeClient, proxy: FaultyProxy) -> None:
    page = "<html><head><style>x{}</style></head><body><h1>503 Service  Unavailable</h1>" + "blah " * 500
    proxy.say(Answer(503, page))
    with pytest.raises(KubeUnavailable, match=r": 503 Service Unavailable blah") as unavailable:
        await behind.version()
    assert len(str(unavailable.value)) < 400
    proxy.say(Answer(200, "<h1>Please log in</h1>"))
    with pytest.raises(KubeUnavailable, match="not JSON: Please log in"):
        await behind.version()
    proxy.say(Answer(404, "<h1>No such page</h1>"))
    with pytest.raises(KubeRefused, match="No such page"):
        await behind.get(JOB, "team", "a")


async def test_a_server_that_does_not_answer_is_not_waited_for(
    behind: KubeClient, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    await behind.version()
    monkeypatch.setattr(connection, "_CALL", aiohttp.ClientTimeout(total=None, sock_read=0.2))
    proxy.flowing.clear()
    with pytest.raises(KubeUnavailable, match="does not answer"):
        await behind.version()


async def test_a_server_that_is_not_there_is_told_with_its_address(tmp_path: Path) -> None:
    port = free_port()
    async with opened(kubeconfig(tmp_path, f"https://127.0.0.1:{port}", token="t")) as nowhere:
        for call in (nowhere.version(), nowhere.kind("batch/v1", "Job"), nowhere.get(JOB, "team", "a")):
            with pytest.raises(KubeUnavailable, match=f"127.0.0.1:{port} cannot be reached"):
                await call
        with pytest.raises(KubeUnavailable, match="cannot be reached"):
            await anext(nowhere.watch(JOB, "team", "1"))


async def test_a_certificate_of_somebody_else_is_not_trusted(plane: ControlPlane, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    control_plane.Authority(other)
    content = json.loads(Path(kubeconfig(tmp_path, plane.url, token=ADMIN)).read_text())
    content["clusters"][0]["cluster"] = {"server": plane.url, "certificate-authority": "other/ca.crt"}
    (tmp_path / "kubeconfig").write_text(json.dumps(content))
    async with opened(str(tmp_path / "kubeconfig")) as careful:
        with pytest.raises(KubeUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
            await careful.version()


async def test_expired_credentials_are_read_anew_once(plane: ControlPlane, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("expired")
    async with opened(kubeconfig(tmp_path, plane.url, tokenFile=str(tmp_path / "token"))) as ours:
        await ours._connection._current()
        ours._connection._asked_at -= 2 * connection.RENEW_SECONDS
        (tmp_path / "token").write_text(ADMIN)
        assert all(await asyncio.gather(*(ours.may("create", JOB, "team") for _ in range(20))))


async def test_credentials_that_stay_refused_are_not_asked_for_with_every_request(
    plane: ControlPlane, tmp_path: Path
) -> None:
    plugin = credentials_plugin(tmp_path, {"token": "expired"})
    async with opened(kubeconfig(tmp_path, plane.url, exec=plugin)) as ours:
        for _ in range(5):
            with pytest.raises(KubeUnavailable, match=r"does not know who we are \(Unauthorized\).*context ours"):
                await ours.version()
    assert (tmp_path / "plugin.calls").read_text() == "1\n"


def credentials_plugin(folder: Path, status: KubeObject, exit_code: int = 0) -> KubeObject:
    """Return the settings of a plugin that gives such credentials and counts its calls."""
    credential = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}
    (folder / "credential.json").write_text(json.dumps(credential))
    program = folder / "plugin"
    program.write_text(
        f"#!/bin/sh\necho 1 >> {folder}/plugin.calls\necho 'please log in' >&2\n"
        f"cat {folder}/credential.json\nexit {exit_code}\n"
    )
    program.chmod(0o755)
    return {"apiVersion": credential["apiVersion"], "command": str(program), "interactiveMode": "Never"}


async def test_a_credentials_plugin_says_who_we_are_and_until_when(plane: ControlPlane, tmp_path: Path) -> None:
    plugin = credentials_plugin(tmp_path, {"token": ADMIN, "expirationTimestamp": "2200-01-01T00:00:00Z"})
    async with opened(kubeconfig(tmp_path, plane.url, exec=plugin)) as ours:
        assert await ours.version()
        assert await ours.version()
        access = ours._connection._access
        assert access
        assert access.lasts
        assert access.lasts > 1e9
        assert ADMIN not in repr(access)
        # It is renewed before its time, and kept if that fails.
        ours._connection._asked_at -= access.lasts + 1
        credentials_plugin(tmp_path, {}, exit_code=1)
        assert await ours.version()
    assert (tmp_path / "plugin.calls").read_text() == "1\n1\n"


async def test_a_certificate_of_a_credentials_plugin_is_used(plane: ControlPlane, tmp_path: Path) -> None:
    status = {
        "clientCertificateData": (plane.folder / "admin.crt").read_text(),
        "clientKeyData": (plane.folder / "admin.key").read_text(),
    }
    async with opened(kubeconfig(tmp_path, plane.url, exec=credentials_plugin(tmp_path, status))) as ours:
        assert await ours.may("create", JOB, "team")


async def test_a_credentials_plugin_that_fails_is_told_in_its_own_words(tmp_path: Path) -> None:
    plugin = credentials_plugin(tmp_path, {}, exit_code=3)
    async with opened(kubeconfig(tmp_path, "https://127.0.0.1:1", exec=plugin)) as ours:
        for _ in range(3):
            with pytest.raises(KubeUnavailable, match=r"plugin .*/plugin failed with exit code 3: please log in"):
                await ours.version()
    assert (tmp_path / "plugin.calls").read_text() == "1\n"
    missing = {**plugin, "command": "no-such", "installHint": "Install it."}
    async with opened(kubeconfig(tmp_path, "https://127.0.0.1:1", exec=missing)) as ours:
        with pytest.raises(KubeUnavailable, match=r"no-such cannot be run: .*No such file.*Install it\."):
            await ours.version()
    for status in ({}, {"clientCertificateData": "x"}):
        plugin = credentials_plugin(tmp_path, status)
        async with opened(kubeconfig(tmp_path, "https://127.0.0.1:1", exec=plugin)) as ours:
            with pytest.raises(KubeUnavailable, match="neither a token nor a certificate"):
                await ours.version()
    for answer in ("", "[]", '{"apiVersion": "other/v1", "status": {"token": "t"}}'):
        (tmp_path / "credential.json").write_text(answer)
        async with opened(kubeconfig(tmp_path, "https://127.0.0.1:1", exec=plugin)) as ours:
            with pytest.raises(KubeUnavailable, match=r"no ExecCredential of client.authentication.k8s.io/v1"):
                await ours.version()


async def test_a_credentials_plugin_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backends.kubernetes.credentials.SECONDS", 1.0)
    program = tmp_path / "plugin"
    program.write_text(f"#!/bin/sh\nsleep 1000 & echo $$ $! > {tmp_path}/pids\nwait\n")
    program.chmod(0o755)
    plugin = {"apiVersion": "client.authentication.k8s.io/v1", "command": str(program), "interactiveMode": "Never"}
    async with opened(kubeconfig(tmp_path, "https://127.0.0.1:1", exec=plugin)) as ours:
        with pytest.raises(KubeUnavailable, match="took more than"):
            await ours.version()
    pids = tmp_path / "pids"
    for pid in pids.read_text().split() if pids.exists() else ():  # on a busy machine it may not have come so far
        await until(lambda pid=pid: not is_running(int(pid)))


def is_running(pid: int) -> bool:
    """Return whether a process is there and not dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_what_stands_in_the_kubeconfig_is_left_in_no_file(
    plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a key for others to find, nor a file whose removal ends our access."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    async with opened(str(plane.kubeconfig)) as ours:
        assert await ours.version()
        assert list(scratch.iterdir()) == []
        first = await KubeconfigFile(str(plane.kubeconfig), None).load(None)
        second = await KubeconfigFile(str(plane.kubeconfig), None).load(first)
        assert second.client is first.client, "nothing has changed, so connections stay"
        await first.client.close()


async def test_another_certificate_is_taken_up(plane: ControlPlane, tmp_path: Path) -> None:
    for name in ("one", "two"):
        plane.authority.make(name, name)
    file = tmp_path / "kubeconfig"
    plane.authority.kubeconfig(file, plane.url, "one")
    async with opened(str(file)) as ours:
        with pytest.raises(KubeRefused, match='User "one"'):
            await ours.list(JOB, "team")
        content = json.loads(file.read_text())
        plane.authority.kubeconfig(file, plane.url, "two")
        content["users"] = json.loads(file.read_text())["users"]
        content["contexts"][0]["context"]["user"] = "two"
        file.write_text(json.dumps(content))
        used = ours._connection._access
        ours._connection._asked_at -= 2 * connection.RENEW_SECONDS
        assert await ours._connection._renewed(used) is not used
        with pytest.raises(KubeRefused, match='User "two"'):
            await ours.list(JOB, "team")


async def test_a_pod_comes_by_its_service_account(
    plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, port = plane.url.removeprefix("https://").split(":")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
    pod = Pod(tmp_path)
    assert pod.namespace == "default"
    with pytest.raises(KubeUnavailable, match="the pod's service account: Service token file does not exist"):
        await pod.load(None)
    (tmp_path / "token").write_text(ADMIN)
    (tmp_path / "ca.crt").write_bytes((plane.folder / "ca.crt").read_bytes())
    (tmp_path / "namespace").write_text("ours\n")
    in_pod = KubeClient(Pod(tmp_path))
    assert in_pod.default_namespace == "ours"
    assert await in_pod.may("create", JOB, "ours")
    await in_pod.close()
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert isinstance(await find_source(None, None), Pod)
    with pytest.raises(NoCluster):
        await find_source(None, "some-context")


async def test_a_kubeconfig_that_cannot_be_used_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(NoCluster, match="config_file"):
        await KubeClient.open()
    with pytest.raises(NoCluster, match="no such file"):
        await KubeClient.open(str(tmp_path / "missing"))
    good = kubeconfig(tmp_path, "https://127.0.0.1:1")
    with pytest.raises(NoCluster, match="name elsewhere"):
        await KubeClient.open(good, "elsewhere")
    for text in ("", "[]", "a: [", "contexts: 3\ncurrent-context: a", '{"current-context": "a", "contexts": [{}]}'):
        (tmp_path / "bad").write_text(text)
        with pytest.raises(NoCluster, match="bad cannot be used"):
            await KubeClient.open(str(tmp_path / "bad"))
    (tmp_path / ".kube").mkdir()
    Path(good).rename(tmp_path / ".kube" / "config")
    assert (await find_source(None, None)).namespace == "team"
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path}/missing:{kubeconfig(tmp_path, 'https://127.0.0.1:2')}")
    assert (await find_source(None, None)).namespace == "team"


async def test_proxies_of_the_environment_are_used_and_passwords_of_netrc_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, behind: KubeClient
) -> None:
    (tmp_path / "netrc").write_text("default login somebody password else\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert await behind.may("create", JOB, "team"), "and not somebody else"
    file = KubeconfigFile(kubeconfig(tmp_path, "https://kube.test:6443"), None)

    async def proxy_of() -> object:
        access: Access = await file.load(None)
        await access.close()
        return access.client.configuration.proxy

    monkeypatch.setenv("https_proxy", "http://proxy.test:3128")
    assert await proxy_of() == "http://proxy.test:3128"
    monkeypatch.setenv("no_proxy", "kube.test")
    assert await proxy_of() is None


async def test_a_closed_client_says_so(plane: ControlPlane) -> None:
    ours = await KubeClient.open(str(plane.kubeconfig))
    await ours.version()
    events = ours.watch(JOB, "team", "")
    await anext(events)
    await ours.close()
    with pytest.raises(KubeUnavailable, match="closed"):
        async for _ in events:
            pass
    with pytest.raises(KubeUnavailable, match="closed"):
        await ours.version()
    await ours.close()


async def test_a_closed_client_leaves_nothing_open_though_the_server_has_fallen_silent(
    plane: ControlPlane, tmp_path: Path
) -> None:
    async with silenceable(plane.url) as (url, silence):
        ours = await KubeClient.open(kubeconfig(tmp_path, url, token=ADMIN))
        await asyncio.gather(ours.version(), ours.version())
        events = ours.watch(JOB, "team", "")
        await anext(events)
        port = int(url.rpartition(":")[2])
        assert len(open_sockets(port)) == 2
        silence.set()
        asking = asyncio.create_task(ours.version())
        await asyncio.sleep(0.1)  # so that it waits for its answer; if not, the test is only easier
        asking.cancel()
        await asyncio.wait([asking])
        await events.aclose()
        assert len(open_sockets(port)) == 2, "they say goodbye, and nobody answers"
        await ours.close()
        assert open_sockets(port) == []


@asynccontextmanager
async def silenceable(url: str) -> AsyncGenerator[tuple[str, asyncio.Event]]:
    """Pass on what goes to an API server and comes from it, until the event is set."""
    silence = asyncio.Event()
    serving: set[asyncio.Task[None]] = set()

    async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while (data := await source.read(2**16)) and not silence.is_set():
            target.write(data)
        if silence.is_set():
            await asyncio.Event().wait()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        serving.add(task)
        host, _, port = url.rpartition("/")[2].partition(":")
        there_reader, there_writer = await asyncio.open_connection(host, int(port))
        try:
            async with asyncio.TaskGroup() as copying:
                copying.create_task(copy(reader, there_writer))
                copying.create_task(copy(there_reader, writer))
        finally:
            for end in (writer, there_writer):
                end.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}", silence
    finally:
        server.close()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


def open_sockets(port: int) -> list[socket.socket]:
    """Return this process's sockets that are or were connected to a port of this machine."""
    found = [each for each in gc.get_objects() if isinstance(each, socket.socket) and each.fileno() != -1]
    return [each for each in found if _peer(each) == ("127.0.0.1", port)]


def _peer(connected: socket.socket) -> object:
    try:
        return connected.getpeername()
    except OSError:
        return None


async def test_the_server_is_told_which_program_asks(tmp_path: Path) -> None:
    heads: list[dict[str, str]] = []

    async def answer(request: web.Request) -> web.Response:
        heads.append(dict(request.headers))
        return web.json_response({"gitVersion": "v1.99.0"})

    application = web.Application()
    application.router.add_get("/version", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    async with opened(kubeconfig(tmp_path, f"http://127.0.0.1:{port}", token="t")) as ours:
        assert await ours.version() == "v1.99.0"
    assert heads[0]["User-Agent"].startswith("launchbay")
    await runner.cleanup()


async def test_a_log_is_passed_on_as_it_comes(behind: KubeClient, proxy: FaultyProxy) -> None:
    async def all_of(*, follow: bool = False, since: str = "") -> list[bytes]:
        return [chunk async for chunk in behind.log("team", "pod", "main", follow=follow, since=since)]

    assert await all_of() == [], "there is no such pod"
    proxy.say(Answer(200, "a\nb"))
    assert b"".join(await all_of(follow=True)) == b"a\nb"
    assert proxy.asked[-1][1] == "/api/v1/namespaces/team/pods/pod/log?container=main&timestamps=true&follow=true"
    waiting = {"kind": "Status", "reason": "BadRequest", "message": 'container "main" is waiting to start', "code": 400}
    proxy.say(Answer(400, json.dumps(waiting)))
    assert await all_of() == []
    proxy.say(Answer(500, json.dumps({**waiting, "code": 500, "message": "dial tcp: no route to host"})))
    with pytest.raises(KubeUnavailable, match="no route to host"):
        await all_of()


async def test_words_of_a_watch_that_is_cut_in_their_middle_are_not_taken_for_an_event(
    behind: KubeClient, proxy: FaultyProxy
) -> None:
    proxy.say(Answer(200, '{"type":"ADDED","object":{"metadata":{"name":"a","resourceVersion":"5"}}}\n{"type":"DELE'))
    events = behind.watch(JOB, "team", "1")
    assert [(await anext(events)).type, (await anext(events)).type] == ["BOOKMARK", "ADDED"]
    with pytest.raises(KubeUnavailable, match="cut off its watch of jobs"):
        await anext(events)


async def test_a_watched_object_that_comes_in_many_pieces_is_whole(cluster: KubeClient, namespace: str) -> None:
    version = (await cluster.list(CONFIG_MAP, namespace)).resource_version
    async with aclosing(cluster.watch(CONFIG_MAP, namespace, version)) as events:
        await anext(events)
        for name in ("a", "b"):
            await cluster.create(CONFIG_MAP, namespace, config_map(name, text=name * 900_000))
            assert (await anext(events)).object["data"] == {"text": name * 900_000}


async def test_an_error_in_a_watch_is_what_it_would_be_as_an_answer(behind: KubeClient, proxy: FaultyProxy) -> None:
    for code, kind in ((410, WatchExpired), (500, KubeUnavailable), (403, KubeRefused)):
        status = {"kind": "Status", "message": "so it is", "code": code}
        proxy.say(Answer(200, json.dumps({"type": "ERROR", "object": status})))
        events = behind.watch(JOB, "team", "1")
        await anext(events)
        with pytest.raises(kind, match="so it is"):
            await anext(events)
        proxy.say(Answer(code, json.dumps(status)))
        with pytest.raises(kind, match="so it is"):
            await anext(behind.watch(JOB, "team", "1"))


async def test_a_reflector_survives_whatever_is_between(
    behind: KubeClient, cluster: KubeClient, proxy: FaultyProxy, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reflector, "SILENCE_SECONDS", 2.0)
    monkeypatch.setattr(reflector, "LAST_PAUSE_SECONDS", 0.5)
    seen = Seen()
    async with watching(behind, CONFIG_MAP, namespace, seen) as watcher:
        await watcher.synced()
        await cluster.create(CONFIG_MAP, namespace, config_map("first"))
        await until(lambda: "first" in watcher.objects)
        proxy.cut()
        await cluster.create(CONFIG_MAP, namespace, config_map("cut"))
        await until(lambda: "cut" in watcher.objects)
        proxy.say(Answer(429, "busy", {"Retry-After": "1"}))
        proxy.say(Answer(500, "oh"), times=2)
        proxy.say(Answer(410, "gone"))
        proxy.cut()
        await cluster.delete(CONFIG_MAP, namespace, "first", propagation="Background")
        await until(lambda: "first" not in watcher.objects and not proxy.answers)
        proxy.flowing.clear()
        await cluster.create(CONFIG_MAP, namespace, config_map("frozen"))
        await asyncio.sleep(0.1)
        assert "frozen" not in watcher.objects
        await until(lambda: proxy.asked[-1][1].startswith(f"/api/v1/namespaces/{namespace}/configmaps?limit"))
        proxy.flowing.set()
        await until(lambda: "frozen" in watcher.objects and watcher.is_synced)
        assert seen.names == ["first", "cut", "-first", "frozen"]
        assert "managedFields" not in watcher.objects["cut"]["metadata"]


async def test_a_reflector_survives_the_server_and_its_memory(
    plane: ControlPlane, cluster: KubeClient, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is killed, comes back without its history, and knows us by another token."""
    monkeypatch.setattr(reflector, "LAST_PAUSE_SECONDS", 0.5)
    monkeypatch.setattr(connection, "RENEW_SECONDS", 0.2)
    (tmp_path / "token").write_text("before")
    seen = Seen()
    async with (
        opened(kubeconfig(tmp_path, plane.url, tokenFile=str(tmp_path / "token"))) as ours,
        watching(ours, CONFIG_MAP, namespace, seen) as watcher,
    ):
        for name in ("a", "b"):
            await cluster.create(CONFIG_MAP, namespace, config_map(name))
        await until(lambda: len(watcher.objects) == 2)
        await asyncio.to_thread(plane.kill)
        await until(lambda: not watcher.is_synced)
        assert isinstance(watcher.error, KubeUnavailable)
        assert sorted(watcher.objects) == ["a", "b"], "away does not mean gone"
        (tmp_path / "tokens.csv").write_text(PEOPLE + "after,us,3,system:masters\n")
        await asyncio.to_thread(plane.start, "--token-auth-file", str(tmp_path / "tokens.csv"))
        await cluster.delete(CONFIG_MAP, namespace, "a", propagation="Background")
        await cluster.create(CONFIG_MAP, namespace, config_map("c"))
        await until(lambda: "does not know who we are" in str(watcher.error))
        (tmp_path / "token").write_text("after")
        await until(lambda: watcher.is_synced and sorted(watcher.objects) == ["b", "c"])
        assert sorted(seen.names) == ["-a", "a", "b", "c"]

        async def expired() -> None:
            async for _ in cluster.watch(CONFIG_MAP, namespace, "1"):
                pass

        with pytest.raises(WatchExpired, match="too old resource version"):
            await asyncio.wait_for(expired(), SECONDS)
