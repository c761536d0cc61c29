"""Start: hand the request to the backend, exactly once.

The journal says "starting" before the backend is asked, and starting is idempotent by name. So a crash in between is
harmless: the next agent asks again, and gets the handle of what already runs.
"""

import asyncio
from contextlib import suppress

from agent.context import AgentContext
from agent.errors import LaunchStopped, NoLongerOurs
from agent.launch import Launch, Stage, Tell
from agent.report import tell_progress
from backends.base import Backend, BackendUnavailable, PlatformFull, StartRequest
from backends.flag import Flag

RETRY_SECONDS = 1.0


async def start(
    context: AgentContext,
    launch: Launch,
    backend: Backend,
    request: StartRequest,
    *,
    progress_told: bool,
    stop: Flag,
    tell: Tell,
) -> None:
    """Start the launch; returns when the backend has it. Waits for the platform and for room on it, and tells so.

    Raises `BackendError` if the platform refuses for good, `NoLongerOurs` if the item was given to somebody else, and
    `LaunchStopped` if `stop` is set while it waits for room: then the platform has nothing of it.
    """
    if progress_told and context.facts.is_launchbay:
        # The server gives an item back whose agent falls silent while preparing it. From here on it must not.
        ours = await tell_progress(context, launch, "starting", "starting")
        if not ours:
            raise NoLongerOurs
    if launch.stage is Stage.PREPARING:
        context.move(launch, Stage.STARTING)
    await context.journal.record(launch)
    while True:
        try:
            launch.handle = await backend.start(request)
            break
        except PlatformFull as error:
            await tell(str(error))
            with suppress(TimeoutError):
                async with asyncio.timeout(error.retry_seconds):
                    await stop.wait()
                    raise LaunchStopped("The launch was stopped on request, before it was running.") from None
        except BackendUnavailable as error:
            context.metrics.backend_unavailable(launch.resource)
            await tell(str(error))
            await asyncio.sleep(RETRY_SECONDS)
    context.move(launch, Stage.STARTED)
    await context.journal.record(launch)
