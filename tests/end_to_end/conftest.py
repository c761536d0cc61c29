"""A real server in a process of its own, and the stock client in others: nothing is shared but the wire.

Tests keep apart by using projects of their own, so one server of each kind serves all modules. A test runs twice: with
the newest client and SQLite, and with the older client and PostgreSQL. One that is marked `newest_client`, with the
reason why the older one has nothing to say, runs with the newest client on SQLite; if it is also marked `both_engines`,
on PostgreSQL, too. What the engines do differently is for the tests of the server.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from tests import warm
from tests.postgres import Cluster

SCRIPTS = Path(__file__).parent / "scripts"
START_SECONDS = 120
SCRIPT_SECONDS = 240
NEWEST_CLIENT = Path(sys.executable).parent
OLDER_CLIENT = Path(__file__).parents[2] / ".venv-older" / "bin"

older_client_is_made = pytest.mark.skipif(
    not (OLDER_CLIENT / "wandb").exists(), reason="there is no .venv-older; `make setup` makes it"
)


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers of tests that stay with one client."""
    config.addinivalue_line("markers", "newest_client(reason): does not run with the older client")
    config.addinivalue_line("markers", "older_client: runs with the older client only")
    config.addinivalue_line("markers", "both_engines: with the newest client alone, and on PostgreSQL, too")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what uses the server with each client and each engine."""
    if "server" not in metafunc.fixturenames:
        return
    newest = [
        pytest.param(Kind(NEWEST_CLIENT), id="newest"),
        pytest.param(Kind(NEWEST_CLIENT, postgresql=True), id="newest-postgresql"),
    ]
    older = pytest.param(Kind(OLDER_CLIENT, postgresql=True), id="older-postgresql", marks=older_client_is_made)
    if metafunc.definition.get_closest_marker("older_client") is not None:
        kinds = [older]
    elif metafunc.definition.get_closest_marker("newest_client") is not None:
        kinds = newest if metafunc.definition.get_closest_marker("both_engines") else newest[:1]
    else:
        kinds = [newest[0], older]
    metafunc.parametrize("server", kinds, indirect=True, scope="session")


@dataclass(frozen=True, slots=True)
class Kind:
    """What a test runs with."""

    client: Path
    """The programs of the environment that the client is installed in."""
    postgresql: bool = False


@dataclass(frozen=True, slots=True)
class LiveServer:
    """A running server, and how to use it as its first user."""

    base_url: str
    api_key: str
    folder: Path
    """Holds the client's folders."""
    client: Path = NEWEST_CLIENT
    """The programs of the environment that the client is installed in."""
    warm: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    """By program, what stands for its Python in a command where that has imported everything already."""

    @property
    def is_newest(self) -> bool:
        """Whether the client is the newest one."""
        return self.client == NEWEST_CLIENT

    @property
    def python(self) -> str:
        """The Python that has the client."""
        return str(self.client / "python")

    def command(self, program: str, *arguments: str) -> list[str]:
        """Return the command that runs `launchbay`, or a program of the client's environment: `wandb` or `python`."""
        file = str((NEWEST_CLIENT if program == "launchbay" else self.client) / program)
        if program not in self.warm:
            return [file, *arguments]
        return [*self.warm[program], *([] if program == "python" else [file]), *arguments]

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
            self.command("python", *start, *arguments),
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
                self.command("python", *start, *arguments),
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
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server on a fresh data folder and database, for one client."""
    kind: Kind = request.param
    data_dir, client_folder = tmp_path_factory.mktemp("server"), tmp_path_factory.mktemp("client")
    database_url: str | None = None
    if kind.postgresql:
        cluster: Cluster = request.getfixturevalue("cluster")
        database_url = cluster.new_database()
    with serving(data_dir, database_url) as (base_url, key):
        live = LiveServer(base_url, key, client_folder, kind.client)
        imported = warm.CLIENT + (warm.TELEMETRY if live.is_newest else ())
        with (
            warm.running(Path(live.python), imported, live.environment()) as client,
            warm.running(Path(sys.executable), warm.OURS, live.environment()) as ours,
        ):
            yield replace(live, warm={"python": client, "wandb": client, "launchbay": ours})


@contextmanager
def serving(data_dir: Path, database_url: str | None = None) -> Generator[tuple[str, str]]:
    """Run a server process; gives its URL and its first user's API key."""
    log = data_dir / "server.log"
    command = [sys.executable, "-m", "launchbay", "server", "--data-dir", str(data_dir), "--port", "0"]
    environment = {**os.environ, **({"LAUNCHBAY_DATABASE_URL": database_url} if database_url else {})}
    with log.open("ab") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
    try:
        yield _announced_url(process, log), (data_dir / "admin-api-key").read_text().strip()
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=START_SECONDS)


def _announced_url(process: subprocess.Popen[str], log: Path) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    match = re.search(r"http://\S+", line)
    assert match, f"the server did not start: {line!r}\n{log.read_text()}"
    return match[0]
