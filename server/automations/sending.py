"""Sends what automations and alerts have for others: each delivery at least once, by whichever server comes first."""

import asyncio
import json
from collections import Counter
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any

import structlog
from aiohttp import (
    ClientError,
    ClientResponseError,
    ClientSession,
    ClientTimeout,
    DummyCookieJar,
    InvalidURL,
    TCPConnector,
)

from server.automations import messages, reach, rights
from server.context import Services
from server.storage import deliveries, integrations
from server.storage.rows import AnyRow

SECONDS_BETWEEN = 1.0
AT_ONCE = 20
AT_ONCE_TO_ONE = 5
"""So many are taken at once, and none for a receiver to which as many are on their way. So one that does not answer
holds up nobody else."""
TIMEOUT_SECONDS = 10.0
"""Of one attempt: less than a lease."""
MAX_ATTEMPTS = 10
FIRST_PAUSE_SECONDS = 5.0
"""The pause doubles: ten attempts take about three quarters of an hour."""
KEPT_SECONDS = 30 * 24 * 3600.0
FORGET_EVERY_SECONDS = 3600.0
PASSING = {408, 425, 429}
"""Answers beside 5xx after which it is of use to try again."""
MAX_REASON_CHARS = 300

log = structlog.get_logger(__name__)


async def run(services: Services) -> None:
    """Send what is due, for ever."""
    async with Sender(services) as sender:
        while True:
            try:
                await sender.start_due()
            except Exception:  # the supervisor: what is due stays due
                log.exception("deliveries could not be looked for")
            await sender.rest()


class Sender:
    """The connections to receivers, and what is on its way."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._on_its_way: dict[asyncio.Task[None], int] = {}  # by task, to which integration
        self._open = AsyncExitStack()

    async def __aenter__(self) -> "Sender":
        """Open what connections go through: one that reaches all, and one that reaches the public internet."""
        self._to_all = await self._open.enter_async_context(_session(TCPConnector()))
        public = TCPConnector(socket_factory=reach.public_socket)
        self._to_public = await self._open.enter_async_context(_session(public))
        return self

    async def __aexit__(self, *_: object) -> None:
        """Give up what is on its way; it is sent again by whoever comes next."""
        for task in self._on_its_way:
            task.cancel()
        await asyncio.gather(*self._on_its_way, return_exceptions=True)
        await self._open.aclose()

    async def start_due(self) -> None:
        """Begin to send what is due, as far as there is room."""
        services, now = self._services, self._services.clock()
        if services.intervals.due("old deliveries", now, first=0, every=FORGET_EVERY_SECONDS):
            await services.database.write(deliveries.forget, now - KEPT_SECONDS)
        while room := min(AT_ONCE - len(self._on_its_way), AT_ONCE_TO_ONE):
            counts = Counter(self._on_its_way.values())
            busy = [integration for integration, count in counts.items() if count >= AT_ONCE_TO_ONE]
            taken = await services.database.claim(deliveries.take, room, busy, services.clock())
            for row in taken:
                task = asyncio.create_task(self._supervised(row.id))
                self._on_its_way[task] = row.integration_id
                task.add_done_callback(self._on_its_way.pop)
            if len(taken) < room:
                return

    async def rest(self) -> None:
        """Wait until it is time to look again: for a moment, or until there is room for another one."""
        if self._on_its_way:
            await asyncio.wait(self._on_its_way, timeout=SECONDS_BETWEEN, return_when=asyncio.FIRST_COMPLETED)
        else:
            await asyncio.sleep(SECONDS_BETWEEN)

    async def _supervised(self, delivery_id: int) -> None:
        try:
            await self._send(delivery_id)
        except Exception:  # the supervisor of one delivery: it is due again when its lease ends
            log.exception("a delivery could not be made", delivery=delivery_id)

    async def _send(self, delivery_id: int) -> None:
        database, clock = self._services.database, self._services.clock
        row = await database.read(deliveries.by_id, delivery_id)
        if row is None:  # its automation was deleted
            return
        if row.attempts > MAX_ATTEMPTS:  # whoever had taken it came to an end over it
            await database.write(
                deliveries.end, row, deliveries.FAILED, row.answer or "no attempt came to an end", clock()
            )
            return
        if row.automation_id is not None:
            args = (row.automation_id, row.integration_entity)
            if not await database.read(rights.may_send, *args):
                answer = "who has it sent there may do so no more"
                await database.write(deliveries.end, row, deliveries.FAILED, answer, clock())
                return
        answer, state = await self._attempt(row)
        if state is not None:
            await database.write(deliveries.end, row, state, answer, clock())
        elif row.attempts >= MAX_ATTEMPTS:
            await database.write(deliveries.end, row, deliveries.FAILED, answer, clock())
        else:
            pause = FIRST_PAUSE_SECONDS * 2 ** (row.attempts - 1)
            await database.write(deliveries.put_off, row, answer, clock() + pause)

    async def _attempt(self, row: AnyRow) -> tuple[str, str | None]:
        """Send once; gives the answer in words, and the state that this ends in, or None to try again."""
        body, headers = _message(row)
        session = self._to_all if row.reaches_all else self._to_public
        try:
            async with session.post(row.url, data=body, headers=headers, allow_redirects=False) as response:
                status = response.status
        except TimeoutError:
            return f"no answer within {TIMEOUT_SECONDS:g} s", None
        except InvalidURL:  # whose words hold the URL, which may be a secret
            return "the URL cannot be used", deliveries.FAILED
        except ClientResponseError:  # whose words hold the URL and some of the answer
            return "the answer was no HTTP", None
        except (ClientError, OSError) as error:
            return str(error)[:MAX_REASON_CHARS] or type(error).__name__, None
        if status < 300:
            return str(status), deliveries.DONE
        return str(status), None if status in PASSING or status >= 500 else deliveries.FAILED


def _session(connector: TCPConnector) -> ClientSession:
    return ClientSession(
        connector=connector,
        timeout=ClientTimeout(total=TIMEOUT_SECONDS),
        cookie_jar=DummyCookieJar(),
        headers={"User-Agent": "launchbay"},
    )


def _message(row: AnyRow) -> tuple[bytes, Mapping[str, str]]:
    variables: dict[str, Any] = json.loads(row.variables)
    action: dict[str, Any] = json.loads(row.action) if row.action is not None else messages.of_alert(variables)
    if row.kind == integrations.SLACK:
        body = messages.slack_body(action, variables)
        headers = messages.webhook_headers(body, None, None)
    else:
        body = messages.webhook_body(action, variables, row.access_token)
        headers = messages.webhook_headers(body, row.access_token, row.secret)
    # With the time, as SQLite gives the number of a row that was deleted to the next one.
    return body, {**headers, "X-Launchbay-Delivery": f"{row.id}-{row.created_at * 1e6:.0f}"}
