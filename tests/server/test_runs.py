"""Runs over GraphQL: how they begin, begin again, change and end."""

import json
from typing import Any

import pytest
from sqlalchemy import Connection

from protocol.names import run_storage_id
from server.context import Services
from server.display_names import display_name
from server.ids import encode
from server.storage import projects, runs, users
from tests.server.conftest import Client, make_client
from tests.server.run_steps import UPSERT, log_rows, read, send, start, upsert

HISTORY = """{ project(name: "p", entityName: "admin") { run(name: "r") { history historyKeys } } }"""
RESUME = """query($name: String!) { model(name: "p", entityName: "admin") { bucket(name: $name, missingOk: true) {
  id summaryMetrics displayName logLineCount historyLineCount eventsLineCount historyTail eventsTail config tags notes
  wandbConfig(keys: ["t"])
} } }"""
STATE = "mutation($id: ID!, $state: String!) { updateRunState(input: {id: $id, state: $state}) { success } }"
STOP = "mutation($id: ID!) { stopRun(input: {id: $id}) { success } }"
DELETE = "mutation($id: ID!) { deleteRun(input: {id: $id}) { clientMutationId } }"
REWIND = """mutation($step: Float!) {
  rewindRun(input: {runName: "r", entityName: "admin", projectName: "p", metricName: "_step", metricValue: $step}) {
    rewoundRun { historyLineCount }
  }
}"""

# --- how a run begins -------------------------------------------------------------------------------------------------


async def test_a_first_upsert_makes_run_and_project(client: Client) -> None:
    answer = await client.ask(
        UPSERT,
        input={
            "name": "r",
            "modelName": "p",
            "displayName": "shown",
            "groupName": "g",
            "jobType": "train",
            "tags": ["a"],
            "notes": "n",
            "config": '{"lr":{"value":NaN}}',
            "host": "box",
        },
    )
    bucket = answer["upsertBucket"]["bucket"]
    assert answer["upsertBucket"]["inserted"] is True
    assert bucket["project"] == {"name": "p", "entity": {"name": "admin"}}
    assert bucket["user"] == {"name": "admin", "username": "admin"}
    assert isinstance(bucket["projectId"], int)
    wanted = {"displayName": "shown", "group": "g", "jobType": "train", "tags": ["a"], "notes": "n", "state": "running"}
    assert {key: bucket[key] for key in wanted} == wanted
    assert bucket["config"] == '{"lr":{"value":NaN}}'


async def test_a_run_without_a_name_gets_a_friendly_one(client: Client) -> None:
    await start(client, "r1")
    adjective, noun, number = (await start(client, "r2"))["displayName"].split("-")
    assert adjective.isalpha()
    assert noun.isalpha()
    assert number == "2"


async def test_the_number_in_a_name_is_not_given_out_again(client: Client) -> None:
    made = await start(client, "r1")
    await client.ask(DELETE, id=made["id"])
    assert (await start(client, "r2"))["displayName"].endswith("-2")


def test_display_names_are_chosen_by_the_given_chance() -> None:
    class First:
        def choice(self, words: list[str]) -> str:
            return words[0]

    chance: Any = First()
    assert display_name(chance, 7) == display_name(chance, 7)
    assert display_name(chance, 7).endswith("-7")


@pytest.mark.parametrize("name", ["", "a/b", "a:b", "a b?", "a%20b", "..", "x" * 129])
async def test_a_bad_run_id_is_refused(client: Client, name: str) -> None:
    status, message = await client.fail(UPSERT, input={"name": name, "modelName": "p"})
    assert status == 400
    assert "run id" in message


@pytest.mark.parametrize("text", ["[]", "{", "1"])
async def test_a_config_that_is_no_object_is_refused(client: Client, text: str) -> None:
    status, message = await client.fail(UPSERT, input={"name": "r", "modelName": "p", "config": text})
    assert (status, "JSON object" in message) == (400, True)


