"""Platforms are asked no faster than they allow, in virtual time."""

import asyncio

import pytest

from backends.rate_limit import RateLimit

pytestmark = pytest.mark.looptime


def now() -> float:
    return asyncio.get_running_loop().time()


async def call(limit: RateLimit) -> float:
    """Ask once; returns when it was."""
    async with limit:
        return now()


async def test_calls_come_at_the_rate_after_a_burst() -> None:
    limit = RateLimit(10, burst=5)
    times = await asyncio.gather(*(call(limit) for _ in range(25)))
    assert times[:5] == [0] * 5
    assert times[-1] == pytest.approx(2.0, abs=0.01)
    assert times == sorted(times), "first come, first served"


async def test_pause_gives_no_more_than_the_burst() -> None:
    limit = RateLimit(10, burst=3)
    await asyncio.sleep(1000)
    times = await asyncio.gather(*(call(limit) for _ in range(5)))
    assert [round(time - 1000, 1) for time in times] == [0, 0, 0, 0.1, 0.2]


async def test_throttling_halves_the_rate_and_success_brings_it_back() -> None:
    limit = RateLimit(10, burst=1)
    await call(limit)
    limit.throttled()
    assert limit.rate == 5
    before = now()
    await call(limit)
    assert now() - before >= 0.2
    for _ in range(50):
        await call(limit)
    assert limit.rate == 10


async def test_refusals_that_come_together_count_once() -> None:
    limit = RateLimit(10, burst=20)
    for _ in range(20):
        limit.throttled()
    assert limit.rate == 5
    await asyncio.sleep(2)
    limit.throttled()
    assert limit.rate == 2.5


async def test_never_slower_than_a_share_of_the_rate() -> None:
    limit = RateLimit(10)
    for _ in range(50):
        limit.throttled()
        await asyncio.sleep(1)
    assert limit.rate == pytest.approx(0.2)


async def test_failed_call_does_not_speed_it_up() -> None:
    limit = RateLimit(10)
    limit.throttled()
    with pytest.raises(OSError, match="down"):
        async with limit:
            raise OSError("down")
    assert limit.rate == 5


async def test_adapts_to_a_platform_that_allows_less() -> None:
    """A platform that allows 4 calls per second refuses few of those of somebody who would make 20."""
    limit = RateLimit(20, burst=5)
    allowed, refused, tokens, filled_at = 0, 0, 4.0, 0.0

    async def ask() -> None:
        nonlocal allowed, refused, tokens, filled_at
        while True:
            async with limit:
                tokens, filled_at = min(4.0, tokens + (now() - filled_at) * 4), now()
                if tokens >= 1:
                    tokens -= 1
                    allowed += 1
                    return
                refused += 1
                limit.throttled()

    await asyncio.gather(*(ask() for _ in range(200)))
    assert allowed == 200
    assert refused <= 60
    assert now() < 2 * 200 / 4, "it does not become slow, either"


async def test_who_gives_up_waiting_holds_nobody_up() -> None:
    limit = RateLimit(1)
    await call(limit)
    waiting = asyncio.create_task(call(limit))
    behind = asyncio.create_task(call(limit))
    await asyncio.sleep(0.5)
    waiting.cancel()
    assert await behind == pytest.approx(1.0)
