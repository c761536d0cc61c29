"""How many rows of histories are taken in while many runs log, and how long a request of a file stream takes.

Twice: each run sends as fast as it is answered, which tells the most that goes in; and all of them together send as
many rows a second as are asked for, each run at its own pace, as clients do. Then a request's time counts from when it
was due, so that a server that stalls is not spared the requests that it holds up. What is sent is made before.
"""

import asyncio
import json
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import psutil

from benchmarks.claims import Client, Connected, cpu_seconds, percentile
from benchmarks.tracking.filled import PROJECT, history_row
from benchmarks.tracking.table import show

STREAMS = 20
ROWS_EACH = 250
"""Rows in a request, and with them a summary."""
ROWS_PER_SECOND, P99_MS = 50_000, 100
"""What is asked."""
MOST_PER_SECOND = 200_000
"""Nobody takes in more: so much is made beforehand."""
START = """mutation UpsertBucket($name: String!, $project: String!) {
  upsertBucket(input: {name: $name, modelName: $project, host: "bench"}) { bucket { id } } }"""

Times = list[float]
"""How long requests took, in ms."""


async def measure_streams(client: Client, process: psutil.Process, seconds: float) -> None:
    """Send at full speed, and then at the pace that is asked."""
    bodies = made(int(MOST_PER_SECOND * seconds / STREAMS / ROWS_EACH))
    interval = ROWS_EACH * STREAMS / ROWS_PER_SECOND

    async def at_once(number: int, send: Callable[[bytes], Awaitable[None]], end: float) -> Times:
        times: Times = []
        for body in bodies:
            start = time.perf_counter()
            if start > end:
                break
            await send(body)
            times.append((time.perf_counter() - start) * 1000)
        return times

    async def at_a_pace(number: int, send: Callable[[bytes], Awaitable[None]], end: float) -> Times:
        times: Times = []
        due = time.perf_counter() + interval * number / STREAMS
        for body in bodies:
            if due > end:
                break
            await asyncio.sleep(due - time.perf_counter())
            await send(body)
            times.append((time.perf_counter() - due) * 1000)
            due += interval
        return times

    for prefix, pace, how in (
        ("f", at_once, "as fast as they are answered"),
        ("p", at_a_pace, f"{ROWS_PER_SECOND:,} rows/s together"),
    ):
        cpu, start = cpu_seconds(process), time.perf_counter()
        times = await run_all(client, prefix, pace, start + seconds)
        taken, used = time.perf_counter() - start, cpu_seconds(process) - cpu
        rows = len(times) * ROWS_EACH
        show(
            f"{STREAMS} runs log at once, {how}, {ROWS_EACH} rows of {len(history_row(0))} values a request",
            f"at least {ROWS_PER_SECOND:,} rows/s; p99 at most {P99_MS} ms",
            f"{rows / taken:,.0f} rows/s; p99 {percentile(times, 99):.0f} ms (median {statistics.median(times):.0f} "
            f"ms, longest {max(times):.0f} ms, CPU {used / rows * 1e6:.1f} us a row)",
        )


Pace = Callable[[int, Callable[[bytes], Awaitable[None]], float], Awaitable[Times]]


async def run_all(client: Client, prefix: str, pace: Pace, end: float) -> Times:
    """Have all runs send until then."""

    async def run(number: int) -> Times:
        name = f"{prefix}{number}"
        async with client.connected() as connected:
            await connected.ask(START, {"name": name, "project": PROJECT})
            return await pace(number, sender(connected, name), end)

    return [took for times in await asyncio.gather(*(run(number) for number in range(STREAMS))) for took in times]


def sender(connected: Connected, name: str) -> Callable[[bytes], Awaitable[None]]:
    """Return what sends one request of a run."""
    path = f"/files/admin/{PROJECT}/{name}/file_stream"

    async def send(body: bytes) -> None:
        await connected.post(path, body)

    return send


def made(count: int) -> Sequence[bytes]:
    """Return what a run sends, request by request."""
    return [_body(number * ROWS_EACH) for number in range(count)]


def _body(offset: int) -> bytes:
    rows = [json.dumps(history_row(offset + index)) for index in range(ROWS_EACH)]
    files: dict[str, Any] = {
        "wandb-history.jsonl": {"offset": offset, "content": rows},
        "wandb-summary.json": {"offset": 0, "content": rows[-1:]},
    }
    return json.dumps({"files": files}).encode()
