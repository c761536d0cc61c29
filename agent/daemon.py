"""The daemon: claims launches, watches them, listens to its server, and ends when it is told to.

Four kinds of tasks: one claims per queue, one listens for the server's orders, one watches per backend, and one drives
each launch that is on its way to the start or to its end (`agent/drive.py`). The daemon keeps them all and ends them
all. A launch belongs to one task at a time; between start and end it belongs to the watch loop of its backend.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import structlog

from agent import claim, operations
from agent.admission.capacity import Capacity
from agent.adopt import adopt, put_down
from agent.config.model import AgentConfig
from agent.context import AgentContext
from agent.drive import Driver
from agent.errors import ControlPlaneRefused, ControlPlaneUnavailable
from agent.launch import End, Launch, Stage, StopReason
from agent.observability.health import Health
from agent.redaction import SECRETS
from agent.retention import keep_for_a_while
from agent.supervise import supervise
from agent.tidy import tidy_strays
from agent.watch import Settle, decide, next_deadline
from backends.base import Backend, BackendError, BackendUnavailable

LONG_POLL_SECONDS = 25.0
AMONG_QUEUES_SECONDS = 5.0
"""How long a poll may hold room for a launch where the launches of other queues may take the rest meanwhile."""
SHARED_POLL_SECONDS = 1.0
"""How long a poll may hold room for a launch while other queues wait for the same room."""
POLLS_AT_ONCE = 4
"""For each queue, while it has items."""
FIRST_POLL_SECONDS = 0.5
LAST_POLL_SECONDS = 10.0
"""Bounds of the interval where a server does not hold polls."""
OBSERVE_SECONDS = 15.0
"""Every backend is observed at least this often, hints or not."""
FOREIGN_ORDERS_SECONDS = 5.0
STATUS_SECONDS = 1.0
LAST_WORDS_SECONDS = 5.0
"""How long an agent that was told to end goes on telling its server how launches ended."""

log = structlog.get_logger(__name__)


class Daemon:
    """One agent at work. `run` returns after `drain` was called, or the server told it to stop polling."""

    def __init__(self, context: AgentContext) -> None:
        self._context = context
        self.launches = context.launches
        self._capacity = Capacity(lambda: context.config.max_jobs, self.launches.jobs)
        self.health = Health(self.launches, lambda: context.config, context.metrics, time.monotonic)
        """How it does."""
        self.on_drain: Callable[[], None] = lambda: None
        """Called when it is told to end, by whomever."""
        self.stopped = 0
        """How many launches it stopped because it was told to end a second time."""
        self._queues: dict[str, Capacity] = {}
        self._lines: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._look = {resource: asyncio.Event() for resource in context.backends}
        self._draining = asyncio.Event()
        self._stopping = asyncio.Event()
        self._leaving = asyncio.Event()
        self._idle = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._driver = Driver(
            context,
            room=self._room,
            changed=self._changed,
            look=lambda resource: self._look[resource].set(),
            spawn=self._spawn,
        )

    def drain(self) -> None:
        """Claim nothing more and return from `run`. Called again, stop what runs first; a third time, leave at once."""
        for told, what in (
            (self._draining, "claiming nothing more"),
            (self._stopping, "stopping what runs"),
            (self._leaving, "leaving at once"),
        ):
            if not told.is_set():
                log.info(f"told to end: {what}", launches=len(self.launches))
                self.on_drain()
                self.health.draining = True
                told.set()
                return

    async def run(self) -> int:
        """Adopt what an earlier agent left, then work; returns how many launches are left behind."""
        claims: list[asyncio.Task[None]] = []
        try:
            if await self._unless_told_to_end(self._begin()):
                claims += (
                    self._spawn(supervise(f"claim {queue}", self._claiming(queue)))
                    for queue in self._context.config.queues
                )
            await self._draining.wait()
            for claiming in claims:
                claiming.cancel()
            await asyncio.gather(*claims, return_exceptions=True)
            await self._drain()
        finally:
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return len(self.launches)

    async def _begin(self) -> None:
        """Hold what is ours. Lasts for as long as the server is away, or another agent holds some of it."""
        for launch in await self._context.journal.launches():
            self._take(launch)
        if self.launches:
            log.info("adopted launches of an earlier agent", count=len(self.launches))
        all_seen = True
        for resource, backend in self._context.backends.items():
            all_seen &= await self._adopt(resource, backend)
            self._spawn(supervise(f"watch {resource}", self._watching(resource, backend)))
        if all_seen:
            # Only now is it known what is in use.
            await tidy_strays(self._context)
            for cache in self._context.caches:
                self._spawn(supervise("cache", cache.keep_bounded))
        self._spawn(supervise("retention", lambda: keep_for_a_while(self._context)))
        self._spawn(supervise("orders", self._listen))
        self._spawn(supervise("status", self._tell_status))

    async def _unless_told_to_end(self, work: Coroutine[Any, Any, None]) -> bool:
        """Do something until it is done, or the daemon is told to end; returns whether it is done."""
        doing, told = asyncio.create_task(work), asyncio.create_task(self._draining.wait())
        try:
            await asyncio.wait([doing, told], return_when=asyncio.FIRST_COMPLETED)
            if doing.done():
                doing.result()
            return doing.done()
        finally:
            for task in (doing, told):
                task.cancel()
            await asyncio.gather(doing, told, return_exceptions=True)

    async def _adopt(self, resource: str, backend: Backend) -> bool:
        """Hold what the backend has of ours; returns whether it could be asked."""
        try:
            adopted, orphans = await adopt(self._context, resource, backend)
        except BackendUnavailable as error:
            log.warning("cannot look for launches to adopt", resource=resource, error=str(error))
            return False
        for launch in adopted:
            self._take(launch)
        for handle in orphans:
            self._spawn(put_down(self._context, backend, handle))
        return True

    def reload(self, config: AgentConfig) -> None:
        """Go on with another configuration. What it has opened (`agent/config/reloading.py`) must be the same."""
        self._context.config = config
        self._context.metrics.limits(config.max_jobs, self._context.slots.inventory)
        self._changed()
        for event in self._look.values():
            event.set()

    # --- ending ------------------------------------------------------------------------------------------------------

    async def _drain(self) -> None:
        for held in self.launches:
            await self._driver.hand_back(held)
        # What is over is not left behind for want of a word to the server.
        over = [held.driving for held in self.launches if held.driving and held.launch.stage is Stage.ENDED]
        if over:
            await asyncio.wait(over, timeout=LAST_WORDS_SECONDS)
        drain = self._context.config.drain
        if drain.running == "wait" and not await _any_of(self._idle, self._stopping, within=drain.wait_seconds):
            log.warning("what runs has not ended in time (drain.wait_seconds)", launches=len(self.launches))
        if self._stopping.is_set():
            self.stopped = len(self.launches)
            for held in self.launches:
                await self._request_stop(held.launch.item_id, StopReason.DRAIN)
            await _any_of(self._idle, self._leaving)

    def _changed(self) -> None:
        """A launch has come or gone, or got into another stage: let those look who wait for that."""
        for waited_for in (self._capacity, *self._queues.values(), self._context.slots):
            waited_for.changed()
        if self.launches:
            self._idle.clear()
        else:
            self._idle.set()

    # --- claiming ----------------------------------------------------------------------------------------------------

    def _claiming(self, queue: str) -> Callable[[], Awaitable[None]]:
        async def loop() -> None:
            pause = FIRST_POLL_SECONDS
            while True:
                try:
                    launch, waited = await self._claim(queue, self._patience)
                    if launch is not None:
                        await self._claim_while_any(queue)
                except (ControlPlaneUnavailable, ControlPlaneRefused, TimeoutError) as error:
                    self._context.metrics.polled(queue, "error")
                    log.warning("cannot claim", queue=queue, error=str(error), retry_seconds=pause)
                    launch, waited = None, False
                if launch is None and not waited:
                    await asyncio.sleep(pause * (0.75 + self._context.random.random() / 2))
                    pause = min(pause * 1.5, LAST_POLL_SECONDS)
                else:
                    pause = FIRST_POLL_SECONDS

        return loop

    async def _claim_while_any(self, queue: str) -> None:
        """Claim with several polls at once until they find nothing: one by one, round trips would set the pace."""

        async def poll() -> None:
            while (await self._claim(queue, lambda: 0))[0] is not None:
                pass

        # None is cut short by the failure of another: it may just have been given an item.
        for result in await asyncio.gather(*(poll() for _ in range(POLLS_AT_ONCE)), return_exceptions=True):
            if isinstance(result, BaseException):
                raise result

    async def _claim(self, queue: str, patience: Callable[[], float]) -> tuple[Launch | None, bool]:
        async with self._room(queue):
            with self.health.polling(queue):
                # Asked once there is room: how many others want the same has changed since the wait for it began.
                launch, waited = await claim.claim(
                    self._context, queue, patience(), self.launches, may_schedule=self._may_schedule
                )
            self.health.polled(queue)
            self._context.metrics.polled(queue, "item" if launch else "empty")
            if launch is not None:
                self._take(launch)
        return launch, waited

    def _patience(self) -> float:
        """Return how long a poll may hold room for a launch, in seconds: less if others need it soon."""
        config = self._context.config
        is_shared = config.max_jobs != -1 and len(config.queues) > 1
        if is_shared and config.max_jobs - self.launches.jobs() < len(config.queues):
            return SHARED_POLL_SECONDS
        longest = AMONG_QUEUES_SECONDS if is_shared else LONG_POLL_SECONDS
        next_retry = self.launches.next_retry()
        if next_retry is None:
            return longest
        return min(max(next_retry - self._context.clock(), SHARED_POLL_SECONDS), longest)

    @asynccontextmanager
    async def _room(self, queue: str) -> AsyncGenerator[None]:
        """Wait for a place for a launch of a queue, and keep it while the block runs."""
        if queue not in self._queues:
            self._queues[queue] = Capacity(
                lambda: self._context.config.queue_limits.get(queue, -1), lambda: self.launches.jobs(queue)
            )
        # The queue's own first: whoever waits for that must not keep a place from the others.
        async with self._queues[queue].room(), AsyncExitStack() as place:
            async with self._lines[queue]:  # of each queue one poll waits at a time, so that queues take turns
                await place.enter_async_context(self._capacity.room())
            yield

    def _may_schedule(self) -> bool:
        limit = self._context.config.max_schedulers
        return limit == -1 or self.launches.schedulers() < limit

    def _take(self, launch: Launch) -> None:
        held = self.launches.add(launch)
        self._idle.clear()
        held.driving = self._spawn(self._driver.drive(held))

    # --- watching ----------------------------------------------------------------------------------------------------

    def _watching(self, resource: str, backend: Backend) -> Callable[[], Awaitable[None]]:
        look = self._look[resource]

        async def hints() -> None:
            async for _ in backend.changes():
                look.set()

        async def loop() -> None:
            listening = asyncio.create_task(supervise(f"hints {resource}", hints))
            try:
                while True:
                    look.clear()
                    pause = await self._reconcile(resource, backend)
                    await _any_of(look, within=pause)
            finally:
                listening.cancel()
                await asyncio.wait([listening])

        return loop

    async def _reconcile(self, resource: str, backend: Backend) -> float:
        """Act on the difference between what is held and what is observed; returns when to look again, in seconds."""
        # Chosen before the look: of a launch that starts meanwhile the snapshot may know nothing yet.
        started = self.launches.started(resource)
        if not started:
            return OBSERVE_SECONDS
        try:
            observed = await backend.observe()
        except BackendUnavailable as error:
            # Cannot reach is neither dead nor fine: nothing is decided until we see again.
            self._context.metrics.backend_unavailable(resource)
            log.warning("cannot observe", resource=resource, error=str(error))
            return OBSERVE_SECONDS
        now, config = self._context.clock(), self._context.config
        for launch in started:
            held = self.launches.get(launch.item_id)
            if held and launch.handle is not None and (seen := observed.get(launch.handle)):
                held.see(seen)
        for action in decide(started, observed, now, config.timeouts):
            held = self.launches.get(action.launch.item_id)
            if held is None or held.ending:
                continue
            if isinstance(action, Settle):
                held.ending = True
                held.driving = self._spawn(self._driver.end(held, action.end))
            elif not held.stop_sent and action.launch.handle is not None:
                if held.launch.stop is None:
                    held.launch.stop, held.launch.verdict = action.reason, _kept(action.end)
                    await self._context.journal.record(held.launch)
                # What the backend does for the stop, now and later, tells of this launch.
                with structlog.contextvars.bound_contextvars(**action.launch.log_fields):
                    log.info("stopping", reason=action.reason)
                    try:
                        await backend.stop(action.launch.handle, config.stopped_run_timeout)
                        held.stop_sent = True
                    except (BackendError, BackendUnavailable) as error:
                        log.warning("cannot stop it yet, asking again", error=str(error))
        deadline = next_deadline(started, observed, config.timeouts)
        return OBSERVE_SECONDS if deadline is None else min(OBSERVE_SECONDS, max(0.0, deadline - now))

    # --- listening ---------------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        known: frozenset[str] = frozenset()
        while True:
            try:
                orders, waited = await self._orders(known)
            except (ControlPlaneUnavailable, ControlPlaneRefused, TimeoutError) as error:
                log.debug("cannot ask for orders", error=str(error))
                await asyncio.sleep(FOREIGN_ORDERS_SECONDS)
                continue
            known = orders.stop_items
            for item_id in orders.stop_items:
                await self._request_stop(item_id, StopReason.REQUEST)
            if orders.stop_polling and not self._draining.is_set():
                log.info("the server asks this agent to stop")
                self.drain()
            if not waited:
                await asyncio.sleep(FOREIGN_ORDERS_SECONDS)

    async def _orders(self, known: frozenset[str]) -> tuple[operations.Orders, bool]:
        context = self._context
        if context.facts.is_launchbay:
            return await operations.wait_for_orders(
                context.server, context.identity.agent_id, known, wait=LONG_POLL_SECONDS
            )
        record = await operations.agent_record(context.server, context.identity.agent_id)
        stopped: set[str] = set()
        for held in self.launches:
            spec = held.launch.spec
            entity, project = str(spec.get("entity", "")), str(spec.get("project", ""))
            if await operations.run_stopped(context.server, entity, project, held.launch.run_id):
                stopped.add(held.launch.item_id)
        return operations.Orders(bool(record and record["stopPolling"]), frozenset(stopped)), False

    async def _request_stop(self, item_id: str, reason: StopReason) -> None:
        held = self.launches.get(item_id)
        if held is None or held.launch.is_unwanted:
            return
        held.launch.stop = reason
        held.stop.set()
        if held.launch.stage is Stage.STARTED:
            await self._context.journal.record(held.launch)
            self._look[held.launch.resource].set()

    async def _tell_status(self) -> None:
        """Keep the server told whether there is work, at most once a second."""
        told = ""
        while True:
            status = "RUNNING" if self.launches.jobs() else "POLLING"
            if status != told:
                try:
                    await operations.set_status(self._context.server, self._context.identity.agent_id, status)
                    told = status
                except (ControlPlaneUnavailable, ControlPlaneRefused, TimeoutError) as error:
                    log.debug("cannot tell the status", error=str(error))
            await asyncio.sleep(STATUS_SECONDS)

    # --- tasks -------------------------------------------------------------------------------------------------------

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task that belongs to this daemon: it is kept, and its failure is told."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("a task of the daemon failed", exc_info=error)


def _kept(end: End | None) -> End | None:
    """Return an end as it may be written down."""
    return end and replace(end, message=SECRETS.text(end.message))


async def _any_of(*events: asyncio.Event, within: float | None = None) -> bool:
    """Wait until one of the events is set, or the time (in seconds) is over; returns whether one is."""
    waiting = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, timeout=within, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
    return any(event.is_set() for event in events)
