"""Sweeps on launch: the scheduler is queued with its sweep, and the sweep follows it."""

import json
from typing import Any

import pytest
import yaml

from tests.server.conftest import Client, Clock
from tests.server.launching import acknowledge, fail, make_queue, pop, push, read_item
from tests.server.run_steps import read, send, start
from tests.server.sweeping import (
    DELETE,
    GRID,
    SET_STATE,
    UPSERT,
    beat,
    make_agent,
    make_sweep,
    next_run,
    read_sweep,
    set_state,
    state,
    value,
)

# As the stock command line writes it, stray quotes included.
SPEC = {
    "uri": "placeholder-uri-scheduler",
    "entity": "admin",
    "project": "p",
    "name": "Scheduler.WANDB_SWEEP_ID",
    "run_id": "WANDB_SWEEP_ID",
    "resource": "local-process",
    "docker": {},
    "overrides": {
        "entry_point": ["wandb", "scheduler", "WANDB_SWEEP_ID"],
        "args": ["--queue", "'q'", "--project", "'p'", "--author", "'admin'", "--job", "'admin/p/j:v0'"],
        "run_config": {"scheduler": {"num_workers": 2}},
    },
}
POP = """mutation popFromRunQueue($input: PopFromRunQueueInput!) {
  popFromRunQueue(input: $input) { runQueueItemId runSpec }
}"""


def document(queue: str = "q", **changes: Any) -> str:
    """Return a launch scheduler as the client sends it."""
    spec = json.dumps({**SPEC, **changes})
    return json.dumps({"queue": queue, "run_queue_project": "model-registry", "run_spec": spec})


async def make_launch_sweep(client: Client, **more: Any) -> dict[str, Any]:
    """Make a sweep with a scheduler in queue `q`."""
    return await make_sweep(client, launchScheduler=document(), state="PENDING", **more)


async def take(client: Client) -> tuple[str, dict[str, Any]]:
    """Pop an item; returns its id and spec."""
    given = {"entityName": "admin", "projectName": "model-registry", "queueName": "q"}
    popped = (await client.ask(POP, input=given))["popFromRunQueue"]
    return popped["runQueueItemId"], popped["runSpec"]


@pytest.mark.parametrize("resource", ["local-container", "local-process", "kubernetes"])
async def test_the_scheduler_is_queued_with_the_sweeps_id_and_without_stray_quotes(
    client: Client, resource: str
) -> None:
    config = json.dumps({"resource_args": {resource: {"env": ["X=1"]}}})
    await make_queue(client, resourceType=resource, resourceConfig=config)
    sweep = await make_launch_sweep(client)
    _, spec = await take(client)
    assert (spec["run_id"], spec["name"]) == (sweep["name"], f"Scheduler.{sweep['name']}")
    assert (spec["resource"], spec.get("resource_args"), spec["author"]) == ("local-process", None, "admin")
    overrides = spec["overrides"]
    assert overrides["entry_point"] == ["wandb", "scheduler", sweep["name"]]
    assert overrides["args"] == ["--queue", "q", "--project", "p", "--author", "admin", "--job", "admin/p/j:v0"]
    assert overrides["run_config"] == {"scheduler": {"num_workers": 2}}


async def test_a_scheduler_job_gets_the_queues_resource_and_template_values(client: Client) -> None:
    variables = json.dumps({"cpu": {"schema": {"type": "integer", "maximum": 8}}})
    config = json.dumps({"resource_args": {"local-container": {"cpus": "{{cpu}}"}}})
    await make_queue(client, resourceConfig=config, templateVariables=variables)
    more: dict[str, Any] = {
        "resource": "local-container",
        "job": "admin/p/sched:v0",
        "overrides": {"run_config": {"sweep_args": {}}},
    }
    await make_sweep(client, launchScheduler=document(**more), templateVariableValues='{"cpu": 4}', state="PENDING")
    _, spec = await take(client)
    assert spec["resource_args"] == {"local-container": {"cpus": 4}}
    given = {"entityName": "admin", "projectName": "p", "config": yaml.safe_dump(GRID)}
    status, message = await client.fail(
        UPSERT, **given, launchScheduler=document(**more), templateVariableValues='{"cpu": 9}'
    )
    assert (status, "at most 8" in message) == (400, True)
    assert (await client.ask('{ project(name: "p", entityName: "admin") { totalSweeps } }'))["project"] == {
        "totalSweeps": 1
    }


