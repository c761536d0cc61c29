"""The file stream stores what clients send, and survives what they should not send."""

import itertools
import json
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Connection, select

from protocol.json_types import JsonObject
from protocol.states import RunState
from server.context import Services
from server.errors import Forbidden, NotFound
from server.filestream import LINES_AT_ONCE, in_pieces, receive, understand
from server.run_state import HEARTBEAT_TIMEOUT_SECONDS
from server.storage import runs, streams
from server.storage.rows import AnyRow
from server.storage.streams import Stream
from server.storage.tables import run_lines
from tests.server.conftest import Client, Clock, make_client

CREATE = """mutation($name: String!, $state: String, $host: String) {
  upsertBucket(input: {name: $name, modelName: "p", entityName: "admin", state: $state, host: $host}) { inserted }
}"""
STOP = "mutation($id: ID!) { stopRun(input: {id: $id}) { success } }"
DELETE = "mutation($id: ID!) { deleteRun(input: {id: $id}) { clientMutationId } }"


class RunStream:
    """The file stream of one run, and what is stored of it."""

    def __init__(self, client: Client, name: str) -> None:
        self.client = client
        self.name = name

    async def send(self, files: JsonObject | None = None, **more: Any) -> JsonObject:
        """Send one request."""
        body: JsonObject = {**({"files": files} if files else {}), **more}
        return await receive(self.client.context, "admin", "p", self.name, understand(body))

    async def row(self) -> AnyRow:
        """Return what is recorded of the run, after heartbeats were written down."""
        await self.client.context.services.heartbeats.flush()
        row = await self.client.context.services.database.read(runs.find, "admin", "p", self.name)
        assert row is not None
        return row

    async def state(self) -> RunState:
        """Return the run's state."""
        return runs.state(await self.row(), self.client.context.now)

    async def lines(self, stream: Stream) -> list[tuple[int, str]]:
        """Return the stored lines."""
        row = await self.row()
        found = await self.client.context.services.database.read(streams.page, row.id, stream, 0, 1000)
        return [(line.number, line.content) for line in found]


@pytest.fixture
async def stream(client: Client) -> RunStream:
    """The file stream of a run that a client has just started."""
    await client.ask(CREATE, name="r", host="box")
    return RunStream(client, "r")


def part(*lines: str, offset: int = 0) -> JsonObject:
    return {"offset": offset, "content": list(lines)}


async def test_lines_are_stored_under_their_numbers(stream: RunStream) -> None:
    await stream.send(
        {
            "wandb-history.jsonl": part('{"_step":0,"loss":NaN}', '{"_step":4,"loss":1}'),
            "wandb-events.jsonl": part('{"system.cpu":1}', '{"system.cpu":2}'),
            "wandb-summary.json": part('{"loss":1}'),
            "output.log": part("one", "two"),
        }
    )
    await stream.send({"wandb-history.jsonl": part('{"_step":9.0}', offset=2)})
    assert await stream.lines(Stream.HISTORY) == [
        (0, '{"_step":0,"loss":NaN}'),
        (1, '{"_step":4,"loss":1}'),
        (2, '{"_step":9.0}'),
    ]
    assert await stream.lines(Stream.CONSOLE) == [(0, "one"), (1, "two")]
    row = await stream.row()
    assert (row.history_lines, row.event_lines, row.log_lines, row.last_step) == (3, 2, 2, 9)
    assert (row.summary, row.system_metrics) == ('{"loss":1}', '{"system.cpu":2}')


async def test_a_request_sent_again_changes_nothing(stream: RunStream) -> None:
    request = {"wandb-history.jsonl": part('{"_step":0}', '{"_step":1}'), "output.log": part("a", "b")}
    await stream.send(request)
    first = [await stream.lines(Stream.HISTORY), await stream.lines(Stream.CONSOLE)]
    await stream.send(request)
    assert [await stream.lines(Stream.HISTORY), await stream.lines(Stream.CONSOLE)] == first
    row = await stream.row()
    assert (row.history_lines, row.log_lines, row.last_step) == (2, 2, 1)


async def test_a_progress_bar_rewrites_its_line(stream: RunStream) -> None:
    await stream.send({"output.log": part("start", "10%", "end")})
    await stream.send({"output.log": part("100%", offset=1)})
    assert await stream.lines(Stream.CONSOLE) == [(0, "start"), (1, "100%"), (2, "end")]
    assert (await stream.row()).log_lines == 3


async def test_the_summary_is_replaced(stream: RunStream) -> None:
    await stream.send({"wandb-summary.json": part('{"a":1,"b":2}')})
    await stream.send({"wandb-summary.json": part('{"a":3}')})
    assert (await stream.row()).summary == '{"a":3}'


