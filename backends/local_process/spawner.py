"""The spawner and the shim. Runs as a program of its own, with the standard library alone (`python -I -S`).

Usage: spawner.py REQUESTS REPLIES (two inherited sockets). Each request is a length-prefixed JSON object and leads to
one forked shim, whose reply is one JSON packet. Environment and secrets of a job come only through the socket: never on
a command line, never in a file. When the agent is gone, REQUESTS ends and the spawner with it; shims and jobs go on.
"""

import contextlib
import errno
import fcntl
import json
import os
import signal
import socket
import struct
import sys
import time
from typing import Any

LOCK = "lock"
STATUS = "status.json"
LABELS = "launch.json"
OUTPUT = "output.log"
STOP_MARKER = "stop"
LENGTH = struct.Struct("!I")


def main() -> None:
    """Serve requests until the agent closes its end."""
    requests = socket.socket(fileno=int(sys.argv[1]))
    replies = socket.socket(fileno=int(sys.argv[2]))
    # Shims are nobody's to wait for: the kernel reaps them.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        head = _receive(requests, LENGTH.size)
        if not head:
            return
        request = json.loads(_receive(requests, LENGTH.unpack(head)[0]))
        if os.fork() == 0:
            requests.close()
            _shim(request, replies)


def _receive(source: socket.socket, size: int) -> bytes:
    parts = b""
    while len(parts) < size:
        piece = source.recv(size - len(parts))
        if not piece:
            return b""
        parts += piece
    return parts


def _shim(request: dict[str, Any], replies: socket.socket) -> None:
    """Own one launch from start to end. Never returns."""
    try:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _own(request, replies)
    except BaseException as error:  # the last line of defence: whatever happens, the agent gets an answer
        with contextlib.suppress(OSError):
            replies.send(json.dumps({"id": request["id"], "error": f"{type(error).__name__}: {error}"}).encode())
        os._exit(1)
    os._exit(0)


def _own(request: dict[str, Any], replies: socket.socket) -> None:
    folder = request["folder"]
    os.makedirs(folder, mode=0o700, exist_ok=True)
    os.chdir(folder)
    lock = os.open(LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _reply(replies, request, {"known": True})
        return
    # The lock is free: either nothing was ever started here, or it is over. The job itself inherits the lock, so there
    # is no moment at which a job lives and the lock is free, not even if this process is killed right after its fork.
    if os.path.exists(STATUS):
        _reply(replies, request, {"known": True})
        return
    _write(LABELS, request["labels"])
    started_at = time.time()
    pid, failure = _start_job(request, lock)
    status = {"state": "running", "pid": pid, "shim": os.getpid(), "started_at": started_at}
    status["pid_started"] = start_ticks(pid)
    status["shim_started"] = start_ticks(os.getpid())
    _write(STATUS, status)
    _reply(replies, request, {"shim": os.getpid()})
    replies.close()
    _, raw = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(raw)
    if os.path.exists(STOP_MARKER):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)  # what the job started and left behind must not outlive a stop
    status.update(state="ended", ended_at=time.time(), message=failure)
    status["exit_code"] = 128 - code if code < 0 else code
    status["signal"] = -code if code < 0 else None
    _write(STATUS, status)


def _start_job(request: dict[str, Any], lock: int) -> tuple[int, str]:
    """Fork and exec the job; returns its pid, and what went wrong if it could not be executed."""
    output = os.open(OUTPUT, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    read_end, write_end = os.pipe()  # closed by a successful exec
    pid = os.fork()
    if pid == 0:
        _exec_job(request, lock, output, write_end)
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        failure = pipe.read()
    os.close(output)
    return pid, failure


def _exec_job(request: dict[str, Any], lock: int, output: int, report: int) -> None:
    """Become the job. Never returns."""
    command = request["command"]
    try:
        os.setsid()
        for number in (signal.SIGPIPE, signal.SIGCHLD, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((nothing, 0), (output, 1), (output, 2)):
            os.dup2(source, target)
        os.set_inheritable(lock, True)
        os.chdir(request["working_dir"] or ".")
        os.execvpe(command[0], command, request["environment"])
    except OSError as error:
        missing = error.errno == errno.ENOENT
        text = f"The job could not be started: {command[0]!r} in {request['working_dir'] or '.'}: {error.strerror}."
        os.write(2, text.encode() + b"\n")
        os.write(report, text.encode())
        os._exit(127 if missing else 126)


def start_ticks(pid: int) -> int:
    """Return when a process started, in clock ticks since boot: with it, a pid names one process for ever."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return 0


def _write(name: str, content: dict[str, Any]) -> None:
    with open(f".{name}", "w") as file:
        json.dump(content, file)
    os.replace(f".{name}", name)


def _reply(replies: socket.socket, request: dict, content: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # the agent is gone; the next one reads the folder
        replies.send(json.dumps({"id": request["id"], **content}).encode())


if __name__ == "__main__":
    main()
