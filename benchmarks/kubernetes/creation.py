"""How many launches a second the backend makes, beside a tight loop of the same API calls.

Both make a Job and its Secret of the same plans, so many at a time, with the same client, in one process and in turns.
The backend has its two watches meanwhile, which tell of all that the Jobs and their pods go through; a round begins
when all pods of the one before run. The bare Jobs are nobody's.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import Any

from backends import registry
from backends.base import StartRequest
from backends.kubernetes.api import Kind
from backends.kubernetes.cluster import SECRET
from backends.kubernetes.manifest import plan
from backends.kubernetes.services import owned, owner_of
from backends.kubernetes.settings import Settings
from benchmarks.agent.table import Scale, Values
from benchmarks.kubernetes.cluster import Cluster, cluster

JOB = Kind("batch", "v1", "Job", "jobs")
AT_ONCE = 16
ROUNDS = 10


async def creation(folder: Path, scale: Scale) -> Values:
    """Measure launches per second, those of the bare loop, and the ratio: of each round, the median."""
    each = scale.of(1000, 100) // ROUNDS
    ours, bare = list[float](), list[float]()
    async with cluster(folder) as here:
        backend = registry.load("kubernetes")(folder, "benchmark", {"config_file": here.kubeconfig})
        try:

            async def start(number: int) -> None:
                await backend.start(request(f"launch-{number}"))

            async def call(number: int) -> None:
                await make(here, number)

            for work in (start, call):
                await rate(work, range(-AT_ONCE, 0))  # both have their connections then
            made = 2 * AT_ONCE
            for number in range(ROUNDS):
                sides: list[tuple[Callable[[int], Awaitable[None]], list[float]]] = [(start, ours), (call, bare)]
                for work, rates in sides if number % 2 else reversed(sides):
                    await here.all_run(made)
                    rates.append(await rate(work, range(number * each, (number + 1) * each)))
                    made += each
            assert len(await backend.observe()) == ROUNDS * each + AT_ONCE
        finally:
            await backend.close()
    ratios = [one / other for one, other in zip(ours, bare, strict=True)]
    print(f"rounds: {' '.join(f'{ratio:.2f}' for ratio in ratios)} ...", end=" ", flush=True)
    return median(ours), median(bare), median(ratios)


def request(name: str) -> StartRequest:
    """Return what a launch of a run from an image looks like."""
    variables = {f"WANDB_VARIABLE_{number}": "x" * 40 for number in range(12)}
    labels = {"item": f"UnVuUXVldWVJdGVtOg=={name}", "attempt": "1", "run": name, "agent": "benchmark"}
    return StartRequest(name, ["true"], variables, labels=labels, image="busybox", secrets={"WANDB_API_KEY": "x" * 40})


async def make(here: Cluster, number: int) -> None:
    """Make what the backend makes, with an API call each."""
    name = f"bare-{number}"
    planned: Any = plan(request(name), Settings(), JOB, "default", "nobody")
    made = await here.client.create(JOB, "default", planned.object)
    await here.client.create(SECRET, "default", owned(planned.secret, owner_of(made)))


async def rate(work: Callable[[int], Awaitable[None]], numbers: range) -> float:
    """Return how much work was done per second."""
    left = iter(numbers)

    async def worker() -> None:
        for number in left:
            await work(number)

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
    return len(numbers) / (time.perf_counter() - began)
