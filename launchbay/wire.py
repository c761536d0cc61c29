"""How commands talk to the server: one GraphQL client, opened for one command."""

import asyncio
from collections.abc import Awaitable, Callable
from random import SystemRandom
from typing import TypeVar

from agent.control_plane import ControlPlane
from launchbay.errors import NotThere
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
    """Return the entity that was given, or the key's user's own. `NotThere` if the server knows none of that name."""
    if given:
        found = await server.ask("query Entity($name: String!) { entity(name: $name) { name } }", name=given)
        if found["entity"] is None:
            raise NotThere(
                f"There is no entity {given!r}, or you may not see it. `launchbay team list` shows your teams."
            )
        return given
    data = await server.ask("query Viewer { viewer { entity } }")
    return str(data["viewer"]["entity"])
