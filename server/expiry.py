"""Deletes artifact versions whose time to live is over. What is linked somewhere stays: others rely on it."""

import asyncio

import structlog
from sqlalchemy import Connection

from server.context import Services
from server.storage import artifacts

SECONDS_BETWEEN = 60.0
AT_ONCE = 100
"""So that nobody waits long for a transaction."""

log = structlog.get_logger(__name__)


async def run(services: Services) -> None:
    """Look for what has expired, for ever."""
    while True:
        try:
            while await services.database.write(delete_expired, services.clock()) == AT_ONCE:
                pass
        except Exception:  # the supervisor: what has expired waits for the next look
            log.exception("expired artifacts could not be deleted")
        await asyncio.sleep(SECONDS_BETWEEN)


def delete_expired(connection: Connection, now: float) -> int:
    """Delete versions whose time is over; returns how many, `AT_ONCE` at most."""
    expired = artifacts.expired(connection, now, AT_ONCE)
    for row in expired:
        artifacts.delete(connection, row.id, now)
    return len(expired)
