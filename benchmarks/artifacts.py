"""Artifacts: how fast the stock client brings them to the server and fetches them, and what that costs the server.

    python -m benchmarks.artifacts [--files 10000] [--gigabytes 5] [--only files|large]

One artifact of many small files, and one of a single large file, up and down, with a client that has nothing cached.
Beside each stands what copying the same bytes from folder to folder takes, which is what the disk gives.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread

import psutil

from benchmarks.claims import cpu_seconds, server

MEBI = 1024 * 1024
UP = """
import sys, wandb
with wandb.init(entity="admin", project="bench", settings=wandb.Settings(silent=True)) as run:
    artifact = wandb.Artifact(sys.argv[2], "dataset")
    artifact.add_dir(sys.argv[1], policy="immutable", skip_cache=True)
    run.log_artifact(artifact).wait()
"""
DOWN = """
import sys, wandb
wandb.Api().artifact(f"admin/bench/{sys.argv[2]}:latest").download(root=sys.argv[1], skip_cache=True)
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["files", "large"])
    parser.add_argument("--files", type=int, default=10_000, help="small files, of 1 KiB each")
    parser.add_argument("--gigabytes", type=float, default=5, help="size of the large file, in GiB")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, server(Path(folder) / "server", None) as (client, process):
        environment = {**os.environ, "WANDB_BASE_URL": client.base_url, "WANDB_API_KEY": client.key, "HOME": folder}
        environment |= dict.fromkeys(("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"), folder)
        if options.only != "large":
            measure(Path(folder), f"{options.files} files", small_files(options.files), environment, process)
        if options.only != "files":
            size = int(options.gigabytes * 1024)
            measure(Path(folder), f"one file of {options.gigabytes:g} GiB", large_file(size), environment, process)


def small_files(count: int) -> Callable[[Path], None]:
    """Return what writes so many files of 1 KiB."""

    def write(folder: Path) -> None:
        for number in range(count):
            file = folder / f"{number % 100:02}" / f"{number:06}"
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(os.urandom(1024))

    return write


def large_file(mebibytes: int) -> Callable[[Path], None]:
    """Return what writes a file of that size."""

    def write(folder: Path) -> None:
        with (folder / "large").open("wb") as file:
            for _ in range(mebibytes):
                file.write(os.urandom(MEBI))

    return write


def measure(
    folder: Path,
    what: str,
    write: Callable[[Path], None],
    environment: dict[str, str],
    process: psutil.Process,
) -> None:
    """Bring an artifact up and down; print times, the server's CPU time and its memory."""
    source, target, name = folder / "source", folder / "target", what.replace(" ", "-")
    source.mkdir()
    write(source)
    print(f"\n{what}")
    start = time.monotonic()
    shutil.copytree(source, folder / "copy")
    os.sync()
    print(f"  {'copied':10} {time.monotonic() - start:7.1f} s")
    shutil.rmtree(folder / "copy")
    for verb, script, where in (("up", UP, source), ("down", DOWN, target)):
        with peak_of(process) as peak:
            start, before = time.monotonic(), cpu_seconds(process)
            subprocess.run([sys.executable, "-c", script, str(where), name], env=environment, cwd=folder, check=True)
            took, cpu = time.monotonic() - start, cpu_seconds(process) - before
        print(f"  {verb:10} {took:7.1f} s   server: {cpu:6.1f} s of CPU, {peak.bytes / MEBI:6.0f} MiB")
    shutil.rmtree(source)
    shutil.rmtree(target)


class peak_of:  # noqa: N801 -- reads as what it is: with peak_of(process)
    """The largest resident memory of a process while the block runs."""

    def __init__(self, process: psutil.Process) -> None:
        self.bytes = 0
        self._process = process
        self._over = Event()
        self._thread = Thread(target=self._look)

    def __enter__(self) -> "peak_of":
        """Begin to look."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Look no more."""
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.05):
            self.bytes = max(self.bytes, self._process.memory_info().rss)


if __name__ == "__main__":
    main()
