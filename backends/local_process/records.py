"""What a launch's folder tells. The spawner's shims write it; the backend only reads, and leaves stop markers."""

import fcntl
import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.base import Observation, Phase
from backends.local_process import spawner


@dataclass(frozen=True, slots=True)
class Process:
    """A process that cannot be mistaken for a later one with the same pid."""

    pid: int
    started: int
    """Clock ticks since boot."""

    def open(self) -> int | None:
        """Return a pidfd, or None if the process is gone."""
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return None
        if self.started and spawner.start_ticks(self.pid) != self.started:
            os.close(handle)
            return None
        return handle


@dataclass(frozen=True, slots=True)
class Record:
    """A launch, as its folder has it."""

    observation: Observation
    shim: Process | None = None
    job: Process | None = None


def read(folder: Path) -> Record:
    """Read a launch's folder."""
    status = _status(folder)
    if status is None:
        phase = Phase.STARTING if is_locked(folder) else Phase.LOST
        return Record(Observation(phase, message="The launch was never started." if phase is Phase.LOST else ""))
    shim = Process(status["shim"], status["shim_started"])
    job = Process(status["pid"], status["pid_started"])
    if status["state"] == "ended":
        return Record(_ended(folder, status), shim, job)
    if is_locked(folder):
        return Record(Observation(Phase.RUNNING, started_at=status["started_at"]), shim, job)
    # Between our reading the status and trying the lock the shim may have written the end.
    status = _status(folder) or status
    if status["state"] == "ended":
        return Record(_ended(folder, status), shim, job)
    message = (
        "The process is gone and left no exit status: it was killed with its supervisor, or the machine restarted."
    )
    return Record(Observation(Phase.LOST, message=message, started_at=status["started_at"]), shim, job)


def is_locked(folder: Path) -> bool:
    """Whether the launch's shim or job still live."""
    try:
        handle = os.open(folder / spawner.LOCK, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def mark_stop(folder: Path) -> None:
    """Note that the launch was asked to stop, so that its end is told as that, also after a restart of the agent."""
    (folder / spawner.STOP_MARKER).touch()


def labels(folder: Path) -> dict[str, str]:
    """Return what the launch was labelled with."""
    try:
        return json.loads((folder / spawner.LABELS).read_text())
    except FileNotFoundError:
        return {}


def _status(folder: Path) -> dict[str, Any] | None:
    try:
        return json.loads((folder / spawner.STATUS).read_text())
    except FileNotFoundError:
        return None


def _ended(folder: Path, status: dict[str, Any]) -> Observation:
    number: int | None = status["signal"]
    code: int = status["exit_code"]
    if (folder / spawner.STOP_MARKER).exists():
        phase = Phase.STOPPED
    else:
        phase = Phase.FINISHED if code == 0 else Phase.FAILED
    return Observation(
        phase,
        exit_code=code,
        reason=f"signal:{signal.Signals(number).name}" if number else "",
        message=status["message"],
        started_at=status["started_at"],
        ended_at=status["ended_at"],
    )