async def test_a_bad_line_is_skipped_and_keeps_its_number(stream: RunStream) -> None:
    nested = "[" * 100_000
    await stream.send(
        {
            "wandb-history.jsonl": part('{"_step":0}', "{broken", nested, '{"_step":3}', "[1]"),
            "wandb-summary.json": part("nonsense"),
            "wandb-events.jsonl": part("nonsense"),
        }
    )
    assert await stream.lines(Stream.HISTORY) == [(0, '{"_step":0}'), (3, '{"_step":3}')]
    row = await stream.row()
    assert (row.history_lines, row.event_lines) == (5, 1)
    assert (row.summary, row.system_metrics) == ("{}", "{}")


@pytest.mark.parametrize(
    "body",
    [
        {"files": []},
        {"files": {"wandb-history.jsonl": "text"}},
        {"files": {"wandb-history.jsonl": {"offset": "x", "content": ['{"_step":0}']}}},
        {"files": {"wandb-history.jsonl": {"offset": -1, "content": ['{"_step":0}']}}},
        {"files": {"wandb-history.jsonl": {"offset": 2**40, "content": ['{"_step":0}']}}},
        {"files": {"wandb-history.jsonl": {"offset": 0, "content": [7, None]}}},
        {"files": {"unknown": {"offset": 0, "content": ["x"]}}},
        {"exitcode": "zero"},
        {"dropped": 3, "uploaded": ["a"]},
    ],
)
async def test_what_is_not_understood_does_not_end_the_stream(stream: RunStream, body: Any) -> None:
    assert await receive(stream.client.context, "admin", "p", "r", understand(body)) == {}
    assert await stream.lines(Stream.HISTORY) == []
    assert await stream.state() is RunState.RUNNING


@pytest.mark.parametrize("step", ["NaN", "Infinity", "1e300", '"7"', "null", str(2**70)])
async def test_a_step_that_is_no_step_is_not_recorded(stream: RunStream, step: str) -> None:
    line = f'{{"_step":{step}}}'
    await stream.send({"wandb-history.jsonl": part(line)})
    assert await stream.lines(Stream.HISTORY) == [(0, line)]
    assert (await stream.row()).last_step == -1


@pytest.mark.parametrize(("exit_code", "state"), [(0, "finished"), (3, "failed"), (None, "finished")])
async def test_the_last_request_ends_the_run(stream: RunStream, exit_code: int | None, state: str) -> None:
    await stream.send({"output.log": part("bye")}, complete=True, exitcode=exit_code)
    assert await stream.state() == state
    assert await stream.lines(Stream.CONSOLE) == [(0, "bye")]


async def test_a_heartbeat_keeps_a_run_alive(stream: RunStream, clock: Clock) -> None:
    clock.now += HEARTBEAT_TIMEOUT_SECONDS
    assert await stream.send() == {}
    clock.now += HEARTBEAT_TIMEOUT_SECONDS
    assert await stream.state() is RunState.RUNNING
    clock.now += 1
    assert await stream.state() is RunState.CRASHED
    assert await stream.send() == {}
    assert await stream.state() is RunState.RUNNING


