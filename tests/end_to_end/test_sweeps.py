"""The stock client makes sweeps, runs their agents, steers them and reads them back."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.end_to_end.conftest import LiveServer
from tests.end_to_end.processes import background, make_queue, run, sweep_state, until
from tests.end_to_end.snippets.checks import shows

pytestmark = pytest.mark.end_to_end

# An agent in a process of its own. It asks more often than usual, where the client lets itself be told.
AGENT = """
import json, sys, wandb
from wandb.agents import pyagent
pyagent.Agent.HEARTBEAT_SLEEP_SECONDS = 0.2
sweep, project, count = sys.argv[1], sys.argv[2], int(sys.argv[3]) or None
seen = []
def train():
    with wandb.init() as run:
        seen.append(dict(run.config))
        run.log({"loss": run.config["a"]})
wandb.agent(sweep, train, project=project, count=count)
print(json.dumps(seen))
"""
LOOP = """
import pathlib, sys, time, wandb
from wandb.agents import pyagent
pyagent.Agent.HEARTBEAT_SLEEP_SECONDS = 0.2
def train():
    with wandb.init() as run:
        print("started", run.id, flush=True)
        while True:
            time.sleep(0.1)
wandb.agent(sys.argv[1], train, project=sys.argv[2])
print("left", flush=True)
"""
METRIC = {"name": "loss", "goal": "minimize"}


def _said(done: subprocess.CompletedProcess[str]) -> Any:
    """Return the JSON that a script printed last."""
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


def _make(server: LiveServer, project: str, config: dict[str, Any]) -> str:
    code = f"import json, wandb\nprint(json.dumps(wandb.sweep({config!r}, project={project!r})))"
    return _said(server.run_script(code))


def _read(server: LiveServer, project: str, sweep: str) -> dict[str, Any]:
    """Return what the public API tells of a sweep."""
    code = f"""
import json, wandb
api = wandb.Api()
sweep = api.sweep("admin/{project}/{sweep}")
def value(run):  # listed runs of older clients have no config
    return api.run("admin/{project}/" + run.id).config.get("a")
best = sweep.best_run()
print(json.dumps({{
    "state": sweep.state, "config": sweep.config, "name": sweep.name, "expected": sweep.expected_run_count,
    "runs": [[run.state, value(run), run.sweep_name] for run in sweep.runs],
    "best": best and value(best),
}}))
"""
    return _said(server.run_script(code))


def _state(server: LiveServer, project: str, sweep: str) -> str:
    code = f"import json, wandb\nprint(json.dumps(wandb.Api().sweep('admin/{project}/{sweep}').state))"
    return _said(server.run_script(code))


def _points(seen: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return sorted((point["a"], point["b"]) for point in seen)


@pytest.mark.newest_client("the older one sends the same requests")
def test_two_agents_side_by_side_go_through_a_grid_once(server: LiveServer) -> None:
    project = "sweep-grid"
    config = {
        "method": "grid",
        "metric": METRIC,
        "parameters": {"a": {"values": [3, 1, 2]}, "b": {"values": ["x", "y"]}},
    }
    sweep = _make(server, project, config)
    with server.started_script(AGENT, sweep, project, "0") as other:
        mine = _said(server.run_script(AGENT, sweep, project, "0"))
        output, _ = other.communicate(timeout=240)
    theirs = json.loads(output.strip().splitlines()[-1])
    assert mine
    assert theirs
    assert _points(mine + theirs) == [(a, b) for a in (1, 2, 3) for b in ("x", "y")]
    found = _read(server, project, sweep)
    assert found["state"] == "FINISHED"
    assert found["config"] == config
    assert (found["expected"], found["best"], found["name"]) == (6, 1, sweep)
    assert sorted(found["runs"]) == sorted(["finished", a, sweep] for a in (1, 1, 2, 2, 3, 3))


@pytest.mark.newest_client("the older one sends the same requests")
@pytest.mark.parametrize("method", ["random", "bayes"])
def test_an_agent_takes_as_many_runs_as_it_was_told_to(server: LiveServer, method: str) -> None:
    project = f"sweep-{method}"
    config = {"method": method, "metric": METRIC, "parameters": {"a": {"min": 0.0, "max": 1.0}}}
    sweep = _make(server, project, config)
    seen = [point["a"] for point in _said(server.run_script(AGENT, sweep, project, "3"))]
    assert len(set(seen)) == 3
    assert all(0 <= value <= 1 for value in seen)
    found = _read(server, project, sweep)
    assert (found["state"], found["expected"], found["best"]) == ("RUNNING", None, min(seen))
    assert sorted(found["runs"]) == sorted(["finished", value, sweep] for value in seen)


@pytest.mark.newest_client("the older one does the same, and waits long in between")
def test_run_cap_lets_the_agent_go(server: LiveServer) -> None:
    config = {"method": "random", "run_cap": 2, "parameters": {"a": {"min": 1, "max": 9}}}
    sweep = _make(server, "sweep-cap", config)
    assert len(_said(server.run_script(AGENT, sweep, "sweep-cap", "0"))) == 2
    assert _read(server, "sweep-cap", sweep)["state"] == "FINISHED"


def _wandb(server: LiveServer, *arguments: str, check: bool = True) -> str:
    """Run the client's command line, with its own Python first on the path; returns what it prints."""
    path = {"PATH": f"{server.client}:/usr/bin:/bin"}
    done = run(server, "wandb", *arguments, check=check, WANDB_ENTITY="admin", **path)
    return done.stdout + done.stderr


