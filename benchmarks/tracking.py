"""Tracking: how soon lists of many runs and long histories are read, and how fast histories are taken in.

    python -m benchmarks.tracking [--only lists|history|stream] [--runs 100000] [--rows 1000000] [--database-url URL]

One server process per engine: SQLite, and each PostgreSQL database given (it must be empty). What is read is put into
the database past HTTP, as that would take hours. Reading sends the documents of the stock client, one request after the
other. `stream` sends file streams of many runs at once, as fast as they are answered: a request has rows as a step loop
logs them, and a summary. The server's CPU time tells more than the time where the machine is busy with other things.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import Connection, insert, text

from benchmarks.claims import Client, cpu_seconds, engine_of, percentile, server
from server.database import Database
from server.database.opening import open_database
from server.storage import projects, run_values, runs, streams, users
from server.storage.run_values import Place
from server.storage.streams import Line, Stream
from server.storage.tables import run_values as values_table
from server.storage.tables import runs as runs_table

PROJECT = "bench"
BATCH = 1000
REPEATS = 7
RUNS = """query Runs($project: String!, $entity: String!, $cursor: String, $perPage: Int = 50, $order: String,
  $filters: JSONString) { project(name: $project, entityName: $entity) { internalId runCount(filters: $filters) readOnly
  runs(filters: $filters, after: $cursor, first: $perPage, order: $order) { edges { node { id tags name displayName
  sweepName state group jobType commit readOnly createdAt heartbeatAt description notes historyLineCount projectId
  user { name username } } cursor } pageInfo { endCursor hasNextPage } } } }"""
HISTORY = """query RunFullHistory($project: String!, $entity: String!, $name: String!, $samples: Int) {
  project(name: $project, entityName: $entity) { run(name: $name) { history(samples: $samples) } } }"""
SAMPLED = """query RunSampledHistory($project: String!, $entity: String!, $name: String!, $specs: [JSONString!]!) {
  project(name: $project, entityName: $entity) { run(name: $name) { sampledHistory(specs: $specs) } } }"""
START = """mutation UpsertBucket($name: String!, $project: String!) {
  upsertBucket(input: {name: $name, modelName: $project, host: "bench"}) { bucket { id } } }"""
FILTERS: dict[str, dict[str, Any]] = {
    "all": {},
    "half, by a number in the summary": {"summary_metrics.loss": {"$lt": 0.5}},
    "few, by a number in the summary": {"summary_metrics.loss": {"$lt": 0.0005}},
    "half, by a text in the config": {"config.optimizer.value": "adam"},
    "two values": {"$and": [{"config.lr": {"$gte": 0.5}}, {"summary_metrics.loss": {"$lt": 0.5}}]},
    "what is not so": {"config.optimizer": {"$ne": "adam"}},
    "regular expression of a name": {"display_name": {"$regex": "^run-1.*7$"}},
    "state": {"state": "finished"},
    "tag": {"tags": "tag-3"},
}
ORDERS = ("-created_at", "+summary_metrics.loss", "-config.lr", "-heartbeat_at")


def main() -> None:
    """Measure every engine and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["lists", "history", "stream"])
    parser.add_argument("--runs", type=int, default=100_000, help="runs in the project that is listed")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the history that is read")
    parser.add_argument("--seconds", type=float, default=10, help="how long file streams are sent")
    parser.add_argument("--streams", type=int, default=20, help="runs at once")
    parser.add_argument("--database-url", action="append", default=[], help="an empty PostgreSQL database")
    options = parser.parse_args()
    for url in [None, *options.database_url]:
        with tempfile.TemporaryDirectory() as folder:
            print(f"\n{engine_of(url)}")
            asyncio.run(measure(Path(folder), url, options))


