"""One launch's output as one stream, in a file: what all its instances print, in the order in which it came here.

The file is what offsets are of. Beside it stands how far each stream of CloudWatch's has been read, so that reading
goes on where it was after a restart of the agent. Lines of the first instance are as they are; others begin with its
name, as `[algo-2] `.
"""

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from backends.base import LogChunk
from backends.whole_files import write_whole

CHUNK_BYTES = 64 * 1024
MAX_CHUNKS = 64
OUTPUT, POSITIONS = "output", "positions.json"


@dataclass
class Position:
    """How far a stream has been read."""

    token: str = ""
    """With which CloudWatch goes on; empty at the stream's beginning."""
    events: int = 0
    """How many there were."""


@dataclass
class _State:
    length: int = 0
    """How much of the file the positions are about."""
    main: str = ""
    """The instance whose lines are as they are."""
    positions: dict[str, Position] = field(default_factory=dict[str, Position])


class Output:
    """See above. Its methods block: call from threads, one at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._state = self._load()

    @property
    def streams(self) -> list[str]:
        """The streams that are known."""
        return list(self._state.positions)

    def position(self, stream: str) -> Position:
        """Return how far a stream has been read."""
        return self._state.positions.get(stream, Position())

    def take(self, stream: str, lines: Iterable[str], position: Position) -> None:
        """Take what a stream goes on with, up to a position."""
        state, instance = self._state, instance_of(stream)
        state.main = state.main or instance
        label = "" if instance == state.main else f"[{instance}] "
        data = "".join(f"{label}{line.removesuffix(chr(10))}\n" for line in lines).encode("utf-8", "replace")
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if data:
            with open(self._folder / OUTPUT, "ab", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
                file.write(data)
        state.length += len(data)
        state.positions[stream] = position
        write_whole(self._folder / POSITIONS, json.dumps(asdict(state)).encode(), sync=False)

    def chunks(self, since: int) -> list[LogChunk]:
        """Return the next of what there is from an offset on; nothing at its end."""
        chunks: list[LogChunk] = []
        size = min(self._state.length - since, MAX_CHUNKS * CHUNK_BYTES)
        if size > 0:
            with (self._folder / OUTPUT).open("rb") as file:
                file.seek(since)
                data = file.read(size)
            chunks = [
                LogChunk(since + start, data[start : start + CHUNK_BYTES]) for start in range(0, len(data), CHUNK_BYTES)
            ]
        return chunks

    def _load(self) -> _State:
        state = _State()
        with suppress(OSError, ValueError, TypeError, KeyError):
            raw = json.loads((self._folder / POSITIONS).read_bytes())
            positions = {stream: Position(**each) for stream, each in raw["positions"].items()}
            state = _State(raw["length"], raw["main"], positions)
        with suppress(FileNotFoundError):
            path = self._folder / OUTPUT
            if path.stat().st_size < state.length:
                state = _State()
            os.truncate(path, state.length)  # what comes after that is read again
        return state


def instance_of(stream: str) -> str:
    """Return which instance a stream is of, `algo-1`: one that is replaced goes on in another stream."""
    return stream.rpartition("/")[2].rpartition("-")[0]
