"""The agent's end of the keeper: starts it when it is needed, and again when it has died."""

import asyncio
import itertools
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from backends.base import BackendError, BackendUnavailable
from backends.local_process import keeper
from backends.local_process.keeper import wire

if TYPE_CHECKING:
    from backends.local_process.keeper.files import Status
    from backends.local_process.keeper.wire import Group, Reply, Request

PROGRAM = Path(keeper.__file__).with_name("__main__.py")
START_SECONDS = 60.0
"""How long a keeper may take to answer. Only one whose disk hangs takes so long."""


_left: list[subprocess.Popen[bytes]] = []
"""Keepers that are not ours any more, until they are reaped: they live as long as their jobs do."""


class Keeper:
    """Sends start requests to the keeper, several at once, and hears of the ends of what it has started."""

    def __init__(self) -> None:
        self._opening = asyncio.Lock()
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Reply]] = {}
        self._ends: dict[int, Callable[[Status | None], None]] = {}
        """Whom to tell, by the number of the request that has started a job."""
        self._process: subprocess.Popen[bytes] | None = None
        self._requests: asyncio.StreamWriter | None = None
        self._replies: socket.socket | None = None
        self._closed = False

    async def start(
        self,
        folder: Path,
        command: Sequence[str],
        environment: Mapping[str, str],
        working_dir: Path | None,
        labels: Mapping[str, str],
        groups: "Sequence[Group]",
        ended: "Callable[[Status | None], None]",
    ) -> "tuple[Status, bool]":
        """Have a launch started in its folder; return its status, and whether `ended` is still to be called.

        If this starts it, `ended` gets the status of its end, or None if the keeper has died before. Raises
        `BackendUnavailable` if the keeper dies over it (asking again is safe) or the machine is overloaded, and
        `BackendError` if the folder cannot be used.
        """
        number = next(self._numbers)
        request: Request = {
            "id": number,
            "folder": str(folder),
            "command": list(command),
            "environment": dict(environment),
            "working_dir": str(working_dir) if working_dir else None,
            "labels": dict(labels),
            "groups": list(groups),
        }
        self._ends[number] = ended
        reply = await self._exchange(number, json.dumps(request).encode())
        if error := reply.get("error"):
            kind = BackendUnavailable if reply.get("again") else BackendError
            raise kind(f"The launch {folder.name} could not be started on this machine: {error}.")
        return reply.get("status", {}), number in self._ends

    async def close(self) -> None:
        """Leave the keeper. It ends once its jobs have ended."""
        async with self._opening:
            self._closed = True
            self._ends.clear()
            requests = self._requests
            self._disconnect()
            if requests is not None:
                with suppress(ConnectionError):
                    await requests.wait_closed()

    async def _exchange(self, number: int, body: bytes) -> "Reply":
        requests = await self._connected()
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            requests.write(wire.LENGTH.pack(len(body)) + body)
            async with asyncio.timeout(START_SECONDS):
                await requests.drain()
                return await answer
        except TimeoutError as error:
            raise BackendUnavailable(f"The keeper of jobs has not answered within {START_SECONDS:.0f} s.") from error
        except ConnectionError as error:
            self._disconnect()
            raise BackendUnavailable(f"The process that starts jobs has died: {error}.") from error
        finally:
            del self._waiting[number]

    async def _connected(self) -> asyncio.StreamWriter:
        async with self._opening:
            if self._closed:
                raise BackendUnavailable("The local-process backend is closed.")
            if self._requests is None:
                await self._open()
            assert self._requests is not None
            return self._requests

    async def _open(self) -> None:
        _left[:] = [one for one in _left if one.poll() is None]
        ours_requests, its_requests = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        ours_replies, its_replies = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its_requests, its_replies:
            self._process = await asyncio.to_thread(_run, its_requests.fileno(), its_replies.fileno())
        _, self._requests = await asyncio.open_unix_connection(sock=ours_requests)
        ours_replies.setblocking(False)
        self._replies = ours_replies
        asyncio.get_running_loop().add_reader(ours_replies, self._receive, ours_replies)

    def _receive(self, replies: socket.socket) -> None:
        while True:
            try:
                packet = replies.recv(wire.PACKET_BYTES)
            except BlockingIOError:
                return
            except OSError:
                packet = b""
            if not packet:
                self._disconnect()
                return
            reply: Reply = json.loads(packet)
            number = reply.get("id", 0)
            waiting = self._waiting.get(number)
            ended = None if reply.get("is_kept") else self._ends.pop(number, None)
            if waiting and not waiting.done():
                waiting.set_result(reply)
            elif ended and "status" in reply:
                ended(reply["status"])

    def _disconnect(self) -> None:
        if self._replies is not None:
            asyncio.get_running_loop().remove_reader(self._replies)
            self._replies.close()
        if self._requests is not None:
            self._requests.transport.abort()
        if self._process is not None:
            _left.append(self._process)
        self._requests = self._replies = self._process = None
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(BackendUnavailable("The process that starts jobs has died."))
        ends, self._ends = self._ends, {}
        for ended in ends.values():
            ended(None)


def _run(requests: int, replies: int) -> subprocess.Popen[bytes]:
    """Start a keeper: nothing inherited but its sockets, and a session of its own, out of reach of Ctrl-C."""
    return subprocess.Popen(
        [sys.executable, "-E", "-s", "-S", "-X", "utf8", str(PROGRAM), str(requests), str(replies)],
        pass_fds=(requests, replies),
        # It outlives the agent: with the agent's stderr, whoever reads that pipe would wait for the last job.
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # Some Pythons find their own library only so.
        env={key: os.environ[key] for key in ("LD_LIBRARY_PATH",) if key in os.environ},
        cwd="/",
        start_new_session=True,
    )
