"""How much of the time of `wandb.init` and `finish` is the server's, with the stock client as people have it.

The server runs in this process, and notes from when to when it is at each request; its share of a span is the time in
which it is at one or more. A run logs one row and finishes at once, as the client would otherwise wait for fifteen
seconds before it sends it. The first span goes from the call of `wandb.init` until the server has answered the request
with that row; the second one is the call of `finish`; the third has both.
"""

import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

from benchmarks.tracking.filled import PROJECT
from benchmarks.tracking.table import show
from server.app import build_app
from server.start import opened

REPEATS = 7
MOST_PERCENT = 10
"""What is asked."""
SCRIPT = f"""
import json, time, wandb
start = time.time()
run = wandb.init(entity="admin", project="{PROJECT}", settings=wandb.Settings(silent=True))
run.log({{"value": 1}})
finishing = time.time()
run.finish()
print(json.dumps([start, finishing, time.time()]))
"""


@dataclass(slots=True)
class Noted:
    """When the server was at work, in seconds since the epoch."""

    spans: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    row_at: float = 0
    """When the last request with a row of a history was answered."""

    def percent(self, start: float, end: float) -> float:
        """Return how much of a span the server worked."""
        worked, until = 0.0, start
        for since, to in sorted(self.spans):
            worked += max(min(to, end) - max(since, until), 0)
            until = max(until, to)
        return worked / (end - start) * 100


async def measure_shares(folder: Path, url: str | None) -> None:
    """Start and finish runs, one after the other."""
    first: list[tuple[float, float]] = []
    last: list[tuple[float, float]] = []
    both: list[tuple[float, float]] = []
    noted = Noted()
    async with serving(folder, url, noted) as base_url:
        key = (folder / "admin-api-key").read_text().strip()
        for _ in range(REPEATS):
            start, finishing, end = await log_once(folder, base_url, key)
            first.append((noted.percent(start, noted.row_at), noted.row_at - start))
            last.append((noted.percent(finishing, end), end - finishing))
            both.append((noted.percent(start, end), end - start))
    for what, found in (("`init` to first `log` accepted", first), ("`finish`", last), ("both together", both)):
        shares, seconds = zip(*found, strict=True)
        show(
            f"{what}: the server's share of the time",
            f"at most {MOST_PERCENT}%",
            f"{statistics.median(shares):.1f}% of {statistics.median(seconds):.3f} s (most {max(shares):.1f}%)",
        )


async def log_once(folder: Path, base_url: str, key: str) -> tuple[float, float, float]:
    """Run the script; returns when `init` and `finish` were called, and when that was done."""
    environment = {**os.environ, "WANDB_BASE_URL": base_url, "WANDB_API_KEY": key, "HOME": str(folder)}
    environment |= dict.fromkeys(("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"), str(folder))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SCRIPT), env=environment, cwd=folder, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    start, finishing, end = json.loads(output.splitlines()[-1])
    return start, finishing, end


@asynccontextmanager
async def serving(folder: Path, url: str | None, noted: Noted) -> AsyncGenerator[str]:
    """Serve here, and note when."""

    @web.middleware
    async def note(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        since = time.time()
        answer = await handler(request)
        to = time.time()
        noted.spans.append((since, to))
        if request.path.endswith("/file_stream") and b"wandb-history.jsonl" in await request.read():
            noted.row_at = to
        return answer

    async with opened(folder, url) as services:
        app = build_app(services)
        app.middlewares.insert(0, note)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()
