"""History and console as they are read back: whole, sampled, by step, page by page."""

import itertools
import json
from typing import Any

import pytest

from server.context import Services
from server.resolvers.history import thinned
from server.storage import runs, streams
from server.storage.streams import Line, Stream
from tests.server.conftest import Client
from tests.server.run_steps import log_rows, send, start

HISTORY = """query($name: String!, $samples: Int, $min: Int64, $max: Int64, $specs: [JSONString!]!) {
  project(name: "p", entityName: "admin") { run(name: $name) {
    history(samples: $samples, minStep: $min, maxStep: $max) sampledHistory(specs: $specs) historyKeys
  } }
}"""


async def test_samples_are_spread_and_hold_both_ends(client: Client) -> None:
    await start(client)
    await log_rows(client, *({"_step": step, "loss": step} for step in range(1000)))
    answer = (await client.ask(HISTORY, name="r", samples=5, specs=['{"keys":["_step","loss"],"samples":4}']))[
        "project"
    ]
    assert [json.loads(row)["_step"] for row in answer["run"]["history"]] == [0, 249, 499, 749, 999]
    assert [row["_step"] for row in answer["run"]["sampledHistory"][0]] == [0, 333, 666, 999]


async def test_a_long_run_is_not_read_whole_for_a_sample(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    await start(client)
    await log_rows(client, *({"_step": step, "loss": step} for step in range(1000)))
    for name in ("numbers_naming", "each_naming", "steps", "tail"):
        monkeypatch.setattr(streams, name, None)
    query = HISTORY.replace("historyKeys", "")
    answer = (await client.ask(query, name="r", samples=5, specs=['{"keys":["loss"],"samples":5}']))["project"]["run"]
    assert (len(answer["history"]), len(answer["sampledHistory"][0])) == (5, 5)


async def test_rows_without_all_keys_are_left_out(client: Client) -> None:
    """Rare keys are found wherever they are, also by a dotted path, with characters that JSON may escape, or where
    other rows have something else of that name.
    """
    await start(client)
    rows: list[dict[str, Any]] = [{"_step": step, "Rare": 1, "other": {"same": 1}} for step in range(3000)]
    for step in (7, 1500, 2999):
        rows[step] |= {"rare": step, "eval/a": step, "a<b": step, "nested": {"deep": step}, "dotted.key": step}
        rows[step]["same"] = step
    await log_rows(client, *rows)
    keys = ("rare", "eval/a", "a<b", "nested.deep", "dotted.key", "same")
    specs = [json.dumps({"keys": ["_step", key], "samples": 100}) for key in keys]
    found = (await client.ask(HISTORY, name="r", specs=specs))["project"]["run"]["sampledHistory"]
    assert [[row["_step"] for row in rows] for rows in found] == [[7, 1500, 2999]] * len(keys)


async def test_a_page_of_steps_is_complete_and_its_ends_are_as_the_client_means_them(client: Client) -> None:
    await start(client)
    await log_rows(client, *({"_step": step} for step in range(20)))
    spec = '{"keys":["_step","_step"],"minStep":3,"maxStep":6,"samples":4}'
    # As clients before 0.26 ask for a page, and for the last one, which is cut short.
    older = [f'{{"keys":["_step"],"minStep":3,"maxStep":6,"samples":{samples}}}' for samples in (3, 1000)]
    answer = (await client.ask(HISTORY, name="r", min=3, max=6, samples=3, specs=[spec, *older]))["project"]["run"]
    assert [json.loads(row)["_step"] for row in answer["history"]] == [3, 4, 5]
    found = [[row["_step"] for row in rows] for rows in answer["sampledHistory"]]
    assert found == [[3, 4, 5, 6], [3, 4, 5], [3, 4, 5]]


async def test_all_of_a_history_is_live(client: Client) -> None:
    query = """{ project(name: "p", entityName: "admin") { run(name: "r") {
      parquetHistory(liveKeys: ["_step"]) { parquetUrls liveData } } } }"""
    await start(client)
    answer = await client.ask(query)
    assert answer["project"]["run"]["parquetHistory"] == {"parquetUrls": [], "liveData": []}
    await log_rows(client, {"_step": 7})
    answer = await client.ask(query)
    assert answer["project"]["run"]["parquetHistory"] == {"parquetUrls": [], "liveData": [{"_step": 0}]}


async def test_raw_answers_hold_no_bare_nan(client: Client) -> None:
    """The client refuses a whole answer that contains one."""
    await start(client)
    await log_rows(client, {"_step": 0, "x": float("nan"), "y": [float("inf"), {"z": -float("inf")}]})
    answer = (await client.ask(HISTORY, name="r", specs=['{"keys":["x","y"]}']))["project"]["run"]
    assert answer["sampledHistory"] == [[{"x": "NaN", "y": ["Infinity", {"z": "-Infinity"}]}]]
    assert answer["history"] == ['{"_step": 0, "x": NaN, "y": [Infinity, {"z": -Infinity}]}']


async def test_integers_that_no_client_could_read_are_told_as_floats(client: Client) -> None:
    await start(client)
    whole = {"max": 2**63 - 1, "min": -(2**63)}
    await log_rows(client, {"_step": 0, **whole, "huge": 2**70, "endless": -(10**400)})
    answer = (await client.ask(HISTORY, name="r", specs=['{"keys":["max","min","huge","endless"]}']))["project"]["run"]
    assert answer["sampledHistory"] == [[{**whole, "huge": 2.0**70, "endless": "-Infinity"}]]
    assert answer["historyKeys"]["keys"]["huge"]["previousValue"] == 2.0**70


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("total", [0, 1, 2, 5, 6, 7, 13, 14, 15, 100, 1001])
def test_thinned_rows_are_spread_evenly(total: int, count: int) -> None:
    rows = thinned(iter(range(total)), count)
    assert len(rows) == min(total, count)
    assert rows == sorted(set(rows))
    if rows and count > 1:
        assert (rows[0], rows[-1]) == (0, total - 1)
        gaps = [later - earlier for earlier, later in itertools.pairwise(rows)]
        assert max(gaps, default=0) <= 2 * total / count + 1


async def test_console_lines_are_paged_and_parsed(client: Client) -> None:
    await start(client)
    content = ['{"ts":"2026-01-02T03:04:05.000000","content":"oh","level":"error"}', *map(str, range(9)), '{"a":1}']
    await send(client, files={"output.log": {"offset": 0, "content": content}})
    query = """query($first: Int, $after: String, $last: Int) {
      project(name: "p", entityName: "admin") { run(name: "r") {
      logLineCount logLines(first: $first, after: $after, last: $last) {
        edges { node { number line level timestamp label } } pageInfo { endCursor hasNextPage }
      } } } }"""
    seen: list[Any] = []
    after = None
    while True:
        run = (await client.ask(query, first=4, after=after))["project"]["run"]
        seen += [edge["node"] for edge in run["logLines"]["edges"]]
        after = run["logLines"]["pageInfo"]["endCursor"]
        if not run["logLines"]["pageInfo"]["hasNextPage"]:
            break
    assert run["logLineCount"] == 11
    assert [node["number"] for node in seen] == list(range(11))
    assert [node["line"] for node in seen] == ["oh", *map(str, range(9)), '{"a":1}']
    assert (seen[0]["level"], seen[0]["timestamp"]) == ("error", "2026-01-02T03:04:05.000000")
    last = (await client.ask(query, last=2))["project"]["run"]["logLines"]["edges"]
    assert [edge["node"]["number"] for edge in last] == [9, 10]


async def test_lines_survive_where_numbers_are_missing(client: Client, services: Services) -> None:
    """A sample picks by number, and lines that were skipped have none."""
    await start(client)
    row = await services.database.read(runs.find, "admin", "p", "r")
    assert row is not None
    lines = [Line(number, f'{{"_step":{number}}}', number) for number in range(0, 100, 2)]
    await services.database.write(streams.store, row.id, Stream.HISTORY, lines)
    sample = await services.database.read(streams.sample, row.id, Stream.HISTORY, 100, 10)
    assert {line.number for line in sample} <= set(range(0, 100, 2))
    assert sample[0].number == 0
