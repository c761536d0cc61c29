"""By how much clocks differ is heard with every answer, and no more exactly than can be."""

from email.utils import formatdate

import pytest

from backends.base import Observation, Phase
from backends.kubernetes.clock import ClusterClock, by_our_clock

NOON = 1_800_000_000.0


@pytest.mark.parametrize(
    ("cluster", "ahead"), [(3600, 3600), (-3600, -3600), (0, 0), (1, 0), (-1, 0), (40 * 365 * 24 * 3600, None)]
)
def test_a_difference_is_noticed_if_it_is_one(cluster: float, ahead: float | None) -> None:
    clock = ClusterClock(lambda: NOON + 0.3)
    clock.hear(formatdate(NOON + cluster, usegmt=True))
    assert clock.ahead == pytest.approx(cluster if ahead is None else ahead, abs=1)


def test_it_follows_whichever_clock_is_set_and_is_steady_otherwise() -> None:
    ours = NOON
    clock = ClusterClock(lambda: ours)
    clock.hear(formatdate(NOON + 100, usegmt=True))
    before = clock.ahead
    for late in (0.1, 0.7, 1.2):
        ours = NOON + late
        clock.hear(formatdate(NOON + 100, usegmt=True))
        assert clock.ahead == before, "an answer took a while"
    clock.hear(formatdate(ours, usegmt=True))
    assert clock.ahead == 0


@pytest.mark.parametrize("date", [None, "", "yesterday", "Sat, 99 Foo 2026 99:99:99 GMT"])
def test_who_does_not_tell_the_time_changes_nothing(date: str | None) -> None:
    clock = ClusterClock(lambda: NOON)
    clock.hear(formatdate(NOON + 100, usegmt=True))
    before = clock.ahead
    clock.hear(date)
    assert clock.ahead == before


def test_every_time_of_a_launch_is_told_as_by_our_clock() -> None:
    seen = Observation(Phase.FAILED, started_at=10.0, since=20.0, hopeless_at=30.0, ended_at=40.0)
    ours = by_our_clock(seen, 5.0)
    assert (ours.started_at, ours.since, ours.hopeless_at, ours.ended_at) == (5.0, 15.0, 25.0, 35.0)
    assert by_our_clock(Observation(Phase.STARTING), 5.0) == Observation(Phase.STARTING)
