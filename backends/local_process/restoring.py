"""Brings back the folders of launches that were removed while their jobs run: their keepers know what stood there.

Everything here blocks: it is called from threads.
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from backends.local_process.keeper import files

LIMIT_SECONDS = 2.0
"""How long keepers are waited for. One of an earlier version does not know how to do it."""
LOOK_SECONDS = 0.01
_PROGRAM = b"/local_process/keeper/__main__.py"
_REMOVED = f"/{files.RECORD} (deleted)"


def restore(root: Path) -> None:
    """Have the keepers of launches below a folder write down anew what was removed, and wait for it."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while (keepers := [pid for pid in _keepers() if _has_removed(pid, root)]) and time.monotonic() < deadline:
        for pid in keepers:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGHUP)
        time.sleep(LOOK_SECONDS)


def _keepers() -> Iterator[int]:
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with suppress(OSError):  # it has ended, or is somebody else's
                if _PROGRAM in files.read_file(f"{process}/cmdline"):
                    yield int(process.name)


def _has_removed(pid: int, root: Path) -> bool:
    """Whether a process has a record open that is not there any more."""
    below = f"{os.path.realpath(root)}/"
    with suppress(OSError):
        for file in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):  # it has been closed
                path = str(file.readlink())
                if path.startswith(below) and path.endswith(_REMOVED):
                    return True
    return False
