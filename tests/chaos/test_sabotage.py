"""What goes wrong is noticed: each test breaks one thing that "exactly one start" rests on."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import agent.operations
from agent.journal import Journal
from backends.base import Handle
from backends.fake import FakeBackend, FakePlatform
from tests.chaos.evidence import BEGINS, ENDS, Event, violations
from tests.chaos.scene import Scene
from tests.chaos.stories import PLAIN
from tests.chaos.sweeping import sweep

PATIENCE_SECONDS = 2.0
"""How long nothing at all has to happen, to say that something will never be over."""


async def _nothing(*_: Any, **__: Any) -> None:
    """Do nothing."""


def no_journal(patch: pytest.MonkeyPatch) -> None:
    """Nothing is written down, so what was claimed is forgotten."""
    patch.setattr(Journal, "record", _nothing)


def starting_is_not_idempotent(patch: pytest.MonkeyPatch) -> None:
    """The platform starts whatever it is asked to."""
    start = FakePlatform.start

    def again(self: FakePlatform, request: Any) -> Handle:
        self._launches.pop(Handle(request.name), None)
        return start(self, request)

    patch.setattr(FakePlatform, "start", again)


def nothing_is_cleaned_up(patch: pytest.MonkeyPatch) -> None:
    """What has ended stays on the platform."""
    patch.setattr(FakeBackend, "cleanup", _nothing)


def the_end_is_not_told(patch: pytest.MonkeyPatch) -> None:
    """The server never learns of an end."""

    async def finish(*_: Any, **__: Any) -> str:
        return "FAILED"

    patch.setattr(agent.operations, "finish", finish)


@pytest.mark.parametrize(
    ("sabotage", "noticed"),
    [
        (no_journal, "not over: .*CLAIMED"),
        (starting_is_not_idempotent, "attempt 1 begins (again|while)"),
        (nothing_is_cleaned_up, "not over: {}, .*on the platform"),
        (the_end_is_not_told, "not over: .*CLAIMED"),
    ],
)
async def test_a_sweep_notices(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, sabotage: Callable[[pytest.MonkeyPatch], None], noticed: str
) -> None:
    sabotage(monkeypatch)
    if noticed.startswith("not over"):
        scene.patience = PATIENCE_SECONDS
    with pytest.raises(AssertionError, match=noticed):
        await sweep(scene, scene.machine(), PLAIN)


@pytest.mark.parametrize("asks", [True, False])
async def test_an_agent_that_does_not_ask_whether_an_item_is_its_own(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, asks: bool
) -> None:
    one, other = scene.machine("one"), scene.machine("other")
    asked = agent.operations.acknowledge

    async def acknowledge(*what: Any, **more: Any) -> bool:
        if not one.deaths:
            one.life.die_in(0)
            await asyncio.sleep(0)
        return await asked(*what, **more) or not asks

    monkeypatch.setattr(agent.operations, "acknowledge", acknowledge)
    one.start()
    await scene.push(PLAIN)
    await scene.over(or_dead=one)
    await one.kill()
    other.start()
    await scene.ended()
    one.start()
    await scene.over()
    if asks:
        scene.check()
    else:
        with pytest.raises(AssertionError, match="attempt 1 begins again"):
            scene.check()


BEFORE = [Event(1, "i", "LEASED"), Event(2, "i", "CLAIMED"), Event(3, "i", BEGINS, 1)]
GOOD = [*BEFORE, Event(4, "i", ENDS, 1), Event(5, "i", "FAILED")]


@pytest.mark.parametrize(
    ("events", "noticed"),
    [
        (GOOD, []),
        ([*BEFORE, Event(4, "i", ENDS, 1)], ["it never ended"]),
        ([*GOOD, Event(6, "i", "CRASHED")], ["it ended more than once: FAILED, CRASHED"]),
        ([*GOOD, Event(6, "i", "FAILED")], ["it ended more than once: FAILED, FAILED"]),
        ([*GOOD, Event(6, "i", "PENDING")], ["it was PENDING after its end"]),
        ([*BEFORE, Event(5, "i", "FAILED")], ["[1] never ended: an orphan"]),
        ([*BEFORE, Event(5, "i", "FAILED"), Event(6, "i", ENDS, 1)], ["attempt 1 ends after the item's end"]),
        ([*GOOD, Event(3.5, "i", BEGINS, 1)], ["attempt 1 begins while [1] live", "attempt 1 begins again"]),
        ([*GOOD, Event(4.1, "i", BEGINS, 1), Event(4.2, "i", ENDS, 1)], ["attempt 1 begins again"]),
        (
            [*GOOD, Event(3.5, "i", BEGINS, 2), Event(4.2, "i", ENDS, 2)],
            ["attempt 2 begins while [1] live"],
        ),
        (
            [*GOOD, Event(4.1, "i", BEGINS, 3), Event(4.2, "i", ENDS, 3)],
            ["attempts [1, 3] began, and others are missing"],
        ),
        ([*GOOD, *[Event(event.at, "other", event.what, event.attempt) for event in GOOD]], []),
    ],
)
def test_the_evidence_tells(events: list[Event], noticed: list[str]) -> None:
    assert violations(events) == [f"item i: {wrong}" for wrong in noticed]
