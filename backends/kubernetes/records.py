"""What is kept of launches on this machine, a folder each in the state folder: that a stop was asked for and, once its
object is gone from the cluster, how it ended; beside it, its output (`backends/kubernetes/output.py`).

Everything else is on the cluster. These block: call from threads.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from backends.base import Handle, Observation, Phase, Step
from backends.whole_files import write_whole

RECORD = "record.json"


@dataclass(frozen=True, slots=True)
class Record:
    """What is written down about a launch."""

    handle: Handle
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    is_stopped: bool = False
    """Whether a stop was asked for."""
    end: Observation | None = None
    """How it ended, once nothing but this record tells it."""

    @property
    def observation(self) -> Observation | None:
        """What it says about a launch whose object is gone; None if that is nothing."""
        if self.end is None and self.is_stopped:
            # It went while no agent was looking.
            return Observation(Phase.STOPPED, labels=self.labels)
        return self.end


class Records:
    """The folders under one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def folder_of(self, handle: Handle) -> Path:
        """Return where what is kept of a launch is, or would be."""
        name = handle.rpartition("/")[2]
        return self._folder / f"{name[:100]}-{hashlib.sha256(handle.encode()).hexdigest()[:12]}"

    def read_all(self) -> dict[Handle, Record]:
        """Return every record. One that cannot be read is none: the cluster knows the launch, or nobody does."""
        try:
            folders = [Path(entry.path) for entry in os.scandir(self._folder)]
        except FileNotFoundError:
            return {}
        records = (_read(folder / RECORD) for folder in folders)
        return {record.handle: record for record in records if record}

    def write(self, record: Record) -> None:
        """Write a record, whatever interrupts that: whole or not at all."""
        folder = self.folder_of(record.handle)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_whole(folder / RECORD, json.dumps(asdict(record)).encode())

    def remove(self, handle: Handle) -> None:
        """Remove all that is kept of a launch."""
        shutil.rmtree(self.folder_of(handle), ignore_errors=True)


def _read(path: Path) -> Record | None:
    try:
        raw: dict[str, Any] = json.loads(path.read_bytes())
        end: dict[str, Any] | None = raw["end"]
        if end is not None:
            end |= {"phase": Phase(end["phase"]), "step": Step(end["step"]), "details": tuple(end["details"])}
            raw["end"] = Observation(**end)
        return Record(**raw)
    except (OSError, ValueError, TypeError, KeyError):
        return None
