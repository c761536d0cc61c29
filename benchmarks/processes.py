"""Processes that a benchmark starts, and how all of them end with it."""

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import psutil

BIN = Path(sys.executable).parent
PR_SET_CHILD_SUBREAPER = 36
END_SECONDS = 10.0
COMMAND_SECONDS = 120.0
KEEPER = "local_process/keeper"


@contextmanager
def nothing_left() -> Generator[None]:
    """End everything that was started in the block, however it ends: by an error, Ctrl-C or SIGTERM.

    Launches outlive their agent on purpose. So what is orphaned becomes a child of this process, where it is found.
    """
    if ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError("This process cannot become the reaper of orphans, and would leave processes behind.")
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        end_all()


def end_all() -> None:
    """Kill every descendant of this process, and reap it."""
    me = psutil.Process()
    deadline = time.monotonic() + END_SECONDS
    while (children := me.children(recursive=True)) and time.monotonic() < deadline:
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.01)


def start(command: Sequence[str], environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Start a program of this environment, whose output goes to a file."""
    with log.open("ab") as output:
        return subprocess.Popen(
            [str(BIN / command[0]), *command[1:]],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


async def end(process: "subprocess.Popen[bytes]") -> None:
    """Ask a process to end, and kill it if it takes long."""
    process.terminate()
    try:
        await asyncio.to_thread(process.wait, END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        await asyncio.to_thread(process.wait)


async def run(command: Sequence[str], environment: Mapping[str, str], folder: Path) -> str:
    """Run a program of this environment to its end; returns what it printed. Raises `CalledProcessError`."""

    def work() -> str:
        return subprocess.run(
            [str(BIN / command[0]), *command[1:]],
            env=environment,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=True,
            timeout=COMMAND_SECONDS,
        ).stdout

    return await asyncio.to_thread(work)


def family(pid: int) -> list[psutil.Process]:
    """Return a process and its descendants, which is an agent and its helpers while no job runs."""
    head = psutil.Process(pid)
    return [head, *head.children(recursive=True)]


def keeper_of(agent: int) -> psutil.Process | None:
    """Return the helper of our agent that starts and keeps jobs, if it has one by now."""
    return next((one for one in psutil.Process(agent).children() if _is_keeper(one)), None)


def cpu_seconds(members: Sequence[psutil.Process]) -> float:
    """Return the CPU time that processes have used so far."""
    times = [member.cpu_times() for member in members]
    return sum(each.user + each.system for each in times)


def rss_mib(members: Sequence[psutil.Process]) -> float:
    """Return the resident memory of a process, in MiB, and with it what its helpers have for themselves alone."""
    first, *helpers = members
    return (first.memory_info().rss + sum(helper.memory_full_info().uss for helper in helpers)) / 2**20


def _is_keeper(process: psutil.Process) -> bool:
    try:
        return any(KEEPER in argument for argument in process.cmdline())
    except psutil.Error:
        return False


def _interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt
