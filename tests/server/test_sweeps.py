"""Sweeps: made, changed, moved through their states, and their agents told what to do."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from server.context import Services
from server.resolvers import sweep_changes
from server.start import opened
from server.storage.sweep_agents import SILENT_SECONDS
from server.sweeps.commands import Suggestion
from server.sweeps.suggestions import suggest
from server.sweeps.turns import Turns
from tests.server.conftest import Client, Clock, make_client
from tests.server.run_steps import read, send, start, upsert
from tests.server.sweeping import (
    DELETE,
    ENQUEUE,
    GRID,
    HEARTBEAT,
    RANDOM,
    SET_STATE,
    UPSERT,
    beat,
    enqueue,
    make_agent,
    make_sweep,
    next_run,
    read_sweep,
    set_state,
    state,
    value,
)

EXIT = [{"type": "exit"}]


async def finish(client: Client, run: str, **summary: Any) -> None:
    """Run a run to its end."""
    await start(client, run)
    await send(client, run, files={"wandb-summary.json": {"offset": 0, "content": [json.dumps(summary)]}})
    await send(client, run, complete=True, exitcode=0)


# --- one agent -------------------------------------------------------------------------------------------------------


async def test_a_grid_is_run_through_once_and_the_sweep_finishes(client: Client) -> None:
    sweep = await make_sweep(client)
    assert await state(client, sweep) == "PENDING"
    agent = await make_agent(client, sweep)
    assert await state(client, sweep) == "RUNNING"
    seen: list[int] = []
    for _ in range(3):
        command = await next_run(client, agent)
        seen.append(value(command))
        run = command["run_id"]
        assert await beat(client, agent, run) == []
        await finish(client, run, loss=value(command))
    assert sorted(seen) == [1, 2, 3]
    assert await beat(client, agent) == EXIT
    assert await state(client, sweep) == "FINISHED"
    assert await beat(client, agent) == EXIT


async def test_a_command_says_all_that_the_agents_need(client: Client) -> None:
    sweep = await make_sweep(client, {**GRID, "program": "train.py"})
    command = await next_run(client, await make_agent(client, sweep))
    run = command["run_id"]
    expected = {"type": "run", "id": run, "run_id": run, "program": "train.py", "logs": [], "args": {"a": {"value": 1}}}
    assert command == expected


async def test_a_run_is_there_before_it_starts(client: Client) -> None:
    sweep = await make_sweep(client)
    run = (await next_run(client, await make_agent(client, sweep)))["run_id"]
    pending = await read(client, run)
    assert pending["state"] == "pending"
    assert pending["sweepName"] == sweep["name"]
    assert json.loads(pending["config"]) == {"a": {"value": 1}}
    assert pending["displayName"].endswith("-sweep-1")
    await start(client, run, sweep=sweep["name"])
    assert (await read(client, run))["state"] == "running"


async def test_a_question_asked_again_makes_no_second_run(client: Client) -> None:
    sweep = await make_sweep(client)
    agent = await make_agent(client, sweep)
    first = await next_run(client, agent)
    assert await next_run(client, agent) == first
    assert len((await read_sweep(client, sweep))["runs"]) == 1


async def test_a_run_that_nobody_ever_starts_is_given_up(client: Client) -> None:
    sweep = await make_sweep(client)
    agent = await make_agent(client, sweep)
    names = [(await next_run(client, agent))["run_id"] for _ in range(4)]
    assert names[:3] == [names[0]] * 3
    assert names[3] != names[0]
    assert (await read(client, names[0]))["state"] == "failed"


async def test_a_run_that_the_agent_had_taken_up_and_that_never_came_to_life_has_failed(client: Client) -> None:
    sweep = await make_sweep(client)
    agent = await make_agent(client, sweep)
    first = (await next_run(client, agent))["run_id"]
    assert await beat(client, agent, first) == []
    assert (await next_run(client, agent))["run_id"] != first
    assert (await read(client, first))["state"] == "failed"


async def test_run_cap_ends_a_random_sweep(client: Client) -> None:
    sweep = await make_sweep(client, {**RANDOM, "run_cap": 2})
    agent = await make_agent(client, sweep)
    for _ in range(2):
        await finish(client, (await next_run(client, agent))["run_id"])
    assert await beat(client, agent) == EXIT
    found = await read_sweep(client, sweep)
    assert (found["state"], found["runCount"], found["runCountExpected"]) == ("FINISHED", 2, 2)


async def test_a_sweep_whose_agent_left_with_its_last_run_is_finished_all_the_same(
    client: Client, clock: Clock
) -> None:
    sweep = await make_sweep(client)
    agent = await make_agent(client, sweep)
    for _ in range(3):
        assert await state(client, sweep) == "RUNNING"
        await finish(client, (await next_run(client, agent))["run_id"])
    clock.now += 10
    assert await state(client, sweep) == "FINISHED"


async def test_a_deleted_run_is_made_again(client: Client) -> None:
    sweep = await make_sweep(client)
    agent = await make_agent(client, sweep)
    command = await next_run(client, agent)
    await finish(client, command["run_id"])
    run = await read(client, command["run_id"])
    await client.ask("mutation($id: ID!) { deleteRun(input: {id: $id}) { clientMutationId } }", id=run["id"])
    again = await next_run(client, agent)
    assert value(again) == value(command)
    assert again["run_id"] != command["run_id"]


async def test_a_preempted_run_is_handed_out_again(client: Client) -> None:
    sweep = await make_sweep(client)
    agent, other = await make_agent(client, sweep), await make_agent(client, sweep)
    command = await next_run(client, agent)
    run = command["run_id"]
    await start(client, run)
    await send(client, run, preempting=True)
    await send(client, run, complete=True, exitcode=1)
    assert (await read(client, run))["state"] == "preempted"
    assert await beat(client, other) == [{**command, "type": "resume"}]
    assert (await read(client, run))["state"] == "pending"
    assert (await next_run(client, agent))["run_id"] != run


async def test_a_preempted_run_that_somebody_wants_stopped_stays_away(client: Client) -> None:
    sweep = await make_sweep(client)
    agent = await make_agent(client, sweep)
    run = (await next_run(client, agent))["run_id"]
    await start(client, run)
    await send(client, run, preempting=True)
    storage_id = (await read(client, run))["id"]
    await client.ask("mutation($id: ID!) { stopRun(input: {id: $id}) { success } }", id=storage_id)
    await send(client, run, complete=True, exitcode=1)
    assert (await next_run(client, agent))["run_id"] != run


async def test_unknown_runs_in_a_heartbeat_do_no_harm(client: Client) -> None:
    agent = await make_agent(client, await make_sweep(client))
    assert await beat(client, agent, "no-such-run", "o'clock") == []
    status, message = await client.fail(HEARTBEAT, id=agent, runState="[]")
    assert (status, "runState" in message) == (400, True)


async def _log(client: Client, run: str, *losses: float) -> None:
    lines = [json.dumps({"_step": step, "loss": loss}) for step, loss in enumerate(losses)]
    await send(client, run, files={"wandb-history.jsonl": {"offset": 0, "content": lines}})


@pytest.mark.parametrize("asks", ["heartbeat", "state"])
async def test_a_run_that_does_worse_than_others_is_stopped_early(client: Client, clock: Clock, asks: str) -> None:
    stop = {"type": "hyperband", "min_iter": 2, "eta": 2}
    sweep = await make_sweep(client, {**GRID, "early_terminate": stop})
    agents = [await make_agent(client, sweep) for _ in range(3)]
    good, bad, late = [(await next_run(client, agent))["run_id"] for agent in agents]
    for run, losses in ((good, [3, 1]), (bad, [3, 2]), (late, [9])):
        await start(client, run)
        await _log(client, run, *losses)
    clock.now += 10
    if asks == "state":
        assert await state(client, sweep) == "RUNNING"
    assert await beat(client, agents[1], bad) == [{"type": "stop", "run_id": bad}]
    assert await beat(client, agents[0], good) == []
    assert await beat(client, agents[2], late) == []
    await _log(client, late, 9, 9)
    clock.now += 10
    assert await beat(client, agents[2], late) == [{"type": "stop", "run_id": late}]
    assert (await read_sweep(client, sweep))["earlyStopJobRunning"]


# --- several agents --------------------------------------------------------------------------------------------------


async def test_agents_side_by_side_get_different_points(client: Client) -> None:
    sweep = await make_sweep(client, {"method": "grid", "parameters": {"a": {"values": list(range(20))}}})
    agents = [await make_agent(client, sweep) for _ in range(20)]
    answers = await asyncio.gather(*(beat(client, agent) for agent in agents))
    assert sorted(value(command) for (command,) in answers) == list(range(20))
    assert await beat(client, await make_agent(client, sweep)) == []


async def test_agents_of_two_servers_get_different_points(client: Client) -> None:
    """Two servers do not take turns: what is found for one voids what the other has found."""
    other = replace(client, context=replace(client.context, services=replace(client.context.services, turns=Turns())))
    sweep = await make_sweep(client, {"method": "grid", "parameters": {"a": {"values": list(range(12))}}})
    agents = [(server, await make_agent(server, sweep)) for server in (client, other) for _ in range(6)]

    async def ask(server: Client, agent: str) -> Any:
        while not (commands := await beat(server, agent)):
            pass
        return value(commands[0])

    assert sorted(await asyncio.gather(*(ask(*agent) for agent in agents))) == list(range(12))
    assert (await read_sweep(client, sweep))["runCount"] == 12


async def test_parameters_that_were_found_for_another_sweep_are_void(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = await make_sweep(client)
    first, second = await make_agent(client, sweep), await make_agent(client, sweep)
    commands: list[dict[str, Any]] = []

    async def slowly(services: Services, sweep_id: int) -> Suggestion:
        suggestion = await suggest(services, sweep_id)
        if not commands:
            monkeypatch.setattr("server.sweeps.suggestions.suggest", suggest)
            faster = replace(client, context=replace(client.context, services=replace(services, turns=Turns())))
            commands.append(await next_run(faster, second))
        return suggestion

    monkeypatch.setattr("server.sweeps.suggestions.suggest", slowly)
    commands.append(await next_run(client, first))
    assert [value(command) for command in commands] == [1, 2]


async def test_a_server_without_the_library_says_so_when_the_sweep_is_made(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_changes, "find_spec", lambda name: None)
    config = "method: bayes\nmetric: {name: loss}\nparameters: {a: {min: 0.0, max: 1.0}}"
    status, message = await client.fail(UPSERT, entityName="admin", projectName="p", config=config)
    assert (status, "launchbay[sweeps]" in message) == (400, True)


async def test_one_agent_that_asks_many_times_at_once_gets_one_run(client: Client) -> None:
    sweep = await make_sweep(client)
    agent = await make_agent(client, sweep)
    answers = await asyncio.gather(*(beat(client, agent) for _ in range(3)))
    assert len({command["run_id"] for (command,) in answers}) == 1
    assert len((await read_sweep(client, sweep))["runs"]) == 1


async def test_an_agent_waits_while_the_last_runs_go_on(client: Client) -> None:
    sweep = await make_sweep(client, {**RANDOM, "run_cap": 1})
    first, second = await make_agent(client, sweep), await make_agent(client, sweep)
    run = (await next_run(client, first))["run_id"]
    assert await beat(client, second) == []
    await finish(client, run)
    assert await beat(client, second) == EXIT
    assert await beat(client, first) == EXIT


async def test_what_a_lost_agent_had_goes_to_the_next_one(client: Client, clock: Clock) -> None:
    sweep = await make_sweep(client, {**RANDOM, "run_cap": 1})
    lost, other = await make_agent(client, sweep), await make_agent(client, sweep)
    command = await next_run(client, lost)
    clock.now += SILENT_SECONDS - 1
    assert await beat(client, other) == []
    clock.now += 2
    assert await beat(client, other) == [command]
    agents = {agent["id"]: agent for agent in (await read_sweep(client, sweep))["agents"]}
    assert (agents[lost]["totalRuns"], agents[lost]["state"]) == (0, "FINISHED")
    assert (agents[other]["totalRuns"], agents[other]["state"]) == (1, "RUNNING")


async def test_an_agent_that_was_at_work_and_fell_silent_has_crashed(client: Client, clock: Clock) -> None:
    sweep = await make_sweep(client)
    agent = await make_agent(client, sweep)
    await beat(client, agent, (await next_run(client, agent))["run_id"])
    clock.now += SILENT_SECONDS + 1
    assert [agent["state"] for agent in (await read_sweep(client, sweep))["agents"]] == ["CRASHED"]


# --- runs that somebody has put into the sweep ------------------------------------------------------------------------


async def test_an_enqueued_run_goes_to_the_next_agent_before_what_the_search_finds(client: Client) -> None:
    sweep = await make_sweep(client)
    first = await enqueue(client, sweep, {"a": 7, "net": {"depth": 2}}, "mine")
    second = await enqueue(client, sweep, {"a": {"value": 8}})
    assert await state(client, sweep) == "PENDING"
    waiting = await read(client, first)
    assert (waiting["state"], waiting["displayName"], waiting["sweepName"]) == ("pending", "mine", sweep["name"])
    assert json.loads(waiting["config"]) == {"a": {"value": 7}, "net": {"value": {"depth": 2}}}
    assert (await read(client, second))["displayName"].endswith("-sweep-2")
    agent, other = await make_agent(client, sweep), await make_agent(client, sweep)
    command = await next_run(client, agent)
    assert (command["run_id"], value(command), value(command, "net")) == (first, 7, {"depth": 2})
    assert await next_run(client, agent) == command  # asked again
    assert (await next_run(client, other))["run_id"] == second
    assert [found["totalRuns"] for found in (await read_sweep(client, sweep))["agents"]] == [1, 1]


async def test_what_is_enqueued_outlives_the_server(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        client = await make_client(services)
        sweep = await make_sweep(client)
        run = await enqueue(client, sweep, {"a": 7})
    async with opened(tmp_path) as services:
        client = await make_client(services)
        assert (await next_run(client, await make_agent(client, sweep)))["run_id"] == run


async def test_a_grid_goes_through_its_own_points_beside_what_is_enqueued(client: Client) -> None:
    sweep = await make_sweep(client)
    agent = await make_agent(client, sweep)
    seen: list[int] = []
    for extra in (2, 9, 8, None):  # the first is a point of the grid, which is not tried again
        if extra:
            await enqueue(client, sweep, {"a": extra})
        command = await next_run(client, agent)
        seen.append(value(command))
        await finish(client, command["run_id"])
    command = await next_run(client, agent)
    await finish(client, command["run_id"])
    assert [*seen, value(command)] == [2, 9, 8, 1, 3]
    assert await beat(client, agent) == EXIT
    assert await state(client, sweep) == "FINISHED"


@pytest.mark.parametrize("count", [1, 2])
async def test_the_search_makes_as_many_runs_as_run_cap_leaves_beside_what_is_enqueued(
    client: Client, clock: Clock, count: int
) -> None:
    sweep = await make_sweep(client, {**RANDOM, "run_cap": 2})
    agent, other = await make_agent(client, sweep), await make_agent(client, sweep)
    searched = (await next_run(client, agent))["run_id"]
    enqueued = [await enqueue(client, sweep, {"a": extra}) for extra in range(count)]
    await finish(client, searched)
    for run in enqueued:
        clock.now += 10
        assert await state(client, sweep) == "RUNNING"
        assert (await next_run(client, other))["run_id"] == run
        await finish(client, run)
    assert await beat(client, agent) == EXIT
    assert (await read_sweep(client, sweep))["runCount"] == 1 + count


async def test_what_is_enqueued_in_a_paused_sweep_waits_until_it_is_resumed(client: Client) -> None:
    sweep = await make_sweep(client)
    agent = await make_agent(client, sweep)
    await set_state(client, sweep, "PAUSED")
    run = await enqueue(client, sweep, {"a": 5})
    assert await beat(client, agent) == []
    await set_state(client, sweep, "RUNNING")
    assert (await next_run(client, agent))["run_id"] == run


@pytest.mark.parametrize("wanted", ["FINISHED", "CANCELED"])
async def test_what_is_enqueued_ends_with_the_sweep_and_nothing_is_enqueued_any_more(
    client: Client, wanted: str
) -> None:
    sweep = await make_sweep(client)
    run = await enqueue(client, sweep, {"a": 5})
    await set_state(client, sweep, wanted)
    assert (await read(client, run))["state"] == "killed"
    status, message = await client.fail(ENQUEUE, id=sweep["id"], config='{"a": 1}')
    assert status == 400
    assert message == (
        f"Sweep '{sweep['name']}' is {wanted.lower()}, so no agent would start the run. Make a new sweep for it."
    )
    assert await beat(client, await make_agent(client, sweep)) == EXIT


async def test_what_is_enqueued_ends_when_the_sweep_is_deleted(client: Client) -> None:
    sweep = await make_sweep(client)
    run = await enqueue(client, sweep, {"a": 5})
    await client.ask(DELETE, id=sweep["id"])
    assert (await read(client, run))["state"] == "killed"


async def test_an_enqueued_run_that_somebody_stops_or_deletes_goes_to_nobody(client: Client) -> None:
    sweep = await make_sweep(client)
    stopped, deleted, wanted = [await enqueue(client, sweep, {"a": extra}) for extra in (7, 8, 9)]
    storage_id = (await read(client, stopped))["id"]
    await client.ask("mutation($id: ID!) { stopRun(input: {id: $id}) { success } }", id=storage_id)
    storage_id = (await read(client, deleted))["id"]
    await client.ask("mutation($id: ID!) { deleteRun(input: {id: $id}) { clientMutationId } }", id=storage_id)
    assert (await next_run(client, await make_agent(client, sweep)))["run_id"] == wanted
    assert (await read(client, stopped))["state"] == "killed"


async def test_agents_that_ask_at_once_get_each_enqueued_run_once(client: Client) -> None:
    sweep = await make_sweep(client, {"method": "custom"})
    runs = [await enqueue(client, sweep, {"a": extra}) for extra in range(10)]
    agents = [await make_agent(client, sweep) for _ in range(12)]
    answers = await asyncio.gather(*(beat(client, agent) for agent in agents))
    assert sorted(command["run_id"] for commands in answers for command in commands) == sorted(runs)


async def test_parameters_that_were_found_before_a_run_was_enqueued_are_void(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = await make_sweep(client)
    enqueued: list[str] = []

    async def slowly(services: Services, sweep_id: int) -> Suggestion:
        suggestion = await suggest(services, sweep_id)
        if not enqueued:
            enqueued.append(await enqueue(client, sweep, {"a": 1}))
        return suggestion

    monkeypatch.setattr("server.sweeps.suggestions.suggest", slowly)
    agent = await make_agent(client, sweep)
    command = await next_run(client, agent)
    assert command["run_id"] == enqueued[0]
    await finish(client, enqueued[0])
    assert value(await next_run(client, agent)) == 2


async def test_a_sweep_that_a_local_scheduler_searches_for_hands_out_what_that_enqueues(client: Client) -> None:
    sweep = await make_sweep(client, {**GRID, "scheduler": {"engine": "optuna"}})
    agent = await make_agent(client, sweep)
    assert await beat(client, agent) == []
    run = await enqueue(client, sweep, {"a": {"value": 3}})
    assert (await next_run(client, agent))["run_id"] == run


@pytest.mark.parametrize("config", ["[1]", "{", '"text"'])
async def test_parameters_that_are_none_are_refused(client: Client, config: str) -> None:
    sweep = await make_sweep(client)
    status, message = await client.fail(ENQUEUE, id=sweep["id"], config=config)
    assert (status, message.startswith("config ")) == (400, True)


# --- states ----------------------------------------------------------------------------------------------------------


async def test_a_paused_sweep_hands_nothing_out_and_goes_on_when_it_is_resumed(client: Client) -> None:
    sweep = await make_sweep(client)
    agent = await make_agent(client, sweep)
    run = (await next_run(client, agent))["run_id"]
    await set_state(client, sweep, "PAUSED")
    assert await beat(client, agent, run) == []
    await finish(client, run)
    assert await beat(client, agent) == []
    await set_state(client, sweep, "RUNNING")
    assert (await next_run(client, agent))["run_id"] != run


async def test_a_stopped_sweep_lets_runs_end(client: Client) -> None:
    sweep = await make_sweep(client)
    agent, idle = await make_agent(client, sweep), await make_agent(client, sweep)
    run = (await next_run(client, agent))["run_id"]
    await start(client, run)
    await set_state(client, sweep, "FINISHED")
    assert await beat(client, agent, run) == []
    assert await beat(client, idle) == EXIT
    assert not (await read(client, run))["stopped"]
    await finish(client, run)
    assert await beat(client, agent) == EXIT


async def test_a_canceled_sweep_stops_its_runs(client: Client) -> None:
    sweep = await make_sweep(client)
    agent, other = await make_agent(client, sweep), await make_agent(client, sweep)
    run, waiting = (await next_run(client, agent))["run_id"], (await next_run(client, other))["run_id"]
    await start(client, run)
    await set_state(client, sweep, "CANCELED")
    assert await send(client, run) == {"stopped": True}
    stop = [{"type": "stop", "run_id": run}]
    assert await beat(client, agent, run) == stop
    assert await beat(client, agent, run) == stop  # told again: the agent then kills what did not listen
    assert await beat(client, agent) == EXIT
    assert await beat(client, other) == EXIT
    assert (await read(client, waiting))["state"] == "killed"


async def test_what_a_lost_agent_had_ends_with_the_sweep(client: Client, clock: Clock) -> None:
    sweep = await make_sweep(client)
    run = (await next_run(client, await make_agent(client, sweep)))["run_id"]
    clock.now += SILENT_SECONDS + 1
    await set_state(client, sweep, "CANCELED")
    assert (await read(client, run))["state"] == "killed"


async def test_a_run_that_somebody_stops_is_stopped_by_its_agent_too(client: Client) -> None:
    sweep = await make_sweep(client)
    agent = await make_agent(client, sweep)
    run = (await next_run(client, agent))["run_id"]
    await start(client, run)
    storage_id = (await read(client, run))["id"]
    await client.ask("mutation($id: ID!) { stopRun(input: {id: $id}) { success } }", id=storage_id)
    assert await beat(client, agent, run) == [{"type": "stop", "run_id": run}]
    assert await state(client, sweep) == "RUNNING"


async def _in_state(client: Client, name: str) -> dict[str, Any]:
    sweep = await make_sweep(client)
    if name != "PENDING":
        await set_state(client, sweep, "RUNNING")
    if name != "RUNNING" and name != "PENDING":
        await set_state(client, sweep, name)
    assert await state(client, sweep) == name
    return sweep


MOVES = {
    "PENDING": {"PENDING": "PENDING", "RUNNING": "RUNNING", "FINISHED": "FINISHED", "CANCELED": "CANCELED"},
    "RUNNING": {"RUNNING": "RUNNING", "PAUSED": "PAUSED", "FINISHED": "FINISHED", "CANCELED": "CANCELED"},
    "PAUSED": {"RUNNING": "RUNNING", "PAUSED": "PAUSED", "FINISHED": "FINISHED", "CANCELED": "CANCELED"},
    "FINISHED": {"FINISHED": "FINISHED", "CANCELED": "FINISHED"},
    "CANCELED": {"CANCELED": "CANCELED"},
}


@pytest.mark.parametrize("wanted", ["PENDING", "RUNNING", "PAUSED", "FINISHED", "CANCELED"])
@pytest.mark.parametrize("current", MOVES)
async def test_a_move_between_states_is_made_or_refused_in_clear_words(
    client: Client, current: str, wanted: str
) -> None:
    sweep = await _in_state(client, current)
    given = {"id": sweep["id"], "state": wanted, "entityName": "admin", "projectName": "p"}
    if wanted in MOVES[current]:
        await client.ask(SET_STATE, **given)
        assert await state(client, sweep) == MOVES[current][wanted]
    else:
        status, message = await client.fail(SET_STATE, **given)
        assert status == 400
        assert f"Sweep '{sweep['name']}' is {current.lower()} and cannot become {wanted.lower()}. " in message
        assert await state(client, sweep) == current


async def test_a_state_that_is_none_is_refused(client: Client) -> None:
    sweep = await make_sweep(client)
    status, message = await client.fail(SET_STATE, id=sweep["id"], state="STOPPED")
    assert status == 400
    assert message == "'STOPPED' is no state of a sweep; use one of: PENDING, RUNNING, PAUSED, FINISHED, CANCELED."


# --- made and changed ------------------------------------------------------------------------------------------------


async def test_a_sweep_is_read_as_it_was_made(client: Client) -> None:
    sweep = await make_sweep(
        client, description="why", displayName="Shown", controller='{"type": "cloud"}', scheduler='{"x": 1}'
    )
    assert sweep["project"]["name"] == "p"
    assert sweep["project"]["entity"]["name"] == "admin"
    found = await read_sweep(client, sweep)
    assert found["id"] == sweep["id"]
    assert (found["method"], found["state"], found["description"]) == ("grid", "PENDING", "why")
    assert (found["displayName"], found["controller"], found["scheduler"]) == (
        "Shown",
        '{"type": "cloud"}',
        '{"x": 1}',
    )
    assert found["config"].startswith("method: grid\n")
    assert (found["runCount"], found["runCountExpected"], found["bestLoss"]) == (0, 3, None)
    assert (found["runs"], found["agents"], found["heartbeatAt"]) == ([], [], None)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"config": None}, "needs a `config`"),
        ({"config": "method: gird\nparameters: {a: {value: 1}}"}, "method"),
        ({"config": "- 1"}, "must be a mapping"),
        ({"controller": "[]"}, "controller must be a JSON object"),
        ({"priorRunsFilters": '{"$or": [{"name": "no-such-run"}]}'}, "None of the prior runs is in project 'p'"),
        ({"state": "RUNNING "}, "is no state of a sweep"),
        ({"launchScheduler": '{"queue": "q"}'}, "`run_spec`"),
        ({"projectName": "a/b"}, "cannot be a project's name"),
    ],
)
async def test_a_sweep_that_cannot_be_is_refused(client: Client, given: dict[str, Any], said: str) -> None:
    text = "method: grid\nparameters: {a: {values: [1]}}"
    status, message = await client.fail(UPSERT, **{"entityName": "admin", "projectName": "p", "config": text, **given})
    assert status == 400
    assert said in message
    listed = await client.ask('{ project(name: "p", entityName: "admin") { totalSweeps } }')
    assert listed["project"] is None or listed["project"]["totalSweeps"] == 0


async def test_a_config_is_changed_until_there_are_runs(client: Client) -> None:
    sweep = await make_sweep(client)
    changed = await make_sweep(client, RANDOM, id=sweep["id"], description="now random")
    assert changed["name"] == sweep["name"]
    found = await read_sweep(client, sweep)
    assert (found["method"], found["description"], found["state"]) == ("random", "now random", "PENDING")
    await next_run(client, await make_agent(client, sweep))
    status, message = await client.fail(UPSERT, id=sweep["id"], config="method: grid\nparameters: {a: {value: 1}}")
    assert status == 400
    assert "has made runs already" in message
    # The same in other words is no change: a scheduler that is queued again sends it.
    same = json.dumps(RANDOM, indent=3)
    await client.ask(UPSERT, id=sweep["id"], config=same, controller='{"schedule": []}')
    assert (await read_sweep(client, sweep))["controller"] == '{"schedule": []}'


async def test_a_change_of_the_config_voids_what_was_found_for_the_old_one(client: Client) -> None:
    sweep = await make_sweep(client)
    agent = await make_agent(client, sweep)
    await make_sweep(client, {"method": "grid", "parameters": {"b": {"values": [7]}}}, id=sweep["id"])
    assert value(await next_run(client, agent), "b") == 7


async def test_prior_runs_become_part_of_the_sweep(client: Client) -> None:
    await finish(client, "old", loss=0.5)
    await upsert(client, "old", config='{"a": {"value": 2}}')
    await start(client, "elsewhere", sweep="other", config='{"a": {"value": 3}}')
    wanted = json.dumps({"$or": [{"name": "old"}, {"name": "elsewhere"}]})
    sweep = await make_sweep(client, priorRunsFilters=wanted)
    assert (await read(client, "old"))["sweepName"] == sweep["name"]
    assert (await read(client, "elsewhere"))["sweepName"] == "other"
    found = await read_sweep(client, sweep)
    assert (found["runCount"], found["bestLoss"]) == (1, 0.5)
    agent = await make_agent(client, sweep)
    command = await next_run(client, agent)
    assert value(command) == 1  # the other points of the grid have been tried
    await finish(client, command["run_id"])
    assert await beat(client, agent) == EXIT


@pytest.mark.parametrize(("goal", "best"), [("minimize", -3.0), ("maximize", 5.0)])
async def test_the_best_value_is_that_of_the_goal(client: Client, goal: str, best: float) -> None:
    sweep = await make_sweep(client, {**GRID, "metric": {"name": "loss", "goal": goal}})
    agent = await make_agent(client, sweep)
    for loss in (5, -3, "NaN"):
        await finish(client, (await next_run(client, agent))["run_id"], loss=loss)
    assert (await read_sweep(client, sweep))["bestLoss"] == best


async def test_a_local_controller_says_what_is_tried(client: Client) -> None:
    config = {"method": "custom", "parameters": {"a": {"values": [1]}}, "controller": {"type": "local"}}
    sweep = await make_sweep(client, config)
    agent = await make_agent(client, sweep)
    assert await beat(client, agent) == []

    async def schedule(args: Any, **more: Any) -> None:
        document = {"schedule": [{"id": f"s-{args}", "data": {"args": args}}], **more}
        await make_sweep(client, config, id=sweep["id"], controller=json.dumps(document))

    await schedule({"a": {"value": 5}})
    command = await next_run(client, agent)
    run = command["run_id"]
    assert value(command) == 5
    scheduler = json.loads((await read_sweep(client, sweep))["scheduler"])
    assert scheduler == {"scheduled": [{"id": "s-{'a': {'value': 5}}", "runid": run}]}
    await start(client, run)
    await schedule(None, earlystop=[run])
    assert await beat(client, agent, run) == [{"type": "stop", "run_id": run}]
    await send(client, run, complete=True, exitcode=1)
    assert await beat(client, agent) == EXIT
    assert await state(client, sweep) == "FINISHED"


async def test_a_custom_sweep_hands_nothing_out(client: Client) -> None:
    sweep = await make_sweep(client, {"method": "custom", "parameters": {"a": {"values": [1]}}})
    assert await beat(client, await make_agent(client, sweep)) == []
    assert await state(client, sweep) == "RUNNING"


# --- read ------------------------------------------------------------------------------------------------------------

SWEEPS = """query GetSweeps(
  $project: String!, $entity: String!, $filters: JSONString!, $cursor: String, $perPage: Int = 50
) {
  project(name: $project, entityName: $entity) {
    totalSweeps
    sweeps(after: $cursor, first: $perPage, filters: $filters) {
      pageInfo { endCursor hasNextPage } edges { node { name bestLoss runCount } }
    }
  }
}"""


async def test_sweeps_are_listed_page_by_page_and_filtered(client: Client) -> None:
    made = [(await make_sweep(client, displayName=f"s{number}"))["name"] for number in range(5)]

    async def listed(filters: Any = None, **more: Any) -> tuple[list[str], dict[str, Any]]:
        given = {"project": "p", "entity": "admin", "filters": json.dumps(filters or {}), **more}
        project = (await client.ask(SWEEPS, **given))["project"]
        assert project["totalSweeps"] == 5
        return [edge["node"]["name"] for edge in project["sweeps"]["edges"]], project["sweeps"]["pageInfo"]

    first, page = await listed(perPage=3)
    rest, last = await listed(perPage=3, cursor=page["endCursor"])
    assert first + rest == made[::-1]
    assert (page["hasNextPage"], last["hasNextPage"]) == (True, False)
    assert (await listed({"displayName": "s3"}))[0] == [made[3]]
    assert (await listed({"$or": [{"name": made[0]}, {"state": {"$ne": "PENDING"}}]}))[0] == [made[0]]
    status, message = await client.fail(SWEEPS, project="p", entity="admin", filters='{"tags": "x"}')
    assert (status, "no filter by 'tags'" in message) == (400, True)


async def test_a_sweeps_runs_come_with_their_history(client: Client) -> None:
    sweep = await make_sweep(client)
    run = (await next_run(client, await make_agent(client, sweep)))["run_id"]
    await start(client, run)
    lines = ['{"_step": 0, "loss": 2}', '{"_step": 1, "loss": 1}']
    await send(client, run, files={"wandb-history.jsonl": {"offset": 0, "content": lines}})
    (bare,) = (await read_sweep(client, sweep))["runs"]
    assert (bare["name"], bare["state"], bare["sampledHistory"]) == (run, "running", [[]])
    (full,) = (await read_sweep(client, sweep, '{"keys": ["_step", "loss"], "samples": 100}'))["runs"]
    assert full["sampledHistory"] == [[{"_step": 0, "loss": 2}, {"_step": 1, "loss": 1}]]


async def test_an_agent_is_found_by_name_and_by_id_with_its_runs(client: Client) -> None:
    sweep = await make_sweep(client)
    agent, other = await make_agent(client, sweep), await make_agent(client, sweep)
    run = (await next_run(client, agent))["run_id"]
    await next_run(client, other)
    query = """query GetAgentRuns($agentID: String!, $sweep: String!, $first: Int, $order: String) {
      project(name: "p", entityName: "admin") { sweep(sweepName: $sweep) { agent(agentName: $agentID) {
        name totalRuns runs(first: $first, order: $order) {
          pageInfo { endCursor hasNextPage } edges { cursor node { name sweepName } } } } } }
    }"""

    async def found(key: str) -> Any:
        data = await client.ask(query, agentID=key, sweep=sweep["name"], first=50, order="+created_at")
        return data["project"]["sweep"]["agent"]

    by_id = await found(agent)
    assert by_id["totalRuns"] == 1
    assert [edge["node"] for edge in by_id["runs"]["edges"]] == [{"name": run, "sweepName": sweep["name"]}]
    assert await found(by_id["name"]) == by_id
    assert await found("nobody") is None


async def test_a_sweep_that_is_not_there_is_null(client: Client) -> None:
    await make_sweep(client)
    data = await client.ask('{ project(name: "p", entityName: "admin") { sweep(sweepName: "nope") { id } } }')
    assert data["project"]["sweep"] is None


# --- deleted, and strangers ------------------------------------------------------------------------------------------


async def test_the_agents_of_a_deleted_sweep_get_404_and_its_runs_stay(client: Client) -> None:
    sweep = await make_sweep(client)
    agent = await make_agent(client, sweep)
    run = (await next_run(client, agent))["run_id"]
    await start(client, run)
    await client.ask(DELETE, id=sweep["id"])
    status, message = await client.fail(HEARTBEAT, id=agent, runState="{}")
    assert (status, "may have been deleted" in message) == (404, True)
    assert (await read(client, run))["state"] == "running"
    status, message = await client.fail(SET_STATE, id=sweep["id"], state="PAUSED")
    assert (status, "may have been deleted" in message) == (404, True)


async def test_a_stranger_learns_nothing_and_changes_nothing(client: Client) -> None:
    sweep = await make_sweep(client)
    agent = await make_agent(client, sweep)
    stranger = await make_client(client.context.services, "stranger")
    missing = {"id": "U3dlZXA6OTk5"}
    gone = (404, "There is no such sweep. It may have been deleted.")
    for given in ({"id": sweep["id"]}, missing):
        assert await stranger.fail(SET_STATE, **given, state="CANCELED") == gone
        assert await stranger.fail(UPSERT, **given, config="method: random\nparameters: {a: {value: 1}}") == gone
        assert await stranger.fail(DELETE, **given) == gone
    nobody = (404, "There is no such agent of a sweep. The sweep may have been deleted.")
    for given in ({"id": agent}, {"id": "QWdlbnQ6OTk5"}):
        assert await stranger.fail(HEARTBEAT, **given, runState="{}") == nobody
    create = 'mutation($e: String, $s: String!) { createAgent(input: {host: "h", entityName: $e, projectName: "p", '
    create += "sweep: $s}) { agent { id } } }"
    refused = [await stranger.fail(create, e="admin", s=name) for name in (sweep["name"], "nope")]
    assert refused[0] == refused[1]
    assert refused[0][0] == 403
    status, _ = await stranger.fail(
        UPSERT, entityName="admin", projectName="p", config="method: random\nparameters: {a: {value: 1}}"
    )
    assert status == 403
    data = await stranger.ask('{ project(name: "p", entityName: "admin") { sweep(sweepName: "x") { id } } }')
    assert data["project"] is None
    assert await state(client, sweep) == "RUNNING"
