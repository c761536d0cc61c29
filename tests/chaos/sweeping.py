"""Kills an agent after the first step of a story, after the second, and so on."""

from itertools import count

from tests.chaos.scene import Machine, Scene
from tests.chaos.stories import Story

ALIVE_AT_THE_END = 3
"""A sweep is over when that many agents have seen the end of the story: how many steps it takes varies a little."""


async def sweep(scene: Scene, machine: Machine, *stories: Story, stride: int = 1) -> int:
    """Tell the stories again and again, and kill the agent further and further on; returns how often it was killed."""
    machine.start()
    alive = 0
    for step in count(1, stride):
        for story in stories:
            await scene.push(story)
        machine.life.die_in(step)
        await scene.over(or_dead=machine)
        alive += not machine.life.over.is_set()
        await machine.restart()
        await scene.over()
        if alive == ALIVE_AT_THE_END:
            break
    scene.check()
    return machine.deaths
