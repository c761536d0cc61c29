"""How many more launches may be claimed. Derived from the launches held, never counted.

A poll holds room for one launch while it runs, as it may come back with one. Pollers get room in the order in which
they asked. That queues take turns is because one poller of each stands in line at a time (`agent/daemon.py`).
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager


class Capacity:
    """Room for launches. `limit` and `held` tell what holds right now; a limit of -1 is none."""

    def __init__(self, limit: Callable[[], int], held: Callable[[], int]) -> None:
        self._limit = limit
        self._held = held
        self._polling = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def free(self) -> int:
        """How many more polls may start now."""
        limit = self._limit()
        if limit == -1:
            return 1_000_000
        return limit - self._held() - self._polling

    @asynccontextmanager
    async def room(self) -> AsyncGenerator[None]:
        """Wait for room for one launch, and keep it while the block runs."""
        await self._wait()
        self._polling += 1
        try:
            yield
        finally:
            self._polling -= 1
            self.changed()

    def changed(self) -> None:
        """Call whenever there may be more room: lets the next in line look."""
        free = self.free
        for waiting in self._waiting:
            if free <= 0:
                break
            if not waiting.done():
                waiting.set_result(None)
                free -= 1

    async def _wait(self) -> None:
        while self.free <= 0 or (self._waiting and self._waiting[0].done()):
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                self._waiting.remove(turn)
                self.changed()  # it may have been this one's turn
                raise
            self._waiting.remove(turn)
            if self.free > 0:
                return
