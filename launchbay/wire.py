"""How commands talk to the server: one GraphQL client, opened for one command."""

import asyncio
from collections.abc import Awaitable, Callable
from random import SystemRandom
from typing import TypeVar

from agent.control_plane import ControlPlane
from launchbay.settings import account

T = TypeVar("T")


def with_server(work: Callable[[ControlPlane], Awaitable[T]]) -> T:
    """Run `work` with a connection to the server, and return its result."""

    async def run() -> T:
        who = account()
        async with ControlPlane(who.base_url, who.api_key, random=SystemRandom()) as server:
            return await work(server)

    return asyncio.run(run())


async def default_entity(server: ControlPlane, given: str | None) -> str:
    """Return the entity that was given, or the key's user's own."""
    if given:
        return given
    data = await server.ask("query Viewer { viewer { entity } }")
    return str(data["viewer"]["entity"])