async def test_the_scheduler_is_kept_and_given_back_as_it_was_submitted(client: Client) -> None:
    await make_queue(client)
    sweep = await make_launch_sweep(client)
    kept = json.loads((await read_sweep(client, sweep))["scheduler"])
    assert (kept["queue"], kept["run_queue_project"]) == ("q", "model-registry")
    spec = json.loads(kept["run_spec"])
    assert (spec["run_id"], spec["resource"], spec.get("resource_args")) == (sweep["name"], "local-process", None)
    assert spec["overrides"]["run_config"] == {"scheduler": {"num_workers": 2}}


async def test_a_key_in_the_schedulers_spec_is_kept_nowhere(client: Client) -> None:
    await make_queue(client)
    scheduler = document(_wandb_api_key="s3cret")
    sweep = await make_sweep(client, launchScheduler=scheduler, state="PENDING")
    assert "s3cret" not in (await read_sweep(client, sweep))["scheduler"]
    item, spec = await take(client)
    assert "_wandb_api_key" not in spec
    assert len((await read_item(client, item))["warnings"]) == 1


async def test_the_sweep_waits_for_its_scheduler(client: Client) -> None:
    await make_queue(client)
    sweep = await make_launch_sweep(client)
    assert await state(client, sweep) == "PENDING"
    item, spec = await take(client)
    assert await state(client, sweep) == "PENDING"
    await push(client)
    assert await acknowledge(client, (await take(client))[0], "another")
    assert await state(client, sweep) == "PENDING"
    assert await acknowledge(client, item, spec["run_id"])
    assert await state(client, sweep) == "RUNNING"
    assert (await read(client, sweep["name"]))["state"] == "pending"


async def test_a_queue_that_is_not_there_is_an_error_and_leaves_no_sweep(client: Client) -> None:
    await make_queue(client)
    given = {"entityName": "admin", "projectName": "p", "config": yaml.safe_dump(GRID)}
    status, message = await client.fail(UPSERT, **given, launchScheduler=document("nope"))
    assert (status, "has no queue 'nope'. It has: q" in message) == (404, True)
    assert (await client.ask('{ project(name: "p", entityName: "admin") { id } }'))["project"] is None


async def _scheduled(client: Client) -> tuple[dict[str, Any], str, list[str]]:
    """Return a sweep with a scheduler at work: the sweep, the scheduler's item, and its workers."""
    await make_queue(client)
    sweep = await make_launch_sweep(client)
    item, spec = await take(client)
    assert await acknowledge(client, item, spec["run_id"])
    await start(client, sweep["name"])
    return sweep, item, [await make_agent(client, sweep) for _ in range(2)]


async def _push_run(client: Client, sweep: dict[str, Any], run: str) -> str:
    spec = {"entity": "admin", "project": "p", "job": "admin/p/j:v0", "run_id": run, "sweep_id": sweep["name"]}
    return await push(client, spec, priority=2)


async def _run_to_its_end(client: Client, run: str) -> None:
    await start(client, run)
    await send(client, run, complete=True, exitcode=0)


async def test_workers_get_runs_that_are_pending_until_they_start(client: Client) -> None:
    sweep, _, workers = await _scheduled(client)
    commands = [await next_run(client, worker) for worker in workers]
    assert sorted(value(command) for command in commands) == [1, 2]
    run = commands[0]["run_id"]
    await _push_run(client, sweep, run)
    item, spec = await take(client)
    assert spec["sweep_id"] == sweep["name"]
    assert await acknowledge(client, item, run)
    assert (await read(client, run))["state"] == "pending"
    assert (await read(client, run))["sweepName"] == sweep["name"]


async def test_an_idle_worker_is_not_let_go_while_runs_of_others_go_on(client: Client) -> None:
    """A scheduler that is told to exit stops all runs."""
    sweep, _, (first, second) = await _scheduled(client)
    runs = [(await next_run(client, first))["run_id"], (await next_run(client, second))["run_id"]]
    for run in runs:
        await start(client, run)
    await send(client, runs[1], complete=True, exitcode=0)
    last = (await next_run(client, second))["run_id"]
    await _run_to_its_end(client, last)
    assert await beat(client, second) == []
    await send(client, runs[0], complete=True, exitcode=0)
    assert await beat(client, second) == [{"type": "exit"}]
    assert await state(client, sweep) == "FINISHED"


async def test_a_stopped_sweep_lets_its_scheduler_wait_for_the_runs(client: Client) -> None:
    sweep, _, (first, second) = await _scheduled(client)
    run = (await next_run(client, first))["run_id"]
    await start(client, run)
    await set_state(client, sweep, "FINISHED")
    assert await beat(client, second) == []
    await send(client, run, complete=True, exitcode=0)
    assert await beat(client, second) == [{"type": "exit"}]


