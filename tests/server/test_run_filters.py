"""Lists of runs: filtered, ordered, page by page."""

import json
from typing import Any

import pytest

from server.regular_expressions import is_found
from server.resolvers import paging
from server.run_state import HEARTBEAT_TIMEOUT_SECONDS
from server.times import iso
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


CREATED = "2027-01-15T08:00:00Z"
"""When the clock begins, as clients are shown it."""
DELETE = "mutation($id: ID!) { deleteRun(input: {id: $id}) { clientMutationId } }"


async def names(client: Client, filters: Any = None, order: str | None = None) -> list[str]:
    """Return the names of the runs that a filter finds, and check that the count agrees."""
    project = (await client.ask(LIST, filters=json.dumps(filters or {}), order=order, first=100))["project"]
    found = [edge["node"]["name"] for edge in project["runs"]["edges"]]
    assert project["runCount"] == len(found)
    return found


async def test_runs_are_filtered_by_what_they_are(client: Client, clock: Clock) -> None:
    await start(client, "c", tags=["Red"], notes="the third one")
    made = iso(clock.now + 1)
    clock.now += HEARTBEAT_TIMEOUT_SECONDS + 1
    await start(client, "a", sweep="s1", groupName="g", tags=["red"], displayName="Alpha")
    await start(client, "b", groupName="g", tags=["red", "blue"], displayName="Beta")
    clock.now += 60
    await send(client, "b", complete=True, exitcode=0)
    await upsert(client, "d", state="pending")
    cases: list[tuple[Any, str]] = [
        ({}, "abcd"),
        ({"$and": [{"sweep": "s1"}]}, "a"),
        ({"state": "finished"}, "b"),
        ({"state": {"$in": ["running", "pending"]}}, "ad"),
        ({"state": {"$ne": "crashed"}}, "abd"),
        ({"state": {"$not": {"$eq": "crashed"}}}, "abd"),
        ({"state": {"$regex": "^(fin|cr)"}}, "bc"),
        ({"name": "b"}, "b"),
        ({"name": {"$gt": "a", "$lte": "c"}}, "bc"),
        ({"display_name": "Beta"}, "b"),
        ({"displayName": "beta"}, ""),
        ({"displayName": {"$regex": "(?i)^BE"}}, "b"),
        ({"displayName": {"$not": {"$regex": "^Be"}}}, "acd"),
        ({"display_name": {"$contains": "lph"}}, "a"),
        ({"notes": {"$regex": r"\bthird\b"}}, "c"),
        ({"notes": {"$not": {"$regex": "third"}}}, "abd"),
        ({"group": "g", "state": "running"}, "a"),
        ({"group": None}, "cd"),
        ({"group": {"$in": ["g", None]}}, "abcd"),
        ({"group": {"$nin": [None]}}, "ab"),
        ({"group": {"$exists": True}}, "ab"),
        ({"tags": "red"}, "ab"),
        ({"tags": "Red"}, "c"),
        ({"tags": "re"}, ""),
        ({"tags": {"$contains": "blue"}}, "b"),
        ({"tags": {"$regex": "^[rR]e"}}, "abc"),
        ({"tags": {"$in": ["blue", "Red"]}}, "bc"),
        ({"tags": {"$ne": "red"}}, "cd"),
        ({"tags": {"$nin": ["red", "Red"]}}, "d"),
        ({"tags": {"$exists": True}}, "abc"),
        ({"tags": None}, "d"),
        ({"username": "admin", "entity": "admin"}, "abcd"),
        ({"user.username": {"$ne": "admin"}}, ""),
        ({"created_at": {"$lt": made}}, "c"),
        ({"createdAt": {"$gte": made, "$lt": "2100-01-01"}}, "abd"),
        ({"created_at": {"$gt": made, "$lte": clock.now}}, "abd"),
        ({"created_at": {"$in": [CREATED]}}, "c"),
        ({"created_at": {"$nin": [CREATED]}}, "abd"),
        ({"created_at": CREATED}, "c"),
        ({"created_at": {"$ne": CREATED}}, "abd"),
        ({"created_at": {"$not": {"$gt": made}}}, "c"),
        ({"created_at": {"$regex": "^2027-01-15T08:0[0-4]:00Z$"}}, "c"),
        ({"created_at": {"$not": {"$regex": "08:00"}}}, "abd"),
        ({"created_at": {"$contains": "15T08:00"}}, "c"),
        ({"heartbeat_at": {"$contains": "2027"}}, "abc"),
        ({"heartbeat_at": {"$exists": False}}, "d"),
        ({"heartbeatAt": None}, "d"),
        ({"duration": {"$gte": 60}}, "b"),
        ({"duration": {"$not": {"$gte": 60}}}, "acd"),
        ({"$or": [{"name": "a"}, {"name": "d"}]}, "ad"),
        ({"$nor": [{"name": "a"}, {"group": "g"}]}, "cd"),
        ({"$not": {"name": "a"}}, "bcd"),
    ]
    for filters, found in cases:
        assert "".join(sorted(await names(client, filters))) == found, filters


