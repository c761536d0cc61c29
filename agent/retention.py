"""Retention: working folders of failed attempts are kept for people to look at, for a time and up to a size.

They are moved out of the way of launches. What is in them is the job's: its code and what it wrote, and none of the
agent's secrets. A folder's time begins with its end, which is when it was last changed.
"""

import asyncio
import os
import shutil
from pathlib import Path

import structlog

from agent.caches.bounded import disk_usage
from agent.config.forms import parse_limit
from agent.context import AgentContext
from agent.launch import Launch, Outcome

LOOK_SECONDS = 60.0

log = structlog.get_logger(__name__)


def is_worth_keeping(context: AgentContext, launch: Launch) -> bool:
    """Whether a launch's working folder is to be kept: its job has run, and has failed by itself."""
    if launch.end is None or launch.handle is None or not context.config.retention.failed_seconds:
        return False
    return launch.end.outcome in {Outcome.FAILED, Outcome.LOST}


def keep(folder: Path, kept: Path, now: float) -> None:
    """Move a working folder to those that are kept. Blocks."""
    kept.mkdir(parents=True, exist_ok=True)
    target = kept / folder.name
    if folder.is_dir() and not target.exists():
        folder.rename(target)
        os.utime(target, (now, now))
        log.info("kept the working folder", path=str(target))


async def keep_for_a_while(context: AgentContext) -> None:
    """Remove what was kept for long enough, and what is too much, again and again; never ends."""
    while True:
        await asyncio.to_thread(remove_old, context)
        await asyncio.sleep(LOOK_SECONDS)


def remove_old(context: AgentContext) -> None:
    """Remove kept folders whose time is over, and of the others the oldest as long as they are too large. Blocks."""
    if not context.kept_dir.is_dir():
        return
    rule, now = context.config.retention, context.clock()
    left = parse_limit(rule.size)
    newest_first = sorted(((path.stat().st_mtime, path) for path in context.kept_dir.iterdir()), reverse=True)
    for ended, path in newest_first:
        if left is not None:
            left -= disk_usage(path)
        if now - ended >= rule.failed_seconds or (left is not None and left < 0):
            log.info("removing a kept working folder", path=str(path))
            shutil.rmtree(path, ignore_errors=True)
