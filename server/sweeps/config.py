"""Sweep configs: read from YAML, checked, and understood. Every complaint names the key, and says what to write."""

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, cast

import yaml

from protocol.json_types import Json, JsonObject
from server.errors import RequestError
from server.sweeps import distributions as d
from server.sweeps.distributions import Distribution

METHODS: Final = ("grid", "random", "bayes", "custom")
GOALS: Final = ("minimize", "maximize")


@dataclass(frozen=True, slots=True)
class Metric:
    """What a sweep tries to make small or big."""

    name: str
    goal: str

    @property
    def sign(self) -> int:
        """1 if small is good, -1 if big is."""
        return 1 if self.goal == "minimize" else -1


@dataclass(frozen=True, slots=True)
class EarlyStop:
    """When Hyperband looks at the runs, in points of their history; `eta` says which part of them goes on."""

    looks: Sequence[int]
    eta: float
    strict: bool


@dataclass(frozen=True, slots=True)
class Parameter:
    """A leaf of the parameters."""

    path: tuple[str, ...]
    """Its name, behind the names of the groups that it is in."""
    distribution: Distribution


@dataclass(frozen=True, slots=True)
class SweepConfig:
    """What a sweep's config asks for."""

    method: str
    metric: Metric | None
    parameters: Sequence[Parameter]
    run_cap: int | None
    early_stop: EarlyStop | None


class ParsedSweep(NamedTuple):
    """A config, and what its author should know about it."""

    config: SweepConfig
    warnings: Sequence[str]


def parse_yaml(text: str) -> JsonObject:
    """Read a config's YAML; `RequestError` if it cannot be read or is not a mapping."""
    try:
        value: Any = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RequestError(f"The sweep's config is not YAML: {error}.") from error
    if not isinstance(value, Mapping):
        raise RequestError(f"The sweep's config must be a mapping with `method` and `parameters`, not {value!r}.")
    return cast("JsonObject", value)


def parse(raw: JsonObject) -> ParsedSweep:
    """Understand a config; `RequestError` names the first thing that is wrong with it. Unknown keys are left alone."""
    method = raw.get("method")
    if method not in METHODS:
        raise RequestError(f"The sweep's `method` is {method!r}; use one of: {', '.join(METHODS)}.")
    metric = _metric(raw)
    if method == "bayes" and metric is None:
        raise RequestError(
            "A sweep with method 'bayes' needs a `metric` with a `name`, and a `goal` (minimize or maximize), to learn "
            "from its runs."
        )
    parameters = _parameters(raw, required=method != "custom")
    if method == "grid":
        for parameter in parameters:
            _must_be_listed(parameter)
    config = SweepConfig(str(method), metric, parameters, _run_cap(raw), _early_stop(raw, metric))
    return ParsedSweep(config, _warnings(config))


def expected_runs(config: SweepConfig) -> int | None:
    """Return how many runs the sweep makes; None if it goes on for ever."""
    if config.method != "grid":
        return config.run_cap
    size = math.prod(len(parameter.distribution.listed() or ()) for parameter in config.parameters)
    return size if config.run_cap is None else min(size, config.run_cap)


def _metric(raw: JsonObject) -> Metric | None:
    given = raw.get("metric")
    if given is None:
        return None
    if not isinstance(given, Mapping) or not isinstance(given.get("name"), str) or not given["name"]:
        raise RequestError(f"The sweep's `metric` must be a mapping with a `name`, not {given!r}.")
    goal = given.get("goal", "minimize")
    if goal not in GOALS:
        raise RequestError(f"The `goal` of the sweep's metric is {goal!r}; use one of: {', '.join(GOALS)}.")
    return Metric(str(given["name"]), str(goal))


def _run_cap(raw: JsonObject) -> int | None:
    cap = raw.get("run_cap")
    if cap is None:
        return None
    if not isinstance(cap, int) or isinstance(cap, bool) or cap < 1:
        raise RequestError(f"The sweep's `run_cap` is {cap!r}; use a whole number from 1 on.")
    return cap


def _early_stop(raw: JsonObject, metric: Metric | None) -> EarlyStop | None:
    given = raw.get("early_terminate")
    if given is None:
        return None
    if not isinstance(given, Mapping) or given.get("type") not in {"hyperband", "envelope"}:
        raise RequestError(f"The sweep's `early_terminate` must be a mapping with `type: hyperband`, not {given!r}.")
    if given["type"] == "envelope":
        raise RequestError("`early_terminate` of type 'envelope' is not known here. Use `type: hyperband`.")
    if metric is None:
        raise RequestError("`early_terminate` needs the sweep's `metric`, to compare the runs.")
    eta = _number(given, "early_terminate", "eta", 3, above=1)
    return EarlyStop(_looks(given, eta), eta, bool(given.get("strict", False)))


