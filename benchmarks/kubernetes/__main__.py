"""What the kubernetes backend is measured by, with a tight loop of bare API calls on the same control plane.

    python -m benchmarks.kubernetes [--quick] [--only NAME ...]

Each measure has a control plane of its own, which has the programs that the tests have (`tests/cluster/programs.py`);
pods are played, by the API alone. Machines are noisy, and the control plane has the same cores: compare the columns of
one run. What exactly is counted stands at each measure, in `creation.py` and `agents.py`. Nothing here judges: the exit
code is 0, whatever comes out.
"""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.agent.table import Scale, Values, machine
from benchmarks.kubernetes import agents, creation
from benchmarks.processes import end_all, nothing_left
from tests.cluster import control_plane


@dataclass(frozen=True, slots=True)
class Measure:
    """One row of the table."""

    name: str
    what: str
    asked: str
    form: str
    """How the values are shown."""
    measure: Callable[[Path, Scale], Awaitable[Values]]
    limit_seconds: float = 600


MEASURES = (
    Measure(
        "creation",
        "launches made per second (1,000 in ten rounds); bare API calls; ratio",
        "at least 0.90",
        "{:.0f}; {:.0f}; {:.2f}",
        creation.creation,
    ),
    Measure(
        "endings",
        "end of a pod to end of its item on the server, p50 / p99 (300 launches)",
        "at most 50 / 500 ms",
        "{:.0f} / {:.0f} ms",
        agents.endings,
    ),
    Measure(
        "tracked",
        "10,000 running Jobs, found at the agent's start (copies of one that it has started): "
        "watches per kind and namespace; RSS; relist; CPU while none changes; end of a pod to end of its item, p50",
        "at most 2; 300 MiB; 5.0 s",
        "{:.0f}; {:.0f} MiB; {:.1f} s; {:.1f}%; {:.0f} ms",
        agents.tracked,
        limit_seconds=3600,
    ),
    Measure(
        "restart",
        "restart with 1,000 running Jobs to all adopted; lost; duplicated",
        "at most 5.0 s; 0; 0",
        "{:.1f} s; {:.0f}; {:.0f}",
        agents.restart,
    ),
)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer launches: a look, and no figures to quote")
    names = [measure.name for measure in MEASURES]
    parser.add_argument("--only", action="append", choices=names, help="this measure; several times for several")
    options = parser.parse_args()
    if why := control_plane.missing():
        sys.exit(f"There is no control plane here: {why}")
    lines = ["| measure | asked | Launchbay |", "| --- | --- | --- |"]
    try:
        with tempfile.TemporaryDirectory(prefix="launchbay-benchmark-") as folder, nothing_left():
            for measure in MEASURES:
                if not options.only or measure.name in options.only:
                    print(f"{measure.name} ...", end=" ", file=sys.stderr, flush=True)
                    found = asyncio.run(bounded(measure, Path(folder) / measure.name, Scale(options.quick)))
                    print(found, file=sys.stderr, flush=True)
                    lines.append(f"| {measure.what} | {measure.asked} | {found} |")
                    end_all()
    except KeyboardInterrupt:
        print("interrupted; this is what there is", file=sys.stderr)
    print(f"{machine()}{', quick' if options.quick else ''}\n", *lines, sep="\n")


async def bounded(measure: Measure, folder: Path, scale: Scale) -> str:
    """Return what a measure found, or what went wrong."""
    folder.mkdir()
    try:
        async with asyncio.timeout(measure.limit_seconds):
            return measure.form.format(*await measure.measure(folder, scale))
    except TimeoutError:
        return f"nothing within {measure.limit_seconds:.0f} s"
    except Exception as error:  # noqa: BLE001 -- one measure that fails must not take the others along
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return f"failed: {type(error).__name__}"


if __name__ == "__main__":
    main()
