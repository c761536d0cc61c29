"""A server that speaks the protocol and nothing more: a proxy before ours that knows none of our additions.

    python foreign.py UPSTREAM_URL

Prints its own URL. Requests that use what only a Launchbay server has are refused, as another server would.
"""

import asyncio
import json
import sys
from typing import Any

import aiohttp
from aiohttp import web

OURS = (
    "finishRunQueueItem",
    "updateRunQueueItemStatus",
    "releaseRunQueueItem",
    "adoptRunQueueItem",
    "enqueuedAt",
    "stopRequests",
    "knownStopRequests",
)


async def serve(upstream: str) -> None:
    """Serve until killed."""
    async with aiohttp.ClientSession(auto_decompress=False) as session:

        async def forward(request: web.Request) -> web.Response:
            body = await request.read()
            if request.path == "/graphql":
                asked = json.loads(body)
                if (ours := _ours(asked["query"], asked.get("variables") or {})) is not None:
                    return web.json_response({"errors": [{"message": f"Cannot query field {ours!r}"}]}, status=400)
            elif request.path.startswith("/launchbay/"):
                return web.json_response({"errors": [{"message": "Not Found"}]}, status=404)
            kept_back = {"Prefer", "Host", "Content-Length"}
            headers = {name: value for name, value in request.headers.items() if name not in kept_back}
            # Nor does another server know what this says of an agent: that the ends of its launches are told.
            body = body.replace(b"launchbay@", b"another@")
            url = f"{upstream}{request.path_qs}"
            async with session.request(request.method, url, data=body, headers=headers) as answer:
                content = (await answer.read()).replace(b'"LAUNCHBAY"', b'"SOMETHING_ELSE"')
                return web.Response(body=content, status=answer.status, content_type=answer.content_type)

        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", forward)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
        await asyncio.Event().wait()


def _ours(query: str, variables: dict[str, Any]) -> str | None:
    """Return what a request uses of ours, if anything."""
    if "ackRunQueueItem" in query and "launchAgentId" in variables.get("input", {}):
        return "launchAgentId"
    return next((word for word in OURS if word in query), None)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
