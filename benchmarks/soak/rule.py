"""When something counts as growing: the stated rule of the soak.

Samples are taken at quiet moments, when everything that was pushed is over: what is there then stays there. The level
of a quarter is the median of its samples. Something is growing if the level of the last quarter is above that of the
first by more than its tolerance. The first samples, while caches fill and pools come to their size, are left out: a
tenth.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

FEWEST_SAMPLES = 8
WARMING_UP = 0.1
"""The part of the samples that is left out, at the front."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How much more there may be at the end than at the beginning."""

    absolute: float
    relative: float = 0

    def allows(self, first: float, last: float) -> bool:
        """Whether this is no growth."""
        return last - first <= self.absolute + self.relative * first


TOLERANCES: Mapping[str, Tolerance] = {
    # An allocator gives pages back late, and the server's SQLite fills its page caches as the database grows: ten MiB
    # after some thousand jobs, and no more.
    "RSS MiB": Tolerance(2, 0.05),
    # Idle connections are kept for a while, as many as were needed at once.
    "file descriptors": Tolerance(3),
    # A pool of threads has come to its size by then, or may get one more in a rare moment.
    "threads": Tolerance(1),
    "tasks": Tolerance(2),
}


@dataclass(frozen=True, slots=True)
class Trend:
    """What became of one thing of one process."""

    process: str
    what: str
    first: float
    """Level of the first quarter."""
    last: float
    """Level of the last quarter."""

    @property
    def is_growing(self) -> bool:
        """Whether it grows, by the rule."""
        return not TOLERANCES[self.what].allows(self.first, self.last)

    def __str__(self) -> str:
        """Return it as a line of a table."""
        verdict = "**growing**" if self.is_growing else "flat"
        return f"| {self.process} | {self.what} | {self.first:.1f} | {self.last:.1f} | {verdict} |"


Sample = Mapping[tuple[str, str], float]
"""By process and what was counted."""


def trends(samples: Sequence[Sample]) -> list[Trend]:
    """Compare the first and the last quarter; `ValueError` if there are too few samples for that."""
    if len(samples) < FEWEST_SAMPLES:
        raise ValueError(f"{len(samples)} samples say nothing about growth; it takes {FEWEST_SAMPLES}.")
    warm = samples[max(1, round(len(samples) * WARMING_UP)) :]
    size = max(1, len(warm) // 4)
    first, last = warm[:size], warm[-size:]
    return [
        Trend(process, what, _level(first, (process, what)), _level(last, (process, what))) for process, what in warm[0]
    ]


def _level(quarter: Sequence[Sample], key: tuple[str, str]) -> float:
    return median(sample[key] for sample in quarter)
