"""A flag does what `asyncio.Event` does."""

import asyncio
from collections.abc import Callable

import pytest

from backends.flag import Flag


@pytest.fixture(params=[Flag, asyncio.Event])
def flag(request: pytest.FixtureRequest) -> Flag:
    make: Callable[[], Flag] = request.param
    return make()


async def test_all_who_wait_are_woken_also_if_it_is_cleared_at_once(flag: Flag) -> None:
    waiting = [asyncio.create_task(flag.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[1].cancel()
    flag.set()
    flag.clear()
    done = await asyncio.gather(*waiting, return_exceptions=True)
    assert [isinstance(each, asyncio.CancelledError) for each in done] == [False, True, False]
    assert not flag.is_set()


async def test_who_waits_for_what_is_set_goes_on_and_who_waits_after_it_was_cleared_does_not(flag: Flag) -> None:
    flag.set()
    assert flag.is_set()
    await flag.wait()
    flag.clear()
    waiting = asyncio.create_task(flag.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    flag.set()
    await waiting
