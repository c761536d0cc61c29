"""The spawner and the shim. Runs as a program of its own, with the standard library alone (`python -I -S`).

Usage: spawner.py REQUESTS REPLIES (two inherited sockets). Each request is a length-prefixed JSON object and leads to
one forked shim, whose reply is one JSON packet. Environment and secrets of a job come only through the socket: never on
a command line, never in a file. When the agent is gone, REQUESTS ends and the spawner with it; shims and jobs go on.

Exactly one start. A shim holds the lock of its launch's folder for as long as it lives, so there is one shim at a time.
The job's process waits, before it becomes the job, until its pid stands in the status file; if the shim dies first, the
process sees its pipe end and never runs. So whatever is killed at whatever moment: no status means that no job ever ran
and starting is right; a status means that it did, and which process to look at.

What is imported here is paid for by every fork: no `typing`, no `pathlib`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import json
import os
import signal
import socket
import struct
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import NoReturn, TypedDict

    class Request(TypedDict):
        """What the agent asks for. `folder` is the launch's."""

        id: int
        folder: str
        command: list[str]
        environment: dict[str, str]
        working_dir: str | None
        labels: dict[str, str]

    class Status(TypedDict, total=False):
        """The status file. The second group stands in it once `state` is `ended`."""

        state: str
        pid: int
        pid_started: int
        shim: int
        shim_started: int
        started_at: float

        exit_code: int
        signal: int | None
        stopped: bool
        reason: str
        message: str
        ended_at: float

    class Reply(TypedDict, total=False):
        """Either the status of the launch, or what went wrong and whether asking again can help."""

        id: int
        status: Status
        error: str
        again: bool


LOCK = "lock"
STATUS = "status.json"
LABELS = "launch.json"
OUTPUT = "output.log"
STOP_MARKER = "stop"
WORK = "work"
"""Where a job runs that came without a working folder."""

LENGTH = struct.Struct("!I")
READY = b"ready"
TEXT_LIMIT = 500
REPORT_BYTES = 4096
"""More than any report; a pipe passes that much in one piece."""
FILE_BYTES = 32 * 1024
"""More than any file that is read here."""
LOCK_RETRY_SECONDS = 0.005
DISK_RETRY_SECONDS = 1.0
FULL = {errno.ENOSPC, errno.EDQUOT}
OVERLOADED = FULL | {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EIO}


def main() -> None:
    """Serve requests until the agent closes its end."""
    requests = socket.socket(fileno=int(sys.argv[1]))
    replies = socket.socket(fileno=int(sys.argv[2]))
    for inherited in (requests, replies):
        inherited.set_inheritable(False)
    # A service manager or a shutdown signals whole groups; a shim must live to write the end of its job.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # shims are nobody's to wait for: the kernel reaps them
    gc.disable()  # a collection would touch, and so copy, the pages that all shims share
    while request := _next_request(requests):
        if os.fork() == 0:
            requests.close()
            _shim(request, replies)


def _next_request(requests: socket.socket) -> Request | None:
    head = _receive(requests, LENGTH.size)
    body = _receive(requests, LENGTH.unpack(head)[0]) if head else b""
    return json.loads(body) if body else None


