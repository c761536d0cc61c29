"""Two server processes on one PostgreSQL: what one is told, the other knows, and nothing is handed out twice."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from typing import Any

import pytest

from agent.control_plane import ControlPlane
from tests.end_to_end.conftest import LiveServer, serving
from tests.end_to_end.processes import INIT_AND_LOG, agent, make_queue, push, python, run, spec, wait_for
from tests.postgres import Cluster

POP = "mutation popFromRunQueue($input: PopFromRunQueueInput!) { popFromRunQueue(input: $input) { runQueueItemId } }"
PUSH = """mutation pushToRunQueueByName($input: PushToRunQueueByNameInput!) {
  pushToRunQueueByName(input: $input) { runQueueItemId } }"""
PROMPTLY_SECONDS = 8.0
"""Less than a waiter sleeps when nobody wakes it."""
TRIES = 3


@pytest.fixture(scope="module")
def servers(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LiveServer, LiveServer]]:
    """Two servers that share a database and a data folder; the second one started while the first one runs."""
    data_dir, folder = tmp_path_factory.mktemp("shared"), tmp_path_factory.mktemp("client")
    url = cluster.new_database()
    with serving(data_dir, url) as (first, key), serving(data_dir, url) as (second, same_key):
        assert key == same_key
        yield LiveServer(first, key, folder), LiveServer(second, key, folder)
    cluster.drop(url)


@pytest.fixture
async def planes(servers: tuple[LiveServer, LiveServer]) -> AsyncIterator[list[ControlPlane]]:
    """A connection to each."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(ControlPlane(server.base_url, server.api_key, random=Random(1)))
            for server in servers
        ]


def _in_queue(name: str) -> dict[str, Any]:
    return {"entityName": "admin", "projectName": "model-registry", "queueName": name}


async def test_a_push_to_one_wakes_an_agent_that_waits_at_the_other(
    servers: tuple[LiveServer, LiveServer], planes: list[ControlPlane]
) -> None:
    make_queue(servers[0], "woken")
    given = {**_in_queue("woken"), "runSpec": json.dumps(spec(python("pass"), "woken"))}
    for here, there in (planes, reversed(planes)):
        took: list[float] = []
        while not took or min(took) > PROMPTLY_SECONDS:  # a busy machine may be slow, and not each time
            assert len(took) < TRIES, took
            waiting = asyncio.create_task(here.execute(POP, {"input": _in_queue("woken")}, wait=30))
            await asyncio.sleep(1)
            assert not waiting.done()
            start = time.monotonic()
            pushed = await there.ask(PUSH, input=given)
            popped = await waiting
            assert popped.data["popFromRunQueue"] == pushed["pushToRunQueueByName"]
            took.append(time.monotonic() - start)


async def test_nothing_is_handed_out_twice(servers: tuple[LiveServer, LiveServer], planes: list[ControlPlane]) -> None:
    make_queue(servers[0], "contended")
    count = 60
    given = {**_in_queue("contended"), "runSpec": json.dumps(spec(python("pass"), "contended"))}
    pushed = await asyncio.gather(*(planes[number % 2].ask(PUSH, input=given) for number in range(count)))
    taken: list[str] = []

    async def take_all(plane: ControlPlane) -> None:
        while item := (await plane.ask(POP, input=_in_queue("contended")))["popFromRunQueue"]:
            taken.append(item["runQueueItemId"])

    await asyncio.gather(*(take_all(plane) for plane in planes for _ in range(5)))
    assert sorted(taken) == sorted(item["pushToRunQueueByName"]["runQueueItemId"] for item in pushed)


def test_an_agent_at_one_runs_and_stops_what_people_ask_for_at_the_other(
    servers: tuple[LiveServer, LiveServer], tmp_path: Path
) -> None:
    first, second = servers
    make_queue(second, "both")
    with agent(first, "both", tmp_path / "agent"):
        done = push(second, "both", spec(python(INIT_AND_LOG), "both"))
        long = push(second, "both", spec(python("import time; print('begun', flush=True); time.sleep(300)"), "both"))
        assert wait_for(second, done, "FINISHED")["state"] == "FINISHED"
        wait_for(second, long, "CLAIMED")
        run(second, "launchbay", "stop", long)
        assert wait_for(second, long, "STOPPED", "KILLED", "FAILED")["state"] == "STOPPED"


def test_servers_that_start_at_once_on_an_empty_database_agree(cluster: Cluster, tmp_path: Path) -> None:
    url = cluster.new_database()
    data_dir = tmp_path / "data"
    data_dir.mkdir()

    async def start() -> list[str]:
        from server.start import opened

        async def once() -> str:
            async with opened(data_dir, url):
                return (data_dir / "admin-api-key").read_text()

        return await asyncio.gather(*(once() for _ in range(4)))

    keys = asyncio.run(start())
    assert len(set(keys)) == 1
    with serving(data_dir, url) as (base_url, key):
        server = LiveServer(base_url, key, tmp_path)
        assert run(server, "launchbay", "queue", "list").returncode == 0
    cluster.drop(url)
