"""Tells a service manager (systemd) how the agent does: ready, reloading, stopping, and that its event loop still runs.

The protocol is sd_notify(3): datagrams of `KEY=value` lines to the socket that $NOTIFY_SOCKET names. Without one nobody
listens, and nothing is sent. With a watchdog ($WATCHDOG_USEC) a word is due regularly; it comes from the event loop, so
that an agent whose loop is blocked is started again.
"""

import asyncio
import os
import socket
import time
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager

import structlog

log = structlog.get_logger(__name__)


class ServiceManager:
    """Who is told. Telling never waits: what there is no room for yet is sent once there is."""

    def __init__(self, transport: asyncio.DatagramTransport | None, monotonic_ns: Callable[[], int]) -> None:
        self._transport = transport
        self._monotonic_ns = monotonic_ns
        self._is_stopping = False

    def ready(self) -> None:
        """The start is over, and work is done."""
        self._tell("READY=1")

    def status(self, text: str) -> None:
        """Say in a sentence what is going on, for whoever looks."""
        self._tell(f"STATUS={' '.join(text.split())}")

    @contextmanager
    def reloading(self) -> Generator[None]:
        """The configuration is read again while the block runs. Whether or not that works, work goes on after it.

        Once the end has begun nothing is said of it: it must not look as if work went on.
        """
        if self._is_stopping:
            yield
            return
        self._tell("RELOADING=1", f"MONOTONIC_USEC={self._monotonic_ns() // 1000}")
        try:
            yield
        finally:
            self.ready()

    def stopping(self) -> None:
        """The end has begun. Said a second time, it changes nothing."""
        self._is_stopping = True
        self._tell("STOPPING=1")

    def alive(self) -> None:
        """The event loop runs."""
        self._tell("WATCHDOG=1")

    def _tell(self, *lines: str) -> None:
        if self._transport:
            self._transport.sendto("\n".join(lines).encode())


@asynccontextmanager
async def service_manager(
    environment: Mapping[str, str], *, monotonic_ns: Callable[[], int] = time.monotonic_ns
) -> AsyncGenerator[ServiceManager]:
    """Give whoever `environment` says started this process, or somebody who listens to nothing.

    While the block runs, the watchdog is told. `monotonic_ns` is the clock of CLOCK_MONOTONIC.
    """
    transport = await _connected(environment.get("NOTIFY_SOCKET", ""))
    manager = ServiceManager(transport, monotonic_ns)
    seconds = _watchdog_seconds(environment)
    watchdog = asyncio.create_task(_tell_watchdog(manager, seconds)) if transport and seconds else None
    try:
        yield manager
    finally:
        if watchdog:
            watchdog.cancel()
            await asyncio.wait([watchdog])
        manager.stopping()
        if transport:
            transport.close()


async def _connected(address: str) -> asyncio.DatagramTransport | None:
    if not address:
        return None
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        notify.connect(f"\0{address[1:]}" if address.startswith("@") else address)
    except OSError as error:
        notify.close()
        log.warning("the service manager cannot be told anything", socket=address, error=error.strerror)
        return None
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(asyncio.DatagramProtocol, sock=notify)
    return transport


def _watchdog_seconds(environment: Mapping[str, str]) -> float | None:
    """Return how long the watchdog waits for a word; None if there is none, or it is for another process."""
    microseconds = environment.get("WATCHDOG_USEC", "")
    watched = environment.get("WATCHDOG_PID", "")
    if not microseconds.isdecimal() or watched not in {"", str(os.getpid())}:
        return None
    return int(microseconds) / 1e6


async def _tell_watchdog(manager: ServiceManager, seconds: float) -> None:
    while True:
        manager.alive()
        await asyncio.sleep(seconds / 2)