async def measure(folder: Path, url: str | None, options: argparse.Namespace) -> None:
    """Measure one engine."""
    with server(folder, url):  # makes the schema and the first user
        pass
    database = await open_database(folder, url)
    try:
        if options.only in {None, "lists"}:
            await fill_runs(database, options.runs)
        if options.only in {None, "history"}:
            await fill_history(database, options.rows)
        if url:
            await database.write(lambda connection: connection.execute(text("ANALYZE")))  # it does so by itself, later
    finally:
        await database.close()
    with server(folder, url) as (client, process):
        if options.only in {None, "lists"}:
            await measure_lists(client, process)
        if options.only in {None, "history"}:
            await measure_history(client, process)
        if options.only in {None, "stream"}:
            await measure_streams(client, process, options.streams, options.seconds)


async def fill_runs(database: Database, count: int) -> None:
    """Make runs as they are after training, with ten values in the config and in the summary."""

    def batch(connection: Connection, start: int, size: int) -> None:
        user = users.user_by_name(connection, "admin")
        assert user is not None
        project_id, _ = projects.ensure(connection, user.entity_id, PROJECT, user_id=user.id, now=0)
        rows: list[dict[str, Any]] = []
        for number in range(start, start + size):
            share = number * 7919 % count / count
            config = {"lr": 1 - share, "optimizer": "adam" if number % 2 else "sgd", "name": f"model-{number % 97}"}
            config |= {f"option_{index}": index * number for index in range(7)}
            summary = {"loss": share, "_step": 1000, "_runtime": number % 3600, "_timestamp": 1.8e9 + number}
            summary |= {f"metric_{index}": share * index for index in range(7)}
            rows.append(
                {
                    **dict.fromkeys(column.name for column in runs_table.c if column.name != "id"),
                    "project_id": project_id,
                    "name": f"r{number}",
                    "display_name": f"run-{number}",
                    "created_by": user.id,
                    "config": json.dumps({key: {"value": value} for key, value in config.items()}),
                    "summary": json.dumps(summary),
                    "system_metrics": "{}",
                    "tags": json.dumps([f"tag-{number % 10}"]),
                    "preempting": False,
                    "started_at": 1.7e9 + number,
                    "heartbeat_at": 1.7e9 + 60 + number,
                    "ended_at": 1.7e9 + 60 + number,
                    "exit_code": number % 5 == 0,
                    "history_lines": 1001,
                    "event_lines": 0,
                    "log_lines": 0,
                    "last_step": 1000,
                    "created_at": 1.7e9 + number,
                    "updated_at": 1.7e9 + number,
                }
            )
        first = (connection.scalar(text("SELECT max(id) FROM runs")) or 0) + 1
        for index, row in enumerate(rows):
            row["id"] = first + index
        connection.execute(insert(runs_table), rows)
        found = [
            {
                "run_id": row["id"],
                "place": int(place),
                "path": path,
                "element": element,
                "project_id": project_id,
                **value._asdict(),
            }
            for row in rows
            for column, place in (("config", Place.CONFIG), ("summary", Place.SUMMARY), ("tags", Place.TAGS))
            for (path, element), value in run_values.values_in(place, row[column]).items()
        ]
        connection.execute(insert(values_table), found)

    for start in range(0, count, BATCH):
        await database.write(batch, start, min(BATCH, count - start))


async def fill_history(database: Database, count: int) -> None:
    """Make a run that has logged for long; every hundredth row has a key that the others lack."""

    def make(connection: Connection) -> int:
        user = users.user_by_name(connection, "admin")
        assert user is not None
        project_id, _ = projects.ensure(connection, user.entity_id, PROJECT, user_id=user.id, now=0)
        return runs.create(
            connection, project_id, "long", user_id=user.id, now=0, history_lines=count, last_step=count - 1
        )

    def batch(connection: Connection, start: int, size: int) -> None:
        lines = [
            Line(number, json.dumps(history_row(number) | ({"rare": 1} if number % 100 == 0 else {})), number)
            for number in range(start, start + size)
        ]
        streams.store(connection, run_id, Stream.HISTORY, lines)

    run_id = await database.write(make)
    for start in range(0, count, BATCH):
        await database.write(batch, start, min(BATCH, count - start))


