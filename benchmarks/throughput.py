"""No-op jobs through server and agent, beside the stock agent and beside bare process spawns, in one run.

    python -m benchmarks.throughput [--jobs 500] [--stock-jobs 50] [--trickle 50]

A job here is one launch of `touch` without code, so what is measured is the machinery alone. The server is ours in both
cases. Machines are noisy: compare the columns of one run, not runs with each other.
"""

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import psutil

from agent.control_plane import ControlPlane
from protocol.names import QUEUE_PROJECT

BIN = Path(sys.executable).parent
QUEUE = "bench"
TRICKLE_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Result:
    """What one contestant reached; None where it was not measured."""

    name: str
    jobs: int
    started_per_second: float
    ended_per_second: float | None = None
    start_p50_ms: float | None = None
    start_p99_ms: float | None = None
    agent_rss_mib: float | None = None
    agent_cpu_ms_per_job: float | None = None


def main() -> None:
    """Run all contestants and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=500, help="jobs for Launchbay and for bare spawns")
    parser.add_argument("--stock-jobs", type=int, default=50, help="jobs for the stock agent, which is slow")
    parser.add_argument("--trickle", type=int, default=50, help="jobs that come one by one, for the latency")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = asyncio.run(measure(Path(folder), options.jobs, options.stock_jobs, options.trickle))
    print_table(results)


async def measure(folder: Path, jobs: int, stock_jobs: int, trickle: int) -> list[Result]:
    """Run the contestants one after the other, each on an idle machine."""
    results = [bare_spawns(jobs)]
    with server(folder) as (base_url, key):
        async with ControlPlane(base_url, key, random=Random(1)) as control:
            await make_queue(control)
            ours = ["launchbay", "agent", "-q", QUEUE, "-j", "-1", "--state-dir", str(folder / "agent")]
            stock = ["wandb", "launch-agent", "-q", QUEUE, "-j", "-1"]
            results.append(await contestant("launchbay agent", ours, control, folder, jobs, trickle))
            results.append(await contestant("wandb launch-agent", stock, control, folder, stock_jobs, 5))
    return results


def bare_spawns(jobs: int) -> Result:
    """Start and wait for processes, eight at a time, with nothing around them."""
    started = time.perf_counter()
    running: list[subprocess.Popen[bytes]] = []
    for _ in range(jobs):
        if len(running) == 8:
            running.pop(0).wait()
        running.append(subprocess.Popen(["/bin/true"]))
    for process in running:
        process.wait()
    rate = jobs / (time.perf_counter() - started)
    return Result("bare process spawns", jobs, rate, rate)


async def contestant(
    name: str, command: list[str], control: ControlPlane, folder: Path, jobs: int, trickle: int
) -> Result:
    """Measure one agent: a pile of jobs that waits for it, then jobs that come one by one to the idle agent."""
    marks = folder / name.replace(" ", "-")
    marks.mkdir()
    for number in range(jobs):
        await push(control, marks / f"pile-{number}")
    environment = {
        **os.environ,
        "WANDB_BASE_URL": control.base_url,
        "WANDB_API_KEY": control.api_key,
        "WANDB_DIR": str(marks),
        "WANDB_CONFIG_DIR": str(marks),
        "WANDB_SILENT": "true",
    }
    with (folder / f"{marks.name}.log").open("wb") as log:
        process = subprocess.Popen(
            [str(BIN / command[0]), *command[1:]], env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        times = await started_times(marks, jobs)
        ended = await all_ended(control, jobs) if "launchbay" in name else None
        cpu, rss = usage(process)
        latencies = await trickled(control, marks, trickle)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    first, last = min(times), max(times)
    return Result(
        name,
        jobs,
        (jobs - 1) / (last - first),
        (jobs - 1) / (ended - first) if ended else None,
        statistics.median(latencies) * 1000,
        statistics.quantiles(latencies, n=100)[98] * 1000 if len(latencies) >= 20 else max(latencies) * 1000,
        rss,
        cpu / jobs * 1000,
    )


async def push(control: ControlPlane, mark: Path) -> None:
    """Push a job that leaves a file as it starts. The file's time is the moment of its start."""
    spec = {
        "entity": "admin",
        "project": "bench",
        "uri": "placeholder-benchmark",
        "resource": "local-process",
        "docker": {},
        "git": {},
        "overrides": {"entry_point": ["touch", str(mark)]},
    }
    await control.ask(
        """mutation PushToRunQueueByName($input: PushToRunQueueByNameInput!) {
             pushToRunQueueByName(input: $input) { runQueueItemId }
           }""",
        input={"entityName": "admin", "projectName": QUEUE_PROJECT, "queueName": QUEUE, "runSpec": json.dumps(spec)},
    )


