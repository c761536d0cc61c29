"""Agent and server at work for two minutes: nothing that they hold grows. `python -m benchmarks.soak` takes longer."""

from pathlib import Path

import pytest

from benchmarks.soak.rule import FEWEST_SAMPLES, Trend, trends
from benchmarks.soak.soak import JOBS, soak

SECONDS = 115.0
ROUND_SECONDS = 3.5
PAUSE_SECONDS = 0.15


@pytest.mark.timeout(300)
async def test_nothing_grows_while_jobs_of_every_kind_come_and_go(tmp_path: Path) -> None:
    soaked = await soak(tmp_path, SECONDS, round_seconds=ROUND_SECONDS, pause_seconds=PAUSE_SECONDS, told=_nobody)
    assert soaked.pushed.keys() == JOBS.keys(), "jobs of every kind took part"
    assert soaked.states.keys() == {"FAILED", "STOPPED"}, "nobody called wandb.init, so nothing finished"
    stopped = soaked.pushed["is stopped"] + soaked.pushed["is stopped at once"]
    assert soaked.states["STOPPED"] == stopped
    assert soaked.states["FAILED"] == soaked.pushed.total() - stopped
    log = (tmp_path / "agent.log").read_text()
    assert "attempt failed, another follows" in log
    assert '"level": "error"' not in log
    found = trends(soaked.samples)
    counted = {(trend.process, trend.what) for trend in found}
    assert {(who, what) for who in ("agent", "server") for what in ALL} <= counted
    assert {("keeper", what) for what in ALL if what != "tasks"} <= counted
    assert not [str(trend) for trend in found if trend.is_growing]


ALL = ("RSS MiB", "file descriptors", "threads", "tasks")


@pytest.mark.parametrize("what", ALL)
def test_a_level_that_stays_is_flat(what: str) -> None:
    assert not _trend(what, [50 + round_ % 2 for round_ in range(20)]).is_growing


@pytest.mark.parametrize(
    ("what", "each_round"), [("RSS MiB", 0.5), ("file descriptors", 0.3), ("threads", 0.2), ("tasks", 0.2)]
)
def test_a_little_more_after_every_round_is_growth(what: str, each_round: float) -> None:
    assert _trend(what, [50 + each_round * round_ for round_ in range(20)]).is_growing


@pytest.mark.parametrize("what", ALL)
def test_one_leak_for_every_job_is_growth_even_of_few_jobs(what: str) -> None:
    assert _trend(what, [50 + round_ for round_ in range(FEWEST_SAMPLES)]).is_growing


@pytest.mark.parametrize("what", ALL)
def test_what_comes_while_everything_warms_up_is_not_growth(what: str) -> None:
    assert not _trend(what, [5, 40, *[50] * 18]).is_growing


@pytest.mark.parametrize("what", ALL)
def test_a_single_sample_that_stands_out_is_not_growth(what: str) -> None:
    assert not _trend(what, [*[50] * 19, 70]).is_growing


@pytest.mark.parametrize("what", ALL)
def test_getting_less_is_not_growth(what: str) -> None:
    assert not _trend(what, [50 - round_ for round_ in range(20)]).is_growing


def test_the_others_are_not_blamed() -> None:
    samples = [{("agent", "tasks"): 10 + n, ("server", "tasks"): 10} for n in range(20)]
    assert [trend.process for trend in trends(samples) if trend.is_growing] == ["agent"]


def test_few_samples_say_nothing() -> None:
    with pytest.raises(ValueError, match="say nothing about growth"):
        trends([{("agent", "tasks"): 1.0}] * (FEWEST_SAMPLES - 1))


def _trend(what: str, levels: list[float]) -> Trend:
    (trend,) = trends([{("agent", what): level} for level in levels])
    return trend


def _nobody(_: object) -> None:
    """Nobody watches."""
