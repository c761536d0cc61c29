"""Lets a request sleep until something it waits for may have happened.

A wake-up is a hint, not a message: who wakes looks at the database again. That makes a lost or a superfluous one
harmless, and lets a waiter look once before it sleeps. Where several server processes share a database, `elsewhere`
carries wake-ups to the others; one can be lost with a process, so nobody sleeps longer than `LONGEST_SLEEP_SECONDS`
without a look.
"""

import asyncio
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import TypeAlias

Topic: TypeAlias = tuple[str, int]
"""A kind of row and its number."""

LONGEST_SLEEP_SECONDS = 10.0


class Wakeups:
    """Topics that can be waited for. Used on one event loop."""

    def __init__(self) -> None:
        self._waiting: dict[Topic, dict[asyncio.Event, None]] = {}
        self.is_closed = False
        """Whether this process is about to end, so that nobody may sleep any more."""
        self.elsewhere: Callable[[Topic, bool], None] = lambda topic, one: None
        """Told of every wake-up: its topic, and whether one waiter is enough."""

    def notify(self, topic: Topic) -> None:
        """Wake everybody who waits for the topic."""
        self.notify_here(topic, one=False)
        self.elsewhere(topic, False)

    def notify_one(self, topic: Topic) -> None:
        """Wake who has waited longest for the topic: there is something new, but only for one."""
        self.notify_here(topic, one=True)
        self.elsewhere(topic, True)

    def notify_here(self, topic: Topic, *, one: bool) -> None:
        """Wake those of this process alone."""
        for event in self._waiting.get(topic, ()):
            if not event.is_set():
                event.set()
                if one:
                    break

    def notify_all_here(self) -> None:
        """Wake everybody of this process: something may have been missed."""
        for topic in self._waiting:
            self.notify_here(topic, one=False)

    def close(self) -> None:
        """Wake everybody for the last time."""
        self.is_closed = True
        self.notify_all_here()

    @contextmanager
    def listening(self, topics: Iterable[Topic]) -> Generator[asyncio.Event]:
        """Collect wake-ups from here on, so that none is lost between looking and sleeping.

        Gives an event to wait for.
        """
        event = asyncio.Event()
        names = list(topics)
        for topic in names:
            self._waiting.setdefault(topic, {})[event] = None
        try:
            yield event
        finally:
            for topic in names:
                del self._waiting[topic][event]
                if not self._waiting[topic]:
                    del self._waiting[topic]
                if event.is_set():
                    self.notify_here(topic, one=True)  # it came too late for this one, and may have been the only one


async def wait(event: asyncio.Event, seconds: float) -> bool:
    """Wait for the event, at most that long; whether it came. Clears it."""
    try:
        async with asyncio.timeout(max(min(seconds, LONGEST_SLEEP_SECONDS), 0)):
            await event.wait()
    except TimeoutError:
        return False
    event.clear()
    return True
