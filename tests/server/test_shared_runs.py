"""Runs in shared mode: several processes write to one run."""

import json
from dataclasses import replace
from typing import Any

from tests.server.conftest import Client
from tests.server.run_steps import read, send, start

HISTORY = '{ project(name: "p", entityName: "admin") { run(name: "r") { history(minStep: 0, maxStep: 99) } } }'


def writer(client: Client, name: str) -> Client:
    """Return a client that writes as one of several."""
    return Client(client.executor, replace(client.context, writer=name))


async def log(client: Client, offset: int, *rows: dict[str, Any], **more: Any) -> None:
    """Send rows as a writer numbers them."""
    history = {"offset": offset, "content": [json.dumps(row) for row in rows]}
    summary = {"offset": 0, "content": [json.dumps(rows[-1])]}
    await send(client, files={"wandb-history.jsonl": history, "wandb-summary.json": summary}, **more)


async def test_writers_do_not_overwrite_each_other(client: Client) -> None:
    one, two = writer(client, "one"), writer(client, "two")
    await start(one)
    await log(one, 0, {"_step": 0, "a": 0}, {"_step": 1, "a": 1})
    assert (await start(two))["historyLineCount"] == 0
    await log(two, 0, {"_step": 0, "b": 0})
    await log(two, 0, {"_step": 0, "b": 0}, {"_step": 1, "b": 1})  # the first one again
    await log(one, 2, {"_step": 2, "a": 2})
    await log(one, 2, {"_step": 2, "a": 2})
    rows = [json.loads(row) for row in (await client.ask(HISTORY))["project"]["run"]["history"]]
    assert rows == [
        {"_step": 0, "a": 0},
        {"_step": 0, "b": 0},
        {"_step": 1, "a": 1},
        {"_step": 1, "b": 1},
        {"_step": 2, "a": 2},
    ]
    found = await read(client)
    assert (found["historyLineCount"], json.loads(found["summaryMetrics"])) == (5, {"_step": 2, "a": 2, "b": 1})


async def test_the_one_that_ends_the_run_has_the_last_word(client: Client) -> None:
    one, two = writer(client, "one"), writer(client, "two")
    await start(one)
    await start(two)
    await log(one, 0, {"_step": 0}, complete=True, exitcode=0)
    await log(two, 0, {"_step": 1})
    assert (await read(client))["state"] == "finished"
