"""The container engine, as this backend needs it, and the only module that knows the `docker` package.

That package blocks: its calls run in a bounded thread pool, and what streams has a thread of its own. Everything that
it raises becomes `EngineRefused` or `BackendUnavailable`.
"""

import asyncio
import re
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import docker
import requests
import urllib3
from docker import auth, constants, errors, utils

from backends.base import BackendError, BackendUnavailable
from backends.local_container.feed import feed
from protocol.json_types import JsonObject

T = TypeVar("T")

THREADS = 16
"""How many calls may be under way at once."""
CALL_SECONDS = 60
_PASSING = re.compile(r"context (?:canceled|deadline exceeded)|transport is closing|containerd\.sock|shutting down")
"""What an engine says while it cannot answer for a moment."""


class EngineRefused(BackendError):
    """The engine answered that it will not."""

    def __init__(self, status: int, explanation: str) -> None:
        super().__init__(f"The container engine refused: {explanation}")
        self.status = status
        """As HTTP has it: 404 for what is not there, 409 for what cannot be now."""
        self.explanation = explanation


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a registry wants to see."""

    user: str
    password: str


class ContainerEngine(Protocol):
    """A container engine. Every call may raise `BackendUnavailable`, or `EngineRefused`."""

    async def is_podman(self) -> bool:
        """Whether it is Podman, which names a few things otherwise."""
        ...

    async def create(self, name: str, config: JsonObject, platform: str | None) -> None:
        """Create a container by the configuration of the engine's API."""
        ...

    async def start(self, name: str) -> None:
        """Start a container. One that runs, or has run, is left as it is."""
        ...

    async def containers(self, label: str) -> list[Any]:
        """Return the containers with a label `key=value`, in every state, in short."""
        ...

    async def inspect(self, name: str) -> Any:
        """Return a container at length; None if there is none."""
        ...

    async def image(self, image: str) -> Any:
        """Return an image at length; None if it is not on this machine."""
        ...

    async def kill(self, name: str, signal: str) -> None:
        """Send a signal to a container's process."""
        ...

    async def unpause(self, name: str) -> None:
        """Let a paused container run again."""
        ...

    async def remove(self, name: str) -> None:
        """Remove a container that does not run, and the volumes that have no name."""
        ...

    def events(self, label: str) -> AsyncGenerator[list[Any]]:
        """Yield what happens to the containers with a label. The first is None, once the engine listens."""
        ...

    def logs(self, name: str, *, follow: bool) -> AsyncGenerator[list[bytes]]:
        """Yield a container's output from its first byte."""
        ...

    def pull(self, image: str, platform: str | None, credentials: Credentials | None) -> AsyncGenerator[list[Any]]:
        """Pull an image; yields the engine's reports of progress."""
        ...

    async def close(self) -> None:
        """Let go of the engine."""
        ...


