"""The local-container backend: creates, starts, watches, stops and removes containers through the engine's API.

What is known of a container is kept here so that looking costs next to nothing while nothing happens. It is only a
cache: the engine has the truth, and a new backend with the same state folder knows the same.
"""

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from backends.base import (
    BackendError,
    BackendUnavailable,
    Capabilities,
    Handle,
    LogChunk,
    Observation,
    Phase,
    Snapshot,
    StartRequest,
)
from backends.hints import Hints
from backends.local_container.engine import ContainerEngine, EngineRefused
from backends.local_container.events import GONE, EventWatch
from backends.local_container.images import Images, PullFailed, pull_failed
from backends.local_container.options import FOLDER_LABEL, IMAGE_VARIABLE, Machine, Plan, plan, telling
from backends.local_container.reading import (
    NOT_STARTED,
    RUNNING,
    digest_of,
    failed_start,
    labels_of,
    launch_labels,
    observation_of,
    seconds,
)
from backends.local_container.records import Record, Records
from backends.local_container.settings import Settings, read_pull
from protocol.container_options import read_options, text
from protocol.errors import SpecError
from protocol.json_types import JsonObject

CHUNK_BYTES = 64 * 1024
LISTING_SECONDS = 5.0
"""How often to list all containers although events come: what events leave out is noticed then."""
AGAIN_SECONDS = 2.0
"""How soon to kill again what still runs, or to ask an engine again that did not answer."""
DEAF_SECONDS = 1.0
"""A signal may be lost on a container that is younger: its init does not listen yet. So it is asked once more."""
FOLLOW_SECONDS = 0.3
"""How soon to look again at the output of what runs, after its stream has ended."""
FIND_SECONDS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{1,199}")


@dataclass
class _Pulling:
    """A launch whose image is on its way."""

    labels: dict[str, str]
    task: asyncio.Task[None] | None = None
    message: str = "waiting for its image"

    @property
    def observation(self) -> Observation:
        return Observation(Phase.STARTING, message=self.message, labels=self.labels)


@dataclass
class _Kill:
    due: float
    """By the loop's clock."""
    task: asyncio.Task[None]


