"""Commands as processes: exit codes, completion, and `dev`."""

import asyncio
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from launchbay.cli import __version__
from launchbay.commands.dev import command as dev_command
from launchbay.commands.launch import command as launch_command
from launchbay.settings import account
from server.start import CannotServe, ServerSettings, opened, running
from tests import engines
from tests.postgres import Cluster

BIN = Path(sys.executable).parent


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a launchbay command in a clean environment."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    return subprocess.run(
        [str(BIN / "launchbay"), *arguments],
        env={**clean, **env},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_version() -> None:
    assert run("--version").stdout == f"launchbay, version {__version__}\n"


def test_wrong_usage_is_2(tmp_path: Path) -> None:
    assert run("launch").returncode == 2
    assert run("no-such-command").returncode == 2
    unknown = run("status", HOME=str(tmp_path), NETRC=str(tmp_path / "netrc"))
    assert unknown.returncode == 2
    assert "No API key" in unknown.stderr


@pytest.mark.parametrize(
    ("spec", "more", "said"),
    [
        ('{"docker": "x"}', (), "`docker` is 'x'; it must be an object."),
        ('{"job": 3}', (), "`job` is 3; it must be a string."),
        ('{"overrides": [], "uri": "placeholder"}', (), "`overrides` is []; it must be an object."),
        ('{"docker": null}', (), "Name exactly one of a job (-j) and an image (-d)."),
        ("{}", ("-d", "image", "-E", "python 'x"), "The entry point cannot be read: No closing quotation."),
        ("{}", ("-j", "train"), "Invalid job specification 'train'."),
    ],
)
def test_a_launch_that_makes_no_sense_is_wrong_usage(spec: str, more: tuple[str, ...], said: str) -> None:
    refused = CliRunner().invoke(launch_command, ["-q", "q", "-c", spec, *more])
    assert (refused.exit_code, said in refused.output) == (2, True), refused.output


def test_completion_knows_the_commands() -> None:
    assert "_LAUNCHBAY_COMPLETE" in run("completion", "bash").stdout
    words = {"COMP_WORDS": "launchbay que", "COMP_CWORD": "1", "_LAUNCHBAY_COMPLETE": "bash_complete"}
    assert "queue" in run(**words).stdout


def start_once(data: Path, database_url: str | None = None) -> None:
    """Leave the data folder as a server leaves it."""

    async def work() -> None:
        async with opened(data, database_url):
            pass

    asyncio.run(work())


def test_a_user_gets_a_key_once_and_a_team(tmp_path: Path) -> None:
    start_once(tmp_path / "data")
    made = run("user", "create", "alice", "--team", "vision", "--data-dir", str(tmp_path / "data"))
    assert len(made.stdout.strip()) == 40
    again = run("user", "create", "alice", "--data-dir", str(tmp_path / "data"))
    assert again.returncode != 0
    assert "is taken" in again.stderr
    assert made.stdout.strip().encode() not in (tmp_path / "data" / "launchbay.db").read_bytes()


def test_users_are_made_in_the_database_that_is_named(tmp_path: Path, cluster: Cluster) -> None:
    given = ("--email", "bob@example.com", "--data-dir", str(tmp_path / "data"))
    database_url = cluster.new_database()
    start_once(tmp_path / "data", database_url)
    there = {"LAUNCHBAY_DATABASE_URL": database_url}
    assert len(run("user", "create", "bob", *given, **there).stdout.strip()) == 40
    again = run("user", "create", "bert", *given, **there)
    assert again.returncode != 0
    assert "bob@example.com" in again.stderr
    assert len(run("user", "key", "bob", *given[2:], **there).stdout.strip()) == 40
    elsewhere = run("user", "key", "bob", *given[2:])
    assert "There is no user 'bob'" in elsewhere.stderr
    assert not (tmp_path / "data" / "launchbay.db").read_bytes().count(b"bob@example.com")


def test_users_are_only_made_where_a_server_was(tmp_path: Path) -> None:
    for words in (("create", "alice"), ("key", "alice")):
        refused = run("user", *words, "--data-dir", str(tmp_path / "mistyped"))
        assert refused.returncode == 5
        assert "No server was ever started on" in refused.stderr
        assert "--data-dir" in refused.stderr
    assert not (tmp_path / "mistyped").exists()


