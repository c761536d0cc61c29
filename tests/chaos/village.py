"""Real agents and a real server as processes, and how they are killed. Jobs are small shell scripts with a log."""

import json
import os
import re
import select
import shlex
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import psutil

from backends.local_process.keeper.files import read_status
from tests.chaos import nursery
from tests.chaos.evidence import Event

T = TypeVar("T")

PATIENCE_SECONDS = 120.0
QUEUE = "q"
KEEPER = "local_process/keeper"


class Village:
    """The processes of one test: a server, and one agent after the other on one state folder."""

    def __init__(self, folder: Path, config: Path, forker: "subprocess.Popen[str]") -> None:
        self._folder = folder
        self._config = config
        self._forker = forker
        self._state = folder / "state"
        self._happened = folder / "happened"
        self._port = "0"
        self.url = ""
        """The server's."""
        self._server = self._agent = 0
        self.deaths = 0
        """How many agents were killed."""

    # --- the server --------------------------------------------------------------------------------------------------

    @property
    def data_dir(self) -> Path:
        """The server's data folder."""
        return self._folder / "server"

    @property
    def api_key(self) -> str:
        """The key of the server's first user."""
        return (self.data_dir / "admin-api-key").read_text().strip()

    def start_server(self) -> None:
        """Start the server, at its old place if there was one."""
        log = self._folder / "server.log"
        before = log.stat().st_size if log.exists() else 0
        self._server = self._fork("server", "--data-dir", str(self.data_dir), "--port", self._port, log=log)
        found = _until(lambda: re.search(rb"http://127.0.0.1:(\d+)", _read(log)[before:]), f"a server: {log}")
        self._port = found[1].decode()
        self.url = found[0].decode()

    def kill_server(self) -> None:
        """Kill the server."""
        _kill(self._server)

    # --- agents ------------------------------------------------------------------------------------------------------

    def start_agent(self) -> None:
        """Start an agent."""
        command = ("agent", "-q", QUEUE, "-j", "8", "-c", str(self._config), "--state-dir", str(self._state))
        account = {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": self.api_key}
        self._agent = self._fork(*command, log=self._folder / "agent.log", **account)

    def kill_agent(self) -> None:
        """Kill the agent."""
        _kill(self._agent)
        self.deaths += 1

    def end_agent(self) -> None:
        """Ask the agent to end, and wait for that."""
        _kill(self._agent, signal.SIGTERM)

    def keepers(self) -> list[psutil.Process]:
        """Return the parents of jobs: the agent's own, and orphaned ones. What they fork is about to be a job."""
        return [
            one
            for one in self._children()
            if KEEPER in _command(one) and _parent(one) in {self._agent, self._forker.pid}
        ]

    def kill_keeper(self, keeper: psutil.Process) -> set[str]:
        """Kill a keeper; returns the names of the launches whose ends it has not written down, and never will."""
        keeper.suspend()
        _until(lambda: keeper.status() in {psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE}, "a suspended keeper")
        kept = {folder.name: read_status(str(folder)) for folder in self._launches().glob("*")}
        keeper.kill()
        return {
            name
            for name, status in kept.items()
            if status.get("state") == "running" and status.get("keeper") == keeper.pid
        }

    def lose_journal(self) -> None:
        """Remove what a dead agent has written down."""
        for file in self._state.glob("journal.db*"):
            file.unlink()

    # --- what there is to see ----------------------------------------------------------------------------------------

    def job(self, seconds: float, *exit_codes: int) -> list[str]:
        """Return the command of a job that tells when it begins and ends, and whose attempts exit with these codes."""
        happened = shlex.quote(str(self._happened))
        attempt = "${PWD##*-}"  # the folder of a launch is called after it
        tell = f'echo "$(date +%s.%N) $WANDB_LAUNCH_TRACE_ID $1 {attempt}" >> {happened}'
        codes = " ".join(str(code) for code in exit_codes)
        return [
            "sh",
            "-c",
            f"tell() {{ {tell}; }}; tell begins; sleep {seconds}; tell ends; set -- {codes}; shift $(({attempt} - 1)); "
            "exit $1",
        ]

    def happened(self) -> list[Event]:
        """Return what the jobs have told."""
        lines = (line.split() for line in _read(self._happened).decode().splitlines())
        return [Event(float(at), item, what, int(attempt)) for at, item, what, attempt in lines]

    def leftovers(self) -> list[str]:
        """Return what is left of launches: in the journal, on the disk, and alive beside the agent and the server."""
        left: list[str] = []
        with (
            closing(sqlite3.connect(self._state / "journal.db", timeout=60)) as journal,
            suppress(sqlite3.OperationalError),
        ):
            left += [f"in the journal: {text}" for (text,) in journal.execute("SELECT launch FROM held")]
        for folder in (self._state / "work", self._launches()):
            left += [f"on the disk: {path}" for path in folder.glob("*")]
        mine = {self._server, self._agent, *(one.pid for one in self.keepers() if _parent(one) == self._agent)}
        left += [f"alive: {one}" for one in self._children() if one.pid not in mine]
        return left

    def errors(self) -> list[str]:
        """Return what the agents have logged as an error."""
        lines = _read(self._folder / "agent.log").decode(errors="replace").splitlines()
        return [line for line in lines if '"level": "error"' in line or line.startswith(("Traceback", "Error"))]

    # --- below -------------------------------------------------------------------------------------------------------

    def _fork(self, *command: str, log: Path, **environment: str) -> int:
        assert self._forker.stdin is not None
        assert self._forker.stdout is not None
        order = {"command": command, "output": str(log), "environment": environment}
        self._forker.stdin.write(json.dumps(order) + "\n")
        self._forker.stdin.flush()
        return int(self._forker.stdout.readline())

    def _children(self) -> list[psutil.Process]:
        return psutil.Process(self._forker.pid).children(recursive=True)

    def _launches(self) -> Path:
        return self._state / "local-process" / "launches"


@contextmanager
def village(folder: Path, config: Path, environment: dict[str, str]) -> Generator[Village]:
    """Found a village whose agents have this configuration; at the end everybody in it is killed."""
    with (folder / "nursery.log").open("wb") as errors:
        forker = subprocess.Popen(
            [sys.executable, nursery.__file__ or ""],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            text=True,
        )
    try:
        yield Village(folder, config, forker)
    finally:
        for one in psutil.Process(forker.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                one.kill()
        forker.communicate(timeout=PATIENCE_SECONDS)


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _parent(process: psutil.Process) -> int | None:
    try:
        return process.ppid()
    except psutil.Error:
        return None


def _kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Signal a process that is not our child, and wait until it is gone."""
    with suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        signal.pidfd_send_signal(pidfd, number)
        gone, _, _ = select.select([pidfd], [], [], PATIENCE_SECONDS)
        os.close(pidfd)
        assert gone, f"{pid} does not die"


def _read(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def _until(look: Callable[[], T | None], what: str) -> T:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.01)
    raise AssertionError(f"never happened: {what}")
