"""Launches that are about to start go first: an idle place costs more than a word about an end that comes late."""

import asyncio
from collections.abc import Generator
from contextlib import contextmanager

PATIENCE_SECONDS = 0.1
"""For how long an end waits for starts; under load there would always be another one."""


class StartsFirst:
    """Knows which launches are about to start."""

    def __init__(self) -> None:
        self._starting: set[str] = set()
        self._none = asyncio.Event()
        self._none.set()

    @contextmanager
    def starting(self, item_id: str) -> Generator[None]:
        """Let a launch go first while the block runs, unless it turns out to be `slow`."""
        self._starting.add(item_id)
        self._none.clear()
        try:
            yield
        finally:
            self.slow(item_id)

    def slow(self, item_id: str) -> None:
        """Note that a launch has to wait for something, so that nobody need let it go first."""
        self._starting.discard(item_id)
        if not self._starting:
            self._none.set()

    async def after_starts(self) -> None:
        """Return when no launch is about to start, or after a moment."""
        if self._none.is_set():
            return
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self._none.wait()
        except TimeoutError:
            return