@contextmanager
def dev(folder: Path, **env: str) -> Generator[tuple[str, dict[str, str]]]:
    """Run `launchbay dev` as long as the block runs: what it says at first, and the variables of its clients."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data, log = folder / ".local/share/launchbay/dev", folder / "dev.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(BIN / "launchbay"), "dev", "--port", str(port), "--data-dir", str(data)],
            env={**os.environ, **env},
            stdout=output,
            stderr=output,
        )
    try:
        deadline = time.monotonic() + 120
        while "launchbay status" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        key = (data / "server" / "admin-api-key").read_text().strip()
        yield log.read_text(), {"WANDB_BASE_URL": f"http://127.0.0.1:{port}", "WANDB_API_KEY": key}
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


def test_dev_runs_a_job_and_ends_cleanly(tmp_path: Path) -> None:
    with dev(tmp_path, DOCKER_HOST=f"unix://{tmp_path}/nothing") as (said, env):
        assert "running, with the queue local-process." in said
        assert f"There is no queue local-container: The container engine at unix://{tmp_path}/nothing cannot be" in said
        spec = {"project": "p", "uri": "placeholder", "overrides": {"entry_point": ["sh", "-c", "echo hello"]}}
        launched = run("launch", "-q", "local-process", "-c", json.dumps(spec), "--wait", "--json", **env)
        assert launched.returncode == 7, launched.stderr  # it never calls wandb.init
        assert run("logs", json.loads(launched.stdout)["id"], **env).stdout == "hello\n"
        assert "local-process" in run("agent", "status", HOME=str(tmp_path)).stdout


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
def test_dev_runs_containers_where_an_engine_answers(tmp_path: Path) -> None:
    if why := engines.missing(["dockerd", "containerd", "docker-init"]):
        pytest.skip(f"no Docker Engine here: {why}; on Debian, apt-get install docker.io busybox-static")
    with engines.running_docker() as engine:
        with engine.client() as client:
            engines.import_image(client, "localhost/hello:latest", ["CMD echo hello from a container"])
        with dev(tmp_path, DOCKER_HOST=engine.url) as (said, env):
            assert "running, with the queues local-process and local-container." in said
            subprocess.run(
                [str(BIN / "wandb"), "launch", "-q", "local-container", "-d", "localhost/hello:latest", "-p", "p"],
                env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), **env},
                cwd=tmp_path,
                capture_output=True,
                timeout=240,
                check=True,
            )
            queues = json.loads(run("status", "--json", **env).stdout)["queues"]
            (item,) = (item for queue in queues for item in queue["items"])
            assert run("logs", "-f", item["id"], **env).stdout == "hello from a container\n"
    gc.collect()  # the docker package leaves the sockets of failed connections to it


def test_the_key_may_be_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    (tmp_path / "key").write_text("the-key\n")
    monkeypatch.setenv("WANDB_API_KEY_FILE", str(tmp_path / "key"))
    assert account().api_key == "the-key"
    monkeypatch.setenv("WANDB_API_KEY_FILE", str(tmp_path / "none"))
    with pytest.raises(click.UsageError, match=r"WANDB_API_KEY_FILE is .*none, which cannot be read: No such file"):
        account()


@pytest.mark.parametrize("machine", ["127.0.0.1:8080", "127.0.0.1"])
def test_the_key_may_be_where_wandb_login_puts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: str
) -> None:
    for name in ("WANDB_API_KEY", "WANDB_API_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "netrc").write_text(f"machine {machine}\n  login user\n  password the-key\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:8080")
    assert account().api_key == "the-key"
    monkeypatch.setenv("WANDB_BASE_URL", "http://elsewhere:8080")
    with pytest.raises(click.UsageError, match="No API key"):
        account()


async def test_a_server_says_what_it_cannot_have(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(CannotServe, match=f"Cannot listen on 127.0.0.1:{port}: Address already in use. Choose"):
            async with running(ServerSettings(tmp_path / "data", port=port)):
                pass
        with pytest.raises(click.ClickException, match=f"Port {port} cannot be had: Address already in use. Choose"):
            dev_command.main(["--port", str(port)], standalone_mode=False)
    (tmp_path / "file").touch()
    with pytest.raises(CannotServe, match=r"file/data cannot be made: Not a directory\. Name another with --data-dir"):
        async with running(ServerSettings(tmp_path / "file" / "data", port=0)):
            pass
