"""Images that are really built in a cluster: by rootless BuildKit in a pod, from code that the pod fetches, into a
registry that wants a login. The platform that would run them is fake, and told of it.

The container that fetches has this machine's programs, the agent's among them, in place of an image of the agent.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, cast

import pytest
from aiohttp.test_utils import TestServer

from agent.building.credentials import Credential
from agent.building.registry import pushed_digest
from agent.caches.artifacts import ArtifactCache, ArtifactVersion
from agent.caches.manifest import File
from agent.resolve import JOB_FILE
from backends.base import Capabilities
from backends.fake import Behavior, FakeBackend
from backends.kubernetes.api import KubeObject
from backends.kubernetes.builds import Order, manifest
from protocol.names import ArtifactName
from tests import engines
from tests.agent.building import parts
from tests.agent.fetching.test_in_pods import LAUNCHBAY, MACHINE
from tests.agent.test_artifact_cache import FakeServer
from tests.agent.world import World, until, world
from tests.cluster import buildkit_image
from tests.clusters import PYTHON, Cluster

ELSEWHERE = Capabilities(runs_images=True, needs_image=True)
LAUNCH: dict[str, Any] = {"job": "admin/p/train:v1", "overrides": {}}
LOGIN = Credential(parts.USER, parts.PASSWORD)
SECONDS = 180.0


@dataclass
class Job:
    """A job whose code is what the server has, in the place of the cache of artifacts."""

    folder: Path
    server: FakeServer
    version: int = 0

    def write(self, dockerfile: str) -> None:
        """Make another version of its code, with this Dockerfile."""
        self.version += 1
        self.server.files = {
            "Dockerfile.wandb": dockerfile.encode(),
            "busybox": engines.BUSYBOX.read_bytes(),
            "train.sh": str(self.folder).encode(),
        }
        (self.folder / "job").mkdir(exist_ok=True)
        source = {"artifact": "wandb-artifact://_id/QQ==", "entrypoint": ["sh", "train.sh"]}
        (self.folder / "job" / JOB_FILE).write_text(json.dumps({"source_type": "artifact", "source": source}))
        for name, content in self.server.files.items():
            self._code.mkdir(exist_ok=True)
            (self._code / name).write_bytes(content)

    @property
    def _code(self) -> Path:
        return self.folder / f"code-{self.version}"

    async def find(self, name: ArtifactName) -> ArtifactVersion:
        return ArtifactVersion("job", "")

    async def by_id(self, artifact_id: str) -> ArtifactVersion:
        return ArtifactVersion("QQ==", "d1")

    async def fetch(self, version: ArtifactVersion, *_: object) -> Path:
        return self.folder / "job" if version.id == "job" else self._code

    async def files(self, *_: object) -> list[File]:
        return [File(name, PurePosixPath(name), len(data), "") for name, data in self.server.files.items()]


@dataclass
class Place:
    """Where builds run, with all that they need."""

    cluster: Cluster
    namespace: str
    repository: str
    job: Job
    config: dict[str, Any] = field(default_factory=dict[str, Any])

    async def left(self) -> str:
        """Return what there is in the namespace, but for what every namespace has."""
        kinds = ("get", "jobs,pods,secrets", "--output", "name", "--namespace", self.namespace)
        return await asyncio.to_thread(self.cluster.kubectl, *kinds)


@pytest.fixture(name="namespace")
def _namespace(kube_cluster: Cluster) -> Iterator[str]:
    with kube_cluster.namespace() as name:
        yield name


@pytest.fixture(name="place")
async def _place(
    kube_cluster: Cluster, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Place]:
    if kube_cluster.machine is None:
        pytest.skip("an image of BuildKit can be brought into the tests' own cluster alone")
    if why := buildkit_image.missing():
        pytest.skip(why)
    monkeypatch.setattr("tests.agent.world.LIMIT_SECONDS", SECONDS)
    monkeypatch.setattr("backends.kubernetes.builds.running.job_of", lending)
    archive = await asyncio.to_thread(buildkit_image.write, tmp_path / "buildkit.tar")
    await asyncio.to_thread(kube_cluster.import_image, archive)
    (tmp_path / "password").write_text(parts.PASSWORD)
    fake = FakeServer()
    with parts.registry(tmp_path, is_private=True, address=kube_cluster.machine) as host:
        async with TestServer(fake.app(), host=kube_cluster.machine) as server:
            place = Place(kube_cluster, namespace, f"{host}/team/jobs", Job(tmp_path, fake))
            place.config = {
                "builder": {
                    "type": "kaniko",
                    "destination": place.repository,
                    "insecure_registry": True,
                    "user": parts.USER,
                    "password_file": str(tmp_path / "password"),
                    "namespace": namespace,
                    "image": buildkit_image.NAME,
                    "kaniko-config": {"spec": {"template": {"metadata": {"labels": {"team": "a"}}}}},
                },
                "job_base_url": str(server.make_url("")).rstrip("/"),
            }
            yield place


def lending(order: Order) -> KubeObject:
    """Return the Job of an order, whose first container has this machine's programs."""
    job = manifest.job_of(order)
    pod = job["spec"]["template"]["spec"]
    (fetching,) = pod["initContainers"]
    fetching["command"][0] = str(LAUNCHBAY)
    for number, path in enumerate(MACHINE):
        pod["volumes"].append({"name": f"machine{number}", "hostPath": {"path": path}})
        fetching["volumeMounts"].append({"name": f"machine{number}", "mountPath": path, "readOnly": True})
    return job


