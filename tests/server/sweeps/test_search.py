"""Searches: a grid goes through everything once, values are within their bounds, and Bayes learns."""

import itertools
import math
import sys
from collections.abc import Sequence
from random import Random
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.errors import RequestError
from server.sweeps.config import SweepConfig, parse
from server.sweeps.distributions import Scale
from server.sweeps.search import PastRun, suggest


def _config(parameters: dict[str, Any], method: str = "grid", goal: str = "minimize") -> SweepConfig:
    return parse({"method": method, "metric": {"name": "m", "goal": goal}, "parameters": parameters}).config


def _search(config: SweepConfig, count: int, random: Random, score: Any = None) -> list[PastRun]:
    past: list[PastRun] = []
    for _ in range(count):
        params = suggest(config, past, random)
        if params is None:
            break
        past.append(PastRun(params, "finished", score(params) if score else None))
    return past


def _value(run: PastRun, name: str) -> Any:
    params: Any = run.params
    return params[name]["value"]


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_a_grid_goes_through_the_product_once_in_its_order(sizes: list[int], random: Random) -> None:
    config = _config({f"p{number}": {"values": list(range(size))} for number, size in enumerate(sizes)})
    past = _search(config, 10_000, random)
    tried = [tuple(_value(run, f"p{number}") for number in range(len(sizes))) for run in past]
    assert tried == list(itertools.product(*(range(size) for size in sizes)))


@given(st.randoms(use_true_random=False))
def test_a_grid_fills_the_gap_of_a_run_that_is_gone(random: Random) -> None:
    config = _config({"a": {"values": [1, 2.0, "x"]}, "b": {"min": 0, "max": 3}})
    past = _search(config, 100, random)
    gone = past.pop(random.randrange(len(past)))
    assert suggest(config, past, random) == gone.params
    assert suggest(config, [*past, gone], random) is None


def test_a_grid_knows_values_that_came_back_as_floats_and_ignores_other_keys() -> None:
    config = _config({"a": {"values": [1, 2]}})
    past = [PastRun({"a": {"value": 1.0}, "_wandb": {"value": {}}}, "finished", None), PastRun({}, "failed", None)]
    assert suggest(config, past, Random(0)) == {"a": {"value": 2}}


def test_a_grid_has_a_value_that_is_listed_twice_once() -> None:
    config = _config({"a": {"values": [2, 1, 2.0, True, [1], [1.0]]}})
    assert [_value(run, "a") for run in _search(config, 10, Random(0))] == [2, 1, True, [1]]


def test_a_grid_of_steps_has_them_without_the_noise_of_fractions() -> None:
    config = _config({"a": {"distribution": "q_uniform", "min": 0.1, "max": 0.7, "q": 0.1}})
    assert [_value(run, "a") for run in _search(config, 10, Random(0))] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]


@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.randoms(use_true_random=False))
def test_a_grid_is_complete_whatever_comes_between(sizes: list[int], random: Random) -> None:
    """Runs may be gone, and come in any order: what is missing is handed out, and nothing twice."""
    config = _config({f"p{number}": {"values": list(range(size))} for number, size in enumerate(sizes)})
    whole = _search(config, 100, random)
    past = random.sample(whole, random.randint(0, len(whole)))
    missing = len(whole) - len(past)
    for _ in range(missing):
        params = suggest(config, past, random)
        assert params is not None
        assert params not in [run.params for run in past]
        past.insert(random.randint(0, len(past)), PastRun(params, random.choice(["running", "killed"]), None))
    assert suggest(config, past, random) is None


def test_a_huge_grid_of_steps_costs_nothing_before_it_is_walked() -> None:
    steps = {"distribution": "q_uniform", "min": 0, "max": 1, "q": 1e-7 * 2}
    config = _config({f"p{number}": steps for number in range(3)})
    assert suggest(config, [], Random(0)) == {f"p{number}": {"value": 0.0} for number in range(3)}


def test_a_huge_grid_costs_nothing_before_it_is_walked() -> None:
    config = _config({f"p{number}": {"min": 1, "max": 1000} for number in range(6)})
    assert suggest(config, [], Random(0)) == {f"p{number}": {"value": 1} for number in range(6)}


def test_groups_come_out_as_groups() -> None:
    config = _config({"o": {"parameters": {"lr": {"value": 1}, "in": {"parameters": {"b": {"value": 2}}}}}}, "random")
    assert suggest(config, [], Random(0)) == {"o": {"value": {"lr": 1, "in": {"b": 2}}}}


_BOUNDED = [
    {"distribution": "uniform", "min": -1.5, "max": 2.5},
    {"distribution": "q_uniform", "min": 0.15, "max": 0.95, "q": 0.1},
    {"distribution": "int_uniform", "min": -3, "max": 3},
    {"distribution": "log_uniform", "min": -3, "max": 2},
    {"distribution": "log_uniform_values", "min": 0.01, "max": 10},
    {"distribution": "q_log_uniform", "min": 0, "max": 3, "q": 2},
    {"distribution": "q_log_uniform_values", "min": 1, "max": 100, "q": 5},
    {"distribution": "inv_log_uniform", "min": -2, "max": 1},
    {"distribution": "inv_log_uniform_values", "min": 0.1, "max": 5},
    {"distribution": "normal", "mu": 3, "sigma": 2},
    {"distribution": "q_normal", "mu": 0, "sigma": 2, "q": 0.5},
    {"distribution": "log_normal", "mu": 0, "sigma": 1},
    {"distribution": "q_log_normal", "mu": 0, "sigma": 1, "q": 0.25},
    {"distribution": "beta", "a": 2, "b": 3},
    {"distribution": "q_beta", "a": 2, "b": 3, "q": 0.1},
]


