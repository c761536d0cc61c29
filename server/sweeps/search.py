"""What to try next. Everything follows from the config and the runs so far, so that any server can tell at any time."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, cast

from protocol.json_types import Json, JsonObject
from server.errors import RequestError
from server.sweeps.config import Parameter, SweepConfig
from server.sweeps.distributions import Beta, Choice, Listed, key

MAX_LEARNED_FROM = 1_000
"""How many of the newest runs a Bayesian search learns from; more take long and teach little."""
_RUNNING = frozenset({"pending", "running", "preempting"})


@dataclass(frozen=True, slots=True)
class PastRun:
    """A run of the sweep, or an earlier one that it learns from."""

    params: JsonObject
    """As in a run's config: `{"lr": {"value": 0.1}}`. Other keys are ignored."""
    state: str
    metric: float | None


def suggest(config: SweepConfig, past: Sequence[PastRun], random: Random) -> JsonObject | None:
    """Return the next parameters, `{"lr": {"value": 0.1}}`; None if there is nothing left to try.

    How many runs there may be (`run_cap`) is the caller's business.
    """
    match config.method:
        case "grid":
            values = _next_of_grid(config.parameters, past)
        case "bayes":
            values = _most_promising(config, past, random)
        case _:
            values = [parameter.distribution.draw(random) for parameter in config.parameters]
    if values is None:
        return None
    return _as_config(config.parameters, values)


def _next_of_grid(parameters: Sequence[Parameter], past: Sequence[PastRun]) -> Sequence[Json] | None:
    """Return the first combination that no run has had; the last parameter changes fastest."""
    columns = [listed for parameter in parameters if (listed := parameter.distribution.listed()) is not None]
    assert len(columns) == len(parameters), "the config was checked: every parameter of a grid can be listed"
    tried = {key(_values(parameters, run.params)) for run in past}
    for number in range(math.prod(column.count for column in columns)):
        combination = _combination(columns, number)
        if key(combination) not in tried:
            return combination
    return None


def _combination(columns: Sequence[Listed], number: int) -> Sequence[Json]:
    values: list[Json] = []
    for column in reversed(columns):
        number, index = divmod(number, column.count)
        values.append(column.at(index))
    return values[::-1]


def _most_promising(config: SweepConfig, past: Sequence[PastRun], random: Random) -> Sequence[Json]:
    """Let Optuna's tree-structured Parzen estimator learn from the past runs and choose."""
    try:
        import optuna
    except ImportError as error:
        raise RequestError(
            "Method 'bayes' needs one more package on the server: pip install 'launchbay[sweeps]'. Or use 'random'."
        ) from error
    assert config.metric is not None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    searched = [parameter for parameter in config.parameters if _is_searched(parameter)]
    scales: dict[str, Any] = {}
    for number, parameter in enumerate(searched):
        distribution = parameter.distribution
        scales[str(number)] = (
            optuna.distributions.CategoricalDistribution(range(len(distribution.values)))
            if isinstance(distribution, Choice)
            else optuna.distributions.FloatDistribution(0.0, 1.0)
        )
    sampler = optuna.samplers.TPESampler(seed=random.getrandbits(32), constant_liar=True)
    study = optuna.create_study(sampler=sampler)
    for run in past[-MAX_LEARNED_FROM:]:
        places = _places(searched, run)
        going_on = run.state in _RUNNING
        if places is None or not (going_on or (run.metric is not None and math.isfinite(run.metric))):
            continue
        study.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState.RUNNING if going_on else optuna.trial.TrialState.COMPLETE,
                params=places,
                distributions=scales,
                value=None if going_on else config.metric.sign * cast("float", run.metric),
            )
        )
    chosen: Mapping[str, Any] = study.ask(scales).params
    found = {parameter.path: chosen[str(number)] for number, parameter in enumerate(searched)}
    return [_value(parameter, found.get(parameter.path), random) for parameter in config.parameters]


def _is_searched(parameter: Parameter) -> bool:
    distribution = parameter.distribution
    return not isinstance(distribution, Beta) and not (
        isinstance(distribution, Choice) and len(distribution.values) == 1
    )


def _value(parameter: Parameter, place: float | None, random: Random) -> Json:
    distribution = parameter.distribution
    if place is None or isinstance(distribution, Beta):
        return distribution.draw(random)
    return distribution.values[int(place)] if isinstance(distribution, Choice) else distribution.at(place)


def _places(searched: Sequence[Parameter], run: PastRun) -> dict[str, float] | None:
    """Return where a run's values are on the scales; None if it had others."""
    places: dict[str, float] = {}
    for number, (parameter, value) in enumerate(zip(searched, _values(searched, run.params), strict=True)):
        distribution = parameter.distribution
        if isinstance(distribution, Choice):
            keys = [key(choice) for choice in distribution.values]
            if key(value) not in keys:
                return None
            places[str(number)] = keys.index(key(value))
        elif isinstance(value, int | float) and not isinstance(distribution, Beta):
            places[str(number)] = min(max(distribution.position(value), 0.0), 1.0)
        else:
            return None
    return places


def _values(parameters: Sequence[Parameter], params: JsonObject) -> Sequence[Json]:
    return [_get(params, parameter.path) for parameter in parameters]


def _get(params: JsonObject, path: tuple[str, ...]) -> Json:
    top = params.get(path[0])
    value: Json = top.get("value") if isinstance(top, Mapping) else None
    for name in path[1:]:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _as_config(parameters: Sequence[Parameter], values: Sequence[Json]) -> JsonObject:
    """Return values by their names, as a run's config has them."""
    tops: dict[str, Any] = {}
    for parameter, value in zip(parameters, values, strict=True):
        first, *rest = parameter.path
        if not rest:
            tops[first] = {"value": value}
            continue
        group = tops.setdefault(first, {"value": {}})["value"]
        for name in rest[:-1]:
            group = group.setdefault(name, {})
        group[rest[-1]] = value
    return tops
