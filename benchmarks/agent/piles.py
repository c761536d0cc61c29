"""Jobs through server and agent: how many a second, and what each costs.

A no-op job is a launch of `touch` without code, so what is measured is the machinery alone. It starts when its file
appears, by the file system's clock (its ticks are 4 ms or less; latencies begin and end on that clock). The runs of
piles are on record beforehand, for the stock agent's sake (see `Site.push_pile`). Bare spawns are the same programs,
started by this process.
"""

import asyncio
import os
import resource
import subprocess
import time
from pathlib import Path
from random import Random
from statistics import median, quantiles
from typing import Any

from benchmarks import processes
from benchmarks.agent.contestants import OURS, Contestant, agent
from benchmarks.agent.table import Cell, Scale, Values
from benchmarks.processes import BIN
from benchmarks.site import QUEUE, Site, rate, site, start_times, until

AT_ONCE = 8
UNLIMITED = -1
TRICKLE_SECONDS = 0.4
"""From a start until the next push, at most: long enough for the agent to be idle again most of the time."""
STOCK_TRICKLE_SECONDS = 10.0
"""The same for the stock agent: its own interval, so that pushes meet it at any moment of that."""
CLOCK_REALTIME_COARSE = 5
"""What the file system writes down; the `time` module has no name for it."""
LISTENER = 'trap "touch $2; exit" TERM; touch $1; sleep 60 & wait'
"""A job that touches its first file as it starts, and its second when it is told to end."""
JOB = f"admin/{QUEUE}/touch"
SCRIPT = "import sys\nopen(sys.argv[1], 'w').close()\n"


# --- with a limit ----------------------------------------------------------------------------------------------------


def limited(contestant: Contestant) -> Cell:
    """Measure jobs per second, eight at a time: starts after the first eight, each of which needs an earlier end."""

    async def cell(folder: Path, scale: Scale) -> Values:
        jobs = scale.of(2000, 300) if contestant.is_ours else scale.of(32, 16)
        async with site(folder) as here:
            await here.push_pile(folder / "pile", jobs)
            async with agent(contestant, here, AT_ONCE):
                return (rate(await start_times(folder / "pile", jobs), after=AT_ONCE),)

    return cell


async def limited_bare(folder: Path, scale: Scale) -> Values:
    """Start processes, eight at a time."""
    jobs = scale.of(2000, 300)
    began = time.perf_counter()
    running: list[subprocess.Popen[bytes]] = []
    for number in range(jobs):
        if len(running) == AT_ONCE:
            running.pop(0).wait()
        running.append(subprocess.Popen(["touch", str(folder / str(number))]))
    for process in running:
        process.wait()
    return (jobs / (time.perf_counter() - began),)


# --- without a limit -------------------------------------------------------------------------------------------------


def unlimited(contestant: Contestant) -> Cell:
    """Measure starts and ends per second of 50 jobs that waited; both from the first start. Medians of several piles.

    An end is when the server knows it, or when the stock agent says that it has nothing to do any more.
    """

    async def cell(folder: Path, scale: Scale) -> Values:
        repeats = scale.of(9, 3) if contestant.is_ours else scale.of(3, 1)
        found = [await _one_pile(contestant, folder / str(repeat)) for repeat in range(repeats)]
        return median(starts for starts, _ in found), median(ends for _, ends in found)

    return cell


async def _one_pile(contestant: Contestant, folder: Path, jobs: int = 50) -> tuple[float, float]:
    async with site(folder) as here:
        await here.push_pile(folder / "pile", jobs)
        async with agent(contestant, here, UNLIMITED) as at_work:
            times = await start_times(folder / "pile", jobs)
            ended = await at_work.done()
    return rate(times), (jobs - 1) / (ended - times[0])


async def unlimited_bare(folder: Path, scale: Scale) -> Values:
    """Start 50 processes at once, and wait for them."""
    found: list[Values] = []
    for repeat in range(scale.of(9, 3)):
        marks = folder / str(repeat)
        marks.mkdir()
        running = [subprocess.Popen(["touch", str(marks / str(number))]) for number in range(50)]
        for process in running:
            process.wait()
        times = await start_times(marks, 50)
        found.append((rate(times), 49 / (time.time() - times[0])))
    return median(starts for starts, _ in found), median(ends for _, ends in found)


# --- from a code artifact --------------------------------------------------------------------------------------------


def code(contestant: Contestant) -> Cell:
    """Measure starts per second of 50 jobs from one code artifact, whose environment an earlier one has had made.

    The job is made by the stock client: a Python script that imports next to nothing, and starts with its first line.
    """

    async def cell(folder: Path, scale: Scale) -> Values:
        async with site(folder) as here:
            await _make_job(here)
            async with agent(contestant, here, UNLIMITED) as at_work:
                await here.push_pile(folder / "first", 1, f"{JOB}:latest")
                await start_times(folder / "first", 1)
                await at_work.done()
                found: list[float] = []
                for repeat in range(scale.of(5, 2) if contestant.is_ours else 1):
                    await here.push_pile(folder / f"pile-{repeat}", 50, f"{JOB}:latest")
                    found.append(rate(await start_times(folder / f"pile-{repeat}", 50)))
                    await at_work.done()
                return (median(found),)

    return cell


async def code_bare(folder: Path, scale: Scale) -> Values:
    """Start the same script 50 times at once."""
    script = folder / "touch.py"
    script.write_text(SCRIPT)
    found: list[float] = []
    for repeat in range(scale.of(5, 2)):
        marks = folder / str(repeat)
        marks.mkdir()
        running = [subprocess.Popen([str(BIN / "python"), str(script), str(marks / str(n))]) for n in range(50)]
        for process in running:
            process.wait()
        found.append(rate(await start_times(marks, 50)))
    return (median(found),)


