"""Heartbeats are written in batches, and survive a write that fails."""

from typing import Any

import pytest

from server.context import Services
from server.heartbeats import Heartbeats
from server.storage import agents
from server.storage.tables import launch_agents
from tests.server.conftest import Client, Clock

MAKE = """mutation ($input: CreateLaunchAgentInput!) { createLaunchAgent(input: $input) { launchAgentId } }"""


class FullDisk(Exception):
    """What a write may raise."""


class Failing:
    """A database that cannot write for a while."""

    def __init__(self, database: Any) -> None:
        self.database = database
        self.full = True

    async def claim(self, *arguments: Any) -> Any:
        """Fail, or pass on."""
        if self.full:
            raise FullDisk
        return await self.database.claim(*arguments)


async def test_a_beat_that_could_not_be_written_is_written_later(
    services: Services, client: Client, clock: Clock
) -> None:
    where = {"entityName": "admin", "projectName": "model-registry", "runQueues": [], "hostname": "h"}
    await client.ask(MAKE, input=where)
    database = Failing(services.database)
    heartbeats = Heartbeats(database)  # type: ignore[arg-type]
    heartbeats.beat(launch_agents, 1, clock.now + 10)
    with pytest.raises(FullDisk):
        await heartbeats.flush()
    heartbeats.beat(launch_agents, 1, clock.now + 20)
    database.full = False
    await heartbeats.flush()
    assert (await services.database.read(agents.by_id, 1)).heartbeat_at == clock.now + 20


async def test_an_older_beat_does_not_replace_a_newer(services: Services, client: Client, clock: Clock) -> None:
    where = {"entityName": "admin", "projectName": "model-registry", "runQueues": [], "hostname": "h"}
    await client.ask(MAKE, input=where)
    for moment in (30.0, 20.0):
        services.heartbeats.beat(launch_agents, 1, clock.now + moment)
        await services.heartbeats.flush()
    assert (await services.database.read(agents.by_id, 1)).heartbeat_at == clock.now + 30