def _make_by_command(server: LiveServer, folder: Path, project: str, config: dict[str, Any], *more: str) -> str:
    file = folder / "sweep.yaml"
    file.write_text(yaml.safe_dump(config))
    said = _wandb(server, "sweep", "-p", project, *more, str(file))
    line = next(line for line in said.splitlines() if "sweep with ID:" in line)
    return line.split()[-1]


@shows("Sweep.enqueue_run")
@pytest.mark.newest_client("the older one cannot enqueue runs")
def test_the_command_lines_agent_runs_what_is_enqueued_before_what_is_searched(
    server: LiveServer, tmp_path: Path
) -> None:
    project = "sweep-enqueued"
    program = tmp_path / "train.py"
    program.write_text("import wandb\nwith wandb.init() as run: run.log({'loss': run.config['a'] * 10})\n")
    config = {"program": str(program), "method": "grid", "metric": METRIC, "parameters": {"a": {"values": [1]}}}
    sweep = _make_by_command(server, tmp_path, project, config)
    code = f"""
import json, wandb
sweep = wandb.Api().sweep("admin/{project}/{sweep}")
print(json.dumps(sweep.enqueue_run({{"a": 0.5}}, display_name="mine")))
"""
    enqueued = _said(server.run_script(code))
    _wandb(server, "agent", "--count", "1", f"admin/{project}/{sweep}")
    read = f"""
import json, wandb
runs = wandb.Api().sweep("admin/{project}/{sweep}").runs
print(json.dumps([[run.id, run.name, run.state, run.config["a"], run.summary["loss"]] for run in runs]))
"""
    assert _said(server.run_script(read)) == [[enqueued, "mine", "finished", 0.5, 5]]
    _wandb(server, "sweep", "--stop", f"admin/{project}/{sweep}")
    again = server.run_script(code)
    assert again.returncode != 0
    assert f"Sweep '{sweep}' is finished, so no agent would start the run." in again.stderr


@pytest.mark.newest_client("the older one has no such scheduler")
def test_a_local_scheduler_searches_and_agents_run_what_it_finds(server: LiveServer, tmp_path: Path) -> None:
    project = "sweep-local"
    config = {
        "method": "bayes",
        "metric": METRIC,
        "parameters": {"a": {"min": 0.0, "max": 1.0}},
        "scheduler": {"engine": "optuna"},
        "run_cap": 2,
    }
    sweep = _make_by_command(server, tmp_path, project, config)
    path = f"admin/{project}/{sweep}"
    with server.started_script(AGENT, sweep, project, "0") as agent:
        said = _wandb(server, "sweep-scheduler", "--batch-size", "2", "--poll-interval", "1", path)
        output, _ = agent.communicate(timeout=240)
    seen = [point["a"] for point in json.loads(output.strip().splitlines()[-1])]
    assert len(set(seen)) == 2
    assert "the sweep finished" in said
    assert all(f'{{"a": {value}}}' in said for value in seen)
    found = _read(server, project, sweep)
    assert (found["state"], found["best"]) == ("FINISHED", min(seen))


CONTROLLER = """
import sys, time, wandb
tuner = wandb.controller(project=sys.argv[1])
tuner.configure_search("grid")
tuner.configure_metric("loss", goal="minimize")
tuner.configure_parameter("a", values=[1, 2])
tuner.configure_controller(type="local")
print(tuner.create(), flush=True)
while not tuner.done():
    tuner.step()
    tuner.print_status()
    time.sleep(0.2)
"""


