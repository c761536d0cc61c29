"""AWS for tests: moto in server mode, once per test run and process, and a double before it for each test."""

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import pytest

from tests.backends.sagemaker.double import REGION, Double, double
from tests.engines import free_port

LIMIT_SECONDS = 60.0


@pytest.fixture(scope="session")
def moto() -> Iterator[str]:
    """The URL of an AWS that forgets everything at the end."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + LIMIT_SECONDS
            while True:
                try:
                    urllib.request.urlopen(f"{url}/moto-api/data.json").read()
                    break
                except OSError:
                    assert process.poll() is None, "moto did not start"
                    assert time.monotonic() < deadline, "moto does not answer"
                    time.sleep(0.05)
            yield url
        finally:
            process.kill()


@pytest.fixture
def aws_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """Nobody's own credentials are used, and no machine's role is looked for."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "AWS_ACCESS_KEY_ID": "AKIAAGENT",
        "AWS_SECRET_ACCESS_KEY": "secret-of-the-agent",
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(tmp_path / "aws-config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "aws-credentials"),
    }.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


@pytest.fixture
async def aws(aws_variables: pytest.MonkeyPatch) -> AsyncGenerator[Double]:
    """A double alone."""
    async with double() as made:
        aws_variables.setenv("AWS_ENDPOINT_URL", made.url)
        yield made
