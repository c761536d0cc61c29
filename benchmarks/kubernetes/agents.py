"""The whole agent, as the process that a user would start, at work for our server on a real control plane."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from statistics import median, quantiles
from typing import Any

from agent.observability.status_app import ask_status
from backends.kubernetes.api import KubeObject
from backends.kubernetes.cluster import POD
from backends.kubernetes.names import LAUNCH, OWNER, SERVICE
from backends.kubernetes.reflector import Reflector
from backends.kubernetes.trimming import trimmed, trimmed_pod
from benchmarks import processes
from benchmarks.agent.contestants import OURS, Agent, agent
from benchmarks.agent.table import Scale, Values
from benchmarks.kubernetes import copies
from benchmarks.kubernetes.cluster import JOBS, PODS, Cluster, cluster
from benchmarks.kubernetes.creation import JOB
from benchmarks.site import Site, site, until

UNLIMITED = -1
IMAGE = "busybox"
QUIET_SECONDS = 10.0
"""From the last event until an agent counts as idle."""
LOOK_SECONDS = 0.1
TRICKLE_SECONDS = 0.2


@asynccontextmanager
async def at_work(folder: Path, launches: int) -> AsyncGenerator[tuple[Cluster, Site, Agent]]:
    """Run a control plane, a server and an agent, whose launches all run."""
    async with cluster(folder) as here, site(folder, resource="kubernetes") as its_site:
        await its_site.push_many(["sleep", "infinity"], launches, IMAGE)
        async with agent(OURS, its_site, UNLIMITED, config(folder, here)) as working:
            await until_started(working, launches)
            await here.all_run(launches)
            yield here, its_site, working


def config(folder: Path, here: Cluster) -> list[str]:
    """Return what the agent's command line says of the cluster."""
    file = folder / "agent.json"
    block = {"config_file": here.kubeconfig}
    file.write_text(json.dumps({"resources": ["kubernetes"], "backends": {"kubernetes": block}}))
    return ["-c", str(file)]


async def endings(folder: Path, scale: Scale) -> Values:
    """Measure milliseconds from the end of a pod until its item has ended on the server: two percentiles.

    Pods end one by one among others that run. From before the node tells the API server of it, which the API server
    takes a few milliseconds to write down.
    """
    launches = scale.of(300, 50)
    async with at_work(folder, launches) as (here, its_site, _):
        await asyncio.sleep(QUIET_SECONDS)
        took = await end(here, its_site, await here.some(PODS, launches))
    return median(took), quantiles(took, n=100)[98]


async def end(here: Cluster, its_site: Site, pods: Sequence[Any]) -> list[float]:
    """End pods one by one; return how many milliseconds it took until each item had ended."""
    random, ended_at = Random(1), list[float]()
    for pod in pods:
        await asyncio.sleep(TRICKLE_SECONDS * random.random())
        ended_at.append(time.time())
        await here.finish(pod)
        await until(lambda: its_site.count("ended_at IS NOT NULL") >= len(ended_at))
    rows = its_site.query("SELECT ended_at FROM run_queue_items WHERE ended_at IS NOT NULL ORDER BY ended_at")
    return [1000 * (then - at) for at, (then,) in zip(ended_at, rows, strict=True)]


async def tracked(folder: Path, scale: Scale) -> Values:
    """Measure an agent with 10,000 running Jobs, which it finds at its start: it has started one, the rest are copies.

    The most watches of a kind in the namespace, its RSS (MiB), the seconds that both lists take which follow a lost
    watch, its CPU while no Job changes (percent of a core), and milliseconds as `endings` has them, of 50 of the Jobs:
    their median. The lists are made by a process beside the agent, as the agent makes them.
    """
    launches = scale.of(10_000, 500)
    async with cluster(folder) as here, site(folder, resource="kubernetes") as its_site:
        await its_site.push_many(["sleep", "infinity"], 1, IMAGE)
        async with agent(OURS, its_site, UNLIMITED, config(folder, here)) as first:
            await told_to_run(its_site, 1)
            first.kill()
        await copies.make(here, its_site, launches - 1)
        await here.all_run(launches)
        async with agent(OURS, its_site, UNLIMITED, config(folder, here)) as working:
            await told_to_run(its_site, launches)
            await asyncio.sleep(QUIET_SECONDS)
            watches = await here.watches()
            before, began = processes.cpu_seconds(working.members()), time.perf_counter()
            await asyncio.sleep(scale.of(60, 10))
            used = (processes.cpu_seconds(working.members()) - before) / (time.perf_counter() - began)
            relisted = await relist(here, launches)
            took = await end(here, its_site, await here.some(PODS, 50))
            return watches, processes.rss_mib(working.members()), relisted, used * 100, median(took)


async def told_to_run(its_site: Site, launches: int) -> None:
    """Wait until the server knows of so many launches that they run."""
    while its_site.count("status = 'running'") < launches:
        await asyncio.sleep(10 * LOOK_SECONDS)


async def relist(here: Cluster, launches: int) -> float:
    """Return how many seconds it takes to list all Jobs and pods anew; the median of five."""
    selector = f"{OWNER},!{SERVICE}"
    watches = [
        Reflector(here.client, kind, "default", selector, _ignore, random=Random(1), trim=trim)
        for kind, trim in ((JOB, trimmed), (POD, trimmed_pod))
    ]
    found: list[float] = []
    try:
        for watch in watches:
            watch.start()
            await watch.synced()
            assert len(watch.objects) == launches
        for _ in range(5):
            began = time.perf_counter()
            await asyncio.gather(*(watch.refresh() for watch in watches))
            found.append(time.perf_counter() - began)
    finally:
        for watch in watches:
            await watch.close()
    return median(found)


async def restart(folder: Path, scale: Scale) -> Values:
    """Measure seconds from the start of an agent until it has adopted 1,000 running Jobs and takes new ones.

    The agent before was killed. All are adopted when the new one says that it holds them, and has started a job that
    waited in the queue: it takes none before it has looked at every launch. And how many launches were lost, that is,
    ended or gone, and how many Jobs there are that nobody asked for.
    """
    launches = scale.of(1_000, 100)
    async with at_work(folder, launches) as (here, its_site, killed):
        killed.kill()
        before = await here.names(JOBS)
        await its_site.push_many(["sleep", "infinity"], 1, IMAGE)
        began = time.perf_counter()
        async with agent(OURS, its_site, UNLIMITED, config(folder, here)) as successor:
            await until_started(successor, launches + 1)
            took = time.perf_counter() - began
            await asyncio.sleep(QUIET_SECONDS)
            after = await here.names(JOBS)
        lost = len(set(before.values()) - set(after.values())) + its_site.count("ended_at IS NOT NULL")
        jobs = await here.objects(JOBS)
        assert len({job["metadata"]["labels"][LAUNCH] for job in jobs}) == len(jobs)
        return took, lost, len(after) - launches - 1


async def until_started(working: Agent, launches: int) -> None:
    """Wait until an agent has started, or adopted, so many launches."""
    while not working.site.count("state = 'FAILED'"):
        status = await ask_status(working.state)
        if status and sum(launch["stage"] == "started" for launch in status["launches"]) >= launches:
            return
        await asyncio.sleep(LOOK_SECONDS)
    raise AssertionError(f"launches fail; see {working.site.folder / 'agent.log'}")


def _ignore(_: str, __: KubeObject | None, ___: KubeObject | None) -> None:
    """Hear what has changed."""