class DockerEngine:
    """An engine that speaks Docker's API: Docker, or Podman through its socket.

    `address` is a URL, as `unix:///run/podman/podman.sock`. Without one it is found as the `docker` command finds it,
    by `DOCKER_HOST` and the like.
    """

    def __init__(self, address: str | None = None) -> None:
        self._address = address
        self._calls = ThreadPoolExecutor(THREADS, thread_name_prefix="launchbay-engine")
        self._connecting = threading.Lock()
        self._connected: Any = None
        self._is_podman = False

    async def is_podman(self) -> bool:
        """See `ContainerEngine.is_podman`."""
        if self._connected is None:
            await self._call(lambda _: None)
        return self._is_podman

    async def create(self, name: str, config: JsonObject, platform: str | None) -> None:
        """See `ContainerEngine.create`."""
        await self._call(lambda client: client.create_container_from_config(config, name, platform))

    async def start(self, name: str) -> None:
        """See `ContainerEngine.start`."""
        await self._call(lambda client: client.start(name))

    async def containers(self, label: str) -> list[Any]:
        """See `ContainerEngine.containers`."""
        return await self._call(lambda client: client.containers(all=True, filters={"label": label}))

    async def inspect(self, name: str) -> Any:
        """See `ContainerEngine.inspect`."""
        return await self._call(lambda client: _or_none(lambda: client.inspect_container(name)))

    async def image(self, image: str) -> Any:
        """See `ContainerEngine.image`."""
        return await self._call(lambda client: _or_none(lambda: client.inspect_image(image)))

    async def kill(self, name: str, signal: str) -> None:
        """See `ContainerEngine.kill`."""
        await self._call(lambda client: client.kill(name, signal))

    async def unpause(self, name: str) -> None:
        """See `ContainerEngine.unpause`."""
        await self._call(lambda client: client.unpause(name))

    async def remove(self, name: str) -> None:
        """See `ContainerEngine.remove`."""
        await self._call(lambda client: client.remove_container(name, v=True))

    def events(self, label: str) -> AsyncGenerator[list[Any]]:
        """See `ContainerEngine.events`."""

        def opened() -> _Stream:
            client = self._client()
            return _Stream(client.events(decode=True, filters={"type": "container", "label": label}), [None])

        return feed(lambda: _mapped(opened), "launchbay-events")

    def logs(self, name: str, *, follow: bool) -> AsyncGenerator[list[bytes]]:
        """See `ContainerEngine.logs`."""
        return feed(
            lambda: _mapped(lambda: _Stream(self._client().logs(name, stream=True, follow=follow))), "launchbay-log"
        )

    def pull(self, image: str, platform: str | None, credentials: Credentials | None) -> AsyncGenerator[list[Any]]:
        """See `ContainerEngine.pull`."""
        repository, tag = utils.parse_repository_tag(image)
        secret = {"username": credentials.user, "password": credentials.password} if credentials else None

        def opened() -> _Stream:
            reports = self._client().pull(
                repository, tag or "latest", stream=True, decode=True, auth_config=secret, platform=platform
            )
            return _Stream(reports)

        return feed(lambda: _mapped(opened), "launchbay-pull")

    async def close(self) -> None:
        """See `ContainerEngine.close`."""
        self._calls.shutdown(wait=False, cancel_futures=True)
        if self._connected is not None:
            await asyncio.to_thread(self._connected.close)

    async def _call(self, work: Callable[[Any], T]) -> T:
        def done() -> T:
            return _mapped(lambda: work(self._client()))

        try:
            return await asyncio.get_running_loop().run_in_executor(self._calls, done)
        except RuntimeError as error:  # the pool is shut down
            raise BackendUnavailable("The local-container backend is closed.") from error

    def _client(self) -> Any:
        """Connect when first asked: the engine may be away while the agent starts. Blocks."""
        with self._connecting:
            if self._connected is None:
                options: Any = {"base_url": self._address} if self._address else utils.kwargs_from_env()
                options = {**options, "timeout": CALL_SECONDS, "max_pool_size": THREADS}
                # The package would ask for `/version`, for which Podman needs up to a second.
                with docker.APIClient(**options, version=constants.MINIMUM_DOCKER_API_VERSION) as asking:
                    try:
                        ping = asking.get(f"{asking.base_url}/_ping", timeout=CALL_SECONDS)
                    except requests.RequestException as error:
                        at = options.get("base_url") or constants.DEFAULT_UNIX_SOCKET.replace("http+unix://", "unix://")
                        raise BackendUnavailable(
                            f"The container engine at {at} cannot be reached: {_innermost(error)}"
                        ) from error
                self._is_podman = "Libpod-API-Version" in ping.headers
                self._connected = docker.APIClient(**options, version=ping.headers.get("Api-Version"))
            return self._connected


class _Stream:
    """What the docker package returns for something that streams, which can be closed at any time."""

    def __init__(self, items: Any, first: list[Any] | None = None) -> None:
        self._items = items
        self._first = first or []

    def __iter__(self) -> Iterator[Any]:
        yield from self._first
        items = iter(self._items)
        while True:
            item = _mapped(lambda: next(items, self))
            if item is self:
                return
            yield item

    def close(self) -> None:
        # The package lets one close what is being read, but not what has just ended, and not a generator that runs.
        with suppress(AttributeError, ValueError, OSError):
            self._items.close()


def _mapped(work: Callable[[], T]) -> T:
    """Do the work; what the docker package raises becomes an error of ours."""
    try:
        return work()
    except errors.APIError as error:
        explanation = str(error.explanation or error).strip()
        status = error.status_code or 500
        if status == 503 or (status >= 500 and _PASSING.search(explanation)):
            raise BackendUnavailable(f"The container engine cannot answer now: {explanation}") from error
        raise EngineRefused(status, explanation) from error
    except (errors.InvalidRepository, errors.InvalidArgument) as error:
        raise EngineRefused(400, str(error)) from error
    except (requests.RequestException, urllib3.exceptions.HTTPError, errors.DockerException, OSError) as error:
        raise BackendUnavailable(f"The container engine cannot be reached: {_innermost(error)}") from error


def _or_none(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except errors.NotFound:
        return None


def _innermost(error: BaseException) -> str:
    """Return the words that say what happened: libraries wrap them several times."""
    words, inner = str(error), error.__context__
    while inner is not None:
        if isinstance(inner, OSError):
            words = inner.strerror or str(inner)
        inner = inner.__context__
    return words


def image_registry(image: str) -> str:
    """Return the host of an image's registry."""
    return _mapped(lambda: str(auth.resolve_repository_name(utils.parse_repository_tag(image)[0])[0]))
