"""Agents and commands as separate processes, for tests of the launch path."""

import base64
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from launchbay.items import ITEM_FIELDS
from tests.end_to_end.conftest import LiveServer

BIN = Path(sys.executable).parent
WAIT_SECONDS = 240.0

# Jobs without code: the entry point is all there is. They use the Python that runs the tests, which has `wandb`.
INIT_AND_LOG = "import wandb\nwith wandb.init() as run: run.log({'value': run.config.get('value', 1)})"


def python(code: str) -> list[str]:
    """Return an entry point that runs some Python."""
    return [sys.executable, "-c", code]


def spec(entry_point: list[str], project: str, **more: Any) -> dict[str, Any]:
    """Return a launch spec of a job without code."""
    overrides = {"entry_point": entry_point, **more.pop("overrides", {})}
    return {"entity": "admin", "project": project, "uri": "placeholder-test", "overrides": overrides, **more}


def run(server: LiveServer, *command: str, check: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command (`launchbay`, or the client's `wandb`) as the server's first user."""
    done = subprocess.run(
        server.command(*command),
        env=server.environment(**env),
        cwd=server.folder,
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=False,
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def ask(server: LiveServer, query: str, **variables: Any) -> Any:
    """Ask the server itself: tests wait much, and commands that do nothing but look would keep the machine busy."""
    key = base64.b64encode(f"api:{server.api_key}".encode()).decode()
    request = urllib.request.Request(
        f"{server.base_url}/graphql",
        json.dumps({"query": query, "variables": variables}).encode(),
        {"Authorization": f"Basic {key}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=WAIT_SECONDS) as answer:
        return json.load(answer)["data"]


def make_queue(server: LiveServer, name: str) -> None:
    """Make a local-process queue."""
    ask(
        server,
        """mutation($name: String!) { upsertRunQueue(input: {
             entityName: "admin", projectName: "model-registry", queueName: $name, resourceType: "local-process",
             resourceConfig: "{\\"resource_args\\": {\\"local-process\\": {}}}"
           }) { success } }""",
        name=name,
    )


def push(server: LiveServer, queue: str, launch_spec: dict[str, Any], *arguments: str) -> str:
    """Push a launch spec; returns the item's id."""
    text = json.dumps(launch_spec)
    return json.loads(run(server, "launchbay", "launch", "-q", queue, "-c", text, "--json", *arguments).stdout)["id"]


def push_as_it_is(server: LiveServer, queue: str, launch_spec: dict[str, Any]) -> str:
    """Push a launch spec without our command, which looks at it first; returns the item's id."""
    pushed = ask(
        server,
        """mutation($queue: String!, $spec: JSONString!) { pushToRunQueueByName(input: {
             entityName: "admin", projectName: "model-registry", queueName: $queue, runSpec: $spec
           }) { runQueueItemId } }""",
        queue=queue,
        spec=json.dumps(launch_spec),
    )
    return pushed["pushToRunQueueByName"]["runQueueItemId"]


def item(server: LiveServer, item_id: str) -> dict[str, Any]:
    """Return an item with all that commands tell of it."""
    return ask(server, f"query($id: ID!) {{ runQueueItem(id: $id) {{ {ITEM_FIELDS} }} }}", id=item_id)["runQueueItem"]


def status(server: LiveServer, *arguments: str) -> dict[str, Any]:
    """Return what `launchbay status` tells."""
    return json.loads(run(server, "launchbay", "status", "--json", *arguments).stdout)


def states(server: LiveServer, queue: str) -> set[str]:
    """Return the states of the items of a queue."""
    listed = status(server)["queues"]
    return {item["state"] for each in listed if each["name"] == queue for item in each["items"]}


def sweep_state(server: LiveServer, project: str, sweep: str) -> str:
    """Return the state of a sweep."""
    query = """query($project: String!, $sweep: String!) {
      project(name: $project, entityName: "admin") { sweep(sweepName: $sweep) { state } }
    }"""
    return ask(server, query, project=project, sweep=sweep)["project"]["sweep"]["state"]


def wait_for(server: LiveServer, item_id: str, *states: str) -> dict[str, Any]:
    """Wait until an item is in one of these states."""
    return until(lambda: (found := item(server, item_id))["state"] in states and found, f"{item_id} to be {states}")


def logs(server: LiveServer, item_id: str, *arguments: str) -> str:
    """Return what `launchbay logs` prints of an item."""
    return run(server, "launchbay", "logs", item_id, *arguments).stdout


def until(check: Callable[[], Any], what: str, seconds: float = WAIT_SECONDS) -> Any:
    """Return the first true value of a check."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := check():
            return found
        time.sleep(0.1)
    raise AssertionError(f"waited too long for {what}")


@contextmanager
def agent(
    server: LiveServer, queue: str, state_dir: Path, *arguments: str, **env: str
) -> Generator[subprocess.Popen[bytes]]:
    """Run an agent while the block runs; then ask it to end."""
    command = [str(BIN / "launchbay"), "agent", "-q", queue, "-j", "4", "--state-dir", str(state_dir), *arguments]
    with background(server, command, state_dir.with_suffix(".log"), **env) as process:
        yield process


@contextmanager
def background(server: LiveServer, command: list[str], log: Path, **env: str) -> Generator[subprocess.Popen[bytes]]:
    """Run a process in the background while the block runs; its output goes to a file."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            env=server.environment(**env),
            cwd=server.folder,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
