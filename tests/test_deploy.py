"""The files of `deploy/` say what the programs understand."""

import asyncio
import json
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from agent.observability.status_app import SOCKET
from backends.local_process.control_groups import CONTROLLERS
from launchbay.cli import launchbay as cli
from launchbay.exits import DRAINED_WITH_WORK, STOPPED_WORK, USAGE

ROOT = Path(__file__).parents[1]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
OURS = {name: service for name, service in COMPOSE["services"].items() if "build" in service}
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()
PROGRAM = "/opt/launchbay/bin/launchbay"
EXPOSURE = {"agent": 30, "server": 20}
"""The most that systemd may find exposed, of 100. Jobs run in the agent's sandbox and need more."""
KNOWN_SINCE = {"DelegateSubgroup": 254}
"""By key, the first systemd that knows it. An older one says so and goes on without."""


def unit(name: str) -> Path:
    """Return the file of a service's unit."""
    return ROOT / "deploy" / f"launchbay-{name}.service"


def settings(name: str) -> dict[str, list[str]]:
    """Return what a unit sets; most keys may stand in it several times."""
    found: dict[str, list[str]] = {}
    for key, value in re.findall(r"^(\w+)=(.*)$", unit(name).read_text(), re.MULTILINE):
        found.setdefault(key, []).append(value)
    return found


def stage(name: str) -> str:
    """Return the part of the Dockerfile that makes an image."""
    return next(part for part in DOCKERFILE.split("\nFROM ") if part.split("\n")[0].endswith(f" AS {name}"))


def words_of(instruction: str, image: str) -> list[str]:
    """Return the words of an instruction in its JSON form."""
    (found,) = re.findall(rf"^{instruction}[^\[]*(\[.*?\])$", stage(image).replace("\\\n", ""), re.MULTILINE)
    return json.loads(found)


def check_command(words: list[str]) -> None:
    """Let the command line read its words, and run nothing."""
    command: click.Command = cli
    context = command.make_context("launchbay", list(words))
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        _, found, words = command.resolve_command(context, words)
        assert found is not None
        command, context = found, found.make_context(found.name, list(words), parent=context)


@pytest.mark.parametrize("name", sorted(OURS.keys() - {"key"}))
def test_a_services_command_is_one(name: str) -> None:
    check_command(OURS[name]["command"])


def test_no_secret_is_in_the_file_or_on_a_command_line() -> None:
    assert set(OURS) == {"server", "key", "queue", "agent"}
    for service in COMPOSE["services"].values():
        assert not re.search("(?i)password|key", " ".join(service.get("command", [])))
        for name, value in service.get("environment", {}).items():
            if "PASSWORD" in name:
                assert value.startswith("${POSTGRES_PASSWORD:?")
    assert ":" not in OURS["server"]["environment"]["LAUNCHBAY_DATABASE_URL"].partition("//")[2].partition("@")[0]


def test_the_agent_sees_of_the_servers_data_one_key_and_nothing_else(tmp_path: Path) -> None:
    mounts = {name: service["volumes"] for name, service in OURS.items()}
    assert mounts["agent"] == ["key:/key:ro", "agent:/state"]
    assert mounts["queue"] == ["key:/key:ro"]
    copy = [word.replace("/data/", f"{tmp_path}/").replace("/key/", f"{tmp_path}/key/") for word in key_copy()]
    (tmp_path / "key").mkdir()
    (tmp_path / "admin-api-key").write_text("the key")
    for _ in range(2):  # every `up` does it again
        assert subprocess.run(copy, check=False).returncode == 0
    there = tmp_path / Path(OURS["agent"]["environment"]["WANDB_API_KEY_FILE"]).relative_to("/")
    assert (there.read_text(), there.stat().st_mode & 0o777) == ("the key", 0o400)
    # Whoever is nobody special in the image may write there: a new volume takes after the image's folder.
    assert re.search(r"install -d -o launchbay .* /key$", stage("server"), re.MULTILINE)


def key_copy() -> list[str]:
    """Return the words of the command that copies the key."""
    return OURS["key"]["entrypoint"]


def test_the_wheel_of_the_images_holds_every_package() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "benchmarks"}
    assert packages == set(re.findall(r"^COPY (\w+) /src/\1$", stage("wheel"), re.MULTILINE))
    ignored = (ROOT / ".dockerignore").read_text()
    assert all(f"!{package}\n" in ignored for package in packages)


@pytest.mark.parametrize("image", ["agent", "server"])
def test_an_image_runs_its_command_as_nobody_special(image: str) -> None:
    check_command(words_of("CMD", image))
    # A number: Kubernetes cannot know that a name is not root's.
    assert re.findall(r"^USER (.*)$", stage(image), re.MULTILINE) == ["1000"]


