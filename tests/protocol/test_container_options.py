"""The table of docker-run options: names as people write them, and what a launch would reach with them."""

import pytest

from protocol.container_options import OPTIONS, REFUSED, Rule, Use, parse_mount, parse_volume, read_options, uses
from protocol.errors import SpecError
from protocol.json_types import Json

STOCK = (
    *("cpu", "cpu-period", "cpu-quota", "cpu-shares", "cpus", "cpuset-cpus", "cpuset-mems", "e", "env", "gpus", "m"),
    *("memory", "memory-reservation", "memory-swap", "name", "pids-limit", "platform", "shm-size", "ulimit", "w"),
    "workdir",
)
"""What the stock client lets pass, but for `command`, which its agent hands to a program that does not know it."""


@pytest.mark.parametrize("name", STOCK)
def test_options_of_the_stock_client_are_known(name: str) -> None:
    for written in (name, f"--{name}", f" -{name.upper()} ", name.replace("-", "_")):
        assert set(read_options({written: "1"})) <= OPTIONS.keys()


def test_options_have_one_name() -> None:
    assert read_options({"m": "1g", "-E": ["A=1"], "NET": "none", "gpus": None, "rm": True}) == {
        "memory": "1g",
        "env": ["A=1"],
        "network": "none",
    }


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"memroy": "1g"}, "Did you mean 'memory'"),
        ({"--privilegd": True}, "Did you mean 'privileged'"),
        ({"frobnicate": 1}, "There are: add-host"),
        ({"memory": "1g", "m": "2g"}, "given twice"),
        *(({name: "x"}, "cannot be used here") for name in REFUSED),
    ],
)
def test_what_cannot_be_is_named(args: dict[str, Json], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        read_options(args)


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ({"memory": "1g", "env": "A=1", "tmpfs": "/x", "cap-drop": "ALL", "gpus": 2}, []),
        ({"v": ["/data:/data:ro", "cache:/cache", "/anonymous"]}, [("volume", "/data"), ("volume", "cache")]),
        ({"mount": "type=bind,src=/etc/,dst=/x"}, [("mount", "/etc")]),
        ({"mount": ["type=tmpfs,target=/x,tmpfs-size=64m"]}, []),
        ({"net": "host"}, [("network", "host")]),
        ({"network": "container:other"}, [("network", "container:other")]),
        ({"network": "none"}, []),
        ({"device": ["/dev/fuse:/dev/fuse:rw"]}, [("device", "/dev/fuse")]),
        ({"privileged": "true"}, [("privileged", "true")]),
        ({"privileged": False}, []),
        ({"cap_add": ["SYS_ADMIN"]}, [("cap-add", "SYS_ADMIN")]),
        ({"security-opt": ["no-new-privileges", "seccomp=unconfined"]}, [("security-opt", "seccomp=unconfined")]),
        ({"ipc": "host", "pid": "host"}, [("ipc", "host"), ("pid", "host")]),
        ({"runtime": "nvidia"}, [("runtime", "nvidia")]),
    ],
)
def test_what_a_launch_would_reach_is_told(args: dict[str, Json], expected: list[tuple[str, str]]) -> None:
    assert [(use.option, use.what) for use in uses(args)] == expected


def test_every_use_names_its_rule() -> None:
    assert list(uses({"v": "/data:/data"})) == [Use(Rule.HOST_PATHS, "volume", "/data")]


@pytest.mark.parametrize(
    "args",
    [
        {"v": "/data/../etc:/x"},
        {"v": "../etc:/x"},
        {"v": "~/x:/x"},
        {"v": "a/b:/x"},
        {"v": "/data:relative"},
        {"v": "/data:/"},
        {"v": "/data:/x:shared"},
        {"v": "/a:/b:ro:rw"},
        {"v": {"a": "b"}},
        {"mount": "type=volume,source=/etc,target=/x"},
        {"mount": "type=bind,target=/x"},
        {"mount": "type=volume,target=/x,volume-opt=device=/etc"},
        {"mount": "type=bind,source=/a,source=/etc,target=/x"},
        {"mount": "type=npipe,source=/a,target=/x"},
        {"mount": "source=a,target=x"},
        {"device": "/etc/passwd"},
        {"device": "/dev/../etc/passwd"},
        {"device": "/dev/fuse:/dev/fuse:rwx"},
        {"privileged": "perhaps"},
        {"privileged": 1},
        {"cap-add": [["SYS_ADMIN"]]},
    ],
)
def test_what_might_be_read_otherwise_by_the_engine_is_refused(args: dict[str, Json]) -> None:
    with pytest.raises(SpecError, match="resource arg"):
        list(uses(args))


def test_volumes_and_mounts_are_read_as_the_command_reads_them() -> None:
    volume = parse_volume("/data//sets/:/sets:ro,z")
    assert (volume.kind, volume.source, volume.target, volume.read_only) == ("bind", "/data/sets", "/sets", True)
    assert parse_volume("/only").source == ""
    mount = parse_mount("type=bind,source=/data,destination=/x,readonly")
    assert (mount.kind, mount.source, mount.target, mount.read_only) == ("bind", "/data", "/x", True)
    assert not parse_mount("type=bind,source=/data,target=/x,readonly=false").read_only
