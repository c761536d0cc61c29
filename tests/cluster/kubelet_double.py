"""Plays a node to a control plane: its pods run and end by what it says of them, and no container is ever there.

    python -m tests.cluster.kubelet_double FOLDER [--at-once 20]

It is for many pods. Scheduler and controllers are the real ones, and see what a kubelet would tell them: a node that is
ready and renews its lease, pods that run as soon as they are bound to it, and that are gone when somebody deletes them.
Whoever reads what they print gets a line. FOLDER is that of the control plane.
"""

import argparse
import asyncio
import ssl
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

from backends.kubernetes.access import find_source
from backends.kubernetes.api import KubeRefused, KubeUnavailable
from backends.kubernetes.connection import Connection
from tests.cluster.control_plane import ADMIN
from tests.engines import free_port

NODE, ADDRESS = "double", "127.0.0.1"
LEASE_SECONDS = 5.0
AGAIN_SECONDS = 0.5
PAGE = 500
ROOM = {"cpu": "1000000", "memory": "1000000Gi", "ephemeral-storage": "1000000Gi", "pods": "1000000"}
NODES, LEASES = "/api/v1/nodes", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
MERGE = "application/strategic-merge-patch+json"


class KubeletDouble:
    """The node, as long as `run` runs. Pods that exist when it begins are its own, too."""

    def __init__(self, connection: Connection, folder: Path, at_once: int) -> None:
        """At most so many pods are told of at once, which bounds the rate."""
        self._connection = connection
        self._folder = folder
        self._port = free_port()
        self._room = asyncio.Semaphore(at_once)
        self._told: set[tuple[str, str]] = set()
        """By UID, and what was told of it."""
        self._ended: dict[str, asyncio.Event] = {}
        """Pods by name."""

    async def join(self) -> None:
        """Become a node of the cluster."""
        with suppress(KubeRefused):  # it is one already
            node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}
            await self._connection.call("POST", NODES, body=node)
            lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": NODE}}
            spec = {"holderIdentity": NODE, "leaseDurationSeconds": 40}
            await self._connection.call("POST", LEASES, body={**lease, "spec": {**spec, "renewTime": _now(micro=True)}})
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": _now()}
        status = {
            "capacity": ROOM,
            "allocatable": ROOM,
            "conditions": [ready],
            "addresses": [{"type": "InternalIP", "address": ADDRESS}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self._port}},
        }
        await self._patch(f"{NODES}/{NODE}/status", {"status": status})

    async def run(self) -> None:
        """Play the node until this is cancelled."""
        await self.join()
        async with self._serving(), asyncio.TaskGroup() as tasks:
            tasks.create_task(self._renew())
            while True:
                with suppress(KubeUnavailable):
                    await self._follow(tasks)
                await asyncio.sleep(AGAIN_SECONDS)

    @asynccontextmanager
    async def _serving(self) -> AsyncGenerator[None]:
        app = web.Application()
        app.router.add_get("/containerLogs/{namespace}/{pod}/{container}", self._log)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
        await runner.setup()
        security = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        security.load_cert_chain(self._folder / "api-server.crt", self._folder / "api-server.key")
        await web.TCPSite(runner, ADDRESS, self._port, ssl_context=security).start()
        try:
            yield
        finally:
            await runner.cleanup()

    async def _log(self, request: web.Request) -> web.StreamResponse:
        """Answer with a line, and stay if somebody wants to read on, until the pod has ended."""
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(f"{_now(micro=True)} hello\n".encode())
        if "follow" in request.query and (ended := self._ended.get(request.match_info["pod"])):
            await ended.wait()
        return response

    async def _renew(self) -> None:
        while True:
            with suppress(KubeUnavailable):
                await self._patch(f"{LEASES}/{NODE}", {"spec": {"renewTime": _now(micro=True)}})
            await asyncio.sleep(LEASE_SECONDS)

    async def _follow(self, tasks: asyncio.TaskGroup) -> None:
        """Take in all pods, and what becomes of them until the watch ends."""
        chosen = {"fieldSelector": f"spec.nodeName={NODE}"}
        query = {**chosen, "limit": str(PAGE)}
        while True:
            page = await self._connection.call("GET", "/api/v1/pods", query=query)
            for pod in page["items"]:
                self._see(pod, tasks)
            if not page["metadata"].get("continue"):
                break
            query["continue"] = page["metadata"]["continue"]
        since = {"watch": "true", "resourceVersion": page["metadata"]["resourceVersion"]}
        async with aclosing(self._connection.lines("/api/v1/pods", {**chosen, **since})) as lines:
            async for line in lines:
                event: Any = orjson.loads(line) if line else {"type": "BOOKMARK"}
                if event["type"] == "ERROR":
                    return
                if event["type"] == "DELETED":
                    self._ended.pop(event["object"]["metadata"]["name"], asyncio.Event()).set()
                    self._told -= {(event["object"]["metadata"]["uid"], word) for word in ("runs", "leaves")}
                elif event["type"] != "BOOKMARK":
                    self._see(event["object"], tasks)

    def _see(self, pod: Any, tasks: asyncio.TaskGroup) -> None:
        uid, phase = pod["metadata"]["uid"], pod["status"].get("phase")
        ended = self._ended.setdefault(pod["metadata"]["name"], asyncio.Event())
        if phase in {"Succeeded", "Failed"}:
            ended.set()
        if "deletionTimestamp" in pod["metadata"]:
            word, work = "leaves", self._remove
        elif phase == "Pending":
            word, work = "runs", self._start
        else:
            return
        if (uid, word) not in self._told:
            self._told.add((uid, word))
            tasks.create_task(self._do(work(pod), (uid, word)))

    async def _do(self, work: Any, what: tuple[str, str]) -> None:
        async with self._room:
            try:
                await work
            except KubeUnavailable:
                self._told.discard(what)  # the next list shows it again
            except KubeRefused as error:
                if error.status not in {404, 409}:  # it is gone, or another of its name is there
                    raise

    async def _start(self, pod: Any) -> None:
        now = _now()
        containers = _statuses(pod, {"running": {"startedAt": now}}, is_up=True)
        words = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady")
        conditions = [{"type": word, "status": "True", "lastTransitionTime": now} for word in words]
        status = {"phase": "Running", "startTime": now, "podIP": "10.0.0.1", "hostIP": "10.0.0.2"}
        status |= {"conditions": conditions, "containerStatuses": containers}
        await self._patch(f"{_path(pod)}/status", {"metadata": {"uid": pod["metadata"]["uid"]}, "status": status})

    async def _remove(self, pod: Any) -> None:
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": pod["metadata"]["uid"]}}
        await finish(self._connection, pod, 143)
        await self._connection.call("DELETE", _path(pod), body=body)

    async def _patch(self, path: str, body: Any) -> None:
        await self._connection.call("PATCH", path, body=body, content_type=MERGE)


