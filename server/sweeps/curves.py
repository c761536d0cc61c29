"""How the metric of a sweep went in its runs. Runs are looked at again and again, so each line is read once."""

from collections.abc import Sequence
from dataclasses import dataclass, field

MAX_CURVES = 5_000


@dataclass(slots=True)
class Curve:
    """The metric of one run, point by point, as far as its history was read."""

    values: list[float] = field(default_factory=list[float])
    next_line: int = 0


class Curves:
    """Curves by run and metric; those that nobody has asked for longest are forgotten, and read again if need be."""

    def __init__(self) -> None:
        self._curves: dict[tuple[int, str], Curve] = {}

    def of(self, run_id: int, metric: str, history_lines: int) -> Curve:
        """Return a run's curve as it is known. One of a history that is shorter by now starts anew."""
        curve = self._curves.pop((run_id, metric), None)
        if curve is None or curve.next_line > history_lines:
            curve = Curve()
        self._curves[run_id, metric] = curve
        while len(self._curves) > MAX_CURVES:
            del self._curves[next(iter(self._curves))]
        return curve

    def extend(self, curve: Curve, values: Sequence[float], next_line: int) -> None:
        """Add what was read up to a line; no effect if somebody else was faster."""
        if next_line > curve.next_line:
            curve.values.extend(values)
            curve.next_line = next_line
