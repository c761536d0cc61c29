"""What a parameter may be: each kind draws a value by chance; most can also list their values, or stand on a scale.

The kinds are those of the public sweep configuration. A `Scale` maps [0, 1] onto its values, evenly likely: that is how
chance draws from it, and how a Bayesian search moves in it.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from random import Random
from statistics import NormalDist
from typing import TypeAlias

from protocol.json_types import Json

MAX_LISTED = 10_000_000
"""How many values a parameter of a grid may have."""


@dataclass(frozen=True, slots=True)
class Listed:
    """The values of a parameter in a row, each made when it is asked for: there may be many."""

    count: int
    at: Callable[[int], Json]


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few values."""

    values: Sequence[Json]
    weights: Sequence[float] | None = None

    def draw(self, random: Random) -> Json:
        """Return one by chance."""
        return random.choices(self.values, self.weights)[0]

    def listed(self) -> Listed:
        """Return all of them, each once."""
        distinct: dict[str, Json] = {}
        for value in self.values:
            distinct.setdefault(key(value), value)
        values = list(distinct.values())
        return Listed(len(values), lambda number: values[number])


@dataclass(frozen=True, slots=True)
class Integers:
    """Whole numbers from `low` to `high`, both included."""

    low: int
    high: int

    def draw(self, random: Random) -> Json:
        """Return one by chance."""
        return random.randint(self.low, self.high)

    def listed(self) -> Listed:
        """Return all of them."""
        return Listed(self.high - self.low + 1, lambda number: self.low + number)

    def at(self, position: float) -> Json:
        """Return the number at a place in [0, 1]."""
        return min(self.low + int(position * (self.high - self.low + 1)), self.high)

    def position(self, value: float) -> float:
        """Return the place of a number."""
        return (value - self.low + 0.5) / (self.high - self.low + 1)


@dataclass(frozen=True, slots=True)
class Scale:
    """Numbers, by the function that maps [0, 1] onto them, and its inverse."""

    quantile: Callable[[float], float] = field(repr=False)
    cdf: Callable[[float], float] = field(repr=False)
    low: float = -math.inf
    high: float = math.inf
    step: float | None = None
    """The values are multiples of this, if there is one."""

    def draw(self, random: Random) -> Json:
        """Return one by chance."""
        return self.at(random.random())

    def at(self, position: float) -> Json:
        """Return the number at a place in [0, 1]."""
        value = self.quantile(min(max(position, 1e-12), 1 - 1e-12))
        within = min(max(value, self.low), self.high)
        return within if self.step is None else _multiple(_rounded(within, self), self.step)

    def position(self, value: float) -> float:
        """Return the place of a number."""
        return self.cdf(min(max(value, self.low), self.high))

    def listed(self) -> Listed | None:
        """Return all of them, if they are not without number; there may be none between the bounds."""
        step = self.step
        if step is None or math.isinf(self.low) or math.isinf(self.high):
            return None
        first, last = _numbers(self)
        return Listed(max(last - first + 1, 0), lambda number: _multiple(first + number, step))


@dataclass(frozen=True, slots=True)
class Beta:
    """Numbers of a beta distribution, which has no simple quantile: they are drawn, and not searched."""

    a: float
    b: float
    step: float | None = None

    def draw(self, random: Random) -> Json:
        """Return one by chance."""
        value = random.betavariate(self.a, self.b)
        return value if self.step is None else _multiple(round(value / self.step), self.step)

    def listed(self) -> Listed | None:
        """Return None: they are without number, or unevenly likely."""
        return None


def key(value: Json) -> str:
    """Return a text that two values share if they are the same in JSON, where 1.0 is 1 and true is not."""
    return json.dumps(_plain(value), sort_keys=True)


def _plain(value: Json) -> Json:
    # Whole numbers come back from clients as floats, and the other way round.
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value


Distribution: TypeAlias = Choice | Integers | Scale | Beta


def uniform(low: float, high: float, step: float | None = None) -> Scale:
    """Return evenly likely numbers."""
    return Scale(
        lambda place: low + place * (high - low),
        lambda value: (value - low) / (high - low) if high > low else 0.5,
        low,
        high,
        step,
    )


def log_uniform(low: float, high: float, step: float | None = None) -> Scale:
    """Return numbers whose logarithms are evenly likely; `low` and `high` are the numbers themselves."""
    start, length = math.log(low), math.log(high) - math.log(low)
    return Scale(
        lambda place: math.exp(start + place * length),
        lambda value: (math.log(value) - start) / length if length else 0.5,
        low,
        high,
        step,
    )


def inverse_log_uniform(low: float, high: float) -> Scale:
    """Return numbers like those of `log_uniform`, from high to low."""
    forth = log_uniform(low, high)
    return Scale(lambda place: forth.quantile(1 - place), lambda value: 1 - forth.cdf(value), low, high)


def normal(mu: float, sigma: float, step: float | None = None) -> Scale:
    """Return normally distributed numbers."""
    bell = NormalDist(mu, sigma)
    return Scale(bell.inv_cdf, bell.cdf, step=step)


def log_normal(mu: float, sigma: float, step: float | None = None) -> Scale:
    """Return numbers whose logarithms are normally distributed."""
    bell = NormalDist(mu, sigma)
    return Scale(
        lambda place: math.exp(bell.inv_cdf(place)),
        lambda value: bell.cdf(math.log(value)) if value > 0 else 0.0,
        low=0.0,
        step=step,
    )


def _rounded(value: float, scale: Scale) -> int:
    """Return which multiple of the step is nearest, of those within the bounds."""
    assert scale.step is not None
    nearest = round(Decimal(value) / Decimal(str(scale.step)))
    if math.isinf(scale.high):
        return nearest if math.isinf(scale.low) else max(nearest, math.ceil(scale.low / scale.step))
    first, last = _numbers(scale)
    return min(max(nearest, first), last)


def _numbers(scale: Scale) -> tuple[int, int]:
    """Return the first and the last multiple of the step within the bounds; the last is below if there is none."""
    step = Decimal(str(scale.step))
    first = math.ceil(Decimal(str(scale.low)) / step)
    last = math.floor(Decimal(str(scale.high)) / step)
    return first, last


def _multiple(number: int, step: float) -> Json:
    """Return a multiple without the noise of binary fractions; whole if the step is."""
    exact = number * Decimal(str(step))
    return int(exact) if float(step).is_integer() else float(exact)