async def started_times(marks: Path, jobs: int) -> list[float]:
    """Wait until every job of the pile has started; returns when each did."""
    while len(found := list(marks.glob("pile-*"))) < jobs:
        await asyncio.sleep(0.05)
    return [path.stat().st_mtime for path in found]


async def all_ended(control: ControlPlane, jobs: int) -> float:
    """Wait until the server knows the end of every job; returns when that was seen."""
    while True:
        data = await control.ask(
            """query Ended($project: String!, $first: Int!) {
                 project(entityName: "admin", name: $project) {
                   runQueue(name: "bench") { runQueueItems(first: $first) { edges { node { endedAt } } } }
                 }
               }""",
            project=QUEUE_PROJECT,
            first=jobs,
        )
        edges: list[Mapping[str, Any]] = data["project"]["runQueue"]["runQueueItems"]["edges"]
        if all(edge["node"]["endedAt"] for edge in edges):
            return time.time()
        await asyncio.sleep(0.1)


async def trickled(control: ControlPlane, marks: Path, jobs: int) -> list[float]:
    """Push jobs one by one to the idle agent; returns how long each took from the push to its start, in seconds."""
    latencies: list[float] = []
    await asyncio.sleep(1)
    for number in range(jobs):
        mark = marks / f"trickle-{number}"
        pushed = time.time()
        await push(control, mark)
        while not mark.exists():
            await asyncio.sleep(0.001)
        latencies.append(mark.stat().st_mtime - pushed)
        await asyncio.sleep(TRICKLE_SECONDS)
    return latencies


def usage(process: subprocess.Popen[bytes]) -> tuple[float, float]:
    """Return CPU seconds and resident MiB of an agent with its helpers; the jobs themselves have ended."""
    agent = psutil.Process(process.pid)
    family = [agent, *agent.children(recursive=True)]
    times = [member.cpu_times() for member in family]
    cpu = sum(each.user + each.system for each in times)
    return cpu, sum(member.memory_info().rss for member in family) / 2**20


async def make_queue(control: ControlPlane) -> None:
    """Make the queue that both agents serve."""
    await control.ask(
        """mutation UpsertRunQueue($input: UpsertRunQueueInput!) { upsertRunQueue(input: $input) { success } }""",
        input={
            "entityName": "admin",
            "projectName": QUEUE_PROJECT,
            "queueName": QUEUE,
            "resourceType": "local-process",
            "resourceConfig": '{"resource_args": {"local-process": {}}}',
        },
    )


@contextmanager
def server(folder: Path) -> Generator[tuple[str, str]]:
    """Run a server; gives its URL and the first user's key."""
    process = subprocess.Popen(
        [str(BIN / "launchbay"), "server", "--port", "0", "--data-dir", str(folder / "server")],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        base_url = process.stdout.readline().split()[-1]
        yield base_url, (folder / "server" / "admin-api-key").read_text().strip()
    finally:
        process.terminate()
        process.wait()


def print_table(results: list[Result]) -> None:
    """Print the results as a Markdown table."""

    def shown(value: float | None, unit: str = "", digits: int = 0) -> str:
        return "-" if value is None else f"{value:.{digits}f}{unit}"

    print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}\n")
    print("| | jobs | starts / s | ends / s | enqueue to start p50 | p99 | agent RSS | agent CPU per job |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for result in results:
        row = [
            result.name,
            str(result.jobs),
            shown(result.started_per_second, digits=1),
            shown(result.ended_per_second, digits=1),
            shown(result.start_p50_ms, " ms"),
            shown(result.start_p99_ms, " ms"),
            shown(result.agent_rss_mib, " MiB"),
            shown(result.agent_cpu_ms_per_job, " ms", 1),
        ]
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
