"""Sweep configs are understood, and every mistake is told with its key and what to write instead."""

import math
from typing import Any

import pytest

from server.errors import RequestError
from server.sweeps.config import expected_runs, parse, parse_yaml
from server.sweeps.distributions import Beta, Choice, Integers, Scale


def _config(**changes: Any) -> dict[str, Any]:
    given = {"method": "random", "parameters": {"a": {"values": [1, 2]}}, **changes}
    return {key: value for key, value in given.items() if value is not None}


def _parameter(**given: Any) -> Any:
    return parse(_config(parameters={"a": given})).config.parameters[0].distribution


def test_a_config_is_read_with_its_groups() -> None:
    text = """
program: train.py
method: bayes
metric: {name: loss, goal: maximize}
run_cap: 5
parameters:
  lr: {min: 0.1, max: 1.0}
  optimizer:
    parameters:
      name: {values: [adam, sgd]}
      inner: {parameters: {beta: {value: 3}}}
"""
    config, warnings = parse(parse_yaml(text))
    assert (config.method, config.run_cap, list(warnings)) == ("bayes", 5, [])
    assert config.metric is not None
    assert (config.metric.name, config.metric.sign) == ("loss", -1)
    assert [parameter.path for parameter in config.parameters] == [
        ("lr",),
        ("optimizer", "name"),
        ("optimizer", "inner", "beta"),
    ]


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ({"value": 3}, Choice),
        ({"values": [1, "x"]}, Choice),
        ({"min": 1, "max": 3}, Integers),
        ({"min": 1, "max": 3.5}, Scale),
        ({"mu": 0, "sigma": 2}, Scale),
        ({"distribution": "beta", "a": 1, "b": 2}, Beta),
        ({"distribution": "q_beta", "q": 0.1}, Beta),
        ({"distribution": "categorical_w_probabilities", "values": [1, 2], "probabilities": [0.1, 0.9]}, Choice),
    ],
)
def test_what_a_parameter_may_be(given: dict[str, Any], kind: type) -> None:
    assert isinstance(_parameter(**given), kind)


def test_bounds_are_exponents_or_values() -> None:
    exponents, values = (
        _parameter(distribution="log_uniform", min=0, max=2),
        _parameter(distribution="log_uniform_values", min=1, max=math.exp(2)),
    )
    assert exponents.at(0.5) == pytest.approx(values.at(0.5)) == pytest.approx(math.e)
    inverted = _parameter(distribution="inv_log_uniform", min=-2, max=0)
    assert (inverted.at(0.0), inverted.at(1.0)) == pytest.approx((math.exp(2), 1.0))


def test_a_number_that_yaml_reads_as_text_is_one() -> None:
    assert _parameter(distribution="uniform", min="1e-3", max=1).low == 0.001


@pytest.mark.parametrize(
    ("changes", "runs"),
    [
        ({"method": "grid", "parameters": {"a": {"values": [1, 2]}, "b": {"min": 1, "max": 3}}}, 6),
        ({"method": "grid", "run_cap": 4, "parameters": {"a": {"values": [1, 2]}, "b": {"min": 1, "max": 3}}}, 4),
        ({"method": "grid", "parameters": {"a": {"distribution": "q_uniform", "min": 0, "max": 1, "q": 0.1}}}, 11),
        ({"method": "grid", "parameters": {"a": {"values": [1, 1.0, True, "1"]}}}, 3),
        ({"method": "grid", "parameters": {"a": {"values": [[1], [1.0], {"b": 2}, {"b": 2.0}]}}}, 2),
        ({}, None),
        ({"run_cap": 7}, 7),
    ],
)
def test_how_many_runs_there_will_be(changes: dict[str, Any], runs: int | None) -> None:
    assert expected_runs(parse(_config(**changes)).config) == runs


def test_a_search_that_is_none_is_told() -> None:
    config = _config(method="bayes", metric={"name": "m"}, parameters={"a": {"distribution": "beta"}})
    assert "drawn by chance" in parse(config).warnings[0]


def test_probabilities_that_are_not_used_are_told() -> None:
    parameters = {"a": {"values": [1, 2], "probabilities": [0.1, 0.9]}}
    config = _config(method="bayes", metric={"name": "m"}, parameters=parameters)
    assert parse(config).warnings == ["The `probabilities` of parameter 'a' are not used: method 'bayes' learns them."]
    assert parse(_config(parameters=parameters)).warnings == []


