"""What the engine cannot keep about a launch, as a file each in the state folder: that a stop was asked for, why it
never came to a container, and, while its image is being pulled, all that its container will be made of.

The files are for the agent's account alone: a pending request has the launch's secrets. They block: call from threads.
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from backends.base import Handle, Observation, Phase, StartRequest

SUFFIX = ".json"
MAY_PASS = frozenset({"image:no_space", "image:rate_limited", "image:unreachable"})
"""Why an image could not be pulled this time."""


@dataclass(frozen=True, slots=True)
class Record:
    """What is written down about a launch."""

    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    is_stopped: bool = False
    """Whether a stop was asked for."""
    request: StartRequest | None = field(default=None, repr=False)
    """The launch to be, until its image is there."""
    reason: str = ""
    message: str = ""
    """Why it could not be started, if so."""
    exit_code: int | None = None
    ended_at: float | None = None

    @property
    def is_over(self) -> bool:
        """Whether there will be nothing more of it, as far as this record knows."""
        return bool(self.message)

    @property
    def observation(self) -> Observation:
        """What it says about a launch that has no container, or one that never ran."""
        phase = Phase.STOPPED if self.is_stopped else Phase.FAILED
        return Observation(
            phase,
            self.exit_code,
            self.reason,
            self.message,
            is_platforms_fault=self.reason in MAY_PASS,
            ended_at=self.ended_at,
            labels=self.labels,
        )


class Records:
    """The records under one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, handle: Handle) -> Record | None:
        """Return a launch's record; None if there is none."""
        try:
            return _from_json(json.loads(self._path(handle).read_bytes()))
        except FileNotFoundError:
            return None

    def read_all(self) -> dict[Handle, Record]:
        """Return every record."""
        try:
            names = [entry.name for entry in os.scandir(self._folder) if entry.name.endswith(SUFFIX)]
        except FileNotFoundError:
            return {}
        handles = [Handle(name.removesuffix(SUFFIX)) for name in names]
        return {handle: record for handle in handles if (record := self.read(handle))}

    def write(self, handle: Handle, record: Record) -> None:
        """Write a record, whatever interrupts that: whole or not at all."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._path(handle)
        fresh = path.with_name(f".{path.name}")
        with open(fresh, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(json.dumps(asdict(record), default=str).encode())
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)

    def remove(self, handle: Handle) -> None:
        """Remove a record, if there is one."""
        with suppress(FileNotFoundError):
            self._path(handle).unlink()

    def _path(self, handle: Handle) -> Path:
        return self._folder / f"{handle}{SUFFIX}"


def _from_json(raw: dict[str, Any]) -> Record:
    request: dict[str, Any] | None = raw["request"]
    if request:
        folder = request["working_dir"]
        request["working_dir"] = Path(folder) if folder else None
        request["folders"] = [Path(each) for each in request["folders"]]
        raw["request"] = StartRequest(**request)
    return Record(**raw)
