"""The kubernetes backend: makes, watches, stops and removes the objects that are launches.

What is known of a launch is kept here so that looking costs nothing while nothing happens. It is only a cache: the
cluster has the truth, and a new backend of the same owner knows the same. What the cluster forgets, as the end and the
output of what was deleted, is kept in the state folder.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random, SystemRandom
from typing import Any

import structlog

from backends.base import (
    BackendError,
    BackendUnavailable,
    Capabilities,
    Handle,
    LogChunk,
    Observation,
    Snapshot,
    StartRequest,
)
from backends.hints import Hints
from backends.kubernetes import names
from backends.kubernetes.addresses import Address, address_of
from backends.kubernetes.api import Kind, KubeApi, KubeObject, KubeRefused, KubeUnavailable
from backends.kubernetes.clock import by_our_clock
from backends.kubernetes.cluster import SECRET, Cluster, Namespace
from backends.kubernetes.launches import Tracked
from backends.kubernetes.logs import Logs, View
from backends.kubernetes.manifest import Plan, namespace_of, plan, target
from backends.kubernetes.places import Place, Places
from backends.kubernetes.readiness import wait_until_ready
from backends.kubernetes.reading import read, read_gone
from backends.kubernetes.reading.fields import name_of
from backends.kubernetes.records import Record, Records
from backends.kubernetes.services import make, make_services, own_by, owned, owner_of
from backends.kubernetes.settings import Settings
from backends.kubernetes.sources import sources_of
from backends.kubernetes.stopping import Ladder
from backends.kubernetes.waiting import Waits
from protocol.kubernetes_kinds import KINDS

AGAIN_SECONDS = 2.0
"""How soon to look again at output that could not be read."""
KEEP_SECONDS = 5.0
"""How long a stop waits at most for what there is of the output to be read."""
ASKED_SECONDS = 5.0
"""How long a stop waits at most for the cluster to be told of it. It goes on without being waited for."""
CHORES_SECONDS = 5.0
"""How often to look after what no watch tells of."""
SWEEP_SECONDS = 600.0
"""How often to look for services that were left behind. Whoever remembers their launch has asked for it by then."""
UNSEEN_SECONDS = 10.0
"""After which something that we made and no watch has told of is asked for."""

Connect = Callable[[str], Awaitable[KubeApi]]
"""Opens a context's API; an empty name is the operator's."""

log = structlog.get_logger(__name__)


@dataclass
class _Start:
    """A start under way, which whoever asks for the same launch waits for."""

    task: asyncio.Task[Handle]
    callers: int = 0
    may_be_cut_short: bool = False
    """Whether it may be cancelled: it removes then what it has made."""


@dataclass
class _Stop:
    ladder: Ladder
    task: asyncio.Task[None]


class KubernetesBackend:
    """See `backends.base.Backend`. A handle is an `Address`."""

    def __init__(
        self,
        connect: Connect,
        state_dir: Path,
        owner: str,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.time,
        random: Random | None = None,
    ) -> None:
        self._connect = connect
        self._owner = owner
        self._settings = settings
        self._clock = clock
        self._random = random or SystemRandom()
        self._hints = Hints()
        self._places = Places(state_dir / "places.json")
        self._records = Records(state_dir / "launches")
        self._logs = Logs(self._records, self._view, random=self._random, clock=clock)
        self._waits = Waits(self._changed)
        self._opening = asyncio.Lock()
        self._looking = asyncio.Lock()
        self._is_open = False
        self._clusters: dict[str, Cluster] = {}
        self._starting: dict[str, _Start] = {}
        """By the launch's name as the cluster has it."""
        self._kept: dict[Handle, Record] = {}
        self._known: dict[Handle, Observation] = {}
        self._snapshot: Snapshot | None = None
        """What was told last, if it still holds."""
        self._dirty: set[Handle] = set()
        self._stops: dict[Handle, _Stop] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def capabilities(self) -> Capabilities:
        """See `Backend.capabilities`."""
        return Capabilities(runs_images=True, needs_image=True, fetches_code=True, makes_services=True)

    async def start(self, request: StartRequest) -> Handle:
        """See `Backend.start`.

        Returns once the services of the launch are ready, if it is to wait for them. Who is cancelled meanwhile wants
        it no more: then, and if it is stopped, what was made is removed.
        """
        launch = names.launch_of(request.name)
        start = self._starting.get(launch)
        if start is None:
            start = self._starting[launch] = _Start(asyncio.create_task(self._start(request, launch)))
            start.task.add_done_callback(lambda done: self._started(launch, done))
        start.callers += 1
        try:
            return await asyncio.shield(start.task)
        except asyncio.CancelledError:
            if start.task.cancelled():
                raise BackendError("The launch was stopped while it waited for its services.") from None
            start.callers -= 1
            if not start.callers and start.may_be_cut_short:
                start.task.cancel()
            if request.services:
                await asyncio.wait([start.task])  # who looks now sees what came of it
            raise

    async def observe(self) -> Snapshot:
        """See `Backend.observe`. Looks only at what was told to have changed.

        Of what cannot be watched just now the last that is known is told; if that is all, `BackendUnavailable` is
        raised.
        """
        await self._open()
        namespaces = list(self._namespaces())
        blind = [error for namespace in namespaces for error in namespace.errors]
        if blind and all(any(namespace.errors) for namespace in namespaces):
            raise BackendUnavailable(str(blind[0]))
        async with self._looking:
            if self._dirty:
                await self._look()
            if self._snapshot is None:
                self._snapshot = dict(self._known)
            return self._snapshot

    def changes(self) -> AsyncGenerator[frozenset[Handle]]:
        """See `Backend.changes`. Yields once at once."""
        return self._hints.listen(frozenset(self._known))

    async def stop(self, handle: Handle, grace_seconds: float) -> None:
        """See `Backend.stop`. Asking again can shorten the grace period, never prolong it.

        A cluster that does not answer is asked again in the background, so that this does not fail.
        """
        address = address_of(handle)
        if address is None:
            return
        for launch, starting in list(self._starting.items()):
            if address.name == launch or address.name.endswith(f"-{launch}"):
                if starting.may_be_cut_short:
                    starting.task.cancel()
                await asyncio.wait([starting.task])
        await self._open()
        tracked = self._tracked(handle)
        known = self._known.get(handle)
        if tracked is None or tracked.is_gone or (known is not None and known.phase.is_terminal):
            return
        due = asyncio.get_running_loop().time() + grace_seconds
        earlier = self._stops.get(handle)
        if earlier is not None:
            if earlier.ladder.due <= due:
                return
            earlier.task.cancel()
            await asyncio.wait([earlier.task])
        namespace = self._namespace(tracked.address)
        kind = namespace.kind_of(tracked.address)
        assert kind is not None  # else nobody would know of it
        self._kept[handle] = Record(handle, tracked.labels, is_stopped=True)
        await asyncio.to_thread(self._records.write, self._kept[handle])
        ladder = Ladder(namespace, kind, tracked, due, lambda: self._keep_output(handle), self._clock)
        task = asyncio.create_task(ladder.run())
        stop = self._stops[handle] = _Stop(ladder, task)
        task.add_done_callback(lambda _: self._stopped(handle, stop))
        with suppress(TimeoutError):
            async with asyncio.timeout(ASKED_SECONDS):
                await ladder.asked.wait()

    async def logs(self, handle: Handle, since: int = 0, *, follow: bool = False) -> AsyncGenerator[LogChunk]:
        """See `Backend.logs`."""
        await self._open()
        if self._tracked(handle) is None and handle not in self._kept:
            return
        while True:
            try:
                async with aclosing(self._logs.read(handle, since, follow=follow)) as chunks:
                    async for chunk in chunks:
                        yield chunk
                        since = chunk.end
                        del chunk
                return
            except KubeUnavailable:
                if not follow:
                    raise
                await asyncio.sleep(AGAIN_SECONDS)

    async def cleanup(self, handle: Handle) -> None:
        """See `Backend.cleanup`. Raises `BackendError` if the launch has not ended."""
        await self._open()
        address = address_of(handle)
        if address is None:
            return
        self._judge(handle)
        known, tracked = self._known.get(handle), self._tracked(handle)
        if known is not None and not known.phase.is_terminal:
            raise BackendError(f"The launch {handle} has not ended; stop it before it is cleaned up.")
        if tracked is not None:
            await self._remove(tracked)
            self._namespace(address).launches.forget(address, tracked.uid)
        if stop := self._stops.pop(handle, None):
            stop.task.cancel()
        await self._logs.forget(handle)
        self._kept.pop(handle, None)
        self._forget(handle)

    async def close(self) -> None:
        """See `Backend.close`."""
        starting = list(self._starting.values())
        for start in starting:
            if start.may_be_cut_short:
                start.task.cancel()
        if starting:
            await asyncio.wait([start.task for start in starting])
        clusters = self._clusters.values()
        await asyncio.gather(*(cluster.unwatch() for cluster in clusters))
        # From here on nothing happens that would begin something.
        tasks = [*self._tasks, *(stop.task for stop in self._stops.values())]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._logs.close()
        await asyncio.gather(*(cluster.api.close() for cluster in clusters))

    # --- opening -----------------------------------------------------------------------------------------------------

    async def _open(self) -> None:
        """Find what earlier agents have left. All of it: what is not told of does not exist."""
        if self._is_open:
            return
        async with self._opening:
            if self._is_open:
                return
            self._kept = await asyncio.to_thread(self._records.read_all)
            remembered = await asyncio.to_thread(self._places.read)
            try:
                for context in dict.fromkeys(["", *self._settings.contexts, *(place.context for place in remembered)]):
                    await self._open_cluster(context, [place for place in remembered if place.context == context])
            except KubeRefused as error:
                raise BackendUnavailable(f"The cluster does not let us see our launches: {error}") from error
            for handle, record in self._kept.items():
                if self._tracked(handle) is None and (seen := record.observation):
                    self._know(handle, seen)
            self._spawn(self._chores())
            self._is_open = True

    async def _open_cluster(self, context: str, remembered: Iterable[Place]) -> None:
        cluster = self._clusters.get(context)
        if cluster is None:
            api = await self._connect(context)
            cluster = self._clusters[context] = Cluster(api, context, self._owner, self._changed, self._random)
        settings = self._settings
        remembered = list(remembered)
        namespaces = [settings.namespace or cluster.api.default_namespace, *settings.namespaces]
        kinds = [*KINDS, *settings.kinds]
        await cluster.find(
            [*namespaces, *(place.namespace for place in remembered)],
            [*kinds, *((place.api_version, place.kind) for place in remembered)],
        )

    # --- starting ----------------------------------------------------------------------------------------------------

    async def _start(self, request: StartRequest, launch: str) -> Handle:
        await self._open()
        asked = target(request.resource_args, self._settings)
        cluster = self._clusters[asked.context]
        kind = await cluster.api.kind(asked.api_version, asked.kind)
        where = namespace_of(asked, self._settings, cluster.api.default_namespace)
        planned = plan(request, self._settings, kind, where, self._owner)
        name: str = planned.object["metadata"]["name"]
        address = Address(asked.context, where, kind.api_version, kind.kind, name)
        if address.handle in self._kept:
            return address.handle  # it was started, and is over or told to be
        namespace = cluster.namespace(where)
        await self._watch(namespace, address, kind)
        if planned.waits and await cluster.api.get(kind, where, name) is None:
            await self._make_services_ready(self._starting[launch], namespace, planned)
        made = await make(cluster.api, kind, where, planned.object)
        if not made["metadata"].get("deletionTimestamp"):
            await self._equip(namespace, address, kind, planned, made)
        tracked = namespace.launches.put(address, made, made_at=asyncio.get_running_loop().time())
        if tracked:
            self._changed(tracked)
        return address.handle

    async def _watch(self, namespace: Namespace, address: Address, kind: Kind) -> None:
        """Watch for launches of a kind, and have an agent that restarts do so, too."""
        if namespace.kind_of(address) is None:
            await self._places.add(Place(address.context, address.namespace, address.api_version, address.kind))
            namespace.watch(kind)

    async def _equip(self, namespace: Namespace, address: Address, kind: Kind, planned: Plan, made: KubeObject) -> None:
        """Make what goes with an object. It comes first: so nothing is left behind, whoever dies in between, and no
        pod gets to run before a Secret that is made at once.
        """
        owner = owner_of(made)
        try:
            if planned.waits and planned.secret:
                # It is there, and the services belong to it.
                await namespace.api.patch(SECRET, namespace.name, name_of(planned.secret), own_by(owner))
                return
            if planned.secret:
                await make(namespace.api, SECRET, namespace.name, owned(planned.secret, owner))
            await make_services(namespace.api, namespace.name, planned.services, owner)
        except KubeUnavailable:
            raise
        except BackendError:
            uid = str(made["metadata"]["uid"])
            namespace.launches.forget(address, uid)
            self._forget(address.handle)
            await namespace.api.delete(kind, namespace.name, address.name, propagation="Background", uid=uid)
            raise

    async def _make_services_ready(self, start: _Start, namespace: Namespace, planned: Plan) -> None:
        """Make what a launch uses, and wait until it can. All of it belongs to the Secret, and goes with that."""
        assert planned.secret is not None  # whatever waits has one
        api, root = namespace.api, None
        start.may_be_cut_short = True
        try:
            if not start.callers:
                raise asyncio.CancelledError  # nobody wants it any more
            root = await make(api, SECRET, namespace.name, planned.secret)
            if root["metadata"].get("ownerReferences"):
                raise KubeUnavailable(f"The launch {name_of(planned.object)} is just being removed.")
            await make_services(api, namespace.name, planned.services, owner_of(root))
            await wait_until_ready(api, namespace.name, planned.services, planned.waiting.seconds)
        except (BackendError, BackendUnavailable, asyncio.CancelledError):
            if root is not None:
                removing = self._spawn(self._remove_root(namespace, root))
                await asyncio.wait([removing], timeout=ASKED_SECONDS)
            raise
        finally:
            start.may_be_cut_short = False

    async def _remove_root(self, namespace: Namespace, root: KubeObject) -> None:
        """Remove a Secret, and the services that belong to it. Tries again for as long as the cluster is away."""
        metadata = root["metadata"]
        while True:
            try:
                await namespace.api.delete(
                    SECRET, namespace.name, metadata["name"], propagation="Background", uid=metadata["uid"]
                )
                return
            except KubeRefused as error:
                log.error("the cluster does not let us remove services", launch=metadata["name"], error=str(error))
                return
            except KubeUnavailable as error:
                log.warning("cannot remove services yet", launch=metadata["name"], error=str(error))
                await asyncio.sleep(CHORES_SECONDS)

    def _started(self, launch: str, task: asyncio.Task[Handle]) -> None:
        del self._starting[launch]
        if not task.cancelled():
            task.exception()  # whoever asked for it has it, unless that task was cancelled: nobody is left to tell

    # --- looking -----------------------------------------------------------------------------------------------------

    def _changed(self, tracked: Tracked) -> None:
        handle = tracked.address.handle
        self._dirty.add(handle)
        self._hints.publish(handle)
        self._logs.wake(handle)
        if tracked.pods.are_terminating and handle not in self._kept and not self._is_over(handle):
            self._spawn(self._keep_output(handle))
        if tracked.is_gone and not tracked.is_told_to_stop:
            self._spawn(self._sweep(tracked))

    async def _look(self) -> None:
        ended = [handle for handle in tuple(self._dirty) if self._judge(handle)]
        for handle in ended:
            # Nothing but this will tell of it from now on.
            await asyncio.to_thread(self._records.write, self._kept[handle])

    def _judge(self, handle: Handle) -> bool:
        """Look at a launch that has changed. Returns whether it is to be written down how it ended."""
        if handle not in self._dirty:
            return False
        self._dirty.discard(handle)
        tracked = self._tracked(handle)
        if tracked is None or (self._is_over(handle) and not tracked.is_gone):
            return False
        if not self._is_over(handle):
            self._know(handle, self._read(tracked))
        if not (self._is_over(handle) and (tracked.is_gone or tracked.is_leaving)):
            return False  # it tells of itself
        kept = self._kept.get(handle)
        if kept and kept.end:
            return False
        is_stopped = tracked.is_told_to_stop or bool(kept and kept.is_stopped)
        self._kept[handle] = Record(handle, tracked.labels, is_stopped, self._known[handle])
        return True

    def _read(self, tracked: Tracked) -> Observation:
        live, gone = list(tracked.pods.live.values()), list(tracked.pods.gone.values())
        ahead = self._clusters[tracked.address.context].api.clock_ahead
        now = self._clock() + ahead
        if tracked.is_gone or (tracked.is_leaving and tracked.is_told_to_stop and tracked.pods.are_over):
            return by_our_clock(read_gone(tracked.object, [*live, *gone], tracked.events, now=now), ahead)
        reading = read(tracked.object, live, tracked.events, gone=gone, now=now)
        if reading.again_at is not None:
            handle = tracked.address.handle
            asyncio.get_running_loop().call_later(max(0.0, reading.again_at - now), self._again, handle)
        # The same labels, and there once.
        return replace(by_our_clock(reading.observation, ahead), labels=tracked.labels)

    def _again(self, handle: Handle) -> None:
        self._dirty.add(handle)
        self._hints.publish(handle)

    def _know(self, handle: Handle, seen: Observation) -> None:
        if self._known.get(handle) != seen:
            self._known[handle] = seen
            self._snapshot = None
            self._logs.wake(handle)

    def _forget(self, handle: Handle) -> None:
        self._waits.forget(handle)
        self._dirty.discard(handle)
        if self._known.pop(handle, None) is not None:
            self._snapshot = None

    def _is_over(self, handle: Handle) -> bool:
        known = self._known.get(handle)
        return known is not None and known.phase.is_terminal

    def _tracked(self, handle: Handle) -> Tracked | None:
        address = address_of(handle)
        if address is None or address.context not in self._clusters:
            return None
        return self._namespace(address).launches.get(address)

    def _namespace(self, address: Address) -> Namespace:
        return self._clusters[address.context].namespace(address.namespace)

    def _namespaces(self) -> Iterator[Namespace]:
        return (namespace for cluster in self._clusters.values() for namespace in cluster.namespaces)

    # --- chores ------------------------------------------------------------------------------------------------------

    async def _chores(self) -> None:
        sweep_at = asyncio.get_running_loop().time() + SWEEP_SECONDS
        while True:
            await asyncio.sleep(CHORES_SECONDS)
            now = asyncio.get_running_loop().time()
            is_sweeping = now >= sweep_at
            if is_sweeping:
                sweep_at = now + SWEEP_SECONDS
            for namespace in list(self._namespaces()):
                try:
                    await self._waits.ask(namespace, self._known.get)
                    await self._look_for_unseen(namespace, now)
                    if is_sweeping:
                        await namespace.sweep_services(self._starting.__contains__)
                except (KubeUnavailable, KubeRefused) as error:
                    log.debug("cannot look around", namespace=namespace.name, error=str(error))

    async def _look_for_unseen(self, namespace: Namespace, now: float) -> None:
        """Ask for what we made and no watch has told of: it may be gone again."""
        for tracked in namespace.launches:
            if tracked.made_at is None or now - tracked.made_at < UNSEEN_SECONDS:
                continue
            kind = namespace.kind_of(tracked.address)
            found = await namespace.api.get(kind, namespace.name, tracked.address.name) if kind else None
            if found is None or found["metadata"]["uid"] != tracked.uid:
                tracked.is_gone = True
                self._changed(tracked)
            tracked.made_at = now

    async def _sweep(self, tracked: Tracked) -> None:
        """See to it that nothing is left of a launch whose object somebody else has removed: pods may run on."""
        namespace = self._namespace(tracked.address)
        try:
            await namespace.sweep(tracked.launch)
        except (KubeUnavailable, KubeRefused) as error:
            log.warning("cannot remove what is left of it", launch=tracked.launch, error=str(error))

    async def _remove(self, tracked: Tracked) -> None:
        namespace = self._namespace(tracked.address)
        kind = namespace.kind_of(tracked.address)
        if tracked.is_gone or kind is None:
            await namespace.sweep(tracked.launch)
        else:
            # What belongs to it goes with it.
            await namespace.api.delete(
                kind, namespace.name, tracked.address.name, propagation="Background", uid=tracked.uid
            )

    def _stopped(self, handle: Handle, stop: _Stop) -> None:
        if self._stops.get(handle) is stop:
            del self._stops[handle]
        if not stop.task.cancelled() and (error := stop.task.exception()):
            log.error("a stop failed by a bug", handle=handle, exc_info=error)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._spawned)
        return task

    def _spawned(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("a task of the backend failed by a bug", exc_info=error)

    # --- output ------------------------------------------------------------------------------------------------------

    def _view(self, handle: Handle) -> View | None:
        tracked = self._tracked(handle)
        if tracked is None:
            return None
        if handle in self._dirty and not self._is_over(handle):
            self._know(handle, self._read(tracked))  # stays dirty: whoever observes has to write its end down
        sources = sources_of(list(tracked.pods.live.values()), list(tracked.pods.gone.values()))
        api = self._clusters[tracked.address.context].api
        return View(api, tracked.address.namespace, sources, self._is_over(handle))

    async def _keep_output(self, handle: Handle) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(KEEP_SECONDS):
                await self._logs.keep(handle)
