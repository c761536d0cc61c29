"""`launchbay agent`: what it does besides being an agent."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from agent.config.schema import schema
from agent.errors import ConfigError
from launchbay.commands.agent import command
from server.start import ServerSettings, running

BIN = Path(sys.executable).parent
CONFIG = """
queues: [gpu]
max_jobs: 4
entity: team
resources: [local-process]
registry: {type: ecr, uri: "https://me:hunter2@registry.example/x", token: hunter2}
retries: [{on: [preempted]}]
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration file, and no variables that say anything else."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    path = tmp_path / "launch-config.yaml"
    path.write_text(CONFIG)
    return path


def agent(*arguments: str | Path) -> Any:
    """Run the command here and return its exit code."""
    return command.main([str(argument) for argument in arguments], prog_name="agent", standalone_mode=False)


def test_check_prints_the_effective_configuration_and_where_it_came_from(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_LAUNCH_MAX_JOBS", "8")
    assert agent("--check", "-c", config, "-q", "flagged", "-v") == 0
    said = capsys.readouterr()
    assert "hunter2" not in said.out + said.err
    assert "Warning: Without effect: `registry`." in said.err
    lines = said.out.splitlines()
    assert "queues:  # flag" in lines
    assert "max_jobs: 8  # WANDB_LAUNCH_MAX_JOBS" in lines
    assert f"entity: team  # {config}" in lines
    assert "verbosity: 1  # flag" in lines
    assert "max_schedulers: 1" in lines, "a default needs no word"
    shown = yaml.safe_load(said.out)
    assert shown["queues"] == ["flagged"]
    assert shown["registry"]["uri"] == "https://<redacted>@registry.example/x"
    assert shown["timeouts"]["prepare"] == 3600


def test_what_check_prints_can_be_the_file(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    agent("--check", "-c", config)
    first = capsys.readouterr().out
    config.write_text(first)
    assert agent("--check", "-c", config) == 0
    assert yaml.safe_load(capsys.readouterr().out) == yaml.safe_load(first)


def test_check_prints_json_for_scripts(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert agent("--check", "--json", "-c", config) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["valid"] is True
    assert shown["config"]["max_jobs"] == 4
    assert shown["origins"]["entity"] == str(config)
    assert any("`registry` is deprecated" in warning for warning in shown["warnings"])
    assert "hunter2" not in json.dumps(shown)
    config.write_text("queues: [q]\nmax_job: 2")
    assert agent("--check", "--json", "-c", config) == 1
    shown = json.loads(capsys.readouterr().out)
    assert shown["valid"] is False
    assert "Did you mean `max_jobs`?" in shown["error"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_jobs: 1", "No queue to serve"),
        ("queues: [q]\nmax_job: 2", "Did you mean `max_jobs`?"),
        ("queues: [q]\nresources: [local-process, moon]", "`resources` names moon, for which there is no backend here"),
    ],
)
def test_check_refuses_what_an_agent_would_not_start_with(config: Path, text: str, message: str) -> None:
    config.write_text(text)
    with pytest.raises(ConfigError) as error:
        agent("--check", "-c", config)
    assert message in str(error.value)


def test_check_ends_with_1_and_asks_nobody(config: Path) -> None:
    config.write_text("queues: [q]\nmax_job: 2")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(config.parent),
        "WANDB_BASE_URL": "http://127.0.0.1:1",  # where nobody is
    }

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        words = [str(BIN / "launchbay"), "agent", *arguments]
        return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=240, check=False)

    failed = run("--check", "-c", str(config))
    assert (failed.returncode, failed.stdout) == (1, "")
    assert "`max_job` is not a known key" in failed.stderr
    checked = run("--check", "-q", "q")
    assert (checked.returncode, checked.stderr) == (0, "")
    # Without a subcommand and without --check it is an agent, which needs a key.
    started = run("-q", "q")
    assert started.returncode == 2
    assert "No API key for http://127.0.0.1:1" in started.stderr


