"""The agents that are measured: ours and the stock one, each as the process that a user would start."""

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks import processes
from benchmarks.site import QUEUE, Site, until

SETTLE_SECONDS = 1.0
"""From an agent's first sign of life until it waits for work."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """An agent to be measured."""

    name: str
    command: tuple[str, ...]
    is_ours: bool

    def arguments(self, state: Path, max_jobs: int) -> list[str]:
        """Return its command line."""
        more = ["--state-dir", str(state)] if self.is_ours else ["-e", "admin"]
        return [*self.command, "-q", QUEUE, "-j", str(max_jobs), *more]


OURS = Contestant("Launchbay", ("launchbay", "agent"), is_ours=True)
STOCK = Contestant("stock agent", ("wandb", "launch-agent"), is_ours=False)
FAKE = Contestant("Launchbay", ("python", "-m", "benchmarks.agent.on_fake_platform", "agent"), is_ours=True)
"""Ours, whose launches run nowhere."""


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent at work."""

    contestant: Contestant
    site: Site
    state: Path
    process: subprocess.Popen[bytes]

    def members(self) -> list[psutil.Process]:
        """Return the agent's process and its helpers. Only while no job runs."""
        return processes.family(self.process.pid)

    async def ready(self) -> None:
        """Wait until it waits for work."""
        await until(lambda: self.site.agent_says() == "POLLING")
        await asyncio.sleep(SETTLE_SECONDS)

    async def done(self) -> float:
        """Wait until it has nothing left to do; returns when that was.

        Ours tells the server the end of each item. The stock agent tells none; it says that it polls again.
        """
        if self.contestant.is_ours:
            return await self.site.all_ended()
        await until(lambda: self.site.agent_says() == "POLLING")
        return self.site.query("SELECT max(heartbeat_at) FROM launch_agents")[0][0]

    def kill(self) -> None:
        """Kill the agent alone. Its jobs go on."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@asynccontextmanager
async def agent(contestant: Contestant, site: Site, max_jobs: int, config: Sequence[str] = ()) -> AsyncGenerator[Agent]:
    """Run an agent while the block runs; at the end it is killed."""
    state = site.folder / "agent"
    command = [*contestant.arguments(state, max_jobs), *config]
    process = processes.start(command, site.environment(), site.folder / "agent.log")
    try:
        yield Agent(contestant, site, state, process)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
