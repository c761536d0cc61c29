"""The local-process backend: starts through the keeper, hears ends from it, stops process groups.

What is known of a launch is kept here so that looking costs nothing while nothing happens. It is only a cache: every
launch's folder has the truth, and a new backend on the same folders knows the same.
"""

import asyncio
import re
import signal
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from backends.base import (
    BackendError,
    Capabilities,
    Handle,
    LogChunk,
    Observation,
    Snapshot,
    StartRequest,
)
from backends.hints import Hints
from backends.local_process import records
from backends.local_process.control_groups import ControlGroups, NoControlGroups, find
from backends.local_process.keeper import files, groups
from backends.local_process.keeping import Keeper
from backends.local_process.records import Process, Record
from backends.local_process.restoring import restore
from backends.local_process.watching import ExitWatch

if TYPE_CHECKING:
    from backends.local_process.keeper.files import Status
    from backends.local_process.keeper.wire import Group

log = structlog.get_logger(__name__)

CHUNK_BYTES = 64 * 1024
FOLLOW_SECONDS = (0.05, 1.0)
"""How soon a followed log is looked at again: the first after output came, twice as long after each empty look."""
LISTING_SECONDS = 2.0
"""How often to list all folders, which is only to notice what others did to them."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


@dataclass(frozen=True, slots=True)
class _Live:
    observation: Observation
    over: asyncio.Event = field(default_factory=asyncio.Event)


class LocalProcessBackend:
    """See `backends.base.Backend`. A handle is the launch's name, which is also its folder's."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._keeper = Keeper()
        self._watch = ExitWatch(self._over)
        self._hints = Hints()
        self._starting: dict[Handle, asyncio.Task[None]] = {}
        self._live: dict[Handle, _Live] = {}
        self._ended: dict[Handle, Observation] = {}
        self._changed: set[Handle] = set()
        """Launches to read again."""
        self._next_listing = 0.0
        self._first = asyncio.Lock()
        self._is_swept = False
        self._control_groups: ControlGroups | None = None
        self._kills: dict[Handle, asyncio.TimerHandle] = {}

    @property
    def capabilities(self) -> Capabilities:
        """See `Backend.capabilities`."""
        return Capabilities(runs_locally=True)

    async def start(self, request: StartRequest) -> Handle:
        """See `Backend.start`. A program that cannot be executed is a failed launch, not an error of the start."""
        handle = Handle(request.name)
        self._folder(handle)
        environment = {**request.environment, **request.secrets}
        _check(request, environment)
        starting = self._starting.get(handle)
        if starting is None:
            starting = self._starting[handle] = asyncio.create_task(self._start(handle, request, environment))
            starting.add_done_callback(lambda task: self._started(handle, task))
        await asyncio.shield(starting)
        return handle

    async def observe(self) -> Snapshot:
        """See `Backend.observe`. Reads only the folders of launches to which something happened."""
        now = asyncio.get_running_loop().time()
        known: dict[Handle, Observation] = {handle: live.observation for handle, live in self._live.items()}
        known.update(self._ended)
        changed = None if now >= self._next_listing else frozenset(self._changed)
        await self._begin()
        if changed is not None and not changed:
            return known
        present, read = await asyncio.to_thread(records.look, self._root, known.keys(), changed)
        if self._live.keys() & known.keys() - present:  # somebody removed the folder of one that runs
            await asyncio.to_thread(restore, self._root)
            present, read = await asyncio.to_thread(records.look, self._root, known.keys(), None)
        if changed is None:
            self._next_listing = now + LISTING_SECONDS
        for handle, record in read.items():
            self._keep(handle, record)
        for handle in known.keys() - present:
            self._forget(handle)  # somebody removed its folder
        return {handle: read[handle].observation if handle in read else known[handle] for handle in present}

    def changes(self) -> AsyncGenerator[frozenset[Handle]]:
        """See `Backend.changes`. Yields once at once."""
        return self._hints.listen(frozenset(self._live))

    async def stop(self, handle: Handle, grace_seconds: float) -> None:
        """See `Backend.stop`. Asking again can shorten the grace period, never prolong it."""
        folder = self._folder(handle)
        if starting := self._starting.get(handle):
            await asyncio.wait([starting])
        record = await asyncio.to_thread(records.request_stop, folder)
        if record is None or record.job is None:
            return
        loop = asyncio.get_running_loop()
        earlier = self._kills.get(handle)
        if earlier is None:
            record.job.signal_group(signal.SIGTERM)
        elif earlier.when() <= loop.time() + grace_seconds:
            return
        else:
            earlier.cancel()
        self._keep(handle, record)
        self._kills[handle] = loop.call_later(grace_seconds, self._kill, handle, record.job)

    async def logs(self, handle: Handle, since: int = 0, *, follow: bool = False) -> AsyncGenerator[LogChunk]:
        """See `Backend.logs`."""
        path = self._folder(handle) / files.OUTPUT
        shortest, longest = FOLLOW_SECONDS
        pause = shortest
        while True:
            # Whether it lives is asked before reading: of a dead one, what is there then is all there will be.
            live = await self._find_live(handle) if follow else None
            data = await asyncio.to_thread(_read_at, path, since)
            if data:
                yield LogChunk(since, data)
                since += len(data)
                pause = shortest
            elif live is None:
                return
            else:
                await _wait(live.over, pause)
                pause = min(2 * pause, longest)

    async def cleanup(self, handle: Handle) -> None:
        """See `Backend.cleanup`. Raises `BackendError` if the launch has not ended."""
        folder = self._folder(handle)

        def clean_up() -> None:
            record = records.read(folder)
            if record and not record.observation.phase.is_terminal:
                raise BackendError(f"The launch {handle} has not ended; stop it before it is cleaned up.")
            records.remove(folder)

        await asyncio.to_thread(clean_up)
        self._forget(handle)

    async def close(self) -> None:
        """See `Backend.close`."""
        await self._keeper.close()
        if self._starting:
            await asyncio.wait(self._starting.values())
        for kill in self._kills.values():
            kill.cancel()
        self._kills.clear()
        self._watch.close()
        if self._control_groups:
            await asyncio.to_thread(self._control_groups.close)

    async def _start(self, handle: Handle, request: StartRequest, environment: Mapping[str, str]) -> None:
        def ended(status: "Status | None") -> None:
            if status is None:
                self._over(handle)
            elif handle in self._live or handle in self._starting:
                self._keep(handle, records.from_status(status))

        status, is_told = await self._keeper.start(
            self._folder(handle),
            request.command,
            environment,
            _place(request),
            request.labels,
            await self._groups_of(request),
            ended,
        )
        self._keep(handle, records.from_status(status), is_told=is_told)
        self._hints.publish(handle)

    async def _begin(self) -> None:
        """Look around once, before anything is told or started."""
        if self._is_swept:
            return
        async with self._first:
            if self._is_swept:
                return
            await asyncio.to_thread(records.sweep, self._root)
            await asyncio.to_thread(restore, self._root)
            try:
                self._control_groups = await asyncio.to_thread(_open_control_groups, self._root)
            except (NoControlGroups, OSError) as error:
                log.info("jobs are not held to the CPUs and memory that they ask for", why=str(error))
            else:
                log.info("jobs are held to what they ask for", of=sorted(self._control_groups.parents))
            self._is_swept = True

    async def _groups_of(self, request: StartRequest) -> "list[Group]":
        """Return the control groups that a launch needs: none if nothing of this machine was given to it alone.

        Joining one makes a start slower, by milliseconds where the machine is busy.
        """
        if not (request.cpus or request.memory or request.gpus):
            return []
        await self._begin()
        if (ours := self._control_groups) is None:
            return []
        try:
            await asyncio.to_thread(ours.make)
        except OSError as error:
            raise BackendError(f"The launch {request.name} cannot get a control group: {error}.") from error
        return ours.of(request.name, request.cpus, request.memory)

    def _started(self, handle: Handle, task: asyncio.Task[None]) -> None:
        del self._starting[handle]
        if not task.cancelled():
            task.exception()  # whoever asked for it has it, unless that task was cancelled: nobody is left to tell

    def _folder(self, handle: Handle) -> Path:
        if not NAME.fullmatch(handle):
            raise BackendError(f"{handle!r} cannot be a launch's name: it must match {NAME.pattern}.")
        return self._root / handle

    def _keep(self, handle: Handle, record: Record, *, is_told: bool = False) -> None:
        """Take note of a launch. What was found on the disk may have ended since, so it is watched."""
        if record.observation.phase.is_terminal:
            self._over(handle)
            self._changed.discard(handle)
            self._ended[handle] = record.observation
        elif handle not in self._ended:
            over = self._live[handle].over if handle in self._live else asyncio.Event()
            self._live[handle] = _Live(record.observation, over)
            self._changed.discard(handle)
            if is_told:
                self._watch.discard(handle)
            else:
                self._watch.add(handle, record)

    def _over(self, handle: Handle) -> None:
        """Drop what is known of a live launch: it has ended, or should be looked at again."""
        self._watch.discard(handle)
        if live := self._live.pop(handle, None):
            self._changed.add(handle)
            live.over.set()
            self._hints.publish(handle)

    def _forget(self, handle: Handle) -> None:
        self._over(handle)
        self._changed.discard(handle)
        self._ended.pop(handle, None)
        if kill := self._kills.pop(handle, None):
            kill.cancel()

    def _kill(self, handle: Handle, job: Process) -> None:
        del self._kills[handle]
        job.signal_group(signal.SIGKILL)

    async def _find_live(self, handle: Handle) -> _Live | None:
        if handle in self._ended:
            return None
        if handle not in self._live:
            record = await asyncio.to_thread(records.read, self._folder(handle))
            if record is None:
                return None
            self._keep(handle, record)
        return self._live.get(handle)


def _open_control_groups(root: Path) -> ControlGroups:
    """See that groups can be made, and remove those of launches that nobody knows any more."""
    found = find(root)
    found.make()
    for name, folders in found.all():
        # A keeper of an earlier agent's writes its record before it makes a group, and has it locked.
        if records.read(root / name) is None:
            log.warning("its record is lost: ending what is left of a launch", launch=name)
            groups.remove(folders)
    found.close()  # made again when a launch needs it: an agent that is killed before leaves nothing
    return found


def _check(request: StartRequest, environment: Mapping[str, str]) -> None:
    """Refuse what no process can be given."""
    if not request.command:
        raise BackendError(f"The launch {request.name} has no command to run.")
    for key in environment:
        if not key or "=" in key or "\0" in key + environment[key]:
            raise BackendError(f"The launch {request.name} has an environment variable {key!r} that cannot be set.")


def _place(request: StartRequest) -> Path | None:
    return request.working_dir / request.subfolder if request.working_dir else None


def _read_at(path: Path, offset: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(CHUNK_BYTES)
    except FileNotFoundError:
        return b""


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
