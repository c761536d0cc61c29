"""Launch agents: registered, heard of, told what to do."""

import asyncio
import re
from dataclasses import replace

import pytest
from sqlalchemy import select

from server.context import Services
from server.storage.agents import ALIVE_SECONDS
from server.storage.tables import launch_agents
from tests.server.conftest import Client, Clock, make_client
from tests.server.launching import (
    AGENT,
    STOP,
    acknowledge,
    make_agent,
    make_queue,
    pop,
    push,
    read_item,
    start_run,
    until_somebody_waits,
)

UPDATE = """mutation updateLaunchAgent($agentId: ID!, $agentStatus: String) {
  updateLaunchAgent(input: {launchAgentId: $agentId, agentStatus: $agentStatus}) { success }
}"""
STOP_AGENT = "mutation stop($id: ID!) { stopLaunchAgent(input: {launchAgentId: $id}) { success } }"


async def _read(client: Client, agent: str, *known: str, wait: float = 0) -> dict[str, object]:
    waiting = replace(client, context=replace(client.context, wait_seconds=wait))
    return (await waiting.ask(AGENT, id=agent, known=list(known)))["launchAgent"]


async def _poll(client: Client, agent: str, *known: str) -> "asyncio.Task[dict[str, object]]":
    """Start a long poll for orders, and go on when it sleeps."""
    task = asyncio.create_task(_read(client, agent, *known, wait=600))
    await until_somebody_waits(client)
    return task


async def _claimed(client: Client) -> tuple[str, str]:
    agent = await make_agent(client, await make_queue(client))
    item = await push(client)
    await pop(client, agent)
    assert await acknowledge(client, item)
    return item, agent


async def test_an_agent_is_read_back(client: Client) -> None:
    queue = await make_queue(client)
    agent = await make_agent(client, queue)
    read = await _read(client, agent)
    name = read.pop("name")
    assert re.fullmatch(r"box-example-[a-z0-9]{8}", str(name))
    assert read == {
        "id": agent,
        "runQueues": [queue],
        "hostname": "Box.example",
        "agentStatus": "POLLING",
        "stopPolling": False,
        "heartbeatAt": "2027-01-15T08:00:00Z",
        "stopRequests": [],
    }
    listed = await client.ask(
        '{ project(entityName: "admin", name: "model-registry") { launchAgents { id stopRequests { itemId } } } }'
    )
    assert listed["project"]["launchAgents"] == [{"id": agent, "stopRequests": []}]


@pytest.mark.parametrize("hostname", ["h" * 200, "", "ÄÖ_.", "a" * 53 + "-" * 9 + "b"])
async def test_a_name_can_be_a_label_and_is_never_given_twice(client: Client, hostname: str) -> None:
    agents = [await make_agent(client, hostname=hostname) for _ in range(2)]
    names = [str((await _read(client, agent))["name"]) for agent in agents]
    assert len(set(names)) == 2
    assert all(len(name) <= 63 and re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])", name) for name in names)


async def test_an_unknown_agent_and_a_strangers_are_not_there(client: Client, services: Services) -> None:
    agent = await make_agent(client)
    stranger = await make_client(services, "eve")
    assert await stranger.fail(AGENT, id=agent) == (404, "There is no such agent.")
    assert (await stranger.fail(UPDATE, agentId=agent, agentStatus="KILLED"))[0] == 404
    assert (await client.fail(AGENT, id="nonsense"))[0] == 404


async def test_killed_is_final(client: Client) -> None:
    agent = await make_agent(client)
    for status in ("RUNNING", "KILLED", "POLLING"):
        assert (await client.ask(UPDATE, agentId=agent, agentStatus=status))["updateLaunchAgent"]["success"]
    assert (await _read(client, agent))["agentStatus"] == "KILLED"


async def test_a_killed_agent_serves_no_queue(client: Client) -> None:
    agent = await make_agent(client, await make_queue(client))
    item = await push(client)
    await client.ask(UPDATE, agentId=agent, agentStatus="KILLED")
    assert "No agent" in (await read_item(client, item))["waitingReason"]


@pytest.mark.parametrize("call", ["read", "pop", "update"])
async def test_every_call_of_an_agent_is_a_heartbeat(
    client: Client, services: Services, clock: Clock, call: str
) -> None:
    agent = await make_agent(client, await make_queue(client))
    clock.now += ALIVE_SECONDS + 1
    if call == "read":
        await _read(client, agent)
    elif call == "pop":
        await pop(client, agent)
    else:
        await client.ask(UPDATE, agentId=agent, agentStatus="POLLING")
    await services.heartbeats.flush()
    heard = await services.database.read(lambda connection: connection.scalar(select(launch_agents.c.heartbeat_at)))
    assert heard == clock.now


class TestOrders:
    """launchAgent with `Prefer: wait=N`."""

    async def test_a_stop_of_the_agent(self, client: Client) -> None:
        agent = await make_agent(client)
        poll = await _poll(client, agent)
        await client.ask(STOP_AGENT, id=agent)
        assert (await asyncio.wait_for(poll, 60))["stopPolling"] is True
        assert (await asyncio.wait_for(_read(client, agent, wait=600), 60))["stopPolling"] is True

    async def test_a_stop_of_an_item(self, client: Client) -> None:
        item, agent = await _claimed(client)
        poll = await _poll(client, agent)
        await client.ask(STOP, input={"runQueueItemId": item})
        request = {"itemId": item, "runName": "run1"}
        assert (await asyncio.wait_for(poll, 60))["stopRequests"] == [request]
        assert (await _read(client, agent, item, wait=0.05))["stopRequests"] == [request], "known already"

    async def test_a_stop_of_a_run(self, client: Client) -> None:
        item, agent = await _claimed(client)
        await start_run(client)
        run = await client.ask('{ project(entityName: "admin", name: "p") { run(name: "run1") { id } } }')
        poll = await _poll(client, agent)
        stop = "mutation StopRun($id: ID!) { stopRun(input: {id: $id}) { success } }"
        await client.ask(stop, id=run["project"]["run"]["id"])
        assert (await asyncio.wait_for(poll, 60))["stopRequests"] == [{"itemId": item, "runName": "run1"}]

    async def test_a_known_request_that_is_gone_is_news_too(self, client: Client) -> None:
        item, agent = await _claimed(client)
        assert (await asyncio.wait_for(_read(client, agent, item, wait=600), 60))["stopRequests"] == []

    async def test_nothing_new_is_told_when_the_time_is_over(self, client: Client) -> None:
        agent = await make_agent(client)
        assert (await _read(client, agent, wait=0.05))["stopPolling"] is False
