"""Brings the output of launches to this machine: while somebody reads it, and before their pods are gone."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, aclosing, nullcontext, suppress
from dataclasses import dataclass
from random import Random

from backends.base import Handle, LogChunk
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


class _Feed:
    """The output of one launch, while anybody wants it."""

    def __init__(self, output: Output) -> None:
        self.output = output
        self.users = 0
        self.is_kept = False
        """Whether it is read to its end, with or without readers."""
        self.task: asyncio.Task[None] | None = None
        self.woken = asyncio.Event()
        self.catching_up = asyncio.Lock()
        self.copying: dict[str, asyncio.Task[None]] = {}


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
        self._looked_at = 0
        """How many containers run that are not followed."""
        self._looks = asyncio.Semaphore(LOOKS_AT_ONCE)
        self._opening: dict[Handle, asyncio.Lock] = {}

    def wake(self, handle: Handle) -> None:
        """Have a look at what has changed about a launch."""
        if feed := self._feeds.get(handle):
            feed.woken.set()

    async def keep(self, handle: Handle) -> None:
        """Begin to keep a launch's output, to its end; returns when what there is has been read, or cannot be."""
        async with AsyncExitStack() as stack:
            feed = await self._use(handle, stack)
            feed.is_kept = True
            self._begin(handle, feed)
            with suppress(KubeUnavailable):
                await self._catch_up(handle, feed)

    async def read(self, handle: Handle, since: int, *, follow: bool) -> AsyncGenerator[LogChunk]:
        """Yield the output from an offset on. Raises `KubeUnavailable` only without `follow`."""
        async with AsyncExitStack() as stack:
            feed = await self._use(handle, stack)
            output = feed.output
            if not follow:
                await self._catch_up(handle, feed)
                async for chunk in output.chunks(since):
                    yield chunk
                return
            task = self._begin(handle, feed)
            while True:
                output.grown.clear()
                is_whole = task.done()
                async for chunk in output.chunks(since):
                    yield chunk
                    since = chunk.end
                if is_whole:
                    return
                growing = asyncio.create_task(output.grown.wait())
                try:
                    await asyncio.wait({task, growing}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    growing.cancel()

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

    async def _use(self, handle: Handle, stack: AsyncExitStack) -> _Feed:
        lock = self._opening.setdefault(handle, asyncio.Lock())
        async with lock:
            feed = self._feeds.get(handle)
            if feed is None:
                output = Output(self._records.folder_of(handle), self._clock)
                await output.open()
                feed = self._feeds[handle] = _Feed(output)
        self._opening.pop(handle, None)
        feed.users += 1
        stack.push_async_callback(self._leave, handle, feed)
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
            feed.task = asyncio.create_task(self._feed(handle, feed))
        return feed.task

    async def _feed(self, handle: Handle, feed: _Feed) -> None:
        """Read every container that has begun, all at the same time, until the launch is over."""
        copying = feed.copying
        try:
            while True:
                feed.woken.clear()
                view = self._see(handle)
                for source in view.sources if view else ():
                    if view and source.key not in copying and not feed.output.is_done(source):
                        copying[source.key] = asyncio.create_task(self._copy(handle, feed, source))
                if view is None or view.is_over:
                    break
                await feed.woken.wait()
            if copying:
                await asyncio.wait(copying.values(), timeout=LAST_WORDS_SECONDS)
                await _cancel(copying.values())
                copying.clear()
            # What began in the last moment is seen only now.
            with suppress(KubeUnavailable):
                await self._read_rest(handle, feed)
        finally:
            await _cancel(copying.values())
            copying.clear()
            feed.output.grown.set()
            if feed.is_kept and feed.users == 0 and self._feeds.get(handle) is feed:
                del self._feeds[handle]
                await feed.output.close()

    async def _copy(self, handle: Handle, feed: _Feed, source: Source) -> None:
        """Follow a container to its end. Where nothing can be read, ask ever more rarely."""
        pause, tries = AGAIN_SECONDS[0], 0
        while True:
            view = self._see(handle)
            now = next((each for each in view.sources if each.key == source.key), None) if view else None
            if view is None or now is None:
                return
            if now.is_gone:
                await feed.output.done(now)
                return
            is_over = now.is_over or view.is_over
            is_followed = not is_over and self._has_room()
            try:
                before = feed.output.length
                async with self._looks if not (is_followed or is_over) else nullcontext():
                    await self._take(view, feed.output, now, follow=is_followed)
                if is_over:
                    await feed.output.done(now)
                    return
                if feed.output.length > before:
                    pause = AGAIN_SECONDS[0]
                wait_for = CONTAINER_PAUSE_SECONDS if feed.output.length > before else pause
            except KubeUnavailable:
                tries += is_over
                if tries >= TRIES:
                    return
                wait_for = pause
            pause = min(2 * pause, AGAIN_SECONDS[1])
            self._looked_at += 1
            try:
                if not is_followed:
                    wait_for = max(wait_for, self._looked_at / LOOKS_PER_SECOND)
                await self._until_woken(feed, wait_for * (0.5 + self._random.random()))
            finally:
                self._looked_at -= 1

    def _has_room(self) -> bool:
        """Whether one more container can be followed; if not, there may be room later."""
        if len(self._turns) < FOLLOWED:
            return True
        next(iter(self._turns)).end_if_long()
        return False

    async def _until_woken(self, feed: _Feed, seconds: float) -> None:
        """Wait, but not longer than until something has changed about the launch."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await feed.woken.wait()

    async def _catch_up(self, handle: Handle, feed: _Feed) -> None:
        """Have here what there is by now."""
        if feed.task and not feed.task.done():
            view = self._see(handle)
            if view and view.is_over:
                await asyncio.wait([feed.task])
                await self._read_rest(handle, feed)
            elif feed.copying:
                return
        await self._read_rest(handle, feed)

    async def _read_rest(self, handle: Handle, feed: _Feed) -> None:
        async with feed.catching_up:
            view = self._see(handle)
            for source in view.sources if view else ():
                if view is None or feed.output.is_done(source):
                    continue
                copying = feed.copying.get(source.key)
                if copying is not None and not copying.done():
                    continue
                if not source.is_gone:
                    await self._take(view, feed.output, source, follow=False)
                if source.is_over or view.is_over:
                    await feed.output.done(source)

    async def _take(self, view: View, output: Output, source: Source, *, follow: bool) -> None:
        stream = view.api.log(view.namespace, source.pod, source.container, follow=follow, since=output.since(source))
        turn = _Turn()
        if follow:
            self._turns[turn] = None
        try:
            with suppress(KubeRefused):  # its pod is gone, or it has not begun after all
                async with aclosing(stream), aclosing(turn.lines(stream)) as lines:
                    await output.take(source, lines, to_its_end=source.is_over)
        finally:
            self._turns.pop(turn, None)


async def _end(feed: _Feed) -> None:
    if feed.task:
        await _cancel([feed.task])


async def _cancel(tasks: Iterable[asyncio.Task[None]]) -> None:
    running = [task for task in tasks if not task.done()]
    for task in running:
        task.cancel()
    if running:
        await asyncio.wait(running)
