"""Has an image built by a Job of the cluster.

The Job's name stands for the image, so that agents that know nothing of each other build it once: the first one makes
the Job, the others join it. Each leaves its mark there while it waits. Who leaves last removes the Job, and its Secret
goes along. What agents that die leave behind ends by its deadline, and the cluster removes it a while later.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import TypeVar

import structlog

from backends.base import BackendError, Handle, Observation, Phase
from backends.kubernetes import names
from backends.kubernetes.api import Kind, KubeApi, KubeObject, KubeRefused, KubeUnavailable
from backends.kubernetes.builds.manifest import job_of, secret_of
from backends.kubernetes.builds.order import Order
from backends.kubernetes.cluster import EVENT, POD, SECRET
from backends.kubernetes.launches import Pods
from backends.kubernetes.logs import Logs, View
from backends.kubernetes.reading import is_about, read, read_gone
from backends.kubernetes.reading.fields import conditions, mapping, objects, text
from backends.kubernetes.records import Records
from backends.kubernetes.services import is_taken, owned, owner_of
from backends.kubernetes.sources import sources_of
from backends.kubernetes.trimming import trimmed_pod

T = TypeVar("T")

JOB = Kind("batch", "v1", "Job", "jobs")
LOOK_SECONDS = 1.0
"""How often to look at it. There are few builds at a time, and each takes minutes."""
EVENTS_SECONDS = 10.0
"""How often to ask what was said of one that does not begin."""
AGAIN_SECONDS = 2.0
LEAVE_SECONDS = 20.0
"""How long a cluster that is away is tried to be told that nobody waits."""

RIGHTS: Sequence[tuple[str, Kind, str]] = (
    *((verb, JOB, "") for verb in ("get", "create", "patch", "delete")),
    *((verb, SECRET, "") for verb in ("get", "create")),
    ("list", POD, ""),
    ("get", POD, "log"),
    ("list", EVENT, ""),
)
"""What an agent must be allowed for it: verb, kind and subresource."""

log = structlog.get_logger(__name__)


class BuildFailed(BackendError):
    """The Job has ended, and there is no image."""

    code = "build_failed"

    def __init__(self, seen: Observation) -> None:
        super().__init__(seen.message)
        self.seen = seen
        """How it ended. Without a reason: what BuildKit said tells."""

    @property
    def is_of_code(self) -> bool:
        """Whether it could not bring the code."""
        return self.seen.reason == "init_failed"


class Build:
    """One build, as one agent has it done. `tell` is given sentences for people about what it waits for."""

    def __init__(
        self,
        api: KubeApi,
        order: Order,
        owner: str,
        folder: Path,
        tell: Callable[[str], Awaitable[None]],
        *,
        random: Random,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`folder` is where its output may lie meanwhile."""
        self._api = api
        self._order = order
        self._mark = names.WANTED + names.owner_of(owner)
        self._tell = tell
        self._clock = clock
        self._told = ""
        self._uid = ""
        self._pods = Pods()
        self._is_over = False
        self._events: tuple[KubeObject, ...] = ()
        self._events_due = clock() + EVENTS_SECONDS
        self._handle = Handle(order.name)
        self._logs = Logs(Records(folder), self._view, random=random, clock=clock)

    async def run(self, on_output: Callable[[bytes], None], is_wanted_still: Callable[[], bool]) -> None:
        """Return when the image is pushed; give what it says as it comes.

        Who is cancelled leaves the build, and it ends unless somebody else waits for it: another agent, or, as
        `is_wanted_still` tells, another launch of this one. Raises `BuildFailed`, or `KubeRefused`.
        """
        stays = False
        try:
            await self._answered(self._join)
            reading = asyncio.create_task(self._read(on_output))
            try:
                seen = await self._end()
                await reading
            finally:
                reading.cancel()
                await asyncio.wait([reading])
                await self._logs.close()
        except asyncio.CancelledError:
            stays = is_wanted_still()
            raise
        finally:
            if not stays:
                await self._leave()
        if seen.phase is not Phase.FINISHED:
            raise BuildFailed(seen)

    # --- joining and leaving -----------------------------------------------------------------------------------------

    async def _join(self) -> None:
        """Have the Job there, with our mark, and its Secret."""
        job = job_of(self._order)
        metadata = job["metadata"]
        metadata["annotations"] = {**mapping(metadata, "annotations"), self._mark: "true"}
        try:
            made = await self._api.create(JOB, self._order.namespace, job)
        except KubeRefused as error:
            if not is_taken(error):
                raise
            made = await self._join_there()
        self._uid = str(made["metadata"]["uid"])
        await self._equip(made)

    async def _join_there(self) -> KubeObject:
        """Join the Job that is there. One that is over is of another time: it goes, and `KubeUnavailable` is raised."""
        where, name = self._order.namespace, self._order.name
        found = await self._api.get(JOB, where, name)
        if found is not None and not self._is_it(found):
            raise BackendError(f"There is a Job {where}/{name} already, and it builds no image of ours. Remove it.")
        if found is None or "deletionTimestamp" in found["metadata"]:
            raise KubeUnavailable(f"an earlier build, the Job {where}/{name}, is just being removed")
        uid = found["metadata"]["uid"]
        said = conditions(found)
        if any(kind in said and said[kind].is_true for kind in ("Complete", "Failed", "SuccessCriteriaMet")):
            await self._api.delete(JOB, where, name, propagation="Background", uid=uid)
            raise KubeUnavailable(f"an earlier build, the Job {where}/{name}, is being removed")
        joined = await self._annotate(str(uid), "true")
        if joined is None:
            raise KubeUnavailable(f"the Job {where}/{name} has just gone")
        return joined

    async def _equip(self, job: KubeObject) -> None:
        """Have the Job's Secret there. It may be somebody else's who died before."""
        where, owner = self._order.namespace, owner_of({"apiVersion": "batch/v1", "kind": "Job", **job})
        try:
            await self._api.create(SECRET, where, owned(secret_of(self._order), owner))
        except KubeRefused as error:
            if not is_taken(error):
                raise
            found = await self._api.get(SECRET, where, self._order.name)
            if found is None or not self._is_owned(found):
                raise KubeUnavailable(f"the Secret {where}/{self._order.name} of an earlier build is going") from error

    async def _annotate(self, uid: str, mark: str | None) -> KubeObject | None:
        """Set or remove our mark on the Job of this UID; on any, if it is empty. Returns None if there is none."""
        change = {"metadata": {"annotations": {self._mark: mark}, **({"uid": uid} if uid else {})}}
        try:
            return await self._api.patch(JOB, self._order.namespace, self._order.name, change)
        except KubeRefused as error:
            if error.status == 409:
                return None  # it is another one
            raise

    def _is_it(self, job: KubeObject) -> bool:
        """Whether a Job of the name is a build of the image."""
        return mapping(job, "metadata", "labels").get(names.BUILD) == self._order.key

    def _is_owned(self, made: KubeObject) -> bool:
        """Whether something belongs to the Job that we have joined."""
        return any(text(each, "uid") == self._uid for each in objects(made, "metadata", "ownerReferences"))

    async def _leave(self) -> None:
        """Take our mark away, and the Job if there is no other. What goes wrong here is the cluster's to tidy up."""
        try:
            async with asyncio.timeout(LEAVE_SECONDS):
                while True:
                    if await self._left():
                        return
                    await asyncio.sleep(AGAIN_SECONDS)
        except (TimeoutError, KubeRefused) as error:
            log.warning("cannot remove a build; the cluster does so later", job=self._order.name, error=str(error))

    async def _left(self) -> bool:
        try:
            # Who was cut short while asking for the Job does not know which one it is.
            left = await self._annotate(self._uid, None)
            if left is None or not self._is_it(left) or _is_wanted(left):
                return True
            about = left["metadata"]
            return await self._api.delete(
                JOB,
                self._order.namespace,
                self._order.name,
                propagation="Background",
                uid=about["uid"],
                resource_version=about["resourceVersion"],  # somebody may have come meanwhile
            )
        except KubeUnavailable:
            return False

    # --- looking -----------------------------------------------------------------------------------------------------

    async def _end(self) -> Observation:
        """Look at the Job until it is over; returns how it ended."""
        last: KubeObject = {"kind": "Job", "metadata": {"name": self._order.name, "uid": self._uid}}
        while True:
            found = await self._answered(lambda: self._api.get(JOB, self._order.namespace, self._order.name))
            await self._answered(self._look_at_pods)
            pods, gone, now = self._pods.live.values(), self._pods.gone.values(), self._clock()
            if found is None or found["metadata"]["uid"] != self._uid:
                seen = read_gone(last, [*pods, *gone], self._events, now=now)
            else:
                last = {"apiVersion": "batch/v1", "kind": "Job", **found}
                seen = _given_up(read(last, pods, self._events, gone=gone, now=now).observation, now)
            self._is_over = seen.phase.is_terminal
            self._logs.wake(self._handle)
            if self._is_over:
                return seen
            if seen.phase.is_waiting:
                await self._say(f"the build waits: {seen.message}")
                await self._ask_why(now)
            await asyncio.sleep(LOOK_SECONDS)

    async def _look_at_pods(self) -> None:
        selector = f"{names.BUILD}={self._order.key}"
        listed = await self._api.list(POD, self._order.namespace, labels=selector, trim=trimmed_pod)
        found = {text(pod, "metadata", "name"): pod for pod in listed.items if self._is_owned(pod)}
        for name, pod in found.items():
            self._pods.put(name, None, pod)
        for name, pod in list(self._pods.live.items()):
            if name not in found:
                self._pods.put(name, pod, None)

    async def _ask_why(self, now: float) -> None:
        if now < self._events_due:
            return
        self._events_due = now + EVENTS_SECONDS
        try:
            listed = await self._api.list(EVENT, self._order.namespace, fields="type=Warning")
        except (KubeRefused, KubeUnavailable) as error:
            log.debug("cannot read events", namespace=self._order.namespace, error=str(error))
            return
        pods = {*self._pods.live, *self._pods.gone}
        self._events = tuple(each for each in listed.items if is_about(each, "Job", self._order.name, pods))

    def _view(self, _: Handle) -> View:
        sources = sources_of(list(self._pods.live.values()), list(self._pods.gone.values()))
        return View(self._api, self._order.namespace, sources, self._is_over)

    async def _read(self, on_output: Callable[[bytes], None]) -> None:
        async for chunk in self._logs.read(self._handle, 0, follow=True):
            on_output(chunk.data)

    async def _answered(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask until there is an answer."""
        while True:
            try:
                return await ask()
            except KubeUnavailable as error:
                await self._say(f"waiting: {error}")
                await asyncio.sleep(AGAIN_SECONDS)

    async def _say(self, what: str) -> None:
        if what != self._told:
            self._told = what
            await self._tell(what)


def _is_wanted(job: KubeObject) -> bool:
    return any(key.startswith(names.WANTED) for key in mapping(job, "metadata", "annotations"))


def _given_up(seen: Observation, now: float) -> Observation:
    """Return a build that cannot begin as things are, and has not for long enough, as one that has failed."""
    if not seen.phase.is_waiting or seen.hopeless_at is None or now < seen.hopeless_at:
        return seen
    return replace(seen, phase=Phase.FAILED)