@shows("wandb.controller")
@pytest.mark.newest_client("the older one sends the same requests")
def test_a_controller_searches_and_agents_run_what_it_finds(server: LiveServer) -> None:
    project = "sweep-controller"
    with server.started_script(CONTROLLER, project) as controller:
        assert controller.stdout is not None
        line = next(line for line in controller.stdout if line.startswith("Create sweep with ID:"))
        sweep = line.split()[-1]
        seen = [point["a"] for point in _said(server.run_script(AGENT, sweep, project, "0"))]
        output, _ = controller.communicate(timeout=240)
    assert sorted(seen) == [1, 2]
    assert "Runs: 2 (Finished: 2)" in output
    assert (controller.returncode, _state(server, project, sweep)) == (0, "FINISHED")


def test_the_command_line_makes_a_sweep_and_runs_its_program(server: LiveServer, tmp_path: Path) -> None:
    project = "sweep-cli"
    program = tmp_path / "train.py"
    program.write_text(
        "import argparse, wandb\n"
        "parser = argparse.ArgumentParser()\n"
        "parser.add_argument('--a', type=int)\n"
        "given = parser.parse_args()\n"
        "with wandb.init(config=vars(given)) as run: run.log({'loss': given.a * 10})\n"
    )
    config = {
        "program": str(program),
        "command": ["${env}", "${interpreter}", "${program}", "${args}"],
        "method": "grid",
        "metric": METRIC,
        "parameters": {"a": {"values": [1, 2]}},
    }
    sweep = _make_by_command(server, tmp_path, project, config, "--name", "Named")
    _wandb(server, "agent", f"admin/{project}/{sweep}")
    found = _read(server, project, sweep)
    assert (found["state"], found["name"], found["best"]) == ("FINISHED", "Named", 1)
    assert sorted(found["runs"]) == [["finished", 1, sweep], ["finished", 2, sweep]]


@pytest.mark.newest_client("the older one sends the same requests")
def test_a_sweep_is_changed_paused_resumed_and_stopped_by_command(server: LiveServer, tmp_path: Path) -> None:
    project = "sweep-states"
    config = {"method": "grid", "parameters": {"a": {"values": [1, 2]}}}
    sweep = _make_by_command(server, tmp_path, project, config)
    path = f"admin/{project}/{sweep}"
    more = {"method": "grid", "parameters": {"a": {"values": [1, 2, 3]}}}
    assert _make_by_command(server, tmp_path, project, more, "--update", path) == sweep
    assert _read(server, project, sweep)["expected"] == 3
    assert "Cannot pause pending sweep" in _wandb(server, "sweep", "--pause", path, check=False)
    for flag, state in (("--resume", "RUNNING"), ("--pause", "PAUSED")):
        _wandb(server, "sweep", flag, path)
        assert _state(server, project, sweep) == state
    # An agent waits while the sweep is paused.
    with server.started_script(AGENT, sweep, project, "1") as agent:
        (waiting,) = until(lambda: _agents(server, project, sweep), "the agent to come")
        assert waiting[:2] == ["RUNNING", 0]
        _wandb(server, "sweep", "--resume", path)
        output, _ = agent.communicate(timeout=240)
    assert json.loads(output.strip().splitlines()[-1]) == [{"a": 1}]
    _wandb(server, "sweep", "--stop", path)
    assert _state(server, project, sweep) == "FINISHED"
    refused = _wandb(server, "sweep", "--resume", path, check=False)
    assert f"Sweep '{sweep}' is finished and cannot become running." in refused
    # An agent that comes now is sent away.
    assert _said(server.run_script(AGENT, sweep, project, "0")) == []


@pytest.mark.newest_client("the older one sends the same requests")
def test_a_canceled_sweep_stops_its_runs_and_lets_the_agent_go(server: LiveServer) -> None:
    project = "sweep-cancel"
    sweep = _make(server, project, {"method": "random", "parameters": {"a": {"min": 0.0, "max": 1.0}}})
    with server.started_script(LOOP, sweep, project) as agent:
        assert agent.stdout is not None
        name = next(line for line in agent.stdout if line.startswith("started")).split()[1]
        _wandb(server, "sweep", "--cancel", f"admin/{project}/{sweep}")
        output, _ = agent.communicate(timeout=240)
    assert "left" in output
    code = f"import json, wandb\nprint(json.dumps(wandb.Api().run('admin/{project}/{name}').state))"
    assert _said(server.run_script(code)) == "killed"
    assert _state(server, project, sweep) == "CANCELED"


