"""Agents are told to stop from the command line: ours and the stock one."""

from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.conftest import LiveServer
from tests.end_to_end.processes import agent, background, make_queue, push, python, run, spec, status, until, wait_for


def _agents(server: LiveServer) -> list[dict[str, Any]]:
    return status(server)["agents"]


def _fresh(server: LiveServer, known: set[str]) -> dict[str, Any]:
    return until(lambda: next((one for one in _agents(server) if one["name"] not in known), None), "an agent")


def test_our_agent_stops_when_told_and_leaves_what_runs_to_the_next(server: LiveServer, tmp_path: Path) -> None:
    make_queue(server, "told")
    known = {one["name"] for one in _agents(server)}
    with agent(server, "told", tmp_path / "state") as process:
        name = _fresh(server, known)["name"]
        item = push(server, "told", spec(python("import time; time.sleep(120)"), "told"))
        wait_for(server, item, "CLAIMED")
        shown = next(one for one in _agents(server) if one["name"] == name)
        assert (shown["agentStatus"], shown["isAlive"], shown["stopPolling"]) == ("RUNNING", True, False)
        assert f"Agent {name} is asked to stop." in run(server, "launchbay", "stop", "--agent", name).stdout
        assert process.wait(240) == 8, "a launch was left running"
    later = push(server, "told", spec(python("pass"), "told"))
    why = next(found for queue in status(server)["queues"] for found in queue["items"] if found["id"] == later)
    assert "is next" in why["waitingReason"] or "No agent serves this queue" in why["waitingReason"]


@pytest.mark.newest_client("the older one sends the same requests")
def test_the_stock_agent_stops_when_told(server: LiveServer, tmp_path: Path) -> None:
    make_queue(server, "told-stock")
    known = {one["name"] for one in _agents(server)}
    command = [str(server.client / "wandb"), "launch-agent", "-q", "told-stock", "-e", "admin"]
    with background(server, command, tmp_path / "agent.log") as process:
        name = _fresh(server, known)["name"]
        run(server, "launchbay", "stop", "--agent", name)
        assert process.wait(240) == 0, (tmp_path / "agent.log").read_text()
    assert name not in {one["name"] for one in _agents(server)}, "it has said goodbye"


def test_an_agent_that_is_not_there_is_told(server: LiveServer) -> None:
    done = run(server, "launchbay", "stop", "--agent", "nobody", check=False)
    assert done.returncode == 5
    assert "has no agent 'nobody' at work" in done.stderr
