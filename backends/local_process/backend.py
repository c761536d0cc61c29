"""The local-process backend: starts through the spawner, watches through pidfds, stops process groups."""

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import TypeVar

from backends.base import (
    BackendError,
    Capabilities,
    Handle,
    LogChunk,
    Observation,
    Phase,
    Snapshot,
    StartRequest,
)
from backends.local_process import records, spawner
from backends.local_process.records import Record
from backends.local_process.spawning import Spawner

T = TypeVar("T")

CHUNK_BYTES = 64 * 1024
FOLLOW_SECONDS = 0.1
"""How often a followed log is looked at. The file is on this machine, so a look costs next to nothing."""


class LocalProcessBackend:
    """See `backends.base.Backend`. A handle is the launch's name, which is also its folder's."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._spawner = Spawner()
        self._seen: dict[Handle, Observation] | None = None
        """What the last look told; None before the first one, which reads every folder."""
        self._pidfds: dict[Handle, int] = {}
        self._to_read: set[Handle] = set()
        """Launches to read again: something happened to them, or there is no pidfd that would tell."""
        self._hints: set[Handle] = set()
        self._hinted = asyncio.Event()
        self._kills: dict[Handle, asyncio.Task[None]] = {}

    @property
    def capabilities(self) -> Capabilities:
        """See `Backend.capabilities`."""
        return Capabilities(runs_locally=True)

    async def start(self, request: StartRequest) -> Handle:
        """See `Backend.start`. A program that cannot be executed is a failed launch, not an error of the start."""
        handle = Handle(request.name)
        reply = await self._spawner.start(
            {
                "folder": str(self._folder(handle)),
                "command": list(request.command),
                "environment": {**request.environment, **request.secrets},
                "working_dir": str(request.working_dir) if request.working_dir else None,
                "labels": dict(request.labels),
            }
        )
        if error := reply.get("error"):
            raise BackendError(f"The launch {request.name} could not be started on this machine: {error}")
        self._to_read.add(handle)
        self._hint(handle)
        return handle

    async def observe(self) -> Snapshot:
        """See `Backend.observe`. Reads only the folders of launches to which something happened."""
        if self._seen is None:
            self._to_read.update(await _in_thread(self._all_handles))
            self._seen = {}
        handles = list(self._to_read)
        self._to_read.difference_update(handles)
        if len(handles) <= 8:  # a few small files; a thread would take longer than reading them
            found = self._read(handles)
        else:
            found = await _in_thread(lambda: self._read(handles))
        for handle, record in found.items():
            self._seen[handle] = record.observation
            if record.observation.phase.is_terminal:
                self._unwatch(handle)
            else:
                self._watch(handle, record)
        return dict(self._seen)

    async def changes(self) -> AsyncGenerator[frozenset[Handle]]:
        """See `Backend.changes`."""
        while True:
            await self._hinted.wait()
            self._hinted.clear()
            hints = frozenset(self._hints)
            self._hints.clear()
            yield hints

    async def stop(self, handle: Handle, grace_seconds: float) -> None:
        """See `Backend.stop`."""
        folder = self._folder(handle)
        record = await _in_thread(lambda: records.read(folder) if folder.is_dir() else None)
        if record is None or record.observation.phase.is_terminal or handle in self._kills:
            return
        await _in_thread(lambda: records.mark_stop(folder))
        _signal(record, signal.SIGTERM)
        self._kills[handle] = asyncio.create_task(self._kill_later(handle, grace_seconds))

    async def logs(self, handle: Handle, since: int = 0, *, follow: bool = False) -> AsyncGenerator[LogChunk]:
        """See `Backend.logs`."""
        path = self._folder(handle) / spawner.OUTPUT
        while True:
            # Whether it has ended is asked before reading: what is there then is all there will be.
            ended = not follow or not await _in_thread(lambda: records.is_locked(path.parent))
            data = await _in_thread(lambda at=since: _read_at(path, at))
            if data:
                yield LogChunk(since, data)
                since += len(data)
            elif ended:
                return
            else:
                await asyncio.sleep(FOLLOW_SECONDS)

    async def cleanup(self, handle: Handle) -> None:
        """See `Backend.cleanup`."""
        folder = self._folder(handle)
        if await _in_thread(lambda: records.is_locked(folder)):
            raise BackendError(f"The launch {handle} is still running; stop it before it is cleaned up.")
        self._unwatch(handle)
        self._to_read.discard(handle)
        if self._seen is not None:
            self._seen.pop(handle, None)
        await _in_thread(lambda: shutil.rmtree(folder, ignore_errors=True))

    async def close(self) -> None:
        """See `Backend.close`."""
        for task in self._kills.values():
            task.cancel()
        await asyncio.gather(*self._kills.values(), return_exceptions=True)
        for handle in list(self._pidfds):
            self._unwatch(handle)
        await self._spawner.close()

    def _folder(self, handle: Handle) -> Path:
        if not handle or "/" in handle or handle.startswith("."):
            raise BackendError(f"{handle!r} is not a launch's name.")
        return self._root / handle

    def _all_handles(self) -> list[Handle]:
        return [Handle(entry.name) for entry in self._root.iterdir()] if self._root.is_dir() else []

    def _read(self, handles: list[Handle]) -> dict[Handle, Record]:
        return {handle: records.read(folder) for handle in handles if (folder := self._folder(handle)).is_dir()}

    def _watch(self, handle: Handle, record: Record) -> None:
        """Have the kernel tell when the shim ends; where it is gone already, when the job does."""
        if handle in self._pidfds:
            return
        pidfd = record.shim.open() if record.shim else None
        if pidfd is None and record.job:
            pidfd = record.job.open()
        if pidfd is None:
            self._to_read.add(handle)  # it is just ending, or just starting: the next look will tell
            asyncio.get_running_loop().call_later(FOLLOW_SECONDS, self._hint, handle)
            return
        self._pidfds[handle] = pidfd
        asyncio.get_running_loop().add_reader(pidfd, self._ended, handle)

    def _ended(self, handle: Handle) -> None:
        self._unwatch(handle)
        self._to_read.add(handle)
        self._hint(handle)

    def _unwatch(self, handle: Handle) -> None:
        pidfd = self._pidfds.pop(handle, None)
        if pidfd is not None:
            asyncio.get_running_loop().remove_reader(pidfd)
            os.close(pidfd)
        if task := self._kills.pop(handle, None):
            task.cancel()

    def _hint(self, handle: Handle) -> None:
        self._hints.add(handle)
        self._hinted.set()

    async def _kill_later(self, handle: Handle, grace_seconds: float) -> None:
        await asyncio.sleep(grace_seconds)
        _signal(await _in_thread(lambda: records.read(self._folder(handle))), signal.SIGKILL)


def _signal(record: Record, number: signal.Signals) -> None:
    """Signal the job's process group, unless the job is gone and its pid may be somebody else's."""
    if record.job is None or record.observation.phase is not Phase.RUNNING:
        return
    pidfd = record.job.open()
    if pidfd is None:
        return
    try:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(record.job.pid, number)
    finally:
        os.close(pidfd)


def _read_at(path: Path, offset: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(CHUNK_BYTES)
    except FileNotFoundError:
        return b""


async def _in_thread(work: Callable[[], T]) -> T:
    return await asyncio.to_thread(work)
