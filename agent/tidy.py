"""Tidy: remove what an ended launch left on this machine, once the server has the evidence."""

import asyncio
import shutil

import structlog

from agent.context import AgentContext
from agent.launch import Launch
from backends.base import BackendError, BackendUnavailable

log = structlog.get_logger(__name__)


async def tidy(context: AgentContext, launch: Launch) -> None:
    """Let the backend forget the launch, and remove its working folder."""
    backend = context.backends.get(launch.resource)
    if backend is not None and launch.handle is not None:
        try:
            await backend.cleanup(launch.handle)
        except (BackendError, BackendUnavailable) as error:
            log.warning("cannot clean up", error=str(error))
    folder = context.folder_of(launch.name)

    def remove() -> None:
        folder.with_suffix(".log").unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)

    await asyncio.to_thread(remove)
