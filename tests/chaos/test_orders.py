"""Stops and drains come at any moment, and the agent is killed while it sees to them."""

import asyncio
from contextlib import suppress
from random import Random

from tests.chaos.scene import Machine, Scene
from tests.chaos.stories import PLAIN, RETRIED, RETRIES, STOPPED

TRIALS = 45
IDLE_SECONDS = 0.2
"""Who takes no step for so long waits for something that only the test can do."""


async def after_steps(machine: Machine, steps: int) -> None:
    """Wait until the agent has taken some more steps, or has none to take."""
    life, taken = machine.life, -1
    reached = life.reach(steps)
    while not reached.is_set() and taken != life.steps:
        taken = life.steps
        with suppress(TimeoutError):
            await asyncio.wait_for(reached.wait(), IDLE_SECONDS)


async def test_a_stop_is_never_forgotten(scene: Scene) -> None:
    random, machine = Random(1), scene.machine()
    machine.start()
    for _ in range(TRIALS):
        item = await scene.push(STOPPED)
        await after_steps(machine, random.randint(1, 50))
        machine.life.die_in(random.randint(1, 25))
        await scene.stop(item)
        await scene.over(or_dead=machine)
        await machine.restart()
        await scene.over()
    scene.check()
    assert machine.deaths >= 0.6 * TRIALS, machine.deaths


async def test_a_drain_loses_nothing(scene: Scene) -> None:
    random, machine = Random(1), scene.machine(retries=RETRIES)
    for _ in range(TRIALS):
        machine.start()
        for _ in range(3):
            await scene.push(random.choice([PLAIN, RETRIED]))
        await after_steps(machine, random.randint(1, 120))
        machine.drain()
        machine.life.die_in(random.randint(1, 40))
        await machine.ended()
        await machine.kill()
        if random.random() < 0.5:
            machine.start()
            await scene.over()
            await machine.kill()
    machine.start()
    await scene.over()
    scene.check()
    assert machine.deaths >= 0.6 * TRIALS, machine.deaths
