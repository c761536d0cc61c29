"""How far a cluster's clock is from ours. Its objects bear the times of its own, which are no deadlines by ours."""

import time
from collections.abc import Callable
from dataclasses import replace
from email.utils import parsedate_to_datetime

from backends.base import Observation

NOTICED_SECONDS = 2.0
"""Answers tell their time in whole seconds and take a while to come. Less than this is no difference."""


class ClusterClock:
    """A cluster's clock, by what the head of each of its answers says."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self.ahead = 0.0
        """By how much it is ahead of ours, in seconds; less than 0 if it is behind."""

    def hear(self, date: str | None) -> None:
        """Take note of the header `Date` of an answer that has just come."""
        try:
            told = parsedate_to_datetime(date or "").timestamp()
        except (ValueError, OverflowError):
            return  # somebody between does not tell
        ahead = told + 0.5 - self._clock()
        if abs(ahead - self.ahead) > NOTICED_SECONDS:
            self.ahead = ahead if abs(ahead) > NOTICED_SECONDS else 0.0


def by_our_clock(seen: Observation, ahead: float) -> Observation:
    """Return what is seen of a launch with its times as our clock would have told them."""
    if not ahead:
        return seen
    return replace(
        seen,
        started_at=_minus(seen.started_at, ahead),
        since=_minus(seen.since, ahead),
        hopeless_at=_minus(seen.hopeless_at, ahead),
        ended_at=_minus(seen.ended_at, ahead),
    )


def _minus(time: float | None, ahead: float) -> float | None:
    return None if time is None else time - ahead
