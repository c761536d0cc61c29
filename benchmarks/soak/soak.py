"""The soak: jobs of every kind trickle through an agent and a server, in rounds, with a sample after each."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import psutil
import yaml

from benchmarks import processes
from benchmarks.site import QUEUE, Site, site
from benchmarks.soak import counted
from benchmarks.soak.rule import FEWEST_SAMPLES, Sample

COUNTED = ("python", "-m", "benchmarks.soak.counted")
AGAIN = 75
"""The exit code that is tried again."""
AGENT_CONFIG = {
    "stopped_run_timeout": 2,
    "retries": [{"on": [{"exit_code": [AGAIN]}], "attempts": 1, "first_seconds": 0.1}],
}
JOBS: Mapping[str, tuple[int, tuple[str, ...]]] = {
    "finishes": (6, ("true",)),
    "fails": (1, ("sh", "-c", "echo what a pity; exit 3")),
    "says a lot": (1, ("sh", "-c", "seq 20000")),
    "is streamed": (1, ("sh", "-c", "for n in 1 2 3 4; do echo line $n; sleep 0.5; done")),
    "is tried again": (1, ("sh", "-c", f"exit {AGAIN}")),
    "does not exist": (1, ("no-such-program",)),
    "is stopped": (1, ("sleep", "90")),
    "is stopped at once": (1, ("sleep", "90")),
}
"""By what becomes of it: how many there are of it, and its command."""
STOP_AFTER_SECONDS = 0.5
QUIET_SECONDS = 1.5
"""From the last end until a sample: heartbeats, logs and chores have had their turn."""
PATIENCE_SECONDS = 60.0


@dataclass(slots=True)
class Soaked:
    """What came out."""

    samples: list[Sample] = field(default_factory=list[Sample])
    """One after each round."""
    states: Mapping[str, int] = field(default_factory=dict[str, int])
    """How many items ended how."""
    pushed: Counter[str] = field(default_factory=Counter[str])
    """How many jobs of each kind there were."""


async def soak(
    folder: Path,
    seconds: float,
    *,
    round_seconds: float,
    pause_seconds: float,
    told: Callable[[Sample], None],
    first: int = 0,
) -> Soaked:
    """Have jobs trickle in for so long, one every `pause_seconds`, and take a sample after each round.

    On a slow machine it takes longer, as fewer samples than `FEWEST_SAMPLES` say nothing.

    So many jobs come `first`, as fast as they can: they fill what fills slowly. Raises `TimeoutError` if what was
    pushed in a round does not end.
    """
    soaked, random = Soaked(), Random(1)
    config = folder / "agent.yaml"
    config.write_text(yaml.safe_dump(AGENT_CONFIG))
    kinds = [kind for kind, (share, _) in JOBS.items() for _ in range(share)]
    async with site(folder, [*COUNTED, "server"], **{counted.FILE: str(folder / "server.tasks")}) as here:
        command = [*COUNTED, "agent", "-q", QUEUE, "-j", "8", "-c", str(config), "--state-dir", str(folder / "agent")]
        environment = here.environment(**{counted.FILE: str(folder / "agent.tasks")})
        agent = processes.start(command, environment, folder / "agent.log")
        try:
            await here.push_many(["true"], first)
            soaked.pushed["finishes"] += first
            await here.all_ended()
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline or len(soaked.samples) < FEWEST_SAMPLES:
                await _round(here, kinds, random, min(round_seconds, seconds), pause_seconds, soaked)
                soaked.samples.append(_sample(here, agent.pid))
                told(soaked.samples[-1])
            soaked.states = dict(here.query("SELECT state, count(*) FROM run_queue_items GROUP BY state"))
        finally:
            await processes.end(agent)
    return soaked


async def _round(
    here: Site, kinds: list[str], random: Random, seconds: float, pause_seconds: float, soaked: Soaked
) -> None:
    deadline = time.monotonic() + seconds
    stopping: list[asyncio.Task[None]] = []
    order = random.sample(kinds, len(kinds))
    while time.monotonic() < deadline:
        order = order or random.sample(kinds, len(kinds))
        kind = order.pop()
        item = await here.push(JOBS[kind][1])
        soaked.pushed[kind] += 1
        if kind.startswith("is stopped"):
            delay = STOP_AFTER_SECONDS if kind == "is stopped" else 0
            stopping.append(asyncio.create_task(_stop(here, item, delay)))
        await asyncio.sleep(pause_seconds)
    await asyncio.gather(*stopping)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await here.all_ended()
    await asyncio.sleep(QUIET_SECONDS)


async def _stop(here: Site, item: str, delay: float) -> None:
    await asyncio.sleep(delay)
    await here.stop(item)


def _sample(here: Site, agent: int) -> Sample:
    keeper = processes.keeper_of(agent)
    assert keeper is not None, "the agent has no keeper, although it has started jobs"
    sample: dict[tuple[str, str], float] = {}
    for name, process in (("agent", psutil.Process(agent)), ("keeper", keeper), ("server", here.server)):
        with process.oneshot():
            sample[name, "RSS MiB"] = processes.rss_mib([process])
            sample[name, "file descriptors"] = process.num_fds()
            sample[name, "threads"] = process.num_threads()
        with suppress(FileNotFoundError):  # the keeper has no tasks
            sample[name, "tasks"] = int((here.folder / f"{name}.tasks").read_text())
    return sample
