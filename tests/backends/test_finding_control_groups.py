"""Where an agent may make control groups, told from what the kernel shows."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from backends.local_process.control_groups import NoControlGroups, find

UNIFIED = "30 24 0:27 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
OLDER = (
    "30 24 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "31 24 0:28 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
    "32 24 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
)
UNIT = "sys/fs/cgroup/system.slice/launchbay-agent.service"
OURS = "0::/system.slice/launchbay-agent.service/agent\n"
LAUNCHES = Path("/var/lib/agent/launches")


def machine(folder: Path, mounts: str, own: str, files: Mapping[str, str], delegated: str = "") -> Path:
    """Make a root folder with what the kernel shows there."""
    for name, content in {"proc/self/mountinfo": mounts, "proc/self/cgroup": own, **files}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    if delegated:
        os.setxattr(folder / delegated, "user.delegate", b"1")
    return folder


def test_in_a_delegated_unit_groups_are_made_beside_the_agents(tmp_path: Path) -> None:
    files = {f"{UNIT}/cgroup.controllers": "cpu memory pids\n", f"{UNIT}/agent/cgroup.procs": ""}
    found = find(LAUNCHES, machine(tmp_path, UNIFIED, OURS, files, UNIT))
    assert found.is_unified
    assert set(found.parents) == {"cpu", "memory"}
    (parent,) = set(found.parents.values())
    assert parent.parent == tmp_path / UNIT
    assert parent.name.startswith("launchbay-")
    assert parent != next(iter(find(Path("/other/launches"), tmp_path).parents.values())), "another agent has its own"


def test_limits_are_written_as_version_2_has_them(tmp_path: Path) -> None:
    files = {f"{UNIT}/cgroup.controllers": "cpu memory\n", f"{UNIT}/agent/cgroup.procs": ""}
    found = find(LAUNCHES, machine(tmp_path, UNIFIED, OURS, files, UNIT))
    found.make()
    parent = found.parents["cpu"]
    assert (tmp_path / UNIT / "cgroup.subtree_control").read_text() == "+memory +cpu"
    assert (parent / "cgroup.subtree_control").read_text() == "+memory +cpu"
    assert found.of("a", 1.5, 2**30) == [
        {"folder": str(parent / "a"), "settings": {"memory.max": "1073741824", "cpu.max": "150000 100000"}}
    ]
    (parent / "memory.swap.max").touch()
    assert found.of("a", 0, 4096)[0]["settings"] == {"memory.max": "4096", "memory.swap.max": "0"}
    assert found.of("a", 0, 0) == [{"folder": str(parent / "a"), "settings": {}}]


def test_with_one_controller_that_is_what_is_held(tmp_path: Path) -> None:
    files = {f"{UNIT}/cgroup.controllers": "memory pids\n", f"{UNIT}/agent/cgroup.procs": ""}
    found = find(LAUNCHES, machine(tmp_path, UNIFIED, OURS, files, UNIT))
    assert set(found.parents) == {"memory"}
    assert found.of("a", 2, 0)[0]["settings"] == {}


def test_in_version_1_groups_are_made_in_the_agents_own(tmp_path: Path) -> None:
    own = "3:cpu,cpuacct:/\n2:memory:/session\n1:name=systemd:/\n0::/\n"
    files = {"sys/fs/cgroup/memory/session/tasks": "", "sys/fs/cgroup/cpu,cpuacct/tasks": ""}
    found = find(LAUNCHES, machine(tmp_path, OLDER, own, files))
    assert not found.is_unified
    assert found.parents["memory"].parent == tmp_path / "sys/fs/cgroup/memory/session"
    assert found.parents["cpu"].parent == tmp_path / "sys/fs/cgroup/cpu,cpuacct"
    found.make()
    (found.parents["memory"] / "memory.memsw.limit_in_bytes").touch()
    assert [group["settings"] for group in found.of("a", 0.001, 4096)] == [
        {"memory.limit_in_bytes": "4096", "memory.memsw.limit_in_bytes": "4096"},
        {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "1000"},
    ]


def test_in_a_container_of_version_1_the_mount_begins_at_its_group(tmp_path: Path) -> None:
    mounts = "30 24 0:27 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    files = {"sys/fs/cgroup/memory/inner/tasks": ""}
    found = find(LAUNCHES, machine(tmp_path, mounts, "2:memory:/docker/abc/inner\n", files))
    assert found.parents["memory"].parent == tmp_path / "sys/fs/cgroup/memory/inner"


@pytest.mark.parametrize(
    ("mounts", "own", "files", "delegated", "why"),
    [
        pytest.param("", "", {}, "", "there are no control groups", id="none"),
        pytest.param(UNIFIED, "0::/../elsewhere\n", {}, "", "there are no control groups", id="out of sight"),
        pytest.param(
            UNIFIED, OURS, {f"{UNIT}/agent/cgroup.procs": ""}, "", r"not in one that was delegated", id="a shell's"
        ),
        pytest.param(
            UNIFIED,
            "0::/system.slice/launchbay-agent.service\n",
            {f"{UNIT}/cgroup.controllers": "cpu memory"},
            UNIT,
            r"`DelegateSubgroup=agent`, from systemd 254 on",
            id="an older systemd, which leaves the agent in the way",
        ),
        pytest.param(
            UNIFIED,
            OURS,
            {f"{UNIT}/cgroup.controllers": "pids", f"{UNIT}/agent/cgroup.procs": ""},
            UNIT,
            "neither of the controllers cpu and memory",
            id="no controllers",
        ),
    ],
)
def test_elsewhere_it_is_said_why_not(
    mounts: str, own: str, files: dict[str, str], delegated: str, why: str, tmp_path: Path
) -> None:
    with pytest.raises(NoControlGroups, match=why):
        find(LAUNCHES, machine(tmp_path, mounts, own, files, delegated))


def test_what_may_not_be_written_to_is_no_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {f"{UNIT}/cgroup.controllers": "cpu memory", f"{UNIT}/agent/cgroup.procs": ""}
    machine(tmp_path, UNIFIED, OURS, files, UNIT)
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(NoControlGroups, match="not for this user to write to, or read-only here"):
        find(LAUNCHES, tmp_path)