@pytest.mark.parametrize("given_parameter", _BOUNDED, ids=lambda given: given["distribution"])
@pytest.mark.parametrize("method", ["random", "bayes"])
def test_values_are_within_bounds_and_on_their_steps(given_parameter: dict[str, Any], method: str) -> None:
    config = _config({"a": given_parameter}, method)
    distribution = config.parameters[0].distribution
    past = _search(config, 15 if method == "bayes" else 300, Random(4), lambda params: params["a"]["value"])
    values: Sequence[Any] = [_value(run, "a") for run in past]
    assert len(set(values)) > 1
    if isinstance(distribution, Scale):
        assert all(distribution.low <= value <= distribution.high for value in values)
    step = given_parameter.get("q")
    if step:
        assert all(abs(value / step - round(value / step)) < 1e-9 for value in values)


@settings(max_examples=200)
@given(
    st.sampled_from(["uniform", "q_uniform"]),
    st.floats(-1e6, 1e6),
    st.floats(0, 1e6),
    st.floats(1e-6, 1e3),
    st.randoms(use_true_random=False),
)
def test_any_bounds_are_kept(kind: str, low: float, length: float, step: float, random: Random) -> None:
    high = low + length
    try:
        config = _config({"a": {"distribution": kind, "min": low, "max": high, "q": step}}, "random")
    except RequestError:
        assert kind == "q_uniform"
        assert math.floor(low / step) >= math.floor(high / step) - 1e-9
        return
    for _ in range(5):
        params: Any = suggest(config, [], random)
        value = params["a"]["value"]
        assert low <= value <= high
        if kind == "q_uniform":
            assert abs(value / step - round(value / step)) < 1e-6 * max(1.0, abs(value / step))


@settings(max_examples=200)
@given(st.sampled_from(_BOUNDED[:13]), st.floats(0.001, 0.999))
def test_a_value_is_where_it_came_from(given_parameter: dict[str, Any], place: float) -> None:
    distribution: Any = _config({"a": given_parameter}, "random").parameters[0].distribution
    value = distribution.at(place)
    assert distribution.at(min(max(distribution.position(value), 0), 1)) == pytest.approx(value)


def test_chances_are_kept() -> None:
    config = _config({"a": {"values": ["x", "y"], "probabilities": [0.9, 0.1]}}, "random")
    values = [_value(run, "a") for run in _search(config, 1000, Random(1))]
    assert 850 < values.count("x") < 950


class TestBayes:
    """The search that learns."""

    PARAMETERS: ClassVar = {"x": {"min": -5.0, "max": 5.0}, "y": {"min": -5.0, "max": 5.0}}

    @staticmethod
    def _distance(params: Any) -> float:
        return (params["x"]["value"] - 1) ** 2 + (params["y"]["value"] + 2) ** 2

    @pytest.mark.parametrize("goal", ["minimize", "maximize"])
    def test_finds_better_values_than_chance(self, goal: str) -> None:
        sign = 1 if goal == "minimize" else -1
        best: dict[str, list[float]] = {"bayes": [], "random": []}
        for method, seed in itertools.product(best, range(6)):
            config = _config(self.PARAMETERS, method, goal)
            past = _search(config, 35, Random(seed), lambda params: sign * self._distance(params))
            best[method].append(min(sign * (run.metric or 0) for run in past))
        assert sum(best["bayes"]) < 0.6 * sum(best["random"])

    def test_workers_side_by_side_do_not_get_the_same(self) -> None:
        config = _config(self.PARAMETERS, "bayes")
        past = _search(config, 20, Random(3), self._distance)
        for _ in range(5):
            params = suggest(config, past, Random(7))
            assert params is not None
            past.append(PastRun(params, "running", None))
        assert len({str(run.params) for run in past}) == 25

    def test_learns_from_choices_and_passes_by_what_it_cannot_use(self) -> None:
        config = _config({"a": {"values": ["bad", "good"]}, "b": {"value": 1}}, "bayes")
        odd = [
            PastRun({"a": {"value": "good"}}, "finished", float("nan")),
            PastRun({"a": {"value": "unknown"}}, "finished", 0.0),
            PastRun({}, "crashed", None),
        ]
        past = odd + [
            PastRun({"a": {"value": name}}, "finished", float(name == "bad")) for name in ["bad", "good"] * 15
        ]
        chosen = [suggest(config, past, Random(seed)) for seed in range(20)]
        assert sum(params == {"a": {"value": "good"}, "b": {"value": 1}} for params in chosen) > 14

    def test_tells_true_from_one(self) -> None:
        config = _config({"a": {"values": [1, True]}}, "bayes")
        past = [PastRun({"a": {"value": True}}, "finished", 0.0), PastRun({"a": {"value": 1}}, "finished", 1.0)] * 20
        chosen: list[Any] = [suggest(config, past, Random(seed)) for seed in range(20)]
        assert sum(params["a"]["value"] is True for params in chosen) > 14

    def test_has_nothing_to_search_in_constants(self) -> None:
        config = _config({"a": {"value": 1}}, "bayes")
        assert suggest(config, [PastRun({"a": {"value": 1}}, "finished", 1.0)], Random(0)) == {"a": {"value": 1}}

    def test_is_repeatable(self) -> None:
        config = _config(self.PARAMETERS, "bayes")
        past = _search(config, 15, Random(5), self._distance)
        assert suggest(config, past, Random(9)) == suggest(config, past, Random(9))

    def test_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "optuna", None)
        with pytest.raises(RequestError, match=r"launchbay\[sweeps\]"):
            suggest(_config(self.PARAMETERS, "bayes"), [], Random(0))