def _receive(source: socket.socket, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        try:
            piece = source.recv(size - len(parts))
        except ConnectionError:
            return b""
        if not piece:
            return b""
        parts += piece
    return bytes(parts)


def _shim(request: Request, replies: socket.socket) -> NoReturn:
    """Own one launch from start to end."""
    try:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _own(request, replies)
    except BaseException as error:  # the last line of defence: whatever happens, the agent gets an answer
        again = isinstance(error, OSError) and error.errno in OVERLOADED
        _reply(replies, {"id": request["id"], "error": f"{type(error).__name__}: {error}"[:TEXT_LIMIT], "again": again})
    finally:
        os._exit(0)


def _own(request: Request, replies: socket.socket) -> None:
    os.makedirs(request["folder"], mode=0o700, exist_ok=True)
    os.chdir(request["folder"])
    earlier = _claim()
    if earlier:
        _reply(replies, {"id": request["id"], "status": earlier})
        return
    _write(LABELS, request["labels"])
    pid, report, go = _fork_job(request)
    failure = os.read(report, REPORT_BYTES)
    status: Status = {"state": "running", "pid": pid, "shim": os.getpid(), "started_at": time.time()}
    status["pid_started"] = start_ticks(pid)
    status["shim_started"] = start_ticks(os.getpid())
    _write(STATUS, status)
    # The agent leaves the marker first and then looks for a pid to signal; here it is the other way round.
    # So a stop that comes right now is seen by at least one of the two.
    if failure == READY and not os.path.exists(STOP_MARKER):
        with contextlib.suppress(BrokenPipeError):
            os.write(go, READY)
        failure = os.read(report, REPORT_BYTES)  # ends empty when the job's program runs
    os.close(go)
    os.close(report)
    _reply(replies, {"id": request["id"], "status": status})
    replies.close()
    _see_to_its_end(pid, status, failure)


def _claim() -> Status | None:
    """Take the lock; or return the status that the launch has already, waiting for another shim to write it."""
    lock = os.open(LOCK, os.O_RDWR | os.O_CREAT, 0o600)  # never closed: held until this process ends
    while True:
        locked = True
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            locked = False
        if status := read_status("."):
            return status
        if locked:
            return None
        time.sleep(LOCK_RETRY_SECONDS)


def _fork_job(request: Request) -> tuple[int, int, int]:
    """Fork the job's process; returns its pid, the pipe on which it reports, and the one on which it waits."""
    output = os.open(OUTPUT, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    report, its_report = os.pipe()
    its_go, go = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(go)
        _become_job(request, output, its_report, its_go)
    for handle in (output, its_report, its_go):
        os.close(handle)
    return pid, report, go


def _become_job(request: Request, output: int, report: int, go: int) -> NoReturn:
    """Prepare everything, say so, wait for the word, and become the job."""
    code, doing = 126, "bad_working_dir"
    program, folder = request["command"][0], request["working_dir"] or WORK
    try:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((nothing, 0), (output, 1), (output, 2)):
            os.dup2(source, target)
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        if folder == WORK:
            os.makedirs(WORK, exist_ok=True)
        os.chdir(folder)
        doing = "not_executable"
        os.write(report, READY)
        if not os.read(go, len(READY)):
            os._exit(128 + signal.SIGTERM)
        _execute(request["command"], request["environment"])
    except (OSError, ValueError) as error:
        if doing == "not_executable" and isinstance(error, (FileNotFoundError, NotADirectoryError)):
            code, doing = 127, "not_found"
        what = f"the folder {folder!r}" if doing == "bad_working_dir" else repr(program)
        text = f"The job could not be started: {what}: {getattr(error, 'strerror', None) or error}."[:TEXT_LIMIT]
        os.write(2, text.encode(errors="replace") + b"\n")
        os.write(report, json.dumps({"reason": doing, "message": text}).encode())
    finally:
        os._exit(code)


def _execute(command: list[str], environment: dict[str, str]) -> NoReturn:
    """Become a program, looked for in the job's own PATH. `os.execvpe` would import a module first, in every job."""
    folders = [""] if "/" in command[0] else environment.get("PATH", os.defpath).split(":")
    missing = OSError()
    refused: OSError | None = None
    for folder in folders:
        try:
            os.execve(os.path.join(folder, command[0]), command, environment)
        except (FileNotFoundError, NotADirectoryError) as error:
            missing = error
        except OSError as error:
            refused = refused or error
    raise refused or missing


def _see_to_its_end(pid: int, status: Status, failure: bytes) -> None:
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    stopped = os.path.exists(STOP_MARKER)
    # What the job started and left behind ends with it, as in a container: nobody would ever stop it, and it would hold
    # what the next job is given. The job is not reaped yet, so the group is its.
    with contextlib.suppress(OSError):
        os.killpg(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    why: dict[str, str] = json.loads(failure) if failure and failure != READY else {}
    status.update(
        {
            "state": "ended",
            "exit_code": 128 - code if code < 0 else code,
            "signal": -code if code < 0 else None,
            "stopped": stopped,
            "reason": why.get("reason", ""),
            "message": why.get("message", ""),
            "ended_at": time.time(),
        }
    )
    while True:
        try:
            _write(STATUS, status)
            return
        except OSError as error:
            if error.errno not in FULL:
                raise
            time.sleep(DISK_RETRY_SECONDS)  # the exit status is worth waiting for


def read_status(folder: str) -> Status | None:
    """Return what a launch's status file says. An unreadable one (power failed) still says that it was started."""
    try:
        return json.loads(read_file(f"{folder}/{STATUS}"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        return {"state": "running"}


def start_ticks(pid: int) -> int:
    """Return when a process started, in clock ticks since boot; 0 if it has ended.

    With it, a pid names one process for ever.
    """
    try:
        fields = read_file(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in {b"Z", b"X"} else int(fields[19])


def read_file(path: str) -> bytes:
    """Return what stands in a small file. Cheaper than `open`, which counts where thousands are read."""
    file = os.open(path, os.O_RDONLY)
    try:
        return os.read(file, FILE_BYTES)
    finally:
        os.close(file)


def _write(name: str, content: Mapping[str, object]) -> None:
    line = json.dumps(content).encode()
    file = os.open(f".{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        if os.write(file, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
    finally:
        os.close(file)
    os.replace(f".{name}", name)


def _reply(replies: socket.socket, reply: Reply) -> None:
    with contextlib.suppress(OSError):  # the agent is gone; the next one reads the folder
        replies.send(json.dumps(reply).encode())


if __name__ == "__main__":
    main()
