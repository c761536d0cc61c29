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
        """The status file. The second group stands in it once `state` is `ended`."""

        state: str
        pid: int
        pid_started: int
        shim: int
        """The keeper. The name is from when each launch had a process of its own to keep it."""
        shim_started: int
        started_at: float

        exit_code: int
        signal: int | None
        stopped: bool
        reason: str
        message: str
        ended_at: float


LOCK = "lock"
STATUS = "status.json"
LABELS = "launch.json"
OUTPUT = "output.log"
STOP_MARKER = "stop"
WORK = "work"
"""Where a job runs that came without a working folder."""

_FILE_BYTES = 32 * 1024
"""More than any file that is read here."""


def read_status(folder: str) -> Status | None:
    """Return what a launch's status file says. An unreadable one (power failed) still says that it was started."""
    try:
        return json.loads(read_file(f"{folder}/{STATUS}"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        return {"state": "running"}


def read_file(path: str) -> bytes:
    """Return what stands in a small file. Cheaper than `open`, which counts where thousands are read."""
    file = os.open(path, os.O_RDONLY)
    try:
        return os.read(file, _FILE_BYTES)
    finally:
        os.close(file)


def write(folder: str, name: str, content: Mapping[str, object]) -> None:
    """Write a file of a launch: who reads it finds the old content or the new one, whole."""
    line = json.dumps(content).encode()
    path, new = f"{folder}/{name}", f"{folder}/.{name}"
    file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        if os.write(file, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
    finally:
        os.close(file)
    os.replace(new, path)


def start_ticks(pid: int) -> int:
    """Return when a process started, in clock ticks since boot; 0 if it has ended.

    With it, a pid names one process for ever.
    """
    try:
        fields = read_file(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in {b"Z", b"X"} else int(fields[19])