async def test_a_running_agent_takes_up_its_file_on_sighup_below_its_flags(config: Path, tmp_path: Path) -> None:
    config.write_text("queues: [elsewhere]\nmax_jobs: 1\n")
    async with running(ServerSettings(tmp_path / "data", "127.0.0.1", 0)) as url:
        key = (tmp_path / "data" / "admin-api-key").read_text().strip()
        environment = {**os.environ, "WANDB_BASE_URL": url, "WANDB_API_KEY": key, "HOME": str(tmp_path)}

        async def start(*words: str) -> asyncio.subprocess.Process:
            return await asyncio.create_subprocess_exec(
                str(BIN / "launchbay"), *words, env=environment, stderr=asyncio.subprocess.PIPE
            )

        made = await start("queue", "create", "gpu", "-r", "local-process")
        await made.communicate()
        process = await start("agent", "-c", str(config), "-q", "gpu", "--state-dir", str(tmp_path / "state"))
        assert process.stderr is not None
        said: list[dict[str, Any]] = []

        async def until(key: str, value: str) -> None:
            assert process.stderr is not None
            async with asyncio.timeout(120):
                while not said or said[-1].get(key) != value:
                    said.append(json.loads(await process.stderr.readline()))

        try:
            await until("event", "agent is ready")
            config.write_text("queues: [elsewhere, too]\nmax_jobs: 3\n")
            process.send_signal(signal.SIGHUP)
            await until("key", "max_jobs")
        finally:
            process.terminate()
            _, rest = await process.communicate()
    assert process.returncode == 0
    assert (said[-1]["old"], said[-1]["new"]) == (1, 3)
    assert not any(entry.get("key") == "queues" for entry in said)
    assert b'"key": "queues"' not in rest


def test_the_schema_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    agent("schema")
    assert json.loads(capsys.readouterr().out) == schema()


def test_every_flag_of_the_stock_agent_is_one() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its libraries
        from wandb.cli.cli import launch_agent
    ours = {word: option for option in command.params for word in option.opts}
    for stock in launch_agent.params:
        assert isinstance(stock, click.Option)
        for word in stock.opts:
            own = ours[word]
            assert isinstance(own, click.Option)
            assert (own.is_flag, own.count, own.multiple, own.hidden) == (
                *(stock.is_flag, stock.count),
                *(stock.multiple, stock.hidden),
            )
            assert own.help


def test_completion_and_help_know_the_flags() -> None:
    words = {"COMP_WORDS": "launchbay agent --", "COMP_CWORD": "2", "_LAUNCHBAY_COMPLETE": "bash_complete"}
    done = subprocess.run(
        [BIN / "launchbay"], env={**os.environ, **words}, capture_output=True, text=True, timeout=240, check=True
    )
    flags = {line.partition(",")[2] for line in done.stdout.splitlines()}
    shown = command.get_help(click.Context(command))
    for flag in ("--queue", "--entity", "--log-file", "--max-jobs", "--config", "--verbose", "--check"):
        assert flag in flags
        assert flag in shown
    assert "--url" not in flags


def test_options_of_the_agent_do_not_silently_go_with_a_subcommand() -> None:
    with pytest.raises(click.UsageError, match=r"-q is an option of `agent` itself.*see: agent schema --help"):
        agent("-q", "q", "schema")
    with pytest.raises(click.UsageError, match="--json goes with --check"):
        agent("-q", "q", "--json")


def test_a_subcommand_pays_only_for_itself() -> None:
    program = "import sys, launchbay.commands.agent; sys.exit('aiohttp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=240, check=False).returncode == 0


def test_every_subcommand_has_help() -> None:
    context = click.Context(command)
    names = command.list_commands(context)
    assert names == ["schema", "status"]
    for name in names:
        found = command.get_command(context, name)
        assert found is not None
        assert found.help


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("environment: {type: aws, region: Frankfurt}", "`backends.sagemaker.region` (or `environment.region`)"),
        ("backends: {sagemaker: {secrets: launchbay}}", "`backends.sagemaker.secrets` cannot be read"),
        ("environment: {type: aws, role_arn: agent}", "must be the ARN of a role"),
    ],
)
def test_check_refuses_what_a_backend_does_not_understand(config: Path, text: str, message: str) -> None:
    config.write_text(f"queues: [q]\nresources: [sagemaker]\n{text}")
    with pytest.raises(ConfigError) as error:
        agent("--check", "-c", config)
    assert message in str(error.value)


def test_check_warns_of_keys_in_plain_sight(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text("queues: [q]\nresources: [sagemaker]\n")
    assert agent("--check", "-c", config) == 0
    assert "The API key of launches on sagemaker stands in plain variables" in capsys.readouterr().err
    config.write_text("queues: [q]\nresources: [sagemaker]\nbackends: {sagemaker: {secrets: {prefix: a/}}}")
    assert agent("--check", "-c", config) == 0
    assert "plain variables" not in capsys.readouterr().err
