"""Frees the space of what was deleted, and of what was begun and never finished.

What nothing needs any more is first forgotten in the database, where the same transaction notes its objects for
removal, and then removed from the object store: a crash in between leaves a note, and nothing that lacks its bytes.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Concatenate

import structlog
from sqlalchemy import Connection

from server.context import Services
from server.database import Database, P
from server.object_store import URL_LIFETIME_SECONDS
from server.storage import discarded_objects, garbage

SECONDS_BETWEEN = 3600.0
GRACE_SECONDS = URL_LIFETIME_SECONDS + 3600.0
"""How long objects stay that nothing needs any more. By then nobody has a URL of them, and what was begun by one of the
last moment is over."""
ABANDONED_SECONDS = 7 * 24 * 3600.0
"""How long an upload rests until it counts as given up. Runs that make one version together may rest between them."""

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Freed:
    """What one round has removed from the object store."""

    objects: int = 0
    size_bytes: int = 0
    """Manifests not counted: nobody knows their sizes."""
    unfinished: int = 0
    """Uploads that broke off, with what had come of them."""


async def run(services: Services) -> None:
    """Collect for ever. Servers that share a database do so each in its own time."""
    await asyncio.sleep(services.random.uniform(0, SECONDS_BETWEEN))
    while True:
        try:
            freed = await collect(services)
            if freed != Freed():
                log.info("freed space", objects=freed.objects, bytes=freed.size_bytes, unfinished=freed.unfinished)
        except Exception:  # the supervisor: what could not be freed now waits for the next round
            log.exception("space could not be freed")
        await asyncio.sleep(SECONDS_BETWEEN)


async def collect(services: Services, grace_seconds: float = GRACE_SECONDS) -> Freed:
    """Free what nothing has needed for so long; tells what was removed from the object store.

    Without grace nothing is lost that anybody counts on but for downloads of what was deleted.
    """
    database, now = services.database, services.clock()
    await _until_none(database, garbage.abandon_uploads, now - ABANDONED_SECONDS, now)
    for artifact_id in await database.read(garbage.deleted_versions):
        await _until_none(database, garbage.free_version, artifact_id, now)
    for run_id in await database.read(garbage.deleted_runs):
        await _until_none(database, garbage.free_run, run_id, now)
    await _mark_unused_contents(services)
    await _until_none(database, garbage.forget_contents, services.clock() - grace_seconds)
    freed = await _remove_objects(services, services.clock() - grace_seconds)
    freed.unfinished = await services.objects.remove_unfinished(now - GRACE_SECONDS)
    return freed


async def _until_none(
    database: Database, work: Callable[Concatenate[Connection, P], int], *args: P.args, **kwargs: P.kwargs
) -> None:
    while await database.write(work, *args, **kwargs):
        pass


async def _mark_unused_contents(services: Services) -> None:
    after = garbage.FIRST
    while page := await services.database.read(garbage.page_of_contents, after):
        unused = [content for content in page if content.is_new_garbage]
        if unused:
            await services.database.write(garbage.mark_unused, unused, services.clock())
        after = (page[-1].entity_id, page[-1].digest)


async def _remove_objects(services: Services, before: float) -> Freed:
    """Remove what was discarded before a time. What the store does not remove stays noted."""
    freed, after = Freed(), ""
    while due := await services.database.read(discarded_objects.page, before, after):
        kept = await services.objects.delete([row.object_key for row in due])
        removed = [row for row in due if row.object_key not in kept]
        await services.database.write(discarded_objects.forget, [row.object_key for row in removed])
        freed.objects += len(removed)
        freed.size_bytes += sum(row.size_bytes for row in removed)
        after = due[-1].object_key
    return freed
