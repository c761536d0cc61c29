"""How fast a platform may be asked: a token bucket that slows down when the platform says so, and recovers slowly.

Cloud APIs allow so many calls per second and account, do not say how many, and share that between all who ask. So the
rate is halved at each refusal for asking too much, and grows again by a little with each call that went well.
"""

import asyncio

HALVED_ONCE_SECONDS = 1.0
"""Refusals that come together are one: calls that were under way when the rate was halved say nothing new."""
SLOWEST_SHARE = 1 / 50
"""Of the full rate, how slow it becomes at most."""
GROWTH_SHARE = 1 / 50
"""Of the full rate, by how much it grows with each call."""
ROUNDING = 1e-6


class RateLimit:
    """Lets callers through one by one, in the order in which they come: `async with limit: ...`.

    In the block the platform is asked once. If it answers that it was asked too much, call `throttled`.
    """

    def __init__(self, rate: float, *, burst: int = 1) -> None:
        """`rate` is the most calls per second, `burst` how many may come at once after a pause."""
        self._full_rate = self._rate = rate
        self._burst = burst
        self._tokens = float(burst)
        self._filled_at: float | None = None
        self._halved_at: float | None = None
        self._line = asyncio.Lock()

    @property
    def rate(self) -> float:
        """How many calls per second are let through now."""
        return self._rate

    async def __aenter__(self) -> None:
        """Wait for one's turn."""
        async with self._line:  # is fair: first come, first served
            while (missing := 1 - self._fill()) > ROUNDING:  # noqa: ASYNC110 -- time is what fills it
                await asyncio.sleep(missing / self._rate)
            self._tokens -= 1

    async def __aexit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        """Go faster after a call that went well."""
        if error_type is None:
            self._rate = min(self._full_rate, self._rate + self._full_rate * GROWTH_SHARE)

    def throttled(self) -> None:
        """Go at half the rate: the platform has refused a call because it was asked too much."""
        now = asyncio.get_running_loop().time()
        self._fill()
        self._tokens = min(self._tokens, 0.0)
        if self._halved_at is None or now - self._halved_at >= HALVED_ONCE_SECONDS:
            self._halved_at = now
            self._rate = max(self._full_rate * SLOWEST_SHARE, self._rate / 2)

    def _fill(self) -> float:
        now = asyncio.get_running_loop().time()
        if self._filled_at is not None:
            self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._rate)
        self._filled_at = now
        return self._tokens
