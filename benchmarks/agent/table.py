"""Measures, and the Markdown table of what came out."""

import os
import platform
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured."""

    quick: bool

    def of(self, full: int, quick: int) -> int:
        """Return one number of the two."""
        return quick if self.quick else full


Values = tuple[float, ...]
Cell = Callable[[Path, Scale], Awaitable[Values]]
"""Measures one contestant, in an empty folder."""


@dataclass(frozen=True, slots=True)
class Measure:
    """One row of the table."""

    name: str
    what: str
    form: str
    """How the values are shown."""
    asked: Values
    ours: Cell
    stock: Cell | None = None
    bare: Cell | None = None
    more_is_better: bool = False
    limit_seconds: float = 180

    @property
    def asked_text(self) -> str:
        """Return what is asked."""
        return ("at least " if self.more_is_better else "at most ") + self.form.format(*self.asked)

    def reached(self, values: Values) -> bool:
        """Whether that is what was asked."""
        pairs = zip(values, self.asked, strict=True)
        return all(got >= wanted if self.more_is_better else got <= wanted for got, wanted in pairs)


@dataclass(slots=True)
class Row:
    """What came out of a measure: values, or why there are none."""

    measure: Measure
    cells: dict[str, Values | str] = field(default_factory=dict[str, Values | str])

    def text(self, contestant: str) -> str:
        """Return what stands in a cell."""
        found = self.cells.get(contestant, "-")
        return found if isinstance(found, str) else self.measure.form.format(*found)

    @property
    def verdict(self) -> str:
        """Return what stands in the cell of ours."""
        found = self.cells.get("ours", "-")
        missed = isinstance(found, str) or not self.measure.reached(found)
        return self.text("ours") + (" (**not reached**)" if missed else "")


def machine() -> str:
    """Return what there is to know of the machine."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("launchbay", "wandb"))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores, {memory:.0f} GiB, Linux {platform.release()}, Python {sys.version.split()[0]}, {versions}"


def markdown(rows: Sequence[Row]) -> str:
    """Return the table."""
    lines = ["| measure | asked | Launchbay | stock agent | bare spawns |", "| --- | --- | --- | --- | --- |"]
    lines += [
        f"| {row.measure.what} | {row.measure.asked_text} | {row.verdict} | {row.text('stock')} | {row.text('bare')} |"
        for row in rows
    ]
    return "\n".join(lines)
