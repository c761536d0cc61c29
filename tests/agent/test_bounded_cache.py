"""Folders that launches share: made once, never half-made, and no more of them than allowed."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from agent.caches.bounded import BoundedCache, disk_usage
from agent.held import Launches
from agent.launch import Launch, Stage
from tests.agent.world import until

KIB = 1024
PIECE = 64 * KIB


def launch(name: str = "a", stage: Stage = Stage.PREPARING) -> Launch:
    """Return a launch."""
    return Launch(f"item-{name}", 1, "q", {}, f"run-{name}", stage)


def filled(size: int = PIECE) -> Callable[[Path], Awaitable[None]]:
    """Return what makes a folder of that size."""

    async def make(folder: Path) -> None:
        folder.mkdir()
        (folder / "file").write_bytes(b"x" * size)

    return make


@pytest.fixture
def launches() -> Launches:
    """What the agent holds."""
    return Launches()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where the folders are."""
    return tmp_path / "cache"


def folders(root: Path) -> set[str]:
    """Return the names of what is there."""
    return {path.name for path in root.iterdir()}


def made(root: Path) -> set[str]:
    """Return the keys of what is there, all of it complete."""
    names = folders(root)
    keys = {name for name in names if not name.endswith(".ready")}
    assert names == keys | {f"{key}.ready" for key in keys}
    return keys


async def fill(cache: BoundedCache, *keys: str) -> None:
    """Use folders one after the other, for launches that are over at once."""
    for key in keys:
        await cache.get(key, launch(), filled())
        await asyncio.sleep(0.01)  # times of use differ


async def test_the_longest_unused_goes_first(root: Path, launches: Launches) -> None:
    cache = BoundedCache(root, 3 * PIECE + PIECE // 2, launches.in_use)
    await fill(cache, "a", "b", "c", "a", "d")
    await cache.evict()
    assert made(root) == {"a", "c", "d"}


async def test_what_is_made_makes_room_for_itself(root: Path, launches: Launches) -> None:
    cache = BoundedCache(root, 2 * PIECE + PIECE // 2, launches.in_use)
    keeping = asyncio.create_task(cache.keep_bounded())
    await fill(cache, "a", "b", "c")

    async def one_is_gone() -> bool:
        return made(root) == {"b", "c"}

    await until(one_is_gone, "room is made")
    keeping.cancel()
    await asyncio.wait([keeping])


async def test_without_a_limit_everything_stays(root: Path, launches: Launches) -> None:
    cache = BoundedCache(root, None, launches.in_use)
    await fill(cache, "a", "b")
    await cache.evict()
    assert made(root) == {"a", "b"}


async def test_what_a_launch_uses_stays(root: Path, launches: Launches) -> None:
    cache, used = BoundedCache(root, 0, launches.in_use), launch("used")
    launches.add(used)
    await cache.get("a", used, filled())
    await fill(cache, "b")
    await cache.evict()
    assert made(root) == {"a"}


async def test_nothing_goes_while_a_launch_runs_of_which_nobody_knows_what_it_uses(
    root: Path, launches: Launches
) -> None:
    """As after an upgrade from a version that did not write it down."""
    cache = BoundedCache(root, 0, launches.in_use)
    held = launches.add(launch("old", Stage.STARTED))
    await fill(cache, "a")
    (root / "half").mkdir()
    await cache.sweep()
    await cache.evict()
    assert folders(root) == {"a", "a.ready", "half"}
    launches.remove(held)
    await cache.sweep()
    await cache.evict()
    assert not folders(root)


async def test_what_a_crash_left_is_removed(root: Path, launches: Launches) -> None:
    cache = BoundedCache(root, None, launches.in_use)
    await fill(cache, "whole")
    (root / "half" / "deep").mkdir(parents=True)
    (root / "old.part").mkdir()
    (root / "gone.ready").write_text("12")
    await cache.sweep()
    assert made(root) == {"whole"}


async def test_what_is_being_made_is_not_taken_for_left(root: Path, launches: Launches) -> None:
    cache, begun, may_end = BoundedCache(root, None, launches.in_use), asyncio.Event(), asyncio.Event()

    async def make(folder: Path) -> None:
        await filled()(folder)
        begun.set()
        await may_end.wait()

    making = asyncio.create_task(cache.get("a", launch(), make))
    await begun.wait()
    sweeping = asyncio.create_task(cache.sweep())
    await asyncio.sleep(0.05)
    may_end.set()
    await asyncio.gather(making, sweeping)
    assert made(root) == {"a"}


async def test_what_cannot_be_made_leaves_nothing(root: Path, launches: Launches) -> None:
    cache = BoundedCache(root, None, launches.in_use)

    async def fail(folder: Path) -> None:
        await filled()(folder)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        await cache.get("a", launch(), fail)
    assert not folders(root)


async def test_what_is_stopped_in_the_middle_leaves_nothing_and_the_next_one_makes_it(
    root: Path, launches: Launches
) -> None:
    cache, begun = BoundedCache(root, None, launches.in_use), asyncio.Event()

    async def hang(folder: Path) -> None:
        await filled()(folder)
        begun.set()
        await asyncio.sleep(100)

    first = asyncio.create_task(cache.get("a", launch(), hang))
    await begun.wait()
    second = asyncio.create_task(cache.get("a", launch("b"), filled()))
    first.cancel()
    assert (await second / "file").stat().st_size == PIECE
    assert folders(root) == {"a", "a.ready"}
    await asyncio.wait([first])
    assert first.cancelled()


async def test_a_size_that_was_not_written_is_measured(root: Path, launches: Launches) -> None:
    cache = BoundedCache(root, PIECE // 2, launches.in_use)
    await fill(cache, "a")
    (root / "a.ready").write_text("")
    await cache.evict()
    assert not folders(root)


def test_what_has_two_names_counts_once(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"x" * PIECE)
    before = disk_usage(tmp_path)
    os.link(tmp_path / "one", tmp_path / "two")
    (tmp_path / "link").symlink_to("/")
    assert PIECE <= disk_usage(tmp_path) < before + PIECE // 2


PROGRAM = """
    import asyncio, sys
    from pathlib import Path
    from agent.caches.bounded import BoundedCache
    from agent.held import Launches
    from agent.launch import Launch

    async def make(folder):
        folder.mkdir()
        for number in range(10**6):
            (folder / str(number)).write_text("x")
            if number == 20:
                print("begun", flush=True)
            await asyncio.sleep(0.001)

    cache = BoundedCache(Path(sys.argv[1]), None, Launches().in_use)
    asyncio.run(cache.get("a", Launch("item", 1, "q", {}, "run"), make))
"""


async def test_killed_in_the_middle_of_making_it_is_made_again(root: Path, launches: Launches) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), str(root)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"begun\n"
        process.send_signal(signal.SIGKILL)
    assert len(folders(root / "a")) > 20
    cache = BoundedCache(root, None, launches.in_use)
    assert not await cache.has("a")
    assert folders(await cache.get("a", launch(), filled())) == {"file"}
