"""What automations see of artifacts, in the transaction in which it happens, and of runs, at the next look."""

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from structlog.testing import capture_logs

from server.automations import watching
from server.automations.watching import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, Sight, Watcher
from server.context import Services
from server.run_state import HEARTBEAT_TIMEOUT_SECONDS
from server.storage import runs
from tests.server.automating import (
    ALL,
    DELETE,
    UPDATE,
    automate,
    deliveries,
    happened,
    in_project,
    project_id,
)
from tests.server.conftest import Client, Clock
from tests.server.run_steps import log_rows, read, send, start, upsert
from tests.server.test_artifact_links import PLACE, TAG, UNLINK, UNTAG, link
from tests.server.test_artifacts import ADD_ALIASES, DELETE_SEQUENCE, content, log, wanted_aliases
from tests.server.test_artifacts import UPDATE as UPDATE_ARTIFACT

EVENTS = (
    "CREATE_ARTIFACT",
    "LINK_MODEL",
    "UNLINK_ARTIFACT",
    "ADD_ARTIFACT_ALIAS",
    "ADD_ARTIFACT_TAG",
    "REMOVE_ARTIFACT_TAG",
)


async def collection_id(client: Client, name: str = "data", project: str = "p") -> str:
    """Return the id of a collection."""
    query = """query($project: String!, $name: String!) { project(name: $project, entityName: "admin") {
      artifactCollection(name: $name) { id } } }"""
    return (await client.ask(query, project=project, name=name))["project"]["artifactCollection"]["id"]


def by_alias(alias: str) -> str:
    """Return the filter that the client makes of `ArtifactEvent.alias == alias`."""
    return json.dumps({"$or": [{"$and": [{"alias": {"$eq": alias}}]}]})


async def test_each_event_of_a_version_is_seen_once(client: Client) -> None:
    for project in ("p", "shop"):
        place = in_project(await project_id(client, project))
        for event in EVENTS:
            await automate(client, f"{event} in {project}", event, ALL, **place)
    version = await log(client, content({"a": b"1"}), tags=[{"tagName": "t"}])
    assert await happened(client) == [
        ("ADD_ARTIFACT_ALIAS in p", "ADD_ARTIFACT_ALIAS"),
        ("CREATE_ARTIFACT in p", "CREATE_ARTIFACT"),
        ("ADD_ARTIFACT_TAG in p", "ADD_ARTIFACT_TAG"),
    ]
    for _ in range(2):  # the second time nothing is new
        await log(client, content({"a": b"1"}), tags=[{"tagName": "t"}])
        await link(client, version["id"], "best", "prod")
    assert [name for name, _ in (await happened(client))[3:]] == [
        "ADD_ARTIFACT_ALIAS in shop",
        "ADD_ARTIFACT_ALIAS in shop",
        "LINK_MODEL in shop",
    ], "prod, latest"
    changes = {"artifactID": version["id"], "tagsToAdd": [{"tagName": "t"}, {"tagName": "u"}]}
    await client.ask(UPDATE_ARTIFACT, input={**changes, "tagsToDelete": [{"tagName": "t"}, {"tagName": "none"}]})
    await client.ask(ADD_ALIASES, id=version["id"], aliases=wanted_aliases("latest", "best"))
    await client.ask(UNLINK, id=version["id"], portfolio=await collection_id(client, "best", "shop"))
    assert [name for name, _ in (await happened(client))[6:]] == [
        "ADD_ARTIFACT_TAG in p",
        "ADD_ARTIFACT_TAG in shop",
        "REMOVE_ARTIFACT_TAG in p",
        "REMOVE_ARTIFACT_TAG in shop",
        "ADD_ARTIFACT_ALIAS in p",
        "UNLINK_ARTIFACT in shop",
    ], "a tag is one of the version, wherever it is"


async def test_a_version_in_two_collections_of_a_project_is_told_once(client: Client) -> None:
    await automate(client, "a", "ADD_ARTIFACT_TAG", ALL, **in_project(await project_id(client)))
    version = await log(client, content({"a": b"1"}))
    await link(client, version["id"], "other", projectName="p")
    await client.ask(UPDATE_ARTIFACT, input={"artifactID": version["id"], "tagsToAdd": [{"tagName": "t"}]})
    assert len(await deliveries(client)) == 1