async def test_null_leaves_a_value_and_an_empty_list_clears_tags(client: Client) -> None:
    made = await start(client, tags=["a"], notes="n", groupName="g", displayName="d")
    changed = await upsert(client, id=made["id"], tags=[], displayName="e")
    assert (changed["tags"], changed["notes"], changed["group"], changed["displayName"]) == ([], "n", "g", "e")


async def test_a_config_update_does_not_restart_the_run(client: Client) -> None:
    await start(client)
    await log_rows(client, {"_step": 0})
    changed = await upsert(client, config='{"_wandb":{"value":{"t":{}}}}')
    assert changed["historyLineCount"] == 1
    assert changed["config"] == '{"_wandb":{"value":{"t":{}}}}'


async def test_an_id_that_is_used_again_starts_over(client: Client) -> None:
    await start(client, config='{"a":{"value":1}}')
    await log_rows(client, {"_step": 0}, {"_step": 1})
    await send(client, files={"wandb-summary.json": {"offset": 0, "content": ['{"a":1}']}}, complete=True, exitcode=1)
    again = await start(client, config='{"b":{"value":2}}')
    assert (again["state"], again["historyLineCount"], again["summaryMetrics"]) == ("running", 0, "{}")
    assert again["config"] == '{"b":{"value":2}}'
    answer = (await client.ask(HISTORY))["project"]["run"]
    assert (answer["history"], answer["historyKeys"]["lastStep"]) == ([], -1)


@pytest.mark.parametrize(("state", "shown"), [("pending", "pending"), ("running", "running"), (None, "running")])
async def test_the_public_api_makes_runs_in_the_state_it_asks_for(client: Client, state: str, shown: str) -> None:
    assert (await upsert(client, state=state))["state"] == shown


@pytest.mark.parametrize(
    "begin", [{"host": "box"}, {"jobProgram": "x.py"}, {"config": '{"_wandb":{}}'}, {"state": "running"}]
)
async def test_a_waiting_run_wakes_up(client: Client, begin: dict[str, Any]) -> None:
    assert (await upsert(client, state="pending"))["state"] == "pending"
    assert (await upsert(client, notes="n"))["state"] == "pending"
    assert (await upsert(client, **begin))["state"] == "running"


async def test_a_deleted_id_is_gone(client: Client) -> None:
    made = await start(client)
    await client.ask(DELETE, id=made["id"])
    assert await read(client) is None
    status, message = await client.fail(UPSERT, input={"name": "r", "modelName": "p", "host": "box"})
    assert (status, "deleted" in message) == (404, True)


# --- resume, rewind ---------------------------------------------------------------------------------------------------


async def test_resume_finds_what_it_needs(client: Client) -> None:
    await start(client, config='{"_wandb":{"value":{"t":{"1":[2]},"m":[]}}}')
    await log_rows(client, {"_step": 0}, {"_step": 1, "loss": float("nan")})
    bucket = (await client.ask(RESUME, name="r"))["model"]["bucket"]
    assert (bucket["historyLineCount"], bucket["eventsLineCount"], bucket["logLineCount"]) == (2, 0, 0)
    assert json.loads(bucket["historyTail"]) == ['{"_step": 1, "loss": NaN}']
    assert json.loads(bucket["eventsTail"]) == []
    assert json.loads(bucket["wandbConfig"]) == {"t": {"1": [2]}}


async def test_a_run_that_only_a_queue_knows_is_none_to_resume(client: Client) -> None:
    """The client looks for `_wandb.t`, which only it writes."""
    await upsert(client, state="pending")
    assert json.loads((await client.ask(RESUME, name="r"))["model"]["bucket"]["wandbConfig"]) == {}
    assert (await client.ask(RESUME, name="missing"))["model"]["bucket"] is None


async def test_a_resumed_run_runs_again_and_keeps_its_history(client: Client) -> None:
    made = await start(client)
    await log_rows(client, {"_step": 0})
    await send(client, complete=True, exitcode=1)
    resumed = await start(client, id=made["id"], tags=[])
    assert (resumed["state"], resumed["historyLineCount"]) == ("running", 1)


