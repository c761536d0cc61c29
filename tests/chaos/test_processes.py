"""Agents as processes, killed by SIGKILL at swept moments while they run jobs as local processes.

The event log is what the jobs themselves have written, and every state that the server's database has seen.
"""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import psutil
import pytest
import yaml

from agent.control_plane import ControlPlane
from protocol.names import launch_name
from tests.chaos.evidence import attempts, violations
from tests.chaos.records import Records
from tests.chaos.stories import RETRIES
from tests.chaos.village import PATIENCE_SECONDS, Village, village

LIVES = 100
LONGEST_LIFE_SECONDS = 0.3
LONGEST_JOB_SECONDS = 0.1
GOLDEN = 0.6180339887498949
"""Multiples of it, less their whole part, cover the range evenly however many there are."""
CODE, AGAIN = 7, 75
"""Exit codes of jobs; the second one is tried again."""

_QUEUE = """mutation Queue { upsertRunQueue(input: {
  entityName: "admin", projectName: "model-registry", queueName: "q", resourceType: "local-process",
  resourceConfig: "{\\"resource_args\\": {\\"local-process\\": {}}}"
}) { success } }"""
_PUSH = """mutation Push($spec: JSONString!) { pushToRunQueueByName(input: {
  entityName: "admin", projectName: "model-registry", queueName: "q", runSpec: $spec
}) { runQueueItemId } }"""


@dataclass
class Scene:
    """A village with a queue, and what was pushed to it."""

    village: Village
    control: ControlPlane
    records: Records
    random: Random = field(default_factory=lambda: Random(1))
    exit_codes: dict[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])
    """By item, those of its attempts."""
    bereft: set[str] = field(default_factory=set[str])
    """Items that have lost their keeper, and with it their exit code."""

    async def push(self, *exit_codes: int) -> str:
        """Push a job whose attempts exit with these codes; returns its item."""
        entry_point = self.village.job(self.random.random() * LONGEST_JOB_SECONDS, *exit_codes)
        spec = {
            "entity": "admin",
            "project": "p",
            "uri": "placeholder",
            "resource": "local-process",
            "overrides": {"entry_point": entry_point},
        }
        pushed = await self.control.persist(lambda: self.control.ask(_PUSH, spec=json.dumps(spec)), doing="pushing")
        item = pushed["pushToRunQueueByName"]["runQueueItemId"]
        self.exit_codes[item] = exit_codes
        return item

    def kill_keeper(self) -> None:
        """Kill a keeper, if there is one. A job that loses its keeper has no exit code."""
        keepers = self.village.keepers()
        if not keepers:
            return
        with suppress(psutil.NoSuchProcess):
            names = self.village.kill_keeper(self.random.choice(keepers))
            self.bereft |= {item for item in self.exit_codes if launch_name(item, 1) in names}

    async def begun(self, item: str) -> None:
        """Wait until a job has begun."""
        await self._until(lambda: not attempts(self.village.happened(), item))

    async def over(self) -> None:
        """Let a last agent live until everything is over, and check what has happened."""
        self.village.start_agent()
        await self._until(lambda: [*self.records.unfinished().items(), *self.village.leftovers()])
        self.village.end_agent()
        happened = self.village.happened()
        wrong = violations([*happened, *self.records.events()])
        for item, codes in self.exit_codes.items():
            code, begun = self.records.exit_code(item), attempts(happened, item)
            if code != codes[-1] and not (code is None and item in self.bereft):
                wrong.append(f"item {item}: its exit code is {code}, not {codes[-1]}")
            if len(begun) != len(codes) and not (begun == [] and item in self.bereft):
                wrong.append(f"item {item}: attempts {begun} have begun, and not {len(codes)}")
        wrong += [*self.village.leftovers(), *self.village.errors()]
        assert not wrong, "\n".join(wrong)

    async def _until(self, left: Any) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while found := left():
            assert time.monotonic() < deadline, found
            await asyncio.sleep(0.02)


@pytest.fixture(name="scene")
async def _scene(tmp_path: Path) -> AsyncIterator[Scene]:
    config = tmp_path / "agent.yaml"
    config.write_text(yaml.safe_dump({"retries": RETRIES}))
    with village(tmp_path, config, {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}) as made:
        made.start_server()
        async with ControlPlane(made.url, made.api_key, random=Random(1)) as control:
            await control.ask(_QUEUE)
            with closing(Records(made.data_dir)) as records:
                yield Scene(made, control, records)


async def test_agents_are_killed(scene: Scene) -> None:
    for life in range(LIVES):
        await scene.push(*scene.random.choice([(CODE,), (AGAIN, CODE)]))
        scene.village.start_agent()
        await asyncio.sleep(life * GOLDEN % 1 * LONGEST_LIFE_SECONDS)
        scene.village.kill_agent()
    await scene.over()


async def test_their_keepers_and_their_server_are_killed_too(scene: Scene) -> None:
    village, random = scene.village, scene.random
    for life in range(LIVES):
        await scene.push(CODE)
        village.start_agent()
        await asyncio.sleep(life * GOLDEN % 1 * LONGEST_LIFE_SECONDS)
        what = random.random()
        if what < 0.8:
            scene.kill_keeper()
        elif what < 0.85:
            village.kill_server()
        await asyncio.sleep(random.random() * 0.05)
        village.kill_agent()
        if 0.8 <= what < 0.85:
            village.start_server()
    await scene.over()


async def test_the_journal_is_lost(scene: Scene) -> None:
    """What has begun is found by its labels."""
    for life in range(LIVES // 4):
        scene.village.start_agent()
        await scene.begun(await scene.push(CODE))
        await asyncio.sleep(life * GOLDEN % 1 * LONGEST_JOB_SECONDS)
        scene.village.kill_agent()
        scene.village.lose_journal()
    await scene.over()
