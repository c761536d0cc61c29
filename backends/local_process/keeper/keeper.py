"""The loop: requests in, replies out, and a word to each launch to which something has happened."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import json
import os
import selectors
import signal
import socket
import time

from files import start_ticks
from launch import Launch
from wire import LENGTH

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from wire import Reply, Request

RECEIVE_BYTES = 256 * 1024


class Keeper:
    """Keeps launches. Nothing in here, nor what it calls, waits for a single one of them."""

    def __init__(self, requests: socket.socket, replies: socket.socket) -> None:
        self.pid = os.getpid()
        self.started = start_ticks(self.pid)
        self.children: dict[int, Launch] = {}
        """By pid, the launches whose process lives."""
        self._launches: set[Launch] = set()
        self._timers: list[tuple[float, int, Launch]] = []
        self._numbers = itertools.count()
        self._selector = selectors.DefaultSelector()
        self.top = max(requests.fileno(), replies.fileno(), self._selector.fileno())
        """The highest file that was ever open."""
        self._requests: socket.socket | None = requests
        self._received = bytearray()
        self._replies = replies
        self._unsent: list[bytes] = []
        """Replies for which the agent has made no room yet."""
        self._is_blocked = False
        self._above_groups: set[str] = set()
        """The folders in which launches have got control groups."""
        self.watch(requests.fileno(), self._receive)

    def serve(self, woken: int) -> None:
        """Serve until the agent has closed its end and nothing is left to keep. `woken` is readable after a signal.

        Children are heard of by signal and not by pidfd: that takes no open file for each, and works on every kernel.
        """
        self.watch(woken, lambda: self._wake(woken))
        while self._requests or self._launches:
            for key, _ in self._selector.select(self._patience()):
                key.data()
            while self._timers and self._timers[0][0] <= time.monotonic():
                heapq.heappop(self._timers)[2].advance()
            while self._take_request():
                pass
        for folder in self._above_groups:
            with contextlib.suppress(OSError):  # it has launches of another keeper in it
                os.rmdir(folder)

    # --- for launches ------------------------------------------------------------------------------------------------

    def watch(self, file: int, ready: Callable[[], None]) -> None:
        """Have something called whenever there is something to read."""
        self._selector.register(file, selectors.EVENT_READ, ready)

    def unwatch(self, file: int) -> None:
        """Watch a file no more, if it is watched. Before it is closed."""
        with contextlib.suppress(KeyError):
            self._selector.unregister(file)

    def call_later(self, seconds: float, launch: Launch) -> None:
        """Have a launch advance in a while."""
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._numbers), launch))

    def reply(self, reply: Reply) -> None:
        """Tell the agent, if it is still there. Else the next one reads the folder."""
        if self._requests is None:
            return
        self._unsent.append(json.dumps(reply).encode())
        if not self._is_blocked:
            self._send()

    def forget(self, launch: Launch) -> None:
        """Drop a launch, which is over or could not be started."""
        self._launches.discard(launch)

    # --- below -------------------------------------------------------------------------------------------------------

    def _patience(self) -> float | None:
        return max(0, self._timers[0][0] - time.monotonic()) if self._timers else None

    def _wake(self, woken: int) -> None:
        signals = os.read(woken, 4096)
        self._reap()
        if signal.SIGHUP in signals:
            for launch in self._launches:
                with contextlib.suppress(OSError):  # who asks looks whether it was done, and asks again
                    launch.restore()

    def _reap(self) -> None:
        # Signals of several children can come as one.
        with contextlib.suppress(ChildProcessError):
            while found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                pid = found.si_pid
                # What a job started and left behind ends with it, as in a container: nobody would ever stop it, and it
                # would hold what the next job is given. The job is not reaped yet, so the group is its.
                with contextlib.suppress(OSError):
                    os.killpg(pid, signal.SIGKILL)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                if launch := self.children.pop(pid, None):
                    launch.ended(code)

    def _receive(self) -> None:
        assert self._requests is not None
        try:
            piece = self._requests.recv(RECEIVE_BYTES)
        except ConnectionError:
            piece = b""
        if piece:
            self._received += piece
        else:
            self._hang_up()

    def _take_request(self) -> bool:
        """Begin with a request that is here; returns whether there was one."""
        if len(self._received) < LENGTH.size:
            return False
        size = LENGTH.size + LENGTH.unpack_from(self._received)[0]
        if len(self._received) < size:
            return False
        try:
            request: Request = json.loads(self._received[LENGTH.size : size])
            launch = Launch(self, request)
        except (ValueError, TypeError, KeyError):  # not our agent, or not its version: the jobs matter more
            self._hang_up()
            return False
        del self._received[:size]
        self._launches.add(launch)
        self._above_groups.update(os.path.dirname(group["folder"]) for group in request["groups"])
        launch.advance()
        return True

    def _send(self) -> None:
        try:
            while self._unsent:
                self._replies.send(self._unsent[0], socket.MSG_DONTWAIT)
                del self._unsent[0]
        except BlockingIOError:
            self._block(True)
        except OSError:  # the agent is gone
            self._unsent.clear()
            self._block(False)
        else:
            self._block(False)

    def _block(self, is_blocked: bool) -> None:
        """Wait for room for replies, or do so no more."""
        if is_blocked and not self._is_blocked:
            self._selector.register(self._replies, selectors.EVENT_WRITE, self._send)
        elif self._is_blocked and not is_blocked:
            self._selector.unregister(self._replies)
        self._is_blocked = is_blocked

    def _hang_up(self) -> None:
        assert self._requests is not None
        self.unwatch(self._requests.fileno())
        self._block(False)
        self._requests.close()
        self._replies.close()
        self._requests = None
        self._received.clear()
        self._unsent.clear()
