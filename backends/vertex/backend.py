"""The gcp-vertex backend: makes, watches, stops and removes custom jobs.

What is known of a launch is kept here so that looking costs nothing. It is only a cache: Google has the truth, and a
new backend of the same owner knows the same.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog

from backends.base import (
    BackendError,
    BackendUnavailable,
    Capabilities,
    Handle,
    LogChunk,
    Observation,
    Phase,
    PlatformFull,
    Snapshot,
    StartRequest,
)
from backends.hints import Hints
from backends.vertex import names, secrets
from backends.vertex.access import Access, VertexUnavailable
from backends.vertex.logs import Logs
from backends.vertex.reading import Job, observation_of
from backends.vertex.records import Record, Records
from backends.vertex.request import custom_job
from backends.vertex.settings import Settings
from backends.vertex.tracker import Tracker

SETTLE_SECONDS = 60.0
"""How long a job may stay unseen that was asked for without an answer. After that it was not made."""
AGAIN_SECONDS = 2.0
"""How soon to ask again for what could not be asked."""
ASKED_SECONDS = 5.0
"""How long a stop waits at most for Google to be told of it. It goes on without being waited for."""

log = structlog.get_logger(__name__)


class VertexBackend:
    """See `backends.base.Backend`. A handle is the launch's label."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[Access]],
        state_dir: Path,
        owner: str,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._connect = connect
        self._owner = owner
        self._settings = settings
        self._clock = clock
        self._hints = Hints()
        self._records = Records(state_dir / "launches")
        self._logs = Logs(self._connected, self._records, self._job, clock)
        self._opening = asyncio.Lock()
        self._closing = AsyncExitStack()
        self._access: Access | None = None
        self._tracker: Tracker | None = None
        self._jobs: dict[str, Job] = {}
        """The tracker's."""
        self._known: dict[Handle, Observation] = {}
        self._stopped: set[Handle] = set()
        self._starting: dict[Handle, asyncio.Task[Handle]] = {}
        self._stops: dict[Handle, asyncio.Task[None]] = {}

    @property
    def capabilities(self) -> Capabilities:
        """See `Backend.capabilities`. Code has to be in the image."""
        return Capabilities(runs_images=True, needs_image=True)

    async def start(self, request: StartRequest) -> Handle:
        """See `Backend.start`. Raises `PlatformFull` while a quota is used up."""
        handle = names.handle_of(request.name)
        starting = self._starting.get(handle)
        if starting is None:
            starting = self._starting[handle] = asyncio.create_task(self._start(request, handle))
            starting.add_done_callback(lambda done: self._has_started(handle, done))
        return await asyncio.shield(starting)

    async def observe(self) -> Snapshot:
        """See `Backend.observe`. Raises `BackendUnavailable` while Google does not tell."""
        tracker = await self._open()
        if tracker.error is not None:
            raise BackendUnavailable(str(tracker.error))
        return dict(self._known)

    def changes(self) -> AsyncGenerator[frozenset[Handle]]:
        """See `Backend.changes`. Yields once at once."""
        return self._hints.listen(frozenset(self._known))

    async def stop(self, handle: Handle, grace_seconds: float) -> None:
        """See `Backend.stop`. How long a job has until it is killed is Google's to say, and not `grace_seconds`.

        Google is asked again in the background for as long as it does not answer, so that this does not fail.
        """
        if starting := self._starting.get(handle):
            await asyncio.wait([starting])
        await self._open()
        job = self._job(handle)
        if job is None or job.is_over:
            return
        if handle not in self._stops:
            self._stopped.add(handle)
            record = await asyncio.to_thread(self._records.read, handle)
            await asyncio.to_thread(self._records.write, handle, replace(record, is_stopped=True))
            task = self._stops[handle] = asyncio.create_task(self._cancel(handle, job))
            task.add_done_callback(lambda done: self._has_stopped(handle, done))
        await asyncio.wait([self._stops[handle]], timeout=ASKED_SECONDS)

    async def logs(self, handle: Handle, since: int = 0, *, follow: bool = False) -> AsyncGenerator[LogChunk]:
        """See `Backend.logs`."""
        await self._open()
        async with aclosing(self._logs.read(handle, since, follow=follow)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def cleanup(self, handle: Handle) -> None:
        """See `Backend.cleanup`. Raises `BackendError` if the launch has not ended."""
        tracker = await self._open()
        job = self._job(handle)
        if job is not None:
            if not job.is_over:
                raise BackendError(f"The launch {handle} has not ended; stop it before it is cleaned up.")
            await self._connected().delete(job.name)
            tracker.forget(job)
            await self._remove_secret(handle)
        self._logs.forget(handle)
        self._known.pop(handle, None)
        self._stopped.discard(handle)
        await asyncio.to_thread(self._records.remove, handle)

    async def close(self) -> None:
        """See `Backend.close`."""
        if self._starting:
            await asyncio.wait(list(self._starting.values()))
        stops = list(self._stops.values())
        for task in stops:
            task.cancel()
        if stops:
            await asyncio.wait(stops)
        await self._logs.close()
        await self._closing.aclose()

    # --- opening -----------------------------------------------------------------------------------------------------

    async def _open(self) -> Tracker:
        """Find what earlier agents have left. All of it: what is not told of does not exist."""
        if self._tracker is not None:
            return self._tracker
        async with self._opening:
            if self._tracker is not None:
                return self._tracker
            if self._access is None:
                self._access = await self._connect()
                self._closing.push_async_callback(self._access.close)
            records = await asyncio.to_thread(self._records.read_all)
            self._stopped |= {handle for handle, record in records.items() if record.is_stopped}
            tracker = Tracker(self._access, self._owner, self._settings.poll_seconds, self._changed)
            self._jobs = tracker.jobs
            await tracker.open()
            self._closing.push_async_callback(tracker.close)
            self._tracker = tracker
            return tracker

    def _connected(self) -> Access:
        assert self._access is not None  # whoever asks has opened
        return self._access

    # --- starting ----------------------------------------------------------------------------------------------------

    async def _start(self, request: StartRequest, handle: Handle) -> Handle:
        """Make the job of a launch, unless there is one: who has the launch's lock may, and nobody else."""
        tracker = await self._open()
        while True:
            if handle in tracker.jobs:
                return handle
            with self._records.locked(handle) as is_ours:
                if is_ours:
                    return await self._make(tracker, request, handle)
            await asyncio.sleep(min(AGAIN_SECONDS, self._settings.poll_seconds))
            await tracker.find(handle)

    async def _make(self, tracker: Tracker, request: StartRequest, handle: Handle) -> Handle:
        record = await asyncio.to_thread(self._records.read, handle)
        if record.job:
            return handle  # somebody has removed it since
        if record.asked_at:
            await self._settle(tracker, handle, record)
            if handle in tracker.jobs:
                return handle
        access = self._connected()
        through = secrets.THROUGH if self._settings.secret_prefix else ()
        job = custom_job(request, access.parent, self._owner, through)
        if through:
            await self._add_secret(job, request)
        await asyncio.to_thread(self._records.write, handle, Record(asked_at=self._clock()))
        try:
            made = await access.create(job)
        except VertexUnavailable as error:
            if not error.may_have_happened:
                await asyncio.to_thread(self._records.write, handle, Record())
            raise
        except (BackendError, PlatformFull):
            await asyncio.to_thread(self._records.remove, handle)
            await self._remove_secret(handle)
            raise
        await asyncio.to_thread(self._records.write, handle, Record(asked_at=self._clock(), job=made.name))
        tracker.put(made)
        return handle

    async def _settle(self, tracker: Tracker, handle: Handle, record: Record) -> None:
        """Find out whether a job was made that was asked for without an answer. Raises while that is not known."""
        if await tracker.find(handle) is None and self._clock() - record.asked_at < SETTLE_SECONDS:
            raise BackendUnavailable(
                f"Vertex AI did not say whether it made the job of {handle}. It is looked for before it is asked again."
            )

    async def _add_secret(self, job: dict[str, Any], request: StartRequest) -> None:
        name = secrets.secret_id(self._settings.secret_prefix, request.name)
        version = await self._connected().make_secret(name, secrets.written(request.secrets), secrets.KEPT_SECONDS)
        for pool in job["job_spec"]["worker_pool_specs"]:
            pool["container_spec"]["env"].append({"name": secrets.SECRET_VARIABLE, "value": version})

    async def _remove_secret(self, handle: Handle) -> None:
        """Remove a launch's secret. One that cannot be removed goes by itself, later."""
        if self._settings.secret_prefix:
            try:
                await self._connected().delete_secret(secrets.secret_id(self._settings.secret_prefix, handle))
            except (BackendError, BackendUnavailable) as error:
                log.warning("cannot remove a secret", launch=handle, error=str(error))

    def _has_started(self, handle: Handle, task: asyncio.Task[Handle]) -> None:
        del self._starting[handle]
        if not task.cancelled():
            task.exception()  # whoever asked for it has it, unless that task was cancelled: nobody is left to tell

    # --- looking -----------------------------------------------------------------------------------------------------

    def _job(self, handle: Handle) -> Job | None:
        return self._jobs.get(handle)

    def _changed(self, launch: str) -> None:
        handle = Handle(launch)
        job = self._jobs.get(launch)
        if job is None:
            self._known.pop(handle, None)
        else:
            last = self._known[handle].phase if handle in self._known else Phase.STARTING
            self._known[handle] = observation_of(job, is_stopped=handle in self._stopped, last=last)
        self._hints.publish(handle)

    # --- stopping ----------------------------------------------------------------------------------------------------

    async def _cancel(self, handle: Handle, job: Job) -> None:
        while True:
            try:
                await self._connected().cancel(job.name)
                return
            except BackendUnavailable as error:
                log.warning("cannot stop it yet", launch=handle, error=str(error))
            except BackendError as error:
                log.error("Google Cloud does not let us stop it", launch=handle, error=str(error))
                return
            await asyncio.sleep(AGAIN_SECONDS)
            known = self._job(handle)
            if known is None or known.is_over:
                return

    def _has_stopped(self, handle: Handle, task: asyncio.Task[None]) -> None:
        if self._stops.get(handle) is task:
            del self._stops[handle]
        if not task.cancelled() and (error := task.exception()):
            log.error("a stop failed by a bug", launch=handle, exc_info=error)