async def test_heartbeats_are_batched(stream: RunStream, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    database = stream.client.context.services.database
    written: list[object] = []

    def counted(transact: Any) -> Any:
        async def run(work: Any, *args: Any, **kwargs: Any) -> Any:
            written.append(work)
            return await transact(work, *args, **kwargs)

        return run

    monkeypatch.setattr(database, "write", counted(database.write))
    monkeypatch.setattr(database, "claim", counted(database.claim))
    for _ in range(20):
        clock.now += 1
        await stream.send()
    assert written == []
    row = await stream.row()
    assert len(set(written)) == 1
    assert row.heartbeat_at == clock.now


async def test_a_stop_is_answered_until_the_run_has_ended(stream: RunStream) -> None:
    assert await stream.send() == {}
    run = (await stream.client.ask('{project(name:"p",entityName:"admin"){run(name:"r"){id}}}'))["project"]["run"]
    await stream.client.ask(STOP, id=run["id"])
    assert await stream.send() == {"stopped": True}
    assert await stream.send({"output.log": part("x")}) == {"stopped": True}
    await stream.send(complete=True, exitcode=255)
    assert await stream.state() is RunState.KILLED


async def test_a_preempted_run_says_so(stream: RunStream, clock: Clock) -> None:
    await stream.send(preempting=True)
    assert await stream.state() is RunState.PREEMPTING
    clock.now += HEARTBEAT_TIMEOUT_SECONDS + 1
    assert await stream.state() is RunState.PREEMPTED


@pytest.mark.parametrize("late", [{}, {"files": {"output.log": {"offset": 0, "content": ["late"]}}}])
async def test_a_late_word_revives_an_ended_run(stream: RunStream, late: Any) -> None:
    await stream.send(complete=True, exitcode=1)
    await stream.send(**late)
    assert await stream.state() is RunState.RUNNING


async def test_the_runs_own_end_counts_more_than_its_agents_word(stream: RunStream, services: Services) -> None:
    row = await stream.row()
    await services.database.write(runs.record_end, row.id, "failed", 1, services.clock())
    assert await stream.state() is RunState.FAILED
    await stream.send(complete=True, exitcode=0)
    assert await stream.state() is RunState.FINISHED
    await services.database.write(runs.record_end, row.id, "failed", 1, services.clock())
    assert await stream.state() is RunState.FINISHED


async def test_data_starts_a_run_that_waited(client: Client) -> None:
    await client.ask(CREATE, name="waits", state="pending")
    stream = RunStream(client, "waits")
    assert await stream.state() is RunState.PENDING
    await stream.send()
    assert await stream.state() is RunState.RUNNING


async def test_only_a_run_that_is_not_there_ends_the_stream(stream: RunStream) -> None:
    with pytest.raises(NotFound):
        await RunStream(stream.client, "unknown").send({"output.log": part("x")})
    with pytest.raises(NotFound):
        await RunStream(stream.client, "unknown").send()
    run = (await stream.client.ask('{project(name:"p",entityName:"admin"){run(name:"r"){id}}}'))["project"]["run"]
    await stream.client.ask(DELETE, id=run["id"])
    with pytest.raises(NotFound):
        await stream.send()


async def test_a_stranger_cannot_write_to_a_run(stream: RunStream, services: Services) -> None:
    stranger = await make_client(services, "stranger")
    with pytest.raises(Forbidden):
        await RunStream(stranger, "r").send({"output.log": part("x")})
    assert await stream.lines(Stream.CONSOLE) == []


async def test_a_failing_request_stores_nothing(stream: RunStream, monkeypatch: pytest.MonkeyPatch) -> None:
    """History and counters change together or not at all."""
    store = streams.store

    def fail_on_console(connection: Connection, run_id: int, kind: Stream, lines: Any) -> None:
        if kind is Stream.CONSOLE:
            raise OSError("disk full")
        store(connection, run_id, kind, lines)

    monkeypatch.setattr(streams, "store", fail_on_console)
    with pytest.raises(OSError, match="disk full"):
        await stream.send({"wandb-history.jsonl": part('{"_step":0}'), "output.log": part("x")})
    monkeypatch.undo()
    assert await stream.lines(Stream.HISTORY) == []
    assert (await stream.row()).history_lines == 0


async def test_pieces_of_a_request_say_together_what_it_says() -> None:
    rows = [f'{{"_step":{step}}}' for step in range(2500)]
    rows[999:1001] = ["no JSON"] * 2
    files = {
        "wandb-history.jsonl": part(*rows, offset=7),
        "output.log": part(*map(str, range(1001))),
        "wandb-summary.json": part("{}"),
    }
    change = understand({"files": files, "complete": True, "exitcode": 1, "uploaded": ["a"]})
    *first, last = in_pieces(change)
    pieces = [*first, last]
    assert max(len(piece.history.lines + piece.console.lines) for piece in first) <= LINES_AT_ONCE
    assert [line for piece in pieces for line in piece.history.lines] == change.history.lines
    assert [line for piece in pieces for line in piece.console.lines] == change.console.lines
    for earlier, later in itertools.pairwise(piece.history for piece in pieces if piece.history.end):
        assert earlier.lines[-1].number < earlier.end == later.lines[0].number
    assert (last.history.end, last.console.end) == (change.history.end, change.console.end) == (2507, 1001)
    assert {(piece.summary, piece.complete, piece.exit_code, *piece.uploaded) for piece in first} == {
        (None, False, None)
    }
    assert replace(last, history=change.history, console=change.console) == change


async def test_a_large_request_is_stored_whole(stream: RunStream, services: Services) -> None:
    rows = [json.dumps({"_step": step, "text": "x" * 200}) for step in range(20_000)]
    await stream.send({"wandb-history.jsonl": part(*rows)})

    def count(connection: Connection) -> int:
        return len(list(connection.execute(select(run_lines.c.number))))

    assert await services.database.read(count) == 20_000
