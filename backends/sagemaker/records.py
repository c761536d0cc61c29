"""What is kept of launches on this machine, a folder each in the state folder: what is known of the job, so that a
restarted agent needs not ask about each; beside it, its output (`backends/sagemaker/output.py`).

Everything else is at AWS. These block: call from threads.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backends.base import Observation, Phase
from backends.launch_folders import LaunchFolders, Recorded, observation

IN_USE = "in-use"
"""A file whose time tells when an agent last knew all its jobs."""


@dataclass(frozen=True, slots=True)
class Record(Recorded):
    """What is known of a job."""

    arn: str
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    signature: str = ""
    """What the list of jobs said of it when it was last read."""
    seen: Observation = field(default_factory=lambda: Observation(Phase.STARTING))
    """What it looked like then."""


class Records(LaunchFolders[Record]):
    """The folders under one folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, _record)

    def last_used(self) -> float | None:
        """Return when an agent last knew all its jobs, in seconds since the epoch; None: never, or it was forgotten."""
        try:
            return (self.folder / IN_USE).stat().st_mtime
        except FileNotFoundError:
            return None

    def use(self, now: float) -> None:
        """Take note that all jobs are known."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (self.folder / IN_USE).touch()
        os.utime(self.folder / IN_USE, (now, now))


def _record(raw: dict[str, Any]) -> Record:
    fields: dict[str, Any] = raw | {"seen": observation(raw["seen"])}
    return Record(**fields)
