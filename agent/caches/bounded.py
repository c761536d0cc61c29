"""Folders that launches share, by key: made once, only read, and removed when there is too much of them, the longest
unused first.

A folder counts as made when the file `KEY.ready` is beside it. That is written last, tells how much is in the folder,
and is touched whenever a launch begins to use it. What has no such file was left half-made by a crash; it is removed at
the next start, or made again. Which launch uses what is in the journal, with the launch (`Launch.uses`).
"""

import asyncio
import os
import shutil
import stat
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from agent.caches.single_flight import SingleFlight
from agent.launch import Launch

READY = ".ready"
BLOCK_BYTES = 512
"""The unit of `st_blocks`, whatever the file system."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Entry:
    key: str
    used: float
    """Last, in seconds since the epoch."""
    size: int
    """In bytes on disk."""


class BoundedCache:
    """The folders under one root. `limit` is in bytes on disk, None for no limit.

    `in_use` returns the keys that launches use; None while that is not known of one that runs, and then nothing is
    removed.
    """

    def __init__(self, root: Path, limit: int | None, in_use: Callable[[], Collection[str] | None]) -> None:
        self._root = root
        self._limit = limit
        self._in_use = in_use
        self._making = SingleFlight()
        self._grown = asyncio.Event()

    async def has(self, key: str) -> bool:
        """Whether a folder is made already."""
        return await asyncio.to_thread(_is_made, self._root / key)

    async def get(self, key: str, launch: Launch, make: Callable[[Path], Awaitable[None]]) -> Path:
        """Return the folder of a key, which the launch uses from now on.

        If it is not here yet, `make` is called with its path, and has to make it; what that raises leaves nothing.
        Who asks meanwhile waits for it.
        """
        folder = self._root / key
        async with self._making.alone(key):
            launch.use(key)
            if not await asyncio.to_thread(_touch, folder):
                await self._make(folder, make)
        return folder

    async def keep_bounded(self) -> None:
        """Remove what a crash has left half-made, and then what is too much, whenever there is more; never ends."""
        await self.sweep()
        while True:
            self._grown.clear()
            await self.evict()
            await self._grown.wait()

    async def sweep(self) -> None:
        """Remove what was left half-made, and is not being made now."""
        for key in await asyncio.to_thread(_half_made, self._root):
            if await self._drop(key, unless=_is_made):
                log.info("removed what was left half-made", folder=str(self._root / key))

    async def evict(self) -> None:
        """Remove what is too much."""
        if self._limit is None:
            return
        entries = await asyncio.to_thread(_entries, self._root)
        total = sum(entry.size for entry in entries)
        for entry in entries:
            if total <= self._limit:
                return
            if await self._drop(entry.key):
                total -= entry.size
                log.info("removed from a full cache", folder=str(self._root / entry.key), bytes=entry.size)

    async def _make(self, folder: Path, make: Callable[[Path], Awaitable[None]]) -> None:
        await asyncio.to_thread(_remove, folder)
        try:
            await make(folder)
            await asyncio.to_thread(_finish, folder)
        except BaseException:
            await asyncio.to_thread(_remove, folder)
            raise
        self._grown.set()

    async def _drop(self, key: str, *, unless: Callable[[Path], bool] = lambda _: False) -> bool:
        """Remove a folder, if no launch uses it; returns whether it is gone. Who wants it meanwhile makes it again."""
        folder = self._root / key
        async with self._making.alone(key):
            used = self._in_use()
            if used is None or key in used or await asyncio.to_thread(unless, folder):
                return False
            await asyncio.to_thread(_remove, folder)
        return True


def disk_usage(folder: Path) -> int:
    """Return how many bytes on disk a file or folder takes; a file with several names in it counts once."""
    seen: set[tuple[int, int]] = set()
    total, waiting = 0, [str(folder)]
    while waiting:
        path = waiting.pop()
        with suppress(FileNotFoundError):  # somebody else may be at work in it
            found = os.lstat(path)
            if (found.st_dev, found.st_ino) not in seen:
                seen.add((found.st_dev, found.st_ino))
                total += found.st_blocks * BLOCK_BYTES
                if stat.S_ISDIR(found.st_mode):
                    waiting.extend(entry.path for entry in os.scandir(path))
    return total


def _ready(folder: Path) -> Path:
    return folder.with_name(folder.name + READY)


def _is_made(folder: Path) -> bool:
    return folder.is_dir() and _ready(folder).exists()


def _touch(folder: Path) -> bool:
    """Note that a folder is used now; returns whether there is one."""
    if not folder.is_dir():
        return False
    try:
        os.utime(_ready(folder))
    except FileNotFoundError:
        return False
    return True


def _finish(folder: Path) -> None:
    _ready(folder).write_text(str(disk_usage(folder)))


def _remove(folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    _ready(folder).unlink(missing_ok=True)  # first: without it, what is left of the folder means nothing
    shutil.rmtree(folder, ignore_errors=True)


def _half_made(root: Path) -> set[str]:
    """Return the keys of what is there without being complete."""
    names = {path.name for path in root.iterdir()} if root.is_dir() else set[str]()
    made = {name for name in names if name + READY in names}
    return {name.removesuffix(READY) for name in names} - made


def _entries(root: Path) -> list[_Entry]:
    """Return what is made, the longest unused first."""
    entries: list[_Entry] = []
    for ready in root.glob(f"*{READY}"):
        with suppress(FileNotFoundError):
            entries.append(_Entry(ready.name.removesuffix(READY), ready.stat().st_mtime, _size(ready)))
    return sorted(entries, key=lambda entry: entry.used)


def _size(ready: Path) -> int:
    text = ready.read_text("ascii", errors="replace")
    # Empty where the agent was killed between making and writing it.
    return int(text) if text.isdecimal() else disk_usage(ready.with_name(ready.name.removesuffix(READY)))