async def finish(connection: Connection, pod: Any, exit_code: int = 0) -> None:
    """Have a pod be over, with all of its containers."""
    now = _now()
    started = pod["status"].get("startTime", now)
    end = {
        "exitCode": exit_code,
        "reason": "Error" if exit_code else "Completed",
        "startedAt": started,
        "finishedAt": now,
    }
    containers = _statuses(pod, {"running": None, "terminated": end}, is_up=False)
    status = {"phase": "Failed" if exit_code else "Succeeded", "containerStatuses": containers}
    body = {"metadata": {"uid": pod["metadata"]["uid"]}, "status": status}
    await connection.call("PATCH", f"{_path(pod)}/status", body=body, content_type=MERGE)


@asynccontextmanager
async def running(folder: Path, at_once: int = 20) -> AsyncGenerator[None]:
    """Play the node of the control plane in a folder while the block runs."""
    connection = Connection(await find_source(str(folder / f"{ADMIN}.kubeconfig"), None))
    task = asyncio.create_task(KubeletDouble(connection, folder, at_once).run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await connection.close()


def _statuses(pod: Any, state: Any, *, is_up: bool) -> list[Any]:
    """Return what a kubelet would say of the containers of a pod."""
    return [
        {
            "name": container["name"],
            "image": container["image"],
            "imageID": container["image"],
            "containerID": f"containerd://{container['name']}",
            "restartCount": 0,
            "ready": is_up,
            "started": is_up,
            "state": state,
        }
        for container in pod["spec"]["containers"]
    ]


def _path(pod: Any) -> str:
    return f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"


def _now(*, micro: bool = False) -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ" if micro else "%Y-%m-%dT%H:%M:%SZ")


async def _play(folder: Path, at_once: int) -> None:
    async with running(folder, at_once):
        await asyncio.Event().wait()


def main() -> None:
    """Play a node until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--at-once", type=int, default=20, help="of how many pods the API server is told at once")
    given = parser.parse_args()
    with suppress(KeyboardInterrupt):
        asyncio.run(_play(given.folder, given.at_once))


if __name__ == "__main__":
    main()
