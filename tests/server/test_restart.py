"""A server that is told to end does so at once, whoever waits for an answer."""

import asyncio
import json
import time
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random

from agent.control_plane import ControlPlane
from agent.operations import Orders, pop, queue_ids, register, wait_for_orders
from server.start import ServerSettings, running
from tests.server.launching import UPSERT_QUEUE


async def test_held_polls_are_answered_when_the_server_ends(tmp_path: Path) -> None:
    async with AsyncExitStack() as clients, running(ServerSettings(tmp_path, port=0)) as url:
        key = (tmp_path / "admin-api-key").read_text().strip()
        client = await clients.enter_async_context(ControlPlane(url, key, random=Random(1)))
        queue = {
            "entityName": "admin",
            "projectName": "model-registry",
            "queueName": "q",
            "resourceType": "local-process",
            "resourceConfig": json.dumps({"resource_args": {"local-process": {}}}),
        }
        await client.ask(UPSERT_QUEUE, input=queue)
        ids = await queue_ids(client, "admin")
        agent = await register(
            client, entity="admin", queues=[ids["q"]], hostname="h", config={}, version="launchbay@test"
        )
        popping = asyncio.create_task(pop(client, entity="admin", queue="q", agent_id=agent, wait=60))
        listening = asyncio.create_task(wait_for_orders(client, agent, frozenset(), wait=60))
        await asyncio.sleep(0.3)
        assert not popping.done()
        assert not listening.done()
        ending = time.monotonic()
    assert time.monotonic() - ending < 30
    assert (await popping)[0] is None
    assert (await listening)[0] == Orders(stop_polling=False, stop_items=frozenset())
