"""Brings the output of launches to this machine: while somebody reads it, and before their pods are gone."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from functools import partial
from math import inf
from random import Random

from backends.base import Handle, LogChunk
from backends.flag import Flag
from backends.kubernetes.api import KubeApi, KubeRefused, KubeUnavailable
from backends.kubernetes.output import Output
from backends.kubernetes.records import Records
from backends.kubernetes.sources import Source

AGAIN_SECONDS = (0.5, 60.0)
"""Between tries to read a container's output: the first pause, and the longest."""
TRIES = 4
"""How often to try to read what a container printed that has ended. Its node may be gone."""
LAST_WORDS_SECONDS = 10.0
"""How long the streams of a launch that is over may take to end: a lost node's never do."""
CONTAINER_PAUSE_SECONDS = 0.5
"""How soon to look again at the output of what runs, after its stream has ended."""
FOLLOWED = 32
"""How many containers are followed at a time: a connection and a third of a megabyte each. Others are looked at."""
TURN_SECONDS = 60.0
"""How long a container is followed at least before another one has its turn."""
LOOKS_PER_SECOND = 10
"""How often others are looked at, all together."""
LOOKS_AT_ONCE = 4
"""How many of them at the same time, at most: a connection each, that lives on for the next."""


@dataclass(frozen=True, slots=True)
class View:
    """What is known of a launch whose output is to be read."""

    api: KubeApi
    namespace: str
    sources: Sequence[Source]
    is_over: bool


@dataclass(slots=True)
class _Reading:
    """How it goes with a container whose output is wanted. Most of thousands wait for their turn, and have no task."""

    task: asyncio.Task[None] | None = None
    """Reads just now."""
    due: float = 0.0
    """When to read again, by the loop's clock."""
    pause: float = field(default_factory=lambda: AGAIN_SECONDS[0])
    tries: int = 0
    """How often it could not be read since it is over."""
    knows_end: bool = False
    """Whether it was read, or tried, since it is over."""


class _Feed:
    """The output of one launch, while anybody wants it."""

    __slots__ = ("catching_up", "is_kept", "output", "readings", "task", "until", "users", "woken")

    def __init__(self, output: Output) -> None:
        self.output = output
        self.users = 0
        self.is_kept = False
        """Whether it is read to its end, with or without readers."""
        self.task: asyncio.Task[None] | None = None
        self.woken = Flag()
        self.until = inf
        """By when all has to be read, by the loop's clock."""
        self.catching_up = asyncio.Lock()
        self.readings: dict[str, _Reading] = {}
        """By the container's key, while `task` is at it."""


