"""A cluster in memory with what builds have: Jobs, each with a pod, and Secrets. Tests say how its pods are."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from copy import deepcopy
from typing import Any, cast

from backends.kubernetes.api import Kind, KubeApi, KubeObject, KubeRefused, KubeUnavailable, Listing, Trim

SAID = b"2026-01-01T00:00:0%d.000000000Z %s\n"


class FakeCluster:
    """What of `KubeApi` a build uses."""

    default_namespace = "default"

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], KubeObject] = {}
        """By kind and name."""
        self.made: list[str] = []
        """The kinds of all that was ever made."""
        self.pods: dict[str, KubeObject] = {}
        """Their status, by the UID of their Job."""
        self.says: list[bytes] = []
        """The lines of every builder."""
        self.events: list[KubeObject] = []
        self.is_away = False
        self.may_not: set[tuple[str, str]] = set()
        """Verbs and kinds that are forbidden."""
        self.before_delete: Callable[[], object] = lambda: None
        self._version = 0

    @property
    def api(self) -> KubeApi:
        """It as a client sees it."""
        return cast("KubeApi", self)

    def job(self) -> KubeObject | None:
        """Return the Job, if there is one."""
        return next((each for (kind, _), each in self.objects.items() if kind == "Job"), None)

    def set_pod(self, phase: str, *, init: KubeObject | None = None, main: KubeObject | None = None) -> None:
        """Say how the Job's pod is."""
        job = self.job()
        assert job
        status: KubeObject = {"phase": phase}
        status["initContainerStatuses"] = [{"name": "fetch", "state": init or {"terminated": {"exitCode": 0}}}]
        if main:
            status["containerStatuses"] = [{"name": "build", "state": main}]
        self.pods[job["metadata"]["uid"]] = status

    def end(self, condition: str, exit_code: int = 0, **more: Any) -> None:
        """End the Job and its pod."""
        state = {"terminated": {"exitCode": exit_code, "finishedAt": "2026-01-01T00:00:05Z", **more}}
        self.set_pod("Succeeded" if condition == "Complete" else "Failed", main=state)
        job = self.job()
        assert job
        job["status"] = {"conditions": [{"type": condition, "status": "True", "reason": "BackoffLimitExceeded"}]}
        self._touch(job)

    async def create(self, kind: Kind, namespace: str, manifest: KubeObject) -> KubeObject:
        """See `KubeApi.create`."""
        await self._asked("create", kind)
        key = (kind.kind, manifest["metadata"]["name"])
        if key in self.objects:
            raise KubeRefused("there is one", status=409, reason="AlreadyExists")
        made = deepcopy(manifest)
        self._touch(made)
        made["metadata"]["uid"] = f"uid-{made['metadata']['resourceVersion']}"
        self.objects[key] = made
        self.made.append(kind.kind)
        return deepcopy(made)

    async def get(self, kind: Kind, namespace: str, name: str) -> KubeObject | None:
        """See `KubeApi.get`."""
        await self._asked("get", kind)
        return deepcopy(self.objects.get((kind.kind, name)))

    async def patch(self, kind: Kind, namespace: str, name: str, patch: Mapping[str, Any]) -> KubeObject | None:
        """See `KubeApi.patch`; of annotations alone."""
        await self._asked("patch", kind)
        found = self.objects.get((kind.kind, name))
        if found is None:
            return None
        if patch["metadata"].get("uid", found["metadata"]["uid"]) != found["metadata"]["uid"]:
            raise KubeRefused("Precondition failed: UID", status=409, reason="Conflict")
        annotations = found["metadata"].setdefault("annotations", {})
        for key, value in patch["metadata"]["annotations"].items():
            annotations.pop(key, None)
            if value is not None:
                annotations[key] = value
        self._touch(found)
        return deepcopy(found)

    async def delete(
        self, kind: Kind, namespace: str, name: str, *, uid: str, resource_version: str | None = None, **_: Any
    ) -> bool:
        """See `KubeApi.delete`. What belongs to it goes, too."""
        await self._asked("delete", kind)
        self.before_delete()
        about = self.objects.get((kind.kind, name), {"metadata": {}})["metadata"]
        if about.get("uid") != uid or resource_version not in {None, about["resourceVersion"]}:
            return False
        self.objects = {
            key: each
            for key, each in self.objects.items()
            if each["metadata"]["uid"] != uid
            and not any(owner["uid"] == uid for owner in each["metadata"].get("ownerReferences", []))
        }
        self.pods.pop(uid, None)
        return True

    async def list(
        self, kind: Kind, namespace: str, *, labels: str = "", fields: str = "", trim: Trim | None = None
    ) -> Listing:
        """See `KubeApi.list`."""
        await self._asked("list", kind)
        if kind.kind == "Event":
            return Listing(deepcopy(self.events), "1")
        listed = [_pod(uid, status) for uid, status in self.pods.items()]
        return Listing([trim(each) if trim else each for each in listed], "1")

    async def log(
        self, namespace: str, pod: str, container: str, *, follow: bool = False, since: str = ""
    ) -> AsyncGenerator[bytes]:
        """See `KubeApi.log`."""
        if container == "build":
            for number, line in enumerate(self.says):
                yield SAID % (number, line)

    def _touch(self, made: KubeObject) -> None:
        self._version += 1
        made["metadata"]["resourceVersion"] = str(self._version)

    async def _asked(self, verb: str, kind: Kind) -> None:
        await asyncio.sleep(0)
        if self.is_away:
            raise KubeUnavailable("the cluster is away")
        if (verb, kind.kind) in self.may_not:
            raise KubeRefused(f"{kind.plural} is forbidden", status=403, reason="Forbidden")


def _pod(uid: str, status: KubeObject) -> KubeObject:
    owner = {"kind": "Job", "uid": uid, "controller": True}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"pod-of-{uid}",
            "uid": f"pod-{uid}",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "ownerReferences": [owner],
        },
        "spec": {
            "nodeName": "a-node",
            "restartPolicy": "Never",
            "initContainers": [{"name": "fetch", "image": "f"}],
            "containers": [{"name": "build", "image": "b"}],
        },
        "status": status,
    }
