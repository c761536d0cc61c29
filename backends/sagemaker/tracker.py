"""What is known of this agent's jobs, and how it is kept up to date with few calls.

Each look asks for the jobs that have changed since the last one: one list for each kind of job that is running, however
many there are. It also walks on by one page through all that are running, in case a change was not listed. A job is
described when a list says something new of it, and otherwise left alone.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import structlog

from backends.base import BackendUnavailable, Handle, Observation, Phase
from backends.sagemaker import names
from backends.sagemaker.access import Aws, AwsRefused, server_time
from backends.sagemaker.kinds import KINDS, Kind, read_handle
from backends.sagemaker.reading import read
from backends.sagemaker.records import Record, Records

OVERLAP_SECONDS = 60.0
"""How far back a list of changes goes before the last one: what changed then may have been listed late."""
FORGOTTEN_SECONDS = 2 * 86400.0
"""How far back to look for ended jobs where the state folder was lost."""
OTHERS_SECONDS = 3600.0
"""How long it is remembered of a job that it is none of ours."""
UNSEEN_SECONDS = 300.0
"""How long a job that was just made may be unknown to AWS."""
PAGE = 100
"""The most jobs in one answer."""

log = structlog.get_logger(__name__)


@dataclass(eq=False, slots=True)
class Tracked:
    """A job of ours."""

    kind: Kind
    name: str
    record: Record
    created_at: float
    """When it was made, or found, in seconds since the epoch."""
    is_stale: bool = False
    """Whether it has to be described: something has changed."""
    walked: int = 0
    """In which walk through all jobs it was met last."""

    @property
    def handle(self) -> Handle:
        """Its handle."""
        return self.record.handle

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.record.seen.phase.is_terminal


@dataclass(slots=True)
class _Walk:
    """A walk through all running jobs of one kind, a page per look."""

    number: int = 0
    token: str = ""
    begun_at: float = 0.0


class Tracker:
    """See above. `changed` is called whenever something else is known of a job."""

    def __init__(
        self,
        aws: Aws,
        owner: str,
        records: Records,
        changed: Callable[[Handle], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._aws = aws
        self._owner = names.owner_of(owner)
        self._records = records
        self._changed = changed
        self._clock = clock
        self._tracked: dict[Handle, Tracked] = {}
        self._others: dict[Handle, float] = {}
        """Jobs with names like ours that are not, or that we are done with; and since when that is known."""
        self._listed_at: dict[Kind, float] = {}
        self._walks = {kind: _Walk() for kind in KINDS}
        self._turn = 0

    @property
    def snapshot(self) -> Mapping[Handle, Observation]:
        """What is known of each job."""
        return {handle: each.record.seen for handle, each in self._tracked.items()}

    @property
    def is_idle(self) -> bool:
        """Whether nothing is running that could change."""
        return all(each.is_over for each in self._tracked.values())

    def get(self, handle: Handle) -> Tracked | None:
        """Return a job, or None."""
        return self._tracked.get(handle)

    async def open(self) -> None:
        """Find what earlier agents have left: what is written down here, and what AWS has under our name."""
        records = await asyncio.to_thread(self._records.read_all)
        last_used = await asyncio.to_thread(self._records.last_used)
        self._tracked.clear()
        for handle, record in records.items():
            if named := read_handle(handle):
                self._tracked[handle] = Tracked(*named, record, created_at=self._clock())
        since = self._clock() - FORGOTTEN_SECONDS if last_used is None else last_used - OVERLAP_SECONDS
        for kind in KINDS:
            await self._list_changes(kind, since)
            running, _ = await self._list(kind, {"StatusEquals": "InProgress"})
            await self._take_all(kind, running)
        await self._describe_stale()

    async def look(self) -> None:
        """Look once at what has changed. Raises `BackendUnavailable`, and then looks at the same again next time."""
        kinds = [kind for kind in KINDS if self._running(kind)]
        for kind in kinds:
            await self._list_changes(kind, self._listed_at.get(kind, 0.0) - OVERLAP_SECONDS)
        if kinds:
            self._turn += 1
            await self._walk(kinds[self._turn % len(kinds)])
        await self._describe_stale()
        now = self._clock()
        self._others = {handle: since for handle, since in self._others.items() if now - since < OTHERS_SECONDS}
        await asyncio.to_thread(self._records.use, now)

    async def put(self, kind: Kind, name: str, arn: str, labels: Mapping[str, str]) -> None:
        """Take note that a job was made."""
        message = "SageMaker: accepted"
        seen = Observation(Phase.STARTING, message=message, labels=dict(labels))
        handle = kind.handle(name)
        record = Record(handle, arn, dict(labels), seen=seen)
        if handle in self._tracked:
            return
        self._tracked[handle] = Tracked(kind, name, record, created_at=self._clock())
        self._changed(handle)
        await asyncio.to_thread(self._records.write, record)

    async def forget(self, handle: Handle) -> None:
        """Forget a job, also on the disk."""
        self._others[handle] = self._clock()
        self._tracked.pop(handle, None)
        await asyncio.to_thread(self._records.remove, handle)

    async def arn_of(self, kind: Kind, name: str) -> str:
        """Return the ARN of a job; empty if there is none."""
        told = await self._describe(kind, name)
        return str(told[kind.arn]) if told else ""

    # --- lists -------------------------------------------------------------------------------------------------------

    async def _list_changes(self, kind: Kind, since: float) -> None:
        after = datetime.fromtimestamp(max(since, 0.0), UTC)
        summaries, asked_at = await self._list(kind, {"LastModifiedTimeAfter": after})
        await self._take_all(kind, summaries)
        self._listed_at[kind] = asked_at

    async def _walk(self, kind: Kind) -> None:
        """Go on by a page. What a whole walk has not met is looked at by itself."""
        walk, running = self._walks[kind], self._running(kind)
        if not walk.token:
            walk.number += 1
            walk.begun_at = self._clock()
        try:
            answer = await self._page(kind, {"StatusEquals": "InProgress"}, walk.token)
        except AwsRefused:
            if not walk.token:
                raise
            walk.token = ""  # tokens do not last: begin anew
            return
        await self._take_all(kind, self._summaries(kind, answer), walk.number)
        walk.token = str(answer.get("NextToken") or "")
        if not walk.token:
            for each in running:
                if each.walked < walk.number and each.created_at < walk.begun_at:
                    each.is_stale = True

    async def _list(self, kind: Kind, only: Mapping[str, Any]) -> tuple[list[Mapping[str, Any]], float]:
        """Return what is told of each job of ours, and when that began."""
        summaries: list[Mapping[str, Any]] = []
        asked_at, token = None, ""
        while asked_at is None or token:
            answer = await self._page(kind, only, token)
            asked_at = asked_at or server_time(answer) or self._clock()
            summaries += self._summaries(kind, answer)
            token = str(answer.get("NextToken") or "")
        return summaries, asked_at

    async def _page(self, kind: Kind, only: Mapping[str, Any], token: str) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "NameContains": self._owner,
            "MaxResults": PAGE,
            "SortBy": "CreationTime",
            "SortOrder": "Ascending",
            **only,
        }
        if token:
            arguments["NextToken"] = token
        return await self._aws.call("sagemaker", f"list_{kind.snake}s", arguments)

    def _summaries(self, kind: Kind, answer: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        return answer.get(f"{kind.noun}Summaries") or ()

    async def _take_all(self, kind: Kind, summaries: Iterable[Mapping[str, Any]], walked: int = 0) -> None:
        """Take note of what a list says of jobs."""
        unknown: list[Mapping[str, Any]] = []
        for summary in summaries:
            handle = kind.handle(str(summary[kind.name]))
            tracked = self._tracked.get(handle)
            if tracked is None:
                unknown += [summary] * (handle not in self._others)
                continue
            tracked.walked = max(tracked.walked, walked)
            signature = _signature(kind, summary)
            if not tracked.is_over and signature != tracked.record.signature:
                tracked.record = replace(tracked.record, signature=signature)
                tracked.is_stale = True
        await asyncio.gather(*(self._adopt(kind, summary) for summary in unknown))

    async def _adopt(self, kind: Kind, summary: Mapping[str, Any]) -> None:
        """Take a job that nothing here tells of, if its tags say that it is ours."""
        handle = kind.handle(str(summary[kind.name]))
        tags: dict[str, str] = {}
        arn, token = str(summary[kind.arn]), ""
        while True:
            page = {"NextToken": token} if token else {}
            answer = await self._aws.call("sagemaker", "list_tags", {"ResourceArn": arn, **page})
            tags |= names.as_mapping(answer.get("Tags") or ())
            token = str(answer.get("NextToken") or "")
            if not token:
                break
        if tags.get(names.OWNER) != self._owner or names.OVER in tags:
            self._others[handle] = self._clock()
            return
        if handle not in self._tracked:
            labels = names.read_tags(tags)
            record = Record(handle, arn, labels, seen=Observation(Phase.STARTING, labels=labels))
            tracked = Tracked(
                kind, str(summary[kind.name]), record, _seconds(summary.get("CreationTime")) or self._clock()
            )
            tracked.is_stale = True
            self._tracked[handle] = tracked

    # --- descriptions ------------------------------------------------------------------------------------------------

    async def _describe_stale(self) -> None:
        stale = [each for each in self._tracked.values() if each.is_stale and not each.is_over]
        results = await asyncio.gather(*map(self._refresh, stale), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _refresh(self, tracked: Tracked) -> None:
        told = await self._describe(tracked.kind, tracked.name)
        record, labels = tracked.record, tracked.record.labels
        if told is None:
            if self._clock() - tracked.created_at < UNSEEN_SECONDS:
                return
            message = "SageMaker does not know this job any more: somebody has deleted it."
            seen = Observation(Phase.LOST, reason="deleted", message=message, labels=labels)
        else:
            seen = read(tracked.kind, told, labels)
            tracked.created_at = _seconds(told.get("CreationTime")) or tracked.created_at
        tracked.is_stale = False
        # What was noted meanwhile, as a stop, stays.
        tracked.record = replace(tracked.record, seen=seen)
        await asyncio.to_thread(self._records.write, tracked.record)
        if seen != record.seen:
            self._changed(tracked.handle)

    async def _describe(self, kind: Kind, name: str) -> dict[str, Any] | None:
        try:
            return await self._aws.call("sagemaker", f"describe_{kind.snake}", {kind.name: name})
        except AwsRefused as error:
            if is_unknown(error):
                return None
            raise BackendUnavailable(str(error)) from error

    def _running(self, kind: Kind) -> list[Tracked]:
        return [each for each in self._tracked.values() if each.kind is kind and not each.is_over]


def is_unknown(error: AwsRefused) -> bool:
    """Whether AWS says that there is no such thing. SageMaker has no code of its own for that."""
    said = error.explanation.lower()
    return error.aws_code in {"ResourceNotFound", "ResourceNotFoundException"} or (
        error.aws_code == "ValidationException" and ("not found" in said or "could not find" in said)
    )


def _signature(kind: Kind, summary: Mapping[str, Any]) -> str:
    """Return what changes in lists whenever a job does."""
    return f"{summary.get(kind.status)} {summary.get('SecondaryStatus')} {_seconds(summary.get('LastModifiedTime'))}"


def _seconds(value: datetime | None) -> float | None:
    return value.timestamp() if value else None
