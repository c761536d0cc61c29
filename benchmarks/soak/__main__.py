"""Soak: jobs trickle through one agent and one server for a long time, and what the processes hold is compared.

    python -m benchmarks.soak [--minutes 30] [--round 20] [--pause 0.2] [--first 4000]

First come some thousand quick jobs, which fill the server's page caches. Then short jobs come one by one, of which some
fail, print, do not exist, are stopped or tried again. After each round, once all are over, RSS, file descriptors,
threads and tasks of the agent, its keeper and the server are counted (on standard error). At the end the first quarter
is compared with the last; `rule.py` says when something is growing. Exits with 1 if anything is.
"""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from benchmarks.processes import nothing_left
from benchmarks.soak.rule import Sample, trends
from benchmarks.soak.soak import Soaked, soak


def main() -> int:
    """Soak, print the comparison, and say by the exit code whether everything was flat."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30, help="how long jobs trickle in")
    parser.add_argument("--round", type=float, default=20, metavar="SECONDS", help="between two samples")
    parser.add_argument("--pause", type=float, default=0.2, metavar="SECONDS", help="between two jobs")
    parser.add_argument("--first", type=int, default=4000, metavar="JOBS", help="jobs before the first round")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="launchbay-soak-") as folder, nothing_left():
        soaked = asyncio.run(
            soak(
                Path(folder),
                options.minutes * 60,
                round_seconds=options.round,
                pause_seconds=options.pause,
                told=tell,
                first=options.first,
            )
        )
    return show(soaked)


def tell(sample: Sample) -> None:
    """Print a sample."""
    print(", ".join(f"{process} {what} {value:.1f}" for (process, what), value in sample.items()), file=sys.stderr)


def show(soaked: Soaked) -> int:
    """Print what came out; returns 1 if anything grows."""
    print(f"{soaked.pushed.total()} jobs, {len(soaked.samples)} samples at quiet moments; items by state: ", end="")
    print(", ".join(f"{count} {state}" for state, count in sorted(soaked.states.items())))
    print("\n| process | what | first quarter | last quarter | verdict |\n| --- | --- | --- | --- | --- |")
    found = trends(soaked.samples)
    for trend in found:
        print(trend)
    return int(any(trend.is_growing for trend in found))


if __name__ == "__main__":
    sys.exit(main())
