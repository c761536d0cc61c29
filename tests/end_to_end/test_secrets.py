"""An API key is in the environment of its job and of its agent, and nowhere else: neither while it runs nor afterwards.

Two launches, one with the agent's key and one with a key that came with its item; and a third with such a key that
fails before its start. Their agent is killed in the middle, and another goes on.
"""

import asyncio
import hashlib
import os
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.agent.gate import gate
from tests.end_to_end.conftest import LiveServer, serving
from tests.end_to_end.processes import (
    agent,
    item,
    logs,
    make_queue,
    push,
    push_as_it_is,
    python,
    run,
    spec,
    until,
    wait_for,
)

pytestmark = pytest.mark.end_to_end

QUEUE = "secrets"
AGENTS_KEY, OWN_KEY, NEVER_STARTS = "agents-key", "own-key", "never-starts"
JOB = """
import hashlib, os, pathlib, time, wandb
folder = pathlib.Path({folder!r}) / os.environ["WANDB_PROJECT"]
with wandb.init() as run:
    run.log({{"value": 1}})
    folder.mkdir()
    (folder / "digest").write_text(hashlib.sha256(os.environ["WANDB_API_KEY"].encode()).hexdigest())
    while not (folder.parent / "go").exists():
        time.sleep(0.05)
"""
PRINTING = """
import os, time
key = os.environ["WANDB_API_KEY"]
print(f"before\\nkey: {key}")
print(key[:20], end="", flush=True)
time.sleep(2)
print(key[20:] + "\\nafter")
"""


@dataclass(frozen=True, slots=True)
class Place:
    """A server of this test's own, and where everything around it keeps its files."""

    server: LiveServer
    data_dir: Path
    state_dir: Path
    own_key: str
    """Another one of the server's first user."""

    @property
    def kept(self) -> list[Path]:
        """Every file that server and agent have written, but the one that is made to hold a key."""
        folders = (self.data_dir, self.state_dir)
        files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
        files.append(self.state_dir.with_suffix(".log"))
        return [path for path in files if path != self.data_dir / "admin-api-key"]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A server on SQLite, with its log among its data."""
    data_dir, client = tmp_path / "data", tmp_path / "client"
    data_dir.mkdir()
    client.mkdir()
    with serving(data_dir) as (url, key):
        server = LiveServer(url, key, client)
        made = run(server, "launchbay", "user", "key", "admin", "--data-dir", str(data_dir))
        make_queue(server, QUEUE)
        yield Place(server, data_dir, tmp_path / "state", made.stdout.split()[-1])


def give_own_key(key: str) -> Any:
    """Return what a server does that gives some runs a key of their own: it comes with the item and is nowhere else."""

    def change(data: Any) -> None:
        popped = data["popFromRunQueue"]
        if popped and popped["runSpec"]["project"] in {OWN_KEY, NEVER_STARTS}:
            popped["runSpec"]["_wandb_api_key"] = key

    return change


def found_in(secrets: Iterable[str], files: Iterable[Path]) -> list[str]:
    """Return which files hold one of the secrets; files may go meanwhile."""
    hits: list[str] = []
    for path in files:
        try:
            content = path.read_bytes()
        except OSError:
            continue
        hits += [str(path) for secret in secrets if secret.encode() in content]
    return hits


async def test_keys_stand_nowhere(place: Place, tmp_path: Path) -> None:
    async with gate(place.server.base_url) as before:
        before.after["PopFromRunQueue"] = give_own_key(place.own_key)
        await asyncio.to_thread(_look_while_jobs_run_and_afterwards, place, before.url, tmp_path)


def _look_while_jobs_run_and_afterwards(place: Place, url: str, folder: Path) -> None:
    server, keys = place.server, {AGENTS_KEY: place.server.api_key, OWN_KEY: place.own_key}
    assert len(set(keys.values())) == 2

    def look() -> None:
        command_lines = Path("/proc").glob("[0-9]*/cmdline")
        assert found_in(keys.values(), [*place.kept, *command_lines]) == []

    with agent(server, QUEUE, place.state_dir, "-vv", WANDB_BASE_URL=url) as first:
        job = python(JOB.format(folder=str(folder)))
        items = [push(server, QUEUE, spec(job, project)) for project in keys]
        no_job = {"entity": "admin", "project": NEVER_STARTS, "job": f"admin/{NEVER_STARTS}/no-such-job:latest"}
        lost = push_as_it_is(server, QUEUE, no_job)
        wait_for(server, lost, "FAILED")
        for project, key in keys.items():
            until((folder / project / "digest").exists, f"{project} to run")
            digest = hashlib.sha256(key.encode()).hexdigest()
            assert (folder / project / "digest").read_text() == digest, "the job has its key"
        # What is looked at is what should be: a job's folder, the journal, the database, logs with something in them.
        names = {path.name for path in place.kept if path.stat().st_size}
        assert {"record.jsonl", "journal.db", "launchbay.db", "server.log", "state.log"} <= names, names
        look()
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
    with agent(server, QUEUE, place.state_dir, "-vv", WANDB_BASE_URL=url):
        look()
        (folder / "go").touch()
        states = [wait_for(server, each, "FINISHED", "FAILED", "CRASHED")["state"] for each in items]
        assert states == ["FINISHED", "FINISHED"]
        shown = str([item(server, each) for each in [*items, lost]])
        assert not any(key in shown for key in keys.values())
    look()


@pytest.mark.parametrize("project", [AGENTS_KEY, OWN_KEY])
async def test_a_key_that_a_job_prints_is_masked_in_its_log(place: Place, project: str) -> None:
    """Also one that comes in two pieces, while the log is followed."""
    async with gate(place.server.base_url) as before:
        before.after["PopFromRunQueue"] = give_own_key(place.own_key)
        await asyncio.to_thread(_read_what_it_printed, place, before.url, project)


def _read_what_it_printed(place: Place, url: str, project: str) -> None:
    key = place.own_key if project == OWN_KEY else place.server.api_key
    with agent(place.server, QUEUE, place.state_dir, WANDB_BASE_URL=url):
        item_id = push(place.server, QUEUE, spec(python(PRINTING), project))
        wait_for(place.server, item_id, "FAILED")
        mask = "*" * len(key)
        assert logs(place.server, item_id).splitlines() == ["before", f"key: {mask}", mask, "after"]
    assert found_in([key], place.kept) == []
