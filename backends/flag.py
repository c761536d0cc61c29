"""A flag that can be waited for: `asyncio.Event` for what there are thousands of."""

import asyncio


class Flag:
    """See `asyncio.Event`. That one takes a kilobyte, whether anybody waits for it or not."""

    __slots__ = ("_is_set", "_waiting")

    def __init__(self) -> None:
        self._is_set = False
        self._waiting: tuple[asyncio.Future[None], ...] = ()

    def is_set(self) -> bool:
        """Whether it is set."""
        return self._is_set

    def set(self) -> None:
        """Set it, and wake whoever waits."""
        self._is_set = True
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)

    def clear(self) -> None:
        """Have whoever waits from now on wait for the next `set`."""
        self._is_set = False

    async def wait(self) -> None:
        """Return when it is set; who waited returns also if it is cleared at once."""
        if self._is_set:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting += (waiter,)
        try:
            await waiter
        finally:
            self._waiting = tuple(each for each in self._waiting if each is not waiter)
