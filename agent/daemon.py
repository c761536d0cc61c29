"""The daemon: holds launches, and drives each of them through the stages.

Four kinds of tasks: one claims per queue, one listens for the server's orders, one watches per backend, and one drives
each launch that is on its way to the start or to its end. The daemon keeps them all and ends them all. A launch belongs
to one task at a time; between start and end it belongs to the watch loop of its backend.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import structlog

from agent import claim, operations, report
from agent.capacity import Capacity
from agent.context import AgentContext
from agent.errors import ControlPlaneRefused, ControlPlaneUnavailable, LaunchFailed, LaunchStopped, NoLongerOurs
from agent.launch import End, Launch, Outcome, Stage
from agent.prepare import backend_for, prepare
from agent.resolve import Resolved, resolve
from agent.start import start
from agent.supervise import supervise
from agent.tidy import tidy
from agent.watch import Settle, decide
from backends.base import Backend, BackendUnavailable, StartRequest
from protocol.errors import LaunchbayError

T = TypeVar("T")

LONG_POLL_SECONDS = 25.0
SHARED_POLL_SECONDS = 1.0
"""How long a poll may hold room for a launch while other queues wait for the same room."""
FIRST_POLL_SECONDS = 0.5
LAST_POLL_SECONDS = 10.0
"""Bounds of the interval where a server does not hold polls."""
OBSERVE_SECONDS = 15.0
"""Every backend is observed at least this often, hints or not."""
FOREIGN_ORDERS_SECONDS = 5.0
LOG_AFTER_SECONDS = 1.0
"""A launch that lives longer than this has its output streamed; a shorter one's is sent at its end."""
LOG_PAUSE_SECONDS = 0.3

log = structlog.get_logger(__name__)


class Held:
    """A launch in the daemon's hands, with what only this process knows of it."""

    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        self.stop = asyncio.Event()
        self.stop_sent = False
        self.streaming: asyncio.Task[None] | None = None
        # Whether the server knows that the launch is being prepared, and so may give it back if we fall silent. Of one
        # that an earlier agent left we do not know, and have to assume it.
        self.progress_told = launch.stage is Stage.PREPARING
        if launch.stop_requested:
            self.stop.set()


