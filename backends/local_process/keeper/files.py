"""What stands in a launch's folder, and how it is read and written.

What is imported here is paid for by every fork of the keeper: no `typing`, no `pathlib`.
"""

from __future__ import annotations

import errno
import json
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import TypedDict

    class Status(TypedDict, total=False):
        """What the lines of a launch's record say together. Each group is a line."""

        labels: dict[str, str]
        groups: list[str]
        """The folders of its control groups, from before they are made."""

        state: str
        """`running` or `ended`. Without it nothing was started yet."""
        pid: int
        pid_started: int
        keeper: int
        keeper_started: int
        started_at: float

        exit_code: int
        signal: int | None
        stopped: bool
        reason: str
        message: str
        ended_at: float


RECORD = "record.jsonl"
"""Lines are added to it, each in one piece, by the keeper that has locked it. A new file for each change would cost the
most of a start: a file system goes around what was removed a moment ago, so the more is removed, the slower it makes
files."""
OUTPUT = "output.log"
STOP_MARKER = "stop"
WORK = "work"
"""Where a job runs that came without a working folder."""

_FILE_BYTES = 64 * 1024
"""More than any file that is read here."""


def read_status(folder: str) -> Status:
    """Return what a launch's record says. An unreadable one (power failed) says that the launch was started."""
    try:
        content = read_file(f"{folder}/{RECORD}")
    except (FileNotFoundError, NotADirectoryError):
        return _read_earlier(folder)
    status: Status = {}
    try:
        for line in content.split(b"\n")[:-1]:  # after the last one stands nothing, or a part of what is being added
            status.update(json.loads(line))
    except ValueError:
        status["state"] = "running"
    if not status:
        status = _read_earlier(folder)
    if not status and os.path.exists(f"{folder}/{OUTPUT}"):  # which is made after the first line
        return {"state": "running"}
    return status


def _read_earlier(folder: str) -> Status:
    """Return what agents before the record wrote, into a file each for status and labels; empty if there is none."""
    status: Status = {}
    try:
        read = json.loads(read_file(f"{folder}/status.json"))
        status.update(read)
        status.update({"keeper": read.get("shim", 0), "keeper_started": read.get("shim_started", 0)})
        status["labels"] = json.loads(read_file(f"{folder}/launch.json"))
    except (FileNotFoundError, NotADirectoryError):
        pass
    except ValueError:
        status["state"] = "running"
    return status


def read_file(path: str) -> bytes:
    """Return what stands in a small file. Cheaper than `open`, which counts where thousands are read."""
    file = os.open(path, os.O_RDONLY)
    try:
        return os.read(file, _FILE_BYTES)
    finally:
        os.close(file)


def open_record(folder: str) -> int:
    """Open a launch's record, to be locked and added to."""
    os.makedirs(folder, mode=0o700, exist_ok=True)
    return os.open(f"{folder}/{RECORD}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def add_line(record: int, content: Mapping[str, object]) -> None:
    """Add a line to an open record: all of it or nothing."""
    line = json.dumps(content).encode() + b"\n"
    size = os.fstat(record).st_size
    if os.write(record, line) < len(line):
        os.ftruncate(record, size)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def start_ticks(pid: int) -> int:
    """Return when a process started, in clock ticks since boot; 0 if it has ended.

    With it, a pid names one process for ever.
    """
    try:
        fields = read_file(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in {b"Z", b"X"} else int(fields[19])