async def test_runs_are_filtered_by_their_config_and_summary(client: Client) -> None:
    long = "x" * 100
    runs: dict[str, tuple[dict[str, Any], str]] = {
        "a": (
            {"lr": 0.1, "net": {"depth": 3, "value": 7}, "flag": True, "name": "adam"},
            '{"loss": 1.5, "n": {"m": 2}}',
        ),
        "b": (
            {"lr": 1, "net": {"depth": 4}, "flag": 1, "name": "sgd", "layers": [8, "wide"]},
            '{"loss": NaN, "n.m": 3}',
        ),
        "c": ({"lr": "0.1", "flag": None, "name": long + "1"}, '{"loss": -Infinity, "n.m": 4, "n": {"m": 5}}'),
        "d": ({"name": long + "2"}, '{"loss": 1e400, "chart": {"_type": "histogram", "bins": [1]}}'),
    }
    for name, (config, summary) in runs.items():
        wrapped = {key: {"value": value, "desc": None} for key, value in config.items()}
        await start(client, name, config=json.dumps({**wrapped, "_wandb": {"value": {"t": {"1": [1]}}}}))
        await send(client, name, files={"wandb-summary.json": {"offset": 0, "content": [summary]}})
    cases: list[tuple[Any, str]] = [
        ({"config.lr": 0.1}, "a"),
        ({"config.lr.value": 0.1}, "a"),
        ({"config.lr": "0.1"}, "c"),
        ({"config.lr": {"$gt": 0.05, "$lt": 1}}, "a"),
        ({"config.lr": {"$gte": 0.1}}, "ab"),
        ({"config.lr": {"$lte": 1}, "config.name": "sgd"}, "b"),
        ({"config.lr": {"$not": {"$gte": 0.1}}}, "cd"),
        ({"config.lr": {"$ne": 0.1}}, "bcd"),
        ({"config.lr": {"$in": [0.1, "0.1", 5]}}, "ac"),
        ({"config.lr": {"$in": [None, 1]}}, "bd"),
        ({"config.lr": {"$nin": [0.1, 1]}}, "cd"),
        ({"config.lr": {"$in": []}}, ""),
        ({"config.lr": {"$exists": False}}, "d"),
        ({"config.flag": True}, "a"),
        ({"config.flag": 1}, "b"),
        ({"config.flag": None}, "cd"),
        ({"config.flag": {"$exists": True}}, "abc"),
        ({"config.flag": {"$ne": None}}, "ab"),
        ({"config.net.depth": 3}, "a"),
        ({"config.net.value.depth": {"$gt": 3}}, "b"),
        ({"config.net.value": 7}, "a"),
        ({"config.net": {"$exists": True}}, "ab"),
        ({"config.layers": "wide"}, "b"),
        ({"config.layers": {"$contains": "wide"}}, "b"),
        ({"config.layers": {"$contains": "wid"}}, ""),
        ({"config.name": {"$contains": "da"}}, "a"),
        ({"config.name": {"$regex": "^(adam|sgd)$"}}, "ab"),
        ({"config.name": {"$regex": "x2$"}}, "d"),
        ({"config.name": long + "1"}, "c"),
        ({"config.name": long[:64]}, ""),
        ({"config.name": {"$gt": "b", "$lt": "t"}}, "b"),
        ({"config._wandb.t": {"$exists": True}}, ""),
        ({"summary_metrics.loss": {"$lt": 2}}, "ac"),
        ({"summaryMetrics.loss": 1.5}, "a"),
        ({"summary_metrics.loss": {"$exists": True}}, "abcd"),
        ({"summary_metrics.n.m": {"$gte": 2}}, "abc"),
        ({"summary_metrics.n.m": 5}, ""),
        ({"summary_metrics.chart.bins": {"$exists": True}}, ""),
        ({"keys_info.keys.chart": {"$exists": True}}, "d"),
        ({"$or": [{"config.lr": 1}, {"summary_metrics.loss": {"$gt": 1}}]}, "abd"),
        ({"$nor": [{"config.lr": 1}, {"summary_metrics.loss": {"$gt": 1}}]}, "c"),
    ]
    for filters, found in cases:
        assert "".join(sorted(await names(client, filters))) == found, filters
    orders = {"+config.lr": "abcd", "-config.lr.value": "bacd", "-summary_metrics.n.m": "cbad", "+config.name": "abcd"}
    for order, found in orders.items():
        assert "".join(await names(client, order=order)) == found, order


