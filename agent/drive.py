"""Drive: bring one launch through its stages, to its start and from its end to the server. Every launch has a task here
while it is on its way; between start and end it belongs to the watch loop of its backend.

What goes wrong ends that one launch, or that one attempt of it: see `agent/retry.py`.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from dataclasses import replace
from typing import Any, TypeVar

import structlog

from agent import claim, operations, report
from agent.admission.admit import admit, asked_of_machine
from agent.admission.first import StartsFirst
from agent.admission.slots import Request
from agent.adopt import put_down
from agent.context import AgentContext
from agent.errors import ControlPlaneRefused, ControlPlaneUnavailable, LaunchFailed, LaunchStopped, NoLongerOurs
from agent.held import Held
from agent.launch import Cause, End, Launch, Outcome, Stage
from agent.policy import Refused
from agent.prepare import backend_for, prepare
from agent.redaction import SECRETS
from agent.resolve import Resolved, resolve
from agent.retry import next_try
from agent.start import start
from agent.tidy import tidy
from backends.base import BackendError, BackendUnavailable, StartRequest
from backends.flag import Flag
from protocol.errors import LaunchbayError

T = TypeVar("T")

LOG_AFTER_SECONDS = 1.0
"""A launch that lives longer than this has its output streamed; a shorter one's is sent at its end."""
LOG_PAUSE_SECONDS = 0.3
TELL_PAUSE_SECONDS = 1.0
"""A platform may have more to tell, of the pull of an image say, than anybody wants to read."""
TELL_AT_ONCE = 16
"""How many launches at once tell that they run. An agent that begins may have thousands of them, and what waits here
holds much less than what is in the middle of a call."""
REPORT_AGAIN_SECONDS = 30.0
RUNNING = "running, and wandb.init has not been called yet"
"""What people read of a launch that runs, until its run does."""

log = structlog.get_logger(__name__)