def _looks(given: JsonObject, eta: float) -> Sequence[int]:
    """Return after how many points of history runs are compared."""
    lowest, highest = given.get("min_iter"), given.get("max_iter")
    if (lowest is None) == (highest is None):
        raise RequestError("`early_terminate` needs either `min_iter`, or `max_iter` with `s`.")
    if lowest is not None:
        first = _number(given, "early_terminate", "min_iter", 1, above=0)
        return [round(first * eta**power) for power in range(20)]
    last = _number(given, "early_terminate", "max_iter", 1, above=0)
    brackets = int(_number(given, "early_terminate", "s", 1, above=0))
    return sorted({max(int(last / eta**power), 1) for power in range(1, brackets + 1)})


def _parameters(raw: JsonObject, *, required: bool) -> Sequence[Parameter]:
    given = raw.get("parameters")
    if given is None and not required:
        return []
    if not isinstance(given, Mapping) or not given:
        raise RequestError(f"The sweep's `parameters` must be a mapping of at least one parameter, not {given!r}.")
    return list(_leaves(cast("JsonObject", given), ()))


def _leaves(group: JsonObject, path: tuple[str, ...]) -> Sequence[Parameter]:
    found: list[Parameter] = []
    for name, given in group.items():
        here = (*path, str(name))
        if not isinstance(given, Mapping):
            raise RequestError(
                f"Parameter {_shown(here)} must be a mapping, such as {{value: {given!r}}} or {{min: 0, max: 1}}, "
                f"not {given!r}."
            )
        inner = given.get("parameters")
        if isinstance(inner, Mapping):
            found += _leaves(cast("JsonObject", inner), here)
        else:
            found.append(Parameter(here, _distribution(_shown(here), cast("JsonObject", given))))
    return found


def _distribution(name: str, given: JsonObject) -> Distribution:
    kind = given.get("distribution") or _inferred(name, given)
    make = _KINDS.get(str(kind))
    if make is None:
        raise RequestError(f"The `distribution` of parameter {name} is {kind!r}; use one of: {', '.join(_KINDS)}.")
    return make(name, given)


def _inferred(name: str, given: JsonObject) -> str:
    """Return which distribution is meant where none is named."""
    if "value" in given:
        return "constant"
    if "values" in given:
        return "categorical"
    if "min" in given and "max" in given:
        return "int_uniform" if all(_is_whole(given[key]) for key in ("min", "max")) else "uniform"
    if "mu" in given or "sigma" in given:
        return "normal"
    raise RequestError(f"Parameter {name} says nothing of its values. Give `value`, `values`, or `min` and `max`.")


def _is_whole(value: Json) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _constant(name: str, given: JsonObject) -> Distribution:
    if "value" not in given:
        raise RequestError(f"Parameter {name} is constant, but has no `value`.")
    return d.Choice([given["value"]])


def _choice(name: str, given: JsonObject) -> Distribution:
    values, weights = given.get("values"), given.get("probabilities")
    if not isinstance(values, Sequence) or isinstance(values, str) or not values:
        raise RequestError(f"The `values` of parameter {name} must be a list of at least one, not {values!r}.")
    if weights is None:
        return d.Choice(list(values))
    numbers = list(weights) if isinstance(weights, Sequence) and not isinstance(weights, str) else []
    if len(numbers) != len(values) or not all(isinstance(weight, int | float) and weight >= 0 for weight in numbers):
        raise RequestError(
            f"The `probabilities` of parameter {name} must be as many numbers from 0 on as it has values "
            f"({len(values)}), not {weights!r}."
        )
    chances = [float(cast("float", weight)) for weight in numbers]
    if abs(sum(chances) - 1) > 1e-6:
        raise RequestError(f"The `probabilities` of parameter {name} add up to {sum(chances):g}, not to 1.")
    return d.Choice(list(values), chances)


def _integers(name: str, given: JsonObject) -> Distribution:
    low, high = _bounds(name, given)
    if not low.is_integer() or not high.is_integer():
        raise RequestError(f"Parameter {name} has whole numbers, so `min` and `max` must be whole too.")
    return d.Integers(int(low), int(high))


