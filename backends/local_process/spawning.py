"""The agent's end of the spawner: starts it when it is needed, and again when it has died."""

import asyncio
import itertools
import json
import socket
import sys
from pathlib import Path
from typing import Any

from backends.base import BackendUnavailable
from backends.local_process import spawner

PROGRAM = Path(spawner.__file__)
REPLY_BYTES = 65536


class Spawner:
    """Sends start requests to the helper process; several may be under way at once."""

    def __init__(self) -> None:
        self._starting = asyncio.Lock()
        self._sending = asyncio.Lock()
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._requests: socket.socket | None = None
        self._replies: socket.socket | None = None

    async def start(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the shim's reply; `BackendUnavailable` if the helper died over it. Asking again is safe."""
        requests = await self._connected()
        number = next(self._numbers)
        body = json.dumps({"id": number, **request}).encode()
        reply = asyncio.get_running_loop().create_future()
        self._waiting[number] = reply
        try:
            async with self._sending:
                await asyncio.get_running_loop().sock_sendall(requests, spawner.LENGTH.pack(len(body)) + body)
            return await reply
        except OSError as error:
            self._disconnect()
            raise BackendUnavailable(f"The process that starts jobs has died: {error}.") from error
        finally:
            self._waiting.pop(number, None)

    async def close(self) -> None:
        """End the helper. Jobs go on."""
        self._disconnect()
        if self._process is not None:
            await self._process.wait()
            self._process = None

    async def _connected(self) -> socket.socket:
        async with self._starting:
            if self._requests is None:
                await self._launch()
            assert self._requests is not None
            return self._requests

    async def _launch(self) -> None:
        if self._process is not None:
            await self._process.wait()
        ours_requests, its_requests = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        ours_replies, its_replies = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its_requests, its_replies:
            # A session of its own, so that Ctrl-C in the agent's terminal does not reach it or the jobs.
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", str(PROGRAM)),
                *(str(its_requests.fileno()), str(its_replies.fileno())),
                pass_fds=(its_requests.fileno(), its_replies.fileno()),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                env={},
                cwd="/",
                start_new_session=True,
            )
        ours_requests.setblocking(False)
        ours_replies.setblocking(False)
        self._requests, self._replies = ours_requests, ours_replies
        asyncio.get_running_loop().add_reader(ours_replies, self._receive, ours_replies)

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
            reply = json.loads(packet)
            waiting = self._waiting.get(reply["id"])
            if waiting and not waiting.done():
                waiting.set_result(reply)

    def _disconnect(self) -> None:
        if self._replies is not None:
            asyncio.get_running_loop().remove_reader(self._replies)
            self._replies.close()
        if self._requests is not None:
            self._requests.close()
        self._requests = self._replies = None
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(BackendUnavailable("The process that starts jobs has died."))
