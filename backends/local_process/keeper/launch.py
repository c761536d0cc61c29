"""One launch, from the request to the written end."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import time

import job
from files import LABELS, LOCK, OUTPUT, STATUS, STOP_MARKER, read_status, start_ticks, write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from files import Status
    from keeper import Keeper
    from wire import Request

LOCK_RETRY_SECONDS = 0.005
WRITE_RETRY_SECONDS = 1.0
REPORT_BYTES = 4096
"""More than any report; a pipe passes that much in one piece."""
OVERLOADED = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.EAGAIN,
    errno.EIO,
}


class Launch:
    """A state machine whose state is what it does next.

    `_claim` the folder, `_fork`, see it `_ready` to run, see that it has `_begun`, `_idle` while it runs, `_end` and
    `_write_end`. It never waits: the keeper calls `advance` when there is something to do.
    """

    def __init__(self, keeper: Keeper, request: Request) -> None:
        self._keeper = keeper
        self._id = request["id"]
        self._folder = request["folder"]
        self._request: Request | None = request
        self._lock = self._report = self._go = -1
        self._pid = self._code = 0
        self._failure = b""
        self._status: Status = {}
        """Empty until it is written: until then the job does not run."""
        self._next = Launch._claim

    def advance(self) -> None:
        """Go on, because a report has come or a time is over."""
        try:
            self._next(self)
        except Exception as error:  # noqa: BLE001  the supervisor: the other launches go on, and the agent gets an answer
            if self._status:
                self._keeper.call_later(WRITE_RETRY_SECONDS, self)  # the exit status is worth waiting for
                return
            again = isinstance(error, OSError) and error.errno in OVERLOADED
            text = f"{type(error).__name__}: {error}"[: job.TEXT_LIMIT]
            self._keeper.reply({"id": self._id, "error": text, "again": again})
            self._leave()  # a job's process that waits for the word sees its pipe end

    def ended(self, code: int) -> None:
        """Go on, because the job's process has ended and was reaped. The code is negative for a signal."""
        for unread in (Launch._ready, Launch._begun):
            if self._next is unread:
                self.advance()
        if self._status:
            self._code = code
            self._next = Launch._end
            self.advance()

    def _claim(self) -> None:
        """Take the lock; or tell the status that the launch has already, once the keeper that has the lock wrote it."""
        if self._lock < 0:
            os.makedirs(self._folder, mode=0o700, exist_ok=True)
            self._lock = os.open(f"{self._folder}/{LOCK}", os.O_RDWR | os.O_CREAT, 0o600)
        is_locked = True
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            is_locked = False
        if earlier := read_status(self._folder):
            self._keeper.reply({"id": self._id, "status": earlier})
            self._leave()
        elif is_locked:
            assert self._request is not None
            write(self._folder, LABELS, self._request["labels"])
            # After a fork, every page that is touched is copied. So what has come together forks in a row.
            self._next = Launch._fork
            self._keeper.call_later(0, self)
        else:
            self._keeper.call_later(LOCK_RETRY_SECONDS, self)

    def _fork(self) -> None:
        """Fork the job's process."""
        request, self._request = self._request, None  # the environment has secrets
        assert request is not None
        its: list[int] = []
        try:
            its.append(output := os.open(f"{self._folder}/{OUTPUT}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
            self._report, report = os.pipe()
            its.append(report)
            go, self._go = os.pipe()
            its.append(go)
            self._keeper.top = top = max(self._keeper.top, self._lock, self._report, self._go, *its)
            self._pid = os.fork()
            if self._pid == 0:
                job.become(request, self._lock, output, report, go, top)
        finally:
            for handle in its:
                os.close(handle)
        self._keeper.children[self._pid] = self
        self._keeper.watch(self._report, self.advance)
        self._next = Launch._ready

    def _ready(self) -> None:
        """Write down that the job runs, and then let it."""
        report = os.read(self._report, REPORT_BYTES)
        status: Status = {
            "state": "running",
            "pid": self._pid,
            "shim": self._keeper.pid,
            "started_at": time.time(),
            "pid_started": start_ticks(self._pid),
            "shim_started": self._keeper.started,
        }
        write(self._folder, STATUS, status)
        self._status = status
        # The agent leaves the marker first and then looks for a pid to signal; here it is the other way round.
        # So a stop that comes right now is seen by at least one of the two.
        if report != job.READY:
            self._failure = report
        elif not self._is_stopped():
            with contextlib.suppress(BrokenPipeError):
                os.write(self._go, b"\n")
        os.close(self._go)
        self._go = -1
        self._next = Launch._begun
        self._keeper.reply({"id": self._id, "status": status, "is_kept": True})

    def _begun(self) -> None:
        """The job's program runs, or could not be executed."""
        self._failure += os.read(self._report, REPORT_BYTES)
        self._close_report()
        self._next = Launch._idle

    def _idle(self) -> None:
        """Nothing is left to do. What calls all the same was due already when it became so."""

    def _end(self) -> None:
        code = self._code
        why: dict[str, str] = json.loads(self._failure or b"{}")
        self._status.update(
            {
                "state": "ended",
                "exit_code": 128 - code if code < 0 else code,
                "signal": -code if code < 0 else None,
                "stopped": self._is_stopped(),
                "reason": why.get("reason", ""),
                "message": why.get("message", ""),
                "ended_at": time.time(),
            }
        )
        self._next = Launch._write_end
        self._write_end()

    def _write_end(self) -> None:
        try:
            write(self._folder, STATUS, self._status)
            self._keeper.reply({"id": self._id, "status": self._status})
        except (FileNotFoundError, NotADirectoryError):
            pass  # somebody has removed the folder: nobody will ask
        self._leave()

    def _is_stopped(self) -> bool:
        return os.path.exists(f"{self._folder}/{STOP_MARKER}")

    def _close_report(self) -> None:
        if self._report >= 0:
            self._keeper.unwatch(self._report)
            os.close(self._report)
            self._report = -1

    def _leave(self) -> None:
        self._close_report()
        for handle in (self._go, self._lock):
            if handle >= 0:
                os.close(handle)
        self._go = self._lock = -1
        self._request = None
        self._next = Launch._idle
        self._keeper.forget(self)
