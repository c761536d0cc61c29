"""An agent is killed after each step of a launch's way, with the journal, the server and the platform left as they are.

The fake platform outlives the agents, as a real one does.
"""

from random import Random
from typing import Any

import pytest

from tests.chaos.scene import GPU_QUEUE, QUEUE, TWO_GPUS, Scene
from tests.chaos.stories import OVERDUE, PLAIN, PREEMPTED, RETRIED, RETRIES, STORIES, Story
from tests.chaos.sweeping import sweep

LIVES = 130


@pytest.mark.parametrize(
    ("story", "config", "stride", "deaths"),
    [
        pytest.param(PLAIN, {}, 1, 50, id="plain"),
        pytest.param(RETRIED, {}, 1, 100, id="retried"),
        pytest.param(PREEMPTED, {}, 3, 30, id="preempted"),
        pytest.param(OVERDUE, {"timeouts": {"run": 0.02}}, 3, 15, id="overdue"),
    ],
)
async def test_killed_after_every_step(
    scene: Scene, story: Story, config: dict[str, Any], stride: int, deaths: int
) -> None:
    assert await sweep(scene, scene.machine(retries=RETRIES, **config), story, stride=stride) >= deaths


async def test_killed_in_the_middle_of_several_launches(scene: Scene) -> None:
    machine = scene.machine(retries=RETRIES)
    assert await sweep(scene, machine, PLAIN, RETRIED, PREEMPTED, stride=7) >= 30


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("queue", "config"), [(QUEUE, {}), (GPU_QUEUE, TWO_GPUS)], ids=["no slots", "GPUs"])
async def test_killed_again_and_again(scene: Scene, seed: int, queue: str, config: dict[str, Any]) -> None:
    """Most agents die while they take over from those before them."""
    random, machine = Random(seed), scene.machine(queues=[queue], retries=RETRIES, **config)
    for _ in range(LIVES):
        await scene.push(random.choice(STORIES), queue)
        machine.start(random.randint(1, 120))
        await scene.over(or_dead=machine)
        await machine.kill()
    machine.start()
    await scene.over()
    scene.check()
    assert machine.deaths >= 0.9 * LIVES
