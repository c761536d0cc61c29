"""The wire to a server that speaks the protocol: one GraphQL call, and signed uploads and downloads.

Everything a server can answer becomes one of three outcomes: data, `ControlPlaneUnavailable` (try again), or
`ControlPlaneRefused` (trying again will not help, and the message is for the user).
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from random import Random
from types import TracebackType
from typing import Any, TypeVar

import aiohttp
import orjson
import structlog

from agent.errors import ControlPlaneRefused, ControlPlaneUnavailable, NotFound, Unauthenticated
from protocol.errors import system_words

T = TypeVar("T")

CALL_TIMEOUT_SECONDS = 30
SILENCE_SECONDS = 60
"""How long a download may bring nothing."""
PIECE_BYTES = 1024 * 1024
MESSAGE_BYTES = 4096
RETRYABLE_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
FIRST_RETRY_SECONDS = 0.2
LAST_RETRY_SECONDS = 30.0
CONNECTIONS = 64
CALLS = 32
"""How many calls may be under way at once, beside those that the server may hold. Thousands of launches may have
something to tell at the same moment, and what waits for its turn takes no connection, next to no memory, and no time.
"""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a GraphQL call brought."""

    data: Mapping[str, Any]
    waited: bool
    """Whether the server honoured the wish to wait (`Prefer: wait=N`): only then may we ask again at once."""


