"""Passes "something happened to these handles" on to whoever listens: `Backend.changes`."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from backends.base import Handle


@dataclass(eq=False)
class _Listener:
    pending: set[Handle] = field(default_factory=set[Handle])
    woken: asyncio.Event = field(default_factory=asyncio.Event)


class Hints:
    """Passes handles on to whoever listens; what comes while a listener is busy is put together."""

    def __init__(self) -> None:
        self._listeners: set[_Listener] = set()

    def publish(self, handle: Handle) -> None:
        """Tell every listener."""
        for listener in self._listeners:
            listener.pending.add(handle)
            listener.woken.set()

    async def listen(self, first: frozenset[Handle]) -> AsyncGenerator[frozenset[Handle]]:
        """Yield `first` at once, so that nothing is missed between subscribing and looking; then what is published."""
        listener = _Listener()
        self._listeners.add(listener)
        try:
            yield first
            while True:
                await listener.woken.wait()
                listener.woken.clear()
                handles, listener.pending = frozenset(listener.pending), set()
                yield handles
        finally:
            self._listeners.discard(listener)
