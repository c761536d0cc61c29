"""How soon first pages of lists of many runs, and samples of a long history, are there.

The documents are those of the stock client, one request after the other; each is asked a few times.
"""

import json
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

import psutil

from benchmarks.claims import Client, cpu_seconds
from benchmarks.tracking.filled import LONG_RUN, PROJECT
from benchmarks.tracking.table import show

REPEATS = 7
PAGE_MS, HISTORY_MS = 150, 300
"""What is asked."""
RUNS = """query Runs($project: String!, $entity: String!, $cursor: String, $perPage: Int = 50, $order: String,
  $filters: JSONString) { project(name: $project, entityName: $entity) { internalId runCount(filters: $filters) readOnly
  runs(filters: $filters, after: $cursor, first: $perPage, order: $order) { edges { node { id tags name displayName
  sweepName state group jobType commit readOnly createdAt heartbeatAt description notes historyLineCount projectId
  user { name username } } cursor } pageInfo { endCursor hasNextPage } } } }"""
HISTORY = """query RunFullHistory($project: String!, $entity: String!, $name: String!, $samples: Int) {
  project(name: $project, entityName: $entity) { run(name: $name) { history(samples: $samples) } } }"""
SAMPLED = """query RunSampledHistory($project: String!, $entity: String!, $name: String!, $specs: [JSONString!]!) {
  project(name: $project, entityName: $entity) { run(name: $name) { sampledHistory(specs: $specs) } } }"""
FILTERS: tuple[dict[str, Any], ...] = (
    {},
    {"summary_metrics.loss": {"$lt": 0.5}},
    {"summary_metrics.loss": {"$lt": 0.0005}},
    {"summary_metrics.metric_3": {"$exists": True}},
    {"config.optimizer.value": "adam"},
    {"config.optimizer": {"$ne": "adam"}},
    {"config.name": {"$in": ["model-1", "model-2", "model-3"]}},
    {"config.name": {"$regex": "^model-.*7$"}},
    {"$and": [{"config.lr": {"$gte": 0.5}}, {"summary_metrics.loss": {"$lt": 0.5}}]},
    {"$or": [{"config.lr": {"$gte": 0.9}}, {"tags": "tag-3"}]},
    {"$not": {"$or": [{"summary_metrics.loss": {"$lt": 0.5}}, {"config.optimizer": "adam"}]}},
    {"tags": "tag-3"},
    {"tags": {"$nin": ["tag-1", "tag-2"]}},
    {"display_name": {"$regex": "^run-1.*7$"}},
    {"display_name": {"$contains": "99"}},
    {"created_at": {"$gte": "2023-11-15T00:00:00Z"}},
    {"state": "finished"},
    {"username": "admin", "duration": {"$gt": 30}},
)
ORDERS = ("-created_at", "+summary_metrics.loss", "-config.lr", "+config.name", "-heartbeat_at", "+display_name")
KEYS = (["_step", "loss"], ["_step", "rare"], ["_step", "late"])


async def measure_lists(client: Client, process: psutil.Process) -> None:
    """Ask for first pages."""
    base = {"project": PROJECT, "entity": "admin", "filters": "{}", "order": "+created_at"}
    asks = [(f"filter `{json.dumps(filters)}`", {**base, "filters": json.dumps(filters)}) for filters in FILTERS]
    asks += [(f"order `{order}`", {**base, "order": order}) for order in ORDERS]
    async with client.connected() as connected:
        for what, given in asks:
            count = (await connected.ask(RUNS, given))["project"]["runCount"]
            found = await timed(process, lambda given=given: connected.ask(RUNS, given))
            show(f"first page of {count:,} runs, {what}", f"at most {PAGE_MS} ms", found)


async def measure_history(client: Client, process: psutil.Process) -> None:
    """Ask for samples of the long run."""
    base = {"project": PROJECT, "entity": "admin", "name": LONG_RUN}
    asks: list[tuple[str, str, dict[str, Any]]] = [("`history()`", HISTORY, {**base, "samples": 500})]
    for keys in KEYS:
        specs = [json.dumps({"keys": keys, "samples": 500})]
        asks.append((f"`history(keys={keys[1:]})`", SAMPLED, {**base, "specs": specs}))
    async with client.connected() as connected:
        for what, document, given in asks:
            run = (await connected.ask(document, given))["project"]["run"]
            rows = len(run["history"] if "history" in run else run["sampledHistory"][0])
            found = await timed(process, lambda given=given, document=document: connected.ask(document, given))
            show(f"{what} of a long run: {rows} rows", f"at most {HISTORY_MS} ms", found)


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