class ControlPlane:
    """A server, reached with one API key. Use as an async context manager."""

    def __init__(self, base_url: str, api_key: str, *, random: Random, username: str = "") -> None:
        self.base_url = base_url.rstrip("/")
        self.api_key = api_key
        self._random = random
        self.on_retry: Callable[[], None] = lambda: None
        """Called whenever the server was not available and the call is made again."""
        self._headers = {"User-Agent": "launchbay", "X-WANDB-USERNAME": username}
        self._credentials = {"Authorization": aiohttp.encode_basic_auth("api", api_key)}
        """Sent to the server alone, never to the URLs that it hands out: those carry their own proof."""
        self._session: aiohttp.ClientSession | None = None
        self._room = asyncio.Semaphore(CALLS)

    async def __aenter__(self) -> "ControlPlane":
        """Open the connection pool."""
        # A long-lived daemon must not inherit aiohttp's total limit of 5 minutes; every call sets its own.
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
            connector=aiohttp.TCPConnector(limit=CONNECTIONS),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all connections."""
        await self._opened.close()

    async def execute(self, document: str, variables: Mapping[str, Any] | None = None, *, wait: float = 0) -> Answer:
        """Send one GraphQL operation. With `wait`, the server may take that many seconds for its answer."""
        headers = {**self._headers, **self._credentials, "Content-Type": "application/json"}
        if wait:
            headers["Prefer"] = f"wait={wait:g}"
        body = orjson.dumps({"query": document, "variables": variables or {}})
        async with self._turn(wait), asyncio.timeout(CALL_TIMEOUT_SECONDS + wait):
            try:
                async with self._opened.post(
                    f"{self.base_url}/graphql",
                    data=body,
                    headers=headers,
                ) as response:
                    content = await response.read()
                    self._check(response.status, content)
                    answer = _parsed(content)
                    return Answer(_data(answer), "Preference-Applied" in response.headers)
            except (aiohttp.ClientError, OSError) as error:
                raise self._unreachable(error) from error

    async def ask(self, document: str, **variables: Any) -> Mapping[str, Any]:
        """Send one GraphQL operation and return its data."""
        return (await self.execute(document, variables)).data

    async def download(self, url: str) -> bytes:
        """Return what a URL that the server handed out points at."""
        try:
            async with asyncio.timeout(600), self._opened.get(url, headers=self._headers) as response:
                content = await response.read()
                self._check(response.status, content)
                return content
        except (aiohttp.ClientError, OSError) as error:
            raise self._unreachable(error) from error

    async def stream(self, url: str, since: int = 0) -> AsyncGenerator[tuple[int, bytes]]:
        """Yield what a URL that the server handed out points at, in pieces, each with its offset in bytes.

        They begin at `since`, or from the start where the server cannot do that.
        """
        # Compressed, nobody could say how much is coming, nor go on in the middle.
        headers = {**self._headers, "Accept-Encoding": "identity", **({"Range": f"bytes={since}-"} if since else {})}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=SILENCE_SECONDS)
        try:
            async with self._opened.get(url, headers=headers, timeout=timeout, read_bufsize=PIECE_BYTES) as response:
                self._check(response.status, b"" if response.ok else await response.content.read(MESSAGE_BYTES))
                offset = since if response.status == 206 else 0
                async for piece in response.content.iter_chunked(PIECE_BYTES):
                    yield offset, piece
                    offset += len(piece)
        except (aiohttp.ClientError, OSError) as error:
            raise self._unreachable(error) from error

    async def upload(self, url: str, content: bytes, headers: Mapping[str, str]) -> None:
        """PUT bytes to a URL that the server handed out."""
        try:
            async with asyncio.timeout(600), self._opened.put(url, data=content, headers=headers) as response:
                self._check(response.status, await response.read())
        except (aiohttp.ClientError, OSError) as error:
            raise self._unreachable(error) from error

    async def request(
        self, method: str, path: str, *, data: bytes | None = None, wait: float = 0, **query: str | int
    ) -> bytes:
        """Send a plain request to an endpoint of the server itself, with credentials."""
        headers = {**self._headers, **self._credentials, **({"Prefer": f"wait={wait:g}"} if wait else {})}
        try:
            async with (
                self._turn(wait),
                asyncio.timeout(CALL_TIMEOUT_SECONDS + wait),
                self._opened.request(
                    method,
                    self.base_url + path,
                    data=data,
                    params=query,
                    headers=headers,
                ) as response,
            ):
                content = await response.read()
                self._check(response.status, content)
                return content
        except (aiohttp.ClientError, OSError) as error:
            raise self._unreachable(error) from error

    async def persist(self, operation: Callable[[], Awaitable[T]], *, doing: str) -> T:
        """Run an operation until the server can be reached, with backoff and jitter. Refusals pass through."""
        delay = FIRST_RETRY_SECONDS
        while True:
            try:
                return await operation()
            except (ControlPlaneUnavailable, TimeoutError) as error:
                pause = delay * (0.5 + self._random.random())
                self.on_retry()
                log.warning("server not available", doing=doing, error=str(error), retry_seconds=round(pause, 1))
                await asyncio.sleep(pause)
                delay = min(delay * 2, LAST_RETRY_SECONDS)

    def _turn(self, wait: float) -> AbstractAsyncContextManager[None]:
        return nullcontext() if wait else self._room

    @property
    def _opened(self) -> aiohttp.ClientSession:
        assert self._session is not None, "use ControlPlane as an async context manager"
        return self._session

    def _unreachable(self, error: BaseException) -> ControlPlaneUnavailable:
        return ControlPlaneUnavailable(
            f"The server at {self.base_url} cannot be reached: {_words(error)}. Is it running?"
        )

    def _check(self, status: int, content: bytes) -> None:
        if status < 300:
            return
        message = _message(content) or f"HTTP status {status}"
        if status == 401:
            raise Unauthenticated(f"The server at {self.base_url} does not accept the API key: {message}")
        if status in RETRYABLE_STATUS:
            raise ControlPlaneUnavailable(f"The server at {self.base_url} answers: {message}")
        raise (NotFound if status == 404 else ControlPlaneRefused)(message)


def _parsed(content: bytes) -> Any:
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        try:
            return json.loads(content)  # reads the bare NaN that some servers write
        except ValueError as error:
            raise ControlPlaneRefused("The server's answer is not JSON. Is WANDB_BASE_URL right?") from error


def _data(answer: Any) -> Mapping[str, Any]:
    if errors := answer.get("errors"):
        raise ControlPlaneRefused("; ".join(str(error.get("message", error)) for error in errors))
    return answer.get("data") or {}


def _message(content: bytes) -> str:
    try:
        errors = orjson.loads(content)["errors"]
        return "; ".join(str(error["message"]) for error in errors)
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return content[:200].decode(errors="replace").strip()


def _words(error: BaseException) -> str:
    """Return what happened, where the system says it: aiohttp's words are about its own settings, too."""
    if not isinstance(error, aiohttp.ClientConnectorError) or isinstance(error, aiohttp.ClientSSLError):
        return str(error)
    cause = error.os_error
    return system_words(cause) if cause.errno or cause.strerror else str(error)
