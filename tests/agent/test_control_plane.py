"""Calls to a server, many at once."""

import asyncio
from random import Random

from aiohttp import web

from agent.control_plane import CALLS, ControlPlane
from tests.engines import free_port


async def test_of_many_calls_few_are_under_way_and_none_keeps_a_poll_waiting() -> None:
    """Else a burst of what launches have to tell would hold up the server's orders, and its calls time out in line."""
    full, released = asyncio.Event(), asyncio.Event()
    most = under_way = 0

    async def answer(request: web.Request) -> web.Response:
        nonlocal most, under_way
        if "Prefer" not in request.headers:
            under_way += 1
            most = max(most, under_way)
            if under_way == CALLS:
                full.set()
            await released.wait()
            under_way -= 1
        return web.json_response({"data": {}})

    app = web.Application()
    app.router.add_post("/graphql", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        async with ControlPlane(f"http://127.0.0.1:{port}", "key", random=Random(1)) as control, asyncio.timeout(60):
            calls = [asyncio.create_task(control.ask("{ told }")) for _ in range(5 * CALLS)]
            await full.wait()
            await control.execute("{ orders }", wait=1)
            assert not any(call.done() for call in calls)
            released.set()
            await asyncio.gather(*calls)
        assert most == CALLS
    finally:
        await runner.cleanup()
