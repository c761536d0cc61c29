"""Hands what a blocking stream yields to the event loop: one thread per stream, for as long as somebody listens."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import suppress
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

AHEAD = 256
"""How many items the thread may be ahead of who takes them."""


class Stream(Protocol[T_co]):
    """Something that blocks while it waits for its next item."""

    def __iter__(self) -> Iterator[T_co]:
        """Yield the items. May raise `LaunchbayError`."""
        ...

    def close(self) -> None:
        """End it, also from another thread while it blocks."""
        ...


async def feed(open_stream: Callable[[], Stream[T]], name: str) -> AsyncGenerator[list[T]]:
    """Yield what has come since the last look, until the stream ends. What it raises is raised here."""
    line = _Line[T](asyncio.get_running_loop())
    threading.Thread(target=line.run, args=(open_stream,), name=name, daemon=True).start()
    try:
        while items := await line.take():
            yield items
    finally:
        line.close()


class _Line(Generic[T]):
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._woken = asyncio.Event()
        self._changed = threading.Condition()
        self._items: list[T] = []
        self._stream: Stream[T] | None = None
        self._error: BaseException | None = None
        self._is_over = False
        self._is_closed = False

    def run(self, open_stream: Callable[[], Stream[T]]) -> None:
        """Read the stream to its end. The body of the thread."""
        try:
            stream = open_stream()
            with self._changed:
                self._stream = stream
                if self._is_closed:
                    stream.close()
                    return
            for item in stream:
                if not self._put(item):
                    return
        except BaseException as error:  # noqa: BLE001 -- raised where it is awaited
            self._error = error
        finally:
            with self._changed:
                self._is_over = True
                self._wake()

    async def take(self) -> list[T]:
        """Wait for items and return all there are; none when the stream has ended."""
        while True:
            self._woken.clear()
            with self._changed:
                items, self._items = self._items, []
                self._changed.notify()
                if items:
                    return items
                if self._is_over:
                    if self._error:
                        raise self._error
                    return []
            await self._woken.wait()

    def close(self) -> None:
        """Listen no more."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
            if self._stream and not self._is_over:
                self._stream.close()

    def _put(self, item: T) -> bool:
        with self._changed:
            while len(self._items) >= AHEAD and not self._is_closed:
                self._changed.wait()
            if not self._items:
                self._wake()
            self._items.append(item)
            return not self._is_closed

    def _wake(self) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody listens
            self._loop.call_soon_threadsafe(self._woken.set)
