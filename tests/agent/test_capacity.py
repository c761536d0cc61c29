"""Room for launches is derived, bounded and given in turn."""

import asyncio

import pytest

from agent.admission.capacity import Capacity


class Holder:
    """Takes room, and turns it into held launches."""

    def __init__(self, limit: int) -> None:
        self.held = 0
        self.capacity = Capacity(lambda: limit, lambda: self.held)
        self.order: list[str] = []

    async def claim(self, name: str) -> None:
        """Claim one launch."""
        async with self.capacity.room():
            self.order.append(name)
            self.held += 1

    def end(self) -> None:
        """End one launch."""
        self.held -= 1
        self.capacity.changed()


async def settled() -> None:
    """Let every task that can run do so."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_no_more_than_the_limit_is_claimed() -> None:
    holder = Holder(2)
    tasks = [asyncio.create_task(holder.claim(name)) for name in "abcd"]
    await settled()
    assert (holder.order, holder.capacity.free) == (["a", "b"], 0)
    holder.end()
    await settled()
    assert holder.order == ["a", "b", "c"]
    holder.end()
    await asyncio.gather(*tasks)
    assert holder.order == ["a", "b", "c", "d"]


async def test_a_poll_that_came_back_empty_gives_its_room_to_the_next() -> None:
    holder = Holder(1)
    async with holder.capacity.room():
        waiting = asyncio.create_task(holder.claim("next"))
        await settled()
        assert holder.order == []
    await waiting
    assert holder.order == ["next"]


async def test_who_stops_waiting_does_not_take_the_turn_of_others() -> None:
    holder = Holder(1)
    await holder.claim("first")
    impatient = asyncio.create_task(holder.claim("impatient"))
    patient = asyncio.create_task(holder.claim("patient"))
    await settled()
    impatient.cancel()
    holder.end()
    await patient
    assert holder.order == ["first", "patient"]
    with pytest.raises(asyncio.CancelledError):
        await impatient


async def test_who_is_cancelled_with_the_turn_in_hand_passes_it_on() -> None:
    holder = Holder(1)
    await holder.claim("first")
    chosen = asyncio.create_task(holder.claim("chosen"))
    other = asyncio.create_task(holder.claim("other"))
    await settled()
    holder.end()  # gives the turn to `chosen`, which is cancelled before it can use it
    chosen.cancel()
    async with asyncio.timeout(120):
        await other
    assert holder.order == ["first", "other"]


async def test_without_a_limit_everybody_has_room() -> None:
    holder = Holder(-1)
    await asyncio.gather(*(holder.claim(str(number)) for number in range(100)))
    assert holder.held == 100
