"""Control groups of launches: made, joined, asked and removed. What the files are called tells the kernel's version.

A group is a folder of the kernel's. Where it is and what is written to its files, the agent says (`control_groups.py`).
The agent uses this module, too: what no keeper sees to any more is its to remove.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from wire import Group

NEAR_LIMIT_BYTES = 2**20
"""Memory is given out in pieces: who was refused one is less than this away from the limit."""
KILL_ROUNDS = 10
"""How often those who are there are killed before the rest is left for later. They may fork meanwhile."""


def make(groups: Sequence[Group]) -> None:
    """Make the groups of a launch, with their limits. Raises `OSError`, which names the file."""
    for group in groups:
        try:
            os.mkdir(group["folder"])
        except FileExistsError:
            pass  # a start was cut short
        except FileNotFoundError as error:  # an earlier keeper that left has just removed the folder around it
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), group["folder"]) from error
        for name, value in group["settings"].items():
            _write(f"{group['folder']}/{name}", value)


def join(groups: Sequence[Group]) -> None:
    """Be in these groups from now on, with all children to come. Raises `OSError`, which names the file."""
    for group in groups:
        _write(f"{group['folder']}/cgroup.procs", "0")


def why_killed(folders: Sequence[str]) -> str:
    """Return for people why the kernel has killed a process in there for memory; nothing if it has not."""
    for folder in folders:
        events = _numbers(f"{folder}/memory.events") or _numbers(f"{folder}/memory.oom_control")
        if not events.get("oom_kill"):
            continue
        limit = _number(f"{folder}/memory.max") or _number(f"{folder}/memory.limit_in_bytes")
        # Version 2 counts as `oom` what ran into this group's own limit. What version 1 has for that, not every kernel
        # counts; there the most that was ever used tells.
        most = _number(f"{folder}/memory.max_usage_in_bytes")
        if events.get("oom", most > limit - NEAR_LIMIT_BYTES):
            return (
                f"it needed more than the {_size(limit)} of memory that it asked for. Ask for more (`memory` in its "
                "resource args)."
            )
        return "the machine, or the control group that the agent is in, had no memory left."
    return ""


def remove(folders: Sequence[str]) -> bool:
    """Kill what is in these groups and remove them. Returns whether they are gone; if not, asking again is right.

    Raises no error: a group that cannot be removed is one that has not been removed yet.
    """
    for folder in folders:
        _kill_all(folder)
    is_gone = True
    for folder in folders:
        for path in _deepest_first(folder):
            with contextlib.suppress(OSError):
                os.rmdir(path)
        is_gone = is_gone and not os.path.isdir(folder)
    return is_gone


def _kill_all(folder: str) -> None:
    try:
        _write(f"{folder}/cgroup.kill", "1")
    except OSError:  # only version 2 has it, since Linux 5.14
        for _ in range(KILL_ROUNDS):
            if not _kill_each(folder):
                return


def _kill_each(folder: str) -> bool:
    """Kill those who are there; returns whether there were any."""
    found = False
    for path in _deepest_first(folder):
        for pid in _lines(f"{path}/cgroup.procs"):
            if pid > 0:  # 0 is in another PID namespace, and means to `kill` all of our own process group
                found = True
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
    return found


def _deepest_first(folder: str) -> Iterator[str]:
    """Yield a group and those in it, which a job with the right to do so may have made."""
    for path, _, _ in os.walk(folder, topdown=False):
        yield path


def _write(path: str, value: str) -> None:
    file = os.open(path, os.O_WRONLY)
    try:
        os.write(file, value.encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None  # the kernel's own has no path
    finally:
        os.close(file)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def _numbers(path: str) -> dict[str, int]:
    """Return what stands in lines of a name and a number."""
    pairs = [line.split() for line in _read(path).decode().splitlines()]
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _lines(path: str) -> list[int]:
    return [int(line) for line in _read(path).split()]


def _number(path: str) -> int:
    text = _read(path).strip()
    return int(text) if text.isdigit() else 0


def _size(size: int) -> str:
    return f"{size / 2**30:.4g} GiB" if size >= 2**30 else f"{size / 2**20:.4g} MiB"