async def test_tags_of_a_collection_are_seen(client: Client) -> None:
    version = await log(client, content({"a": b"1"}))
    await link(client, version["id"])
    place = {"scopeType": "ARTIFACT_COLLECTION", "scopeID": await collection_id(client, "best", "shop")}
    await automate(client, "added", "ADD_COLLECTION_TAG", '{"tag": {"$in": ["a", "c"]}}', **place)
    await automate(client, "removed", "REMOVE_COLLECTION_TAG", '{"tag": {"$regex": "^b"}}', **place)
    tags = {**PLACE, "tags": [{"tagName": "a"}, {"tagName": "b"}]}
    for _ in range(2):
        await client.ask(TAG, input=tags)
    assert [name for name, _ in await happened(client)] == ["added"]
    for _ in range(2):
        await client.ask(UNTAG, input=tags)
    assert [name for name, _ in await happened(client)] == ["added", "removed"]


async def test_filters_scopes_and_switches_are_heeded(client: Client) -> None:
    first = await log(client, content({"a": b"1"}))
    await log(client, content({"b": b"1"}), "other")
    collection = {"scopeType": "ARTIFACT_COLLECTION", "scopeID": await collection_id(client)}
    place = in_project(await project_id(client))
    await automate(client, "prod here", "ADD_ARTIFACT_ALIAS", by_alias("prod"), **collection)
    await automate(client, "prod anywhere", "ADD_ARTIFACT_ALIAS", by_alias("prod"), **place)
    await automate(client, "dev", "ADD_ARTIFACT_ALIAS", by_alias("dev"), **place)
    await automate(client, "not prod", "ADD_ARTIFACT_ALIAS", '{"alias": {"$ne": "prod"}}', **place)
    await automate(client, "elsewhere", "ADD_ARTIFACT_ALIAS", ALL, **in_project(await project_id(client, "q")))
    await automate(client, "good", "CREATE_ARTIFACT", '{"metadata.score": {"$gt": 1}}', **collection)
    off = await automate(client, "off", "ADD_ARTIFACT_ALIAS", ALL, **place)
    await client.ask(UPDATE, input={"id": off["id"], "enabled": False})
    await client.ask(ADD_ALIASES, id=first["id"], aliases=wanted_aliases("prod"))
    assert [name for name, _ in await happened(client)] == ["prod here", "prod anywhere"]
    second = content({"b": b"1"})
    await log(client, second, "other", aliases=wanted_aliases("prod", collection="other"))
    assert [name for name, _ in (await happened(client))[2:]] == ["prod anywhere"]
    for number, score in enumerate((1, 2)):
        await log(client, content({"c": bytes([number])}), metadata=json.dumps({"score": score}), aliases=[])
    assert [name for name, _ in (await happened(client))[3:]] == ["good"]


async def test_what_is_undone_has_not_happened(client: Client) -> None:
    version = await log(client, content({"a": b"1"}))
    await automate(client, "a", "ADD_ARTIFACT_ALIAS", ALL, **in_project(await project_id(client)))
    wrong = [*wanted_aliases("good"), *wanted_aliases("bad/name")]
    assert (await client.fail(ADD_ALIASES, id=version["id"], aliases=wrong))[0] == 400
    assert await deliveries(client) == []


async def test_automations_of_a_collection_go_with_it(client: Client) -> None:
    version = await log(client, content({"a": b"1"}))
    wire_id = await collection_id(client)
    await automate(client, "a", "CREATE_ARTIFACT", ALL, scopeType="ARTIFACT_COLLECTION", scopeID=wire_id)
    await client.ask(DELETE_SEQUENCE, id=wire_id)
    listed = '{ project(name: "p", entityName: "admin") { triggers { name } } }'
    assert (await client.ask(listed))["project"]["triggers"] == [], version


# --- runs -------------------------------------------------------------------------------------------------------------


def states(*wanted: str, **run_filter: Any) -> str:
    """Return the filter of states, as the client sends it."""
    return json.dumps({"run_filter": json.dumps({"$and": [run_filter]}), "run_state_filter": {"states": wanted}})


def above(threshold: float, name: str = "loss", run_filter: dict[str, Any] | None = None) -> str:
    """Return the filter of a metric, as the client sends it."""
    asked = {"name": name, "agg_op": None, "window_size": 1, "cmp_op": "$gt", "threshold": threshold}
    wanted = json.dumps({"$and": [run_filter] if run_filter else []})
    return json.dumps({"run_filter": wanted, "run_metric_filter": {"threshold_filter": asked}})


