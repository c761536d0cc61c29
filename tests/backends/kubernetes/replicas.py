"""A cluster in memory, with the objects of one kind, that breaks down as real ones do."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from copy import deepcopy
from typing import Any, Literal

from backends.kubernetes.api import Kind, KubeObject, KubeUnavailable, Listing, Trim, WatchEvent, WatchExpired

JOB = Kind("batch", "v1", "Job", "jobs")
BOOKMARK_SECONDS = 60.0
LATENCY_SECONDS = 0.01

Change = Literal["ADDED", "MODIFIED", "DELETED"]


class Replica:
    """What of `KubeApi` a reflector uses. Everything takes a moment, and what is listed is as of its beginning."""

    def __init__(self) -> None:
        self.objects: dict[str, KubeObject] = {}
        self.version = 1
        self.uids = 0
        self.changes: list[tuple[int, Change, KubeObject]] = []
        self.forgotten = 0
        """Changes up to this version are no longer known."""
        self.is_away = False
        self.is_frozen = False
        """The watches of now are silent for ever, and so are those that are begun."""
        self.ends_at_once = False
        """Watches end as the last ones did, as soon as they have begun."""
        self.list_errors: deque[Exception] = deque()
        self.lists: list[float] = []
        """When each was asked for."""
        self.watches: list[tuple[float, str]] = []
        """When each was asked for, and from which version."""
        self._happened = asyncio.Event()
        self._ended: Exception | None = None
        self._endings = 0

    def put(self, name: str, **fields: Any) -> None:
        """Make or change an object."""
        self.version += 1
        old = self.objects.get(name)
        if old is None:
            self.uids += 1
        uid = old["metadata"]["uid"] if old else f"uid-{self.uids}"
        self.objects[name] = {
            "metadata": {"name": name, "uid": uid, "resourceVersion": str(self.version), "managedFields": [1]},
            **fields,
        }
        self._tell("MODIFIED" if old else "ADDED", self.objects[name])

    def delete(self, name: str) -> None:
        """Delete an object, if it is there."""
        if name in self.objects:
            self.version += 1
            gone = deepcopy(self.objects.pop(name))
            gone["metadata"]["resourceVersion"] = str(self.version)
            self._tell("DELETED", gone)

    def end_watches(self, error: Exception | None = None) -> None:
        """End all watches that are open, without a word or with an error."""
        self._endings += 1
        self._ended = error
        self._wake()

    def forget(self) -> None:
        """Forget the past, as compaction does. Watches that are open go on."""
        self.forgotten = self.version

    async def list(
        self, kind: Kind, namespace: str, *, labels: str = "", fields: str = "", trim: Trim | None = None
    ) -> Listing:
        """See `KubeApi.list`."""
        self.lists.append(asyncio.get_running_loop().time())
        version, items = self.version, deepcopy(list(self.objects.values()))
        await asyncio.sleep(LATENCY_SECONDS)
        if self.list_errors:
            raise self.list_errors.popleft()
        if self.is_away:
            raise KubeUnavailable("away")
        return Listing([trim(item) if trim else item for item in items], str(version))

    async def watch(
        self, kind: Kind, namespace: str, resource_version: str, *, labels: str = ""
    ) -> AsyncGenerator[WatchEvent]:
        """See `KubeApi.watch`."""
        self.watches.append((asyncio.get_running_loop().time(), resource_version))
        endings = self._endings
        await asyncio.sleep(LATENCY_SECONDS)
        if self.is_away:
            raise KubeUnavailable("away")
        position = int(resource_version)
        if position < self.forgotten:
            raise WatchExpired("too old")
        is_dead = self.is_frozen
        if not is_dead:
            yield _bookmark(position)
        while True:
            happened = self._happened
            is_dead = is_dead or self.is_frozen
            if endings != self._endings or self.ends_at_once:
                if self._ended:
                    raise self._ended
                return
            for version, change, object_ in list(self.changes):
                if version > position and not is_dead:
                    position = version
                    yield WatchEvent(change, deepcopy(object_))
            try:
                async with asyncio.timeout(BOOKMARK_SECONDS):
                    await happened.wait()
            except TimeoutError:
                if not is_dead:
                    yield _bookmark(position)

    def _tell(self, change: Change, object_: KubeObject) -> None:
        self.changes.append((self.version, change, deepcopy(object_)))
        self._wake()

    def _wake(self) -> None:
        self._happened.set()
        self._happened = asyncio.Event()


def _bookmark(version: int) -> WatchEvent:
    return WatchEvent("BOOKMARK", {"metadata": {"resourceVersion": str(version)}})
