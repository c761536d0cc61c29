"""What containers are made of: values as people write them, and what they may not say."""

from pathlib import Path
from typing import Any

import pytest

from backends.base import BackendError, StartRequest
from backends.local_container.engine import EngineRefused
from backends.local_container.images import note_progress, progress_text, pull_failed
from backends.local_container.options import Machine, plan
from backends.local_container.settings import read_settings
from backends.registry import load
from protocol.json_types import Json

ROOT = Machine("/state", is_podman=False, user=(0, 0))
JANE = Machine("/state", is_podman=False, user=(1000, 100))


def planned(machine: Machine = ROOT, **fields: Any) -> dict[str, Any]:
    """Return the container for a request."""
    fields = {"command": ["train"], "environment": {}, "image": "image", **fields}
    return dict(plan(StartRequest("launch-1", **fields), machine).config)


def host(**args: Json) -> dict[str, Any]:
    return planned(resource_args=args)["HostConfig"]


@pytest.mark.parametrize(
    ("args", "key", "value"),
    [
        ({"memory": "8g"}, "Memory", 8 * 2**30),
        ({"memory": "1.5GiB"}, "Memory", 3 * 2**29),
        ({"memory": 1048576}, "Memory", 2**20),
        ({"memory_swap": -1}, "MemorySwap", -1),
        ({"cpu": "1.5"}, "NanoCpus", 1_500_000_000),
        ({"ulimit": "nofile=1024:2048"}, "Ulimits", [{"Name": "nofile", "Soft": 1024, "Hard": 2048}]),
        ({"gpus": "all"}, "DeviceRequests", [{"Count": -1, "Capabilities": [["gpu"]]}]),
        ({"gpus": 2}, "DeviceRequests", [{"Count": 2, "Capabilities": [["gpu"]]}]),
        ({"gpus": '"device=0,GPU-1"'}, "DeviceRequests", [{"DeviceIDs": ["0", "GPU-1"], "Capabilities": [["gpu"]]}]),
        ({"v": "/data:/data:ro"}, "Binds", ["/data:/data:ro"]),
        ({"v": ["/only"]}, "Mounts", [{"Type": "volume", "Target": "/only", "ReadOnly": False}]),
        ({"init": False}, "Init", False),
        ({"add-host": "a:127.0.0.1"}, "ExtraHosts", ["a:127.0.0.1"]),
    ],
)
def test_values_are_read_as_the_command_reads_them(args: dict[str, Json], key: str, value: Any) -> None:
    assert host(**args)[key] == value


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"memory": "12 parrots"}, "'memory' is '12 parrots'; it must be a number of bytes"),
        ({"memory": "-5"}, "'memory'"),
        ({"memory": True}, "'memory'"),
        ({"cpus": "many"}, "'cpus' is 'many'"),
        ({"cpus": "NaN"}, "'cpus' is 'NaN'"),
        ({"pids-limit": "1.5"}, "a whole number"),
        ({"cpu-shares": "9" * 30}, "a whole number"),
        ({"ulimit": "nofile"}, "nofile=1024"),
        ({"gpus": "two"}, "a number, all, or device=0,1"),
        ({"gpus": "capabilities=compute"}, "a number, all"),
        ({"env": "HOME"}, "copy a variable of the agent"),
        ({"env": ["A=1", ""]}, "'env'"),
        ({"env": {"A": "1"}}, "'env'"),
        ({"tmpfs": "scratch"}, "'tmpfs'"),
        ({"sysctl": "a"}, "KEY=VALUE"),
        ({"auto-remove": True}, "not known"),
        ({"restart": "always"}, "retries"),
    ],
)
def test_values_that_make_no_sense_are_named(args: dict[str, Json], words: str) -> None:
    with pytest.raises(BackendError, match=words):
        host(**args)


def test_gpus_that_were_given_are_the_only_ones() -> None:
    made = planned(gpus=["GPU-7"], resource_args={"gpus": 1}, environment={"CUDA_VISIBLE_DEVICES": "3", "A": "b"})
    assert made["HostConfig"]["DeviceRequests"] == [{"DeviceIDs": ["GPU-7"], "Capabilities": [["gpu"]]}]
    assert made["Env"] == ["A=b"]  # 3 is what the machine calls it; in the container it may be 0


