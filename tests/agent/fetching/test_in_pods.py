"""Code that is fetched in a real pod, under accounts of its own: the job runs with it, or does not start.

The container that fetches has this machine's programs, the agent's among them, in place of an image of the agent.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestServer

from agent.fetching.source import CodeSource, Version, written
from backends.base import Code, StartRequest
from backends.kubernetes.manifest import plan
from backends.kubernetes.settings import Settings
from tests.agent.test_artifact_cache import FakeServer
from tests.agent.test_environments import BACKEND, PYPROJECT
from tests.clusters import PYTHON, Cluster

ROOT = Path(__file__).parents[3]
LAUNCHBAY = Path(sys.executable).parent / "launchbay"
MACHINE = [path for path in ("/usr", "/lib", "/lib64", "/bin", sys.base_prefix, str(ROOT)) if Path(path).exists()]
SECONDS = 240
JOB = """
import os, local_thing
open("train.py", "a").write("#")  # it is the job's own
open("package/written", "w").close()
print("in", os.getcwd(), "as", os.getuid())
"""


@dataclass
class Pods:
    """A namespace, and the server that pods reach."""

    cluster: Cluster
    namespace: str
    server: FakeServer
    url: str

    async def kubectl(self, *arguments: str, given: Any = None) -> str:
        text = json.dumps(given) if given else ""
        return await asyncio.to_thread(self.cluster.kubectl, *arguments, "--namespace", self.namespace, given=text)

    async def run(self, *, has_requirements: bool) -> dict[str, Any]:
        """Run a job to its end; returns by its containers how they ended."""
        source = written(CodeSource(code=Version("QQ==", "d1")))
        request = StartRequest(
            name="a-launch",
            command=("python", "train.py"),
            environment={"WANDB_BASE_URL": self.url},
            secrets={"WANDB_API_KEY": "a-key-that-nobody-may-see"},
            image=PYTHON,
            code=Code(source, has_requirements=has_requirements),
        )
        made = plan(request, Settings(fetch_image=PYTHON), None, self.namespace, "owner")
        job: Any = json.loads(json.dumps(made.object))
        self._lend_machine(job["spec"]["template"]["spec"])
        for each in (made.secret, job):
            await self.kubectl("create", "--filename", "-", given=each)
        ended = "--for=jsonpath={.status.conditions[-1].status}=True"
        name = job["metadata"]["name"]
        await self.kubectl("wait", f"job/{name}", ended, f"--timeout={SECONDS}s")
        pods = json.loads(await self.kubectl("get", "pods", "--selector", f"job-name={name}", "--output", "json"))
        status = pods["items"][0]["status"]
        containers = [*status["initContainerStatuses"], *status["containerStatuses"]]
        return {each["name"]: each["state"] for each in containers}

    def _lend_machine(self, pod: dict[str, Any]) -> None:
        fetching = pod["initContainers"][0]
        fetching["command"][0] = str(LAUNCHBAY)
        fetching.setdefault("securityContext", {})["runAsUser"] = 12345  # which nobody knows
        for number, path in enumerate(MACHINE):
            pod["volumes"].append({"name": f"machine{number}", "hostPath": {"path": path}})
            fetching["volumeMounts"].append({"name": f"machine{number}", "mountPath": path, "readOnly": True})


@pytest.fixture(name="namespace")
def _namespace(kube_cluster: Cluster) -> Iterator[str]:
    with kube_cluster.namespace() as name:
        yield name


@pytest.fixture(name="pods")
async def _pods(kube_cluster: Cluster, namespace: str) -> AsyncIterator[Pods]:
    if kube_cluster.machine is None:
        pytest.skip("which address of this machine pods reach is known of the tests' own cluster alone")
    fake = FakeServer()
    async with TestServer(fake.app(), host=kube_cluster.machine) as server:
        yield Pods(kube_cluster, namespace, fake, str(server.make_url("")).rstrip("/"))


async def test_a_job_finds_its_code_and_what_it_requires_whoever_has_fetched_it(pods: Pods) -> None:
    """Accounts differ, and none has capabilities: so everything depends on the modes of files."""
    pods.server.files = {
        "train.py": JOB.encode(),
        "requirements.txt": b"./package\n",
        "package/pyproject.toml": PYPROJECT.format(name="local-thing", more="").encode(),
        "package/backend.py": BACKEND.format(value=42, more="").encode(),
    }
    ended = await pods.run(has_requirements=True)
    said = await pods.kubectl("logs", "--selector", "launchbay.dev/launch=a-launch", "--container", "launch0")
    assert said == "in /mnt/wandb as 0\n"
    assert {name: state["terminated"]["exitCode"] for name, state in ended.items()} == {
        "wandb-source-code-init": 0,
        "wandb-requirements-init": 0,
        "launch0": 0,
    }


async def test_a_job_whose_code_cannot_be_fetched_does_not_start_and_its_pod_says_why(pods: Pods) -> None:
    pods.server.damaged = "main.py"
    ended = await pods.run(has_requirements=False)
    assert "arrived damaged" in ended["wandb-source-code-init"]["terminated"]["message"]
    assert "terminated" not in ended["launch0"]
