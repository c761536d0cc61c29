"""What automations ask of a metric: that it passes a threshold, changes by so much, or leaves what is usual. Pure.

A condition is asked at each value that is logged, of that value and those right before it, once there are as many as it
looks at.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import ge, gt, le, lt
from typing import Any, Protocol, TypeVar

from protocol.json_types import JsonObject
from server.errors import RequestError
from server.summaries import number_at

MAX_WINDOW = 1000
"""So many values of each watched run are kept."""


def _mean(values: Sequence[float]) -> float:
    try:
        return statistics.fmean(values)
    except OverflowError:  # their sum is beyond all floats, which their mean is not
        return math.fsum(value / len(values) for value in values)


_COMPARISONS: Mapping[str, Callable[[float, float], bool]] = {"$gt": gt, "$gte": ge, "$lt": lt, "$lte": le}
_AGGREGATES: Mapping[str | None, Callable[[Sequence[float]], float]] = {
    "MAX": max,
    "MIN": min,
    "AVERAGE": _mean,
    None: lambda values: values[-1],
}
_DIRECTIONS = ("INCREASE", "DECREASE", "ANY")
_CHANGES = ("ABSOLUTE", "RELATIVE")

T = TypeVar("T")


class Condition(Protocol):
    """Something that is asked of a metric."""

    @property
    def name(self) -> str:
        """Return the metric's."""
        ...

    @property
    def window(self) -> int:
        """Return how many values it looks at."""
        ...

    def holds(self, values: Sequence[float]) -> bool:
        """Whether it holds for this many values, the newest last."""
        ...


@dataclass(frozen=True, slots=True)
class Threshold:
    """The values, taken together, are above or below something."""

    name: str
    window: int
    aggregate: str | None
    comparison: str
    threshold: float

    def holds(self, values: Sequence[float]) -> bool:
        """See `Condition`."""
        return _COMPARISONS[self.comparison](_AGGREGATES[self.aggregate](values), self.threshold)


@dataclass(frozen=True, slots=True)
class Change:
    """The newest values, taken together, differ from those right before them, taken together."""

    name: str
    newest: int
    before: int
    aggregate: str | None
    kind: str
    direction: str
    amount: float

    @property
    def window(self) -> int:
        """See `Condition`."""
        return self.newest + self.before

    def holds(self, values: Sequence[float]) -> bool:
        """See `Condition`."""
        together = _AGGREGATES[self.aggregate]
        before = together(values[: self.before])
        change = together(values[self.before :]) - before
        if self.kind == "RELATIVE":
            if not before:
                return False
            change /= abs(before)
        return _directed(self.direction, change) >= self.amount


@dataclass(frozen=True, slots=True)
class ZScore:
    """The newest value is so many standard deviations away from the mean of those before it."""

    name: str
    usual: int
    direction: str
    threshold: float

    @property
    def window(self) -> int:
        """See `Condition`."""
        return self.usual + 1

    def holds(self, values: Sequence[float]) -> bool:
        """See `Condition`."""
        usual = values[:-1]
        if min(usual) == max(usual):  # their mean may be another number, as floats are not exact
            return False
        mean = _mean(usual)
        # Many times faster than the exact one of `statistics`, for which the whole server would wait.
        deviation = math.dist(usual, [mean] * len(usual)) / math.sqrt(len(usual))
        return deviation > 0 and _directed(self.direction, (values[-1] - mean) / deviation) >= self.threshold


@dataclass(frozen=True, slots=True)
class Seen:
    """How far a condition has come with a run."""

    values: Sequence[float] = ()
    """The last ones, one less than it looks at."""
    is_told: bool = False
    """Whether it has held; then it is not asked again while the run lives."""


def look(condition: Condition, seen: Seen, lines: Iterable[Mapping[str, Any]]) -> tuple[Seen, float | None]:
    """Go on with new lines of a history; gives the value at which the condition holds first, or None."""
    if seen.is_told:
        return seen, None
    values, needed = list(seen.values), condition.window
    for line in lines:
        value = number_at(line, condition.name)
        if value is None:
            continue
        values.append(value)
        if len(values) == needed:
            if condition.holds(values):
                return Seen(is_told=True), value
            values.pop(0)
    return Seen(values), None


def read(choice: JsonObject) -> Condition:
    """Read what is asked of a metric, as clients send it; `RequestError` if it cannot be asked."""
    match {kind: filters for kind, filters in choice.items() if filters is not None}:
        case {"threshold_filter": dict(told)}:
            aggregate = _one_of(told, "agg_op", _AGGREGATES)
            window = _window(told, "window_size", 1) if aggregate else 1
            comparison = _one_of(told, "cmp_op", _COMPARISONS)
            return Threshold(_name(told), window, aggregate, comparison, _number(told, "threshold"))
        case {"change_filter": dict(told)}:
            aggregate = _one_of(told, "agg_op", _AGGREGATES)
            newest = _window(told, "current_window_size", 1) if aggregate else 1
            before = _window(told, "prior_window_size", newest) if aggregate else 1
            kind, direction = _one_of(told, "change_type", _CHANGES), _one_of(told, "change_dir", _DIRECTIONS)
            return Change(_name(told), newest, before, aggregate, kind, direction, _number(told, "change_amount"))
        case {"zscore_filter": dict(told)}:
            usual, direction = _window(told, "window_size", 30), _one_of(told, "change_dir", _DIRECTIONS)
            return ZScore(_name(told), usual, direction, _number(told, "threshold"))
        case _:
            raise RequestError("The filter of a metric holds a threshold_filter, a change_filter or a zscore_filter.")


def _directed(direction: str, change: float) -> float:
    match direction:
        case "INCREASE":
            return change
        case "DECREASE":
            return -change
        case _:
            return abs(change)


def _name(told: Mapping[str, Any]) -> str:
    name = told.get("name")
    if not isinstance(name, str) or not name:
        raise RequestError("The filter of a metric must name it.")
    return name


def _one_of(told: Mapping[str, Any], key: str, allowed: Iterable[T]) -> Any:
    value, known = told.get(key), list(allowed)
    if value not in known:
        raise RequestError(f"The filter's {key} is one of {', '.join(map(str, known))}, not {value!r}.")
    return value


def _window(told: Mapping[str, Any], key: str, default: int) -> int:
    value = told.get(key)
    if value is None:
        return default
    if not isinstance(value, int) or not 0 < value <= MAX_WINDOW:
        raise RequestError(f"The filter's {key} is a whole number from 1 to {MAX_WINDOW}, not {value!r}.")
    return value


def _number(told: Mapping[str, Any], key: str) -> float:
    number = number_at(told, key)
    if number is None:
        raise RequestError(f"The filter's {key} is a number, not {told.get(key)!r}.")
    return number
