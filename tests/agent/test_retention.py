"""What is kept of a failed launch: its working folder, for a time and up to a size, and never somebody else's."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.config.model import AgentConfig
from agent.context import AgentContext
from agent.launch import End, Launch, Outcome, Stage
from agent.retention import remove_old
from agent.tidy import tidy, tidy_strays
from backends.base import Handle
from backends.fake import Behavior
from tests.agent.test_daemon import context as _context
from tests.agent.world import until, world

context = _context
HOUR = 3600
PIECE = 64 * 1024


def ended(name: str, outcome: Outcome = Outcome.FAILED, handle: str | None = "handle") -> Launch:
    """Return a launch that is over."""
    return Launch(
        f"item-{name}", 1, "q", {}, "run", Stage.ENDED, handle=Handle(handle) if handle else None, end=End(outcome, "")
    )


def keeping(context: AgentContext, now: float = 0, **rule: Any) -> AgentContext:
    """Return surroundings in which working folders are kept, at a time."""
    rule = {"failed_seconds": HOUR, **rule}
    config = AgentConfig.model_validate({"queues": ["q"], "retention": rule})
    return replace(context, config=config, clock=lambda: now)


async def end(context: AgentContext, launch: Launch) -> Path:
    """Tidy up after a launch that has left a working folder; returns where it is if it is kept."""
    folder = context.folder_of(launch.name)
    folder.mkdir(parents=True)
    (folder / "checkpoint").write_bytes(b"x" * PIECE)
    folder.with_suffix(".log").touch()
    await tidy(context, launch)
    assert not folder.exists()
    assert not folder.with_suffix(".log").exists()
    return context.kept_dir / launch.name


async def test_a_failed_launchs_folder_is_kept_for_its_time(context: AgentContext) -> None:
    kept = await end(keeping(context, now=1000), ended("a"))
    assert (kept / "checkpoint").stat().st_size == PIECE
    remove_old(keeping(context, now=1000 + HOUR - 1))
    assert kept.exists()
    remove_old(keeping(context, now=1000 + HOUR))
    assert not kept.exists()


async def test_by_default_nothing_is_kept(context: AgentContext) -> None:
    assert not (await end(context, ended("a"))).exists()


@pytest.mark.parametrize(
    "launch",
    [
        ended("a", Outcome.FINISHED),
        ended("a", Outcome.STOPPED),
        ended("a", Outcome.PREEMPTED),
        ended("a", handle=None),
        replace(ended("a"), end=None),
    ],
)
async def test_only_what_has_run_and_failed_by_itself_is_kept(context: AgentContext, launch: Launch) -> None:
    assert not (await end(keeping(context), launch)).exists()


async def test_the_oldest_go_when_they_are_too_large_together(context: AgentContext) -> None:
    kept = [await end(keeping(context, now=now), ended(str(now))) for now in range(4)]
    remove_old(keeping(context, now=10, size=f"{2 * PIECE + PIECE // 2}B"))
    assert [path.exists() for path in kept] == [False, False, True, True]


async def test_the_next_agent_keeps_them_too_and_removes_them_once_nothing_is_kept_any_more(
    context: AgentContext,
) -> None:
    kept = await end(keeping(context), ended("a"))
    await tidy_strays(keeping(context))
    remove_old(keeping(context))
    assert kept.exists()
    remove_old(context)
    assert not kept.exists()


async def test_a_folder_that_cannot_be_kept_is_removed(context: AgentContext) -> None:
    context.kept_dir.touch()
    await end(keeping(context), ended("a"))


async def test_each_attempt_is_kept(context: AgentContext) -> None:
    kept = [await end(keeping(context), replace(ended("a"), attempt=attempt)) for attempt in (1, 2)]
    assert kept[0] != kept[1]
    assert all(path.exists() for path in kept)


async def test_an_agent_keeps_what_failed_and_removes_what_did_not(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        made.behave("failing", Behavior(seconds=0.05, exit_code=75))
        retries = [{"on": [{"exit_code": [75]}], "attempts": 1, "first_seconds": 0.01}]
        async with made.agent(retention={"failed_seconds": HOUR}, retries=retries) as daemon:
            for project in ("failing", "other"):
                await made.in_state(await made.push(project), "FAILED")

            async def forgotten() -> bool:
                return not daemon.launches

            await until(forgotten, "the agent is done")
        state = tmp_path / "state"
        assert len(list((state / "kept").iterdir())) == 2, "both attempts of the one that failed"
        assert not list((state / "work").iterdir())
