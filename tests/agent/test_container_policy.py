"""What containers may be given of the machine: nothing that the operator has not listed, however it is spelled."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from agent.config.model import AgentConfig
from agent.policy import Refused, check
from protocol.errors import SpecError
from protocol.launch_spec import parse_launch_spec

SPEC = {"entity": "e", "project": "p", "docker": {"docker_image": "x"}, "resource": "local-container"}


def refusal(args: Mapping[str, Any], **policy: Any) -> Refused | None:
    """Return the refusal of a launch with these resource args."""
    config = AgentConfig.model_validate({"queues": ["q"], "resources": ["local-container"], "policy": policy})
    try:
        check(config, parse_launch_spec(SPEC), None, args, "x", "local-container")
    except Refused as refused:
        return refused
    return None


def rule(args: Mapping[str, Any], **policy: Any) -> str | None:
    """Return which rule refuses these resource args."""
    refused = refusal(args, **policy)
    return refused and refused.rule


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        pytest.param({"volume": "/etc:/x"}, "policy.host_paths", id="a folder"),
        pytest.param({"v": ["cache:/x", "/etc:/y:ro"]}, "policy.host_paths", id="the second of two"),
        pytest.param({"--Volume": "/etc:/x"}, "policy.host_paths", id="another spelling"),
        pytest.param({"volume": "cache:/x"}, "policy.host_paths", id="a volume of the engine's"),
        pytest.param({"mount": "type=bind,src=/etc,dst=/x,readonly"}, "policy.host_paths", id="a mount"),
        pytest.param({"network": "host"}, "policy.networks", id="the machine's network"),
        pytest.param({"net": "container:abc"}, "policy.networks", id="another container's network"),
        pytest.param({"NETWORK": "team"}, "policy.networks", id="a network of the engine's"),
        pytest.param({"device": "/dev/kvm"}, "policy.devices", id="a device"),
        pytest.param({"runtime": "nvidia"}, "policy.devices", id="a runtime"),
        pytest.param({"privileged": True}, "policy.privileged", id="privileged"),
        pytest.param({"cap_add": "SYS_ADMIN"}, "policy.privileged", id="a capability"),
        pytest.param({"security-opt": "seccomp=unconfined"}, "policy.privileged", id="a security option"),
        pytest.param({"pid": "host"}, "policy.privileged", id="the machine's processes"),
        pytest.param({"ipc": "host"}, "policy.privileged", id="its shared memory"),
        pytest.param({"uts": "host"}, "policy.privileged", id="its name"),
        pytest.param({"userns": "host"}, "policy.privileged", id="its users"),
        pytest.param({"sysctl": "kernel.shmmax=1"}, "policy.privileged", id="a setting of the kernel"),
        pytest.param({"env": ["A=1", "AWS_SECRET_ACCESS_KEY"]}, "job_environment", id="a variable of the agent's"),
        pytest.param({"-e": "HOME"}, "job_environment", id="the same in short"),
        pytest.param({"volume": "/x", "tmpfs": "/y", "mount": "type=tmpfs,dst=/z"}, None, id="what is made for it"),
        pytest.param({"network": "none"}, None, id="no network"),
        pytest.param({"privileged": False, "cpus": 2, "memory": "8g", "gpus": "all", "env": "A=B=C"}, None, id="usual"),
        pytest.param({"builder": {"base_image": "y"}, "name": "x", "rm": True}, None, id="what has no effect"),
    ],
)
def test_nothing_of_the_machine_is_given_unless_listed(args: dict[str, Any], expected: str | None) -> None:
    assert rule(args) == expected


@pytest.mark.parametrize(
    "args",
    [
        pytest.param({"volume": "/data/../etc:/x"}, id="dots in a path"),
        pytest.param({"mount": "type=bind,src=../etc,dst=/x"}, id="a path from nowhere"),
        pytest.param({"mount": "type=volume,src=/etc,dst=/x"}, id="a path as a volume"),
        pytest.param({"mount": "type=volume,volume-opt=o=bind,volume-opt=device=/etc,dst=/x"}, id="a volume as a path"),
        pytest.param({"device": "/etc/shadow"}, id="a file as a device"),
        pytest.param({"cgroup-parent": "/"}, id="what is not in the table"),
        pytest.param({"env-file": "/root/secrets"}, id="a file of the agent's"),
        pytest.param({"volume": {"/etc": "/x"}}, id="an object"),
        pytest.param({"v": "cache:/x", "volume": "cache:/y"}, id="the same under two names"),
    ],
)
def test_what_cannot_be_read_is_refused_whatever_is_listed(args: dict[str, Any]) -> None:
    everything = {"host_paths": ["/", "*"], "networks": ["*"], "devices": ["/"], "privileged": True}
    with pytest.raises(SpecError):
        refusal(args, **everything)


@pytest.mark.parametrize(
    ("asked", "listed", "allowed"),
    [
        ("/data/a:/x", ["/data"], True),
        ("/data:/x", ["/data"], True),
        ("/data/:/x", ["/data"], True),
        ("//data:/x", ["/data"], True),
        ("/database:/x", ["/data"], False),
        ("/data:/x", ["/data/*"], False),
        ("/data/a/b:/x", ["/data/*"], True),
        ("/home/a/b/data:/x", ["/home/*/data"], False),
        ("/home/a/data/b:/x", ["/home/*/data"], True),
        ("/data/a:/x", ["/data:ro"], False),
        ("/data/a:/x:ro", ["/data:ro"], True),
        ("/data/a:/x:ro", ["/data"], True),
        ("/data/a:/x:ro,Z", ["/data:ro"], False),
        ("/data/a:/x:ro,rw", ["/data:ro"], False),
        ("//etc:/x", ["/data", "*", "etc"], False),
        ("/:/x", ["/data", "/*"], False),
        ("/etc:/x", ["/"], True),
        ("cache:/x", ["cache"], True),
        ("cache-a:/x:ro", ["cache-*:ro"], True),
        ("cache-a:/x", ["cache-*:ro"], False),
        ("cache:/x", ["/cache", "/"], False),
    ],
)
def test_a_path_is_covered_by_itself_and_what_is_above_it(asked: str, listed: list[str], allowed: bool) -> None:
    assert rule({"volume": asked}, host_paths=listed) == (None if allowed else "policy.host_paths")


def test_what_counts_is_where_links_lead(tmp_path: Path) -> None:
    """Who may write below a listed folder must not get the rest of the machine by a link in there."""
    listed, other = tmp_path / "listed", tmp_path / "other"
    (listed / "inside").mkdir(parents=True)
    other.mkdir()
    (listed / "out").symlink_to(other)
    (listed / "in").symlink_to(listed / "inside")
    (tmp_path / "shortcut").symlink_to(listed)
    for host_paths in ([str(listed)], [f"{listed}/*"], [f"{tmp_path}/shortcut/*"]):
        for name in ("inside", "in", "not there yet"):
            assert rule({"volume": f"{listed}/{name}:/x"}, host_paths=host_paths) is None
            assert rule({"volume": f"{tmp_path}/shortcut/{name}:/x"}, host_paths=host_paths) is None
        for name in ("out", "out/below"):
            refused = refusal({"mount": f"type=bind,src={listed}/{name},dst=/x"}, host_paths=host_paths)
            assert refused is not None
            assert f"which is '{other}" in str(refused)


@pytest.mark.parametrize(
    ("network", "listed", "allowed"),
    [
        ("team", ["team"], True),
        ("team-a", ["team-*"], True),
        ("other", ["team"], False),
        ("host", ["*"], False),
        ("host", ["h*"], False),
        ("host", ["host"], True),
        ("container:abc", ["*", "host"], False),
        ("container:abc", ["container:*"], True),
        ("ns:/proc/1/ns/net", ["*"], False),
    ],
)
def test_networks_of_others_are_meant_only_where_they_are_named(network: str, listed: list[str], allowed: bool) -> None:
    assert rule({"network": network}, networks=listed) == (None if allowed else "policy.networks")


def test_devices_and_privileges_are_given_where_listed() -> None:
    assert (
        rule({"device": ["/dev/fuse", "/dev/dri/card0:/dev/dri/card0:rw"]}, devices=["/dev/fuse", "/dev/dri"]) is None
    )
    assert rule({"device": "/dev/kvm"}, devices=["/dev/fuse", "kvm"]) == "policy.devices"
    assert rule({"runtime": "nvidia"}, devices=["nvidia"]) is None
    assert rule({"privileged": True, "cap-add": ["NET_ADMIN"], "pid": "host"}, privileged=True) is None


def test_a_refusal_says_what_was_asked_and_what_is_allowed() -> None:
    refused = refusal({"volume": "/etc:/x"}, host_paths=["/data/*:ro", "cache"])
    assert str(refused) == (
        "Refused by `policy.host_paths`: the launch mounts '/etc', to read and write. Allowed: /data/*:ro, cache. "
        "Who runs the agent can change that in its configuration."
    )
    assert refused is not None
    assert refused.reason == "policy:host_paths"
    secret = refusal({"env": ["A=1", "s3cret"]})
    assert "entry 2 of the resource arg 'env'" in str(secret)
    assert "s3cret" not in str(secret)


@pytest.mark.parametrize("entry", ["data/x", "/data/../etc", "../etc", "", ":ro", "./x"])
@pytest.mark.parametrize("key", ["host_paths", "devices"])
def test_a_list_that_cannot_mean_anything_is_no_configuration(key: str, entry: str) -> None:
    with pytest.raises(ValidationError, match="whole paths"):
        AgentConfig.model_validate({"queues": ["q"], "policy": {key: [entry]}})