@pytest.mark.newest_client("the older one cannot list the agents of a sweep")
def test_an_agent_leaves_when_its_sweep_is_deleted(server: LiveServer) -> None:
    project = "sweep-deleted"
    sweep = _make(server, project, {"method": "grid", "parameters": {"a": {"values": [1]}}})
    _wandb(server, "sweep", "--resume", f"admin/{project}/{sweep}")
    _wandb(server, "sweep", "--pause", f"admin/{project}/{sweep}")
    delete = f"""
import wandb
sweep = wandb.Api().sweep("admin/{project}/{sweep}")
document = "mutation($id: ID!) {{ deleteSweep(input: {{id: $id}}) {{ success }} }}"
wandb.Api()._service_api.execute_graphql(document, {{"id": sweep._attrs["id"]}})
"""
    with server.started_script(AGENT, sweep, project, "0") as agent:
        until(lambda: _agents(server, project, sweep), "the agent to come")
        assert server.run_script(delete).returncode == 0
        output, _ = agent.communicate(timeout=240)
    assert json.loads(output.strip().splitlines()[-1]) == []


def _agents(server: LiveServer, project: str, sweep: str) -> list[Any]:
    code = f"""
import json, wandb
sweep = wandb.Api().sweep("admin/{project}/{sweep}")
print(json.dumps([
    [agent.state, agent.totalRuns, [run.name for run in agent.runs()], sweep.agent(agent.id).name == agent.name]
    for agent in sweep.agents()
]))
"""
    return _said(server.run_script(code))


@shows("Project.sweeps", "Sweep.agents", "Sweep.agent", "Agent.runs")
@pytest.mark.both_engines
@pytest.mark.newest_client("the older one cannot list the agents of a sweep")
def test_sweeps_are_listed_and_have_agents_with_their_runs(server: LiveServer) -> None:
    project = "sweep-list"
    config = {"method": "grid", "metric": METRIC, "parameters": {"a": {"values": [5]}}}
    first, second = (_make(server, project, {**config, "description": text}) for text in ("one", "two"))
    _said(server.run_script(AGENT, first, project, "1"))
    code = f"""
import json, wandb
api = wandb.Api()
def names(**more):
    return [sweep.id for sweep in api.project("{project}", "admin").sweeps(**more)]
print(json.dumps([names(), names(filters={{"description": "two"}}), names(per_page=1)]))
"""
    assert _said(server.run_script(code)) == [[second, first], [second], [second, first]]
    ((state, total, runs, same),) = _agents(server, project, first)
    assert (state, total, len(runs), same) == ("RUNNING", 1, 1, True)
    assert _agents(server, project, second) == []


def test_a_config_that_cannot_work_is_refused_in_the_servers_words(server: LiveServer) -> None:
    config = {"method": "grid", "parameters": {"a": {"min": 0.0, "max": 1.0}}}
    done = server.run_script(f"import wandb\nwandb.sweep({config!r}, project='sweep-bad')")
    assert done.returncode != 0
    assert "no grid can go through them" in done.stderr


@pytest.mark.newest_client("the older one's launch agent leaves the quotes of the scheduler's arguments")
def test_a_sweep_on_launch_is_scheduled_and_run_by_the_stock_agent(server: LiveServer, tmp_path: Path) -> None:
    project, queue = "launch-sweep", "launch-sweep"
    make_queue(server, queue)
    code = tmp_path / "code"
    code.mkdir()
    (code / "main.py").write_text("import wandb\nwith wandb.init() as run: run.log({'loss': run.config['a'] * 10})\n")
    (code / "requirements.txt").write_text("")
    entry = f"{sys.executable} main.py"
    _wandb(server, "job", "create", "code", str(code), "-p", project, "-e", "admin", "-n", "train", "-E", entry)
    config = {
        "job": f"admin/{project}/train:latest",
        "method": "grid",
        "metric": METRIC,
        "parameters": {"a": {"values": [1, 2]}},
        "scheduler": {"num_workers": 2},
    }
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump(config))
    said = _wandb(server, "launch-sweep", str(file), "-q", queue, "-p", project, "-e", "admin")
    sweep = next(line for line in said.splitlines() if "Created sweep with ID:" in line).split()[-1]
    assert _state(server, project, sweep) == "PENDING"
    command = [str(server.client / "wandb"), "launch-agent", "-q", queue, "-e", "admin", "-j", "4"]
    log = tmp_path / "agent.log"
    with background(server, command, log, PATH=f"{server.client}:/usr/bin:/bin"):
        try:
            until(lambda: sweep_state(server, project, sweep) == "FINISHED", "the sweep to finish")
        except AssertionError as error:
            raise AssertionError(log.read_text()) from error
        found = _read(server, project, sweep)
        assert sorted(found["runs"]) == [["finished", 1, sweep], ["finished", 2, sweep]]
        assert found["best"] == 1
        code_of_state = f"import json, wandb\nprint(json.dumps(wandb.Api().run('admin/{project}/{sweep}').state))"
        until(lambda: _said(server.run_script(code_of_state)) == "finished", "the scheduler to end")
