"""`launchbay fetch-code`, as a platform runs it: a process, its exit code, and the sentence that it leaves."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from click.testing import CliRunner

from agent.fetching.source import CodeSource, Version, written
from backends.base import FETCH_MAY_PASS
from launchbay.commands import fetch_code
from tests.agent.test_artifact_cache import FakeServer

LAUNCHBAY = Path(sys.executable).parent / "launchbay"
KEY = "a-key-that-nobody-may-see"


def order(url: str, **fields: Any) -> dict[str, str]:
    """Return the variables of an order."""
    source = CodeSource(code=Version("QQ==", "d1"), **fields)
    return {"WANDB_BASE_URL": url, "WANDB_API_KEY": KEY, "LAUNCHBAY_CODE": json.dumps(written(source))}


@pytest.fixture(name="server")
async def _server() -> AsyncIterator[tuple[FakeServer, str]]:
    fake = FakeServer()
    async with TestServer(fake.app()) as server:
        yield fake, str(server.make_url("")).rstrip("/")


async def run(*arguments: str | Path, **variables: str) -> tuple[int, str]:
    """Run the command; returns its exit code and what it says."""
    environment = {"PATH": os.environ["PATH"], **variables}
    process = await asyncio.create_subprocess_exec(
        LAUNCHBAY, "fetch-code", *arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


async def test_code_and_tools_are_there_when_it_ends_well(server: tuple[FakeServer, str], tmp_path: Path) -> None:
    fake, url = server
    fake.files["requirements.txt"] = b"thing\n"
    code, said = await run(tmp_path, "--tools", tmp_path / "tools", **order(url))
    assert (code, said) == (0, "")
    assert (tmp_path / "main.py").read_text() == "print('hi')"
    assert os.access(tmp_path / "tools" / "bin" / "install", os.X_OK)


@pytest.mark.parametrize(
    ("spoil", "code", "why"),
    [
        pytest.param({"artifact": None}, 1, "There is no artifact with id QQ==", id="the launch's fault"),
        pytest.param({"damaged": "main.py"}, 1, "arrived damaged", id="damaged"),
    ],
)
async def test_code_that_cannot_be_had_keeps_the_job_from_starting(
    server: tuple[FakeServer, str], tmp_path: Path, spoil: dict[str, Any], code: int, why: str
) -> None:
    fake, url = server
    for name, value in spoil.items():
        setattr(fake, name, value)
    ended, said = await run(tmp_path, **order(url))
    assert ended == code
    assert said.count("\n") == 1, "it is one sentence"
    assert why in said
    assert list(tmp_path.iterdir()) == []


def test_the_reason_is_left_where_the_platform_looks_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "termination-log"
    monkeypatch.setattr(fetch_code, "TERMINATION_LOG", log)
    arguments = (fetch_code.command, [str(tmp_path)])
    CliRunner().invoke(*arguments, env={}, standalone_mode=False)
    assert not log.exists(), "nothing is made where nobody looks"
    log.touch()
    result = CliRunner().invoke(*arguments, env={"LAUNCHBAY_CODE": "{}"}, standalone_mode=False)
    assert result.return_value == 1
    assert log.read_text().startswith("What is to be fetched is told in form None")


def test_a_folder_that_cannot_be_written_is_the_platforms_fault(tmp_path: Path) -> None:
    environment = order("http://127.0.0.1:1")
    result = CliRunner().invoke(
        fetch_code.command, [str(tmp_path / "no" / "such")], env=environment, standalone_mode=False
    )
    assert result.return_value == FETCH_MAY_PASS
    assert "could not be written where the launch runs" in result.output
    assert KEY not in result.output


async def test_a_stop_ends_it_at_once_and_leaves_nothing(tmp_path: Path) -> None:
    """The first process of a container hears of SIGTERM only if it wants to."""
    asked, url = asyncio.Event(), ""

    async def hang(_: web.Request) -> web.Response:
        asked.set()
        await asyncio.sleep(3600)
        raise AssertionError

    app = web.Application()
    app.router.add_post("/graphql", hang)
    async with TestServer(app) as server:
        url = str(server.make_url("")).rstrip("/")
        environment = {"PATH": os.environ["PATH"], **order(url)}
        process = await asyncio.create_subprocess_exec(LAUNCHBAY, "fetch-code", tmp_path, env=environment)
        async with asyncio.timeout(240):
            await asked.wait()
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


def test_it_imports_no_more_than_it_needs() -> None:
    """It stands between every launch and its start."""
    program = "import launchbay.commands.fetch_code, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    unneeded = {"docker", "graphql", "sqlalchemy", "kubernetes", "optuna", "server", "agent.daemon", "git", "jinja2"}
    assert unneeded.isdisjoint(loaded)