def _bounded(make: Callable[..., Distribution], *, stepped: bool = False, exponents: bool = False) -> "_Maker":
    def distribution(name: str, given: JsonObject) -> Distribution:
        low, high = _bounds(name, given)
        if exponents:
            low, high = _exponential(name, low), _exponential(name, high)
        elif make is not d.uniform and low <= 0:
            raise RequestError(f"The `min` of parameter {name} is {low:g}; on a logarithmic scale it must be above 0.")
        return make(low, high, _step(name, given)) if stepped else make(low, high)

    return distribution


def _inverted(name: str, given: JsonObject) -> Distribution:
    low, high = _bounds(name, given)
    return d.inverse_log_uniform(_exponential(name, -high), _exponential(name, -low))


def _bell(make: Callable[..., Distribution], *, stepped: bool = False) -> "_Maker":
    def distribution(name: str, given: JsonObject) -> Distribution:
        mu, sigma = _number(given, name, "mu", 0), _number(given, name, "sigma", 1, above=0)
        return make(mu, sigma, _step(name, given)) if stepped else make(mu, sigma)

    return distribution


def _beta(*, stepped: bool = False) -> "_Maker":
    def distribution(name: str, given: JsonObject) -> Distribution:
        a, b = _number(given, name, "a", 1, above=0), _number(given, name, "b", 1, above=0)
        return d.Beta(a, b, _step(name, given) if stepped else None)

    return distribution


def _bounds(name: str, given: JsonObject) -> tuple[float, float]:
    for key in ("min", "max"):
        if key not in given:
            raise RequestError(f"Parameter {name} needs `min` and `max`; `{key}` is missing.")
    low, high = _number(given, name, "min", 0), _number(given, name, "max", 1)
    if low > high:
        raise RequestError(f"The `min` of parameter {name} is {low:g}, which is above its `max`, {high:g}.")
    return low, high


def _exponential(name: str, exponent: float) -> float:
    try:
        value = math.exp(exponent)
    except OverflowError:
        value = 0.0
    if not value:
        raise RequestError(
            f"The bounds of parameter {name} are exponents, and e to the power of {exponent:g} cannot be used. Did you "
            "mean the distribution log_uniform_values, whose bounds are the values themselves?"
        )
    return value


def _step(name: str, given: JsonObject) -> float:
    return _number(given, name, "q", 1, above=0)


def _number(given: JsonObject, name: str, key: str, default: float, *, above: float | None = None) -> float:
    value = given.get(key, default)
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = float(value)  # YAML reads 1e-3, which has no point, as text
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise RequestError(f"The `{key}` of {name} is {value!r}; use a number.")
    if above is not None and value <= above:
        raise RequestError(f"The `{key}` of {name} is {value:g}; use a number above {above:g}.")
    return float(value)


def _must_be_listed(parameter: Parameter) -> None:
    values = parameter.distribution.listed()
    if values is None:
        raise RequestError(
            f"Parameter {_shown(parameter.path)} has values without number, so no grid can go through them. Give "
            "`values`, whole `min` and `max`, or a q_uniform with a step `q`; or use method 'random'."
        )
    if len(values) > d.MAX_LISTED:
        raise RequestError(f"Parameter {_shown(parameter.path)} has {len(values):,} values, too many for a grid.")


def _warnings(config: SweepConfig) -> Sequence[str]:
    return [
        f"Parameter {_shown(parameter.path)} is drawn by chance: a beta distribution is not searched."
        for parameter in config.parameters
        if config.method == "bayes" and isinstance(parameter.distribution, d.Beta)
    ]


def _shown(path: tuple[str, ...]) -> str:
    return repr(".".join(path))


_Maker = Callable[[str, JsonObject], Distribution]
_KINDS: Final[Mapping[str, _Maker]] = {
    "constant": _constant,
    "categorical": _choice,
    "categorical_w_probabilities": _choice,
    "int_uniform": _integers,
    "uniform": _bounded(d.uniform),
    "q_uniform": _bounded(d.uniform, stepped=True),
    "log_uniform": _bounded(d.log_uniform, exponents=True),
    "log_uniform_values": _bounded(d.log_uniform),
    "q_log_uniform": _bounded(d.log_uniform, stepped=True, exponents=True),
    "q_log_uniform_values": _bounded(d.log_uniform, stepped=True),
    "inv_log_uniform": _inverted,
    "inv_log_uniform_values": _bounded(d.inverse_log_uniform),
    "normal": _bell(d.normal),
    "q_normal": _bell(d.normal, stepped=True),
    "log_normal": _bell(d.log_normal),
    "q_log_normal": _bell(d.log_normal, stepped=True),
    "beta": _beta(),
    "q_beta": _beta(stepped=True),
}