class _Turn:
    """A container that is followed."""

    def __init__(self) -> None:
        self._began_at = asyncio.get_running_loop().time()
        self._is_over = False
        self._limit: asyncio.Timeout | None = None

    def end_if_long(self) -> None:
        """End it, if it has been long enough."""
        now = asyncio.get_running_loop().time()
        if now - self._began_at >= TURN_SECONDS:
            self._is_over = True
            if self._limit is not None and not self._limit.expired():
                self._limit.reschedule(now)

    async def lines(self, stream: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
        """Yield what a stream does until the turn ends. What is done with what was yielded is never cut short."""
        while not self._is_over:
            try:
                async with asyncio.timeout(None) as self._limit:
                    data = await anext(stream)
            except (StopAsyncIteration, TimeoutError):
                return
            finally:
                self._limit = None
            yield data


class Logs:
    """The output of launches. `see` says what is known of one; None of one that only this machine knows, if at all."""

    def __init__(
        self, records: Records, see: Callable[[Handle], View | None], *, random: Random, clock: Callable[[], float]
    ) -> None:
        self._records = records
        self._see = see
        self._random = random
        self._clock = clock
        self._feeds: dict[Handle, _Feed] = {}
        self._turns: dict[_Turn, None] = {}
        """The longest first."""
        self._looks: set[asyncio.Task[None]] = set()
        self._opening: dict[Handle, asyncio.Lock] = {}

    def wake(self, handle: Handle) -> None:
        """Have a look at what has changed about a launch."""
        if feed := self._feeds.get(handle):
            feed.woken.set()

    async def keep(self, handle: Handle) -> None:
        """Begin to keep a launch's output, to its end; returns when what there is has been read, or cannot be."""
        feed = await self._use(handle)
        try:
            feed.is_kept = True
            self._begin(handle, feed)
            with suppress(KubeUnavailable):
                await self._catch_up(handle, feed)
        finally:
            await self._leave(handle, feed)

    async def read(self, handle: Handle, since: int, *, follow: bool) -> AsyncGenerator[LogChunk]:
        """Yield the output from an offset on. Raises `KubeUnavailable` only without `follow`."""
        feed = await self._use(handle)
        output = feed.output
        try:
            task = self._begin(handle, feed) if follow else None
            if task is None:
                await self._catch_up(handle, feed)
            while True:
                is_whole = task is None or task.done()
                async for chunk in output.chunks(since):
                    yield chunk
                    since = chunk.end
                    del chunk  # thousands wait below
                if is_whole:
                    return
                if task and not task.done():
                    output.grown.clear()
                    await output.grown.wait()
        finally:
            await self._leave(handle, feed)

    async def forget(self, handle: Handle) -> None:
        """Remove a launch's output, and all else that is kept of it."""
        if feed := self._feeds.pop(handle, None):
            await _end(feed)
        await asyncio.to_thread(self._records.remove, handle)

    async def close(self) -> None:
        """Read no more."""
        feeds, self._feeds = self._feeds, {}
        for feed in feeds.values():
            await _end(feed)
            await feed.output.close()

    async def _use(self, handle: Handle) -> _Feed:
        lock = self._opening.setdefault(handle, asyncio.Lock())
        async with lock:
            feed = self._feeds.get(handle)
            if feed is None:
                output = Output(self._records.folder_of(handle), self._clock)
                await output.open()
                feed = self._feeds[handle] = _Feed(output)
        self._opening.pop(handle, None)
        feed.users += 1
        return feed

    async def _leave(self, handle: Handle, feed: _Feed) -> None:
        feed.users -= 1
        is_wanted = feed.users > 0 or (feed.is_kept and feed.task is not None and not feed.task.done())
        if not is_wanted and self._feeds.get(handle) is feed:
            del self._feeds[handle]
            await _end(feed)
            await feed.output.close()

    # --- feeding -----------------------------------------------------------------------------------------------------

    def _begin(self, handle: Handle, feed: _Feed) -> asyncio.Task[None]:
        if feed.task is None or feed.task.done():
            feed.until = inf
            feed.task = asyncio.create_task(self._feed(handle, feed))
            feed.task.add_done_callback(lambda _: feed.output.grown.set())
        return feed.task

    async def _feed(self, handle: Handle, feed: _Feed) -> None:
        """Have every container read that has begun, until the launch is over, and all is read or has had its time."""
        try:
            while (due := self._read_due(handle, feed)) is not None:
                await _until_woken(feed, due)
            await _cancel(_tasks(feed))
            feed.readings.clear()
            # What began in the last moment is seen only now.
            with suppress(KubeUnavailable):
                await self._read_rest(handle, feed)
        finally:
            await _cancel(_tasks(feed))
            feed.readings.clear()
            if feed.is_kept and feed.users == 0 and self._feeds.get(handle) is feed:
                del self._feeds[handle]
                await feed.output.close()

    def _read_due(self, handle: Handle, feed: _Feed) -> float | None:
        """Begin to read what is to be read now. Returns when to look again, or None if that is all there is to read."""
        feed.woken.clear()
        view = self._see(handle)
        if view is None:
            return None
        due = self._read_due_of(view, feed)
        if not view.is_over:
            return due
        now = asyncio.get_running_loop().time()
        feed.until = min(feed.until, now + LAST_WORDS_SECONDS)
        is_read = due == inf and not _tasks(feed)
        return None if is_read or now >= feed.until else min(due, feed.until)

    def _read_due_of(self, view: View, feed: _Feed) -> float:
        """Begin to read the containers whose time has come; return when that of the next one comes."""
        now = asyncio.get_running_loop().time()
        soonest = inf
        for source in view.sources:
            if feed.output.is_done(source):
                continue
            reading = feed.readings.setdefault(source.key, _Reading())
            if reading.task is not None:
                continue
            is_over = source.is_over or view.is_over
            if is_over and not reading.knows_end:
                reading.due = now
            if reading.due <= now:
                turn = None if is_over else self._take_turn()
                if is_over or turn or len(self._looks) < LOOKS_AT_ONCE:
                    reading.task = asyncio.create_task(self._read(view, feed, source, reading, turn))
                    if turn:
                        reading.task.add_done_callback(partial(self._end_turn, turn))
                    elif not is_over:
                        self._looks.add(reading.task)
                        reading.task.add_done_callback(self._looks.discard)
                else:
                    reading.due = now + self._round()
            soonest = min(soonest, inf if reading.task else reading.due)
        return soonest

    async def _read(self, view: View, feed: _Feed, source: Source, reading: _Reading, turn: _Turn | None) -> None:
        """Read a container once: in its turn as it comes, else what there is by now.

        Where nothing can be read, the next time comes ever later.
        """
        output = feed.output
        before, is_over = output.length, source.is_over or view.is_over
        reading.knows_end = is_over
        try:
            if not source.is_gone:
                await self._take(view, output, source, turn)
            if is_over:
                await output.done(source)
        except KubeUnavailable:
            reading.tries += is_over
        has_grown = output.length > before
        pause = CONTAINER_PAUSE_SECONDS if has_grown else reading.pause
        reading.pause = AGAIN_SECONDS[0] if has_grown else min(2 * reading.pause, AGAIN_SECONDS[1])
        pause *= 0.5 + self._random.random()
        if not (turn or is_over):
            pause = max(pause, self._round())
        reading.due = inf if reading.tries >= TRIES else asyncio.get_running_loop().time() + pause
        reading.task = None
        feed.woken.set()

    def _round(self) -> float:
        """Return how long it is until a container's next turn, in seconds, of those that are not followed."""
        return len(self._feeds) / LOOKS_PER_SECOND * (0.5 + self._random.random())

    def _take_turn(self) -> _Turn | None:
        """Return a turn to follow a container, if one can be had; if not, there may be one later."""
        if len(self._turns) >= FOLLOWED:
            next(iter(self._turns)).end_if_long()
            return None
        turn = _Turn()
        self._turns[turn] = None
        return turn

    def _end_turn(self, turn: _Turn, _: asyncio.Task[None]) -> None:
        del self._turns[turn]

    async def _catch_up(self, handle: Handle, feed: _Feed) -> None:
        """Have here what there is by now."""
        if feed.task and not feed.task.done():
            view = self._see(handle)
            if view and view.is_over:
                await asyncio.wait([feed.task])
                await self._read_rest(handle, feed)
            elif feed.readings:
                return
        await self._read_rest(handle, feed)

    async def _read_rest(self, handle: Handle, feed: _Feed) -> None:
        async with feed.catching_up:
            view = self._see(handle)
            for source in view.sources if view else ():
                if view is None or feed.output.is_done(source) or source.key in feed.readings:
                    continue
                if not source.is_gone:
                    await self._take(view, feed.output, source)
                if source.is_over or view.is_over:
                    await feed.output.done(source)

    async def _take(self, view: View, output: Output, source: Source, turn: _Turn | None = None) -> None:
        """Take what a container prints: for as long as the turn is, or what there is by now."""
        since = output.since(source)
        stream = view.api.log(view.namespace, source.pod, source.container, follow=turn is not None, since=since)
        with suppress(KubeRefused):  # its pod is gone, or it has not begun after all
            async with aclosing(stream), aclosing((turn or _Turn()).lines(stream)) as lines:
                await output.take(source, lines, to_its_end=source.is_over)


async def _until_woken(feed: _Feed, due: float) -> None:
    """Wait until something has changed about a launch, but not longer than until then."""
    timer = None if due == inf else asyncio.get_running_loop().call_at(due, feed.woken.set)
    try:
        await feed.woken.wait()
    finally:
        if timer:
            timer.cancel()


def _tasks(feed: _Feed) -> list[asyncio.Task[None]]:
    return [reading.task for reading in feed.readings.values() if reading.task]


async def _end(feed: _Feed) -> None:
    if feed.task:
        await _cancel([feed.task])


async def _cancel(tasks: Iterable[asyncio.Task[None]]) -> None:
    running = [task for task in tasks if not task.done()]
    for task in running:
        task.cancel()
    if running:
        await asyncio.wait(running)
