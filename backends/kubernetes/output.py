"""One launch's output as one stream, in a file: what all its containers print, in the order in which it came here.

The file is what offsets are of. Beside it stands how far each container has been read, by the time of its last line and
how many lines had that time; so reading goes on where it was, after a lost connection, a restart of the agent, or a
rotation of the container's log. Lines of the job's own container are as they are. Others begin with who printed them.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

from backends.base import LogChunk
from backends.flag import Flag
from backends.kubernetes.sources import Source
from backends.whole_files import write_whole

CHUNK_BYTES = 64 * 1024
LINE_BYTES = 1024 * 1024
"""A longer line is not waited for to its end."""
POSITIONS_SECONDS = 1.0
"""How old the positions on the disk may be. A crash has so much read again."""
OUTPUT, POSITIONS = "output", "positions.json"


@dataclass(slots=True)
class Position:
    """How far a container has been read."""

    time: str = ""
    """Of the last line that was taken, as the platform writes it."""
    lines: int = 0
    """How many lines of that time were taken."""
    is_done: bool = False


@dataclass(slots=True)
class _State:
    length: int = 0
    """How much of the file the positions are about."""
    main: str = ""
    """The container whose lines are as they are: the job's, of the first pod."""
    positions: dict[str, Position] = field(default_factory=dict[str, Position])