@pytest.mark.parametrize(("answer", "healthy"), [("200 OK", True), ("503 Service Unavailable", False), ("", False)])
async def test_the_agents_image_is_as_healthy_as_its_agent(answer: str, healthy: bool, tmp_path: Path) -> None:
    asked: list[bytes] = []

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        writer.write(f"HTTP/1.0 {answer}\r\n\r\n".encode() if answer else b"")
        writer.close()

    state_dir = words_of("CMD", "agent")[-1]
    assert state_dir in OURS["agent"]["command"]
    check = words_of("HEALTHCHECK", "agent")
    assert f"{state_dir}/{SOCKET}" in check[-1]
    assert check[0] == "python"
    program = check[-1].replace(f"{state_dir}/", f"{tmp_path}/")
    async with await asyncio.start_unix_server(reply, tmp_path / SOCKET):
        asking = await asyncio.create_subprocess_exec(
            *(sys.executable, *check[1:-1], program), stderr=asyncio.subprocess.DEVNULL
        )
        assert (await asking.wait() == 0) is healthy
    assert asked == [b"GET /livez HTTP/1.0\r\n"]


@pytest.mark.parametrize("name", sorted(EXPOSURE))
def test_a_units_command_is_one(name: str) -> None:
    (command,) = settings(name)["ExecStart"]
    program, *words = command.split()
    assert program == PROGRAM
    check_command(words)


@pytest.mark.parametrize("name", sorted(EXPOSURE))
def test_systemd_understands_a_unit(name: str, tmp_path: Path) -> None:
    done = analyze("verify", name, tmp_path)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("name", sorted(EXPOSURE))
def test_a_unit_is_hardened(name: str, tmp_path: Path) -> None:
    done = analyze("security", name, tmp_path, "--offline=yes", f"--threshold={EXPOSURE[name]}")
    assert done.returncode == 0, done.stdout + done.stderr


def analyze(verb: str, name: str, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Ask systemd about a unit whose program is where it is here."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed: on Debian, apt-get install systemd")
    here = Path(sys.executable).with_name("launchbay")
    copy = folder / unit(name).name
    told = subprocess.run(["systemd-analyze", "--version"], capture_output=True, text=True, check=True).stdout
    unknown = [key for key, since in KNOWN_SINCE.items() if int(told.split()[1]) < since]
    lines = [line for line in unit(name).read_text().splitlines() if line.partition("=")[0] not in unknown]
    copy.write_text("\n".join(lines).replace(PROGRAM, str(here)))
    return subprocess.run(
        ["systemd-analyze", verb, "--no-pager", *options, str(copy)], capture_output=True, text=True, check=False
    )


def test_the_server_tells_systemd_when_it_is_ready_and_when_it_ends(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(30)
        server = subprocess.Popen(
            [Path(sys.executable).with_name("launchbay"), "server", "--port", "0", "--data-dir", tmp_path / "data"],
            env={"NOTIFY_SOCKET": str(tmp_path / "notify")},
            stdout=subprocess.DEVNULL,
        )
        try:
            assert systemd.recv(100) == b"READY=1"
        finally:
            server.terminate()
        assert systemd.recv(100) == b"STOPPING=1"
        assert server.wait(30) == 0


def test_running_launches_outlive_the_agents_service() -> None:
    agent = settings("agent")
    assert agent["KillMode"] == ["process"]
    assert agent["OOMPolicy"] == ["continue"]
    # Each of these takes something from processes that go on when the service stops, or from the GPUs' users.
    takes = {
        "DynamicUser",
        "PrivateTmp",
        "RemoveIPC",
        "RuntimeDirectory",
        "PrivateDevices",
        "ProtectClock",
        "DeviceAllow",
    }
    assert not takes & agent.keys()


def test_the_agent_may_divide_the_control_group_of_its_unit() -> None:
    agent = settings("agent")
    assert set(agent["Delegate"][0].split()) == set(CONTROLLERS)
    # In the unit's own group, the agent could not be started again while jobs still run in groups of theirs.
    assert agent["DelegateSubgroup"] == ["agent"]
    assert "ProtectControlGroups" not in agent


def test_exit_codes_that_a_unit_names_are_those_of_the_agent() -> None:
    agent = settings("agent")
    assert agent["SuccessExitStatus"] == [f"{DRAINED_WITH_WORK} {STOPPED_WORK}"]
    assert agent["RestartPreventExitStatus"] == [f"{USAGE}"]


@pytest.mark.parametrize("name", sorted(EXPOSURE))
def test_no_secret_is_in_a_unit(name: str) -> None:
    for variable in settings(name)["Environment"]:
        assert re.match(r"WANDB_API_KEY_FILE=%d/|PYTHONFAULTHANDLER=", variable)
    assert settings(name)["LimitCORE"][0].startswith("0")
