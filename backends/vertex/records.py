"""What is kept of launches on this machine, a folder each in the state folder: when their jobs were asked for, and
whether their end was; beside it, their output (`backends/vertex/output.py`).

Everything else Google knows. These block: call from threads.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from backends.base import Handle
from backends.whole_files import write_whole

RECORD, LOCK = "record.json", "lock"


@dataclass(frozen=True, slots=True)
class Record:
    """What is written down about a launch."""

    asked_at: float = 0.0
    """When its job was last asked for, in seconds since the epoch; 0 where it certainly was not."""
    job: str = ""
    """Google's name of its job, once that is known."""
    is_stopped: bool = False
    """Whether its end was asked for."""


class Records:
    """The folders under one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def folder_of(self, handle: Handle) -> Path:
        """Return where what is kept of a launch is, or would be."""
        return self._folder / handle

    def read_all(self) -> dict[Handle, Record]:
        """Return every record."""
        try:
            handles = [Handle(entry.name) for entry in os.scandir(self._folder)]
        except FileNotFoundError:
            return {}
        return {handle: self.read(handle) for handle in handles}

    def read(self, handle: Handle) -> Record:
        """Return a launch's record. One that is not there, or cannot be read, says nothing."""
        try:
            return Record(**json.loads((self.folder_of(handle) / RECORD).read_bytes()))
        except (OSError, ValueError, TypeError):
            return Record()

    def write(self, handle: Handle, record: Record) -> None:
        """Write a record, whatever interrupts that: whole or not at all."""
        folder = self.folder_of(handle)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_whole(folder / RECORD, json.dumps(asdict(record)).encode())

    def remove(self, handle: Handle) -> None:
        """Remove all that is kept of a launch."""
        shutil.rmtree(self.folder_of(handle), ignore_errors=True)

    @contextmanager
    def locked(self, handle: Handle) -> Generator[bool]:
        """Be the only one who starts a launch as long as the block runs; gives False, at once, if somebody else is.

        The lock goes with the process that has it.
        """
        folder = self.folder_of(handle)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (folder / LOCK).open("wb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True
