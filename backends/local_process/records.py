"""What a launch's folder tells. Its keeper writes it; the backend only reads, and leaves stop markers.

Everything here blocks: it is called from threads.
"""

import fcntl
import os
import shutil
import signal
from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from backends.base import Handle, Observation, Phase
from backends.local_process.keeper import files, groups

if TYPE_CHECKING:
    from backends.local_process.keeper.files import Status

REST = ".removed-"
"""Before the name of a folder that is being removed. No launch is called so."""
LOST = "The process is gone and left no exit status: it was killed with its supervisor, or the machine restarted."


@dataclass(frozen=True, slots=True)
class Process:
    """A process that cannot be mistaken for a later one with the same pid."""

    pid: int
    started: int
    """Clock ticks since boot."""

    @property
    def is_alive(self) -> bool:
        """Whether it still runs."""
        return self.started != 0 and files.start_ticks(self.pid) == self.started

    def open(self) -> int | None:
        """Return a pidfd, or None if the process is gone; `OSError` where the kernel has no pidfds."""
        if not self.started:
            return None
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return None
        if not self.is_alive:  # it has ended, and the pidfd may be somebody else's
            os.close(handle)
            return None
        return handle

    def signal_group(self, number: signal.Signals) -> None:
        """Signal the process group that it leads, unless it is gone and its pid may be somebody else's."""
        if not self.is_alive:
            return
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            return


@dataclass(frozen=True, slots=True)
class Record:
    """A launch, as its folder has it."""

    observation: Observation
    keeper: Process | None = None
    """The process that will write the end."""
    job: Process | None = None
    groups: Sequence[str] = ()
    """The folders of its control groups."""


def read(folder: Path) -> Record | None:
    """Read a launch's folder; None if nothing was ever started there."""
    status = files.read_status(str(folder))
    if "state" not in status:
        return Record(Observation(Phase.STARTING, labels=_labels(status))) if _is_locked(folder) else None
    record = from_status(status)
    if record.observation.phase.is_terminal or any(
        process and process.is_alive for process in (record.keeper, record.job)
    ):
        return record
    # The keeper may have written the end after we read the status and before we looked for it.
    record = from_status(files.read_status(str(folder)) or status)
    if record.observation.phase.is_terminal:
        return record
    # Its keeper is gone. Until we have seen to what the job has left behind, it is not over.
    if not groups.remove(record.groups):
        return record
    stopped = (folder / files.STOP_MARKER).exists()
    phase, message = (Phase.STOPPED, "") if stopped else (Phase.LOST, LOST)
    return Record(replace(record.observation, phase=phase, message=message))


def from_status(status: "Status") -> Record:
    """Return what a status says by itself: running may be out of date, ended never is."""
    keeper = Process(status.get("keeper", 0), status.get("keeper_started", 0))
    job = Process(status.get("pid", 0), status.get("pid_started", 0))
    started_at = status.get("started_at")
    if status.get("state") != "ended":
        running = Observation(Phase.RUNNING, started_at=started_at, labels=_labels(status))
        return Record(running, keeper, job, status.get("groups", ()))
    code, number = status.get("exit_code"), status.get("signal")
    phase = Phase.STOPPED if status.get("stopped") else Phase.FAILED if code else Phase.FINISHED
    observation = Observation(
        phase,
        exit_code=code,
        reason=status.get("reason") or (f"signal:{_name_of(number)}" if number else ""),
        message=status.get("message", ""),
        started_at=started_at,
        ended_at=status.get("ended_at"),
        labels=_labels(status),
    )
    return Record(observation)


def look(root: Path, known: Set[Handle], changed: Set[Handle] | None) -> tuple[Set[Handle], dict[Handle, Record]]:
    """Return the launches that exist, and the records of those that are not known.

    What exists is asked of the disk where `changed` is None; else it is what is known and what has changed.
    """
    names = _list(root) if changed is None else known | changed
    read_now = {handle: record for handle in names - known if (record := read(root / handle))}
    return (names & known) | read_now.keys(), read_now


def remove(folder: Path) -> None:
    """Remove the folder of a launch that is over, whatever interrupts that: it is gone at once, by its name."""
    rest = folder.with_name(f"{REST}{folder.name}")
    shutil.rmtree(rest, ignore_errors=True)
    with suppress(FileNotFoundError):
        folder.rename(rest)
    shutil.rmtree(rest, ignore_errors=True)


def sweep(root: Path) -> None:
    """Remove what an interrupted `remove` has left."""
    for rest in root.glob(f"{REST}*"):
        shutil.rmtree(rest, ignore_errors=True)


def request_stop(folder: Path) -> Record | None:
    """Leave the stop marker, and return the record as it is after that; None if there is nothing to stop.

    The marker makes the end be told as a stop, also after a restart of the agent.
    """
    record = read(folder)
    if record is None or record.observation.phase.is_terminal:
        return None
    (folder / files.STOP_MARKER).touch()
    return read(folder)


def _list(root: Path) -> Set[Handle]:
    try:
        return {Handle(entry.name) for entry in os.scandir(root) if not entry.name.startswith(REST)}
    except FileNotFoundError:
        return frozenset()


def _labels(status: "Status") -> Mapping[str, str]:
    return status.get("labels", {})


def _is_locked(folder: Path) -> bool:
    """Whether a keeper is at work in the folder, or the process of a launch that waits for its word."""
    try:
        handle = os.open(folder / files.RECORD, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return str(number)
