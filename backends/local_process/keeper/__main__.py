"""The keeper's program. Usage: __main__.py REQUESTS REPLIES (two inherited sockets)."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import signal
import socket
import sys

from keeper import Keeper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

CAUGHT = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ)


def main() -> None:
    """Keep jobs until the agent is gone and they have ended."""
    requests = socket.socket(fileno=int(sys.argv[1]))
    replies = socket.socket(fileno=int(sys.argv[2]))
    for inherited in (requests, replies):
        inherited.set_inheritable(False)
    woken = _catch_signals()
    # Each launch holds a lock; a job gets the old limit back.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    gc.freeze()  # what is imported stays for ever; looking through it would touch, and so copy, what forks share
    Keeper(requests, replies).serve(woken)


def _catch_signals() -> int:
    """Do nothing about signals but to wake up; returns the pipe that tells of them.

    A service manager or a shutdown signals whole groups, and the keeper must live to write the ends of its jobs. It
    catches and does not ignore, because what is caught is back to its default as soon as a job's program runs.
    """
    woken, waking = os.pipe()
    for end in (woken, waking):
        os.set_blocking(end, False)
    for number in CAUGHT:
        signal.signal(number, _do_nothing)
    signal.set_wakeup_fd(waking, warn_on_full_buffer=False)
    return woken


def _do_nothing(_: int, __: FrameType | None) -> None:
    """What has happened is looked for when the pipe can be read."""


if __name__ == "__main__":
    main()
