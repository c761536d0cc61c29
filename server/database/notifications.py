"""Carries wake-ups between the server processes of one PostgreSQL database (LISTEN, NOTIFY).

They are sent beside the transactions, not inside: a commit that notifies holds a lock of the whole database. Those of
one moment travel together.
"""

import asyncio
import json
from random import Random
from typing import Any, Final

import asyncpg  # type: ignore[import-untyped]
import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from server.wakeups import Topic, Wakeups

CHANNEL: Final = "launchbay"
MAX_TOPICS: Final = 100
"""A notification holds less than 8,000 bytes."""
RECONNECT_SECONDS = 1.0
PING_SECONDS = 30.0

log = structlog.get_logger(__name__)


class Notifications:
    """The other processes' wake-ups for ours, and ours for them."""

    def __init__(self, engine: AsyncEngine, wakeups: Wakeups, random: Random) -> None:
        self._engine = engine
        self._wakeups = wakeups
        self._name = f"{random.getrandbits(64):016x}"
        self._unsent: dict[tuple[Topic, bool], None] = {}
        self._something = asyncio.Event()

    async def run(self) -> None:
        """Connect, listen and send for ever; after every loss of the connection again."""
        self._wakeups.elsewhere = self._enqueue
        while True:
            try:
                await self._converse()
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, DBAPIError) as error:
                log.warning("the connection for wake-ups was lost; made again in a moment", error=str(error))
            await asyncio.sleep(RECONNECT_SECONDS)

    def _enqueue(self, topic: Topic, one: bool) -> None:
        self._unsent[topic, one] = None
        self._something.set()

    async def _converse(self) -> None:
        async with self._engine.connect() as pooled:
            connection: Any = (await pooled.get_raw_connection()).driver_connection
            try:
                connection.add_termination_listener(self._lost)
                await connection.add_listener(CHANNEL, self._received)
                self._wakeups.notify_all_here()  # nobody knows what came while nobody listened
                await self._send(connection)
            finally:
                await pooled.invalidate()  # it listens, and may be broken: nothing for the pool

    async def _send(self, connection: Any) -> None:
        while True:
            try:
                async with asyncio.timeout(PING_SECONDS):
                    await self._something.wait()
            except TimeoutError:
                await connection.execute("SELECT 1")  # finds out that the connection is dead
                continue
            self._something.clear()
            if connection.is_closed():
                raise ConnectionResetError("PostgreSQL has closed the connection")
            topics, self._unsent = list(self._unsent), {}
            for start in range(0, len(topics), MAX_TOPICS):
                message = json.dumps([self._name, topics[start : start + MAX_TOPICS]])
                await connection.execute("SELECT pg_notify($1, $2)", CHANNEL, message)

    def _lost(self, _connection: object) -> None:
        self._something.set()  # so that it is noticed at once

    def _received(self, _connection: object, _pid: int, _channel: str, payload: str) -> None:
        sender, topics = json.loads(payload)
        if sender == self._name:
            return
        for (kind, number), one in topics:
            self._wakeups.notify_here((kind, number), one=one)
