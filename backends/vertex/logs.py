"""Brings the output of launches here: one question to Cloud Logging per interval, for all that are read at the time.

Google lets a project ask for logs once a second, whoever asks. So nobody's output has a question of its own.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog

from backends.base import BackendError, BackendUnavailable, Handle, LogChunk
from backends.vertex.access import Access, Entry
from backends.vertex.output import OVERLAP_SECONDS, Output
from backends.vertex.reading import Job
from backends.vertex.records import Records

LOOK_SECONDS = 5.0
"""How often to look for new output."""
LINGER_SECONDS = 10.0
"""How long after the end of a job its last words may take to be found."""
MOST_JOBS = 700
"""In one question: a filter has 20,000 characters at most."""
MOST_FRESH = 50
"""In one question about launches that were not read yet, and have been silent for about as long as each other."""

log = structlog.get_logger(__name__)


@dataclass(eq=False)
class _Stream:
    """What is known of one launch's output."""

    job: Job
    output: Output
    over_since: float | None = None
    """When it was first seen to be over, on the loop's clock."""
    read_at: float | None = None
    """When all was read that there was, in seconds since the epoch. From then on it is asked for with others."""
    is_done: bool = False
    """Whether nothing more will come."""
    looked: asyncio.Event = field(default_factory=asyncio.Event)
    """Set, and replaced, at each look."""


class Logs:
    """The output of all launches. `job_of` tells what is known of a launch's job."""

    def __init__(
        self,
        access: Callable[[], Access],
        records: Records,
        job_of: Callable[[Handle], Job | None],
        clock: Callable[[], float],
    ) -> None:
        self._access = access
        self._records = records
        self._job_of = job_of
        self._clock = clock
        self._streams: dict[Handle, _Stream] = {}
        self._opening = asyncio.Lock()
        self._readers: Counter[Handle] = Counter()
        self._wanted = asyncio.Event()
        """Set when somebody wants a look at once."""
        self._looking: asyncio.Task[None] | None = None
        self._error: BackendUnavailable | None = None

    async def read(self, handle: Handle, since: int, *, follow: bool) -> AsyncGenerator[LogChunk]:
        """Yield a launch's output. Of one that is over all is waited for, as its last words come late.

        Raises `BackendUnavailable`, unless it is followed.
        """
        stream = await self._stream(handle)
        if stream is None:
            return
        self._readers[handle] += 1
        if stream.read_at is None or not follow:
            self._wanted.set()
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look_around())
        try:
            while True:
                looked, is_done = stream.looked, stream.is_done
                async for chunk in stream.output.chunks(since):
                    yield chunk
                    since = chunk.end
                if is_done:
                    return
                await looked.wait()
                if not follow and self._error:
                    raise self._error
                if not follow and stream.read_at is not None and not self._is_over(handle, stream):
                    async for chunk in stream.output.chunks(since):
                        yield chunk
                    return
        finally:
            self._readers[handle] -= 1
            if not self._readers[handle]:
                del self._readers[handle]

    def forget(self, handle: Handle) -> None:
        """Let go of a launch's output. Whoever reads it comes to its end."""
        if stream := self._streams.pop(handle, None):
            stream.is_done = True
            _tell(stream)

    async def close(self) -> None:
        """Look no more."""
        if self._looking:
            self._looking.cancel()
            with suppress(asyncio.CancelledError):
                await self._looking

    async def _stream(self, handle: Handle) -> _Stream | None:
        async with self._opening:
            job = self._job_of(handle)
            if job is None:
                return None
            stream = self._streams.get(handle)
            if stream is None:
                output = Output(self._records.folder_of(handle))
                await output.open()
                stream = self._streams[handle] = _Stream(job, output)
            return stream

    def _is_over(self, handle: Handle, stream: _Stream) -> bool:
        job = self._job_of(handle)
        if job is not None and not job.is_over:
            return False
        if stream.over_since is None:
            stream.over_since = asyncio.get_running_loop().time()
        return True

    # --- looking -----------------------------------------------------------------------------------------------------

    async def _look_around(self) -> None:
        while self._readers:
            self._wanted.clear()
            streams = {handle: stream for handle in self._readers if (stream := self._streams.get(handle))}
            try:
                await self._look({handle: stream for handle, stream in streams.items() if not stream.is_done})
                self._error = None
            except BackendUnavailable as error:
                self._error = error
                log.warning("output cannot be read", error=str(error))
            except BackendError as error:
                self._error = BackendUnavailable(f"The output of launches cannot be read: {error}")
                log.error("output cannot be read", error=str(error))
            for stream in streams.values():
                _tell(stream)
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._wanted.wait()

    async def _look(self, streams: Mapping[Handle, _Stream]) -> None:
        now = asyncio.get_running_loop().time()
        last = [stream for handle, stream in streams.items() if self._is_over(handle, stream)]
        known = [stream for stream in streams.values() if stream.read_at is not None]
        fresh = sorted((stream for stream in streams.values() if stream.read_at is None), key=_unread_since)
        for group in (*_groups(known, MOST_JOBS), *_groups(fresh, MOST_FRESH)):
            await self._ask(group)
        for stream in last:
            stream.is_done = stream.over_since is not None and now - stream.over_since >= LINGER_SECONDS

    async def _ask(self, streams: Sequence[_Stream]) -> None:
        """Take what is new of some launches."""
        now = self._clock()
        found: defaultdict[str, list[Entry]] = defaultdict(list)
        for entry in await self._access().entries(_condition(streams)):
            found[entry.job].append(entry)
        for stream in streams:
            await stream.output.take(found[stream.job.number])
            stream.read_at = now


def _groups(streams: Sequence[_Stream], most: int) -> Iterator[Sequence[_Stream]]:
    return (streams[place : place + most] for place in range(0, len(streams), most))


def _condition(streams: Iterable[_Stream]) -> str:
    numbers = " OR ".join(f'"{stream.job.number}"' for stream in streams)
    created_at = min(stream.job.created_at for stream in streams)
    parts = ['resource.type="ml_job"', f"resource.labels.job_id=({numbers})", f'timestamp>="{_time(created_at - 60)}"']
    if since := min(_unread_since(stream) for stream in streams):
        parts.append(f'receive_timestamp>="{_time(since)}"')
    return " AND ".join(parts)


def _unread_since(stream: _Stream) -> float:
    """Return from when on entries may be new, by when Google had them; 0 for all."""
    return stream.output.read_from / 1e9 if stream.read_at is None else stream.read_at - OVERLAP_SECONDS


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _tell(stream: _Stream) -> None:
    looked, stream.looked = stream.looked, asyncio.Event()
    looked.set()
