"""Requests to an API server: credentials renewed where need be, time limits, and its answers or errors of ours."""

import asyncio
import gc
import socket
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import aiohttp
import orjson

from backends.kubernetes.access import Access, Source
from backends.kubernetes.answers import error_of, shortened, status_in
from backends.kubernetes.api import KubeRefused, KubeUnavailable

CALLS = 32
"""How many requests may be under way at once, beside watches and logs that are followed."""
CONNECT_SECONDS = 10.0
READ_SECONDS = 70.0
"""How long an answer may be silent. The server itself gives up after 60 s."""
RENEW_SECONDS = 5.0
"""Credentials are not asked for more often than this, however often they are refused."""
KEEP_ALIVE_SECONDS = 30
"""When the other side's kernel is asked whether it is still there, for what is silent by nature."""

JSON = "application/json"
CLOSED = "The connection to the cluster is closed."

_CALL = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS)
_STREAM = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)
_AWAY = (aiohttp.ClientError, OSError, RuntimeError)
"""What aiohttp raises; the last for a session or connection that was closed meanwhile."""


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    path: str
    query: Mapping[str, str]
    body: object = None
    content_type: str = JSON
    accept: str = JSON


class Connection:
    """The way to one API server."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._access: Access | None = None
        self._replaced: list[Access] = []
        self._asked_at = float("-inf")
        self._failure = ""
        self._asking = asyncio.Lock()
        self._room = asyncio.Semaphore(CALLS)
        self._is_closed = False

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
        content_type: str = JSON,
        accept: str = JSON,
    ) -> Any:
        """Send a request; return the JSON of the answer."""
        async with self._room:
            response = await self._send(_Request(method, path, query or {}, body, content_type, accept), _CALL)
            try:
                data = await response.read()
            except _AWAY as error:
                raise self._away(error) from error
        try:
            return _parsed(data)
        except orjson.JSONDecodeError as error:
            raise KubeUnavailable(f"{self.server} answered what is not JSON: {shortened(data)}") from error

    async def stream(self, path: str, query: Mapping[str, str]) -> AsyncGenerator[bytes]:
        """Yield nothing once the server begins to send, then what it sends as it comes, for as long as it takes."""
        response = await self._send(_Request("GET", path, query), _STREAM)
        try:
            _keep_alive(response)
            yield b""
            async for chunk in response.content.iter_any():
                yield chunk
        except _AWAY as error:
            raise self._away(error) from error
        finally:
            response.close()

    async def lines(self, path: str, query: Mapping[str, str]) -> AsyncGenerator[bytes]:
        """Yield an empty line once the server sends, then its lines. The last one may have been cut off."""
        pieces: list[bytes] = []
        is_open = False
        async with aclosing(self.stream(path, query)) as chunks:
            async for chunk in chunks:
                if not is_open:
                    is_open = True
                    yield b""
                *ended, rest = chunk.split(b"\n")
                for piece in ended:
                    pieces.append(piece)
                    if line := b"".join(pieces):
                        yield line
                    pieces.clear()
                pieces.append(rest)
        if last := b"".join(pieces):
            yield last

    def error(
        self, code: int, status: Mapping[str, Any], retry_after: str | None = None
    ) -> KubeRefused | KubeUnavailable:
        """Return the error that the server's answer amounts to."""
        return error_of(code, status, server=self.server, who=self._source.name, retry_after=retry_after)

    @property
    def server(self) -> str:
        """The server, as errors name it."""
        return f"The API server at {self._access.address}" if self._access else "The API server"

    async def close(self) -> None:
        """Let go of every connection."""
        self._is_closed = True
        ways = [*self._replaced, *([self._access] if self._access else [])]
        self._replaced, self._access = [], None
        for way in ways:
            await way.close()

    async def _send(self, request: "_Request", timeout: aiohttp.ClientTimeout) -> aiohttp.ClientResponse:
        """Send a request; return an answer that says yes, of which the head was read."""
        access = await self._current()
        while True:
            response = await self._sent(access, request, timeout)
            if response.status < 400:
                return response
            try:
                async with asyncio.timeout(READ_SECONDS):
                    said = status_in(await response.read())
            except _AWAY as error:
                raise self._away(error) from error
            finally:
                response.close()
            if response.status == 401 and (renewed := await self._renewed(access)) is not access:
                access = renewed
                continue
            raise self.error(response.status, said, response.headers.get("Retry-After"))

    async def _sent(
        self, access: Access, request: "_Request", timeout: aiohttp.ClientTimeout
    ) -> aiohttp.ClientResponse:
        url = access.address + request.path + (f"?{urlencode(request.query)}" if request.query else "")
        headers = {**access.client.default_headers, "Accept": request.accept, "Content-Type": request.content_type}
        if access.authorization:
            headers["Authorization"] = access.authorization
        try:
            answer = await access.client.call_api(request.method, url, headers, request.body, _request_timeout=timeout)
        except _AWAY as error:
            raise self._away(error) from error
        return answer.response

    async def _current(self) -> Access:
        """Return our access, renewed if it is about to end."""
        access = self._access
        if access is None:
            return await self._renewed(None)
        is_stale = access.lasts is not None and _now() - self._asked_at > access.lasts
        if is_stale and not self._asking.locked():
            try:
                return await self._renewed(access)
            except KubeUnavailable:
                return access  # it may be good for a while; if not, the server says so
        return access

    async def _renewed(self, used: Access | None) -> Access:
        """Return access that is newer than what was used; the same if it is as new as can be."""
        async with self._asking:
            if self._is_closed:
                raise KubeUnavailable(CLOSED)
            if self._access is not None and self._access is not used:
                return self._access
            if _now() - self._asked_at >= RENEW_SECONDS:
                self._asked_at = _now()
                self._failure = ""
                try:
                    access = await self._source.load(used)
                except KubeUnavailable as error:
                    self._failure = str(error)
                    raise
                if used is not None and used.client is not access.client:
                    self._replaced.append(used)  # what is under way through it may end
                self._access = access
            if self._failure or self._access is None:
                raise KubeUnavailable(self._failure)
            return self._access

    def _away(self, error: BaseException) -> KubeUnavailable:
        if self._is_closed:
            return KubeUnavailable(CLOSED)
        if isinstance(error, TimeoutError):
            return KubeUnavailable(f"{self.server} does not answer.")
        return KubeUnavailable(f"{self.server} cannot be reached: {str(error) or type(error).__name__}")


def _parsed(data: bytes) -> Any:
    """Return what a body says.

    A page of a list makes hundreds of thousands of objects without a cycle among them. Looking for cycles meanwhile
    took longer than all the rest.
    """
    was_collecting = gc.isenabled()
    gc.disable()
    try:
        return orjson.loads(data)
    finally:
        if was_collecting:
            gc.enable()


def _now() -> float:
    return asyncio.get_running_loop().time()


def _keep_alive(response: aiohttp.ClientResponse) -> None:
    """Have the kernel notice when the machine at the other end is gone."""
    transport = response.connection and response.connection.transport
    connected: socket.socket | None = transport.get_extra_info("socket") if transport else None
    if connected is None:
        return
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEP_ALIVE_SECONDS)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEP_ALIVE_SECONDS // 3)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