class Daemon:
    """One agent at work. `run` returns when `stop` is called, or when the server tells it to stop polling."""

    def __init__(self, context: AgentContext) -> None:
        self._context = context
        self._held: dict[str, Held] = {}
        self._capacity = Capacity(context.config.max_jobs, self._active)
        self._look = {resource: asyncio.Event() for resource in context.backends}
        self._stopping = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._status = ""

    def stop(self) -> None:
        """Claim nothing more and return from `run`; what runs is left running, for the next agent to adopt."""
        self._stopping.set()

    async def run(self) -> int:
        """Adopt what an earlier agent left, then work; returns how many launches are left behind."""
        for launch in await self._context.journal.launches():
            self._take(launch)
        if self._held:
            log.info("adopted launches of an earlier agent", count=len(self._held))
        loops = [
            *(self._spawn(supervise(f"claim {queue}", self._claiming(queue))) for queue in self._context.config.queues),
            *(
                self._spawn(supervise(f"watch {resource}", self._watching(resource, backend)))
                for resource, backend in self._context.backends.items()
            ),
            self._spawn(supervise("orders", self._listen)),
        ]
        await self._stopping.wait()
        for task in [*loops, *self._tasks]:
            task.cancel()
        await asyncio.gather(*loops, *self._tasks, return_exceptions=True)
        return len(self._held)

    # --- the loops ---------------------------------------------------------------------------------------------------

    def _claiming(self, queue: str) -> Callable[[], Awaitable[None]]:
        async def loop() -> None:
            pause = FIRST_POLL_SECONDS
            while True:
                try:
                    launch, waited = await self._claim(queue)
                except (ControlPlaneUnavailable, ControlPlaneRefused, TimeoutError) as error:
                    log.warning("cannot claim", queue=queue, error=str(error), retry_seconds=pause)
                    launch, waited = None, False
                if launch is None and not waited:
                    await asyncio.sleep(pause * (0.75 + self._context.random.random() / 2))
                    pause = min(pause * 1.5, LAST_POLL_SECONDS)
                else:
                    pause = FIRST_POLL_SECONDS

        return loop

    async def _claim(self, queue: str) -> tuple[Launch | None, bool]:
        async with self._capacity.room():
            others = len(self._context.config.queues) - 1
            wait = LONG_POLL_SECONDS if self._capacity.free >= others else SHARED_POLL_SECONDS
            launch, waited = await claim.claim(self._context, queue, wait, self._held, may_schedule=self._may_schedule)
            if launch is not None:
                self._take(launch)
        return launch, waited

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
                    await self._reconcile(resource, backend)
                    try:
                        async with asyncio.timeout(OBSERVE_SECONDS):
                            await look.wait()
                    except TimeoutError:
                        pass
            finally:
                listening.cancel()
                await asyncio.wait([listening])

        return loop

    async def _reconcile(self, resource: str, backend: Backend) -> None:
        # Chosen before the look: of a launch that starts meanwhile the snapshot may know nothing yet.
        started = [
            held.launch
            for held in self._held.values()
            if held.launch.resource == resource and held.launch.stage is Stage.STARTED
        ]
        if not started:
            return
        try:
            observed = await backend.observe()
        except BackendUnavailable as error:
            # Cannot reach is neither dead nor fine: nothing is decided until we see again.
            log.warning("cannot observe", resource=resource, error=str(error))
            return
        for action in decide(started, observed):
            held = self._held[action.launch.item_id]
            if isinstance(action, Settle):
                held.launch.end = action.end
                held.launch.move(Stage.ENDED)
                self._spawn(self._settle(held))
            elif not held.stop_sent and action.launch.handle is not None:
                held.stop_sent = True
                log.info("stopping", item=action.launch.item_id)
                await backend.stop(action.launch.handle, self._context.config.stopped_run_timeout)

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
                await self._request_stop(item_id)
            if orders.stop_polling:
                log.info("the server asks this agent to stop")
                self.stop()
            await self._tell_status()
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
        for held in list(self._held.values()):
            spec = held.launch.spec
            entity, project = str(spec.get("entity", "")), str(spec.get("project", ""))
            if await operations.run_stopped(context.server, entity, project, held.launch.run_id):
                stopped.add(held.launch.item_id)
        return operations.Orders(bool(record and record["stopPolling"]), frozenset(stopped)), False

    async def _request_stop(self, item_id: str) -> None:
        held = self._held.get(item_id)
        if held is None or held.launch.stop_requested:
            return
        held.launch.stop_requested = True
        held.stop.set()
        if held.launch.stage is Stage.STARTED:
            await self._context.journal.record(held.launch)
            self._look[held.launch.resource].set()

    async def _tell_status(self) -> None:
        status = "RUNNING" if self._active() else "POLLING"
        if status != self._status:
            await operations.set_status(self._context.server, self._context.identity.agent_id, status)
            self._status = status

    # --- one launch --------------------------------------------------------------------------------------------------

    def _take(self, launch: Launch) -> None:
        held = Held(launch)
        self._held[launch.item_id] = held
        self._spawn(self._drive(held))

    async def _drive(self, held: Held) -> None:
        """Bring a launch to its start, from wherever it stands; what goes wrong ends that one launch."""
        launch = held.launch
        structlog.contextvars.bind_contextvars(item=launch.item_id, attempt=launch.attempt, queue=launch.queue)
        try:
            if launch.stage is Stage.CLAIMED and not await claim.acknowledge(self._context, launch):
                await self._forget(held)
                return
            if launch.stage in {Stage.PREPARING, Stage.STARTING}:
                await self._bring_up(held)
            if launch.stage is Stage.STARTED:
                held.streaming = self._spawn(self._stream_log(launch))
                self._look[launch.resource].set()
            elif launch.stage is Stage.ENDED:
                await self._settle(held)
        except NoLongerOurs as error:
            log.warning("let go of the launch", reason=str(error))
            await self._forget(held)
        except LaunchStopped as error:
            await self._end_early(held, End(Outcome.STOPPED, str(error)))
        except LaunchFailed as error:
            await report.keep_evidence(self._context, launch, error.log or str(error).encode())
            await self._end_early(held, End(Outcome.FAILED, str(error), stage=error.stage))
        except LaunchbayError as error:
            await self._end_early(held, End(Outcome.FAILED, str(error), reason=error.code))
        except Exception as error:  # the supervisor of one launch: a bug ends this item, never the daemon
            log.exception("launch failed by a bug")
            message = f"The agent failed with {type(error).__name__}: {error}. Its log has the stack trace."
            await self._end_early(held, End(Outcome.FAILED, message, reason="agent_bug"))

    async def _bring_up(self, held: Held) -> None:
        launch, context = held.launch, self._context

        async def tell(what: str) -> None:
            log.info(what)
            if context.facts.is_launchbay:
                held.progress_told = True
                await context.server.persist(
                    lambda: operations.tell_progress(
                        context.server, launch.item_id, context.identity.agent_id, "preparing", what
                    ),
                    doing="telling progress",
                )

        async def make_ready() -> tuple[Resolved, StartRequest]:
            resolved = await context.server.persist(lambda: resolve(context, launch, tell), doing="resolving the job")
            return resolved, await prepare(context, launch, resolved, tell)

        resolved, request = await _unless(held.stop, make_ready())
        launch.resource = resolved.spec.resource
        # From here on a stop goes through the backend: a start that was cut short might have happened all the same.
        await start(context, launch, backend_for(context, resolved.spec), request, progress_told=held.progress_told)
        log.info("started", run=launch.run_id)

    async def _end_early(self, held: Held, end: End) -> None:
        """End a launch that the backend never had, or that it refused."""
        log.warning("launch ended before its start", outcome=end.outcome, reason=end.message)
        held.launch.end = end
        held.launch.move(Stage.ENDED)
        await self._settle(held)

    async def _settle(self, held: Held) -> None:
        """Write the end down, free the place, tell the server, and only then forget."""
        launch = held.launch
        structlog.contextvars.bind_contextvars(item=launch.item_id, attempt=launch.attempt, queue=launch.queue)
        self._capacity.changed()
        await self._context.journal.record(launch)
        if held.streaming:
            held.streaming.cancel()
            await asyncio.wait([held.streaming])
        await report.report(self._context, launch)
        await self._forget(held)

    async def _stream_log(self, launch: Launch) -> None:
        backend = self._context.backends[launch.resource]
        if not self._context.facts.is_launchbay or launch.handle is None:
            return
        await asyncio.sleep(LOG_AFTER_SECONDS)
        async for chunk in backend.logs(launch.handle, launch.log_offset, follow=True):
            await report.send_log(self._context, launch, chunk.offset, chunk.data)
            await asyncio.sleep(LOG_PAUSE_SECONDS)

    async def _forget(self, held: Held) -> None:
        """Remove every trace of a launch from this machine."""
        await tidy(self._context, held.launch)
        await self._context.journal.forget(held.launch)
        self._held.pop(held.launch.item_id, None)
        self._capacity.changed()

    def _active(self) -> int:
        """Return how many jobs are held; schedulers are none."""
        return self._count(schedulers=False)

    def _may_schedule(self) -> bool:
        limit = self._context.config.max_schedulers
        return limit == -1 or self._count(schedulers=True) < limit

    def _count(self, *, schedulers: bool) -> int:
        return sum(
            held.launch.stage is not Stage.ENDED and held.launch.is_scheduler is schedulers
            for held in self._held.values()
        )

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


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T:
    """Do the work unless a stop is asked for; then it is cancelled, and `LaunchStopped` raised when it has let go."""
    working = asyncio.create_task(work)
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({working, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise LaunchStopped("The launch was stopped on request, before it was running.")
        return working.result()
    finally:
        stopped.cancel()
        working.cancel()
        await asyncio.gather(working, stopped, return_exceptions=True)
