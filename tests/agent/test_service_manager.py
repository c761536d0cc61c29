"""A service manager is told what it has to know, over a real socket."""

import asyncio
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.observability.service_manager import service_manager


class Listener:
    """The service manager's end of the socket."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(address)

    def heard(self) -> list[str]:
        """Return what came since the last time, and make room for more."""
        messages: list[str] = []
        while True:
            try:
                messages.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return messages

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def address(tmp_path: Path) -> str:
    return str(tmp_path / "notify")


@pytest.fixture
def listener(address: str) -> Iterator[Listener]:
    listener = Listener(address)
    yield listener
    listener.close()


async def test_a_life_is_told(listener: Listener, address: str) -> None:
    async with service_manager({"NOTIFY_SOCKET": address}, monotonic_ns=lambda: 12_345_678) as manager:
        manager.status("looking for\nREADY=1 the server")
        assert listener.heard() == ["STATUS=looking for READY=1 the server"]
        manager.ready()
        assert listener.heard() == ["READY=1"]
        with manager.reloading():
            assert listener.heard() == ["RELOADING=1\nMONOTONIC_USEC=12345"]
        assert listener.heard() == ["READY=1"]
    assert listener.heard() == ["STOPPING=1"]


async def test_a_reload_that_fails_is_over_all_the_same(listener: Listener, address: str) -> None:
    async with service_manager({"NOTIFY_SOCKET": address}) as manager:
        with pytest.raises(ValueError, match="bad"), manager.reloading():
            raise ValueError("bad")
        assert listener.heard()[-1] == "READY=1"


async def test_a_reload_while_it_stops_does_not_look_like_work(listener: Listener, address: str) -> None:
    async with service_manager({"NOTIFY_SOCKET": address}) as manager:
        manager.stopping()
        with manager.reloading():
            pass
        assert listener.heard() == ["STOPPING=1"]


async def test_an_address_may_be_abstract() -> None:
    name = f"launchbay-test-{os.getpid()}"
    listener = Listener(f"\0{name}")
    async with service_manager({"NOTIFY_SOCKET": f"@{name}"}) as manager:
        manager.ready()
        assert listener.heard() == ["READY=1"]
    listener.close()


@pytest.mark.looptime
@pytest.mark.parametrize("watched", [{}, {"WATCHDOG_PID": str(os.getpid())}])
async def test_the_watchdog_hears_twice_as_often_as_it_must(
    listener: Listener, address: str, watched: dict[str, str]
) -> None:
    async with service_manager({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "30000000", **watched}):
        for _ in range(3):
            await asyncio.sleep(15)
            assert listener.heard() == ["WATCHDOG=1"]


async def test_a_blocked_loop_is_not_alive(listener: Listener, address: str) -> None:
    async with service_manager({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "100000"}):
        await asyncio.sleep(0.12)
        assert len(listener.heard()) >= 2
        time.sleep(0.3)
        assert listener.heard() == []


@pytest.mark.looptime
@pytest.mark.parametrize(
    "watchdog", [{}, {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": ""}, {"WATCHDOG_USEC": "0"}]
)
async def test_a_watchdog_that_is_not_ours_hears_nothing(
    listener: Listener, address: str, watchdog: dict[str, str]
) -> None:
    async with service_manager({"NOTIFY_SOCKET": address, **watchdog}):
        await asyncio.sleep(60)
        assert listener.heard() == []


async def test_what_there_is_no_room_for_comes_later(listener: Listener, address: str) -> None:
    async with service_manager({"NOTIFY_SOCKET": address}) as manager:
        for number in range(2000):
            manager.status(str(number))
        manager.ready()
        heard: list[str] = []
        async with asyncio.timeout(120):
            while "READY=1" not in heard:
                heard += listener.heard()
                await asyncio.sleep(0)
    assert heard == [*(f"STATUS={number}" for number in range(2000)), "READY=1"]


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "/gone/notify"}])
async def test_nobody_listens(environment: dict[str, str]) -> None:
    files = set(Path("/proc/self/fd").iterdir())
    async with service_manager({**environment, "WATCHDOG_USEC": "1"}) as manager:
        assert set(Path("/proc/self/fd").iterdir()) == files
        assert len(asyncio.all_tasks()) == 1
        with manager.reloading():
            manager.ready()
        manager.status("going on")


async def test_a_manager_that_goes_away_does_no_harm(listener: Listener, address: str) -> None:
    async with service_manager({"NOTIFY_SOCKET": address}) as manager:
        listener.close()
        manager.ready()
        manager.status("going on")


async def test_nothing_is_left(listener: Listener, address: str) -> None:
    files = len(list(Path("/proc/self/fd").iterdir()))
    async with service_manager({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000000"}):
        pass
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 1
    assert len(list(Path("/proc/self/fd").iterdir())) == files
