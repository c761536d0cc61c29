"""The agent against a server that speaks the protocol and knows nothing of ours."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end import processes
from tests.end_to_end.conftest import LiveServer
from tests.end_to_end.processes import INIT_AND_LOG, agent, push, python, run, spec, wait_for

pytestmark = [
    pytest.mark.end_to_end,
    pytest.mark.newest_client("it is our own agent that meets the foreign server"),
]

PROJECT = "foreign"
QUEUE = "foreign"


@pytest.fixture(scope="module")
def foreign_agent(server: LiveServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An agent that knows the server only through the proxy; gives its log."""
    processes.make_queue(server, QUEUE)
    state_dir = tmp_path_factory.mktemp("foreign") / "state"
    proxy = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("foreign.py")), server.base_url],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert proxy.stdout is not None
        url = proxy.stdout.readline().strip()
        with agent(server, QUEUE, state_dir, WANDB_BASE_URL=url) as process:
            yield state_dir.with_suffix(".log")
            assert process.poll() is None
    finally:
        proxy.kill()
        proxy.communicate()


@pytest.mark.usefixtures("foreign_agent")
def test_a_run_is_launched_and_finished(server: LiveServer) -> None:
    item_id = push(server, QUEUE, spec(python(INIT_AND_LOG), PROJECT))
    assert wait_for(server, item_id, "FINISHED", "FAILED")["state"] == "FINISHED"


def test_a_job_without_a_run_is_a_failed_item_with_its_log(server: LiveServer, foreign_agent: Path) -> None:
    item_id = push(server, QUEUE, spec(["sh", "-c", "echo said before the end; exit 3"], PROJECT))
    found = wait_for(server, item_id, "FAILED", "FINISHED")
    assert "exit code 3" in found["error"]["message"]
    assert found["error"]["filePaths"] == [f"{item_id}/error/error.log"]
    name = found["agent"]["name"]
    read = server.run_script(
        "import wandb\n"
        f"file = wandb.Api().run('admin/model-registry/{name}').file({found['error']['filePaths'][0]!r})\n"
        "print(file.download(replace=True).read())\n"
    )
    assert "said before the end" in read.stdout, read.stderr
    assert b"Cannot query field" not in foreign_agent.read_bytes()


@pytest.mark.usefixtures("foreign_agent")
def test_a_run_is_stopped(server: LiveServer) -> None:
    waiting = "import wandb, time\nrun = wandb.init()\ntime.sleep(600)"
    item_id = push(server, QUEUE, spec(python(waiting), PROJECT))
    found = wait_for(server, item_id, "RUNNING")
    run(server, "launchbay", "stop", f"{PROJECT}/{found['associatedRunId']}")
    assert wait_for(server, item_id, "KILLED", "FAILED", "CRASHED", "FINISHED")["state"] in {"KILLED", "FAILED"}