async def test_a_time_without_fraction_means_the_whole_second_as_clients_are_shown_it(
    client: Client, clock: Clock
) -> None:
    second = clock.now
    for name, at in (("a", second - 0.25), ("b", second), ("c", second + 0.9996), ("d", second + 1)):
        clock.now = at
        await upsert(client, name, state="pending")
    cases: list[tuple[Any, str]] = [
        (CREATED, "bc"),
        ({"$ne": CREATED}, "ad"),
        ({"$in": [CREATED, second + 1]}, "bcd"),
        ({"$gt": CREATED}, "d"),
        ({"$gte": CREATED}, "bcd"),
        ({"$lt": CREATED}, "a"),
        ({"$lte": CREATED}, "abc"),
        ({"$regex": f"^{CREATED}$"}, "bc"),
        ({"$contains": CREATED}, "bc"),
        (second + 0.9996, "c"),
        ({"$in": [second - 0.25]}, "a"),
        ({"$gt": second - 0.25, "$lte": second + 0.9996}, "bc"),
        ({"$in": [second + number for number in range(9_999)]}, "bcd"),
    ]
    for test, found in cases:
        assert "".join(sorted(await names(client, {"created_at": test}))) == found, test


async def test_values_that_change_or_go_are_found_no_more(client: Client) -> None:
    bucket = await start(client, config='{"lr": {"value": [1, 2]}, "old": {"value": 1}}', tags=["first"])
    await upsert(
        client, id=bucket["id"], config='{"lr": {"value": [3]}, "new\\u0000": {"value": "\\ud800"}}', tags=["second"]
    )
    for gone in ({"config.lr": 1}, {"config.lr": 2}, {"config.old": 1}, {"tags": "first"}):
        assert await names(client, gone) == []
    for there in ({"config.lr": 3}, {"config.new\ufffd": {"$exists": True}}, {"tags": "second"}):
        assert await names(client, there) == ["r"]
    await start(client)  # a restart without a summary
    await client.ask(DELETE, id=bucket["id"])
    assert await names(client, {"config.lr": 3}) == []


async def test_a_filter_that_is_not_understood_is_refused(client: Client) -> None:
    await start(client)
    refused: list[Any] = [
        {"colour": 1},
        {"name": {"$near": "^a"}},
        {"name": {"$regex": "(a"}},
        {"name": {"$regex": r"(a)\1"}},
        {"config.lr": {"$mod": [2, 0]}},
        {"config.lr": {"$eq": {"a": 1}}},
        {"tags": {"$size": 1}},
        {"created_at": {"$gt": "yesterday"}},
        {"group": 7},
        {"duration": "long"},
        {"group": {"$in": "g"}},
        {"name": "a\0"},
        {"config.lr": 10**400},
        {"config.lr": {"$lt": float("nan")}},
        {"duration": {"$gt": float("nan")}},
        {"config.lr": {"$in": list(range(10_001))}},
        {"$or": [{"name": str(number)} for number in range(501)]},
        nested(21),
        {"$and": {"name": "a"}},
        {"name": ["a"]},
        [1],
    ]
    for filters in refused:
        status, message = await client.fail(LIST, filters=json.dumps(filters))
        assert status == 400, filters
        assert "filter" in message or "regular expression" in message, message


def nested(depth: int) -> Any:
    """Return a filter by a name that is so deep."""
    return {"name": "a"} if depth < 2 else {"$not": nested(depth - 1)}


