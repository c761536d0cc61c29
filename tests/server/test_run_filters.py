"""Lists of runs: filtered, ordered, page by page."""

import json
from typing import Any

import pytest

from server.run_state import HEARTBEAT_TIMEOUT_SECONDS
from tests.server.conftest import Client, Clock
from tests.server.run_steps import send, start, upsert

LIST = """query($filters: JSONString, $order: String, $first: Int, $after: String) {
  project(name: "p", entityName: "admin") {
    runCount(filters: $filters)
    runs(filters: $filters, order: $order, first: $first, after: $after) {
      edges { cursor node { name } } pageInfo { hasNextPage }
    }
  }
}"""


async def names(client: Client, filters: Any = None, order: str | None = None) -> list[str]:
    """Return the names of the runs that a filter finds, and check that the count agrees."""
    project = (await client.ask(LIST, filters=json.dumps(filters or {}), order=order, first=100))["project"]
    found = [edge["node"]["name"] for edge in project["runs"]["edges"]]
    assert project["runCount"] == len(found)
    return found


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({}, ["a", "b", "c", "d"]),
        ({"$and": [{"sweep": "s1"}]}, ["a"]),
        ({"state": "finished"}, ["b"]),
        ({"state": {"$in": ["running", "pending"]}}, ["a", "d"]),
        ({"state": {"$ne": "crashed"}}, ["a", "b", "d"]),
        ({"name": "b"}, ["b"]),
        ({"display_name": "Beta"}, ["b"]),
        ({"displayName": "beta"}, []),
        ({"group": "g", "state": "running"}, ["a"]),
        ({"group": None}, ["c", "d"]),
        ({"group": {"$exists": True}}, ["a", "b"]),
        ({"tags": "red"}, ["a", "b"]),
        ({"tags": "Red"}, ["c"]),
        ({"tags": "re"}, []),
        ({"tags": {"$in": ["blue", "Red"]}}, ["b", "c"]),
        ({"tags": {"$ne": "red"}}, ["c", "d"]),
        ({"tags": {"$nin": ["red", "Red"]}}, ["d"]),
        ({"tags": None}, ["d"]),
        ({"$or": [{"name": "a"}, {"name": "d"}]}, ["a", "d"]),
        ({"$nor": [{"name": "a"}, {"group": "g"}]}, ["c", "d"]),
    ],
)
async def test_runs_are_filtered(client: Client, clock: Clock, filters: Any, found: list[str]) -> None:
    await start(client, "c", tags=["Red"])
    clock.now += HEARTBEAT_TIMEOUT_SECONDS + 1
    await start(client, "a", sweep="s1", groupName="g", tags=["red"], displayName="Alpha")
    await start(client, "b", groupName="g", tags=["red", "blue"], displayName="Beta")
    await send(client, "b", complete=True, exitcode=0)
    await upsert(client, "d", state="pending")
    assert sorted(await names(client, filters)) == found


@pytest.mark.parametrize(
    "filters",
    [
        {"config.lr.value": 1},
        {"name": {"$regex": "^a"}},
        {"tags": {"$exists": True}},
        {"created_at": {"$gt": "2026-01-01"}},
        {"group": 7},
        {"group": {"$in": "g"}},
        {"$and": {"name": "a"}},
        {"name": ["a"]},
        [1],
    ],
)
async def test_a_filter_that_is_not_understood_is_refused(client: Client, filters: Any) -> None:
    await start(client)
    status, message = await client.fail(LIST, filters=json.dumps(filters))
    assert status == 400
    assert "filter" in message


async def test_runs_are_ordered_and_paged(client: Client, clock: Clock) -> None:
    for number in range(7):
        clock.now += number % 2  # pairs are made at the same time
        await start(client, f"r{number}", displayName=f"{9 - number}")
    forward = [f"r{number}" for number in range(7)]
    assert await names(client) == forward
    assert await names(client, order="+display_name") == forward[::-1]
    status, message = await client.fail(LIST, order="-config.lr")
    assert (status, "ordered by" in message) == (400, True)
    seen: list[str] = []
    after = None
    while True:
        page = (await client.ask(LIST, order="-created_at", first=3, after=after))["project"]["runs"]
        seen += [edge["node"]["name"] for edge in page["edges"]]
        after = page["edges"][-1]["cursor"]
        if not page["pageInfo"]["hasNextPage"]:
            break
    assert sorted(seen) == forward
    assert seen[0] in {"r5", "r6"}


async def test_runs_are_ordered_by_a_number_in_their_summary(client: Client) -> None:
    summaries = {
        "middle": '{"loss": 2, "a": {"b": 1}}',
        "none": "{}",
        "last": '{"loss": 30.5, "a.b": 2}',
        "nan": '{"loss": NaN}',
        "first": '{"loss": -1}',
        "text": '{"loss": "1"}',
        "truth": '{"loss": true}',
    }
    for name, summary in summaries.items():
        await start(client, name, summaryMetrics=summary)
    without = ["none", "nan", "text", "truth"]
    assert await names(client, order="+summary_metrics.loss") == ["first", "middle", "last", *without]
    assert await names(client, order="-summary_metrics.loss") == ["last", "middle", "first", *without]
    assert (await names(client, order="-summary_metrics.a.b"))[:2] == ["last", "middle"]
    page = await client.ask(LIST, order="+summary_metrics.loss", first=2, after=None)
    assert page["project"]["runs"]["pageInfo"]["hasNextPage"]
    assert [edge["node"]["name"] for edge in page["project"]["runs"]["edges"]] == ["first", "middle"]