class Output:
    """See above. One object at a time per launch; `open` comes first."""

    __slots__ = ("_clock", "_folder", "_is_midline", "_last", "_saved_at", "_state", "_writing", "grown")

    def __init__(self, folder: Path, clock: Callable[[], float]) -> None:
        self._folder = folder
        self._clock = clock
        self._state = _State()
        self._is_midline = False
        self._last = ""
        self._saved_at = 0.0
        self._writing = asyncio.Lock()
        self.grown = Flag()
        """Set when there is more to read; whoever waits for it clears it before reading."""

    @property
    def length(self) -> int:
        """How much there is, in bytes."""
        return self._state.length

    async def open(self) -> None:
        """Go on with what an earlier agent has left."""
        await asyncio.to_thread(self._load)

    def is_done(self, source: Source) -> bool:
        """Whether all that a container printed is here."""
        position = self._state.positions.get(source.key)
        return position is not None and position.is_done

    async def done(self, source: Source) -> None:
        """Take note that a container has nothing more to say."""
        position = self._position(source)
        if not position.is_done:
            if source.words and not position.time:
                await self._append(source, [source.words.encode() + b"\n"])
            position.is_done = True
            await self._write(b"", save=True)

    async def take(self, source: Source, stream: AsyncIterator[bytes], *, to_its_end: bool) -> None:
        """Take what a container prints, from a stream of lines with their times that began at `since`.

        With `to_its_end`, a last line without an end is taken, too.
        """
        position = self._position(source)
        known_time, known_lines = _nanoseconds(position.time), position.lines
        rest = b""
        is_continued = False
        async for data in stream:
            *lines, rest = (rest + data).split(b"\n")
            fresh: list[bytes] = []
            for line in lines:
                if is_continued:
                    fresh.append(line + b"\n")
                    is_continued = False
                    continue
                time, _, content = line.partition(b" ")
                stamp = time.decode(errors="replace")
                if known_time is not None:  # what was taken before comes again, as times count in seconds there
                    now = _nanoseconds(stamp)
                    if now is None or now < known_time:
                        continue
                    if now == known_time and known_lines > 0:
                        known_lines -= 1
                        continue
                    if now > known_time:
                        known_time = None
                self._count(position, stamp)
                fresh.append(content + b"\n")
            if len(rest) > LINE_BYTES and known_time is None:
                fresh.append(rest if is_continued else rest.partition(b" ")[2])
                rest, is_continued = b"", True
            if fresh:
                await self._append(source, fresh)
        if rest and to_its_end:
            time, _, content = rest.partition(b" ")
            stamp = time.decode(errors="replace")
            now = _nanoseconds(stamp)
            if known_time is None or (
                now is not None and (now > known_time or (now == known_time and not known_lines))
            ):
                self._count(position, stamp)
                await self._append(source, [rest if is_continued else content])

    def since(self, source: Source) -> str:
        """Return from which time on a container is to be read; empty for its beginning."""
        return self._position(source).time

    async def chunks(self, since: int) -> AsyncIterator[LogChunk]:
        """Yield what there is from an offset on."""
        while since < self.length:
            data = await asyncio.to_thread(self._read, since, min(CHUNK_BYTES, self.length - since))
            if not data:
                return
            yield LogChunk(since, data)
            since += len(data)

    async def close(self) -> None:
        """Have the positions on the disk."""
        if self._state.length:
            await self._write(b"", save=True)

    def _position(self, source: Source) -> Position:
        return self._state.positions.setdefault(source.key, Position())

    def _count(self, position: Position, stamp: str) -> None:
        position.lines = position.lines + 1 if stamp == position.time else 1
        position.time = stamp

    async def _append(self, source: Source, lines: list[bytes]) -> None:
        if source.is_main and not self._state.main:
            self._state.main = source.pod
        if source.is_main and source.pod == self._state.main:
            label = b""
        else:
            is_first = source.pod == self._state.main or not self._state.main
            label = f"[{source.container if is_first else source.key}] ".encode()
        data = b"".join(label + line for line in lines) if label else b"".join(lines)
        async with self._writing:
            if self._is_midline and self._last != source.key:
                data = b"\n" + data
            self._last, self._is_midline = source.key, not data.endswith(b"\n")
            await self._write_locked(data)
        self.grown.set()

    async def _write(self, data: bytes, *, save: bool) -> None:
        async with self._writing:
            await self._write_locked(data, save=save)

    async def _write_locked(self, data: bytes, *, save: bool = False) -> None:
        self._state.length += len(data)
        save = save or self._clock() - self._saved_at >= POSITIONS_SECONDS
        positions = json.dumps(asdict(self._state)).encode() if save else b""
        if save:
            self._saved_at = self._clock()
        await asyncio.to_thread(self._store, data, positions)

    # --- on threads --------------------------------------------------------------------------------------------------

    def _store(self, data: bytes, positions: bytes) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(self._folder / OUTPUT, "ab", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(data)
        if positions:
            write_whole(self._folder / POSITIONS, positions, sync=False)

    def _read(self, since: int, size: int) -> bytes:
        with (self._folder / OUTPUT).open("rb") as file:
            file.seek(since)
            return file.read(size)

    def _load(self) -> None:
        state = _State()
        with suppress(OSError, ValueError, TypeError, KeyError):
            raw = json.loads((self._folder / POSITIONS).read_bytes())
            positions = {key: Position(**each) for key, each in raw["positions"].items()}
            state = _State(raw["length"], raw["main"], positions)
        with suppress(FileNotFoundError):
            path = self._folder / OUTPUT
            if path.stat().st_size < state.length:
                state = _State()
            os.truncate(path, state.length)  # what comes after that is read again
            self._is_midline = _ends_midline(path, state.length)
        self._state = state


def _ends_midline(path: Path, length: int) -> bool:
    if length == 0:
        return False
    with path.open("rb") as file:
        file.seek(length - 1)
        return file.read(1) != b"\n"


def _nanoseconds(time: str) -> int | None:
    """Return a time as RFC 3339 writes it, in nanoseconds since the epoch; None if it is none."""
    whole, dot, rest = time.partition(".")
    digits = rest.rstrip("Z").partition("+")[0].partition("-")[0] if dot else ""
    zone = rest[len(digits) :] if dot else ""
    try:
        seconds = int(datetime.fromisoformat(whole + zone).timestamp())
        return seconds * 1_000_000_000 + int(digits.ljust(9, "0")[:9] or "0")
    except ValueError:
        return None