async def _make_job(here: Site) -> None:
    folder = here.folder / "code"
    folder.mkdir()
    (folder / "touch.py").write_text(SCRIPT)
    (folder / "requirements.txt").write_text("# The standard library is enough.\n")
    create = ["wandb", "job", "create", "code", str(folder), "-p", QUEUE, "-n", "touch", "-E", "python touch.py"]
    await processes.run(create, here.environment(), here.folder)


# --- one by one ------------------------------------------------------------------------------------------------------


def latency(contestant: Contestant) -> Cell:
    """Measure milliseconds from a push to the start of the job, of jobs that come one by one to an idle agent.

    Two percentiles. With few samples, as of the stock agent, the second is the longest.
    """

    async def cell(folder: Path, scale: Scale) -> Values:
        random, samples = Random(1), scale.of(300, 50) if contestant.is_ours else scale.of(15, 3)
        longest_pause = TRICKLE_SECONDS if contestant.is_ours else STOCK_TRICKLE_SECONDS
        found: list[float] = []
        async with site(folder) as here, agent(contestant, here, AT_ONCE) as at_work:
            await at_work.ready()
            for number in range(samples):
                await asyncio.sleep(longest_pause * random.random())
                found.append(await _pushed_until_started(here, folder / f"mark-{number}"))
        return _percentiles(found)

    return cell


async def _pushed_until_started(here: Site, mark: Path, **more: Any) -> float:
    pushed = time.clock_gettime(CLOCK_REALTIME_COARSE)
    await here.push(["touch", str(mark)], **more)
    await until(mark.exists)
    return mark.stat().st_mtime - pushed


async def cached(folder: Path, scale: Scale) -> Values:
    """Measure how many milliseconds later than without code the process of a cached job starts; of the medians.

    Code and environment are here since an earlier launch. Both kinds come one by one and in turns, to an idle agent.
    """
    random = Random(1)
    without_code: list[float] = []
    with_code: list[float] = []
    async with site(folder) as here:
        await _make_job(here)
        async with agent(OURS, here, AT_ONCE) as at_work:
            await here.push_pile(folder / "first", 1, f"{JOB}:latest")
            await start_times(folder / "first", 1)
            await at_work.done()
            for number in range(scale.of(150, 25)):
                for found, more in ((without_code, {}), (with_code, {"job": f"{JOB}:latest"})):
                    await asyncio.sleep(TRICKLE_SECONDS * random.random())
                    found.append(await _pushed_until_started(here, folder / f"mark-{number}-{len(more)}", **more))
    return (1000 * (median(with_code) - median(without_code)),)


async def latency_bare(folder: Path, scale: Scale) -> Values:
    """Measure milliseconds from the decision to start a process until it runs."""
    found: list[float] = []
    for number in range(scale.of(300, 50)):
        mark, began = folder / str(number), time.clock_gettime(CLOCK_REALTIME_COARSE)
        subprocess.Popen(["touch", str(mark)]).wait()
        found.append(mark.stat().st_mtime - began)
    return _percentiles(found)


async def stopping(folder: Path, scale: Scale) -> Values:
    """Measure milliseconds from a user's wish to stop a running job until the job has SIGTERM; two percentiles.

    Of our agent alone: the stock agent heeds a wish to stop only before its local job has started.
    """
    found: list[float] = []
    async with site(folder) as here, agent(OURS, here, AT_ONCE) as at_work:
        await at_work.ready()
        for number in range(scale.of(100, 20)):
            started, told = folder / f"started-{number}", folder / f"told-{number}"
            item = await here.push(["sh", "-c", LISTENER, "sh", str(started), str(told)])
            await until(started.exists)
            await asyncio.sleep(TRICKLE_SECONDS)
            asked = time.clock_gettime(CLOCK_REALTIME_COARSE)
            await here.stop(item)
            await until(told.exists)
            found.append(told.stat().st_mtime - asked)
    return _percentiles(found)


def _percentiles(seconds: list[float]) -> Values:
    last = quantiles(seconds, n=100)[98] if len(seconds) >= 100 else max(seconds)
    return median(seconds) * 1000, last * 1000


# --- CPU -------------------------------------------------------------------------------------------------------------


def cpu(contestant: Contestant) -> Cell:
    """Measure milliseconds of the agent's CPU for each no-op job of a pile that comes to an idle agent without a limit.

    Counted are the agent's process and its helpers (ours: the keeper; the stock agent: `wandb-core`). The job's own
    process is not: it costs about the same wherever it comes from. Nor is the agent's start.
    """

    async def cell(folder: Path, scale: Scale) -> Values:
        jobs = scale.of(1000, 200) if contestant.is_ours else 50
        async with site(folder) as here, agent(contestant, here, UNLIMITED) as at_work:
            await at_work.ready()
            before = processes.cpu_seconds(at_work.members())
            await here.push_pile(folder / "pile", jobs)
            await start_times(folder / "pile", jobs)
            await at_work.done()
            used = processes.cpu_seconds(at_work.members()) - before
        return (used / jobs * 1000,)

    return cell


async def cpu_bare(folder: Path, scale: Scale) -> Values:
    """Measure milliseconds of this process for each process that it starts and waits for."""
    jobs, before = scale.of(1000, 200), _own_cpu_seconds()
    for number in range(jobs):
        os.waitpid(os.posix_spawnp("touch", ["touch", str(folder / str(number))], os.environ), 0)
    return ((_own_cpu_seconds() - before) / jobs * 1000,)


def _own_cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
