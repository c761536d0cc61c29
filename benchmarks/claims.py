"""The claim table through HTTP and GraphQL: how many claims a second, and what a long queue costs.

    python -m benchmarks.claims [--items 3000] [--connections 16] [--queued 1000000] [--database-url URL ...]

One server process per engine: SQLite, and each PostgreSQL database given (it must be empty). The client is a process of
its own that does as little as it can. A *claim* is `popFromRunQueue` by a registered agent; each is an item of its own,
which is checked. The CPU column is what the server's process used, so it tells more than the rate where the machine is
busy with other things. The second table compares single claims from a queue of a million items with those from one that
is nearly empty, taken in turns.
"""

import argparse
import asyncio
import base64
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
from sqlalchemy import Connection, insert, select

from server.database import Database
from server.database.opening import open_database
from server.storage.tables import run_queue_items, run_queues, users

POP = "mutation popFromRunQueue($input: PopFromRunQueueInput!) { popFromRunQueue(input: $input) { runQueueItemId } }"
PUSH = """mutation pushToRunQueueByName($input: PushToRunQueueByNameInput!) {
  pushToRunQueueByName(input: $input) { runQueueItemId } }"""
ACK = "mutation ackRunQueueItem($input: AckRunQueueItemInput!) { ackRunQueueItem(input: $input) { success } }"
SPEC = {"entity": "admin", "project": "bench", "docker": {"docker_image": "none"}, "overrides": {"args": ["--lr", "1"]}}
QUEUE_ID = """query metadata($name: String!) {
  project(entityName: "admin", name: "model-registry") { runQueue(name: $name) { id } } }"""
BATCH = 10_000


@dataclass(frozen=True, slots=True)
class Rates:
    """What one engine reached: per second, and milliseconds of the server's CPU for each."""

    engine: str
    per_second: dict[str, float]
    cpu_ms: dict[str, float]


@dataclass(frozen=True, slots=True)
class Latencies:
    """Milliseconds of single claims."""

    engine: str
    short_queue: list[float]
    long_queue: list[float]


