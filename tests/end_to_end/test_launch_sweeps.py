"""`wandb launch-sweep` and our agent: the scheduler runs beside the jobs, and the jobs one after the other."""

import json
from pathlib import Path
from typing import Any

import yaml

from tests.end_to_end.conftest import LiveServer
from tests.end_to_end.processes import agent, make_queue, run, states, sweep_state, until

TRAIN = "import wandb\nwith wandb.init() as run: run.log({'loss': run.config['a'] * 10})\n"
READ = """
import json, sys, wandb
api = wandb.Api()
sweep = api.sweep(sys.argv[1])
# Each one anew: in a list, older clients leave the config out.
runs = sorted((api.run("/".join(run.path)).config["a"], run.state) for run in sweep.runs)
print(json.dumps({"state": sweep.state, "runs": runs}))
"""


def _read(server: LiveServer, path: str) -> dict[str, Any]:
    return json.loads(server.run_script(READ, path).stdout.splitlines()[-1])


def test_a_sweep_goes_through_its_grid_with_room_for_one_job(server: LiveServer, tmp_path: Path) -> None:
    project = queue = "sweep-ours"
    make_queue(server, queue)
    code = tmp_path / "code"
    code.mkdir()
    (code / "main.py").write_text(TRAIN)
    (code / "requirements.txt").write_text("")
    entry = f"{server.python} main.py"
    run(server, "wandb", "job", "create", "code", str(code), "-p", project, "-e", "admin", "-n", "train", "-E", entry)
    config = {
        "job": f"admin/{project}/train:latest",
        "method": "grid",
        "metric": {"name": "loss", "goal": "minimize"},
        "parameters": {"a": {"values": [1, 2, 3]}},
        "scheduler": {"num_workers": 2},
    }
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(config))
    said = run(server, "wandb", "launch-sweep", str(tmp_path / "sweep.yaml"), "-q", queue, "-p", project, "-e", "admin")
    name = next(line for line in (said.stdout + said.stderr).splitlines() if "Created sweep with ID:" in line).split()[
        -1
    ]
    with agent(server, queue, tmp_path / "agent", "-j", "1"):
        try:
            until(lambda: sweep_state(server, project, name) == "FINISHED", "the sweep to finish")
        except AssertionError as error:
            raise AssertionError((tmp_path / "agent.log").read_text()) from error
        found = _read(server, f"admin/{project}/{name}")
        assert found["state"] == "FINISHED"
        assert found["runs"] == [[1, "finished"], [2, "finished"], [3, "finished"]]
        # The scheduler ends by itself, as long as there is a server.
        until(lambda: {"RUNNING", "CLAIMED"}.isdisjoint(states(server, queue)), "the scheduler to end")
