"""What an agent costs while nothing happens, how soon it is back after a crash, and how long the command takes."""

import asyncio
import subprocess
import time
from pathlib import Path
from statistics import median

from agent.observability.status_app import ask_status
from benchmarks import processes
from benchmarks.agent.contestants import FAKE, OURS, Agent, Contestant, agent
from benchmarks.agent.table import Cell, Scale, Values
from benchmarks.processes import BIN
from benchmarks.site import site, start_times, until

AT_ONCE = 8
UNLIMITED = -1
FOR_EVER = ["sleep", "100000"]
QUIET_SECONDS = 5.0
"""From the last event until an agent counts as idle."""
LOOK_SECONDS = 0.5
FEW_JOBS = 16
PROBE = "probe"


async def tracked(folder: Path, scale: Scale) -> Values:
    """Measure RSS (MiB) and CPU (percent of a core) of an agent with 10,000 running launches of which none changes.

    The launches come the usual way, through a real server, to an agent with everything that it does by default. They
    run on a fake platform in the agent's process, whose memory is counted too.
    """
    launches = scale.of(10_000, 1_000)
    async with site(folder) as here:
        await here.push_many(["true"], launches)
        async with agent(FAKE, here, UNLIMITED) as at_work:
            await until(lambda: here.count("state = 'CLAIMED'") == launches)
            await _all_started(at_work, launches)
            await asyncio.sleep(QUIET_SECONDS)
            return await _idle(at_work, scale.of(30, 10))


async def restart(folder: Path, scale: Scale) -> Values:
    """Measure seconds from the start of an agent until it has adopted 1,000 running launches and takes new ones.

    The launches are processes (`sleep`) whose agent was killed. All are adopted when the new agent says that it holds
    them, and has started a job that waited in the queue: it takes none before it has looked at every launch.
    """
    launches, marks = scale.of(1000, 100), folder / PROBE
    async with site(folder) as here:
        await here.push_many(FOR_EVER, launches)
        async with agent(OURS, here, UNLIMITED) as killed:
            await until(lambda: here.count("state = 'CLAIMED'") == launches)
            await _all_started(killed, launches)
            killed.kill()
        await here.push_pile(marks, 1)
        began = time.time()
        async with agent(OURS, here, UNLIMITED) as successor:
            started = (await start_times(marks, 1))[0]
            await _all_started(successor, launches)
            adopted = time.time()
        # A look at all of them takes a while itself, so the later of the two is a little too late, never too early.
        return (max(started, adopted) - began,)


def idle(contestant: Contestant) -> Cell:
    """Measure RSS (MiB) and CPU (percent of a core) of an agent that has run some jobs and waits for more.

    Both sum up the agent's process and its helpers (ours: the keeper; the stock agent: `wandb-core`, where it has
    one). The pages of Python's library, which helpers share with it, count once.
    """

    async def cell(folder: Path, scale: Scale) -> Values:
        async with site(folder) as here, agent(contestant, here, AT_ONCE) as at_work:
            await at_work.ready()
            await here.push_pile(folder / "pile", FEW_JOBS)
            await start_times(folder / "pile", FEW_JOBS)
            await at_work.done()
            await asyncio.sleep(QUIET_SECONDS)
            return await _idle(at_work, scale.of(40, 15))

    return cell


def version(*command: str) -> Cell:
    """Measure milliseconds of a command; the median of ten."""

    async def cell(folder: Path, scale: Scale) -> Values:
        found: list[float] = []
        for _ in range(scale.of(10, 5)):
            began = time.perf_counter()
            subprocess.run(
                [str(BIN / command[0]), *command[1:]], cwd=folder, check=True, stdout=subprocess.DEVNULL, timeout=60
            )
            found.append(time.perf_counter() - began)
        return (median(found) * 1000,)

    return cell


async def _idle(at_work: Agent, seconds: float) -> Values:
    members = at_work.members()
    before, began = processes.cpu_seconds(members), time.perf_counter()
    await asyncio.sleep(seconds)
    used = processes.cpu_seconds(members) - before
    return processes.rss_mib(members), used / (time.perf_counter() - began) * 100


async def _all_started(at_work: Agent, launches: int) -> None:
    while True:
        status = await ask_status(at_work.state)
        if status and sum(launch["stage"] == "started" for launch in status["launches"]) >= launches:
            return
        await asyncio.sleep(LOOK_SECONDS)