def history_row(step: int) -> dict[str, Any]:
    """Return what a step logs: five metrics beside the client's own three."""
    metrics = {f"metric_{index}": index / (step + 1) for index in range(4)}
    return {"loss": 1 / (step + 1), **metrics, "_step": step, "_runtime": step / 10, "_timestamp": 1.8e9 + step / 10}


async def measure_lists(client: Client, process: psutil.Process) -> None:
    """Ask for first pages."""
    base = {"project": PROJECT, "entity": "admin", "order": "+created_at"}
    async with client.connected() as connected:
        for name, filters in FILTERS.items():
            given = {**base, "filters": json.dumps(filters)}
            found = await connected.ask(RUNS, given)
            taken = await timed(process, lambda given=given: connected.ask(RUNS, given))
            print(f"first page, {name} ({found['project']['runCount']} runs): {taken}")
        for order in ORDERS:
            given = {**base, "order": order, "filters": "{}"}
            taken = await timed(process, lambda given=given: connected.ask(RUNS, given))
            print(f"first page, ordered by {order}: {taken}")


async def measure_history(client: Client, process: psutil.Process) -> None:
    """Ask for samples of the long run."""
    base = {"project": PROJECT, "entity": "admin", "name": "long"}
    async with client.connected() as connected:
        print("history():", await timed(process, lambda: connected.ask(HISTORY, {**base, "samples": 500})))
        for keys in (["_step", "loss"], ["_step", "rare"]):
            given = {**base, "specs": [json.dumps({"keys": keys, "samples": 500})]}
            print(f"history(keys={keys}):", await timed(process, lambda given=given: connected.ask(SAMPLED, given)))


async def timed(process: psutil.Process, ask: Callable[[], Awaitable[Any]]) -> str:
    """Ask a few times; tells the median, the longest time, and the server's CPU time for each."""
    found: list[float] = []
    cpu = cpu_seconds(process)
    for _ in range(REPEATS):
        start = time.perf_counter()
        await ask()
        found.append((time.perf_counter() - start) * 1000)
    used = (cpu_seconds(process) - cpu) / REPEATS * 1000
    return f"{statistics.median(found):.0f} ms (longest {max(found):.0f} ms, CPU {used:.0f} ms)"


async def measure_streams(client: Client, process: psutil.Process, streams_at_once: int, seconds: float) -> None:
    """Send rows of many runs at once for a while."""
    rows_each = 250
    latencies: list[float] = []
    end = time.perf_counter() + seconds

    async def send(number: int) -> int:
        sent = 0
        async with client.connected() as connected:
            await connected.ask(START, {"name": f"s{number}", "project": PROJECT})
            while time.perf_counter() < end:
                rows = [json.dumps(history_row(sent + index)) for index in range(rows_each)]
                files = {
                    "wandb-history.jsonl": {"offset": sent, "content": rows},
                    "wandb-summary.json": {"offset": 0, "content": rows[-1:]},
                }
                start = time.perf_counter()
                await connected.post(f"/files/admin/{PROJECT}/s{number}/file_stream", {"files": files})
                latencies.append((time.perf_counter() - start) * 1000)
                sent += rows_each
        return sent

    cpu, start = cpu_seconds(process), time.perf_counter()
    rows = sum(await asyncio.gather(*(send(number) for number in range(streams_at_once))))
    taken, used = time.perf_counter() - start, cpu_seconds(process) - cpu
    print(
        f"{streams_at_once} file streams at once: {rows / taken:,.0f} rows/s of {len(history_row(0))} values; "
        f"a request takes {statistics.median(latencies):.0f} ms, p99 {percentile(latencies, 99):.0f} ms; "
        f"{used / rows * 1e6:.1f} us of the server's CPU for each row"
    )


if __name__ == "__main__":
    main()