async def told(client: Client, watcher: Watcher | None = None) -> list[tuple[str, ...]]:
    """Look, and return by automation what it was told since the last time."""
    services = client.context.services
    await (watcher or Watcher(services)).look()

    def work(connection: Any) -> list[tuple[str, ...]]:
        found = connection.exec_driver_sql("SELECT variables FROM deliveries ORDER BY id").scalars().all()
        connection.exec_driver_sql("DELETE FROM deliveries")
        about = [json.loads(each) for each in found]
        keys = ("automation_name", "run_id", "run_state", "metric_value")
        return [tuple(str(each[key]) for key in keys if key in each) for each in about]

    return await services.database.write(work)


async def test_the_states_of_a_run_are_told_once_each(client: Client) -> None:
    place = in_project(await project_id(client))
    await automate(client, "starts", "RUN_STATE", states("RUNNING"), **place)
    await automate(client, "ends", "RUN_STATE", states("FINISHED", "FAILED"), **place)
    await automate(client, "fails", "RUN_STATE", states("FAILED"), **place)
    await start(client, "good")
    await start(client, "bad")
    assert await told(client) == [("starts", "good", "running"), ("starts", "bad", "running")]
    await log_rows(client, {"loss": 1}, name="good")
    assert await told(client) == []
    await send(client, "good", complete=True, exitcode=0)
    await send(client, "bad", complete=True, exitcode=1)
    assert await told(client) == [("ends", "good", "finished"), ("ends", "bad", "failed"), ("fails", "bad", "failed")]
    assert await told(client) == []
    await start(client, "good")
    assert await told(client) == [("starts", "good", "running")], "it has come back"


async def test_a_run_that_falls_silent_has_failed_and_may_come_back(client: Client, clock: Clock) -> None:
    place = in_project(await project_id(client))
    await start(client, "lost")
    clock.now += HEARTBEAT_TIMEOUT_SECONDS + 1
    await start(client)
    await automate(client, "a", "RUN_STATE", states("RUNNING", "FAILED", "FINISHED"), **place)
    assert await told(client) == [], "that was before the automation was there"
    await send(client, "lost", uploaded=["x"])
    assert await told(client) == [("a", "lost", "running")]
    await send(client, "lost", complete=True, exitcode=0)
    assert await told(client) == [("a", "lost", "finished")]
    clock.now += HEARTBEAT_TIMEOUT_SECONDS + 1
    assert await told(client) == [("a", "r", "crashed")]
    assert await told(client) == []
    await send(client, uploaded=["x"])
    assert await told(client) == [("a", "r", "running")]
    await send(client, complete=True, exitcode=0)
    await send(client, uploaded=["x"])  # a late word after the end
    await send(client, complete=True, exitcode=0)
    assert await told(client) == [("a", "r", "finished")]


@pytest.mark.parametrize(("exit_code", "state"), [(0, "finished"), (1, "failed")])
async def test_a_large_last_request_that_is_sent_again_is_told_once(
    client: Client, monkeypatch: pytest.MonkeyPatch, exit_code: int, state: str
) -> None:
    monkeypatch.setattr("server.filestream.LINES_AT_ONCE", 2)
    place = in_project(await project_id(client))
    await automate(client, "state", "RUN_STATE", states("RUNNING", "FINISHED", "FAILED"), **place)
    await automate(client, "high", "RUN_METRIC", above(5), **place)
    await start(client)
    assert await told(client) == [("state", "r", "running")]
    rows = [json.dumps({"loss": value}) for value in (1, 2, 6, 7, 8)]
    history = {"wandb-history.jsonl": {"offset": 0, "content": rows}}
    await send(client, files=history, complete=True, exitcode=exit_code)
    assert await told(client) == [("state", "r", state), ("high", "r", "6.0")]
    await send(client, files=history, complete=True, exitcode=exit_code)
    assert await told(client) == []
    assert (await read(client))["state"] == state


