"""What only older clients ask for: they look at the schema before they use it, and fetch artifacts in another way.

Most other end-to-end tests run with the older client too.
"""

import asyncio
import json
import sysconfig
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from graphql import validate

from server.graphql import load_schema
from server.resolvers import ALL_RESOLVERS
from tests.end_to_end import processes
from tests.end_to_end.conftest import NEWEST_CLIENT, OLDER_CLIENT, LiveServer, older_client_is_made
from tests.end_to_end.processes import background, item, run, status, wait_for
from tests.end_to_end.wire import Wire, recording
from tests.server.stock_documents import documents_of

pytestmark = [pytest.mark.end_to_end, pytest.mark.older_client]

PROJECT = "older"
VERSION = "0.25.1"
PROBES = """
import json
from wandb.sdk.internal.internal_api import Api
api = Api()
print(json.dumps({
    "key": api.validate_api_key(),
    "agents": api.launch_agent_introspection(),
    "queues, configs, priorities": api.create_run_queue_introspection(),
    "upsert": api.upsert_run_queue_introspection(),
    "configs": api.create_default_resource_config_introspection(),
    "variables, priorities": api.push_to_run_queue_introspection(),
    "failing": api.fail_run_queue_item_introspection(),
    "why": api.fail_run_queue_item_fields_introspection(),
    "agent": api.create_launch_agent_fields_introspection(),
    "versions": api.viewer_server_info()[1],
}))
"""
QUEUES = """
import json, wandb
from wandb.sdk.launch import launch_add
api = wandb.Api()
api.create_run_queue(
    entity="admin", name="older-typed", type="local-process", prioritization_mode="V0", config={"gpus": "{{gpus}}"},
    template_variables={"gpus": {"schema": {"type": "integer", "default": 1, "maximum": 8}}},
)
common = {"docker_image": "busybox", "entity": "admin", "project": "older", "queue_name": "older-typed"}
queued = launch_add(template_variables={"gpus": 4}, priority=1, **common)
try:
    launch_add(template_variables={"gpus": 9}, **common)
    refused = None
except Exception as error:
    refused = str(error)
api.upsert_run_queue(
    entity="admin", name="older-upserted", resource_type="local-process", prioritization_mode="V0",
    resource_config={"gpus": "{{gpus}}"}, external_links={"docs": "https://docs.test"},
    template_variables={"gpus": {"schema": {"type": "integer", "default": 1}}},
)
upserted = api.run_queue("admin", "older-upserted")
print(json.dumps({
    "item": queued.id, "state": queued.state, "refused": refused,
    "left": len(api.run_queue("admin", "older-typed").items),
    "upserted": [upserted.type, upserted.prioritization_mode, len(upserted.template_variables)],
}))
"""
READ = """
import json, os, wandb
run = wandb.Api().run(os.environ["RUN"])
print(json.dumps({
    "name": run.name,
    "history": [row["lr"] for row in run.scan_history()],
    "used": [artifact.name for artifact in run.used_artifacts()],
}))
"""
# A scheduler of sweeps makes runs in this way, before they are started.
PENDING = """
import json
from wandb.sdk.internal.internal_api import Api
run, inserted, messages = Api().upsert_run(name="later", entity="admin", project="older", state="pending")
print(json.dumps([run["name"], inserted, messages]))
"""
DOWNLOAD = """
import json, os, wandb
from pathlib import Path
folder = Path(os.environ["FOLDER"])
for source in os.environ["SOURCES"].split():
    wandb.Api().artifact(source).download(folder)
print(json.dumps({str(file.relative_to(folder)): file.read_text() for file in folder.rglob("*") if file.is_file()}))
"""
UNUSED = {"ProjectDetails", "ProjectRuns", "RunInfo", "RunUploadUrls", "CreateArtifactType", "GetArtifactFiles"}
"""What no command or public method sends to a server that has our features."""
COMPOSED = {"Viewer", "UpsertBucket", "CreateArtifactFiles"}
"""Templates, to be filled when the schema has been looked at. Other tests see them filled."""


@pytest.fixture
async def wire(server: LiveServer) -> AsyncIterator[Wire]:
    """The server, with a look at what it is asked."""
    async with recording(server) as between:
        yield between


@pytest.fixture(scope="module")
def newest(server: LiveServer) -> LiveServer:
    """The same server, for the newest client."""
    return replace(server, client=NEWEST_CLIENT, warm={})


