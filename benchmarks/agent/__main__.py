"""The whole table that the agent is measured by, side by side in one run with the stock agent and with bare spawns.

    python -m benchmarks.agent [--quick] [--only NAME ...]

Both agents work for our server, each measure on a fresh one. Machines are noisy: compare the columns of one run, not
runs with each other. What exactly is counted stands at each measure, in `piles.py` and `standing.py`. Nothing here
judges: the exit code is 0, whatever comes out.
"""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from benchmarks.agent import piles, standing
from benchmarks.agent.contestants import OURS, STOCK
from benchmarks.agent.table import Cell, Measure, Row, Scale, Values, machine, markdown
from benchmarks.processes import end_all, nothing_left

MEASURES = (
    Measure(
        "limited",
        "no-op jobs per second, `max_jobs: 8` (2,000 jobs; stock agent 32)",
        "{:.1f}",
        (150,),
        piles.limited(OURS),
        piles.limited(STOCK),
        piles.limited_bare,
        more_is_better=True,
    ),
    Measure(
        "unlimited",
        "starts / ends per second, no limit, 50 jobs queued beforehand",
        "{:.0f} / {:.0f}",
        (300, 150),
        piles.unlimited(OURS),
        piles.unlimited(STOCK),
        piles.unlimited_bare,
        more_is_better=True,
    ),
    Measure(
        "code",
        "starts per second, 50 jobs from one code artifact, environment cached",
        "{:.1f}",
        (50,),
        piles.code(OURS),
        piles.code(STOCK),
        piles.code_bare,
        more_is_better=True,
    ),
    Measure(
        "latency",
        "enqueue to process start, idle agent, p50 / p99 (300 jobs; stock agent 15)",
        "{:.0f} / {:.0f} ms",
        (20, 100),
        piles.latency(OURS),
        piles.latency(STOCK),
        piles.latency_bare,
        limit_seconds=300,
    ),
    Measure(
        "cached",
        "a cached job against one without code: its process starts later by (p50; 150 of each in turns)",
        "{:.0f} ms",
        (100,),
        piles.cached,
        limit_seconds=300,
    ),
    Measure(
        "stop",
        "a user's stop to SIGTERM in the job, p50 / p99 (100 jobs)",
        "{:.0f} / {:.0f} ms",
        (1000, 1000),
        piles.stopping,
    ),
    Measure(
        "cpu",
        "agent CPU per no-op job (1,000 jobs; stock agent 50)",
        "{:.1f} ms",
        (5,),
        piles.cpu(OURS),
        piles.cpu(STOCK),
        piles.cpu_bare,
    ),
    Measure(
        "tracked",
        "RSS / CPU with 10,000 launches of which none changes",
        "{:.0f} MiB / {:.1f}%",
        (300, 10),
        standing.tracked,
        limit_seconds=600,
    ),
    Measure(
        "restart",
        "restart with 1,000 running launches to all adopted",
        "{:.1f} s",
        (5,),
        standing.restart,
        limit_seconds=300,
    ),
    Measure(
        "version",
        "`launchbay --version`; `wandb --version`; `python -c pass`",
        "{:.0f} ms",
        (150,),
        standing.version("launchbay", "--version"),
        standing.version("wandb", "--version"),
        standing.version("python", "-c", "pass"),
    ),
    Measure(
        "idle",
        "idle agent, RSS / CPU",
        "{:.0f} MiB / {:.2f}%",
        (70, 0.3),
        standing.idle(OURS),
        standing.idle(STOCK),
    ),
)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer jobs and samples: a look, and no figures to quote")
    names = [measure.name for measure in MEASURES]
    parser.add_argument("--only", action="append", choices=names, help="this measure; several times for several")
    options = parser.parse_args()
    chosen = [measure for measure in MEASURES if not options.only or measure.name in options.only]
    rows: list[Row] = []
    try:
        with tempfile.TemporaryDirectory(prefix="launchbay-benchmark-") as folder, nothing_left():
            asyncio.run(measure_all(chosen, rows, Path(folder), Scale(options.quick)))
    except KeyboardInterrupt:
        print("interrupted; this is what there is", file=sys.stderr)
    print(f"{machine()}{', quick' if options.quick else ''}\n\n{markdown(rows)}")


async def measure_all(measures: list[Measure], rows: list[Row], folder: Path, scale: Scale) -> None:
    """Fill the rows, one cell after the other, each on a machine with nothing else of ours on it."""
    for measure in measures:
        rows.append(row := Row(measure))
        for contestant, cell in (("ours", measure.ours), ("stock", measure.stock), ("bare", measure.bare)):
            if cell is not None:
                place = folder / f"{measure.name}-{contestant}"
                place.mkdir()
                print(f"{measure.name}, {contestant} ...", end=" ", file=sys.stderr, flush=True)
                row.cells[contestant] = await bounded(cell, place, scale, measure.limit_seconds)
                print(row.text(contestant), file=sys.stderr, flush=True)


async def bounded(cell: Cell, folder: Path, scale: Scale, limit_seconds: float) -> Values | str:
    """Return what a cell measured, or what went wrong. Nothing that it started goes on."""
    try:
        async with asyncio.timeout(limit_seconds):
            return await cell(folder, scale)
    except TimeoutError:
        return f"nothing within {limit_seconds:.0f} s"
    except Exception as error:  # noqa: BLE001 -- one measure that fails must not take the others along
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return f"failed: {type(error).__name__}"
    finally:
        end_all()


if __name__ == "__main__":
    main()
