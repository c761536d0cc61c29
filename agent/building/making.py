"""An image that is made for a launch, wherever it is built: what is said meanwhile goes to the launch's item."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import structlog

from agent import report
from agent.building.recipe import Recipe
from agent.context import AgentContext
from agent.errors import ControlPlaneRefused, LaunchFailed
from agent.launch import Launch
from agent.redaction import SECRETS
from agent.resolve import Resolved
from backends.base import LogChunk

T = TypeVar("T")

LOG_PAUSE_SECONDS = 0.3

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Making:
    """One image, for one launch."""

    context: AgentContext
    launch: Launch
    resolved: Resolved
    recipe: Recipe
    image: str
    """What it is to be called."""

    async def heard(self, build: Callable[[Callable[[bytes], None]], Awaitable[T]]) -> T:
        """Do a build, and send what it says ahead of what the job will say. `build` is given what takes its output.

        A `LaunchFailed` of it gets all of that as evidence.
        """
        said = _Said()
        sending = asyncio.create_task(_send(self.context, self.launch, said))
        try:
            made = await build(said.write)
            said.close()
            await sending  # all of it, as what the job will say comes after it
        except LaunchFailed as error:
            said.close()
            error.log = SECRETS.data(bytes(said.data))
            raise
        finally:
            sending.cancel()
            await asyncio.wait([sending])
        self.launch.log_base, self.launch.log_offset = self.launch.log_base + self.launch.log_offset, 0
        return made


class _Said:
    """What a build has said so far."""

    def __init__(self) -> None:
        self.data = bytearray()
        self._news = asyncio.Event()
        self._is_over = False

    def write(self, data: bytes) -> None:
        """Add to it."""
        self.data += data
        self._news.set()

    def close(self) -> None:
        """No more will come."""
        self._is_over = True
        self._news.set()

    async def chunks(self) -> AsyncGenerator[LogChunk]:
        """Yield it as it comes, until it is over."""
        sent = 0
        while True:
            await self._news.wait()
            self._news.clear()
            is_over = self._is_over
            if new := bytes(self.data[sent:]):
                yield LogChunk(sent, new)
                sent += len(new)
            if is_over:
                return
            await asyncio.sleep(LOG_PAUSE_SECONDS)


async def _send(context: AgentContext, launch: Launch, said: _Said) -> None:
    if not context.facts.is_launchbay:
        return
    try:
        async for chunk in SECRETS.chunks(said.chunks()):
            await report.send_log(context, launch, chunk.offset, chunk.data)
    except ControlPlaneRefused as error:
        log.warning("the server does not take the output of the build", error=str(error))