class LocalContainerBackend:
    """See `backends.base.Backend`. A handle is the launch's name, which is also its container's."""

    def __init__(
        self,
        engine: ContainerEngine,
        state_dir: Path,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._engine = engine
        self._folder = str(state_dir.absolute())
        self._settings = settings
        self._clock = clock
        self._records = Records(state_dir / "launches")
        self._images = Images(engine, settings)
        self._hints = Hints()
        self._events = EventWatch(engine, self._label, self._happened, self._listening)
        self._opening = asyncio.Lock()
        self._looking = asyncio.Lock()
        self._is_open = False
        self._is_listening = False
        self._has_looked = False
        self._next_listing = 0.0
        self._starting: dict[Handle, asyncio.Task[None]] = {}
        self._pulling: dict[Handle, _Pulling] = {}
        self._known: dict[Handle, Observation] = {}
        """Of containers, and of launches that ended before they had one."""
        self._changed: set[Handle] = set()
        """Containers to inspect again."""
        self._digests: dict[str, str] = {}
        """By the engine's id of an image."""
        self._kills: dict[Handle, _Kill] = {}

    @property
    def capabilities(self) -> Capabilities:
        """See `Backend.capabilities`."""
        return Capabilities(runs_locally=True, runs_images=True, needs_image=True)

    async def start(self, request: StartRequest) -> Handle:
        """See `Backend.start`. Does not wait for an image that is not here: it is pulled while the launch starts."""
        handle = _checked(Handle(request.name))
        await self._open()
        if handle in self._pulling:
            return handle
        starting = self._starting.get(handle) or self._begin(handle, self._start(handle, request))
        await asyncio.shield(starting)
        return handle

    async def fetch_image(self, image: str, resource_args: JsonObject, tell: Callable[[str], None]) -> str:
        """See `ImageBackend.fetch_image`. What identifies an image is the engine's id."""
        try:
            options = read_options(resource_args)
            when = read_pull("pull", options.get("pull") or self._settings.pull)
            platform = text("platform", options["platform"]) if "platform" in options else None
        except SpecError as error:
            raise BackendError(str(error)) from error
        found = None if when == "always" else await self._engine.image(image)
        if found is None:
            if when == "never":
                raise BackendError(
                    f"The image {image} is not on this machine, and `pull` is never. Pull it, or say missing."
                )
            await self._images.pull(image, platform, tell)
            found = await self._engine.image(image)
        if found is None:
            raise BackendUnavailable(f"The image {image} was pulled, and the engine does not have it.")
        return str(found["Id"])

    async def has_image(self, image: str) -> bool:
        """See `ImageBackend.has_image`."""
        return await self._engine.image(image) is not None

    async def observe(self) -> Snapshot:
        """See `Backend.observe`. Inspects only containers to which something happened."""
        await self._open()
        async with self._looking:
            await self._look()
        over = {handle: each.observation for handle, each in self._pulling.items()}
        return {**self._known, **over}

    def changes(self) -> AsyncGenerator[frozenset[Handle]]:
        """See `Backend.changes`. Yields once at once."""
        self._events.begin()
        return self._hints.listen(frozenset(self._known.keys() | self._pulling.keys()))

    async def stop(self, handle: Handle, grace_seconds: float) -> None:
        """See `Backend.stop`. Asking again can shorten the grace period, never prolong it."""
        _checked(handle)
        await self._open()
        if starting := self._starting.get(handle):
            await asyncio.wait([starting])
        if pulling := self._pulling.get(handle):
            await self._give_up(handle, pulling)
            return
        if handle in self._known and self._known[handle].phase.is_terminal:
            return
        found = await self._engine.inspect(handle)
        status = found["State"]["Status"] if found else ""
        if status not in RUNNING | NOT_STARTED or not self._is_ours(found):
            return
        # Written before the signal, so that whoever sees the end sees also that it was asked for.
        labels = launch_labels(labels_of(found))
        await asyncio.to_thread(self._records.write, handle, Record(labels, is_stopped=True, ended_at=self._clock()))
        if status in NOT_STARTED:
            self._change(handle)
            return
        if status == "paused":
            await self._unless_over(self._engine.unpause(handle))
        due = asyncio.get_running_loop().time() + grace_seconds
        earlier = self._kills.get(handle)
        if earlier is None:
            await self._unless_over(self._engine.kill(handle, "SIGTERM"))
        elif earlier.due <= due:
            return
        else:
            earlier.task.cancel()
        is_young = self._clock() - (seconds(found["State"]["StartedAt"]) or 0) < DEAF_SECONDS
        self._kills[handle] = _Kill(due, asyncio.create_task(self._kill(handle, due, is_young=is_young)))

    async def logs(self, handle: Handle, since: int = 0, *, follow: bool = False) -> AsyncGenerator[LogChunk]:
        """See `Backend.logs`. Following holds one stream open; what is older than `since` is read once, and skipped."""
        _checked(handle)
        await self._open()
        while follow and (task := self._bringing_up(handle)):
            await asyncio.wait([task])
        while True:
            try:
                # Whether it lives is asked before reading: of a dead one, what is there then is all there will be.
                is_live = follow and await self._is_live(handle)
                async with aclosing(self._output(handle, since, follow=is_live)) as chunks:
                    async for chunk in chunks:
                        yield chunk
                        since = chunk.end
                if not is_live:
                    return
                pause = FOLLOW_SECONDS if await self._is_live(handle) else 0
            except BackendUnavailable:
                if not follow:
                    raise
                pause = AGAIN_SECONDS
            await asyncio.sleep(pause)

    async def cleanup(self, handle: Handle) -> None:
        """See `Backend.cleanup`. Raises `BackendError` if the launch has not ended."""
        _checked(handle)
        await self._open()
        known = self._known.get(handle)
        if self._bringing_up(handle):
            raise _not_ended(handle)
        if known is None or not known.phase.is_terminal:
            known, is_ours = await self._inspect(handle)
            if not is_ours:
                return
            if known and not known.phase.is_terminal:
                raise _not_ended(handle)
        try:
            await self._engine.remove(handle)
        except EngineRefused as error:
            if error.status not in {404, 409}:
                raise
            if error.status == 409 and "in progress" not in error.explanation:
                raise _not_ended(handle) from error
        await asyncio.to_thread(self._records.remove, handle)
        self._forget(handle)

    async def close(self) -> None:
        """See `Backend.close`."""
        tasks = [*self._starting.values()]
        if tasks:
            await asyncio.wait(tasks)
        # Their records are kept: whoever opens this folder next goes on with them.
        waiting = [each.task for each in (*self._pulling.values(), *self._kills.values()) if each.task]
        for task in waiting:
            task.cancel()
        if waiting:
            await asyncio.wait(waiting)
        await self._images.close()
        await self._events.close()
        await self._engine.close()

    # --- starting ----------------------------------------------------------------------------------------------------

    async def _open(self) -> None:
        """Go on with what an earlier backend on this folder had not brought to a container yet."""
        if self._is_open:
            return
        async with self._opening:
            if self._is_open:
                return
            for handle, record in (await asyncio.to_thread(self._records.read_all)).items():
                if record.request and not record.is_over:
                    self._wait_for_image(handle, record.request)
            self._is_open = True
        self._events.begin()

    def _begin(self, handle: Handle, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._starting[handle] = asyncio.create_task(work)
        task.add_done_callback(lambda done: self._begun(handle, done))
        return task

    def _begun(self, handle: Handle, task: asyncio.Task[None]) -> None:
        del self._starting[handle]
        if handle in self._changed:
            self._hints.publish(handle)
        if not task.cancelled():
            task.exception()  # whoever asked for it has it, unless that task was cancelled: nobody is left to tell

    async def _start(self, handle: Handle, request: StartRequest) -> None:
        planned = await self._plan(request)
        record = await asyncio.to_thread(self._records.read, handle)
        if record and (record.is_over or record.is_stopped):
            return  # it was started, and is over
        when = read_pull("pull", planned.pull or self._settings.pull)
        if when == "always" and await self._engine.inspect(handle) is None:
            await self._have_pulled(handle, request)
            return
        try:
            await self._create(handle, request, planned)
        except EngineRefused as error:
            if not _is_missing_image(error):
                raise
            if when == "never":
                raise BackendError(
                    f"The image {planned.image} is not on this machine, and `pull` is never. Pull it, or say missing."
                ) from error
            await self._have_pulled(handle, request)

    async def _plan(self, request: StartRequest) -> Plan:
        return plan(request, Machine(self._folder, await self._engine.is_podman()))

    async def _create(self, handle: Handle, request: StartRequest, planned: Plan) -> None:
        """Create and start a container, or start what was created before."""
        if IMAGE_VARIABLE in request.environment:
            digest = digest_of(planned.image, await self._engine.image(planned.image))
            if "@" in digest:  # a tag may mean another image tomorrow
                planned = telling(planned, digest)
        try:
            await self._engine.create(handle, planned.config, planned.platform)
        except EngineRefused as error:
            if error.status != 409 and "already in use" not in error.explanation:
                raise
            found = await self._find(handle)
            if not self._is_ours(found):
                raise BackendError(f"There is a container {handle} that is not this agent's. Remove it.") from error
            if found["State"]["Status"] not in NOT_STARTED or found["State"].get("Error"):
                self._change(handle)
                return
        await self._run(handle, dict(request.labels))

    async def _find(self, handle: Handle) -> Any:
        """Return a container whose name is taken. One that somebody is just creating takes a moment to be there."""
        for pause in FIND_SECONDS:
            found = await self._engine.inspect(handle)
            if found and found["State"]["Status"] != "removing":
                return found
            await asyncio.sleep(pause)
        raise BackendUnavailable(f"The container {handle} is being created or removed by somebody else.")

    async def _run(self, handle: Handle, labels: dict[str, str]) -> None:
        """Start a container that was created. One that cannot run is a failed launch, not an error of the start."""
        try:
            await self._engine.start(handle)
        except EngineRefused as error:
            if error.status == 404 and "such container" in error.explanation.lower():
                raise BackendUnavailable(f"The container {handle} was removed before it was started.") from error
            seen = failed_start(error.explanation, None, "", {})
            record = Record(labels, reason=seen.reason, message=seen.message, ended_at=self._clock())
            await asyncio.to_thread(self._records.write, handle, record)
            self._change(handle)
            return
        known = self._known.get(handle)
        if known is None or known.phase is Phase.STARTING:
            self._known[handle] = Observation(Phase.RUNNING, started_at=self._clock(), labels=labels)
        self._hints.publish(handle)

    # --- pulling -----------------------------------------------------------------------------------------------------

    async def _have_pulled(self, handle: Handle, request: StartRequest) -> None:
        await asyncio.to_thread(self._records.write, handle, Record(request.labels, request=request))
        self._wait_for_image(handle, request)
        self._hints.publish(handle)

    def _wait_for_image(self, handle: Handle, request: StartRequest, after: float = 0) -> None:
        pulling = self._pulling[handle] = _Pulling(dict(request.labels))

        def tell(words: str) -> None:
            if words != pulling.message:
                pulling.message = words
                self._hints.publish(handle)

        pulling.task = asyncio.create_task(self._pull(handle, request, tell, after))

    async def _pull(self, handle: Handle, request: StartRequest, tell: Callable[[str], None], after: float) -> None:
        await asyncio.sleep(after)
        while True:
            try:
                planned = await self._plan(request)
                if await self._engine.inspect(handle) is None:
                    await self._images.pull(planned.image, planned.platform, tell)
                break
            except BackendUnavailable as error:
                tell(f"waiting: {error}")
                await asyncio.sleep(AGAIN_SECONDS)
            except BackendError as error:
                await self._never_ran(handle, request, error)
                return
        # From here on a stop waits, as a call to the engine cannot be taken back.
        self._begin(handle, self._create_pulled(handle, request, planned))

    async def _create_pulled(self, handle: Handle, request: StartRequest, planned: Plan) -> None:
        try:
            await self._create(handle, request, planned)
        except BackendUnavailable:
            self._wait_for_image(handle, request, AGAIN_SECONDS)
        except BackendError as error:
            if isinstance(error, EngineRefused) and _is_missing_image(error):
                error = pull_failed(planned.image, error.explanation)  # it was pulled, and is for another platform
            await self._never_ran(handle, request, error)
        else:
            record = await asyncio.to_thread(self._records.read, handle)
            if record and record.request:
                await asyncio.to_thread(self._records.remove, handle)
            del self._pulling[handle]
            self._hints.publish(handle)

    async def _never_ran(self, handle: Handle, request: StartRequest, error: BackendError) -> None:
        reason = error.reason if isinstance(error, PullFailed) else "start_failed"
        record = Record(request.labels, reason=reason, message=str(error), ended_at=self._clock())
        await asyncio.to_thread(self._records.write, handle, record)
        self._known[handle] = record.observation
        del self._pulling[handle]
        self._hints.publish(handle)

    async def _give_up(self, handle: Handle, pulling: _Pulling) -> None:
        """Stop a launch that has no container yet."""
        assert pulling.task
        pulling.task.cancel()
        await asyncio.wait([pulling.task])
        if self._pulling.pop(handle, None) is None:
            return  # it was over first
        message = "It was stopped before its image was here."
        record = Record(pulling.labels, is_stopped=True, message=message, ended_at=self._clock())
        await asyncio.to_thread(self._records.write, handle, record)
        self._known[handle] = record.observation
        self._change(handle)  # its container may have been created just then

    def _bringing_up(self, handle: Handle) -> asyncio.Task[None] | None:
        """Return what is at work on a launch that has not come to run yet, if anything is."""
        pulling = self._pulling.get(handle)
        return self._starting.get(handle) or (pulling.task if pulling else None)

    # --- looking -----------------------------------------------------------------------------------------------------

    @property
    def _label(self) -> str:
        return f"{FOLDER_LABEL}={self._folder}"

    def _is_ours(self, found: Any) -> bool:
        return labels_of(found).get(FOLDER_LABEL) == self._folder

    def _change(self, handle: Handle) -> None:
        self._changed.add(handle)
        self._hints.publish(handle)

    def _happened(self, handle: Handle, action: str) -> None:
        """Take note of an event. What this backend does itself it knows already."""
        known = self._known.get(handle)
        is_known = handle in self._starting or (known is not None and known.phase is Phase.RUNNING)
        if not (action == "start" and is_known) and not (action in GONE and known is None):
            self._change(handle)

    def _listening(self, is_listening: bool) -> None:
        self._is_listening = is_listening
        self._next_listing = 0.0
        for handle in self._known:
            self._hints.publish(handle)

    async def _look(self) -> None:
        now = asyncio.get_running_loop().time()
        changed, self._changed = self._changed, set()
        try:
            if not self._is_listening or now >= self._next_listing:
                self._next_listing = now + LISTING_SECONDS
                changed = changed | await self._list()
            later = changed & self._starting.keys()  # what is being started is looked at when that is done
            self._changed |= later
            await asyncio.gather(*(self._read(handle) for handle in changed - later))
            if not self._has_looked:
                self._has_looked = True
                self._start_left_behind()
        except BaseException:
            self._changed |= changed
            self._next_listing = 0.0
            raise

    async def _list(self) -> set[Handle]:
        """Compare what is known with what there is; return what must be inspected."""
        before = set(self._known)
        listed = {Handle(each["Names"][0].lstrip("/")): each for each in await self._engine.containers(self._label)}
        worth: set[Handle] = set()
        for handle, entry in listed.items():
            known = self._known.get(handle)
            if known is None:
                worth.add(handle)
            elif not known.phase.is_terminal:
                if (known.phase is Phase.RUNNING) != (entry["State"] in RUNNING):
                    worth.add(handle)
                elif not known.image:
                    self._known[handle] = replace(known, image=await self._digest(entry["ImageID"]))
        records = await asyncio.to_thread(self._records.read_all)
        for handle, record in records.items():
            if handle not in listed and handle not in self._pulling and record.is_over:
                self._known[handle] = record.observation
        for handle in before - listed.keys() - records.keys():
            self._forget(handle)
        return worth

    def _start_left_behind(self) -> None:
        """Start what an agent has created and had no time to start."""
        for handle, seen in self._known.items():
            if seen.phase is Phase.STARTING and self._bringing_up(handle) is None:
                self._begin(handle, self._run(handle, dict(seen.labels)))

    async def _read(self, handle: Handle) -> None:
        seen, is_ours = await self._inspect(handle)
        known = self._known.get(handle)
        if not is_ours:
            self._forget(handle)
        elif seen and not (known and known.phase.is_terminal and not seen.phase.is_terminal):
            self._known[handle] = seen
            if seen.phase.is_terminal and (kill := self._kills.pop(handle, None)):
                kill.task.cancel()

    async def _inspect(self, handle: Handle) -> tuple[Observation | None, bool]:
        """Return what a launch is like now, and whether there is such a launch of ours."""
        found = await self._engine.inspect(handle)
        record = await asyncio.to_thread(self._records.read, handle)
        if found is None:
            return (record.observation, True) if record and record.is_over else (None, False)
        if not self._is_ours(found):
            return None, False
        return observation_of(found, record, await self._digest(found["Image"])), True

    async def _digest(self, image: str) -> str:
        if image not in self._digests:
            self._digests[image] = digest_of(image, await self._engine.image(image))
        return self._digests[image]

    def _forget(self, handle: Handle) -> None:
        self._known.pop(handle, None)
        self._changed.discard(handle)
        if kill := self._kills.pop(handle, None):
            kill.task.cancel()

    # --- stopping and output -----------------------------------------------------------------------------------------

    async def _kill(self, handle: Handle, due: float, *, is_young: bool) -> None:
        """Wait out the grace period, and kill until it is dead."""
        loop = asyncio.get_running_loop()
        if is_young and due - loop.time() > DEAF_SECONDS:
            await asyncio.sleep(DEAF_SECONDS)
            with suppress(BackendUnavailable):
                await self._unless_over(self._engine.kill(handle, "SIGTERM"))
        await asyncio.sleep(due - loop.time())
        while True:
            with suppress(BackendUnavailable):
                await self._unless_over(self._engine.kill(handle, "SIGKILL"))
                if not await self._is_live(handle):
                    break
            await asyncio.sleep(AGAIN_SECONDS)
        self._kills.pop(handle, None)
        self._change(handle)

    async def _unless_over(self, call: Coroutine[Any, Any, None]) -> None:
        """Do something to a running container; that it runs no more is fine."""
        try:
            await call
        except EngineRefused as error:
            if error.status not in {404, 409, 500}:
                raise

    async def _is_live(self, handle: Handle) -> bool:
        known = self._known.get(handle)
        if self._bringing_up(handle):
            return True
        if known and known.phase.is_terminal:
            return False
        found = await self._engine.inspect(handle)
        return found is not None and found["State"]["Status"] in RUNNING

    async def _output(self, handle: Handle, since: int, *, follow: bool) -> AsyncGenerator[LogChunk]:
        position = 0
        with suppress(EngineRefused):  # it has no container, or one that never ran
            async with aclosing(self._engine.logs(handle, follow=follow)) as batches:
                async for batch in batches:
                    data = b"".join(batch)
                    fresh = data[max(0, since - position) :]
                    position += len(data)
                    for start in range(0, len(fresh), CHUNK_BYTES):
                        piece = fresh[start : start + CHUNK_BYTES]
                        yield LogChunk(position - len(fresh) + start, piece)


def _checked(handle: Handle) -> Handle:
    if not NAME.fullmatch(handle):
        raise BackendError(f"{handle!r} cannot be a launch's name: it must match {NAME.pattern}.")
    return handle


def _not_ended(handle: Handle) -> BackendError:
    return BackendError(f"The launch {handle} has not ended; stop it before it is cleaned up.")


def _is_missing_image(error: EngineRefused) -> bool:
    words = error.explanation.lower()
    return error.status == 404 or "no such image" in words or "image not known" in words
