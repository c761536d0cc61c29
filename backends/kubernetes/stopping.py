"""The ladder of a stop: the object is marked and deleted, its pods are told to end and given their time, then less of
it, and at last, if their node is gone, none. It ends when nothing is left.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import structlog

from backends.kubernetes import names
from backends.kubernetes.api import Kind, KubeObject, KubeRefused, KubeUnavailable
from backends.kubernetes.cluster import NODE, POD, Namespace
from backends.kubernetes.launches import Tracked
from backends.kubernetes.reading.fields import conditions, text, when

AGAIN_SECONDS = 2.0
"""How soon to ask an API server again that did not answer."""
REFUSED_SECONDS = 30.0
"""And one that said no: somebody has to give us the right, or take a finalizer away."""
LOOK_SECONDS = 5.0
"""How often to look whether all is gone, after the grace period."""
SLACK_SECONDS = 10.0
"""How much longer than its grace period a pod may take to end."""
LAST_GRACE_SECONDS = 1.0
"""What a pod gets that did not end in its time."""
NODE_SECONDS = 30.0
"""After which an ending pod's node is asked about."""

log = structlog.get_logger(__name__)


class Ladder:
    """Stops one launch. `keep` sees to it that its output is kept; `asked` is set when everything has been told."""

    def __init__(
        self,
        namespace: Namespace,
        kind: Kind,
        tracked: Tracked,
        due: float,
        keep: Callable[[], Awaitable[None]],
        clock: Callable[[], float],
    ) -> None:
        self.due = due
        """When its grace period is over, by the loop's clock."""
        self.asked = asyncio.Event()
        self._namespace = namespace
        self._kind = kind
        self._tracked = tracked
        self._keep = keep
        self._clock = clock

    async def run(self) -> None:
        """Go down the ladder. Tries again for as long as it takes."""
        try:
            await self._until_done(self._ask)
            self.asked.set()
            while not self._is_over:
                await asyncio.sleep(max(0.0, self.due + SLACK_SECONDS - asyncio.get_running_loop().time()))
                if self._is_over:
                    return
                await self._until_done(self._insist)
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            self.asked.set()

    @property
    def _is_over(self) -> bool:
        return self._tracked.is_gone and not self._tracked.pods.live

    async def _until_done(self, step: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await step()
                return
            except KubeUnavailable as error:
                log.warning("cannot stop it yet", launch=self._tracked.launch, error=str(error))
                await self._pause(AGAIN_SECONDS)
            except KubeRefused as error:
                log.error("the cluster does not let us stop it", launch=self._tracked.launch, error=str(error))
                await self._pause(REFUSED_SECONDS)

    async def _pause(self, seconds: float) -> None:
        self.asked.set()  # whoever asked for the stop is not kept waiting: it goes on
        await asyncio.sleep(seconds)

    async def _ask(self) -> None:
        """Mark it, so that whoever sees its end sees also that it was asked for; keep its output; delete it."""
        api, name = self._namespace.api, self._tracked.address.name
        mark = {"metadata": {"annotations": {names.STOP: datetime.fromtimestamp(self._clock(), UTC).isoformat()}}}
        await api.patch(self._kind, self._namespace.name, name, mark)
        await self._keep()
        # Its pods first: the cluster would tell them to end when the object goes, with the time that their templates
        # give them, and a kubelet that was told so may not listen to who wants less. A pod that is made in their place
        # goes with the object.
        await self._delete_pods(self._grace())
        await api.delete(
            self._kind,
            self._namespace.name,
            name,
            propagation="Foreground",
            grace_seconds=self._grace() if self._kind == POD else None,
            uid=self._tracked.uid,
        )

    async def _insist(self) -> None:
        """Its pods have had their time."""
        api = self._namespace.api
        for pod in await self._namespace.pods_of(self._tracked.launch):
            grace = LAST_GRACE_SECONDS
            if _ending_for(pod, self._clock() + api.clock_ahead) > NODE_SECONDS and await self._has_lost_its_node(pod):
                log.warning(
                    "its node is gone: deleted without waiting for it",
                    launch=self._tracked.launch,
                    pod=pod["metadata"]["name"],
                )
                grace = 0.0
            await self._delete_pod(pod, grace)
        if not self._tracked.is_gone and await api.get(self._kind, self._namespace.name, self._tracked.address.name):
            log.warning("it was told to stop, and is still there", launch=self._tracked.launch)

    def _grace(self) -> float:
        # None at all would have the cluster forget a pod whose processes still run.
        return max(LAST_GRACE_SECONDS, math.ceil(self.due - asyncio.get_running_loop().time()))

    async def _delete_pods(self, grace: float) -> None:
        pods = await self._namespace.pods_of(self._tracked.launch)
        await asyncio.gather(*(self._delete_pod(pod, grace) for pod in pods))

    async def _delete_pod(self, pod: KubeObject, grace: float) -> None:
        metadata = pod["metadata"]
        await self._namespace.api.delete(
            POD,
            self._namespace.name,
            metadata["name"],
            propagation="Background",
            grace_seconds=grace,
            uid=metadata["uid"],
        )

    async def _has_lost_its_node(self, pod: KubeObject) -> bool:
        name = text(pod, "spec", "nodeName")
        if not name:
            return True  # it was never on one
        try:
            node = await self._namespace.api.get(NODE, "", name)
        except KubeRefused:
            return False  # we may not ask
        ready = conditions(node or {}).get("Ready")
        return ready is None or not ready.is_true


def _ending_for(pod: KubeObject, now: float) -> float:
    """Return for how long a pod should have been gone, in seconds."""
    due = when(pod, "metadata", "deletionTimestamp")
    return now - due if due else 0.0
