"""A folder for each launch in a backend's state folder, with a record of it: what the platform would not tell again.

These block: call from threads.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from backends.base import Handle, Observation, Phase, Step
from backends.whole_files import write_whole

RECORD = "record.json"


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a backend writes down about a launch begins with whose it is."""

    handle: Handle


R = TypeVar("R", bound=Recorded)


class LaunchFolders(Generic[R]):
    """The folders under one folder."""

    def __init__(self, folder: Path, parse: Callable[[dict[str, Any]], R]) -> None:
        """`parse` makes a record of its fields as JSON has them; ValueError, TypeError or KeyError if it cannot."""
        self.folder = folder
        self._parse = parse

    def folder_of(self, handle: Handle) -> Path:
        """Return where what is kept of a launch is, or would be."""
        name = handle.rpartition("/")[2]
        return self.folder / f"{name[:100]}-{hashlib.sha256(handle.encode()).hexdigest()[:12]}"

    def read_all(self) -> dict[Handle, R]:
        """Return every record. One that cannot be read is none: the platform knows the launch, or nobody does."""
        try:
            folders = [Path(entry.path) for entry in os.scandir(self.folder) if entry.is_dir()]
        except FileNotFoundError:
            return {}
        records = (self._read(folder / RECORD) for folder in folders)
        return {record.handle: record for record in records if record}

    def write(self, record: R) -> None:
        """Write a record, whatever interrupts that: whole or not at all."""
        folder = self.folder_of(record.handle)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_whole(folder / RECORD, json.dumps(asdict(record)).encode())

    def remove(self, handle: Handle) -> None:
        """Remove all that is kept of a launch."""
        shutil.rmtree(self.folder_of(handle), ignore_errors=True)

    def _read(self, path: Path) -> R | None:
        try:
            return self._parse(json.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError, KeyError):
            return None


def observation(raw: dict[str, Any]) -> Observation:
    """Return an observation that was written down as a part of a record."""
    typed: dict[str, Any] = {
        "phase": Phase(raw["phase"]),
        "step": Step(raw["step"]),
        "details": tuple(raw["details"]),
    }
    return Observation(**raw | typed)
