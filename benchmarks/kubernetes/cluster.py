"""A control plane of its own for each measure: etcd, API server, controllers and scheduler, and a node that is played.

The node is a process of its own (`tests.cluster.kubelet_double`): its pods run as soon as they are bound to it.
"""

import asyncio
import os
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.kubernetes.access import find_source
from backends.kubernetes.client import KubeClient
from backends.kubernetes.connection import Connection
from benchmarks import processes
from tests.cluster import control_plane, kubelet_double

LOOK_SECONDS = 0.5
PODS, JOBS = "/api/v1/namespaces/default/pods", "/apis/batch/v1/namespaces/default/jobs"
ACCOUNTS = "/api/v1/namespaces/default/serviceaccounts"
PAGE = 500
_WATCHES = re.compile(
    r'apiserver_longrunning_requests\{.*group="(\w*)",resource="(\w+)",scope="namespace".*"WATCH".*\} (\d+)'
)


@dataclass(frozen=True, slots=True)
class Cluster:
    """A control plane that answers, and how to look at it."""

    plane: control_plane.ControlPlane
    client: KubeClient
    connection: Connection

    @property
    def kubeconfig(self) -> str:
        """The file with an administrator's access."""
        return str(self.plane.kubeconfig)

    async def all_run(self, pods: int) -> None:
        """Wait until so many pods run, and none is to run yet."""
        while True:
            query = {"fieldSelector": "status.phase=Pending", "limit": "1"}
            pending = (await self.connection.call("GET", PODS, query=query))["items"]
            if not pending and await self._count(PODS) >= pods:
                return
            await asyncio.sleep(LOOK_SECONDS)

    async def names(self, path: str) -> dict[str, str]:
        """Return the UIDs of all objects that a path has, by their names."""
        return {each["metadata"]["name"]: each["metadata"]["uid"] for each in await self.objects(path)}

    async def objects(self, path: str) -> list[Any]:
        """Return all objects that a path has."""
        query, found = {"limit": str(PAGE)}, list[Any]()
        while True:
            page = await self.connection.call("GET", path, query=query)
            found += page["items"]
            if not page["metadata"].get("continue"):
                return found
            query["continue"] = page["metadata"]["continue"]

    async def some(self, path: str, number: int) -> list[Any]:
        """Return the first objects that a path has."""
        return (await self.connection.call("GET", path, query={"limit": str(number)}))["items"]

    async def finish(self, pod: Any) -> None:
        """Have a pod end well."""
        await kubelet_double.finish(self.connection, pod)

    async def _count(self, path: str) -> int:
        page = await self.connection.call("GET", path, query={"limit": "1"})
        return len(page["items"]) + page["metadata"].get("remainingItemCount", 0)

    async def watches(self) -> int:
        """Return how many watches of one kind there are in a namespace; of the kind that has most."""
        metrics = await asyncio.to_thread(self.plane.get, "/metrics")
        counts = {found[2]: int(found[3]) for found in _WATCHES.finditer((metrics or b"").decode())}
        return max(
            (count for kind, count in counts.items() if kind in {"jobs", "pods", "events", "secrets"}), default=0
        )


@asynccontextmanager
async def cluster(folder: Path) -> AsyncGenerator[Cluster]:
    """Run a control plane and its node while the block runs."""
    with control_plane.running(with_controllers=True) as plane:  # blocks, and nothing else goes on yet
        source = await find_source(str(plane.kubeconfig), None)
        client, connection = KubeClient(source), Connection(source)
        command = ["python", "-m", "tests.cluster.kubelet_double", str(plane.folder), "--at-once", "40"]
        node = processes.start(command, os.environ, folder / "node.log")
        try:
            here = Cluster(plane, client, connection)
            while not (await here.names("/api/v1/nodes") and "default" in await here.names(ACCOUNTS)):
                await asyncio.sleep(LOOK_SECONDS)
            yield here
        finally:
            await processes.end(node)
            await connection.close()
            await client.close()
