"""SIGTERM and SIGINT, which tell an agent to end."""

import asyncio
import signal
from collections.abc import Callable

TOLD_TO_END = (signal.SIGTERM, signal.SIGINT)


def when_told_to_end(call: Callable[[], object]) -> None:
    """Call in the running loop, whenever one of the signals comes.

    Not by handlers of the loop: those end with it, some time before the process does, and a signal that came then would
    be the end of it, whatever its exit code was to be.
    """
    loop = asyncio.get_running_loop()

    def told(*_: object) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(call)

    for number in TOLD_TO_END:
        signal.signal(number, told)


def do_not_listen() -> None:
    """Ignore them from here on: the process is about to exit."""
    for number in TOLD_TO_END:
        signal.signal(number, signal.SIG_IGN)
