"""The sockets of an HTTP client, so that none is left open when it is closed.

Who lets go of an answer in its middle, as of a watch, leaves a connection that says goodbye over TLS. That takes until
the server has answered, and aiohttp does not wait for it.
"""

import asyncio
import socket
from contextlib import suppress
from typing import Any
from weakref import WeakSet

CLOSING_SECONDS = 5.0
"""How long closed connections are waited for. They take a moment; the server has no part in it."""


class Sockets:
    """Those of one client. `make` is a socket factory of aiohttp."""

    def __init__(self) -> None:
        self._made: WeakSet[socket.socket] = WeakSet()

    def make(self, address: tuple[Any, ...]) -> socket.socket:
        """Return a socket for an address as `getaddrinfo` writes it."""
        family, kind, protocol, *_ = address
        made = socket.socket(family, kind, protocol)
        self._made.add(made)
        return made

    async def close(self) -> None:
        """End what is still being said through them, and return when all are closed."""
        for each in self._open():
            with suppress(OSError):  # it is not connected
                each.shutdown(socket.SHUT_RDWR)
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSING_SECONDS):
                while self._open():  # noqa: ASYNC110 -- nobody tells
                    await asyncio.sleep(0.001)

    def _open(self) -> list[socket.socket]:
        return [each for each in self._made if each.fileno() != -1]
