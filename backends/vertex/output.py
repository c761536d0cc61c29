"""One launch's output, in a file: what its machines print, in the order in which it came here.

The file is what offsets are of. Beside it stands how far the log has been read: so reading goes on where it was, after
a restart of the agent too. An entry that comes late is put where the file ends by then; none is taken twice.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from backends.base import LogChunk
from backends.vertex.access import Entry
from backends.whole_files import write_whole

CHUNK_BYTES = 64 * 1024
OUTPUT, POSITION = "output", "position.json"
CHIEF = "workerpool0-0"
"""The machine whose lines are as they are. Those of others begin with which one it is."""
OVERLAP_SECONDS = 15
"""How much is read again each time: so much later than others an entry may be found."""


@dataclass
class _Position:
    length: int = 0
    """How much of the file this is about."""
    received_at: int = 0
    """When Google had the last entry that was taken, in nanoseconds since the epoch."""
    recent: dict[str, int] = field(default_factory=dict[str, int])
    """Entries that will be read again, with when Google had them."""


class Output:
    """See above. One object at a time per launch; `open` comes first."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._position = _Position()
        self._writing = asyncio.Lock()

    @property
    def length(self) -> int:
        """How much there is, in bytes."""
        return self._position.length

    @property
    def read_from(self) -> int:
        """From when on the log is to be read, by when Google had its entries: nanoseconds; 0 for its beginning."""
        return max(0, self._position.received_at - OVERLAP_SECONDS * 10**9)

    async def open(self) -> None:
        """Go on with what an earlier agent has left."""
        await asyncio.to_thread(self._load)

    async def take(self, entries: Iterable[Entry]) -> None:
        """Add entries of the log, those that are new."""
        async with self._writing:
            position = self._position
            data = bytearray()
            for entry in entries:
                if entry.id in position.recent or entry.received_at < self.read_from:
                    continue
                position.recent[entry.id] = entry.received_at
                position.received_at = max(position.received_at, entry.received_at)
                label = "" if entry.task in {"", CHIEF} else f"[{entry.task}] "
                data += f"{label}{entry.text}".encode(errors="replace").removesuffix(b"\n") + b"\n"
            if not data:
                return
            oldest = self.read_from
            position.recent = {name: stamp for name, stamp in position.recent.items() if stamp >= oldest}
            position.length += len(data)
            await asyncio.to_thread(self._store, bytes(data), json.dumps(asdict(position)).encode())

    async def chunks(self, since: int) -> AsyncIterator[LogChunk]:
        """Yield what there is from an offset on."""
        while since < self.length:
            data = await asyncio.to_thread(self._read, since, min(CHUNK_BYTES, self.length - since))
            if not data:
                return
            yield LogChunk(since, data)
            since += len(data)

    # --- on threads --------------------------------------------------------------------------------------------------

    def _store(self, data: bytes, position: bytes) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(self._folder / OUTPUT, "ab", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(data)
        write_whole(self._folder / POSITION, position, sync=False)

    def _read(self, since: int, size: int) -> bytes:
        with suppress(FileNotFoundError), (self._folder / OUTPUT).open("rb") as file:
            file.seek(since)
            return file.read(size)
        return b""  # it was cleaned up

    def _load(self) -> None:
        position = _Position()
        with suppress(OSError, ValueError, TypeError):
            position = _Position(**json.loads((self._folder / POSITION).read_bytes()))
        with suppress(FileNotFoundError):
            path = self._folder / OUTPUT
            if path.stat().st_size < position.length:
                position = _Position()
            os.truncate(path, position.length)  # what comes after that is read again
        self._position = position