async def test_an_operator_that_is_unknown_is_named_once(client: Client) -> None:
    """However many fields of the answer fail for it: the client shows all their messages."""
    await start(client)
    for filters in ({"state": {"$near": 1}}, {"$near": [{"state": "running"}]}, {"tags": {"$all": ["a"]}}):
        status, body = await client.executor.execute(LIST, {"filters": json.dumps(filters)}, None, client.context)
        errors: Any = body["errors"]
        assert (status, len(errors)) == (400, 1)
        assert "which is no operator. Use one of: $eq" in errors[0]["message"]


async def test_large_filters(client: Client) -> None:
    long = "x" * 100
    await start(client, "a", config=json.dumps({"seed": {"value": 7}}))
    await start(client, "b", config=json.dumps({"seed": {"value": f"{long}7"}}))
    await start(client, "c", config=json.dumps({"seed": {"value": True}}))
    assert await names(client, {"config.seed": {"$in": list(range(3_000))}}) == ["a"]
    assert await names(client, {"config.seed": {"$in": [f"{long}{number}" for number in range(1_500)]}}) == ["b"]
    assert await names(client, {"config.seed": {"$in": [True, 8]}}) == ["c"]
    assert await names(client, {"config.seed": {"$regex": "^x+7$"}}) == ["b"]
    assert await names(client, {"config.seed": {"$contains": "x7"}}) == ["b"]
    assert await names(client, {"config.seed": {"$gt": long}}) == ["b"]
    assert await names(client, {"name": {"$in": [*map(str, range(3_000)), "c"]}}) == ["c"]
    assert await names(client, {"$or": [{"name": chr(number)} for number in range(97, 596)]}) == ["a", "b", "c"]
    assert await names(client, nested(19)) == ["a"]
    assert await names(client, {"config.name": "half \ud800"}) == []


PATTERNS = [
    *("", "foo", "^foo$", "(?i)foo", "(?is)^A.B", "o+?", "fo{1,2}$", "fo{2}", "^.$", "a.b", "(?s)a.b", "a[^x]b", "^$"),
    *(r"\d", r"\D", r"\w+", r"^\W$", r"\s", r"^\S+$", r"\bbar\b", r"\Boo", r"\Afoo\z", r"\.", r"\[x\]", r"\x{2014}"),
    *(r"\Qx{2}\E", r"\x41", "[[:alpha:]]+ [[:word:]]", r"[\d.]+", r"[\w ]+", "[]x]", "[[x]", r"[\]]", "x{2}", "x{,2}"),
    *("(?P<name>foo)", "(?<name>foo)", "(?:foo|a)", "a|foo|^_", "ü", "[ü-ÿ]", r"\t", r"a\nb", "(fo)*", "^(a|b|)$"),
]
"""Of what RE2 has: repeats, classes, anchors, escapes, groups, flags."""
TEXTS = [
    "foo",
    "Foo",
    "foo bar",
    "a\nb",
    "axb",
    "A\nB",
    "tab\tx",
    "über",
    "1.5",
    "[x]",
    "x{2}",
    "xx",
    "_",
    " ",
    "\u2014",
]


async def test_regular_expressions_find_the_same_on_every_engine(client: Client) -> None:
    for number, text in enumerate(TEXTS):
        await start(client, f"{number:02}", notes=text)
    for pattern in PATTERNS:
        found = [TEXTS[int(name)] for name in await names(client, {"notes": {"$regex": pattern}})]
        assert found == [text for text in TEXTS if is_found(pattern, text)], pattern


@pytest.mark.parametrize("pattern", [r"^\pL+$", "f(?i:O)o", "o{300}|foo", "[[:^digit:]]"])
async def test_what_postgresql_has_no_words_for_is_refused_there_alone(client: Client, pattern: str) -> None:
    await start(client, "a", notes="foo")
    filters = {"notes": {"$regex": pattern}}
    if "Sqlite" in type(client.context.services.database).__name__:
        assert await names(client, filters) == ["a"]
    else:
        status, message = await client.fail(LIST, filters=json.dumps(filters))
        assert (status, "or looked for: invalid regular expression" in message) == (400, True)