class Driver:
    """Drives launches.

    `room` waits for a place for a launch of a queue; `changed` is called when one may have become free, and `look` when
    a backend is worth a look.
    """

    def __init__(
        self,
        context: AgentContext,
        *,
        room: Callable[[str], AbstractAsyncContextManager[None]],
        changed: Callable[[], None],
        look: Callable[[str], None],
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
    ) -> None:
        self._context = context
        self._room = room
        self._changed = changed
        self._look = look
        self._spawn = spawn
        self._first = StartsFirst()
        self._telling = asyncio.Semaphore(TELL_AT_ONCE)

    async def drive(self, held: Held) -> None:
        """Bring a launch to its start, from wherever it stands, or from its end to the server."""
        launch = held.launch
        _bind(launch)
        try:
            if claim.is_inherited(self._context, launch):
                held.ending = True  # what the backend says of it must wait until the server knows that it is ours
                await claim.inherit(self._context, launch)
                held.ending = False
            if launch.stage is Stage.CLAIMED and not await self._acknowledge(launch):
                await self._forget(held)
                return
            if launch.stage is Stage.RETRYING:
                await self._wait_for_retry(held)
            if launch.stage in {Stage.PREPARING, Stage.STARTING}:
                with self._first.starting(launch.item_id):
                    await self._bring_up(held)
            if held.ending:
                return  # it was over so soon that the watch loop has it
            if launch.stage is Stage.STARTED:
                held.streaming = self._spawn(self._follow(held))
                self._look(launch.resource)
            elif launch.stage is Stage.ENDED:
                await self._settle(held)
        except NoLongerOurs as error:
            log.warning("let go of the launch", reason=str(error))
            await self._forget(held)
        except LaunchStopped as error:
            await self._over(held, End(Outcome.STOPPED, str(error)))
        except LaunchFailed as error:
            if isinstance(error, Refused):
                self._context.metrics.refused(error.rule)
            await report.keep_evidence(self._context, launch, error.log or str(error).encode(errors="replace"))
            end = End(Outcome.FAILED, str(error), reason=error.reason, stage=error.stage, cause=error.cause)
            await self._over(held, end)
        except BackendError as error:
            end = End(Outcome.FAILED, str(error), reason=error.code, stage="run", cause=Cause.INFRASTRUCTURE)
            await self._over(held, end)
        except ControlPlaneRefused as error:
            await self._over(held, End(Outcome.FAILED, str(error), reason=error.code, cause=Cause.CONTROL_PLANE))
        except LaunchbayError as error:
            await self._over(held, End(Outcome.FAILED, str(error), reason=error.code))
        except Exception as error:  # the supervisor of one launch: a bug ends this item, never the daemon
            log.exception("launch failed by a bug")
            message = f"The agent failed with {type(error).__name__}: {error}. Its log has the stack trace."
            await self._over(held, End(Outcome.FAILED, message, reason="agent_bug"))

    async def end(self, held: Held, end: End) -> None:
        """Take note that the backend says how an attempt ended, and see to what follows."""
        _bind(held.launch)
        await self._over(held, end)

    async def hand_back(self, held: Held) -> None:
        """Give the item of a launch that has not started back to its queue: another agent may have it now."""
        launch, context = held.launch, self._context
        early = {Stage.CLAIMED, Stage.PREPARING}
        if launch.stage not in early or launch.tries or not context.facts.is_launchbay:
            return
        if held.driving:
            held.driving.cancel()
            await asyncio.wait([held.driving])
        if launch.stage not in early:
            return
        try:
            released = await operations.release(context.server, launch.item_id, context.identity.agent_id)
        except (ControlPlaneUnavailable, ControlPlaneRefused, TimeoutError) as error:
            # It stays in the journal: the next agent goes on with it, or the server takes it back.
            log.warning("cannot hand the item back", error=str(error), **launch.log_fields)
            return
        log.info("handed the item back", released=released, **launch.log_fields)
        await self._forget(held)

    async def _acknowledge(self, launch: Launch) -> bool:
        with self._first.starting(launch.item_id):
            return await claim.acknowledge(self._context, launch)

    async def _bring_up(self, held: Held) -> None:
        launch, context = held.launch, self._context

        async def tell(what: str) -> None:
            log.info(what)
            held.waits_for = what
            self._first.slow(launch.item_id)
            if context.facts.is_launchbay:
                held.progress_told = True
                await report.tell_progress(context, launch, "preparing", what)

        async def wait_for(what: str) -> None:
            if what == held.waits_for:
                return
            log.info(what)
            held.waits_for = what
            self._first.slow(launch.item_id)
            if context.facts.is_launchbay:
                await report.tell_progress(context, launch, "starting", SECRETS.text(what))

        async def make_ready() -> tuple[Resolved, StartRequest]:
            resolved, asked, request = await in_time()
            if asked is not None:
                request = await admit(context, launch, asked, resolved, request, tell)
            return resolved, request

        async def in_time() -> tuple[Resolved, Request | None, StartRequest]:
            limit = context.config.timeouts.prepare
            try:
                async with asyncio.timeout(limit):
                    resolved = await context.server.persist(
                        lambda: resolve(context, launch, tell), doing="resolving the job"
                    )
                    asked = asked_of_machine(context, launch, resolved)  # first: too much has nothing made for it
                    return resolved, asked, await prepare(context, launch, resolved, tell)
            except TimeoutError as error:
                raise LaunchFailed(
                    f"Preparing took longer than {limit:g} seconds (timeouts.prepare of the agent), while "
                    f"{held.waits_for or 'resolving the job'}.",
                    reason="timeout:prepare",
                    stage="build",
                    cause=Cause.INFRASTRUCTURE,
                ) from error
            except OSError as error:
                raise LaunchFailed(
                    f"The agent's machine could not prepare the launch: {error}. Whoever runs the agent has to see "
                    f"that its state folder {context.state_dir} is writable, with room on its disk.",
                    reason="state_folder",
                    stage="build",
                    cause=Cause.INFRASTRUCTURE,
                ) from error

        resolved, request = await _unless(held.stop, make_ready())
        launch.resource = resolved.spec.resource
        held.waits_for = ""  # what it waits for from now on its platform says
        # From here on a stop goes through the backend: a start that was cut short might have happened all the same.
        starting = start(
            context,
            launch,
            backend_for(context, resolved.spec),
            request,
            progress_told=held.progress_told,
            stop=held.stop,
            tell=wait_for,
        )
        # Services may take their time; that one waits for them no longer is seen to below.
        await (_unless(held.stop, starting) if request.services else starting)
        if not launch.tries:
            context.metrics.enqueued_to_started(launch.queue, max(0.0, context.clock() - launch.known_since))
        log.info("started", run=launch.run_id)

    async def _over(self, held: Held, end: End) -> None:
        """An attempt is over: try again if the rules allow it, else report."""
        launch, context = held.launch, self._context
        end = replace(end, message=SECRETS.text(end.message))  # before it is written down, logged or told
        if launch.stage is Stage.STARTING:
            await self._put_down_what_was_started(launch)
        retry = next_try(launch, end, context.config.retries, context.clock(), context.random)
        launch.end = end
        if retry is None:
            if launch.stage is not Stage.STARTED:
                log.warning("launch ended before its start", outcome=end.outcome, reason=end.message)
            context.move(launch, Stage.ENDED)
            await self._settle(held)
            return
        launch.stop = launch.verdict = None  # it may have been for its time
        launch.tries[retry.budget] = retry.number
        launch.not_before = retry.not_before
        context.move(launch, Stage.RETRYING)
        context.metrics.retried(retry.budget)
        log.warning("attempt failed, another follows", reason=end.message, budget=retry.budget, retry=retry.number)
        await context.journal.record(launch)
        self._changed()
        self._spawn(self.drive(held))

    async def _put_down_what_was_started(self, launch: Launch) -> None:
        """See to it that nothing runs, of a launch that an agent may have started without knowing its handle."""
        backend = self._context.backends.get(launch.resource)
        while backend is not None:
            try:
                observed = await backend.observe()
            except BackendUnavailable as error:
                log.warning("cannot look for what may have been started", error=str(error))
                await asyncio.sleep(REPORT_AGAIN_SECONDS)
                continue
            for handle, seen in observed.items():
                if (seen.labels.get("item"), seen.labels.get("attempt")) == (launch.item_id, str(launch.attempt)):
                    await put_down(self._context, backend, handle)
            return

    async def _wait_for_retry(self, held: Held) -> None:
        """Tidy up the failed attempt, wait until the next one is due and there is room, and begin it."""
        launch, context = held.launch, self._context
        if launch.end is not None:
            await self._tidy_attempt(held, launch.end)
        held.stop_sent = held.ending = False
        held.seen = None
        await _unless(held.stop, self._until_due(launch))
        launch.attempt += 1
        await context.journal.record(launch)
        _bind(launch)

    async def _tidy_attempt(self, held: Held, end: End) -> None:
        launch, context = held.launch, self._context
        seconds = max(0.0, launch.not_before - context.clock())
        why = f"attempt {launch.attempt} failed: {end.message} Trying again in {seconds:.0f} s"
        held.waits_for = why
        await self._stop_streaming(held)
        if context.facts.is_launchbay:
            await report.deliver_log(context, launch)
            held.progress_told = True
            await report.tell_progress(context, launch, "retrying", why)
        # How much of its output is delivered: once that is removed, nobody could find out any more where to go on.
        await context.journal.record(launch)
        await tidy(context, launch)
        launch.log_base, launch.log_offset = launch.log_base + launch.log_offset, 0
        launch.handle = launch.end = launch.assigned = None
        await context.journal.record(launch)

    async def _until_due(self, launch: Launch) -> None:
        await asyncio.sleep(max(0.0, launch.not_before - self._context.clock()))
        async with self._room(launch.queue) if not launch.is_scheduler else nullcontext():
            self._context.move(launch, Stage.PREPARING)  # and so it takes the place, before anybody else can

    async def _settle(self, held: Held) -> None:
        """Write the end down, free the place, tell the server, and only then forget."""
        launch, context = held.launch, self._context
        self._changed()
        await self._context.journal.record(launch)
        await self._first.after_starts()
        await self._stop_streaming(held)
        while True:
            try:
                await report.report(context, launch)
                if launch.end:
                    context.metrics.ended(launch.queue, launch.end.outcome, launch.end.cause)
                context.tracer.item(launch, launch.known_since, context.clock())
                await self._forget(held)
                return
            except Exception:  # the supervisor of one launch: an end that is not told would keep the item for ever
                log.exception("the end of the launch could not be reported; trying again")
                await asyncio.sleep(REPORT_AGAIN_SECONDS)

    async def _follow(self, held: Held) -> None:
        """Tell what a launch waits for on its platform, that it runs, and then send its output while it does."""
        launch = held.launch
        backend = self._context.backends[launch.resource]
        if not self._context.facts.is_launchbay or launch.handle is None:
            return
        await self._tell_until_it_runs(held)
        await asyncio.sleep(LOG_AFTER_SECONDS)
        # Who looks now would find "starting" otherwise, for as long as the job has not called `wandb.init`.
        async with self._telling:
            with suppress(ControlPlaneRefused):
                await report.tell_progress(self._context, launch, "running", RUNNING)
        async for chunk in SECRETS.chunks(backend.logs(launch.handle, launch.log_offset, follow=True)):
            await report.send_log(self._context, launch, chunk.offset, chunk.data)
            del chunk  # thousands may wait for more, and none is to keep what it had
            await asyncio.sleep(LOG_PAUSE_SECONDS)

    async def _tell_until_it_runs(self, held: Held) -> None:
        told = ""
        while held.seen is None or held.seen.phase.is_waiting:
            if held.waits_for != told:
                told = held.waits_for
                log.info(told)
                with suppress(ControlPlaneRefused):
                    await report.tell_progress(self._context, held.launch, "starting", SECRETS.text(told))
                await asyncio.sleep(TELL_PAUSE_SECONDS)
            else:
                held.seen_anew.clear()
                await held.seen_anew.wait()

    async def _stop_streaming(self, held: Held) -> None:
        if held.streaming:
            held.streaming.cancel()
            await asyncio.wait([held.streaming])
            held.streaming = None

    async def _forget(self, held: Held) -> None:
        """Remove every trace of a launch from this machine."""
        await tidy(self._context, held.launch)
        await self._context.journal.forget(held.launch)
        self._context.launches.remove(held)
        self._changed()


def _bind(launch: Launch) -> None:
    structlog.contextvars.bind_contextvars(**launch.log_fields)


async def _unless(stop: Flag, work: Coroutine[Any, Any, T]) -> T:
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