async def test_rewind_cuts_the_history(client: Client) -> None:
    await start(client)
    await log_rows(client, *({"_step": step * 2} for step in range(5)))
    rewound = (await client.ask(REWIND, step=5))["rewindRun"]["rewoundRun"]
    assert rewound["historyLineCount"] == 3
    answer = (await client.ask(HISTORY))["project"]["run"]
    assert [json.loads(row)["_step"] for row in answer["history"]] == [0, 2, 4]


async def test_a_rewound_run_has_a_console_of_its_own(client: Client) -> None:
    """The client numbers the lines of console and events anew."""
    await start(client)
    await send(client, files={"output.log": {"offset": 0, "content": ["a", "b"]}})
    await client.ask(REWIND, step=0)
    bucket = (await client.ask(RESUME, name="r"))["model"]["bucket"]
    assert (bucket["logLineCount"], bucket["eventsLineCount"]) == (0, 0)
    await send(client, files={"output.log": {"offset": 0, "content": ["c"]}})
    console = '{ project(name: "p", entityName: "admin") { run(name: "r") { logLines { edges { node { line } } } } } }'
    edges = (await client.ask(console))["project"]["run"]["logLines"]["edges"]
    assert [edge["node"]["line"] for edge in edges] == ["c"]


# --- stop, states -----------------------------------------------------------------------------------------------------


async def test_a_stop_outlives_a_change_of_tags(client: Client) -> None:
    """The metadata update of a live run names host and program too."""
    made = await start(client)
    await client.ask(STOP, id=made["id"])
    await start(client, id=made["id"], tags=["late"])
    assert await send(client) == {"stopped": True}


async def test_a_stop_reaches_a_run_that_starts_later(client: Client) -> None:
    made = await upsert(client, state="pending")
    await client.ask(STOP, id=made["id"])
    await start(client)
    assert await send(client) == {"stopped": True}


async def test_a_stop_belongs_to_one_life_of_a_run(client: Client) -> None:
    made = await start(client)
    await client.ask(STOP, id=made["id"])
    await send(client, complete=True, exitcode=255)
    assert (await read(client))["state"] == "killed"
    await start(client, id=made["id"])
    assert await send(client) == {}


async def test_a_stop_has_no_effect_on_a_run_that_has_ended(client: Client, services: Services) -> None:
    own, told = await start(client, "own"), await start(client, "told")
    await send(client, "own", complete=True, exitcode=1)
    row = await services.database.read(runs.find, "admin", "p", "told")
    assert row is not None
    await services.database.write(runs.record_end, row.id, "failed", None, services.clock())
    for made in (own, told):
        await client.ask(STOP, id=made["id"])
    assert [(await read(client, name))["state"] for name in ("own", "told")] == ["failed", "failed"]
    assert [(await read(client, name))["stopped"] for name in ("own", "told")] == [False, False]


async def test_states_that_may_be_set(client: Client) -> None:
    made = await start(client)
    await client.ask(STOP, id=made["id"])
    await client.ask(STATE, id=made["id"], state="pending")
    assert ((await read(client))["state"], (await read(client))["stopped"]) == ("pending", False)
    await client.ask(STATE, id=made["id"], state="failed")
    assert (await read(client))["state"] == "failed"
    status, message = await client.fail(STATE, id=made["id"], state="running")
    assert (status, "invalid state transition" in message) == (400, True)


async def test_the_state_of_a_sweeps_run_may_not_be_set(client: Client) -> None:
    made = await start(client, sweep="s")
    status, message = await client.fail(STATE, id=made["id"], state="pending")
    assert (status, "invalid state transition" in message) == (400, True)


