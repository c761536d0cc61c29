"""Brings the output of jobs here, from CloudWatch Logs: stream by stream, each by the token that it goes on with.

It is brought while somebody reads it: soon again while a job prints, and ever more rarely while it is silent.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field

from backends.base import Handle, LogChunk, Observation
from backends.sagemaker.access import Aws, AwsRefused
from backends.sagemaker.kinds import read_handle
from backends.sagemaker.output import Output, Position
from backends.sagemaker.records import Records

SOON, RARELY = 0.2, 3.0
"""How soon to read again of what prints and of what is silent, in terms of how often jobs are looked at."""


@dataclass(eq=False)
class _Reader:
    output: Output
    reading: asyncio.Lock = field(default_factory=asyncio.Lock)
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the job has changed."""
    is_fresh: bool = False
    """Whether the streams were asked for since it last changed."""


class Logs:
    """See above. `seen` says what is known of a launch, None if there is none."""

    def __init__(
        self, aws: Aws, records: Records, seen: Callable[[Handle], Observation | None], poll_seconds: float
    ) -> None:
        self._aws = aws
        self._records = records
        self._seen = seen
        self._poll_seconds = poll_seconds
        self._readers: dict[Handle, _Reader] = {}

    def wake(self, handle: Handle) -> None:
        """Take note that a job has changed."""
        if reader := self._readers.get(handle):
            reader.is_fresh = False
            reader.woken.set()

    def forget(self, handle: Handle) -> None:
        """Let go of a launch."""
        if reader := self._readers.pop(handle, None):
            reader.woken.set()

    async def read(self, handle: Handle, since: int, *, follow: bool) -> AsyncGenerator[LogChunk]:
        """Yield the output from byte `since`; with `follow`, until the job has ended and its last words have come."""
        pause = SOON * self._poll_seconds
        is_last = False
        while self._seen(handle):
            reader = await self._reader(handle)
            reader.woken.clear()
            has_ended = self._has_ended(handle)
            has_grown = await self._bring(handle, reader)
            while chunks := await asyncio.to_thread(reader.output.chunks, since):
                for chunk in chunks:
                    yield chunk
                    since = chunk.end
            if not follow or is_last:
                return
            # What a job says last is in CloudWatch a moment after its end.
            is_last = has_ended
            pause = SOON * self._poll_seconds if has_grown else min(2 * pause, RARELY * self._poll_seconds)
            try:
                async with asyncio.timeout(self._poll_seconds if is_last else pause):
                    await reader.woken.wait()
            except TimeoutError:
                pass

    def _has_ended(self, handle: Handle) -> bool:
        seen = self._seen(handle)
        return seen is None or seen.phase.is_terminal

    async def _reader(self, handle: Handle) -> _Reader:
        if handle not in self._readers:
            output = await asyncio.to_thread(Output, self._records.folder_of(handle))
            self._readers.setdefault(handle, _Reader(output))
        return self._readers[handle]

    async def _bring(self, handle: Handle, reader: _Reader) -> bool:
        """Bring what there is now. Returns whether that was something."""
        named = read_handle(handle)
        assert named is not None  # else nobody would know of it
        group = named[0].log_group
        has_grown = False
        async with reader.reading:
            streams = reader.output.streams
            if not streams or not reader.is_fresh:
                reader.is_fresh = True
                streams = list(dict.fromkeys([*streams, *await self._streams(group, named[1])]))
            for stream in streams:
                while await self._bring_page(group, stream, reader.output):
                    has_grown = True
        return has_grown

    async def _streams(self, group: str, job: str) -> list[str]:
        found: list[str] = []
        page: dict[str, str] = {}
        while True:
            arguments = {"logGroupName": group, "logStreamNamePrefix": f"{job}/", **page}
            try:
                answer = await self._aws.call("logs", "describe_log_streams", arguments)
            except AwsRefused as error:
                if error.aws_code == "ResourceNotFoundException":
                    return found  # nobody has printed anything yet
                raise
            found += [str(stream["logStreamName"]) for stream in answer["logStreams"]]
            if not answer.get("nextToken"):
                return sorted(found)
            page = {"nextToken": str(answer["nextToken"])}

    async def _bring_page(self, group: str, stream: str, output: Output) -> bool:
        position = output.position(stream)
        known = 0
        arguments = {"logGroupName": group, "logStreamName": stream, "startFromHead": True}
        try:
            token = {"nextToken": position.token} if position.token else {}
            answer = await self._aws.call("logs", "get_log_events", {**arguments, **token})
        except AwsRefused as error:
            if error.aws_code != "InvalidParameterException" or not position.token:
                raise
            # Tokens are good for a day: read from the beginning, and pass by what is here.
            answer = await self._aws.call("logs", "get_log_events", arguments)
            known, position = position.events, Position()
        events = [str(event["message"]) for event in answer["events"]]
        while len(events) < known and answer["events"]:
            answer = await self._aws.call(
                "logs", "get_log_events", {**arguments, "nextToken": answer["nextForwardToken"]}
            )
            events += [str(event["message"]) for event in answer["events"]]
        token = str(answer["nextForwardToken"])
        fresh = events[known:]
        if token == position.token and not fresh:
            return False
        at = Position(token, max(known, position.events + len(events)))
        await asyncio.to_thread(output.take, stream, fresh, at)
        return bool(fresh)