@pytest.mark.parametrize("order", ["+created_at", "-display_name", "-config.lr"])
async def test_who_goes_through_pages_meets_every_run_once_whatever_comes_and_goes(
    client: Client, clock: Clock, order: str
) -> None:
    ids: dict[str, str] = {}
    for number in range(9):
        clock.now += number % 2
        config = {"lr": {"value": number % 3}} if number % 4 else {}
        made = await start(client, f"r{number}", displayName=f"n{number % 5}", config=json.dumps(config))
        ids[f"r{number}"] = made["id"]
    wanted = await names(client, order=order)
    seen: list[str] = []
    after, more = None, True
    while more:
        page = (await client.ask(LIST, order=order, first=2, after=after))["project"]["runs"]
        for edge in page["edges"]:
            if (name := edge["node"]["name"]) in ids:
                seen.append(name)
                await client.ask(DELETE, id=ids[name])
        clock.now += 1
        await start(client, f"late{len(seen)}", displayName="n3")
        after, more = page["edges"][-1]["cursor"], page["pageInfo"]["hasNextPage"]
    assert seen == wanted


async def test_a_cursor_of_another_order_is_refused(client: Client) -> None:
    await start(client)
    for order, good, bad in (
        ("+name", [["a", 1], [None, 1]], [[1.5, 1], [{}, 1]]),
        ("+state", [["running", 1]], [[True, 1]]),
        (
            "+created_at",
            [[1.5, 1], [None, 1]],
            [["a", 1], [True, 1], [1.5, "a"], [1.5, True], [1.5, None], [1.5, 2**63]],
        ),
        ("-duration", [[1.5, 1]], [["a", 1]]),
        ("-config.a", [[1.5, "a", 1], [None, None, 1]], [["a", "a", 1], [1.5, 1.5, 1], [1.5, 1]]),
    ):
        for place in good:
            assert (await client.ask(LIST, order=order, after=paging.cursor(place)))["project"]["runCount"] == 1
        for place in bad:
            status, said = await client.fail(LIST, order=order, after=paging.cursor(place))
            assert (status, "is not a cursor" in said) == (400, True), place


async def test_a_cursor_of_no_row_is_refused(client: Client) -> None:
    listed = """query($after: String) { project(name: "p", entityName: "admin") {
      run(name: "r") { files(after: $after) { edges { node { id } } } } } }"""
    await start(client)
    for position in (2**63, -1, True):
        status, said = await client.fail(listed, after=paging.cursor(position))
        assert (status, "is not a cursor" in said) == (400, True), position


@pytest.mark.parametrize("cursor", ["", "x", "Y3Vyc29yOjU=", "Y3Vyc29yOlsxXQ=="])
async def test_a_cursor_of_another_list_is_refused(client: Client, cursor: str) -> None:
    await start(client)
    if cursor:
        assert (await client.fail(LIST, after=cursor))[0] == 400
    else:
        assert (await client.ask(LIST, after=cursor))["project"]["runCount"] == 1


async def test_a_refused_filter_says_what_there_is(client: Client) -> None:
    await start(client)
    for filters, words in (
        ({"confg.lr": 1}, "Use one of: config.<key>, summary_metrics.<key>, tags, commit, "),
        ({"display_name": {"$regex": "("}}, "'(' is no regular expression (of RE2): missing ): (."),
        ({"config.lr": {"$gt": None}}, "takes a string, a number, true or false here, not null."),
    ):
        status, message = await client.fail(LIST, filters=json.dumps(filters))
        assert status == 400
        assert words in message


async def test_runs_are_ordered_and_paged(client: Client, clock: Clock) -> None:
    for number in range(7):
        clock.now += number % 2  # pairs are made at the same time
        await start(client, f"r{number}", displayName=f"{9 - number}")
    forward = [f"r{number}" for number in range(7)]
    assert await names(client) == forward
    assert await names(client, order="+display_name") == forward[::-1]
    status, message = await client.fail(LIST, order="-colour")
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
    without = ["text", "none", "nan", "truth"]
    assert await names(client, order="+summary_metrics.loss") == ["first", "middle", "last", *without]
    assert await names(client, order="-summary_metrics.loss") == ["last", "middle", "first", *without]
    assert (await names(client, order="-summary_metrics.a.b"))[:2] == ["last", "middle"]
    page = await client.ask(LIST, order="+summary_metrics.loss", first=2, after=None)
    assert page["project"]["runs"]["pageInfo"]["hasNextPage"]
    assert [edge["node"]["name"] for edge in page["project"]["runs"]["edges"]] == ["first", "middle"]
