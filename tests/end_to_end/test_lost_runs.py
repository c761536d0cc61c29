"""Runs that wait, and runs whose machine is lost: their states as the stock client sees them, while time goes by."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from aiohttp.test_utils import TestServer

from server.app import build_app
from server.run_state import HEARTBEAT_TIMEOUT_SECONDS
from server.start import ADMIN_KEY_FILE, opened
from tests.end_to_end.conftest import LiveServer
from tests.end_to_end.snippets.checks import shows

pytestmark = [pytest.mark.end_to_end, pytest.mark.newest_client("the states are the server's")]

START = """
import os, time, psutil, wandb
wandb.apis.public.Run.create(wandb.Api(), run_id="pending", project="lost", entity="admin", state="pending")
settings = wandb.Settings(reinit="create_new")
runs = {name: wandb.init(entity="admin", project="lost", id=name, settings=settings) for name in ("silent", "spot")}
runs["spot"].mark_preempting()
while wandb.Api().run("admin/lost/spot").state != "preempting":
    time.sleep(0.1)
for process in psutil.Process().children(recursive=True):
    process.kill()
os._exit(9)
"""
STATES = """
import json, wandb
api = wandb.Api()
found = {run.id: run.state for run in api.runs("admin/lost")}
for name, state in found.items():
    assert [run.id for run in api.runs("admin/lost", {"state": state})] == [name]
print(json.dumps(found))
"""
GO_ON = """
import wandb
for name in ("pending", "silent", "spot"):
    with wandb.init(entity="admin", project="lost", id=name, resume="must" if name != "pending" else None) as run:
        assert wandb.Api().run(f"admin/lost/{name}").state == "running"
assert {run.state for run in wandb.Api().runs("admin/lost")} == {"finished"}
"""


@dataclass
class Clock:
    """The time, and more."""

    ahead: float = 0

    def __call__(self) -> float:
        """Return the time."""
        return time.time() + self.ahead


@dataclass(frozen=True)
class Timed:
    """A server with such a clock."""

    client: LiveServer
    """Starts the scripts."""
    url: str
    key: str
    clock: Clock

    async def script(self, code: str, *, ends: int = 0) -> str:
        """Run Python code with the stock client; returns its output. It must end with this code."""
        environment = {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": self.key}
        done = await asyncio.to_thread(self.client.run_script, code, **environment)
        assert done.returncode == ends, done.stdout + done.stderr
        return done.stdout

    async def states(self) -> dict[str, str]:
        """Return the state of each run, as the client sees it."""
        return json.loads(await self.script(STATES))


@pytest.fixture
async def timed(server: LiveServer, tmp_path: Path) -> AsyncIterator[Timed]:
    """A server whose time tests set."""
    clock = Clock()
    async with (
        opened(tmp_path / "data") as services,
        TestServer(build_app(replace(services, clock=clock))) as listening,
    ):
        key = (tmp_path / "data" / ADMIN_KEY_FILE).read_text().strip()
        yield Timed(server, str(listening.make_url("")).rstrip("/"), key, clock)


@shows("Run.create", "wandb.Run.mark_preempting", "Run.state", "Api.runs")
async def test_a_run_that_is_silent_has_crashed_or_was_preempted_and_can_go_on(timed: Timed) -> None:
    await timed.script(START, ends=9)
    assert await timed.states() == {"pending": "pending", "silent": "running", "spot": "preempting"}
    timed.clock.ahead = HEARTBEAT_TIMEOUT_SECONDS + 60
    assert await timed.states() == {"pending": "pending", "silent": "crashed", "spot": "preempted"}
    await timed.script(GO_ON)