def test_whole_bounds_keep_all_their_digits() -> None:
    assert _parameter(min=2**60 + 1, max=2**60 + 3) == Integers(2**60 + 1, 2**60 + 3)
    assert _parameter(distribution="int_uniform", min="1e3", max=2000.0) == Integers(1000, 2000)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": None}, "`method` is None; use one of: grid, random, bayes, custom"),
        ({"method": "magic"}, "`method` is 'magic'"),
        ({"parameters": None}, "`parameters` must be a mapping of at least one parameter"),
        ({"parameters": {}}, "`parameters` must be a mapping of at least one parameter"),
        ({"parameters": {"a": 3}}, "Parameter 'a' must be a mapping, such as {value: 3}"),
        ({"parameters": {"g": {"parameters": {"a": {}}}}}, "Parameter 'g.a' says nothing of its values"),
        ({"method": "bayes"}, "needs a `metric`"),
        ({"metric": "loss"}, "`metric` must be a mapping with a `name`"),
        ({"metric": {"name": "loss", "goal": "up"}}, "`goal` of the sweep's metric is 'up'"),
        ({"run_cap": 0}, "`run_cap` is 0"),
        ({"run_cap": True}, "`run_cap` is True"),
        ({"method": "grid", "parameters": {"a": {"min": 0.0, "max": 1.0}}}, "no grid can go through them"),
        ({"method": "grid", "parameters": {"a": {"min": 0, "max": 10**8}}}, "100,000,001 values, too many for a grid"),
        ({"method": "grid", "parameters": {"a": {"min": 0, "max": 10**20}}}, "Narrow it, or use method 'random'"),
        (
            {"method": "grid", "parameters": {"a": {"distribution": "q_uniform", "min": 0, "max": 1, "q": 1e-12}}},
            "1,000,000,000,001 values, too many for a grid",
        ),
        ({"metric": {"name": "m"}, "early_terminate": {"type": ["hyperband"]}}, "mapping with `type: hyperband`"),
        (
            {"metric": {"name": "m"}, "early_terminate": {"type": "hyperband", "max_iter": 9, "s": 0.5}},
            "`s` of early_terminate is 0.5; use a whole number from 1 on",
        ),
        (
            {"metric": {"name": "m"}, "early_terminate": {"type": "hyperband", "min_iter": 9, "strict": "no"}},
            "`strict` of early_terminate is 'no'; use true or false",
        ),
        ({"early_terminate": {"type": "hyperband", "min_iter": 3}}, "needs the sweep's `metric`"),
        ({"metric": {"name": "m"}, "early_terminate": {"type": "envelope"}}, "'envelope' is not known here"),
        ({"metric": {"name": "m"}, "early_terminate": 3}, "must be a mapping with `type: hyperband`"),
        ({"metric": {"name": "m"}, "early_terminate": {"type": "hyperband"}}, "either `min_iter`, or `max_iter`"),
        (
            {"metric": {"name": "m"}, "early_terminate": {"type": "hyperband", "min_iter": 3, "eta": 1}},
            "`eta` of early_terminate is 1; use a number above 1",
        ),
    ],
)
def test_a_mistake_is_told(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError) as raised:
        parse(_config(**changes))
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"distribution": "cauchy"}, "`distribution` of parameter 'a' is 'cauchy'"),
        ({"distribution": "constant"}, "is constant, but has no `value`"),
        ({"values": []}, "`values` of parameter 'a' must be a list of at least one"),
        ({"values": "abc"}, "`values` of parameter 'a' must be a list"),
        ({"values": [1, 2], "probabilities": [1]}, "must be as many numbers from 0 on as it has values (2)"),
        ({"values": [1, 2], "probabilities": [0.5, 10**400]}, "must be as many numbers from 0 on"),
        ({"values": [1, 2], "probabilities": [1.5, -0.5]}, "must be as many numbers from 0 on"),
        ({"values": [1, 2], "probabilities": [0.5, 0.6]}, "add up to 1.1, not to 1"),
        ({"distribution": "uniform", "min": 1}, "`max` is missing"),
        ({"min": 3, "max": 1}, "which is above its `max`"),
        ({"distribution": "int_uniform", "min": 0.5, "max": 2}, "must be whole too"),
        ({"distribution": "log_uniform_values", "min": 0, "max": 2}, "must be above 0"),
        ({"distribution": "log_uniform", "min": 0, "max": 2000}, "Did you mean the distribution log_uniform_values"),
        ({"distribution": "normal", "sigma": 0}, "`sigma` of 'a' is 0; use a number above 0"),
        ({"distribution": "q_uniform", "min": 0, "max": 1, "q": 0}, "`q` of 'a' is 0"),
        ({"distribution": "uniform", "min": "low", "max": 1}, "`min` of 'a' is 'low'; use a number"),
        ({"min": 0, "max": 10**400}, "`max` of 'a' is 1000"),
        (
            {"distribution": "q_uniform", "min": 0.1, "max": 0.9},
            "none of 1 is from 0.1 to 0.9. Give a smaller `q` (it is 1 unless given), or wider bounds",
        ),
        ({"distribution": "q_log_uniform_values", "min": 1.2, "max": 1.8}, "none of 1 is from 1.2 to 1.8"),
        ({"distribution": "log_normal", "mu": 1000}, "`mu` (1000) and `sigma` (1) of parameter 'a' are those of the"),
        ({"distribution": "q_log_normal", "sigma": 200}, "up to e to the power of 1600. Give smaller ones"),
        ({"distribution": "uniform", "min": math.nan, "max": 1}, "use a number"),
    ],
)
def test_a_mistake_of_a_parameter_is_told(given: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError) as raised:
        _parameter(**given)
    assert message in str(raised.value)


@pytest.mark.parametrize(("text", "message"), [("a: [", "is not YAML"), ("- a", "must be a mapping"), ("", "must be")])
def test_what_is_no_config_is_told(text: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        parse_yaml(text)
