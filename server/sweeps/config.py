"""Sweep configs: read from YAML, checked, and understood. Every complaint names the key, and says what to write."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, cast

from protocol.json_types import Json, JsonObject
from server.errors import RequestError
from server.sweeps import distributions as d
from server.sweeps import yaml_text
from server.sweeps.distributions import Distribution

METHODS: Final = ("grid", "random", "bayes", "custom")
GOALS: Final = ("minimize", "maximize")
MAX_LOOKS: Final = 100
LAST_LOOK: Final = 10**9
"""No run has more points of history than this."""


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
    value = yaml_text.load(text)
    if not isinstance(value, Mapping):
        raise RequestError(f"The sweep's config must be a mapping with `method` and `parameters`, not {value!r}.")
    return value


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
    cap = None if raw.get("run_cap") is None else _count(raw, "The sweep's `run_cap`", "run_cap")
    if method == "grid":
        for parameter in parameters:
            _must_be_listed(parameter)
    config = SweepConfig(str(method), metric, parameters, cap, _early_stop(raw, metric))
    return ParsedSweep(config, _warnings(config))


def expected_runs(config: SweepConfig) -> int | None:
    """Return how many runs the sweep makes; None if it goes on for ever."""
    if config.method != "grid":
        return config.run_cap
    columns = [parameter.distribution.listed() for parameter in config.parameters]
    size = math.prod(column.count for column in columns if column is not None)
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


def _count(given: JsonObject, what: str, key: str) -> int:
    count = given.get(key)
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise RequestError(f"{what} is {count!r}; use a whole number from 1 on.")
    return count


def _early_stop(raw: JsonObject, metric: Metric | None) -> EarlyStop | None:
    given = raw.get("early_terminate")
    if given is None:
        return None
    if not isinstance(given, Mapping) or given.get("type") not in ("hyperband", "envelope"):
        raise RequestError(f"The sweep's `early_terminate` must be a mapping with `type: hyperband`, not {given!r}.")
    if given["type"] == "envelope":
        raise RequestError("`early_terminate` of type 'envelope' is not known here. Use `type: hyperband`.")
    if metric is None:
        raise RequestError("`early_terminate` needs the sweep's `metric`, to compare the runs.")
    eta = _number(given, "early_terminate", "eta", 3, above=1)
    strict = given.get("strict", False)
    if not isinstance(strict, bool):
        raise RequestError(f"The `strict` of early_terminate is {strict!r}; use true or false.")
    return EarlyStop(_looks(given, eta), eta, strict)


def _looks(given: JsonObject, eta: float) -> Sequence[int]:
    """Return after how many points of history runs are compared."""
    lowest, highest = given.get("min_iter"), given.get("max_iter")
    if (lowest is None) == (highest is None):
        raise RequestError("`early_terminate` needs either `min_iter`, or `max_iter` with `s`.")
    if lowest is not None:
        first = _number(given, "early_terminate", "min_iter", 1, above=0)
        looks = itertools.accumulate(
            itertools.repeat(eta, MAX_LOOKS - 1), lambda look, factor: look * factor, initial=first
        )
        return sorted({max(round(look), 1) for look in looks if look <= LAST_LOOK})
    last = _number(given, "early_terminate", "max_iter", 1, above=0)
    brackets = _count(given, "The `s` of early_terminate", "s") if "s" in given else 1
    parts = itertools.accumulate(
        itertools.repeat(eta, min(brackets, MAX_LOOKS)), lambda part, by: part / by, initial=last
    )
    return sorted({max(int(part), 1) for part in itertools.islice(parts, 1, None)})


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
    given_weights = list(weights) if isinstance(weights, Sequence) and not isinstance(weights, str) else []
    chances = [number for weight in given_weights if (number := _finite(weight)) is not None and number >= 0]
    if not len(values) == len(given_weights) == len(chances):
        raise RequestError(
            f"The `probabilities` of parameter {name} must be as many numbers from 0 on as it has values "
            f"({len(values)}), not {weights!r}."
        )
    if abs(sum(chances) - 1) > 1e-6:
        raise RequestError(f"The `probabilities` of parameter {name} add up to {sum(chances):g}, not to 1.")
    return d.Choice(list(values), chances)


def _integers(name: str, given: JsonObject) -> Distribution:
    low, high = _bounds(name, given)
    if not low.is_integer() or not high.is_integer():
        raise RequestError(f"Parameter {name} has whole numbers, so `min` and `max` must be whole too.")
    exact = [given[key] if _is_whole(given[key]) else bound for key, bound in (("min", low), ("max", high))]
    return d.Integers(*(int(cast("float", bound)) for bound in exact))  # a float has not all digits of a long number


def _bounded(make: Callable[..., Distribution], *, stepped: bool = False, exponents: bool = False) -> "_Maker":
    def distribution(name: str, given: JsonObject) -> Distribution:
        low, high = _bounds(name, given)
        if exponents:
            low, high = _exponential(name, low), _exponential(name, high)
        elif make is not d.uniform and low <= 0:
            raise RequestError(f"The `min` of parameter {name} is {low:g}; on a logarithmic scale it must be above 0.")
        return _stepped(name, make, low, high, _step(name, given)) if stepped else make(low, high)

    return distribution


def _stepped(name: str, make: Callable[..., Distribution], low: float, high: float, step: float) -> Distribution:
    distribution = make(low, high, step)
    listed = distribution.listed()
    if listed is not None and not listed.count:
        raise RequestError(
            f"Parameter {name} takes multiples of its step `q`, and none of {step:g} is from {low:g} to {high:g}. Give "
            "a smaller `q` (it is 1 unless given), or wider bounds."
        )
    return distribution


def _inverted(name: str, given: JsonObject) -> Distribution:
    low, high = _bounds(name, given)
    return d.inverse_log_uniform(_exponential(name, -high), _exponential(name, -low))


def _bell(make: Callable[..., Distribution], *, stepped: bool = False, exponents: bool = False) -> "_Maker":
    def distribution(name: str, given: JsonObject) -> Distribution:
        mu, sigma = _number(given, name, "mu", 0), _number(given, name, "sigma", 1, above=0)
        if exponents and mu + _FAR * sigma > _MAX_EXPONENT:
            raise RequestError(
                f"The `mu` ({mu:g}) and `sigma` ({sigma:g}) of parameter {name} are those of the values' logarithm, "
                f"which makes values of up to e to the power of {mu + _FAR * sigma:g}. Give smaller ones."
            )
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
    number = _finite(value)
    if number is None:
        raise RequestError(f"The `{key}` of {name} is {value!r}; use a number.")
    if above is not None and number <= above:
        raise RequestError(f"The `{key}` of {name} is {number:g}; use a number above {above:g}.")
    return number


def _finite(value: Json) -> float | None:
    """Return a number, also one in text: YAML reads 1e-3, which has no point, as text."""
    if not isinstance(value, int | float | str) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _must_be_listed(parameter: Parameter) -> None:
    values = parameter.distribution.listed()
    if values is None:
        raise RequestError(
            f"Parameter {_shown(parameter.path)} has values without number, so no grid can go through them. Give "
            "`values`, whole `min` and `max`, or a q_uniform with a step `q`; or use method 'random'."
        )
    if values.count > d.MAX_LISTED:
        raise RequestError(
            f"Parameter {_shown(parameter.path)} has {values.count:,} values, too many for a grid. Narrow it, or use "
            "method 'random'."
        )


def _warnings(config: SweepConfig) -> Sequence[str]:
    if config.method != "bayes":
        return []
    warnings: list[str] = []
    for parameter in config.parameters:
        if isinstance(parameter.distribution, d.Beta):
            warnings.append(
                f"Parameter {_shown(parameter.path)} is drawn by chance: a beta distribution is not searched."
            )
        elif isinstance(parameter.distribution, d.Choice) and parameter.distribution.weights:
            warnings.append(
                f"The `probabilities` of parameter {_shown(parameter.path)} are not used: method 'bayes' learns them."
            )
    return warnings


def _shown(path: tuple[str, ...]) -> str:
    return repr(".".join(path))


_MAX_EXPONENT: Final = 700
"""e to the power of this is a float; a little more is not."""
_FAR: Final = 8
"""In sigmas: no draw is farther from its mean."""
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
    "log_normal": _bell(d.log_normal, exponents=True),
    "q_log_normal": _bell(d.log_normal, stepped=True, exponents=True),
    "beta": _beta(),
    "q_beta": _beta(stepped=True),
}
