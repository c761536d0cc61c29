"""What is kept of launches on this machine, a folder each in the state folder: what is known of the job, so that a
restarted agent needs not ask about each; beside it, its output (`backends/sagemaker/output.py`).

Everything else is at AWS. These block: call from threads.
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
IN_USE = "in-use"
"""A file whose time tells when an agent last knew all its jobs."""


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of a job."""

    handle: Handle
    arn: str
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    signature: str = ""
    """What the list of jobs said of it when it was last read."""
    seen: Observation = field(default_factory=lambda: Observation(Phase.STARTING))
    """What it looked like then."""


class Records:
    """The folders under one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def folder_of(self, handle: Handle) -> Path:
        """Return where what is kept of a launch is, or would be."""
        name = handle.rpartition("/")[2]
        return self._folder / f"{name[:100]}-{hashlib.sha256(handle.encode()).hexdigest()[:12]}"

    def read_all(self) -> dict[Handle, Record]:
        """Return every record. One that cannot be read is none: AWS knows the job, or nobody does."""
        try:
            folders = [Path(entry.path) for entry in os.scandir(self._folder) if entry.is_dir()]
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

    def last_used(self) -> float | None:
        """Return when an agent last knew all its jobs, in seconds since the epoch; None: never, or it was forgotten."""
        try:
            return (self._folder / IN_USE).stat().st_mtime
        except FileNotFoundError:
            return None

    def use(self, now: float) -> None:
        """Take note that all jobs are known."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (self._folder / IN_USE).touch()
        os.utime(self._folder / IN_USE, (now, now))


def _read(path: Path) -> Record | None:
    try:
        raw: dict[str, Any] = json.loads(path.read_bytes())
        seen: dict[str, Any] = raw["seen"]
        seen |= {"phase": Phase(seen["phase"]), "step": Step(seen["step"]), "details": tuple(seen["details"])}
        raw["seen"] = Observation(**seen)
        return Record(**raw)
    except (OSError, ValueError, TypeError, KeyError):
        return None
