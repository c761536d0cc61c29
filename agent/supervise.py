"""Keeps endless loops alive: a bug in one is logged with its stack trace, and the loop starts again after a pause."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

FIRST_PAUSE_SECONDS = 0.5
LAST_PAUSE_SECONDS = 30.0

log = structlog.get_logger(__name__)


async def supervise(name: str, loop: Callable[[], Awaitable[None]]) -> None:
    """Run `loop` for ever; returns only by cancellation."""
    pause = FIRST_PAUSE_SECONDS
    while True:
        started = asyncio.get_running_loop().time()
        try:
            await loop()
            log.error("a loop that should not end has ended", loop=name)
        except Exception:  # the supervisor: a bug in one loop must not end the daemon
            log.exception("a loop failed and is started again", loop=name)
        if asyncio.get_running_loop().time() - started > LAST_PAUSE_SECONDS:
            pause = FIRST_PAUSE_SECONDS
        await asyncio.sleep(pause)
        pause = min(pause * 2, LAST_PAUSE_SECONDS)
