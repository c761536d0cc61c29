"""More is lost than the agent's life: its name, its journal, its place to another agent."""

import asyncio
from random import Random

import pytest

from server.resolvers import polling
from server.storage import agents, claims
from tests.chaos.scene import GPU_QUEUE, LEASE_SECONDS, TWO_GPUS, Scene
from tests.chaos.stories import PLAIN, RETRIES, STORIES

ALIVE_SECONDS = 0.05
TRIALS = 40


@pytest.fixture
def short_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the server take an agent for dead soon after it was heard of last."""
    for module in (agents, claims):
        monkeypatch.setattr(module, "ALIVE_SECONDS", ALIVE_SECONDS)
    monkeypatch.setattr(polling, "ABANDONED_SECONDS", ALIVE_SECONDS)


async def test_the_next_agent_is_somebody_else_to_the_server(scene: Scene) -> None:
    """The last one was told to end, and left launches behind."""
    random, machine = Random(1), scene.machine(retries=RETRIES)
    for _ in range(TRIALS):
        machine.start()
        await scene.push(random.choice(STORIES))
        machine.life.die_in(random.randint(20, 100))
        await scene.over(or_dead=machine)
        await machine.kill()
        await machine.disown()
    machine.start()
    await scene.over()
    scene.check()
    assert machine.deaths >= 0.6 * TRIALS


@pytest.mark.usefixtures("short_memory")
async def test_the_journal_is_lost(scene: Scene) -> None:
    """What has begun is found by its labels."""
    random, machine = Random(1), scene.machine()
    for _ in range(TRIALS):
        machine.start()
        await scene.begun(await scene.push(PLAIN))
        machine.life.die_in(random.randint(0, 25))
        await scene.over(or_dead=machine)
        await machine.kill()
        machine.lose_journal()
    machine.start()
    await scene.over()
    scene.check()
    assert machine.deaths >= 0.6 * TRIALS


@pytest.mark.usefixtures("short_memory")
async def test_another_agent_takes_what_a_dead_one_had_not_started(scene: Scene) -> None:
    """The lease ends, or the claim goes back, while the agent is dead; then it comes back.

    Those who wait for a GPU have told the server so, and go back.
    """
    random = Random(1)
    machines = [scene.machine(name, queues=[GPU_QUEUE], **TWO_GPUS) for name in ("one", "other")]
    for machine in machines:
        machine.start()
    for _ in range(TRIALS):
        for _ in range(3):
            await scene.push(PLAIN, GPU_QUEUE)
        machine = random.choice(machines)
        machine.life.die_in(random.randint(1, 60))
        await scene.over(or_dead=machine)
        await machine.kill()
        await asyncio.sleep(random.choice([0, 0.1, 1.1 * LEASE_SECONDS]))
        machine.start()
    await scene.over()
    scene.check()
    events = scene.records.events()
    states = {item: [event.what for event in events if event.item == item] for item in scene.stories}
    assert any("PENDING" in seen[:2] for seen in states.values()), "leases have ended"
    assert any("PENDING" in seen[seen.index("CLAIMED") :] for seen in states.values()), "claims have gone back"
