"""The agent's end of the spawner: starts it when it is needed, and again when it has died."""

import asyncio
import itertools
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from backends.base import BackendError, BackendUnavailable
from backends.local_process import spawner

if TYPE_CHECKING:
    from backends.local_process.spawner import Reply, Request, Status

PROGRAM = Path(spawner.__file__)
REPLY_BYTES = 65536
START_SECONDS = 60.0
"""How long a shim may take to answer. Only one that was killed, or whose disk hangs, takes so long."""


class Spawner:
    """Sends start requests to the helper process; several may be under way at once."""

    def __init__(self) -> None:
        self._opening = asyncio.Lock()
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Reply]] = {}
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
    ) -> "Status":
        """Have a launch started in its folder and return its status.

        Raises `BackendUnavailable` if the helper dies over it (asking again is safe) or the machine is overloaded, and
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
        }
        reply = await self._exchange(number, json.dumps(request).encode())
        if error := reply.get("error"):
            kind = BackendUnavailable if reply.get("again") else BackendError
            raise kind(f"The launch {folder.name} could not be started on this machine: {error}.")
        return reply.get("status", {})

    async def close(self) -> None:
        """End the helper. Jobs go on."""
        async with self._opening:
            self._closed = True
            self._disconnect()
            await self._reap()

    async def _exchange(self, number: int, body: bytes) -> "Reply":
        requests = await self._connected()
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            requests.write(spawner.LENGTH.pack(len(body)) + body)
            async with asyncio.timeout(START_SECONDS):
                await requests.drain()
                return await answer
        except TimeoutError as error:
            raise BackendUnavailable(f"No answer from the launch's shim within {START_SECONDS:.0f} s.") from error
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
                await self._reap()
                await self._open()
            assert self._requests is not None
            return self._requests

    async def _open(self) -> None:
        ours_requests, its_requests = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        ours_replies, its_replies = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its_requests, its_replies:
            self._process = await asyncio.to_thread(_run, its_requests.fileno(), its_replies.fileno())
        _, self._requests = await asyncio.open_unix_connection(sock=ours_requests)
        ours_replies.setblocking(False)
        self._replies = ours_replies
        asyncio.get_running_loop().add_reader(ours_replies, self._receive, ours_replies)

    async def _reap(self) -> None:
        """Wait for a helper whose sockets are closed, which is about to end."""
        if self._process is not None:
            await asyncio.to_thread(self._process.wait)
            self._process = None

    def _receive(self, replies: socket.socket) -> None:
        while True:
            try:
                packet = replies.recv(REPLY_BYTES)
            except BlockingIOError:
                return
            except OSError:
                packet = b""
            if not packet:
                self._disconnect()
                return
            reply: Reply = json.loads(packet)
            waiting = self._waiting.get(reply["id"]) if "id" in reply else None
            if waiting and not waiting.done():
                waiting.set_result(reply)

    def _disconnect(self) -> None:
        if self._replies is not None:
            asyncio.get_running_loop().remove_reader(self._replies)
            self._replies.close()
        if self._requests is not None:
            self._requests.transport.abort()
        self._requests = self._replies = None
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(BackendUnavailable("The process that starts jobs has died."))


def _run(requests: int, replies: int) -> subprocess.Popen[bytes]:
    """Start the helper: nothing inherited but its sockets, and a session of its own, out of reach of Ctrl-C."""
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-X", "utf8", str(PROGRAM), str(requests), str(replies)],
        pass_fds=(requests, replies),
        # Shims outlive the agent: were its stderr theirs, whoever reads that pipe would wait for the last job.
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # Some Pythons find their own library only so.
        env={key: os.environ[key] for key in ("LD_LIBRARY_PATH",) if key in os.environ},
        cwd="/",
        start_new_session=True,
    )
