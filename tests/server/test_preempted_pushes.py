"""A launch that an agent has lost comes back to its queue with what it had; nobody else gets in that way."""

import json
from typing import Any

import pytest

from tests.server.conftest import Client
from tests.server.launching import (
    PUSH_BY_ID,
    PUSH_BY_NAME,
    SPEC,
    acknowledge,
    by_name,
    make_queue,
    pop,
    push,
    read_item,
)

VARIABLES = {"cpu": {"schema": {"type": "integer", "default": 1, "maximum": 8}}}
RESOURCE = "local-container"
REFUSED = (
    400,
    "Queue 'q' has template variables (cpu), so a launch may set those and not resource_args. Use --set-var.",
)


async def make_queue_with_variable(client: Client, name: str = "q") -> str:
    """Make a queue whose items may set their CPUs and nothing else; returns its id."""
    config = json.dumps({"resource_args": {RESOURCE: {"cpus": "{{cpu}}"}}})
    return await make_queue(client, name, resourceConfig=config, templateVariables=json.dumps(VARIABLES))


def preempted(cpus: int, run: str = "run1", count: int = 1, **more: Any) -> dict[str, Any]:
    """Return what an agent pushes when it has lost a launch: all that it had, and how often that was."""
    args = {RESOURCE: {"cpus": cpus, "privileged": True} if cpus > 8 else {"cpus": cpus}}
    return {**SPEC, "resource": RESOURCE, "resource_args": args, "run_id": run, "_resume_count": count, **more}


async def start(client: Client, cpu: int, run: str = "run1", queue: str = "q") -> None:
    """Let an agent take a launch and make its run known."""
    await push(client, queue=queue, templateVariableValues=json.dumps({"cpu": cpu}))
    item = await pop(client, queue=queue)
    assert item is not None
    assert await acknowledge(client, item, run)


async def args_of(client: Client, item: str) -> Any:
    """Return an item's resource args."""
    return (await read_item(client, item))["runSpec"]["resource_args"]


async def test_a_preempted_launch_gets_the_args_that_it_had_whatever_it_says(client: Client) -> None:
    await make_queue_with_variable(client)
    await start(client, cpu=4)
    first = await push(client, preempted(4))
    assert await args_of(client, first) == {RESOURCE: {"cpus": 4}}
    assert (await pop(client), await acknowledge(client, first)) == (first, True)
    again = await push(client, preempted(999, count=2))
    assert await args_of(client, again) == {RESOURCE: {"cpus": 4}}


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param(preempted(999), id="nobody has had that run"),
        pytest.param(preempted(999, run="elsewhere"), id="a run of another queue"),
        pytest.param(preempted(999, run="waiting"), id="a run that no agent has taken"),
        pytest.param(preempted(999, count=0), id="not preempted"),
        pytest.param({key: value for key, value in preempted(999).items() if key != "run_id"}, id="no run"),
        pytest.param(preempted(999, run="run1", project="other"), id="a run of another project"),
    ],
)
async def test_to_say_so_is_not_enough(client: Client, spec: dict[str, Any]) -> None:
    queue_id = await make_queue_with_variable(client)
    await make_queue_with_variable(client, "second")
    await start(client, cpu=4, run="elsewhere", queue="second")
    await push(client, {**SPEC, "run_id": "waiting"})
    assert await client.fail(PUSH_BY_NAME, input=by_name(spec)) == REFUSED
    assert await client.fail(PUSH_BY_ID, input={"queueID": queue_id, "runSpec": json.dumps(spec)}) == REFUSED


async def test_without_variables_there_is_nothing_to_get_around(client: Client) -> None:
    await make_queue(client)
    item = await push(client, preempted(3))
    assert await args_of(client, item) == {RESOURCE: {"cpus": 3}}
    assert (await read_item(client, item))["runSpec"]["_resume_count"] == 1