async def test_an_image_is_built_in_a_pod_and_used_again_and_a_failing_step_is_quoted(
    place: Place, tmp_path: Path
) -> None:
    place.job.write(
        "FROM scratch\nCOPY --chmod=755 busybox /bin/sh\nCOPY train.sh /work/\n"
        'RUN ["/bin/sh", "-c", "echo a step of $((6 * 7))"]\n'
    )
    async with world(tmp_path / "world") as made:
        made.behave("p", Behavior(seconds=0.05, output=b"the job itself\n"))
        kubernetes = {"config_file": str(place.cluster.kubeconfig), "fetch_image": PYTHON}
        made.config["backends"] = {"kubernetes": kubernetes}
        async with made.agent(**place.config, max_jobs=3) as daemon:
            context = daemon._context
            context.artifacts = cast(ArtifactCache, place.job)
            context.backends = {"local-process": FakeBackend(made.platform, ELSEWHERE)}
            items = [await made.push(**LAUNCH) for _ in range(2)]
            for item in items:
                ended = await made.in_state(item, "FAILED", "FINISHED")
                assert ended["exitCode"] == 0, ended
            await check_image(place, made, items)
            place.job.write(
                'FROM scratch\nCOPY --chmod=755 busybox /bin/sh\nRUN ["/bin/sh", "-c", "echo no coffee; exit 3"]\n'
            )
            item = await made.push(**LAUNCH)
            error = (await made.in_state(item, "FAILED", "FINISHED"))["error"]
            assert """at step '[2/2] RUN ["/bin/sh", "-c", "echo no coffee; exit 3"]'""" in error["message"]
            assert b"no coffee\n" in await made.output(item)

            async def is_tidy() -> bool:
                return not await place.left()

            await until(is_tidy, "nothing is left in the cluster")


async def check_image(place: Place, made: World, items: list[str]) -> None:
    """Check that two launches run one image, which is in the registry, and that the first tells of its build."""
    first, second = (request.image or "" for request in made.platform.started)
    assert first == second
    name, _, digest = first.partition("@")
    assert name.startswith(f"{place.repository}:")
    assert await pushed_digest(name, LOGIN, is_insecure=True) == digest
    assert await pushed_digest(f"{place.repository}:buildcache", LOGIN, is_insecure=True), "its steps are kept"
    logs = [await made.output(item) for item in items]
    assert sorted(b"a step of 42" in log for log in logs) == [False, True]
    assert all(log.endswith(b"the job itself\n") for log in logs)
    assert not any(parts.PASSWORD.encode() in log for log in logs)
