"""Tidy: remove what an ended launch left on this machine, once the server has the evidence.

A working folder may be kept for a while: see `agent/retention.py`.
"""

import asyncio
import shutil
from collections.abc import Sequence
from pathlib import Path

import structlog

from agent.context import AgentContext
from agent.launch import Launch
from agent.retention import is_worth_keeping, keep
from backends.base import BackendError, BackendUnavailable

log = structlog.get_logger(__name__)


async def tidy(context: AgentContext, launch: Launch) -> None:
    """Let the backend forget the launch, and remove or keep its working folder."""
    backend = context.backends.get(launch.resource)
    if backend is not None and launch.handle is not None:
        try:
            await backend.cleanup(launch.handle)
        except (BackendError, BackendUnavailable) as error:
            log.warning("cannot clean up", error=str(error))
    folder = context.folder_of(launch.name)

    kept = context.kept_dir if is_worth_keeping(context, launch) else None

    def remove() -> None:
        _remove_file(folder.with_suffix(".log"))
        if kept is not None:
            try:
                keep(folder, kept, context.clock())
            except OSError as error:
                log.warning("cannot keep the working folder", error=str(error))
        for left in (folder, context.build_folder_of(launch.name)):
            shutil.rmtree(left, ignore_errors=True)

    await asyncio.to_thread(remove)


async def tidy_strays(context: AgentContext) -> None:
    """Remove working folders that belong to no launch held: their launches were forgotten with a lost journal.

    Nothing is claimed before that is done.
    """
    found = await asyncio.to_thread(_entries, context.work_dir)
    # Asked after the look: one that begins again meanwhile, as another attempt, has its name before its folder.
    held = {launch.launch.name for launch in context.launches}
    await asyncio.to_thread(_remove_strays, [path for path in found if path.stem not in held])


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _remove_strays(paths: Sequence[Path]) -> None:
    for path in paths:
        log.info("removing what a forgotten launch left", path=str(path))
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            _remove_file(path)


def _remove_file(path: Path) -> None:
    """Remove a file if it is there. One that cannot be removed is litter, and holds up nothing."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("cannot clean up", error=str(error))
