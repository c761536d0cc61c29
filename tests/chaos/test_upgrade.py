"""A journal that an earlier version has written is read by this one, and so will be this one's by the next.

A change of the journal's format brings a new sample here, and leaves the old ones alone.
"""

import asyncio
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from agent.launch import Launch
from agent.operations import acknowledge, pop, queue_ids, register
from backends.base import StartRequest
from tests.chaos.scene import QUEUE, Machine, Scene
from tests.chaos.stories import PLAIN

SAMPLES = sorted(Path(__file__).parent.glob("journal-*.json"))


@pytest.mark.parametrize("added", [{}, {"of_a_later_version": [1]}], ids=["as it was", "after a downgrade"])
@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
@pytest.mark.parametrize("stage", ["started", "ended"])
async def test_launches_of_an_earlier_version_are_adopted(
    scene: Scene, sample: Path, stage: str, added: dict[str, Any]
) -> None:
    content = json.loads(sample.read_text())
    row = {**content["rows"][stage], **added}
    machine = scene.machine()
    await _claim(scene, row)
    _run(machine, row)
    _write_journal(machine, content["schema"], [scene.server.base_url, "admin", row["agent_id"], "agent"], row)
    await asyncio.sleep(0.05)  # by now the job has ended
    machine.start()
    await scene.over()
    scene.check()


async def _claim(scene: Scene, row: dict[str, Any]) -> None:
    """Have the server know what it knew when the journal was written: the claim."""
    queues = await queue_ids(scene.control, "admin")
    agent_id = await register(
        scene.control, entity="admin", queues=[queues[QUEUE]], hostname="host", config={}, version="launchbay@sample"
    )
    item = await scene.push(PLAIN)
    assert (agent_id, item) == (row["agent_id"], row["item_id"]), "the first ones of a server"
    await pop(scene.control, entity="admin", queue=QUEUE, agent_id=agent_id, wait=0)
    launch = Launch(item, row["attempt"], QUEUE, {}, row["run_id"])
    assert await acknowledge(scene.control, launch, agent_id, is_launchbay=True)


def _run(machine: Machine, row: dict[str, Any]) -> None:
    """Have the platform run what it ran."""
    labels = {"item": row["item_id"], "attempt": str(row["attempt"]), "gpus": ""}
    assert machine.platform.start(StartRequest(row["handle"], [], {}, labels=labels)) == row["handle"]


def _write_journal(machine: Machine, schema: list[str], identity: list[str], row: dict[str, Any]) -> None:
    machine.folder.mkdir()
    with closing(sqlite3.connect(machine.folder / "journal.db", isolation_level=None)) as journal:
        for statement in schema:
            journal.execute(statement)
        journal.execute("INSERT INTO identity VALUES (?, ?, ?, ?)", identity)
        journal.execute("INSERT INTO held VALUES (?, ?)", (row["item_id"], json.dumps(row).encode()))
