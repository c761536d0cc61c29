"""Between a stock client and the server: passes everything on, and keeps what the client asked for."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer
from graphql import OperationDefinitionNode, parse

from tests.end_to_end.conftest import LiveServer


@dataclass(frozen=True, slots=True)
class Wire:
    """What went over the wire so far."""

    url: str
    operations: list[tuple[str, dict[str, Any]]] = field(default_factory=list[tuple[str, dict[str, Any]]])
    """Name and variables of each GraphQL operation, in order; a document without a name has an empty one."""

    @property
    def names(self) -> list[str]:
        """The operations' names."""
        return [name for name, _ in self.operations]

    def variables(self, name: str) -> dict[str, Any]:
        """Return the variables of the first operation of this name."""
        return next(variables for found, variables in self.operations if found == name)

    async def script(self, server: LiveServer, code: str, **env: str) -> Any:
        """Run Python code that meets the server here; returns the JSON that it prints last."""
        done = await asyncio.to_thread(server.run_script, code, WANDB_BASE_URL=self.url, **env)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout.splitlines()[-1])


@asynccontextmanager
async def recording(server: LiveServer, *, has_features: bool = True) -> AsyncGenerator[Wire]:
    """Stand before a server while the block runs. It can be made to look like one without optional features."""
    async with aiohttp.ClientSession(auto_decompress=False) as session:

        async def forward(request: web.Request) -> web.Response:
            body = await request.read()
            if request.path == "/graphql":
                asked = json.loads(body)
                operations.append((_name(asked["query"]), asked.get("variables") or {}))
            headers = {name: value for name, value in request.headers.items() if name != "Host"}
            url = f"{server.base_url}{request.path_qs}"
            async with session.request(request.method, url, data=body, headers=headers) as answer:
                content = await answer.read()
                if not has_features:
                    content = content.replace(b'"isEnabled":true', b'"isEnabled":false')
                kept = {name: value for name, value in answer.headers.items() if name.startswith("Content-")}
                kept.pop("Content-Length", None)
                return web.Response(body=content, status=answer.status, reason=answer.reason, headers=kept)

        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", forward)
        async with TestServer(app) as listening:
            wire = Wire(str(listening.make_url("")).rstrip("/"))
            operations = wire.operations
            yield wire


def _name(document: str) -> str:
    operation = next(node for node in parse(document).definitions if isinstance(node, OperationDefinitionNode))
    return operation.name.value if operation.name else ""