async def test_a_run_that_waits_in_the_queue_is_not_handed_out_again(client: Client, clock: Clock) -> None:
    """The scheduler may have lost sight of it; to launch it twice would be worse than to lose a worker's turn."""
    sweep, _, (worker, other) = await _scheduled(client)
    command = await next_run(client, worker)
    assert await next_run(client, worker) == command  # the answer was lost: it was never queued
    item = await _push_run(client, sweep, command["run_id"])
    assert (await next_run(client, worker))["run_id"] != command["run_id"]
    clock.now += 10_000  # a scheduler does not ask for workers that are busy
    assert (await next_run(client, other))["run_id"] != command["run_id"]
    assert (await read(client, command["run_id"]))["state"] == "pending"
    # An item that failed before its run was known: the run is to be launched after all.
    await fail(client, item, "no such resource")
    assert (await next_run(client, worker))["run_id"] == command["run_id"]


async def test_a_canceled_sweep_takes_its_items_out_of_the_queue(client: Client) -> None:
    sweep, scheduler, workers = await _scheduled(client)
    waiting, running = [(await next_run(client, worker))["run_id"] for worker in workers]
    items = [await _push_run(client, sweep, run) for run in (waiting, running)]
    other = await push(client)
    await start(client, running)
    await set_state(client, sweep, "CANCELED")
    assert (await read_item(client, items[0]))["state"] == "STOPPED"
    assert sweep["name"] in (await read_item(client, items[0]))["error"]["message"]
    assert (await read(client, waiting))["state"] == "killed"
    assert (await read(client, running))["stopped"]
    assert (await read_item(client, other))["state"] == "PENDING"
    assert (await read_item(client, scheduler))["state"] == "RUNNING"
    assert await beat(client, workers[0]) == [{"type": "exit"}]


async def test_what_an_earlier_scheduler_has_queued_is_known_to_the_next_one(client: Client, clock: Clock) -> None:
    sweep, scheduler, (worker, _) = await _scheduled(client)
    command = await next_run(client, worker)
    await _push_run(client, sweep, command["run_id"])
    await set_state(client, sweep, "PAUSED")
    await send(client, sweep["name"], complete=True, exitcode=0)
    await make_sweep(client, id=sweep["id"], launchScheduler=document())
    clock.now += 10_000
    later = await make_agent(client, sweep)
    assert (await next_run(client, later))["run_id"] != command["run_id"]
    assert (await read_item(client, scheduler))["state"] == "FINISHED"


@pytest.mark.parametrize("end", ["FINISHED", "CANCELED", "delete"])
async def test_a_scheduler_that_nobody_has_taken_up_goes_with_its_sweep(client: Client, end: str) -> None:
    await make_queue(client)
    sweep = await make_launch_sweep(client)
    if end == "delete":
        await client.ask(DELETE, id=sweep["id"])
    else:
        await set_state(client, sweep, end)
    assert await pop(client) is None


async def test_the_cancel_of_an_agent_after_the_end_is_accepted_quietly(client: Client) -> None:
    sweep, _, _ = await _scheduled(client)
    await set_state(client, sweep, "FINISHED")
    await set_state(client, sweep, "CANCELED")
    assert await state(client, sweep) == "FINISHED"


@pytest.mark.parametrize("end", ["PAUSED", "FINISHED", "CANCELED"])
async def test_a_sweep_is_resumed_with_another_scheduler_under_its_id(client: Client, end: str) -> None:
    sweep, scheduler, (worker, _) = await _scheduled(client)
    command = await next_run(client, worker)
    await _run_to_its_end(client, command["run_id"])
    await set_state(client, sweep, end)
    again = {"id": sweep["id"], "config": yaml.safe_dump(GRID), "launchScheduler": document(), "state": "PENDING"}
    status, message = await client.fail(UPSERT, **again)
    assert (status, "has a scheduler that is running" in message) == (400, True)
    await send(client, sweep["name"], complete=True, exitcode=0)
    assert (await client.ask(UPSERT, **again))["upsertSweep"]["sweep"]["name"] == sweep["name"]
    assert await state(client, sweep) == "PENDING"
    item, spec = await take(client)
    assert item != scheduler
    assert spec["run_id"] == sweep["name"]
    assert await acknowledge(client, item, spec["run_id"])
    assert await state(client, sweep) == "RUNNING"
    assert value(await next_run(client, await make_agent(client, sweep))) != value(command)


async def test_a_sweep_without_a_scheduler_is_not_resumed_in_vain(client: Client) -> None:
    sweep, _, _ = await _scheduled(client)
    await set_state(client, sweep, "PAUSED")
    await send(client, sweep["name"], complete=True, exitcode=0)
    status, message = await client.fail(SET_STATE, id=sweep["id"], state="RUNNING")
    assert (status, f"wandb launch-sweep --resume_id {sweep['name']}" in message) == (400, True)
