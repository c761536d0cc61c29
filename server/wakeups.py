"""Lets a request sleep until something it waits for may have happened.

A wake-up is a hint, not a message: who wakes looks at the database again. That makes a lost or a superfluous one
harmless, and lets a waiter look once before it sleeps.
"""

import asyncio
from collections import defaultdict
from collections.abc import Generator, Hashable, Iterable
from contextlib import contextmanager


class Wakeups:
    """Topics that can be waited for. Used on one event loop."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, set[asyncio.Event]] = defaultdict(set)

    def notify(self, topic: Hashable) -> None:
        """Wake everybody who waits for the topic."""
        for event in self._waiting.get(topic, ()):
            event.set()

    @contextmanager
    def listening(self, topics: Iterable[Hashable]) -> Generator[asyncio.Event]:
        """Collect wake-ups from here on, so that none is lost between looking and sleeping.

        Gives an event to wait for.
        """
        event = asyncio.Event()
        names = list(topics)
        for topic in names:
            self._waiting[topic].add(event)
        try:
            yield event
        finally:
            for topic in names:
                self._waiting[topic].discard(event)
                if not self._waiting[topic]:
                    del self._waiting[topic]


async def wait(event: asyncio.Event, seconds: float) -> bool:
    """Wait for the event, at most that long; whether it came. Clears it."""
    try:
        async with asyncio.timeout(max(seconds, 0)):
            await event.wait()
    except TimeoutError:
        return False
    event.clear()
    return True
