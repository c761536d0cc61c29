"""Container launches: this backend against the bare `docker` package, on one engine, in alternating rounds.

    python -m benchmarks.containers [--rounds 5] [--launches 40] [--at-once 8] [--engine URL] [--image NAME]

Both sides create, start, wait for the end of and remove containers that end at once, so many at a time, each with what
it has for that: the backend its events, the package its `wait`. Their configuration is the same. Without `--engine` a
Docker Engine of its own is started, which needs root.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, nullcontext
from itertools import count
from pathlib import Path
from typing import Any

import docker

from backends import registry
from backends.base import Backend, Handle, StartRequest
from backends.local_container.options import Machine, plan
from tests import engines

COMMAND = ("/bin/true",)
_numbers = count()


def request(image: str) -> StartRequest:
    """Return a request of a name of its own."""
    name = f"benchmark-{time.time_ns():x}-{next(_numbers)}"
    return StartRequest(name, COMMAND, {"A": "b"}, image=image, resource_args={"network": "none"})


class Ours:
    """Launches through the backend, and watches them as the agent does."""

    name = "backend"

    def __init__(self, backend: Backend, image: str) -> None:
        self._backend = backend
        self._image = image
        self._ends: dict[Handle, asyncio.Event] = {}
        self._watching = asyncio.create_task(self._watch())

    async def run(self) -> float:
        """Run one launch; returns how many seconds its start took."""
        wanted = request(self._image)
        ended = self._ends[Handle(wanted.name)] = asyncio.Event()
        begun = time.perf_counter()
        handle = await self._backend.start(wanted)
        took = time.perf_counter() - begun
        await ended.wait()
        await self._backend.cleanup(handle)
        return took

    async def close(self) -> None:
        """Watch no more."""
        self._watching.cancel()
        await asyncio.wait([self._watching])

    async def _watch(self) -> None:
        hints: Any = self._backend.changes()
        async with aclosing(hints):
            async for _ in hints:
                for handle, seen in (await self._backend.observe()).items():
                    if seen.phase.is_terminal and handle in self._ends:
                        self._ends.pop(handle).set()


class Bare:
    """Launches through the docker package, a thread each."""

    name = "docker package"

    def __init__(self, url: str, image: str, at_once: int) -> None:
        self._client: Any = docker.APIClient(base_url=url, max_pool_size=at_once)
        self._threads = ThreadPoolExecutor(at_once)
        self._image = image
        self._machine = Machine("benchmark", is_podman=False)

    async def run(self) -> float:
        """Run one container; returns how many seconds its start took."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._run)

    async def close(self) -> None:
        """Let go of the engine."""
        self._threads.shutdown()
        self._client.close()

    def _run(self) -> float:
        wanted = request(self._image)
        planned = plan(wanted, self._machine)
        begun = time.perf_counter()
        self._client.create_container_from_config(planned.config, wanted.name)
        self._client.start(wanted.name)
        took = time.perf_counter() - begun
        self._client.wait(wanted.name)
        self._client.remove_container(wanted.name, v=True)
        return took


async def measure(run: Callable[[], Awaitable[float]], launches: int, at_once: int) -> tuple[float, list[float]]:
    """Return launches per second, and how long each start took."""
    room = asyncio.Semaphore(at_once)

    async def one() -> float:
        async with room:
            return await run()

    begun = time.perf_counter()
    took = await asyncio.gather(*(one() for _ in range(launches)))
    return launches / (time.perf_counter() - begun), list(took)


async def compare(url: str, image: str, rounds: int, launches: int, at_once: int, folder: Path) -> None:
    """Run the rounds, and print what they say."""
    backend = registry.load("local-container")(folder, "benchmark", {"engine": url})
    ours, bare = Ours(backend, image), Bare(url, image, at_once)
    rates: dict[str, list[float]] = {ours.name: [], bare.name: []}
    alone: dict[str, list[float]] = {ours.name: [], bare.name: []}
    for side in (ours, bare):
        await measure(side.run, at_once, at_once)  # both have their connections then
    for number in range(rounds):
        for side in (ours, bare) if number % 2 else (bare, ours):
            rates[side.name].append((await measure(side.run, launches, at_once))[0])
        for _ in range(launches // 2):  # in turn, so that what else the machine does meets both
            for side in (ours, bare):
                alone[side.name] += (await measure(side.run, 1, 1))[1]
        print(
            f"round {number + 1}: " + ", ".join(f"{side} {each[-1]:.2f}/s" for side, each in rates.items()), flush=True
        )
    for side in (ours, bare):
        await side.close()
    await backend.close()
    _tell(rates, alone, ours.name, bare.name, at_once)


def _tell(rates: dict[str, list[float]], alone: dict[str, list[float]], ours: str, bare: str, at_once: int) -> None:
    per_round = [one / other for one, other in zip(rates[ours], rates[bare], strict=True)]
    for side, each in rates.items():
        print(f"{side}: {_median(each):.2f} launches/s, {at_once} at once; start alone {_ms(alone[side])} ms p50")
    overhead = 1000 * _median([one - other for one, other in zip(alone[ours], alone[bare], strict=True)])
    print(f"launches per second, ours to theirs: {_median(per_round):.2f} (rounds {min(per_round):.2f} to", end=" ")
    print(f"{max(per_round):.2f}); start overhead p50: {overhead:.1f} ms")


def _median(numbers: Sequence[float]) -> float:
    return statistics.median(numbers)


def _ms(seconds: Sequence[float]) -> str:
    return f"{1000 * _median(seconds):.0f}"


def main() -> None:
    """Read the options, and compare."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.containers")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--launches", type=int, default=40)
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--engine", help="URL of a running engine; the default starts one")
    parser.add_argument("--image", default=engines.IMAGE, help="an image that the engine has")
    given = parser.parse_args()
    started = nullcontext(None) if given.engine else engines.running_docker()
    with started as engine, tempfile.TemporaryDirectory() as folder:
        url = engine.url if engine else given.engine
        asyncio.run(compare(url, given.image, given.rounds, given.launches, given.at_once, Path(folder)))


if __name__ == "__main__":
    main()
