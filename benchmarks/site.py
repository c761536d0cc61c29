"""A server of its own with one queue, and what a benchmark does there: push, and look into the server's database.

The database (SQLite) is read beside the server, so that looking costs the server nothing.
"""

import asyncio
import json
import os
import sqlite3
import subprocess
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import psutil

from agent.control_plane import ControlPlane
from benchmarks import processes
from benchmarks.processes import BIN
from protocol.names import QUEUE_PROJECT

QUEUE = "bench"
PROJECT = "bench"
PUSHES_AT_ONCE = 16
LOOK_SECONDS = 0.05
SERVE = ("launchbay", "server")

_QUEUE = """mutation UpsertRunQueue($input: UpsertRunQueueInput!) { upsertRunQueue(input: $input) { success } }"""
_PUSH = """mutation PushToRunQueueByName($input: PushToRunQueueByNameInput!) {
  pushToRunQueueByName(input: $input) { runQueueItemId } }"""
_RUN = """mutation UpsertBucket($project: String, $name: String) {
  upsertBucket(input: {entityName: "admin", modelName: $project, name: $name}) { bucket { id } } }"""
_STOP = "mutation Stop($id: ID!) { stopRunQueueItem(input: {runQueueItemId: $id}) { success } }"


@dataclass
class Site:
    """A server at work. Times are in seconds since the epoch."""

    folder: Path
    """Of the benchmark; everything is below it."""
    url: str
    key: str
    server: psutil.Process
    control: ControlPlane
    resource: str = "local-process"
    """Of the queue."""

    def environment(self, **more: str) -> dict[str, str]:
        """Return the variables of a client or an agent that shares no file with the user's own."""
        folders = ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR")
        return {
            **_inherited(),
            **dict.fromkeys(folders, str(self.folder)),
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "WANDB_BASE_URL": self.url,
            "WANDB_API_KEY": self.key,
            "WANDB_SILENT": "true",
            **more,
        }

    # --- pushing -----------------------------------------------------------------------------------------------------

    async def push(self, entry_point: Sequence[str], **more: Any) -> str:
        """Push a job without code; returns its item."""
        return await self._push({"uri": "placeholder-benchmark", "overrides": {"entry_point": entry_point}, **more})

    async def push_pile(self, marks: Path, jobs: int, job: str | None = None) -> None:
        """Push jobs that touch a file of their own as they start.

        The runs of these jobs are on record already. The stock agent would otherwise keep each of them for a minute, in
        the hope that it still calls `wandb.init`.
        """
        marks.mkdir(exist_ok=True)
        limit = asyncio.Semaphore(PUSHES_AT_ONCE)

        async def push(number: int) -> None:
            mark, run = str(marks / str(number)), f"{marks.name}-{number}"
            async with limit:
                await self.control.ask(_RUN, project=PROJECT, name=run)
                if job is None:
                    await self.push(["touch", mark], run_id=run)
                else:
                    await self._push({"job": job, "overrides": {"args": [mark]}, "run_id": run})

        await asyncio.gather(*(push(number) for number in range(jobs)))

    async def push_many(self, entry_point: Sequence[str], jobs: int, image: str = "") -> None:
        """Push the same job many times; without code, or what is in an image."""
        limit = asyncio.Semaphore(PUSHES_AT_ONCE)

        async def push() -> None:
            async with limit:
                if image:
                    await self._push({"docker": {"docker_image": image}, "overrides": {"entry_point": entry_point}})
                else:
                    await self.push(entry_point)

        await asyncio.gather(*(push() for _ in range(jobs)))

    async def stop(self, item: str) -> None:
        """Ask for the stop of a launch."""
        await self.control.ask(_STOP, id=item)

    async def _push(self, spec: Mapping[str, Any]) -> str:
        whole = {"entity": "admin", "project": PROJECT, "resource": self.resource, "docker": {}, "git": {}, **spec}
        pushed = await self.control.ask(
            _PUSH,
            input={
                "entityName": "admin",
                "projectName": QUEUE_PROJECT,
                "queueName": QUEUE,
                "runSpec": json.dumps(whole),
            },
        )
        return pushed["pushToRunQueueByName"]["runQueueItemId"]

    # --- looking -----------------------------------------------------------------------------------------------------

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Ask the server's database."""
        path = self.folder / "server" / "launchbay.db"
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as database:
            return database.execute(sql).fetchall()

    def count(self, condition: str) -> int:
        """Return how many items are like that."""
        return self.query(f"SELECT count(*) FROM run_queue_items WHERE {condition}")[0][0]  # noqa: S608 -- our own words

    def agent_says(self) -> str:
        """Return what the newest agent has last said of itself; empty if there was none yet."""
        rows = self.query("SELECT status FROM launch_agents ORDER BY id DESC LIMIT 1")
        return rows[0][0] if rows else ""

    async def all_ended(self) -> float:
        """Wait until the server knows the end of every item; returns when it knew the last."""
        await until(lambda: not self.count("ended_at IS NULL"))
        return self.query("SELECT max(ended_at) FROM run_queue_items")[0][0]


@asynccontextmanager
async def site(
    folder: Path, command: Sequence[str] = SERVE, resource: str = "local-process", **environment: str
) -> AsyncGenerator[Site]:
    """Run a server, with a queue of a resource, while the block runs; it has these variables in addition."""
    folder.mkdir(parents=True, exist_ok=True)
    data_dir, log = folder / "server", folder / "server.log"
    arguments = [*command, "--port", "0", "--data-dir", str(data_dir)]
    process = processes.start(arguments, {**_inherited(), **environment}, log)
    try:
        await until(lambda: b"first user's API key" in log.read_bytes() or process.poll() is not None)
        if process.returncode is not None:
            raise subprocess.CalledProcessError(process.returncode, arguments, log.read_bytes())
        url = next(word for word in log.read_text().split() if word.startswith("http://"))
        key = (data_dir / "admin-api-key").read_text().strip()
        async with ControlPlane(url, key, random=Random(1)) as control:
            await control.ask(
                _QUEUE,
                input={
                    "entityName": "admin",
                    "projectName": QUEUE_PROJECT,
                    "queueName": QUEUE,
                    "resourceType": resource,
                    "resourceConfig": json.dumps({"resource_args": {resource: {}}}),
                },
            )
            yield Site(folder, url, key, psutil.Process(process.pid), control, resource)
    finally:
        await processes.end(process)


def _inherited() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "LAUNCHBAY_"))}


async def until(check: Callable[[], bool]) -> None:
    """Wait until something is so. How long that may take is the caller's to limit."""
    while not check():
        await asyncio.sleep(LOOK_SECONDS)


async def start_times(marks: Path, jobs: int) -> list[float]:
    """Wait until all jobs of a pile have started; returns when each did, in order."""
    await until(lambda: sum(1 for _ in marks.iterdir()) >= jobs)
    return sorted(path.stat().st_mtime for path in marks.iterdir())


def rate(times: Iterable[float], after: int = 1) -> float:
    """Return how many events there were per second after the first ones."""
    ordered = sorted(times)
    return (len(ordered) - after) / max(ordered[-1] - ordered[after - 1], 1e-9)
