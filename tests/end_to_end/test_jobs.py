"""Jobs as people make, change, read and call them with the stock client; and what they see of a job."""

import json
import re
import subprocess
from collections import ChainMap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from wandb.util import make_artifact_name_safe

from protocol.job_file import CodeArtifactSource, GitSource, ImageJobSource, parse_job_file
from tests.end_to_end.conftest import SCRIPT_SECONDS, LiveServer
from tests.end_to_end.git_remote import GitRemote, git, git_remote
from tests.end_to_end.processes import make_queue, run, status
from tests.end_to_end.snippets.checks import differs, shows

pytestmark = pytest.mark.end_to_end

CAPTURE = {"WANDB_DISABLE_JOB_CREATION": "false"}
NO_GIT = {"WANDB_DISABLE_GIT": "true"}
TRAIN = """
import wandb
with wandb.init(config={"lr": 0.5, "layers": [1, 2]}) as run:
    run.log({"loss": run.config["lr"]})
"""
TRAIN_LOGGING_CODE = TRAIN.replace("    run.log(", "    run.log_code('.')\n    run.log(")
READ = """
import json, sys, wandb
api = wandb.Api()
collection = api.artifact_collection("job", sys.argv[1])
def job(version):
    with open(version.download() + "/wandb-job.json") as file:
        return json.load(file)
def run(found):
    return None if found is None else found.id
print(json.dumps({
    "name": collection.name,
    "description": collection.description,
    "created": collection.created_at,
    "versions": [{
        "version": version.version, "aliases": sorted(version.aliases), "description": version.description,
        "metadata": version.metadata, "created": version.created_at, "job": job(version),
        "logged_by": run(version.logged_by()), "used_by": [run(found) for found in version.used_by()],
    } for version in collection.artifacts()],
}))
"""


@pytest.fixture(scope="module")
def remote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GitRemote]:
    """A git repository with a script."""
    with git_remote(tmp_path_factory.mktemp("git"), "demo") as remote:
        (remote.working / ".python-version").write_text("3.11.4\n")
        remote.commit(train=TRAIN)
        yield remote


