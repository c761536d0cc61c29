"""Tells when launches end, without polling: through pidfds."""

import asyncio
import os
from collections.abc import Callable

from backends.base import Handle
from backends.local_process.records import Record

POLL_SECONDS = 1.0
"""How often to look at a launch of which the kernel cannot tell: still starting, or no pidfds here."""
END_SECONDS = 0.05
"""How often to look at a launch whose job has ended, which its keeper is about to write down."""


class ExitWatch:
    """Calls back once when a launch is over, or worth another look."""

    def __init__(self, on_exit: Callable[[Handle], None]) -> None:
        self._on_exit = on_exit
        self._pidfds: dict[Handle, int] = {}
        self._timers: dict[Handle, asyncio.TimerHandle] = {}

    def add(self, handle: Handle, record: Record) -> None:
        """Watch the launch's job."""
        if handle in self._pidfds or handle in self._timers:
            return
        loop = asyncio.get_running_loop()
        delay = END_SECONDS if record.job else POLL_SECONDS
        try:
            pidfd = record.job and record.job.open()
        except OSError:
            pidfd, delay = None, POLL_SECONDS
        if pidfd:
            self._pidfds[handle] = pidfd
            loop.add_reader(pidfd, self._fire, handle)
        else:
            self._timers[handle] = loop.call_later(delay, self._fire, handle)

    def discard(self, handle: Handle) -> None:
        """Watch it no more."""
        pidfd = self._pidfds.pop(handle, None)
        if pidfd is not None:
            asyncio.get_running_loop().remove_reader(pidfd)
            os.close(pidfd)
        if timer := self._timers.pop(handle, None):
            timer.cancel()

    def close(self) -> None:
        """Watch nothing any more."""
        for handle in [*self._pidfds, *self._timers]:
            self.discard(handle)

    def _fire(self, handle: Handle) -> None:
        self.discard(handle)
        self._on_exit(handle)
