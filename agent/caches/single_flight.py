"""Lets many askers of the same thing wait for one maker of it."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Hashable
from contextlib import asynccontextmanager


class SingleFlight:
    """One lock per key, forgotten when nobody holds or wants it."""

    def __init__(self) -> None:
        self._locks: dict[Hashable, asyncio.Lock] = {}
        self._wanted: defaultdict[Hashable, int] = defaultdict(int)

    def is_busy(self, key: Hashable) -> bool:
        """Whether somebody is at work on this key."""
        return key in self._locks

    def is_wanted_by_others(self, key: Hashable) -> bool:
        """Whether somebody waits for who is at work on this key."""
        return self._wanted.get(key, 0) > 1

    @asynccontextmanager
    async def alone(self, key: Hashable) -> AsyncGenerator[None]:
        """Be the only one at work on this key; who comes second finds the work done."""
        lock = self._locks.setdefault(key, asyncio.Lock())
        self._wanted[key] += 1
        try:
            async with lock:
                yield
        finally:
            self._wanted[key] -= 1
            if not self._wanted[key]:
                del self._wanted[key], self._locks[key]
