"""Every form of `wandb launch` and `launch_add`: what is queued, what is refused and why, and that agents run it."""

import base64
import json
import re
import subprocess
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from protocol.names import QUEUE_PROJECT
from tests.end_to_end import processes
from tests.end_to_end.conftest import SCRIPT_SECONDS, LiveServer
from tests.end_to_end.git_remote import GitRemote, git_remote
from tests.end_to_end.processes import BIN, agent, background, logs, run, until, wait_for

pytestmark = [
    pytest.mark.end_to_end,
    pytest.mark.newest_client("the older one sends the same requests; test_older_client and test_jobs launch with it"),
]

PROJECT = "forms"
JOB = f"admin/{PROJECT}/train:latest"
PLAIN, TYPED = "forms-plain", "forms-typed"
# Code without requirements, which runs in the Python that has the client.
TRAIN = """
import sys, wandb
with wandb.init() as run:
    print("arguments", sys.argv[1:])
    run.log({"lr": run.config.get("lr", 1)})
"""
SCRIPT = "train.py"
VARIABLES = {
    "gpus": {"schema": {"type": "integer", "default": 1, "minimum": 0, "maximum": 8}},
    "tier": {"schema": {"type": "string", "enum": ["test", "prod"], "default": "test"}},
    "hours": {"schema": {"type": "number", "minimum": 0.5}},
}
ITEMS = """query Items($entity: String!, $project: String!, $queue: String!) {
  project(entityName: $entity, name: $project) { runQueue(name: $queue) {
    runQueueItems(first: 100) { edges { node { id priority runSpec } } }
  } }
}"""
CONFIG = {"gpus": "{{gpus}}", "label": "{{tier}}-{{gpus}}", "limits": {"hours": "{{hours}}"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a script."""
    folder = tmp_path_factory.mktemp("code")
    (folder / SCRIPT).write_text(TRAIN)
    return folder


@pytest.fixture(scope="module")
def remote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GitRemote]:
    """A git repository with the same script."""
    with git_remote(tmp_path_factory.mktemp("git"), "forms") as remote:
        remote.commit(train=TRAIN)
        yield remote


@pytest.fixture(scope="module")
def job(server: LiveServer, folder: Path) -> str:
    """A job, and two queues for it."""
    run(
        server,
        "wandb",
        "job",
        "create",
        "code",
        str(folder),
        "-p",
        PROJECT,
        "-n",
        "train",
        "-E",
        f"{server.python} {SCRIPT}",
    )
    made = server.run_script(
        "import wandb\n"
        "def make(name, **more):\n"
        "    wandb.Api().create_run_queue(name=name, type='local-process', entity='admin', **more)\n"
        f"make({PLAIN!r}, config={{'env': {{'A': '1'}}}})\n"
        f"make({TYPED!r}, config={CONFIG!r}, template_variables={VARIABLES!r}, prioritization_mode='V0')\n"
    )
    assert made.returncode == 0, made.stderr
    return JOB


def client(server: LiveServer, *arguments: str, env: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Run a command of the stock client; returns its exit code and what it says."""
    done = subprocess.run(
        server.command("wandb", *arguments),
        env={**server.environment(), **(env or {})},
        cwd=server.folder,
        capture_output=True,
        text=True,
        timeout=SCRIPT_SECONDS,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def items(server: LiveServer, queue: str) -> list[dict[str, Any]]:
    """Return a queue's items, the newest first. Asked directly, as it is asked often."""
    variables = {"entity": "admin", "project": QUEUE_PROJECT, "queue": queue}
    key = base64.b64encode(f"api:{server.api_key}".encode()).decode()
    request = urllib.request.Request(
        f"{server.base_url}/graphql",
        json.dumps({"query": ITEMS, "variables": variables}).encode(),
        {"Authorization": f"Basic {key}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as response:
        found = json.load(response)["data"]["project"]
    edges = found["runQueue"]["runQueueItems"]["edges"] if found and found["runQueue"] else []
    return [edge["node"] for edge in edges]


def queued(server: LiveServer, queue: str, *arguments: str, env: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Queue with `wandb launch`; returns the item."""
    code, said = client(server, "launch", "-q", queue, *arguments, env=env)
    assert code == 0, said
    assert f"Added run to queue {queue}." in said
    return items(server, queue)[0]


def refused(server: LiveServer, queue: str, *arguments: str) -> str:
    """Let `wandb launch` be refused, which must leave nothing in the queue; returns what it says."""
    before = len(items(server, queue))
    code, said = client(server, "launch", "-q", queue, *arguments)
    assert code != 0, said
    assert len(items(server, queue)) == before
    return said


# --- what is queued ---------------------------------------------------------------------------------------------------


def test_a_job_goes_into_its_own_project_unless_told_otherwise(server: LiveServer, job: str) -> None:
    spec = queued(server, PLAIN, "-j", job, "--name", "shown", "-E", "python train.py --fast")["runSpec"]
    assert (spec["job"], spec["entity"], spec["project"], spec["name"]) == (job, "admin", PROJECT, "shown")
    assert (spec["resource"], spec["resource_args"]) == ("local-process", {"local-process": {"env": {"A": "1"}}})
    assert spec["overrides"]["entry_point"] == ["python", "train.py", "--fast"]
    assert spec["author"] == "admin"
    elsewhere = queued(server, PLAIN, "-j", job, "-e", "admin", "-p", "elsewhere")["runSpec"]
    assert elsewhere["project"] == "elsewhere"


def test_an_image_needs_a_project(server: LiveServer, job: str) -> None:
    assert "Please specify a project with --project or -p." in refused(server, PLAIN, "-d", "busybox:1.36")
    spec = queued(server, PLAIN, "-d", "busybox:1.36", "-p", PROJECT)["runSpec"]
    assert (spec["docker"], spec["project"]) == ({"docker_image": "busybox:1.36"}, PROJECT)


def test_a_queue_without_a_name_is_the_default_one_and_is_made(server: LiveServer, job: str) -> None:
    assert items(server, "default") == []
    code, said = client(server, "launch", "-j", job, "-q")
    assert code == 0, said
    assert "No default queue existing for entity: admin" in said
    # It has no config, so the resource is the agent's to choose.
    assert items(server, "default")[0]["runSpec"]["resource"] is None
    missing = client(server, "launch", "-j", job, "-q", "no-such-queue")
    assert (missing[0] != 0, "Unable to push to run queue no-such-queue. Queue not found." in missing[1]) == (
        True,
        True,
    )


def test_resource_args_come_from_a_file_and_go_over_the_queues(server: LiveServer, job: str, tmp_path: Path) -> None:
    (tmp_path / "args.json").write_text(json.dumps({"local-process": {"env": {"B": "2"}}}))
    spec = queued(server, PLAIN, "-j", job, "-R", str(tmp_path / "args.json"))["runSpec"]
    assert spec["resource_args"] == {"local-process": {"env": {"A": "1", "B": "2"}}}
    said = refused(server, TYPED, "-j", job, "-R", str(tmp_path / "args.json"))
    assert f"Queue '{TYPED}' has template variables (gpus, hours, tier)" in said
    assert "Use --set-var." in said


def test_a_config_file_is_the_base_of_the_launch(server: LiveServer, job: str, tmp_path: Path) -> None:
    given = {
        "entity": "admin",
        "project": "from-file",
        "name": "from file",
        "overrides": {"args": ["--epochs", "3"], "run_config": {"lr": 0.1}},
        "template_variables": {"gpus": 2, "hours": 1.5},
        "run_id": "chosen-id",
        "somebody's own": {"kept": True},
    }
    (tmp_path / "config.json").write_text(json.dumps(given))
    arguments = ("-j", job, "-c", str(tmp_path / "config.json"), "--name", "from flag", "--set-var", "gpus=3")
    spec = queued(server, TYPED, *arguments)["runSpec"]
    assert (spec["name"], spec["project"], spec["run_id"]) == ("from flag", "from-file", "chosen-id")
    assert spec["overrides"] == given["overrides"]
    assert spec["somebody's own"] == {"kept": True}
    assert "template_variables" not in spec
    # What the flag says goes over what the file says.
    assert spec["resource_args"]["local-process"] == {"gpus": 3, "label": "test-3", "limits": {"hours": 1.5}}


@pytest.mark.parametrize(
    ("values", "rendered"),
    [
        (["hours=2"], {"gpus": 1, "label": "test-1", "limits": {"hours": 2.0}}),
        (["hours=0.5", "gpus=8", "tier=prod"], {"gpus": 8, "label": "prod-8", "limits": {"hours": 0.5}}),
        (["hours=1e3", "gpus=0"], {"gpus": 0, "label": "test-0", "limits": {"hours": 1000.0}}),
    ],
    ids=["defaults", "all given", "bounds"],
)
def test_values_are_rendered_with_their_types(
    server: LiveServer, job: str, values: list[str], rendered: dict[str, Any]
) -> None:
    flags = [flag for value in values for flag in ("--set-var", value)]
    got = queued(server, TYPED, "-j", job, *flags)["runSpec"]["resource_args"]["local-process"]
    assert got == rendered
    assert isinstance(got["gpus"], int)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (["hours=1", "gpus=9"], "Template variable 'gpus' is 9, but at most 8 is allowed."),
        (["hours=1", "gpus=-1"], "Template variable 'gpus' is -1, but at least 0 is wanted."),
        (["hours=0.1"], "Template variable 'hours' is 0.1, but at least 0.5 is wanted."),
        (["hours=1", "tier=dev"], "Template variable 'tier' is 'dev', but only 'test', 'prod' are allowed."),
        (["gpus=1"], "Template variable 'hours' has no value and no default. Set it: --set-var hours=VALUE."),
        # These the client finds out by itself, from the schemas that it is told.
        (["hours=1", "gpus=many"], "Value for gpus must be of type integer."),
        (["hours=1", "speed=1"], f"Queue {TYPED} does not support overriding speed."),
        (["hours"], '--set-var value must be in the format "--set-var key1=value1"'),
    ],
)
def test_values_that_break_a_schema_are_refused_in_words_that_help(
    server: LiveServer, job: str, values: list[str], said: str
) -> None:
    """The client pushes twice, by name and by id, and shows what the second one was answered."""
    assert said in refused(server, TYPED, "-j", job, *[flag for value in values for flag in ("--set-var", value)])


def test_a_priority_is_kept_where_there_are_priorities(server: LiveServer, job: str) -> None:
    found = {
        level: queued(server, TYPED, "-j", job, "-P", level, "--set-var", "hours=1")["priority"]
        for level in ("critical", "high", "medium", "low")
    }
    assert found == {"critical": 0, "high": 1, "medium": 2, "low": 3}
    assert queued(server, PLAIN, "-j", job, "-P", "medium")["priority"] == 2
    assert "Error adding run to queue" in refused(server, PLAIN, "-j", job, "-P", "high")
    code, said = client(server, "launch", "-j", job, "-P", "high")
    assert (code != 0, "--priority flag requires --queue to be set" in said) == (True, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(("-u", "."), "Cannot provide a uri without an entry point.", id="no entry point"),
        pytest.param(("-u", ".", "-E", "x", "-j", JOB), "Cannot provide both a uri and a job name.", id="uri and job"),
        pytest.param(("-j", JOB, "-d", "img", "-p", "p"), "Exactly one of job or docker_image", id="job and image"),
        pytest.param(("-p", "p"), "Exactly one of job or docker_image", id="nothing"),
        pytest.param(("-j", JOB, "--async"), "Cannot use both --async and --queue", id="async"),
        pytest.param(("-j", JOB, "-r", "kubernetes"), "runs 'local-process', but the launch asks for", id="resource"),
    ],
)
@pytest.mark.usefixtures("job")
def test_what_makes_no_launch_is_refused(server: LiveServer, arguments: tuple[str, ...], said: str) -> None:
    assert said in refused(server, PLAIN, *arguments)


def test_launch_add_takes_what_the_command_takes(server: LiveServer, job: str) -> None:
    code = f"""
import json, wandb
from wandb.sdk.launch import launch_add
from wandb.errors import Error
common = {{"job": {job!r}, "project": {PROJECT!r}, "entity": "admin"}}
item = launch_add(queue_name={TYPED!r}, template_variables={{"gpus": 2, "hours": 1}}, priority=1, name="added",
                  config={{"overrides": {{"run_config": {{"lr": 0.5}}}}}}, entry_point=["python", "x.py"],
                  run_id="added-id", **common)
other = launch_add(queue_name={PLAIN!r}, resource_args={{"local-process": {{"env": {{"C": "3"}}}}}}, **common)
said = []
for queue, more in [({TYPED!r}, {{"template_variables": {{"gpus": "many", "hours": 1}}}}),
                    ({TYPED!r}, {{"template_variables": {{"gpus": 2.5, "hours": 1}}}}),
                    ({TYPED!r}, {{"template_variables": {{"gpus": 2, "hours": 1}}, "priority": 7}}),
                    ({PLAIN!r}, {{"template_variables": {{"speed": 1}}}})]:
    try:
        launch_add(queue_name=queue, **more, **common)
        said.append("accepted")
    except Error as error:
        said.append(str(error))
print(json.dumps([item.id, item.state, other.id, said]))
other.delete()
"""
    done = server.run_script(code)
    assert done.returncode == 0, done.stderr
    item_id, state, other_id, said = json.loads(done.stdout.strip().splitlines()[-1])
    assert state == "pending"
    words = [
        "Template variable 'gpus' is 'many', but an integer is wanted.",
        "Template variable 'gpus' is 2.5, but an integer is wanted.",
        "Error adding run to queue",
        "speed",
    ]
    assert all(word in message for word, message in zip(words, said, strict=True)), said
    found = next(item for item in items(server, TYPED) if item["id"] == item_id)
    spec = found["runSpec"]
    assert (found["priority"], spec["name"], spec["run_id"]) == (1, "added", "added-id")
    assert spec["overrides"] == {"run_config": {"lr": 0.5}, "entry_point": ["python", "x.py"]}
    assert spec["resource_args"]["local-process"]["gpus"] == 2
    assert other_id not in {item["id"] for item in items(server, PLAIN)}


# --- what agents make of it -------------------------------------------------------------------------------------------


def outcome(server: LiveServer, project: str, run_id: str) -> list[Any]:
    """Return state, logged value, and used artifacts' types of a run, as the stock client sees it."""
    done = server.run_script(
        "import json, wandb\n"
        f"run = wandb.Api().run('admin/{project}/{run_id}')\n"
        "print(json.dumps([run.state, run.summary.get('lr'), [used.type for used in run.used_artifacts()]]))\n"
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_local_path_becomes_a_job_that_our_agent_runs(server: LiveServer, folder: Path, tmp_path: Path) -> None:
    processes.make_queue(server, "forms-ours")
    config = json.dumps({"overrides": {"run_config": {"lr": 0.25}, "args": ["--fast"]}})
    item = queued(
        server, "forms-ours", "-u", str(folder), "-E", f"{server.python} {SCRIPT}", "-p", "forms-path", "-c", config
    )
    assert re.fullmatch(r"admin/forms-path/job-code-\S+:v0", item["runSpec"]["job"])
    with agent(server, "forms-ours", tmp_path / "state"):
        found = wait_for(server, item["id"], "FINISHED", "FAILED")
    assert found["state"] == "FINISHED", logs(server, item["id"])
    assert "arguments ['--fast']" in logs(server, item["id"])
    assert outcome(server, "forms-path", found["associatedRunId"]) == ["finished", 0.25, ["job"]]


def test_a_git_uri_and_a_job_are_run_by_the_stock_agent(
    server: LiveServer, job: str, remote: GitRemote, tmp_path: Path
) -> None:
    processes.make_queue(server, "forms-stock")
    git = ("-u", remote.https, "-E", f"{server.python} {SCRIPT}", "-p", "forms-git")
    pushed = [
        queued(server, "forms-stock", *git, env=remote.environment),
        queued(server, "forms-stock", "-j", job, "-p", "forms-git"),
    ]
    assert pushed[0]["runSpec"]["job"].startswith("admin/forms-git/job-https___git.test_forms.git_:")
    command = [str(server.client / "wandb"), "launch-agent", "-q", "forms-stock", "-j", "2", "-e", "admin"]
    with background(server, command, tmp_path / "agent.log", **remote.environment):
        found = [wait_for(server, item["id"], "FINISHED", "FAILED") for item in pushed]
    assert [item["state"] for item in found] == ["FINISHED"] * 2, (tmp_path / "agent.log").read_text()
    for item in found:
        assert outcome(server, "forms-git", item["associatedRunId"]) == ["finished", 1, ["job"]]


def test_a_launch_without_a_queue_runs_here_and_tells_its_end(server: LiveServer, folder: Path) -> None:
    """A job with a base image needs no builder, and a local process does not even look at the image."""
    base = ("launch", "-u", str(folder), "-B", "any:image", "-r", "local-process", "-e", "admin", "-p", "forms-direct")
    path = {"PATH": f"{server.client}:{BIN}:/usr/bin:/bin"}
    code, said = client(server, *base, "-E", "python train.py", "-J", "direct", "--name", "shown", env=path)
    assert code == 0, said
    (run_id,) = set(re.findall(r"WANDB_RUN_ID=(\w+)", said))
    assert outcome(server, "forms-direct", run_id) == ["finished", 1, ["job"]]
    code, said = client(server, *base, "-E", "python no-such-file.py", "-J", "broken", env=path)
    assert code == 1, said
    assert "Launched run exited with non-zero status" in said


def test_an_item_can_be_waited_for_from_python(server: LiveServer, job: str, tmp_path: Path) -> None:
    processes.make_queue(server, "forms-waited")
    code = f"""
import json
import time
from wandb.sdk.launch import launch_add
item = launch_add(job={job!r}, project="forms-waited", entity="admin", queue_name="forms-waited",
                  config={{"overrides": {{"run_config": {{"lr": 0.75}}}}}})
run = item.wait_until_finished()
ends_by = time.monotonic() + 240  # the run ends inside its process; the item ends with the process, a moment later
while (state := item.state) == "running" and time.monotonic() < ends_by:
    time.sleep(0.1)
print(json.dumps([run.state, run.summary["lr"], state]))
"""
    with agent(server, "forms-waited", tmp_path / "state"), server.started_script(code) as process:
        until(lambda: process.poll() is not None, "the script to see the end")
        assert process.stdout is not None
        assert json.loads(process.stdout.read().splitlines()[-1]) == ["finished", 0.75, "finished"]
