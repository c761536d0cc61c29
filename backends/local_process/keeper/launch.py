"""One launch, from the request to the written end."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import signal
import time

import groups
import job
from files import OUTPUT, STOP_MARKER, add_line, open_record, read_status, start_ticks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from files import Status
    from keeper import Keeper
    from wire import Request

LOCK_RETRY_SECONDS = 0.005
WRITE_RETRY_SECONDS = 1.0
EMPTY_RETRY_SECONDS = 0.005
"""How soon to look whether what was killed in a control group is gone. Each time twice as late, up to a second."""
MOST_BYTES = 2**30
"""To be copied by one call."""
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

    `_claim` the record, `_fork`, see it `_ready` to run, see that it has `_begun`, `_idle` while it runs, `_empty` its
    control groups, and write its `_end`. It never waits: the keeper calls `advance` when there is something to do.
    """

    def __init__(self, keeper: Keeper, request: Request) -> None:
        self._keeper = keeper
        self._id = request["id"]
        self._folder = request["folder"]
        self._request: Request | None = request
        self._record = self._report = self._go = -1
        self._pid = 0
        self._groups: list[str] = []
        """The folders of its control groups, once they are made."""
        self._output = -1
        """Where its output stands, if its folder was removed under it."""
        self._pause = EMPTY_RETRY_SECONDS
        self._failure = b""
        self._status: Status = {}
        """What the record says. The job does not run until that has a state."""
        self._end_line: Status = {}
        self._next = Launch._claim

    def advance(self) -> None:
        """Go on, because a report has come or a time is over."""
        try:
            self._next(self)
        except Exception as error:  # noqa: BLE001  the supervisor: the other launches go on, and the agent gets an answer
            if "state" in self._status:
                self._keeper.call_later(WRITE_RETRY_SECONDS, self)  # the exit status is worth waiting for
                return
            again = isinstance(error, OSError) and error.errno in OVERLOADED
            text = f"{type(error).__name__}: {error}"[: job.TEXT_LIMIT]
            groups.remove(self._groups)
            self._keeper.reply({"id": self._id, "error": text, "again": again})
            self._leave()  # a job's process that waits for the word sees its pipe end

    def ended(self, code: int) -> None:
        """Go on, because the job's process has ended and was reaped. The code is negative for a signal."""
        for unread in (Launch._ready, Launch._begun):
            if self._next is unread:
                self.advance()
        if "state" in self._status:
            why: dict[str, str] = json.loads(self._failure or b"{}")
            if code and (killed := groups.why_killed(self._groups)):
                who = "It" if code == -signal.SIGKILL else "One of its processes"
                why = {"reason": "oom_killed", "message": f"{who} was killed because {killed}"}
            self._end_line = {
                "state": "ended",
                "exit_code": 128 - code if code < 0 else code,
                "signal": -code if code < 0 else None,
                "stopped": self._is_stopped(),
                "reason": why.get("reason", ""),
                "message": why.get("message", ""),
                "ended_at": time.time(),
            }
            self._next = Launch._empty
            self.advance()
        else:
            groups.remove(self._groups)

    def restore(self) -> None:
        """Write everything down anew if its folder was removed under it. Raises `OSError`; asking again is right."""
        if "state" not in self._status or self._record < 0 or os.fstat(self._record).st_nlink:
            return
        record = open_record(self._folder)
        try:
            fcntl.flock(record, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(record).st_size == 0:
                self._restore_output()
                add_line(record, self._status)
        except OSError:
            os.close(record)
            raise
        os.close(self._record)
        self._record = record
        self._keeper.top = max(self._keeper.top, self._record, self._output)

    def _restore_output(self) -> None:
        """Let its output be read where it was. The file has no name any more; it is there as long as somebody has it
        open."""
        output = f"{self._folder}/{OUTPUT}"
        for file in (1, 2):
            with contextlib.suppress(OSError):  # the job has ended
                if self._output < 0 and os.readlink(f"/proc/{self._pid}/fd/{file}") == f"{output} (deleted)":
                    self._output = os.open(f"/proc/{self._pid}/fd/{file}", os.O_RDONLY)
        if self._output >= 0:
            with contextlib.suppress(FileExistsError):
                os.symlink(f"/proc/{self._keeper.pid}/fd/{self._output}", output)

    def _keep_output(self) -> None:
        """Put all of its output into a file, as nobody else will have it open."""
        if self._output < 0:
            return
        whole, position = f"{self._folder}/{OUTPUT}.whole", 0
        file = os.open(whole, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            while sent := os.sendfile(file, self._output, position, MOST_BYTES):
                position += sent
        finally:
            os.close(file)
        os.rename(whole, f"{self._folder}/{OUTPUT}")
        os.close(self._output)
        self._output = -1

    def _claim(self) -> None:
        """Take the lock; or tell the status that the launch has already, once the keeper that has the lock wrote it."""
        if self._record < 0:
            self._record = open_record(self._folder)
        is_locked = True
        try:
            fcntl.flock(self._record, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            is_locked = False
        earlier = read_status(self._folder)
        if "state" in earlier:
            self._keeper.reply({"id": self._id, "status": earlier})
            self._leave()
        elif is_locked:
            assert self._request is not None
            line: Status = {"labels": self._request["labels"]}
            if wanted := self._request["groups"]:
                line["groups"] = [group["folder"] for group in wanted]
            self._note(line)
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
        self._groups = [group["folder"] for group in request["groups"]]
        groups.make(request["groups"])
        try:
            its.append(output := os.open(f"{self._folder}/{OUTPUT}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
            self._report, report = os.pipe()
            its.append(report)
            go, self._go = os.pipe()
            its.append(go)
            self._keeper.top = top = max(self._keeper.top, self._record, self._report, self._go, *its)
            self._pid = os.fork()
            if self._pid == 0:
                job.become(request, self._record, output, report, go, top)
        finally:
            for handle in its:
                os.close(handle)
        self._keeper.children[self._pid] = self
        self._keeper.watch(self._report, self.advance)
        self._next = Launch._ready

    def _ready(self) -> None:
        """Write down that the job runs, and then let it."""
        report = os.read(self._report, REPORT_BYTES)
        self._note(
            {
                "state": "running",
                "pid": self._pid,
                "pid_started": start_ticks(self._pid),
                "keeper": self._keeper.pid,
                "keeper_started": self._keeper.started,
                "started_at": time.time(),
            }
        )
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
        self._keeper.reply({"id": self._id, "status": self._status, "is_kept": True})

    def _begun(self) -> None:
        """The job's program runs, or could not be executed."""
        self._failure += os.read(self._report, REPORT_BYTES)
        self._close_report()
        self._next = Launch._idle

    def _idle(self) -> None:
        """Nothing is left to do. What calls all the same was due already when it became so."""

    def _empty(self) -> None:
        """See to it that nothing is left in its control groups, not even what has left its process group."""
        if groups.remove(self._groups):
            self._groups = []
            self._next = Launch._end
            self.advance()
        else:
            self._keeper.call_later(self._pause, self)
            self._pause = min(2 * self._pause, 1.0)

    def _end(self) -> None:
        self.restore()
        self._keep_output()
        self._note(self._end_line)
        self._keeper.reply({"id": self._id, "status": self._status})
        self._leave()

    def _note(self, change: Status) -> None:
        add_line(self._record, change)
        self._status.update(change)

    def _is_stopped(self) -> bool:
        return os.path.exists(f"{self._folder}/{STOP_MARKER}")

    def _close_report(self) -> None:
        if self._report >= 0:
            self._keeper.unwatch(self._report)
            os.close(self._report)
            self._report = -1

    def _leave(self) -> None:
        self._close_report()
        for handle in (self._go, self._record):
            if handle >= 0:
                os.close(handle)
        self._go = self._record = -1
        self._request = None
        self._next = Launch._idle
        self._keeper.forget(self)
