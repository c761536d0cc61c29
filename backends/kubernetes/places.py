"""Where launches have been started, in a file of the state folder: so that kinds and namespaces are found again that
the configuration does not list, or no longer.
"""

import asyncio
import json
from contextlib import suppress
from dataclasses import astuple, dataclass
from pathlib import Path

from backends.whole_files import write_whole


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A kind in a namespace of a cluster."""

    context: str
    namespace: str
    api_version: str
    kind: str


class Places:
    """Those in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._places: set[Place] = set()
        self._writing = asyncio.Lock()

    def read(self) -> set[Place]:
        """Return those that are written down. Blocks."""
        with suppress(OSError, ValueError, TypeError):
            self._places |= {Place(*each) for each in json.loads(self._path.read_bytes())}
        return set(self._places)

    async def add(self, place: Place) -> None:
        """Write a place down."""
        async with self._writing:
            if place not in self._places:
                self._places.add(place)
                await asyncio.to_thread(self._write)

    def _write(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_whole(self._path, json.dumps(sorted(map(astuple, self._places))).encode())
