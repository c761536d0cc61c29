"""What is kept of launches on this machine, a folder each in the state folder: that a stop was asked for and, once its
object is gone from the cluster, how it ended; beside it, its output (`backends/kubernetes/output.py`).

Everything else is on the cluster. These block: call from threads.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backends.base import Observation, Phase
from backends.launch_folders import LaunchFolders, Recorded, observation


@dataclass(frozen=True, slots=True)
class Record(Recorded):
    """What is written down about a launch."""

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


class Records(LaunchFolders[Record]):
    """The folders under one folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, _record)


def _record(raw: dict[str, Any]) -> Record:
    end = raw["end"]
    fields: dict[str, Any] = raw | {"end": observation(end) if end is not None else None}
    return Record(**fields)