@pytest.fixture(scope="module")
def job(newest: LiveServer, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A job of code, made by the newest client."""
    code = tmp_path_factory.mktemp("code")
    (code / "train.py").write_text("import wandb\nwith wandb.init() as run:\n    run.log({'lr': run.config['lr']})\n")
    (code / "requirements.txt").write_text("wandb\n")
    run(newest, "wandb", "job", "create", "code", str(code), "-p", PROJECT, "-n", "train", "-E", "python train.py")
    return f"admin/{PROJECT}/train:latest"


async def test_its_probes_find_what_they_look_for(server: LiveServer, wire: Wire) -> None:
    found = await wire.script(server, PROBES)
    assert {"filePaths", "message", "runQueueItemId", "stage"} <= set(found.pop("why"))
    assert {"agentConfig", "version"} <= set(found.pop("agent"))
    assert found == {
        "key": True,
        "agents": {"name": "LaunchAgent"},
        "queues, configs, priorities": [True, True, True],
        "upsert": True,
        "configs": True,
        "variables, priorities": [True, True],
        "failing": True,
        "versions": {
            "cliVersionInfo": {"min_cli_version": VERSION, "max_cli_version": "0.31.999"},
            "latestLocalVersionInfo": None,
        },
    }
    assert wire.names[0] == "", "a key is verified by a document without a name"
    assert {
        "LaunchAgentIntrospection",
        "ProbeServerCapabilities",
        "ProbeCreateRunQueueInput",
        "ProbePushToRunQueueInput",
        "ProbeServerFailRunQueueItemInput",
        "ProbeServerCreateLaunchAgentInput",
    } <= set(wire.names)


async def test_it_makes_queues_with_priorities_and_variables_and_pushes_to_them(server: LiveServer, wire: Wire) -> None:
    found = await wire.script(server, QUEUES)
    assert {"createRunQueue", "createDefaultResourceConfig", "upsertRunQueue"} <= set(wire.names)
    pushed = wire.variables("pushToRunQueueByName")
    assert (pushed["priority"], json.loads(pushed["templateVariableValues"])) == (1, {"gpus": 4})
    assert (found["state"], found["left"]) == ("pending", 1)
    assert "Template variable 'gpus' is 9, but at most 8 is allowed." in found["refused"]
    assert found["upserted"] == ["local-process", "V0", 1]
    queued = await asyncio.to_thread(item, server, found["item"])
    assert queued["priority"] == 1
    assert queued["runSpec"]["resource_args"] == {"local-process": {"gpus": 4}}


async def test_its_agent_runs_a_job_and_says_why_another_one_failed(
    server: LiveServer, newest: LiveServer, wire: Wire, job: str, tmp_path: Path
) -> None:
    def serve() -> list[dict[str, Any]]:
        processes.make_queue(server, "older-agent")
        lost = {"job": f"admin/{PROJECT}/no-such-job:latest", "project": PROJECT, "entity": "admin"}
        missing = processes.push_as_it_is(server, "older-agent", lost)
        config = json.dumps({"overrides": {"run_config": {"lr": 0.25}}})
        launch = ("launch", "-q", "older-agent", "-j", job, "-p", PROJECT, "--name", "first", "-c", config)
        run(newest, "wandb", *launch)
        queued = next(queue for queue in status(server)["queues"] if queue["name"] == "older-agent")["items"]
        pushed = next(found["id"] for found in queued if found["id"] != missing)
        command = [str(server.client / "wandb"), "launch-agent", "-q", "older-agent", "-j", "3"]
        path = f"{server.client}:{server.environment()['PATH']}"
        with background(server, command, tmp_path / "agent.log", WANDB_BASE_URL=wire.url, PATH=path):
            return [wait_for(server, found, "FINISHED", "FAILED") for found in (pushed, missing)]

    done, failed = await asyncio.to_thread(serve)
    assert done["state"] == "FINISHED", (tmp_path / "agent.log").read_text()
    assert await wire.script(server, READ, RUN=f"admin/{PROJECT}/{done['associatedRunId']}") == {
        "name": "first",
        "history": [0.25],
        "used": ["train:v0"],
    }
    registered = wire.variables("createLaunchAgent")
    assert (registered["version"], json.loads(registered["agentConfig"])["max_jobs"]) == (f"wandb@{VERSION}", 3)
    assert failed["state"] == "FAILED"
    assert "no-such-job" in failed["error"]["message"]
    assert (failed["error"]["stage"], len(failed["error"]["filePaths"])) == ("agent", 1)
    assert set(wire.variables("failRunQueueItem")) == {"runQueueItemId", "message", "stage", "filePaths"}


@pytest.mark.parametrize(
    ("has_features", "expected"),
    [
        pytest.param(True, ["ArtifactMembershipByName", "GetArtifactMembershipFileUrls"], id="by membership"),
        pytest.param(False, ["ArtifactByName", "GetArtifactFileUrls"], id="by artifact"),
    ],
)
async def test_it_fetches_code_as_the_init_container_of_a_kubernetes_job_does(
    server: LiveServer, newest: LiveServer, job: str, tmp_path: Path, has_features: bool, expected: list[str]
) -> None:
    listing = (
        f"import wandb\nfor found in wandb.Api().artifact_collections('admin/{PROJECT}', 'code'): print(found.name)"
    )
    code = (await asyncio.to_thread(newest.run_script, listing)).stdout.split()
    assert len(code) == 1
    folders = {"FOLDER": str(tmp_path / "code"), "WANDB_CACHE_DIR": str(tmp_path / "cache")}
    async with recording(server, has_features=has_features) as wire:
        found = await wire.script(server, DOWNLOAD, SOURCES=f"admin/{PROJECT}/{code[0]}:v0 {job}", **folders)
    assert set(found) == {"train.py", "requirements.txt", "wandb-job.json", "requirements.frozen.txt"}
    assert "run.log" in found["train.py"]
    assert {"", "FetchArtifactManifest", *expected} <= set(wire.names)


async def test_a_run_can_be_made_before_it_starts(server: LiveServer, wire: Wire) -> None:
    assert await wire.script(server, PENDING) == ["later", True, []]


@older_client_is_made
def test_its_documents_are_valid() -> None:
    package = OLDER_CLIENT.parent / Path(sysconfig.get_path("purelib")).relative_to(NEWEST_CLIENT.parent) / "wandb"
    documents = {key: document for key, document in documents_of(package).items() if not key.startswith("automations/")}
    assert len(documents) > 150
    schema = load_schema(ALL_RESOLVERS)
    wrong = {key.partition(":")[2] for key, document in documents.items() if validate(schema, document)}
    assert wrong == UNUSED | COMPOSED
