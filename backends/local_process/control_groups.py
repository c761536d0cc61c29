"""Where launches get control groups, so that the kernel holds each to the CPUs and memory that it was given.

With version 2, groups are made in the delegated group that the agent's own is in, as systemd has it with `Delegate=`
and `DelegateSubgroup=`. The agent never moves itself out of the way: systemd could not start a unit again whose own
group may have no processes, as long as jobs still run below it. With version 1 they are made in the agent's own group.

What is done with the groups of a launch is the keeper's: `keeper/groups.py`. Everything here blocks.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backends.local_process.keeper.wire import Group

CONTROLLERS = ("memory", "cpu")
PERIOD_MICROSECONDS = 100_000
"""Of this long a time, a group may have so and so much. The kernel's own default."""
LEAST_QUOTA_MICROSECONDS = 1000
"""The kernel takes no less."""
DELEGATED = ("user.delegate", "trusted.delegate")
"""By one of these attributes systemd marks a group in which others than itself may make groups."""


class NoControlGroups(Exception):
    """Launches on this machine cannot be held to anything. The text says why, for people."""


@dataclass(frozen=True, slots=True)
class ControlGroups:
    """Where groups are made: by what is held there, the folder in which each launch gets one of its own."""

    parents: Mapping[str, Path]
    """By controller: with version 2 the same one for all."""
    is_unified: bool
    """Version 2."""

    def make(self) -> None:
        """Make the folders in which launches get theirs, unless they are there. Raises `OSError`."""
        for parent in self._folders():
            parent.mkdir(exist_ok=True)
            if self.is_unified:
                _enable(parent.parent, self.parents)
                _enable(parent, self.parents)

    def of(self, name: str, cpus: float, memory: int) -> "list[Group]":
        """Return the groups that hold a launch to this many CPUs and bytes; 0 is no limit."""
        settings: dict[Path, dict[str, str]] = {parent / name: {} for parent in self._folders()}
        for controller, limits in (("memory", self._memory(memory)), ("cpu", self._cpu(cpus))):
            if parent := self.parents.get(controller):
                settings[parent / name].update(limits)
        return [{"folder": str(folder), "settings": its} for folder, its in settings.items()]

    def all(self) -> Iterator[tuple[str, list[str]]]:
        """Yield every launch that has groups, by name, and their folders."""
        names = {entry.name for parent in self._folders() if parent.is_dir() for entry in parent.iterdir()}
        for name in sorted(names):
            folders = [str(parent / name) for parent in self._folders() if (parent / name).is_dir()]
            if folders:
                yield name, folders

    def close(self) -> None:
        """Remove what has no launches in it."""
        for parent in self._folders():
            with suppress(OSError):
                parent.rmdir()

    def _folders(self) -> list[Path]:
        return list(dict.fromkeys(self.parents.values()))

    def _memory(self, size: int) -> dict[str, str]:
        if not size:
            return {}
        limit, with_swap, value = (
            ("memory.max", "memory.swap.max", "0")
            if self.is_unified
            else ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", str(size))
        )
        # A kernel may be without swap, or without counting it.
        counts_swap = (self.parents["memory"] / with_swap).exists()
        return {limit: str(size), **({with_swap: value} if counts_swap else {})}

    def _cpu(self, cpus: float) -> dict[str, str]:
        if not cpus:
            return {}
        quota = max(LEAST_QUOTA_MICROSECONDS, round(cpus * PERIOD_MICROSECONDS))
        if self.is_unified:
            return {"cpu.max": f"{quota} {PERIOD_MICROSECONDS}"}
        return {"cpu.cfs_period_us": str(PERIOD_MICROSECONDS), "cpu.cfs_quota_us": str(quota)}


def find(launches: Path, root: Path = Path("/")) -> ControlGroups:
    """Return where launches whose folders are in `launches` get control groups; changes nothing.

    Raises `NoControlGroups`. `root` is where the kernel's files are.
    """
    name = f"launchbay-{hashlib.sha256(os.fsencode(launches.absolute())).hexdigest()[:12]}"
    own = _own(root)
    if older := {controller: folder for controller in CONTROLLERS if (folder := own.get(controller))}:
        for folder in older.values():
            _check_writable(folder)
        return ControlGroups({controller: folder / name for controller, folder in older.items()}, is_unified=False)
    if "" not in own:
        raise NoControlGroups("there are no control groups here")
    around = _delegated(own[""])
    controllers = _text(around / "cgroup.controllers").split()
    there = [controller for controller in CONTROLLERS if controller in controllers]
    if not there:
        raise NoControlGroups(f"the control group {around} has neither of the controllers cpu and memory")
    return ControlGroups(dict.fromkeys(there, around / name), is_unified=True)


def _own(root: Path) -> dict[str, Path]:
    """Return the folders of the groups that this process is in, by controller; that of version 2 by an empty name."""
    mounts: dict[str, tuple[str, str]] = {}
    for line in _text(root / "proc/self/mountinfo").splitlines():
        words, _, rest = line.partition(" - ")
        top, point = words.split()[3:5]
        kind, _, options = rest.split()[:3]
        if kind == "cgroup2":
            mounts.setdefault("", (top, point))
        elif kind == "cgroup":
            for option in options.split(","):
                mounts.setdefault(option, (top, point))
    own: dict[str, Path] = {}
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            top, point = mounts.get(controller, ("", ""))
            inside = os.path.relpath(path, top) if top and not path.startswith("/..") else ".."
            if not inside.startswith(".."):  # else it is not in sight from here
                own[controller] = root / point.lstrip("/") / inside
    return own


def _delegated(own: Path) -> Path:
    """Return the group around our own, if it is there to be divided by us."""
    around = own.parent
    if not any(_attribute(around, name) == b"1" for name in DELEGATED):
        raise NoControlGroups(
            f"the agent's control group {own} is not in one that was delegated to it. A systemd unit has that with "
            "`Delegate=cpu memory` and `DelegateSubgroup=agent`, from systemd 254 on"
        )
    _check_writable(around)
    return around


def _check_writable(folder: Path) -> None:
    if not os.access(folder, os.W_OK):
        raise NoControlGroups(f"the control group {folder} is not for this user to write to, or read-only here")


def _enable(folder: Path, controllers: Mapping[str, Path]) -> None:
    """Have the groups in a folder be held by these controllers."""
    switches = folder / "cgroup.subtree_control"
    if not controllers.keys() <= set(_text(switches).split()):
        switches.write_text(" ".join(f"+{controller}" for controller in controllers))


def _attribute(folder: Path, name: str) -> bytes:
    try:
        return os.getxattr(folder, name)
    except OSError:
        return b""


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError:
        return ""