@pytest.mark.parametrize("rows", [1, 5], ids=["small", "in pieces"])
async def test_a_last_word_that_contradicts_somebody_else_is_told(
    client: Client, services: Services, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    """Somebody took a run for lost, and it has come to its end all the same. It may have been told to make room."""
    monkeypatch.setattr("server.filestream.LINES_AT_ONCE", 2)
    place = in_project(await project_id(client))
    await automate(client, "state", "RUN_STATE", states("FINISHED", "FAILED"), **place)
    for name in ("done", "preempted"):
        await start(client, name)
        await send(client, name=name, preempting=True)
        row = await services.database.read(runs.find, "admin", "p", name)
        assert row is not None
        await services.database.write(runs.record_end, row.id, "failed", None, services.clock())
    assert await told(client) == [("state", "done", "failed"), ("state", "preempted", "failed")]
    content = [json.dumps({"loss": value}) for value in range(rows)]
    for name, exit_code in (("done", 0), ("preempted", 143)):
        history = {"wandb-history.jsonl": {"offset": 0, "content": content}}
        await send(client, name=name, files=history, complete=True, exitcode=exit_code)
    assert await told(client) == [("state", "done", "finished"), ("state", "preempted", "preempted")]


async def test_a_run_that_never_began_can_fail(client: Client, services: Services) -> None:
    await automate(client, "a", "RUN_STATE", states("RUNNING", "FAILED"), **in_project(await project_id(client)))
    made = await upsert(client, "waiting", state="pending")
    assert await told(client) == []
    mutation = 'mutation($id: ID!) { updateRunState(input: {id: $id, state: "failed"}) { success } }'
    await client.ask(mutation, id=made["id"])
    assert await told(client) == [("a", "waiting", "failed")]


async def test_a_deleted_run_is_told_of_no_more(client: Client) -> None:
    await automate(client, "a", "RUN_STATE", states("FAILED"), **in_project(await project_id(client)))
    run = await start(client)
    await client.ask("mutation($id: ID!) { deleteRun(input: {id: $id}) { clientMutationId } }", id=run["id"])
    assert await told(client) == []


async def test_filters_of_runs_are_heeded(client: Client) -> None:
    place = in_project(await project_id(client))
    await automate(client, "named", "RUN_STATE", states("RUNNING", display_name={"$regex": "^good"}), **place)
    await automate(client, "configured", "RUN_METRIC", above(1, run_filter={"config.lr": {"$gt": 0.1}}), **place)
    config = json.dumps({"lr": {"value": 0.2}})
    await start(client, "one", displayName="good one")
    await start(client, "two", displayName="bad one", config=config)
    for name in ("one", "two"):
        await log_rows(client, {"loss": 2}, name=name)
    assert await told(client) == [("named", "one", "running"), ("configured", "two", "2.0")]


async def test_a_metric_is_told_at_its_first_such_value(client: Client) -> None:
    place = in_project(await project_id(client))
    await start(client)
    await log_rows(client, {"loss": 9})
    await automate(client, "high", "RUN_METRIC", above(5), **place)
    await automate(client, "ends", "RUN_STATE", states("FINISHED"), **place)
    assert await told(client) == [], "what was logged before does not count"
    rows = [json.dumps({"loss": value}) for value in (1, 6, 7)]
    await send(client, files={"wandb-history.jsonl": {"offset": 1, "content": rows}})
    assert await told(client) == [("high", "r", "6.0")]
    await send(client, files={"wandb-history.jsonl": {"offset": 4, "content": rows}}, complete=True, exitcode=0)
    assert await told(client) == [("ends", "r", "finished")]
    await start(client)  # a new life
    await log_rows(client, {"loss": 8})
    assert await told(client) == [("high", "r", "8.0")]


async def test_a_metric_is_told_though_the_run_has_ended_meanwhile(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.automations.watching.LINES_AT_ONCE", 2)
    place = in_project(await project_id(client))
    await automate(client, "high", "RUN_METRIC", above(5), **place)
    await automate(client, "ends", "RUN_STATE", states("FINISHED"), **place)
    await start(client)
    await log_rows(client, *({"loss": value} for value in (1, 2, 3, 4, 9)))
    await send(client, complete=True, exitcode=0)
    assert await told(client) == [("ends", "r", "finished"), ("high", "r", "9.0")]
    assert await told(client) == []


async def test_an_automation_that_is_added_reads_from_there_on(client: Client) -> None:
    place = in_project(await project_id(client))
    await automate(client, "starts", "RUN_STATE", states("RUNNING"), **place)
    await start(client)
    await log_rows(client, {"loss": 9})
    assert await told(client) == [("starts", "r", "running")]
    await automate(client, "high", "RUN_METRIC", above(5), **place)
    assert await told(client) == []
    rows = [json.dumps({"loss": 3}), json.dumps({"acc": 1})]
    await send(client, files={"wandb-history.jsonl": {"offset": 1, "content": rows}})
    await automate(client, "low", "RUN_METRIC", above(2), **place)
    assert await told(client) == [("low", "r", "3.0")], "who reads already has not read that yet"
    await send(client, files={"wandb-history.jsonl": {"offset": 3, "content": [json.dumps({"loss": 7})]}})
    assert await told(client) == [("high", "r", "7.0")]


async def test_one_that_is_changed_begins_anew(client: Client) -> None:
    place = in_project(await project_id(client))
    made = await automate(client, "high", "RUN_METRIC", above(5), **place)
    await start(client)
    await log_rows(client, {"loss": 6, "acc": 1})
    assert await told(client) == [("high", "r", "6.0")]
    await client.ask(UPDATE, input={"id": made["id"], "eventFilter": above(0, "acc")})
    await send(client, files={"wandb-history.jsonl": {"offset": 1, "content": [json.dumps({"loss": 9, "acc": 2})]}})
    assert await told(client) == [("high", "r", "2.0")]


async def test_one_that_is_made_again_begins_anew(client: Client, clock: Clock) -> None:
    place = in_project(await project_id(client))
    await start(client)
    for offset in range(2):
        made = await automate(client, "high", "RUN_METRIC", above(5), **place)
        rows = {"offset": offset, "content": [json.dumps({"loss": 6 + offset})]}
        await send(client, files={"wandb-history.jsonl": rows})
        assert await told(client) == [("high", "r", f"{6 + offset}.0")]
        await client.ask(DELETE, id=made["id"])
        clock.now += 1


async def test_a_fork_is_not_told_of_what_it_was_given(client: Client) -> None:
    place = in_project(await project_id(client))
    await start(client, "parent")
    rows = [json.dumps({"loss": 9, "_step": 0})]
    await send(client, "parent", files={"wandb-history.jsonl": {"offset": 0, "content": rows}})
    await automate(client, "high", "RUN_METRIC", above(5), **place)
    branch = {"_wandb": {"value": {"branch_point": {"run_id": "parent", "step": 0}}}}
    await start(client, "child", config=json.dumps(branch))
    assert await told(client) == []


async def test_a_run_that_was_rewound_is_watched_from_there(client: Client) -> None:
    await automate(client, "high", "RUN_METRIC", above(5), **in_project(await project_id(client)))
    await start(client)
    rows = [json.dumps({"loss": 1, "_step": step}) for step in range(4)]
    await send(client, files={"wandb-history.jsonl": {"offset": 0, "content": rows}})
    assert await told(client) == []
    rewound = {"entityName": "admin", "projectName": "p", "runName": "r", "metricName": "_step", "metricValue": 0}
    await client.ask(
        "mutation($input: RewindRunInput!) { rewindRun(input: $input) { rewoundRun { id } } }", input=rewound
    )
    rows = [json.dumps({"loss": 9, "_step": 1}), *rows[2:], *rows[2:]]
    await send(client, files={"wandb-history.jsonl": {"offset": 1, "content": rows}})
    assert await told(client) == [("high", "r", "9.0")]


async def test_a_number_beyond_all_floats_holds_up_no_other(client: Client) -> None:
    await automate(client, "high", "RUN_METRIC", above(5), **in_project(await project_id(client)))
    for name, value in (("odd", f"1{'0' * 400}"), ("plain", "7")):
        await start(client, name)
        rows = {"offset": 0, "content": [f'{{"loss": {value}}}']}
        await send(client, name, files={"wandb-history.jsonl": rows})
    assert await told(client) == [("high", "plain", "7.0")]


@pytest.mark.parametrize(
    ("step", "name_of"),
    [
        ("_sight", lambda _, row, *__: row.name),
        ("_find", lambda sight, _: sight.row.name),
        ("_about", lambda finding, _, **__: finding.sight.row.name),
    ],
    ids=["read", "find", "tell"],
)
async def test_a_run_that_cannot_be_looked_at_holds_up_no_other(
    client: Client, clock: Clock, monkeypatch: pytest.MonkeyPatch, step: str, name_of: Callable[..., str]
) -> None:
    place = in_project(await project_id(client))
    await automate(client, "high", "RUN_METRIC", above(5), **place)
    for name in ("a", "bad", "c"):
        await start(client, name)
        await log_rows(client, {"loss": 6}, name=name)
    works, tries = getattr(watching, step), 0

    def fail(*given: Any, **named: Any) -> Any:
        nonlocal tries
        if name_of(*given, **named) == "bad":
            tries += 1
            raise ZeroDivisionError
        return works(*given, **named)

    monkeypatch.setattr(watching, step, fail)
    watcher = Watcher(client.context.services)
    with capture_logs() as logged:
        assert await told(client, watcher) == [("high", "a", "6.0"), ("high", "c", "6.0")]
        assert [each["run"] for each in logged] == ["admin/p/bad"]
        for pause in (FIRST_PAUSE_SECONDS, 2 * FIRST_PAUSE_SECONDS):
            tries = 0
            clock.now += pause - 0.1
            assert (await told(client, watcher), tries) == ([], 0)
            clock.now += 0.1
            assert (await told(client, watcher), tries) == ([], 1)
        monkeypatch.undo()
        clock.now += LONGEST_PAUSE_SECONDS
        assert await told(client, watcher) == [("high", "bad", "6.0")]
    assert len(logged) == 1, "not each time"


async def test_few_lines_are_held_at_a_time_however_many_there_are(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "LINES_AT_ONCE", 4)
    place = in_project(await project_id(client))
    for value in range(1, 10):  # each is found in another line
        await automate(client, f"above {value}", "RUN_METRIC", above(value - 0.5), **place)
    change = {"change_type": "ABSOLUTE", "change_dir": "INCREASE", "change_amount": 5}
    windows = {"name": "loss", "agg_op": "MAX", "current_window_size": 3, "prior_window_size": 3}
    wanted = {"run_filter": "{}", "run_metric_filter": {"change_filter": {**windows, **change}}}
    await automate(client, "steep", "RUN_METRIC_CHANGE", json.dumps(wanted), **place)
    expected: list[tuple[str, ...]] = []
    for name, length in (("a", 2), ("b", 9), ("c", 1), ("d", 4), ("e", 7)):
        await start(client, name)
        await log_rows(client, *({"loss": value} for value in range(1, length + 1)), name=name)
        expected += [(f"above {value}", name, f"{value}.0") for value in range(1, length + 1)]
    held: list[int] = []

    def spy(sights: Sequence[Sight], now: float) -> Any:
        held.append(sum(len(sight.lines) for sight in sights))
        return works(sights, now)

    works = watching._find_all
    monkeypatch.setattr(watching, "_find_all", spy)
    assert sorted(await told(client)) == sorted(expected)
    assert (max(held), sum(held)) == (4, 23)
    assert await told(client) == []


async def test_a_line_that_comes_during_a_look_is_read_once(client: Client, services: Services) -> None:
    asked = {"name": "loss", "agg_op": "MIN", "window_size": 2, "cmp_op": "$gt", "threshold": 5}
    wanted = json.dumps({"run_filter": "{}", "run_metric_filter": {"threshold_filter": asked}})
    await automate(client, "twice", "RUN_METRIC", wanted, **in_project(await project_id(client)))
    await start(client)
    await log_rows(client, {"loss": 1})
    watcher, now = Watcher(services), services.clock()
    rows = await services.database.read(watching._page, 0, now)
    await log_rows(client, {"loss": 1}, {"loss": 6})
    await watcher._look_at(rows, now)
    assert await told(client, watcher) == []
    await log_rows(client, {"loss": 1}, {"loss": 6}, {"loss": 7})
    assert await told(client, watcher) == [("twice", "r", "7.0")]


async def test_several_servers_tell_it_once(client: Client, services: Services) -> None:
    place = in_project(await project_id(client))
    await automate(client, "starts", "RUN_STATE", states("RUNNING"), **place)
    await automate(client, "high", "RUN_METRIC", above(5), **place)
    for number in range(5):
        await start(client, f"r{number}")
        await log_rows(client, {"loss": 6}, name=f"r{number}")
    await asyncio.gather(*(Watcher(services).look() for _ in range(5)))
    assert len(await told(client)) == 10


async def test_a_run_that_begins_while_an_automation_is_made_is_watched(client: Client) -> None:
    place = in_project(await project_id(client))
    for number in range(5):
        made = automate(client, f"a{number}", "RUN_STATE", states("FINISHED"), **place)
        _, automation = await asyncio.gather(start(client, f"r{number}"), made)
        await told(client)
        await send(client, f"r{number}", complete=True, exitcode=0)
        assert await told(client) == [(f"a{number}", f"r{number}", "finished")]
        await client.ask(DELETE, id=automation["id"])


async def test_other_projects_are_not_watched(client: Client, services: Services) -> None:
    await automate(client, "a", "RUN_STATE", states("RUNNING"), **in_project(await project_id(client, "q")))
    await start(client)
    rows = await services.database.read(
        lambda connection: connection.exec_driver_sql("SELECT run_id FROM watched_runs").all()
    )
    assert list(rows) == []
