"""A server that is not there when the agent starts, and that is killed in the middle of a launch."""

import os
import signal
import socket
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.end_to_end import processes
from tests.end_to_end.conftest import LiveServer
from tests.end_to_end.processes import BIN, agent, push, python, spec, until, wait_for

pytestmark = pytest.mark.end_to_end

PROJECT = "outage"
COUNTING = """
import pathlib, time, wandb
folder = pathlib.Path({folder!r})
run = wandb.init(settings=wandb.Settings(x_file_stream_transmit_interval=0.2))
for number in range(100_000):
    run.log({{"number": number}})
    time.sleep(0.02)
    if number == 10:
        (folder / "counting").touch()
    if (folder / "go").exists():
        break
run.finish()
(folder / "last").write_text(str(number))
"""


def free_port() -> int:
    """Return a port that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def serving(data_dir: Path, port: int) -> Generator[subprocess.Popen[bytes]]:
    """Run a server on a port while the block runs, and kill it at the end: it has to stand that."""
    command = [str(BIN / "launchbay"), "server", "--data-dir", str(data_dir), "--port", str(port)]
    with data_dir.with_suffix(".log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield process
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()


def answers(server: LiveServer) -> bool:
    """Whether the server is there."""
    return processes.run(server, "launchbay", "status", check=False).returncode == 0


def test_a_launch_gets_through_the_absence_of_its_server(tmp_path: Path) -> None:
    data_dir, port = tmp_path / "data", free_port()
    client = tmp_path / "client"
    client.mkdir()
    with serving(data_dir, port):
        until((data_dir / "admin-api-key").exists, "the server to make its first user")
        key = (data_dir / "admin-api-key").read_text().strip()
        server = LiveServer(f"http://127.0.0.1:{port}", key, client)
        until(lambda: answers(server), "the server to answer")
        processes.make_queue(server, "outage")
    with agent(server, "outage", tmp_path / "agent") as daemon:
        log = tmp_path / "agent.log"
        until(lambda: b"looking for the server" in log.read_bytes(), "the agent to miss its server")
        with serving(data_dir, port):
            until(lambda: b"agent is ready" in log.read_bytes(), "the agent to find its server")
            item_id = push(server, "outage", spec(python(COUNTING.format(folder=str(tmp_path))), PROJECT))
            until((tmp_path / "counting").exists, "the job to log")
        (tmp_path / "go").touch()
        with serving(data_dir, port):
            until(lambda: answers(server), "the server to answer again")
            found = wait_for(server, item_id, "FINISHED", "FAILED", "CRASHED")
            assert found["state"] == "FINISHED"
            assert daemon.poll() is None
            last = int((tmp_path / "last").read_text())
            read = server.run_script(
                "import wandb\n"
                f"run = wandb.Api().run('admin/{PROJECT}/{found['associatedRunId']}')\n"
                "print([row['number'] for row in run.scan_history(page_size=1000)])\n"
            )
    assert read.stdout.strip() == str(list(range(last + 1))), read.stderr