async def test_what_the_queue_needs_of_runs(client: Client, services: Services) -> None:
    def work(connection: Connection) -> list[str]:
        owner = users.user_by_name(connection, "admin")
        assert owner is not None
        project_id, _ = projects.ensure(connection, owner.entity_id, "p", user_id=owner.id, now=services.clock())
        run_id = runs.ensure_pending(connection, project_id, "r", user_id=owner.id, now=1.0, display_name="shown")
        assert runs.ensure_pending(connection, project_id, "r", user_id=owner.id, now=2.0) == run_id
        states: list[str] = []
        for change in (
            lambda: None,
            lambda: runs.request_stop(connection, run_id, 3.0),
            lambda: runs.record_end(connection, run_id, "killed", 137, 4.0),
            lambda: runs.record_end(connection, run_id, "failed", 1, 5.0),
        ):
            change()
            row = runs.by_name(connection, project_id, "r")
            assert row is not None
            states.append(runs.state(row, 6.0))
        assert runs.by_name(connection, project_id, "other") is None
        return states

    assert await services.database.write(work) == ["pending", "pending", "killed", "killed"]
    assert ((await read(client))["displayName"], (await read(client))["config"]) == ("shown", "{}")


async def test_a_stranger_learns_nothing_of_a_run(client: Client, services: Services) -> None:
    made = await start(client)
    stranger = await make_client(services, "stranger")
    assert (await stranger.ask('{ project(name: "p", entityName: "admin") { id } }'))["project"] is None
    for query, variables in (
        (UPSERT, {"input": {"id": made["id"], "notes": "mine now"}}),
        (UPSERT, {"input": {"name": "r", "modelName": "p", "entityName": "admin"}}),
        (STOP, {"id": made["id"]}),
        (DELETE, {"id": made["id"]}),
        (STATE, {"id": made["id"], "state": "failed"}),
        (REWIND, {"step": 0}),
    ):
        status, _ = await stranger.fail(query, **variables)
        assert status == 403
    left = await read(client)
    assert (left["state"], left["notes"], left["stopped"]) == ("running", None, False)


async def test_an_id_that_is_no_runs_id_is_not_found(client: Client) -> None:
    for wrong in ("nonsense", encode("Project", 1), run_storage_id("admin", "p", "none")):
        assert (await client.fail(STOP, id=wrong))[0] == 404


async def test_history_keys_tell_the_last_value_of_every_key(client: Client) -> None:
    await start(client)
    await log_rows(client, {"_step": 0, "loss": 0.5}, {"_step": 1, "nested": {"a": 2}})
    summary = '{"loss":0.5,"nested":{"a":2},"_wandb":{"runtime":1}}'
    await send(client, files={"wandb-summary.json": {"offset": 0, "content": [summary]}})
    keys = (await client.ask(HISTORY))["project"]["run"]["historyKeys"]["keys"]
    assert {key: told["previousValue"] for key, told in keys.items() if key[0] != "_"} == {"loss": 0.5, "nested.a": 2}


async def test_a_fork_begins_with_the_history_of_its_parent(client: Client) -> None:
    await start(client, "parent")
    await log_rows(client, *({"_step": step} for step in range(5)), name="parent")

    def branching(name: str, step: Any) -> str:
        return json.dumps({"_wandb": {"value": {"branch_point": {"run_id": name, "step": step}}}})

    for _ in range(2):  # the client asks again if the answer was lost
        assert (await start(client, "fork", config=branching("parent", 2)))["historyLineCount"] == 3
    assert (await start(client, "all", config=branching("parent", 9)))["historyLineCount"] == 5
    assert (await start(client, "odd", config=branching("parent", "2")))["historyLineCount"] == 0
    query = '{ project(name: "p", entityName: "admin") { run(name: "fork") { history historyKeys } } }'
    run = (await client.ask(query))["project"]["run"]
    assert [json.loads(row)["_step"] for row in run["history"]] == [0, 1, 2]
    assert run["historyKeys"]["lastStep"] == 2
    values = {"modelName": "p", "entityName": "admin", "name": "orphan", "config": branching("unknown", 2)}
    status, message = await client.fail(UPSERT, input={**values, "host": "box"})
    assert (status, "unknown" in message) == (404, True)
