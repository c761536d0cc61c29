"""Knows which jobs of ours there are: one question per interval, however many there are.

Asked for are all of ours that do not run: one that begins to leaves that list, and one that ends comes onto it. Only a
job that was not known, or has left the list, is asked for by itself. All are listed at the beginning, and every now and
then, to find out which were removed.
"""

import asyncio
import math
from collections.abc import Callable
from dataclasses import replace

import structlog

from backends.base import BackendError, BackendUnavailable
from backends.vertex import names
from backends.vertex.access import Access
from backends.vertex.reading import Job

LIST_ALL_SECONDS = 600.0
UNSEEN_SECONDS = 30.0
"""How long it may take after a job was made until Google knows it everywhere."""

log = structlog.get_logger(__name__)


class Tracker:
    """The jobs of one owner in one place. `changed` is called with a launch that is not as it was."""

    def __init__(self, access: Access, owner: str, poll_seconds: float, changed: Callable[[str], None]) -> None:
        self.jobs: dict[str, Job] = {}
        """By the launch's label."""
        self.error: BackendUnavailable | None = None
        """Why nothing is known just now."""
        self._access = access
        self._ours = f'labels.{names.OWNER}="{names.owner_of(owner)}"'
        self._poll_seconds = poll_seconds
        self._changed = changed
        self._listed: set[str] = set()
        """Launches that were on the last list."""
        self._made_at: dict[str, float] = {}
        """When launches were made that Google has not told of since, on the loop's clock."""
        self._dead: set[str] = set()
        """Google's names of jobs that are to be gone, or that are nobody's."""
        self._all_at = 0.0
        self._polling: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Find what there is. Raises `BackendUnavailable`."""
        await self._list_all(is_whole=True)
        self._polling = asyncio.create_task(self._poll())

    async def close(self) -> None:
        """Look no more."""
        if self._polling:
            self._polling.cancel()
            await asyncio.wait([self._polling])

    async def find(self, launch: str) -> Job | None:
        """Look for a launch that may be there, and return its job."""
        for job in await self._list(f'{self._ours} AND labels.{names.LAUNCH}="{launch}"', is_whole=True):
            await self._take(job)
        return self.jobs.get(launch)

    def put(self, job: Job) -> None:
        """Know of a job that was just made."""
        self._made_at[job.launch] = asyncio.get_running_loop().time()
        self._know(job)

    def forget(self, job: Job) -> None:
        """Know nothing of a job any more, which lists may still have for a while."""
        self._dead.add(job.name)
        self.jobs.pop(job.launch, None)
        self._listed.discard(job.launch)
        self._made_at.pop(job.launch, None)

    # --- looking -----------------------------------------------------------------------------------------------------

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(self._poll_seconds)
            try:
                if asyncio.get_running_loop().time() - self._all_at >= LIST_ALL_SECONDS:
                    await self._list_all(is_whole=False)
                else:
                    await self._list_some()
                self.error = None
            except BackendUnavailable as error:
                self._blind(error)
            except Exception as error:  # whoever is held must not be forgotten by a bug
                log.exception("looking for jobs failed by a bug")
                self._blind(BackendUnavailable(f"Looking for jobs failed: {type(error).__name__}"))

    def _blind(self, error: BackendUnavailable) -> None:
        if self.error is None:
            log.warning("Vertex AI does not tell of its jobs", error=str(error))
        self.error = error

    async def _list_some(self) -> None:
        listed = {job.launch: job for job in await self._list(f'{self._ours} AND state!="JOB_STATE_RUNNING"')}
        for job in list(listed.values()):
            await self._take(job)
        for launch, known in list(self.jobs.items()):
            has_left = launch not in listed and (launch in self._listed or known.state != "RUNNING")
            if has_left and not known.is_over:
                await self._ask(known)  # it runs, or is gone
        self._listed = set(listed)

    async def _list_all(self, *, is_whole: bool) -> None:
        begun = asyncio.get_running_loop().time()
        listed = await self._list(self._ours, is_whole=is_whole)
        for job in listed:
            await self._take(job)
        there = {job.name for job in listed}
        for known in list(self.jobs.values()):
            if known.name not in there:
                await self._ask(known)
        self._dead &= there
        self._all_at = begun

    async def _list(self, condition: str, *, is_whole: bool = False) -> list[Job]:
        try:
            return await self._access.list_jobs(condition, is_whole=is_whole)
        except BackendError as error:
            raise BackendUnavailable(f"Google Cloud does not let us see our jobs: {error}") from error

    async def _ask(self, known: Job) -> None:
        try:
            job = await self._access.get(known.name)
        except BackendError as error:
            raise BackendUnavailable(f"Google Cloud does not let us see our jobs: {error}") from error
        if self.jobs.get(known.launch) is not known:
            return  # something else was heard of it meanwhile
        if job is not None:
            self._made_at.pop(known.launch, None)
            self._know(job)
        elif asyncio.get_running_loop().time() - self._made_at.get(known.launch, -math.inf) >= UNSEEN_SECONDS:
            self.forget(known)
            self._changed(known.launch)

    async def _take(self, job: Job) -> None:
        """Know what a list tells of a job."""
        if job.name in self._dead or not job.launch:
            return
        known = self.jobs.get(job.launch)
        if known is not None and known.name != job.name:
            await self._part(known, job)
            return
        self._made_at.pop(job.launch, None)
        if known is None and not job.is_whole:
            whole = await self._access.get(job.name)
            if whole is None:
                return
            job = whole
        self._know(job)

    def _know(self, job: Job) -> None:
        known = self.jobs.get(job.launch)
        if known is not None:
            if job.updated_at < known.updated_at or (known.is_over and not job.is_over):
                return  # a list that is behind
            if not job.is_whole:
                job = replace(job, labels=known.labels, command=known.command, image=known.image, is_whole=True)
            if job == known:
                return
        self.jobs[job.launch] = job
        self._changed(job.launch)

    async def _part(self, known: Job, other: Job) -> None:
        """Of two jobs of one launch the older one is it. The other came of a request that was thought lost."""
        first, second = sorted((known, other), key=lambda job: (job.created_at, job.name))
        log.error("a launch has two jobs; the younger one is cancelled", launch=first.launch, job=second.name)
        await self._access.cancel(second.name)
        self._dead.add(second.name)
        if first is not known:
            del self.jobs[known.launch]
            await self._take(first)