def main() -> None:
    """Measure every engine and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=3000, help="pushes, claims and acknowledgements to measure")
    parser.add_argument("--connections", type=int, default=16, help="requests under way at once")
    parser.add_argument("--queued", type=int, default=1_000_000, help="items of the long queue; 0 leaves it out")
    parser.add_argument("--samples", type=int, default=1000, help="single claims from each queue")
    parser.add_argument("--database-url", action="append", default=[], help="an empty PostgreSQL database")
    options = parser.parse_args()
    rates: list[Rates] = []
    latencies: list[Latencies] = []
    for url in [None, *options.database_url]:
        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(measure(Path(folder), url, options, rates, latencies))
    print_tables(rates, latencies)


async def measure(
    folder: Path, url: str | None, options: argparse.Namespace, rates: list[Rates], latencies: list[Latencies]
) -> None:
    """Measure one engine."""
    with server(folder, url) as (client, process):
        rates.append(await measure_rates(client, process, engine_of(url), options.items, options.connections))
    if options.queued:
        with server(folder, url) as (client, _):
            await client.make_queue("long")
            await client.make_queue("short")
        database = await open_database(folder, url)
        try:
            await fill(database, "long", options.queued)
            await fill(database, "short", options.samples)
        finally:
            await database.close()
        with server(folder, url) as (client, _):
            latencies.append(await measure_latencies(client, engine_of(url), options.samples))


async def measure_rates(client: "Client", process: psutil.Process, engine: str, items: int, connections: int) -> Rates:
    """Push, claim and acknowledge as many items as asked, each as fast as it goes."""
    per_second: dict[str, float] = {}
    cpu_ms: dict[str, float] = {}

    async def timed(what: str, calls: list[Callable[[Connected], Awaitable[Any]]]) -> list[Any]:
        cpu, start = cpu_seconds(process), time.perf_counter()
        results = await client.gather(calls, connections)
        per_second[what] = len(calls) / (time.perf_counter() - start)
        cpu_ms[what] = (cpu_seconds(process) - cpu) / len(calls) * 1000
        return results

    await client.make_queue("bench")
    agent = await client.make_agent("bench")
    await timed("push", [call(PUSH, push_input("bench")) for _ in range(items)])
    popped = await timed("claim", [call(POP, pop_input("bench", agent)) for _ in range(items)])
    taken = [answer["popFromRunQueue"]["runQueueItemId"] for answer in popped]
    assert len(set(taken)) == items, "an item was handed out twice"
    acks = [
        call(ACK, {"runQueueItemId": item, "runName": f"run{n}", "launchAgentId": agent})
        for n, item in enumerate(taken)
    ]
    answers = await timed("acknowledge", acks)
    assert all(answer["ackRunQueueItem"]["success"] for answer in answers)
    return Rates(engine, per_second, cpu_ms)


async def measure_latencies(client: "Client", engine: str, samples: int) -> Latencies:
    """Claim single items, in turns from the short and the long queue."""
    agent = await client.make_agent("short", "long")
    found: dict[str, list[float]] = {"short": [], "long": []}
    async with client.connected() as connected:
        for _ in range(samples):
            for queue, times in found.items():
                start = time.perf_counter()
                answer = await connected.ask(POP, {"input": pop_input(queue, agent)})
                times.append((time.perf_counter() - start) * 1000)
                assert answer["popFromRunQueue"], queue
    return Latencies(engine, found["short"], found["long"])


async def fill(database: Database, queue: str, count: int) -> None:
    """Put items into a queue, past HTTP, as a million would take a quarter of an hour."""

    def batch(connection: Connection, size: int) -> None:
        queue_id = connection.scalar(select(run_queues.c.id).where(run_queues.c.name == queue))
        user_id = connection.scalar(select(users.c.id))
        row = {
            "queue_id": queue_id,
            "state": "PENDING",
            "priority": 2,
            "launch_spec": json.dumps(SPEC),
            "spec_digest": "",
            "created_by": user_id,
            "warnings": "[]",
            "created_at": time.time(),
            "updated_at": time.time(),
        }
        connection.execute(insert(run_queue_items), [row] * size)

    for start in range(0, count, BATCH):
        await database.write(batch, min(BATCH, count - start))


class Client:
    """Asks one server."""

    def __init__(self, base_url: str, key: str) -> None:
        self.base_url, self.key = base_url, key
        address = urlsplit(base_url)
        assert address.hostname
        assert address.port
        self._host, self._port = address.hostname, address.port
        self._authorization = base64.b64encode(f"api:{key}".encode()).decode()

    def connected(self) -> "Connected":
        """Return a connection, to be entered."""
        return Connected(self._host, self._port, self._authorization)

    async def gather(self, calls: Iterable[Callable[["Connected"], Awaitable[Any]]], connections: int) -> list[Any]:
        """Make all calls over a few connections, one after the other on each."""
        waiting = iter(calls)
        results: list[Any] = []

        async def work() -> None:
            async with self.connected() as connected:
                results.extend([await ask(connected) for ask in waiting])

        await asyncio.gather(*(work() for _ in range(connections)))
        return results

    async def make_queue(self, name: str) -> None:
        """Make a queue."""
        mutation = "mutation upsert($input: UpsertRunQueueInput!) { upsertRunQueue(input: $input) { success } }"
        config = json.dumps({"resource_args": {"local-container": {}}})
        given = {**in_queue(name), "resourceType": "local-container", "resourceConfig": config}
        async with self.connected() as connected:
            await connected.ask(mutation, {"input": given})

    async def make_agent(self, *queues: str) -> str:
        """Register an agent; returns its id."""
        mutation = """mutation createLaunchAgent($input: CreateLaunchAgentInput!) {
          createLaunchAgent(input: $input) { launchAgentId } }"""
        async with self.connected() as connected:
            ids = [(await connected.ask(QUEUE_ID, {"name": name}))["project"]["runQueue"]["id"] for name in queues]
            given = {"entityName": "admin", "projectName": "model-registry", "runQueues": ids, "hostname": "bench"}
            return (await connected.ask(mutation, {"input": given}))["createLaunchAgent"]["launchAgentId"]


class Connected:
    """One HTTP connection that costs the client as little as possible, as both share the machine."""

    def __init__(self, host: str, port: int, authorization: str) -> None:
        self._address = (host, port)
        self._head = f"HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Basic {authorization}\r\n"

    async def __aenter__(self) -> "Connected":
        """Connect."""
        self._reader, self._writer = await asyncio.open_connection(*self._address)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Hang up."""
        self._writer.close()
        await self._writer.wait_closed()

    async def ask(self, query: str, variables: dict[str, Any]) -> Any:
        """Return the data of a successful answer."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        return (await self.post("/graphql", body))["data"]

    async def post(self, path: str, body: bytes) -> Any:
        """Send some JSON; returns a successful answer."""
        head = f"POST {path} {self._head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self._writer.write(head.encode() + body)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        headers = dict(line.lower().split(b": ", 1) for line in answer.split(b"\r\n")[1:] if line)
        found = json.loads(await self._reader.readexactly(int(headers[b"content-length"])))
        assert "errors" not in found, found
        return found


def call(query: str, given: dict[str, Any]) -> Callable[[Connected], Awaitable[Any]]:
    """Return a call to be made later."""
    return lambda connected: connected.ask(query, {"input": given})


def in_queue(name: str) -> dict[str, Any]:
    """Return how a queue is named in inputs."""
    return {"entityName": "admin", "projectName": "model-registry", "queueName": name}


def push_input(queue: str) -> dict[str, Any]:
    """Return the input of a push."""
    return {**in_queue(queue), "runSpec": json.dumps(SPEC)}


def pop_input(queue: str, agent: str) -> dict[str, Any]:
    """Return the input of a claim."""
    return {**in_queue(queue), "launchAgentId": agent}


@contextmanager
def server(folder: Path, url: str | None) -> Generator[tuple[Client, psutil.Process]]:
    """Run a server process; gives a client of it, and the process."""
    command = [sys.executable, "-m", "launchbay", "server", "--data-dir", str(folder), "--port", "0"]
    environment = {**os.environ, **({"LAUNCHBAY_DATABASE_URL": url} if url else {})}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        base_url = process.stdout.readline().split()[-1]
        yield Client(base_url, (folder / "admin-api-key").read_text().strip()), psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)


def cpu_seconds(process: psutil.Process) -> float:
    """Return the CPU time that a process has used."""
    used = process.cpu_times()
    return used.user + used.system


def engine_of(url: str | None) -> str:
    """Return the engine's name for the tables."""
    return "PostgreSQL" if url else "SQLite"


def print_tables(rates: list[Rates], latencies: list[Latencies]) -> None:
    """Print what was measured."""
    print("| engine | " + " | ".join(f"{what}s/s (CPU ms each)" for what in rates[0].per_second) + " |")
    print("| --- " * (len(rates[0].per_second) + 1) + "|")
    for row in rates:
        cells = [f"{rate:,.0f} ({row.cpu_ms[what]:.2f})" for what, rate in row.per_second.items()]
        print(f"| {row.engine} | " + " | ".join(cells) + " |")
    if latencies:
        print("\n| engine | claim from a short queue p50/p99 ms | from the long queue p50/p99 ms | ratio of the p99 |")
        print("| --- | --- | --- | --- |")
    for row in latencies:
        short, long = percentile(row.short_queue, 99), percentile(row.long_queue, 99)
        print(
            f"| {row.engine} | {percentile(row.short_queue, 50):.2f} / {short:.2f} "
            f"| {percentile(row.long_queue, 50):.2f} / {long:.2f} | {long / short:.2f} |"
        )


def percentile(values: list[float], percent: int) -> float:
    """Return a percentile."""
    return statistics.quantiles(values, n=100)[percent - 1]


if __name__ == "__main__":
    main()