def in_folder(server: LiveServer, folder: Path, *command: str, env: Mapping[str, str]) -> str:
    """Run a program of the client's environment; returns what it says."""
    done = subprocess.run(
        server.command(*command),
        env={**server.environment(), **env},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=SCRIPT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def create(server: LiveServer, *arguments: str, env: Mapping[str, str] | None = None) -> str:
    """Make a job with `wandb job create`; returns what it says."""
    return in_folder(server, server.folder, "wandb", "job", "create", *arguments, "-e", "admin", env=env or {})


def outcome(said: str) -> tuple[str, str, str]:
    """Return what `wandb job create` says that it did, the job and its aliases."""
    match = re.search(
        r"(Created|Updated|No changes detected for) job: (\S+?)(?:, with alias(?:es)?: (.*))?$", said, re.M
    )
    assert match, said
    return match[1], match[2], match[3] or ""


def read(server: LiveServer, job: str) -> dict[str, Any]:
    """Return a job with its versions, the newest first, as the stock client reads it."""
    done = server.run_script(READ, job)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def run_training(server: LiveServer, folder: Path, project: str, run_id: str, *more: Mapping[str, str]) -> None:
    """Run `train.py` of a folder, with more variables."""
    env = {"WANDB_ENTITY": "admin", "WANDB_PROJECT": project, "WANDB_RUN_ID": run_id}
    in_folder(server, folder, "python", "train.py", env=ChainMap(env, *map(dict[str, str], more)))


def code_folder(folder: Path, code: str = TRAIN) -> Path:
    """Return a folder with a script."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.py").write_text(code)
    return folder


# --- made by hand -----------------------------------------------------------------------------------------------------


def test_a_job_of_code_is_created_updated_and_left_alone(server: LiveServer, tmp_path: Path) -> None:
    folder = str(code_folder(tmp_path / "code"))
    arguments = ("code", folder, "-p", "jobs-code", "-n", "train", "-E", "python train.py", "-r", "3.11")
    first = create(server, *arguments, "-d", "trains it", "-a", "stable", "-a", "v-one")
    assert outcome(first) == ("Created", "admin/jobs-code/train:v0", "stable, v-one, latest")
    again = create(server, *arguments, "-a", "better")
    assert outcome(again) == ("No changes detected for", "admin/jobs-code/train:v0", "better, latest")
    code_folder(tmp_path / "code", TRAIN + "# changed")
    assert outcome(create(server, *arguments)) == ("Updated", "admin/jobs-code/train:v1", "latest")

    listed = run(server, "wandb", "job", "list", "-p", "jobs-code", "-e", "admin").stderr
    name, count, aliases = re.findall(r"(\S+) -- versions \((\d+)\): (\S+)", listed)[0]
    assert (name, count, set(aliases.split(","))) == ("train", "4", {"stable", "v-one", "better", "latest"})
    described = run(server, "wandb", "job", "describe", "admin/jobs-code/train:stable").stderr
    assert "source_type: artifact" in described
    assert "'entrypoint': ['python', 'train.py']" in described
    assert "runtime: 3.11" in described
    missing = run(server, "wandb", "job", "describe", "admin/jobs-code/train:nope").stderr
    assert "Job artifact admin/jobs-code/train:nope not found" in missing

    # The run that logged them is gone: the client deletes it.
    newest, oldest = read(server, "admin/jobs-code/train")["versions"]
    assert (newest["version"], newest["aliases"], newest["logged_by"]) == ("v1", ["latest"], None)
    assert (oldest["version"], oldest["aliases"]) == ("v0", ["better", "stable", "v-one"])
    assert (oldest["description"], oldest["metadata"]) == ("trains it", {"_partial": True})
    assert newest["job"]["source"]["artifact"] != oldest["job"]["source"]["artifact"]


@pytest.mark.newest_client("the older one sends the same requests")
def test_a_job_without_a_name_is_found_by_the_name_that_the_command_prints(server: LiveServer, tmp_path: Path) -> None:
    """The client asks for it under one name, with `code` replaced in it, and logs and prints it under another."""
    folder = code_folder(tmp_path / "my_code")
    arguments = ("code", str(folder), "-p", "jobs-unnamed", "-E", "python train.py")
    did, printed, _ = outcome(create(server, *arguments))
    name = printed.removeprefix("admin/jobs-unnamed/").removesuffix(":v0")
    assert (did, name) == ("Created", make_artifact_name_safe(f"job-code-{str(folder).lstrip('/')}/train.py"))
    assert outcome(create(server, *arguments))[:2] == ("No changes detected for", printed)
    code_folder(folder, TRAIN + "# changed")
    assert outcome(create(server, *arguments))[:2] == ("Updated", printed.replace(":v0", ":v1"))
    listed = run(server, "wandb", "job", "list", "-p", "jobs-unnamed", "-e", "admin").stderr
    assert re.findall(r"(\S+) -- versions", listed) == [name]
    assert "source_type: artifact" in run(server, "wandb", "job", "describe", printed).stderr


def test_a_job_of_git_knows_remote_commit_and_python(server: LiveServer, remote: GitRemote) -> None:
    first = git(remote.working, "rev-parse", "HEAD")
    arguments = ("git", remote.https, "-p", "jobs-git", "-E", "python train.py")
    did, printed, _ = outcome(create(server, *arguments, env=remote.environment))
    # The name ends where a captured job would name its program.
    name = make_artifact_name_safe(f"job-{remote.https}_")
    assert (did, printed) == ("Created", f"admin/jobs-git/{name}:v0")
    assert outcome(create(server, *arguments, env=remote.environment))[0] == "No changes detected for"
    second = remote.commit(train=TRAIN + "# changed")
    assert outcome(create(server, *arguments, env=remote.environment))[0] == "Updated"
    pinned = ("git", remote.ssh, "-p", "jobs-git", "-n", "pinned", "-g", first, "-E", "python train.py", "-r", "3.12")
    assert outcome(create(server, *pinned, env=remote.environment))[0] == "Created"
    found = [
        (parse_job_file(version["job"]).source, version["job"]["runtime"])
        for job in (name, "pinned")
        for version in read(server, f"admin/jobs-git/{job}")["versions"]
    ]
    assert found == [
        (GitSource(remote.https, second), "3.11"),
        (GitSource(remote.https, first), "3.11"),
        (GitSource(remote.ssh, first), "3.12"),
    ]


@pytest.mark.newest_client("the older one sends the same requests")
@pytest.mark.parametrize(
    ("image", "name", "aliases"),
    [
        ("busybox:1.36", "job-busybox", "1.36, latest"),
        ("127.0.0.1:5000/team/img", "job-127.0.0.1_5000_team_img", "latest"),
        ("registry.test:5000/team/img:a_b", "job-registry.test_5000_team_img", "a_b, latest"),
    ],
)
def test_a_job_of_an_image_has_its_tag_as_an_alias(server: LiveServer, image: str, name: str, aliases: str) -> None:
    printed = f"admin/jobs-image/{name}:v0"
    assert outcome(create(server, "image", image, "-p", "jobs-image")) == ("Created", printed, aliases)
    assert name == make_artifact_name_safe(name)
    found = read(server, f"admin/jobs-image/{name}")["versions"][0]
    assert found["aliases"] == sorted(aliases.split(", "))
    assert parse_job_file(found["job"]).source == ImageJobSource(image)


@pytest.mark.newest_client("the older one sends the same requests")
def test_a_tag_that_looks_like_a_version_is_no_alias_and_harms_nothing(server: LiveServer) -> None:
    assert outcome(create(server, "image", "img:stable", "-p", "jobs-image"))[0] == "Created"
    assert outcome(create(server, "image", "img:v7", "-p", "jobs-image"))[0] == "Updated"
    versions = read(server, "admin/jobs-image/job-img")["versions"]
    assert [version["aliases"] for version in versions] == [["latest"], ["stable"]]


@pytest.mark.newest_client("the older one sends the same requests")
def test_inputs_are_declared_by_a_schema_in_a_file(server: LiveServer, tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"lr": {"type": "number", "minimum": 0, "maximum": 1}}}
    (tmp_path / "schema.json").write_text(json.dumps(schema))
    folder = str(code_folder(tmp_path / "code"))
    arguments = ("code", folder, "-p", "jobs-schema", "-n", "train", "-E", "python train.py")
    create(server, *arguments, "--schema", str(tmp_path / "schema.json"))
    found = read(server, "admin/jobs-schema/train")["versions"][0]
    assert found["metadata"] == {"input_schemas": {"@wandb.config": schema}}
    described = json.loads(run(server, "launchbay", "job", "describe", "admin/jobs-schema/train", "--json").stdout)
    rule = {"type": "number", "minimum": 0, "maximum": 1}
    assert described["inputs"] == [{"place": "@wandb.config", "name": "lr", "type": "number", "rule": rule}]


# --- captured from runs -----------------------------------------------------------------------------------------------


def test_a_run_in_a_clone_becomes_a_job_of_its_remote_and_commit(
    server: LiveServer, remote: GitRemote, tmp_path: Path
) -> None:
    remote.clone(tmp_path / "clone")
    run_training(server, tmp_path / "clone", "captured", "from-git", CAPTURE, remote.environment)
    found = read(server, f"admin/captured/{make_artifact_name_safe(f'job-{remote.https}_train.py')}")["versions"][0]
    job = parse_job_file(found["job"])
    assert job.source == GitSource(remote.https, git(tmp_path / "clone", "rev-parse", "HEAD"))
    # The client writes `pythonCPython 3.11` and `CPython 3.11.7`; what was meant is read out of it.
    assert re.fullmatch(r"python[\d.]*", job.entry_point[0])
    assert job.entry_point[1:] == ("train.py",)
    assert re.fullmatch(r"3\.\d+\.\d+", job.runtime or "")
    assert found["used_by"] == ["from-git"]


def test_a_run_that_logs_its_code_becomes_a_job_of_that(server: LiveServer, tmp_path: Path) -> None:
    folder = code_folder(tmp_path / "code", TRAIN_LOGGING_CODE)
    run_training(server, folder, "captured", "from-code", CAPTURE, NO_GIT)
    found = read(server, "admin/captured/job-source-captured-train.py")["versions"][0]
    assert isinstance(parse_job_file(found["job"]).source, CodeArtifactSource)
    types = found["job"]["input_types"]["params"]["type_map"]
    assert types["lr"] == {"wb_type": "number"}
    assert found["job"]["output_types"]["params"]["type_map"]["loss"] == {"wb_type": "number"}


@pytest.mark.newest_client("the older one sends the same requests")
def test_a_run_in_an_image_becomes_a_job_of_the_image(server: LiveServer, tmp_path: Path) -> None:
    folder = code_folder(tmp_path / "code")
    run_training(server, folder, "captured", "from-image", CAPTURE, NO_GIT, {"WANDB_DOCKER": "team/train:2.0"})
    found = read(server, "admin/captured/job-team_train")["versions"][0]
    assert parse_job_file(found["job"]).source == ImageJobSource("team/train:2.0")
    assert found["aliases"] == ["2.0", "latest"]


@pytest.mark.newest_client("the older one sends the same requests")
def test_source_and_name_of_a_captured_job_can_be_said(server: LiveServer, remote: GitRemote, tmp_path: Path) -> None:
    remote.clone(tmp_path / "clone")
    forced = {"WANDB_JOB_SOURCE": "image", "WANDB_JOB_NAME": "forced", "WANDB_DOCKER": "img"}
    run_training(server, tmp_path / "clone", "forced", "forced", CAPTURE, forced, remote.environment)
    assert parse_job_file(read(server, "admin/forced/forced")["versions"][0]["job"]).source == ImageJobSource("img")
    # What is forced and cannot be is no job at all.
    run_training(
        server, code_folder(tmp_path / "code"), "forced", "none", CAPTURE, NO_GIT, {"WANDB_JOB_SOURCE": "image"}
    )
    listed = run(server, "wandb", "job", "list", "-p", "forced", "-e", "admin").stderr
    assert re.findall(r"(\S+) -- versions", listed) == ["forced"]


@pytest.mark.newest_client("the older one sends the same requests")
def test_runs_make_no_jobs_unless_they_are_told_to(server: LiveServer, tmp_path: Path) -> None:
    run_training(server, code_folder(tmp_path / "code"), "quiet", "quiet")
    assert "No jobs found" in run(server, "wandb", "job", "list", "-p", "quiet", "-e", "admin").stderr


def test_a_program_declares_which_of_its_config_and_files_are_inputs(server: LiveServer, tmp_path: Path) -> None:
    code = """
import wandb
from wandb.sdk import launch
lr = {"type": "number", "minimum": 0, "maximum": 1}
layers = {"type": "object", "properties": {"layers": {"type": "integer", "enum": [2, 4]}}}
launch.manage_config_file("cfg.yaml", include=["model"], exclude=["model.hidden"],
                          schema={"type": "object", "properties": {"model": layers}})
with wandb.init(config={"lr": 0.5, "secret": "x"}) as run:
    launch.manage_wandb_config(exclude=["secret"], schema={"type": "object", "properties": {"lr": lr}})
    run.log_code(".")
    run.log({"lr": run.config["lr"]})
    run.summary["file"] = open("cfg.yaml").read()
"""
    folder = code_folder(tmp_path / "code", code)
    (folder / "cfg.yaml").write_text("model:\n  hidden: 3\n  layers: 2\nother: 1\n")
    run_training(server, folder, "declared", "declared", CAPTURE, NO_GIT, {"WANDB_JOB_NAME": "declared"})
    found = read(server, "admin/declared/declared")["versions"][0]
    assert found["job"]["input_types"]["params"]["type_map"] == {}
    assert set(found["metadata"]) == {"input_types", "input_schemas", "output_types"}
    described = json.loads(run(server, "launchbay", "job", "describe", "admin/declared/declared", "--json").stdout)
    assert [(each["place"], each["name"], each["type"], each["rule"]) for each in described["inputs"]] == [
        ("@wandb.config", "lr", "number", {"type": "number", "minimum": 0, "maximum": 1}),
        ("cfg.yaml", "model.layers", "number", {"type": "integer", "enum": [2, 4]}),
    ]
    # What a launch sets of them: values of the config, and parts of the file.
    overrides = {"WANDB_LAUNCH_FILE_OVERRIDES": json.dumps({"cfg.yaml": {"model": {"layers": 4}}})}
    overrides["WANDB_CONFIG"] = json.dumps({"lr": 0.25})
    run_training(server, folder, "declared", "launched", {"WANDB_LAUNCH": "true"}, overrides)
    done = server.run_script(
        "import json, wandb\n"
        "run = wandb.Api().run('admin/declared/launched')\n"
        "names = [file.name for file in run.files() if file.name.startswith('_wandb_configs')]\n"
        "print(json.dumps([run.config['lr'], run.summary['file'], names]))\n"
    )
    lr, file, names = json.loads(done.stdout.splitlines()[-1])
    assert (lr, "layers: 4" in file, "hidden: 3" in file) == (0.25, True, True)
    assert names == ["_wandb_configs/cfg.yaml"]


def test_a_partial_job_is_completed_by_a_run_that_uses_it(server: LiveServer, tmp_path: Path) -> None:
    folder = code_folder(tmp_path / "code")
    create(server, "code", str(folder), "-p", "partial", "-n", "train", "-E", "python train.py", "-d", "kept")
    launched = {"WANDB_LAUNCH": "true", "WANDB_ARTIFACTS": json.dumps({"_wandb_job": "admin/partial/train:latest"})}
    run_training(server, folder, "partial", "asked-for-nothing", launched, {"WANDB_DISABLE_JOB_CREATION": "true"})
    assert read(server, "admin/partial/train")["versions"][0]["metadata"] == {"_partial": True}
    run_training(server, folder, "partial", "completes", launched, CAPTURE, NO_GIT)
    found = read(server, "admin/partial/train")
    assert len(found["versions"]) == 1
    only = found["versions"][0]
    assert set(only["metadata"]) == {"input_types", "output_types"}
    assert (only["description"], only["aliases"]) == ("kept", ["latest"])
    assert sorted(only["used_by"]) == ["asked-for-nothing", "completes"]
    listed = run(server, "wandb", "job", "list", "-p", "partial", "-e", "admin").stderr
    assert re.findall(r"(\S+) -- versions", listed) == ["train"]


# --- what people see and do with them ---------------------------------------------------------------------------------


@pytest.mark.newest_client("the older one sends the same requests")
def test_a_jobs_page_can_be_told(server: LiveServer, tmp_path: Path) -> None:
    folder = code_folder(tmp_path / "code")
    arguments = ("code", str(folder), "-p", "page", "-n", "train", "-E", "python train.py")
    create(server, *arguments, "-d", "the first", "-a", "stable")
    launched = {"WANDB_LAUNCH": "true", "WANDB_ARTIFACTS": json.dumps({"_wandb_job": "admin/page/train:stable"})}
    for run_id in ("one", "two"):
        run_training(server, folder, "page-runs", run_id, launched)
    code_folder(folder, TRAIN + "# changed")
    create(server, *arguments, "-d", "the second")
    named = server.run_script(
        "import wandb\n"
        "collection = wandb.Api().artifact_collection('job', 'admin/page/train')\n"
        "collection.description = 'what it is for'\ncollection.save()\n"
    )
    assert named.returncode == 0, named.stderr
    assert read(server, "admin/page/train")["description"] == "what it is for"

    job = json.loads(run(server, "launchbay", "job", "describe", "admin/page/train:stable", "--json").stdout)
    assert (job["reference"], job["aliases"], job["description"]) == ("admin/page/train:v0", ["stable"], "the first")
    assert (job["creator"], job["createdByRun"], job["runs"]) == ("admin", None, 2)
    assert job["source"] == {"type": "code", "artifact": "admin/page/code-train:v0"}
    assert [(each["version"], each["aliases"]) for each in job["versions"]] == [("v1", ["latest"]), ("v0", ["stable"])]
    assert job["jobCreated"] <= job["created"] <= job["lastUsed"]
    text = run(server, "launchbay", "job", "describe", "admin/page/train").stdout
    assert re.search(r"^entry point: +python train.py$", text, re.M)
    assert re.search(r"^last used: +\S+$", text, re.M)

    (listed,) = json.loads(run(server, "launchbay", "job", "list", "-p", "page", "--json").stdout)
    assert (listed["reference"], listed["creator"], listed["description"]) == (
        "admin/page/train",
        "admin",
        "the second",
    )
    assert "v1 (latest), v0 (stable)" in run(server, "launchbay", "job", "list", "-p", "page").stdout

    runs = json.loads(run(server, "launchbay", "job", "runs", "admin/page/train", "--json").stdout)
    seen = [(each["run"], each["version"], each["state"], each["user"]) for each in runs]
    assert seen == [(f"admin/page-runs/{run_id}", "v0", "finished", "admin") for run_id in ("two", "one")]
    assert "No run has used it yet" in run(server, "launchbay", "job", "runs", "admin/page/train:v1").stdout
    for command in ("describe", "runs"):
        missing = run(server, "launchbay", "job", command, "admin/page/none:latest", check=False)
        assert (missing.returncode, "There is no job admin/page/none:latest" in missing.stderr) == (5, True)
    assert run(server, "launchbay", "job", "describe", "train", check=False).returncode == 2


@pytest.mark.newest_client("it is our own command")
@pytest.mark.parametrize(
    ("named", "code", "said"),
    [
        ("admin/meant/trian:latest", 5, "Did you mean admin/meant/train:latest?"),
        ("admin/meant/train:v7", 5, "Of train there are: latest, stable, v0."),
        ("admin/meant/something-else:latest", 5, "`launchbay job list -e admin -p meant` lists those that there are."),
        ("admin/no-such-project/train:latest", 5, "The project admin/no-such-project has no jobs."),
        ("admin/meant/code-train:latest", 5, "There is no job admin/meant/code-train:latest"),
        ("admin/meant/train", 2, "Invalid job specification 'admin/meant/train'."),
    ],
)
def test_a_job_that_is_not_there_is_not_pushed(
    server: LiveServer, tmp_path_factory: pytest.TempPathFactory, named: str, code: int, said: str
) -> None:
    if not json.loads(run(server, "launchbay", "job", "list", "-p", "meant", "--json").stdout):
        folder = code_folder(tmp_path_factory.mktemp("meant"))
        create(server, "code", str(folder), "-p", "meant", "-n", "train", "-E", "python train.py", "-a", "stable")
        make_queue(server, "meant")
    refused = run(server, "launchbay", "launch", "-q", "meant", "-j", named, check=False)
    assert (refused.returncode, said in refused.stderr) == (code, True), refused.stderr
    queues = status(server)["queues"]
    assert next(queue["items"] for queue in queues if queue["name"] == "meant") == []


@shows("Api.job", "Api.list_jobs", "Job.call", "Job.name")
@shows("QueuedRun.id", "QueuedRun.entity", "QueuedRun.project", "QueuedRun.queue_name", "QueuedRun.delete")
@differs("Job.set_entrypoint", "changes nothing of what `Job.call` queues; say it in the launch's overrides")
def test_a_job_is_called_from_python(server: LiveServer, tmp_path: Path) -> None:
    folder = code_folder(tmp_path / "code", TRAIN_LOGGING_CODE)
    run_training(server, folder, "called", "maker", CAPTURE, NO_GIT, {"WANDB_JOB_NAME": "train"})
    code = """
import json, wandb
api = wandb.Api()
queues = {"type": "local-process", "entity": "admin"}
api.create_run_queue(name="called", prioritization_mode="V0", config={"gpus": "{{gpus}}"}, **queues,
                     template_variables={"gpus": {"schema": {"type": "integer", "default": 1, "maximum": 8}}})
api.create_run_queue(name="called-plain", config={"env": {"A": "1"}}, **queues)
job = api.job("admin/called/train:latest")
job.set_entrypoint(["python", "other.py"])
given = {"lr": 0.125, "layers": [3, 4]}
where = {"project": "called", "resource": "local-process"}
items = [
    job.call(given, queue="called", template_variables={"gpus": 4}, priority=0, **where),
    job.call(given, queue="called-plain", resource_args={"local-process": {"env": {"B": "2"}}}, **where),
]
try:
    job.call({"lr": "fast", "layers": [3, 4]}, queue="called", **where)
    wrong = "accepted"
except TypeError as error:
    wrong = str(error)
jobs = [edge["node"]["artifactSequence"]["name"] for job in api.list_jobs("admin", "called") for edge in job["edges"]]
gone = job.call(given, queue="called-plain", **where)
gone.delete()
left = [item.id for item in api.run_queue("admin", "called-plain").items]
seen = [[item.id, item.state, item.entity, item.project, item.queue_name] for item in items]
print(json.dumps([job.name, seen, wrong, jobs, left]))
"""
    done = server.run_script(code)
    assert done.returncode == 0, done.stderr
    name, items, wrong, jobs, left = json.loads(done.stdout.splitlines()[-1])
    assert (name, jobs) == ("admin/called/train:latest", ["train"])
    assert "lr" in wrong
    queued = ["pending", "admin", "called"]
    assert [rest for _, *rest in items] == [[*queued, "called"], [*queued, "called-plain"]]
    assert left == [items[1][0]]
    found = {item["id"]: item for queue in status(server, "-n", "100")["queues"] for item in queue["items"]}
    first, second = (found[item_id] for item_id, *_ in items)
    assert (first["priority"], first["runSpec"]["resource_args"]) == (0, {"local-process": {"gpus": 4}})
    assert first["runSpec"]["overrides"]["run_config"] == {"lr": 0.125, "layers": [3, 4]}
    assert not first["runSpec"]["overrides"].get("entry_point")
    assert (first["runSpec"]["job"], first["runSpec"]["project"]) == ("admin/called/train:latest", "called")
    assert second["runSpec"]["resource_args"] == {"local-process": {"env": {"A": "1", "B": "2"}}}
