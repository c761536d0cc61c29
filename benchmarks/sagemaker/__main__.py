"""What launches on SageMaker cost in calls, against the double of the tests: python -m benchmarks.sagemaker

Calls per look while nothing happens, the time that many starts at once take, and how many of their calls are refused by
an AWS that allows less than the agent would ask for.
"""

import asyncio
import os
import resource
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from backends.rate_limit import RateLimit
from backends.sagemaker.access import Aws
from backends.sagemaker.backend import SageMakerBackend
from backends.sagemaker.settings import Identity, Settings
from tests.backends.sagemaker.double import REGION, Double, double
from tests.backends.sagemaker.test_request import REQUEST

LAUNCHES = 1000
LOOKS = 20
STARTS = 100
ALLOWED = 3.0
"""Starts per second that the second AWS allows; the agent would make 5."""


class Allowance:
    """Lets so many starts through per second, and one second's worth at once."""

    def __init__(self, rate: float) -> None:
        self.rate = self.tokens = rate
        self.at = time.monotonic()
        self.refused = 0

    def __call__(self, operation: str) -> bool:
        """Whether an operation may be asked for now."""
        if not operation.startswith("Create"):
            return True
        now = time.monotonic()
        self.tokens, self.at = min(self.rate, self.tokens + (now - self.at) * self.rate), now
        if self.tokens < 1:
            self.refused += 1
            return False
        self.tokens -= 1
        return True


def open_backend(folder: str, *, limited: bool = True) -> SageMakerBackend:
    """Return a backend that looks only when it is told to."""
    aws = Aws(Identity(region=REGION))
    if not limited:
        unlimited = RateLimit(10_000, burst=100)
        aws._limits = {"create": unlimited, "": unlimited}  # pyright: ignore[reportPrivateUsage]
    return SageMakerBackend(aws, Path(folder), "benchmark", Settings(poll_seconds=3600))


async def quiet(aws: Double, folder: str) -> None:
    """Track launches that do nothing."""
    backend = open_backend(folder, limited=False)
    for first in range(0, LAUNCHES, STARTS):
        names = [f"launch-{number}" for number in range(first, first + STARTS)]
        await asyncio.gather(*(backend.start(replace(REQUEST, name=name, image="image:1")) for name in names))
    for job in aws.jobs.values():
        job.move("Training")
        job.modified -= 3600
    tracker = backend._tracker  # pyright: ignore[reportPrivateUsage]
    for _ in range(LAUNCHES // 100 + 1):  # until the walk has met them all
        await tracker.look()
    aws.asked.clear()
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_utime, time.perf_counter()
    for _ in range(LOOKS):
        await tracker.look()
    seconds = (time.perf_counter() - began) / LOOKS
    cpu = (resource.getrusage(resource.RUSAGE_SELF).ru_utime - before) / LOOKS
    calls = len(aws.asked) / LOOKS
    print(
        f"{LAUNCHES} quiet launches: {calls:.1f} calls per look, {seconds * 1000:.0f} ms, {cpu * 1000:.0f} ms of CPU "
        "(the double's included)"
    )
    await backend.close()


async def starts(aws: Double, folder: str, allowed: float | None) -> None:
    """Start many launches at once."""
    backend = open_backend(folder)
    await backend.observe()
    allowance = Allowance(allowed or 1e9)
    aws.allows = allowance
    began = time.perf_counter()
    await asyncio.gather(
        *(backend.start(replace(REQUEST, name=f"launch-{number}", image="image:1")) for number in range(STARTS))
    )
    seconds = time.perf_counter() - began
    what = f"an AWS that allows {allowed:g} per second" if allowed else "an AWS without limits"
    print(f"{STARTS} starts at once, {what}: {seconds:.1f} s, {len(aws.jobs)} jobs, {allowance.refused} refusals")
    await backend.close()


async def main() -> None:
    """Measure all."""
    os.environ |= {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true"}
    with tempfile.TemporaryDirectory() as folder:
        for number, measure in enumerate(
            (
                quiet,
                lambda aws, folder: starts(aws, folder, None),
                lambda aws, folder: starts(aws, folder, ALLOWED),
            )
        ):
            async with double() as aws:
                os.environ["AWS_ENDPOINT_URL"] = aws.url
                await measure(aws, f"{folder}/{number}")


if __name__ == "__main__":
    asyncio.run(main())
