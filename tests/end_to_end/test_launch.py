"""The whole way of a launch with real parts: stock client, server, agent and job are separate processes."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.local_process.control_groups import NoControlGroups, find
from tests.agent.test_environments import make_package, waiting
from tests.end_to_end import processes
from tests.end_to_end.conftest import LiveServer
from tests.end_to_end.processes import (
    INIT_AND_LOG,
    agent,
    item,
    logs,
    push,
    push_as_it_is,
    python,
    run,
    spec,
    status,
    until,
    wait_for,
)
from tests.end_to_end.snippets.checks import shows

pytestmark = pytest.mark.end_to_end
ours = pytest.mark.newest_client("it is our own agent and commands that talk to the server")

QUEUE = "launch-tests"
PROJECT = "launch-tests"
MARKED_LOOP = """
import pathlib, sys, time, wandb
folder = pathlib.Path({folder!r})
run = wandb.init()
(folder / f"start-{{time.time()}}").touch()
while not (folder / "go").exists():
    time.sleep(0.05)
run.log({{"done": 1}})
run.finish()
"""


@pytest.fixture(scope="module")
def queue(server: LiveServer) -> str:
    """A queue of this module's own."""
    processes.make_queue(server, QUEUE)
    return QUEUE


@pytest.fixture(scope="module")
def state_dir(server: LiveServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state folder of this module's agent; each server's has its own."""
    assert server
    return tmp_path_factory.mktemp("agent") / "state"


@pytest.fixture
def working_agent(server: LiveServer, queue: str, state_dir: Path) -> Iterator[None]:
    """An agent at work. It must still be at work when the test ends: nothing that a job does may end it."""
    with agent(server, queue, state_dir) as process:
        yield
        assert process.poll() is None


def test_a_job_queued_with_the_stock_client_runs_and_its_run_is_on_record(server: LiveServer, tmp_path: Path) -> None:
    """Queue, job and launch by the stock client; the agent makes the environment that the job asks for."""
    code = tmp_path / "code"
    code.mkdir()
    (code / "train.py").write_text(
        "import os, sys, wandb\n"
        "print('GPUs', os.environ['CUDA_VISIBLE_DEVICES'])\n"
        "with wandb.init() as run:\n"
        "    print('arguments', sys.argv[1:])\n"
        "    run.log({'lr': run.config['lr']})\n"
    )
    (code / "requirements.txt").write_text("wandb==0.31.*\n" if server.is_newest else "wandb==0.25.1\n")
    made = server.run_script(
        "import wandb\n"
        "variables = {'gpus': {'schema': {'type': 'integer', 'default': 1, 'maximum': 8}}}\n"
        "wandb.Api().create_run_queue(name='stock', type='local-process', entity='admin',\n"
        "                             config={'gpus': '{{gpus}}'}, template_variables=variables)\n"
    )
    assert made.returncode == 0, made.stderr
    create = ["job", "create", "code", str(code), "-p", PROJECT, "-n", "train", "-E", "python train.py"]
    run(server, "wandb", *create)
    launch = ["launch", "-q", "stock", "-j", f"admin/{PROJECT}/train:latest", "-p", PROJECT, "--name", "first"]
    config = json.dumps({"overrides": {"run_config": {"lr": 0.25}, "args": ["--fast"]}})
    refused = run(server, "wandb", *launch, "-c", config, "--set-var", "gpus=9", check=False)
    assert refused.returncode != 0
    assert "Template variable 'gpus' is 9, but at most 8 is allowed." in refused.stderr
    run(server, "wandb", *launch, "-c", config, "--set-var", "gpus=4")
    (tmp_path / "agent.yaml").write_text("slots: {gpus: [0, 1, 2, 3, 4]}\n")
    with agent(server, "stock", tmp_path / "state", "-c", str(tmp_path / "agent.yaml")):
        queued = next(queue for queue in status(server)["queues"] if queue["name"] == "stock")["items"]
        assert len(queued) == 1
        found = wait_for(server, queued[0]["id"], "FINISHED", "FAILED")
        assert found["state"] == "FINISHED", logs(server, found["id"])
        assert found["runSpec"]["resource_args"] == {"local-process": {"gpus": 4}}
        assert "arguments ['--fast']" in logs(server, found["id"])
        assert "GPUs 0,1,2,3\n" in logs(server, found["id"])
    read = server.run_script(
        "import json, wandb\n"
        f"run = wandb.Api().run('admin/{PROJECT}/{found['associatedRunId']}')\n"
        "used = [artifact.name for artifact in run.used_artifacts()]\n"
        "print(json.dumps([run.state, run.name, run.config['lr'], [row['lr'] for row in run.scan_history()], used]))\n"
    )
    assert json.loads(read.stdout.splitlines()[-1]) == ["finished", "first", 0.25, [0.25], ["train:v0"]], read.stderr


@ours
@pytest.mark.usefixtures("working_agent")
@pytest.mark.parametrize(
    ("launch_spec", "state", "message", "log"),
    [
        pytest.param(
            spec(["sh", "-c", "echo before the end; exit 3"], PROJECT),
            "FAILED",
            "The job ended with exit code 3. Its log says why.",
            "before the end",
            id="exits with 3",
        ),
        pytest.param(
            spec(["sh", "-c", "echo all is well"], PROJECT),
            "FAILED",
            "failed to call wandb.init, so there is no run on record. Call wandb.init() in the script",
            "all is well",
            id="never calls init",
        ),
        pytest.param(
            spec(["no-such-program"], PROJECT),
            "FAILED",
            "The job could not be started: 'no-such-program'",
            "no-such-program",
            id="program is missing",
        ),
        pytest.param(
            {"entity": "admin", "project": PROJECT, "job": f"admin/{PROJECT}/no-such-job:latest"},
            "FAILED",
            f"There is no artifact admin/{PROJECT}/no-such-job:latest",
            "no-such-job",
            id="job is missing",
        ),
        pytest.param(
            spec(python("import wandb, sys; wandb.init(); sys.exit(3)"), PROJECT),
            "FAILED",
            "The job ended with exit code 3.",
            "View run",
            id="run exits with 3",
        ),
        pytest.param(
            spec(python("import os, wandb; wandb.init(); os.kill(os.getpid(), 9)"), PROJECT),
            "FAILED",
            "The job was ended by SIGKILL",
            "View run",
            id="run is killed",
        ),
    ],
)
def test_what_goes_wrong_is_told_on_the_item_with_its_log(
    server: LiveServer, queue: str, launch_spec: dict[str, object], state: str, message: str, log: str
) -> None:
    item_id = push_as_it_is(server, queue, launch_spec)
    wait_for(server, item_id, "FAILED", "FINISHED", "CRASHED", "KILLED", "STOPPED")
    # A run tells its own end; the agent follows with the reason.
    found = until(lambda: (found := item(server, item_id))["error"] and found, f"{item_id} to have an error")
    assert found["state"] == state
    assert message in found["error"]["message"]
    assert log in logs(server, item_id)


@ours
@pytest.mark.usefixtures("working_agent")
def test_requirements_that_cannot_be_installed_fail_the_item_with_the_installers_words(
    server: LiveServer, queue: str, tmp_path: Path
) -> None:
    (tmp_path / "main.py").write_text("print('never runs')")
    (tmp_path / "requirements.txt").write_text("launchbay-no-such-package==9\n")
    run(server, "wandb", "job", "create", "code", str(tmp_path), "-p", PROJECT, "-n", "bad", "-E", "python main.py")
    item_id = push(server, queue, {"job": f"admin/{PROJECT}/bad:latest"})
    found = wait_for(server, item_id, "FAILED", "FINISHED")
    assert "The job's requirements could not be installed" in found["error"]["message"]
    assert found["error"]["filePaths"] == [f"{item_id}/error/error.log"]
    assert "launchbay-no-such-package" in logs(server, item_id)
    attached = server.run_script(
        "import wandb\n"
        f"run = wandb.Api().run('admin/model-registry/{found['agent']['name']}')\n"
        f"print(run.file({item_id + '/error/error.log'!r}).download(replace=True).read())\n"
    )
    assert "launchbay-no-such-package" in attached.stdout, attached.stderr


@ours
@pytest.mark.both_engines
def test_a_launch_outlives_its_agent_and_the_next_one_reports_its_end(
    server: LiveServer, queue: str, state_dir: Path, tmp_path: Path
) -> None:
    launch_spec = spec(python(MARKED_LOOP.format(folder=str(tmp_path))), PROJECT)
    with agent(server, queue, state_dir) as process:
        item_id = push(server, queue, launch_spec)
        wait_for(server, item_id, "RUNNING")
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    with agent(server, queue, state_dir):
        (tmp_path / "go").touch()
        assert wait_for(server, item_id, "FINISHED", "FAILED", "CRASHED")["state"] == "FINISHED"
        # The long poll of the dead agent takes nothing from the living one.
        second = push(server, queue, spec(python(INIT_AND_LOG), PROJECT))
        assert wait_for(server, second, "FINISHED", "FAILED")["state"] == "FINISHED"
    assert len(list(tmp_path.glob("start-*"))) == 1, "the job was started twice"


@ours
def test_an_agent_that_is_killed_while_it_makes_an_environment_leaves_nothing_half_made(
    server: LiveServer, queue: str, tmp_path: Path
) -> None:
    """The build of what the job asks for waits until the next agent is there."""
    code, state_dir, begun, may_end = (tmp_path / name for name in ("code", "state", "begun", "go"))
    make_package(code / "package", first=waiting(begun, may_end))
    (code / "requirements.txt").write_text("./package\n")
    (code / "main.py").write_text("import local_thing\nprint('the value is', local_thing.VALUE)")
    run(server, "wandb", "job", "create", "code", str(code), "-p", PROJECT, "-n", "slow", "-E", "python main.py")
    with agent(server, queue, state_dir) as process:
        item_id = push(server, queue, {"job": f"admin/{PROJECT}/slow:latest"})
        until(begun.exists, "the build to begin")
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not list((state_dir / "environments").glob("*.ready"))
    with agent(server, queue, state_dir):
        may_end.touch()
        # Its run never began, as `wandb.init` was never called; so the item has failed, though the job has not.
        for its in (item_id, push(server, queue, {"job": f"admin/{PROJECT}/slow:latest"})):
            assert wait_for(server, its, "FINISHED", "FAILED")["error"]["message"].count("wandb.init"), its
            assert "the value is 42" in logs(server, its)
    for cache, count in (("environments", 1), ("artifacts", 2)):
        assert len(list((state_dir / cache).iterdir())) == 2 * count, "a folder each, and that it is ready"


@shows("Api.queued_run", "QueuedRun.wait_until_running", "QueuedRun.wait_until_finished", "QueuedRun.state")
@pytest.mark.usefixtures("working_agent")
def test_the_stock_client_waits_for_a_queued_run(server: LiveServer, queue: str, tmp_path: Path) -> None:
    job = [server.python, "-c", MARKED_LOOP.format(folder=str(tmp_path))]
    item_id = push(server, queue, spec(job, PROJECT))
    waited = server.run_script(
        "import json, pathlib, time, wandb\n"
        f"queued = wandb.Api().queued_run('admin', {PROJECT!r}, {queue!r}, {item_id!r}, 'model-registry')\n"
        "first = queued.wait_until_running().state\n"
        f"pathlib.Path({str(tmp_path / 'go')!r}).touch()\n"
        "run = queued.wait_until_finished()\n"
        "ends_by = time.monotonic() + 240\n"
        "while (state := queued.state) == 'running' and time.monotonic() < ends_by:\n"
        "    time.sleep(0.1)  # the run ends inside its process, and the item with the process, a moment later\n"
        "print(json.dumps([first, run.state, run.summary['done'], state]))\n"
    )
    assert json.loads(waited.stdout.splitlines()[-1]) == ["running", "finished", 1, "finished"], waited.stderr


@ours
@pytest.mark.both_engines
@pytest.mark.usefixtures("working_agent")
def test_a_running_launch_is_stopped_on_request(server: LiveServer, queue: str, tmp_path: Path) -> None:
    item_id = push(server, queue, spec(python(MARKED_LOOP.format(folder=str(tmp_path))), PROJECT))
    found = wait_for(server, item_id, "RUNNING")
    assert run(server, "launchbay", "stop", f"{PROJECT}/{found['associatedRunId']}").stdout
    assert wait_for(server, item_id, "KILLED", "FAILED", "FINISHED", "CRASHED")["state"] == "KILLED"


@ours
@pytest.mark.usefixtures("working_agent")
def test_a_job_gets_the_memory_that_it_asks_for_and_no_more(server: LiveServer, queue: str, tmp_path: Path) -> None:
    try:
        find(tmp_path)
    except NoControlGroups as error:
        pytest.skip(f"{error}: run the tests in such a group, or as root where control groups are of version 1")
    asks = {"resource_args": {"local-process": {"memory": "64MiB", "cpus": 0.5}}}
    item_id = push(server, queue, spec(python("print('begins'); b'x' * (256 << 20)"), PROJECT, **asks))
    found = wait_for(server, item_id, "FAILED", "FINISHED")
    assert "needed more than the 64 MiB of memory that it asked for" in found["error"]["message"]
    assert "begins" in logs(server, item_id)


@ours
def test_a_waiting_item_says_why_and_is_stopped_at_once(server: LiveServer) -> None:
    processes.make_queue(server, "nobody")
    item_id = push(server, "nobody", spec(["true"], PROJECT))
    assert item(server, item_id)["waitingReason"] == (
        "No agent serves this queue. Start one with: launchbay agent -q nobody -e admin"
    )
    assert "is asked to stop" in run(server, "launchbay", "stop", item_id).stdout
    assert item(server, item_id)["state"] == "STOPPED"
    assert "has ended already: STOPPED" in run(server, "launchbay", "stop", item_id).stdout


@ours
@pytest.mark.usefixtures("working_agent")
def test_output_is_followed_while_the_job_runs(server: LiveServer, queue: str, tmp_path: Path) -> None:
    code = (
        "import pathlib, time\nprint('first line')\n"
        f"while not pathlib.Path({str(tmp_path / 'go')!r}).exists(): time.sleep(0.05)\nprint('last line')"
    )
    item_id = push(server, queue, spec(python(code), PROJECT))
    until(lambda: "first line" in logs(server, item_id), "the first line to be readable while the job runs")
    (tmp_path / "go").touch()
    assert logs(server, item_id, "--follow").splitlines() == ["first line", "last line"]


@ours
def test_an_agent_says_what_is_wrong_with_key_queue_or_server(server: LiveServer, queue: str, tmp_path: Path) -> None:
    state = ("--state-dir", str(tmp_path / "state"))
    wrong = run(server, "launchbay", "agent", "-q", queue, *state, check=False, WANDB_API_KEY="0" * 40)
    assert wrong.returncode == 4
    assert "does not accept the API key" in wrong.stderr
    missing = run(server, "launchbay", "agent", "-q", "no-such-queue", *state, check=False)
    assert missing.returncode == 5
    assert "has no queue 'no-such-queue'; there are:" in missing.stderr
    unknown = run(
        server, "launchbay", "launch", "-q", "no-such-queue", "-c", json.dumps(spec(["true"], PROJECT)), check=False
    )
    assert unknown.returncode == 5
    assert "has no queue 'no-such-queue'. It has:" in unknown.stderr
    stranger = run(server, "launchbay", "status", "-e", "no-such-entity", check=False)
    assert stranger.returncode == 5
    assert "There is no entity 'no-such-entity'" in stranger.stderr
    nobody = run(server, "launchbay", "status", check=False, WANDB_BASE_URL="http://127.0.0.1:9")
    assert nobody.returncode == 3
    assert "cannot be reached: Connection refused. Is it running?" in nobody.stderr


@ours
def test_two_agents_do_not_share_a_state_folder(server: LiveServer, queue: str, tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    with agent(server, queue, state_dir):
        until((state_dir / "journal.db").exists, "the agent to open its state folder")
        second = run(server, "launchbay", "agent", "-q", queue, "--state-dir", str(state_dir), check=False)
    assert second.returncode == 1
    assert "Another agent is using the state folder" in second.stderr
