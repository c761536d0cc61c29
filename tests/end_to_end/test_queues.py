"""The stock client makes queues, pushes to them, and reads back what has become of it; the stock agent serves them."""

import json
import subprocess
from collections.abc import Mapping
from typing import Any

import pytest

from tests.end_to_end import processes
from tests.end_to_end.conftest import LiveServer
from tests.end_to_end.snippets.checks import shows

pytestmark = pytest.mark.end_to_end

COMMAND_SECONDS = 240


def _said(done: subprocess.CompletedProcess[str]) -> Any:
    """Return the JSON that a script printed last."""
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


def _launch(server: LiveServer, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        server.command("wandb", "launch", "-e", "admin", *arguments),
        env=server.environment(),
        cwd=server.folder,
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )


def _make_queue(server: LiveServer, name: str, **more: Any) -> None:
    code = f"""
import wandb
wandb.Api().create_run_queue(entity="admin", name={name!r}, type="local-process", **{more!r})
"""
    done = server.run_script(code)
    assert done.returncode == 0, done.stderr


def _item_of(done: subprocess.CompletedProcess[str], server: LiveServer, queue: str) -> Mapping[str, Any]:
    """Return the queue's newest item, as the stock client sees it."""
    assert done.returncode == 0, done.stdout + done.stderr
    code = f"""
import json, wandb
queue = wandb.Api().run_queue("admin", {queue!r})
print(json.dumps([{{"id": item.id, "state": item.state}} for item in queue.items][0]))
"""
    return _said(server.run_script(code))


@shows(
    "Api.create_run_queue",
    "Api.upsert_run_queue",
    "Api.run_queue",
    "RunQueue.type",
    "RunQueue.access",
    "RunQueue.prioritization_mode",
    "RunQueue.default_resource_config",
    "RunQueue.template_variables",
    "RunQueue.external_links",
    "RunQueue.items",
    "RunQueue.delete",
    "RunQueue.id",
    "RunQueue.create",
    "RunQueue.name",
    "RunQueue.entity",
)
def test_a_queue_is_made_read_changed_and_deleted(server: LiveServer) -> None:
    code = """
import json, wandb
api = wandb.Api()
config = {"env": ["CPU={{cpu}}"], "cpus": "{{cpu}}"}
variables = {"cpu": {"schema": {"type": "integer", "default": 2, "minimum": 1, "maximum": 8}}}
api.create_run_queue(
    entity="admin", name="made", type="local-container", config=config, template_variables=variables,
    prioritization_mode="V0",
)
queue = api.run_queue("admin", "made")
def look(queue):
    return [queue.type, queue.access, queue.prioritization_mode, queue.default_resource_config,
            queue.template_variables, queue.external_links, len(queue.items)]
seen = [look(queue)]
api.upsert_run_queue(
    entity="admin", name="made", resource_type="local-process", resource_config={},
    external_links={"docs": "https://docs.test"},
)
queue = wandb.Api().run_queue("admin", "made")
seen.append(look(queue))
queue.delete()
try:
    wandb.Api().run_queue("admin", "made").id
    seen.append("still there")
except Exception:
    seen.append("gone")
queue = wandb.apis.public.RunQueue.create("made", "local-process", entity="admin")
seen.append([queue.name, queue.entity, wandb.Api().run_queue("admin", "made").type])
queue.delete()
print(json.dumps(seen))
"""
    made, changed, end, again = _said(server.run_script(code))
    schema = '{"type":"integer","default":2,"minimum":1,"maximum":8}'
    assert made == [
        "local-container",
        "PROJECT",
        "V0",
        {"resource_args": {"local-container": {"env": ["CPU={{cpu}}"], "cpus": "{{cpu}}"}}},
        [{"name": "cpu", "schema": schema}],
        {"links": []},
        0,
    ]
    assert changed[0] == "local-process"
    assert changed[2] == "DISABLED"
    assert changed[4] == []
    assert changed[5] == {"links": [{"label": "docs", "url": "https://docs.test"}]}
    assert (end, again) == ("gone", ["made", "admin", "local-process"])


def test_launch_with_a_template_value_is_queued_complete_and_once(server: LiveServer) -> None:
    variables = {"cpu": {"schema": {"type": "integer", "default": 2, "maximum": 8}}}
    code = f"""
import wandb
wandb.Api().create_run_queue(
    entity="admin", name="vars", type="local-container", config={{"cpus": "{{{{cpu}}}}"}},
    template_variables={variables!r},
)
"""
    assert server.run_script(code).returncode == 0
    done = _launch(server, "-p", "p", "-q", "vars", "-d", "busybox", "--set-var", "cpu=4")
    item = _item_of(done, server, "vars")
    assert item["state"] == "pending"
    code = """
import json, wandb
queue = wandb.Api().run_queue("admin", "vars")
print(json.dumps(len(queue.items)))
"""
    assert _said(server.run_script(code)) == 1
    assert "'cpus': 4" in done.stdout + done.stderr or '"cpus": 4' in done.stdout + done.stderr


def test_a_priority_needs_a_queue_that_has_them(server: LiveServer) -> None:
    _make_queue(server, "flat")
    done = _launch(server, "-p", "p", "-q", "flat", "-d", "busybox", "--priority", "high")
    assert done.returncode != 0
    assert "Error adding run to queue" in done.stdout + done.stderr


@pytest.fixture
def scheduler_queue(server: LiveServer) -> str:
    """A queue with one item that the stock agent can run without any job: a scheduler's placeholder."""
    _make_queue(server, "agents")
    return "agents"


@pytest.mark.newest_client("test_older_client has that of the older one")
def test_the_stock_agent_takes_an_item_and_its_run_leads_back(server: LiveServer, scheduler_queue: str) -> None:
    train = server.folder / "launched.py"
    train.write_text("import wandb\nwith wandb.init() as run:\n    run.log({'loss': 1})\n")
    more = {"name": "shown", "resource": "local-process", "docker": {}, "git": {}}
    item = processes.push(server, scheduler_queue, processes.spec([server.python, str(train)], "stock-agent", **more))
    with (server.folder / "agent.log").open("wb") as log:
        agent = subprocess.Popen(
            [str(server.client / "wandb"), "launch-agent", "-e", "admin", "-q", scheduler_queue, "-j", "1"],
            env=server.environment(),
            cwd=server.folder,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        state, run = _wait_for_end(server, scheduler_queue, item)
    finally:
        agent.terminate()
        agent.wait(COMMAND_SECONDS)
    assert state == "finished", (server.folder / "agent.log").read_text()
    assert run["name"] == "shown"
    assert run["loss"] == 1


def _wait_for_end(server: LiveServer, queue: str, item: str) -> tuple[str, Mapping[str, Any]]:
    look = f"""
import json, wandb
queued = wandb.Api().queued_run("admin", "stock-agent", {queue!r}, {item!r}, project_queue="model-registry")
state = queued.state
shown = {{}}
if state not in ("pending", "leased", "claimed", "failed"):
    run = queued.wait_until_running()
    shown = {{"name": run.name, "loss": run.summary.get("loss")}}
print(json.dumps([state, shown]))
"""
    processes.wait_for(server, item, "FINISHED", "FAILED", "CRASHED", "KILLED")
    state, run = _said(server.run_script(look))
    return state, run
