"""What the gcp-vertex backend is measured by, on a Google Cloud of the SDK's own messages on loopback.

    python -m benchmarks.vertex [--quick]

The backend is limited as in life: what it asks of Google is counted, and not how fast this machine answers. Nothing
here judges: the exit code is 0, whatever comes out.
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from backends.base import Backend, Phase, StartRequest
from backends.registry import load
from backends.vertex import logs
from backends.vertex.settings import POLL_SECONDS
from benchmarks.agent.table import machine
from tests.backends.vertex.google import Google, google_cloud

POOL = {"machine_spec": {"machine_type": "n1-standard-4"}, "container_spec": {"image_uri": "i:1"}}
ARGS: dict[str, Any] = {"spec": {"worker_pool_specs": [POOL], "staging_bucket": "gs://bucket"}}
INTERVALS = 4
IMPORT = """
import time
import agent.run
from backends.vertex import access
begun, used = time.perf_counter(), time.process_time()
access.check_installed()
access.load("jobs")
print(time.perf_counter() - begun, time.process_time() - used)
"""


def request(number: int) -> StartRequest:
    """Return a launch."""
    return StartRequest(f"launch-{number}", ("train",), {}, labels={"run": f"r{number}"}, resource_args=ARGS)


def imports() -> str:
    """Measure the import of Vertex AI's client by an agent that has its own modules, in processes of their own."""
    ended = [
        subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, check=True).stdout.split() for _ in range(5)
    ]
    return f"{median(float(each[0]) for each in ended):.2f} s ({median(float(each[1]) for each in ended):.2f} s of CPU)"


async def starts(google: Google, backend: Backend, count: int) -> str:
    """Measure how long so many starts take that are asked for at once, where Google takes a second for each."""
    google.latency = 1.0
    begun = time.perf_counter()
    await asyncio.gather(*(backend.start(request(number)) for number in range(count)))
    google.latency = 0.0
    return (
        f"{time.perf_counter() - begun:.1f} s, at most {google.most_in_flight} in flight, {len(google.messages)} jobs"
    )


async def quiet(google: Google, backend: Backend, count: int) -> str:
    """Count what Google is asked per interval while so many launches run and are followed, and nothing happens."""
    for message in google.messages:
        google.move(message.labels["launchbay-launch"], "RUNNING")
    while not all(seen.phase is Phase.RUNNING for seen in (await backend.observe()).values()):
        await asyncio.sleep(1)

    async def follow(handle: Any) -> None:
        async for _ in backend.logs(handle, follow=True):
            pass

    following = [asyncio.create_task(follow(handle)) for handle in await backend.observe()]
    await asyncio.sleep(logs.LOOK_SECONDS)
    while google.calls["list_log_entries"] < count / logs.MOST_FRESH:
        await asyncio.sleep(1)
    await asyncio.sleep(2 * logs.LOOK_SECONDS)
    before = google.calls.copy()
    used = time.process_time()
    await asyncio.sleep(INTERVALS * POLL_SECONDS)
    used = (time.process_time() - used) / (INTERVALS * POLL_SECONDS)
    asked = (google.calls - before).total() / INTERVALS
    for task in following:
        task.cancel()
    await asyncio.wait(following)
    return f"{asked:.2f} calls per {POLL_SECONDS:g} s, {used:.1%} of a core (the platform's with it)"


async def measure(count: int) -> None:
    """Print all measures."""
    print(machine())
    print(f"import of Vertex AI's client: {imports()}")
    with google_cloud() as google, tempfile.TemporaryDirectory() as folder:
        google.runs = False
        backend = load("gcp-vertex")(Path(folder), "benchmark", {**google.config, "poll_seconds": POLL_SECONDS})
        try:
            print(f"{count // 10} starts at once: {await starts(google, backend, count // 10)}")
            await asyncio.gather(*(backend.start(request(number)) for number in range(count)))
            print(f"{count} launches that run: {await quiet(google, backend, count)}")
        finally:
            await backend.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="A tenth of everything.")
    asyncio.run(measure(100 if parser.parse_args().quick else 1000))
