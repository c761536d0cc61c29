"""The whole table that tracking is measured by: how soon it takes in, lists and tells what runs have logged.

    python -m benchmarks.tracking [--only streams|shares|lists|history|artifacts ...] [--database-url URL]

One server process per engine: SQLite, and each PostgreSQL database given (it must be empty). What is read is put into
the database past HTTP, as that would take hours. The load shares the machine with the server, so that its CPU time,
which stands behind the times, tells more than they do where the machine is busy with other things. What exactly is
counted stands in `sending.py`, `shares.py`, `reading.py` and `benchmarks/artifacts.py`. Nothing here judges: the exit
code is 0, whatever comes out.
"""

import argparse
import tempfile
from pathlib import Path

import uvloop
from sqlalchemy import text

from benchmarks.agent.table import machine
from benchmarks.artifacts import measure_artifacts
from benchmarks.claims import engine_of, server
from benchmarks.tracking.filled import fill_history, fill_runs
from benchmarks.tracking.reading import measure_history, measure_lists
from benchmarks.tracking.sending import measure_streams
from benchmarks.tracking.shares import measure_shares
from server.database.opening import open_database

PARTS = ("streams", "shares", "lists", "history", "artifacts")


def main() -> None:
    """Measure every engine and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, nargs="+", default=PARTS)
    parser.add_argument("--runs", type=int, default=100_000, help="runs in the project that is listed")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the history that is read")
    parser.add_argument("--seconds", type=float, default=10, help="how long file streams are sent")
    parser.add_argument("--database-url", action="append", default=[], help="an empty PostgreSQL database")
    options = parser.parse_args()
    print(machine())
    for url in [None, *options.database_url]:
        with tempfile.TemporaryDirectory() as folder:
            print(f"\n{engine_of(url)}\n\n| measure | asked | found |\n| --- | --- | --- |", flush=True)
            uvloop.run(measure(Path(folder), url, options))


async def measure(folder: Path, url: str | None, options: argparse.Namespace) -> None:
    """Measure one engine."""
    if "shares" in options.only:
        await measure_shares(folder, url)
    with server(folder, url) as (client, process):  # makes the schema and the first user
        if "streams" in options.only:
            await measure_streams(client, process, options.seconds)
    await fill(folder, url, options)
    with server(folder, url) as (client, process):
        if "lists" in options.only:
            await measure_lists(client, process)
        if "history" in options.only:
            await measure_history(client, process)
    if "artifacts" in options.only:
        with server(folder, url) as (client, process):
            print("\nartifacts: disk-bound is asked, and at most 200 MiB of the server's memory")
            (folder / "client").mkdir()
            measure_artifacts(folder / "client", client, process)


async def fill(folder: Path, url: str | None, options: argparse.Namespace) -> None:
    """Put into the database what is read."""
    database = await open_database(folder, url)
    try:
        if "lists" in options.only:
            await fill_runs(database, options.runs)
        if "history" in options.only:
            await fill_history(database, options.rows)
        if url:
            await database.write(lambda connection: connection.execute(text("ANALYZE")))  # it does so by itself, later
    finally:
        await database.close()


if __name__ == "__main__":
    main()
