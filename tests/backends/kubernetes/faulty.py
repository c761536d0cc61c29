"""A proxy before an API server that loses, delays and invents answers, as networks and load balancers do."""

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web

from tests.engines import free_port


@dataclass(frozen=True)
class Answer:
    """What is said in the server's place."""

    status: int
    body: str = ""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass
class FaultyProxy:
    """A proxy that speaks HTTP, to a server that speaks HTTPS."""

    server: str
    url: str = ""
    asked: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    """Method and path, with its query, of each request."""
    answers: deque[tuple[Callable[[str], bool], Answer]] = field(
        default_factory=deque[tuple[Callable[[str], bool], Answer]]
    )
    """What is said to the next request for a path that fits, instead of asking the server."""
    expired: str = ""
    """A token that the server does not know any more."""
    flowing: asyncio.Event = field(default_factory=asyncio.Event)
    """While it is not set, nothing is passed on, and nothing ends."""
    _answering: set[asyncio.Transport] = field(default_factory=set[asyncio.Transport])
    _session: aiohttp.ClientSession | None = None

    def say(self, answer: Answer, *, times: int = 1, fits: Callable[[str], bool] = lambda path: True) -> None:
        """Say this instead of what the server would, so many times."""
        self.answers.extend([(fits, answer)] * times)

    def cut(self) -> None:
        """Cut every connection that an answer is being sent through."""
        for transport in self._answering:
            transport.abort()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Pass a request on, and the answer back as it comes."""
        self.asked.append((request.method, request.path_qs))
        for planned in self.answers:
            if planned[0](request.path_qs):
                self.answers.remove(planned)
                answer = planned[1]
                return web.Response(status=answer.status, text=answer.body, headers=answer.headers)
        await self.flowing.wait()
        assert self._session
        headers = {key: text for key, text in request.headers.items() if key not in {"Host", "Accept-Encoding"}}
        if self.expired and headers.get("Authorization") == f"Bearer {self.expired}":
            headers["Authorization"] = "Bearer expired"
        async with self._session.request(
            request.method, self.server + request.path_qs, headers=headers, data=await request.read()
        ) as came:
            response = web.StreamResponse(status=came.status, headers={"Content-Type": came.content_type})
            await response.prepare(request)
            assert request.transport
            transport = request.transport
            self._answering.add(transport)
            try:
                async for chunk in came.content.iter_any():
                    await self.flowing.wait()
                    await response.write(chunk)
                await response.write_eof()
            finally:
                self._answering.discard(transport)
            return response


@asynccontextmanager
async def faulty_proxy(server: str) -> AsyncGenerator[FaultyProxy]:
    """Run one while the block runs."""
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    proxy = FaultyProxy(server)
    application = web.Application(client_max_size=2**24)
    application.router.add_route("*", "/{path:.*}", proxy.handle)
    runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0)
    connector = aiohttp.TCPConnector(ssl=trusting, limit=0)
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        proxy._session = session
        proxy.flowing.set()
        await runner.setup()
        port = free_port()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        proxy.url = f"http://127.0.0.1:{port}"
        try:
            yield proxy
        finally:
            proxy.flowing.set()
            proxy.cut()
            await runner.cleanup()