def test_no_gpus_are_no_request() -> None:
    assert "DeviceRequests" not in host(gpus=0)


def test_folders_of_the_agent_belong_to_its_account() -> None:
    made = planned(JANE, working_dir=Path("/work/a"))
    assert (made["User"], made["Env"], made["WorkingDir"]) == ("1000:100", ["HOME=/tmp"], "/mnt/wandb")
    assert planned(JANE, working_dir=Path("/work/a"), resource_args={"user": "7"})["User"] == "7"
    assert planned(JANE, working_dir=Path("/work/a"), environment={"HOME": "/x"})["Env"] == ["HOME=/x"]
    assert "User" not in planned(JANE)
    assert "User" not in planned(working_dir=Path("/work/a"))


def test_launch_has_an_image() -> None:
    with pytest.raises(BackendError, match="no image"):
        planned(image=None)


def test_labels_of_the_launch_are_its_own() -> None:
    made = planned(labels={"item": "i"}, resource_args={"label": ["launchbay.launch.item=x", "team=a"]})
    assert made["Labels"] == {"team": "a", "launchbay.folder": "/state", "launchbay.launch.item": "i"}


# --- the operator's block --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ({"socket": "x"}, "socket` is not known"),
        ({"pull": "sometimes"}, "missing, always, never"),
        ({"registries": ["x"]}, "by registry"),
        ({"registries": {"r.example": {"user": "u"}}}, "password_file"),
        ({"registries": {"r.example": {"user": "u", "password": "geheim"}}}, "password` is not known"),
    ],
)
def test_bad_configuration_is_refused_at_the_start(block: dict[str, Json], words: str, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=words) as caught:
        load("local-container")(tmp_path, "agent", block)
    assert "geheim" not in str(caught.value)


def test_password_is_read_where_the_operator_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    block: dict[str, Json] = {"registries": {"r.example": {"user": "u", "password_env": "R_PASSWORD"}}}
    login = read_settings(block).registries["r.example"]
    with pytest.raises(BackendError, match="R_PASSWORD"):
        login.read()
    monkeypatch.setenv("R_PASSWORD", "p")
    assert login.read().password == "p"


# --- pulling ---------------------------------------------------------------------------------------------------------


def test_progress_is_told_in_people_s_units() -> None:
    layers: dict[str, tuple[int, int]] = {}
    for report in (
        {"status": "Pulling from team/train", "id": "v1"},
        {"status": "Downloading", "id": "a", "progressDetail": {"current": 20_000_000, "total": 40_000_000}},
        {"status": "Downloading", "id": "b", "progressDetail": {"current": 100_000_000, "total": 300_000_000}},
    ):
        assert progress_text("image", layers) == "pulling image" or layers
        note_progress(layers, report)
    assert progress_text("image", layers) == "pulling image: 35%, 120 of 340 MB"
    note_progress(layers, {"status": "Download complete", "id": "b", "progressDetail": {}})
    assert progress_text("image", layers) == "pulling image: 94%, 320 of 340 MB"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("write /var/lib/docker/tmp/x: no space left on device", "image:no_space"),
        ("pull access denied for a, repository does not exist or may require 'docker login'", "image:denied"),
        ("no matching manifest for linux/arm64 in the manifest list entries", "image:wrong_platform"),
        ("manifest for a:v9 not found: manifest unknown: manifest unknown", "image:not_found"),
        ('Get "https://r/v2/": dial tcp: lookup r: no such host', "image:unreachable"),
        ("toomanyrequests: You have reached your pull rate limit", "image:rate_limited"),
        ("something else", "image:failed"),
    ],
)
def test_cause_of_a_failed_pull_is_told(words: str, reason: str) -> None:
    error = pull_failed("team/a:v9", words)
    assert error.reason == reason
    assert "team/a:v9" in str(error)
    assert words in str(error)


def test_engine_s_words_are_passed_on() -> None:
    assert "no room" in str(EngineRefused(500, "no room"))
