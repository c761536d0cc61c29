"""Hyperband: the best part goes on, and nobody stops before there is something to compare with."""

from typing import Any

from server.sweeps.config import MAX_LOOKS, SweepConfig, parse
from server.sweeps.early_stop import to_stop


def _config(goal: str = "minimize", **rule: Any) -> SweepConfig:
    raw = {"method": "random", "parameters": {"a": {"value": 1}}, "metric": {"name": "m", "goal": goal}}
    return parse({**raw, "early_terminate": {"type": "hyperband", **rule}} if rule else raw).config


CURVES = {f"run{number}": [float(number)] * 3 for number in range(9)}


def test_the_best_third_goes_on() -> None:
    assert to_stop(_config(min_iter=3), CURVES) == {f"run{number}" for number in range(3, 9)}
    assert to_stop(_config("maximize", min_iter=3), CURVES) == {f"run{number}" for number in range(6)}
    assert to_stop(_config(min_iter=3, eta=9), CURVES) == {f"run{number}" for number in range(1, 9)}


def test_looks_come_at_powers_or_at_parts_of_the_end() -> None:
    assert list(_config(min_iter=3).early_stop.looks[:4]) == [3, 9, 27, 81]  # type: ignore[union-attr]
    assert list(_config(max_iter=27, s=2).early_stop.looks) == [3, 9]  # type: ignore[union-attr]


def test_looks_are_whole_and_not_without_number() -> None:
    assert list(_config(min_iter=0.3).early_stop.looks[:3]) == [1, 3, 8]  # type: ignore[union-attr]
    assert list(_config(min_iter=3, eta=1e20).early_stop.looks) == [3]  # type: ignore[union-attr]
    assert list(_config(max_iter=27, s=10**9).early_stop.looks) == [1, 3, 9]  # type: ignore[union-attr]
    assert len(_config(min_iter=3, eta=1.001).early_stop.looks) <= MAX_LOOKS  # type: ignore[union-attr]
    assert to_stop(_config(min_iter=0.3), CURVES) == {f"run{number}" for number in range(3, 9)}


def test_nobody_stops_before_the_first_look_or_without_others() -> None:
    assert to_stop(_config(min_iter=4), CURVES) == set()
    assert to_stop(_config(min_iter=3), {"a": [1.0] * 3, "b": [2.0] * 3}) == set()
    assert to_stop(_config(), CURVES) == set()


def test_a_run_may_redeem_itself_unless_strict() -> None:
    late = {**CURVES, "run8": [8.0, 8.0, 8.0, -1.0]}
    assert "run8" not in to_stop(_config(min_iter=3), late)
    assert "run8" in to_stop(_config(min_iter=3, strict=True), late)


def test_what_is_no_number_counts_for_nothing() -> None:
    assert "odd" not in to_stop(_config(min_iter=3), {**CURVES, "odd": [float("nan")] * 5})
