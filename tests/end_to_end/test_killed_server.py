"""A server that is killed while runs log loses nothing that it has acknowledged, and takes nothing in twice.

`tests/server/test_killed_server.py` kills it at many more moments; here the clients are the stock ones.
"""

import json
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.end_to_end.conftest import LiveServer
from tests.end_to_end.processes import ask, until
from tests.end_to_end.test_outage import free_port, serving

pytestmark = pytest.mark.end_to_end

RUNS = 10
KILLS = 2
LOG = f"""
import json, time, wandb
from pathlib import Path
waits = {{
    f"x_{{what}}_retry_wait_{{which}}_seconds": seconds
    for what in ("file_stream", "file_transfer", "graphql")
    for which, seconds in (("min", 0.2), ("max", 1))
}}  # else the client waits for much longer than the server is away
settings = wandb.Settings(x_file_stream_transmit_interval=0.3, reinit="create_new", **waits)
runs = [wandb.init(entity="admin", project="killed", id=f"r{{n}}", settings=settings) for n in range({RUNS})]
step = 0
while not Path("stop").exists():
    for run in runs:
        run.log({{"value": step}})
    step += 1
    time.sleep(0.05)
for run in runs:
    run.finish()
print(json.dumps(step))
"""
LINES = """{ project(name: "killed", entityName: "admin") { runs { edges { node { state historyLineCount
  history(minStep: 0, maxStep: 1000000000) } } } } }"""


def fewest_lines(server: LiveServer) -> int:
    """Return how many rows each run has at least; 0 as long as the server does not answer."""
    try:
        project = ask(server, LINES.replace("history(minStep: 0, maxStep: 1000000000)", ""))["project"]
    except OSError:
        return 0
    lines = [edge["node"]["historyLineCount"] for edge in project["runs"]["edges"]] if project else []
    return min(lines) if len(lines) == RUNS else 0


def more_lines(server: LiveServer, known: int) -> int:
    """Return how many rows each run has at least, if these are more than are known; else 0."""
    lines = fewest_lines(server)
    return lines if lines > known else 0


def test_every_row_is_there_once_though_the_server_was_killed(tmp_path: Path) -> None:
    data_dir, client, port = tmp_path / "data", tmp_path / "client", free_port()
    client.mkdir()
    with ExitStack() as stack:
        with serving(data_dir, port):
            until((data_dir / "admin-api-key").exists, "the server to make its first user")
            key = (data_dir / "admin-api-key").read_text().strip()
            server = LiveServer(f"http://127.0.0.1:{port}", key, client)
            process = stack.enter_context(server.started_script(LOG))
            lines = until(lambda: fewest_lines(server), "all runs to log")
        for _ in range(KILLS - 1):
            with serving(data_dir, port):
                lines = until(lambda known=lines: more_lines(server, known), "all runs to go on")
        stack.enter_context(serving(data_dir, port))
        until(lambda: more_lines(server, lines), "all runs to go on")
        (client / "stop").touch()
        output, _ = process.communicate(timeout=240)
        steps = json.loads(output.splitlines()[-1])
        for edge in ask(server, LINES)["project"]["runs"]["edges"]:
            assert edge["node"]["state"] == "finished"
            assert [json.loads(row)["value"] for row in edge["node"]["history"]] == list(range(steps))
