"""Stands between an agent and its server: passes everything on, keeps what was asked, and does what a test says."""

import json
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import aiohttp
from aiohttp import web

Variables: TypeAlias = dict[str, Any]
Answer: TypeAlias = "web.Response | None"
"""None passes the request on."""
_NAME = re.compile(r"(?:query|mutation)\s+(\w+)")


@dataclass
class Gate:
    """What went through, and what to do about it."""

    url: str = ""
    asked: list[tuple[str, Variables]] = field(default_factory=list[tuple[str, Variables]])
    """Names and variables of all GraphQL operations, in order."""
    before: dict[str, Callable[[Variables], Awaitable[Answer]]] = field(
        default_factory=dict[str, Callable[[Variables], Awaitable[Answer]]]
    )
    """By operation: answers in the server's place, or does something first."""
    after: dict[str, Callable[[Any], None]] = field(default_factory=dict[str, Callable[[Any], None]])
    """By operation: changes the data that the server answers."""

    def times(self, *names: str) -> int:
        """Return how often operations of these names were asked."""
        return sum(name in names for name, _ in self.asked)

    def fail(self, *names: str, status: int = 500) -> None:
        """Let operations fail until `mend`: by 500 as a server in trouble does, by 400 as one that refuses."""

        async def answer(_: Variables) -> Answer:
            return web.json_response({"errors": [{"message": "because the test says so"}]}, status=status)

        self.before.update(dict.fromkeys(names, answer))

    def mend(self, *names: str) -> None:
        """Pass operations on again."""
        for name in names:
            self.before.pop(name, None)


@asynccontextmanager
async def gate(upstream: str) -> AsyncGenerator[Gate]:
    """Stand before a server while the block runs."""
    made = Gate()
    async with aiohttp.ClientSession(auto_decompress=False) as session:

        async def forward(request: web.Request) -> web.Response:
            body, name = await request.read(), ""
            if request.path == "/graphql":
                asked = json.loads(body)
                found = _NAME.search(asked["query"])
                name = found[1] if found else ""
                variables = asked.get("variables") or {}
                made.asked.append((name, variables))
                if name in made.before and (answer := await made.before[name](variables)) is not None:
                    return answer
            headers = {key: value for key, value in request.headers.items() if key not in {"Host", "Accept-Encoding"}}
            url = f"{upstream}{request.path_qs}"
            async with session.request(request.method, url, data=body, headers=headers) as answered:
                content = await answered.read()
                if name in made.after and answered.status == 200:
                    parsed = json.loads(content)
                    made.after[name](parsed["data"])
                    content = json.dumps(parsed).encode()
                kept = {"Content-Length", "Transfer-Encoding", "Connection", "Date", "Server"}
                passed = {key: value for key, value in answered.headers.items() if key not in kept}
                return web.Response(body=content, status=answered.status, headers=passed)

        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", forward)
        # A poller that hangs up has to be seen by the server.
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            yield made
        finally:
            await runner.cleanup()
