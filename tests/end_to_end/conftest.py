"""A real server in a process of its own, and the stock client in others: nothing is shared but the wire.

One server serves all end-to-end modules; tests keep apart by using projects of their own.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent / "scripts"
START_SECONDS = 30
SCRIPT_SECONDS = 90


@dataclass(frozen=True, slots=True)
class LiveServer:
    """A running server, and how to use it as its first user."""

    base_url: str
    api_key: str
    folder: Path
    """Holds the client's folders."""

    def environment(self, **more: str) -> dict[str, str]:
        """Return the variables of a client process that shares no file with the user's own client."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
        folders = ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR")
        return {
            **inherited,
            "HOME": str(self.folder),
            **dict.fromkeys(folders, str(self.folder)),
            "WANDB_BASE_URL": self.base_url,
            "WANDB_API_KEY": self.api_key,
            **more,
        }

    def run_script(self, script: str | Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a file of `scripts/`, or Python code, to its end. The exit code is the caller's to judge."""
        start = [str(SCRIPTS / script)] if isinstance(script, Path) else ["-c", script]
        return subprocess.run(
            [sys.executable, *start, *arguments],
            env=self.environment(**env),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=SCRIPT_SECONDS,
            check=False,
        )

    @contextmanager
    def started_script(self, script: str | Path, *arguments: str, **env: str) -> Generator[subprocess.Popen[str]]:
        """Run a script beside the block; what still runs at its end is killed.

        Its standard output is a pipe; the rest goes to a file.
        """
        start = [str(SCRIPTS / script)] if isinstance(script, Path) else ["-c", script]
        with (self.folder / "background.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *start, *arguments],
                env=self.environment(**env),
                cwd=self.folder,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.communicate(timeout=START_SECONDS)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server on a fresh data folder."""
    data_dir = tmp_path_factory.mktemp("server")
    log = data_dir / "server.log"
    command = [sys.executable, "-m", "launchbay", "server", "--data-dir", str(data_dir), "--port", "0"]
    with log.open("wb") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        base_url = _announced_url(process, log)
        key = (data_dir / "admin-api-key").read_text().strip()
        yield LiveServer(base_url, key, tmp_path_factory.mktemp("client"))
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=START_SECONDS)


def _announced_url(process: subprocess.Popen[str], log: Path) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    match = re.search(r"http://\S+", line)
    assert match, f"the server did not start: {line!r}\n{log.read_text()}"
    return match[0]
