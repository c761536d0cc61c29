"""Artifacts: how fast the stock client brings them to the server and fetches them, and what that costs the server.

    python -m benchmarks.artifacts [--files 10000] [--gigabytes 5] [--only files|large]

One artifact of many small files, and one of a single large file, up and down, with a client that has nothing cached.
Beside each stands what copying the same bytes from folder to folder takes, which is what the disk gives, and what the
client takes with a server that keeps nothing, which is what the client gives.
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import psutil

from benchmarks.claims import Client, cpu_seconds, server

MEBI = 1024 * 1024
UP = """
import sys, wandb
with wandb.init(entity="admin", project="bench", settings=wandb.Settings(silent=True)) as run:
    artifact = wandb.Artifact(sys.argv[2], "dataset")
    artifact.add_dir(sys.argv[1], policy="immutable", skip_cache=True)
    run.log_artifact(artifact).wait()
"""
UP_ELSEWHERE = UP.replace("sys.argv[2]", '"elsewhere-" + sys.argv[2]')
"""The same under another name, as the content of a version that is there already would not be sent."""
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
        measure_artifacts(Path(folder), client, process, options.files, options.gigabytes, options.only)


def measure_artifacts(
    folder: Path,
    client: Client,
    process: psutil.Process,
    files: int = 10_000,
    gigabytes: float = 5,
    only: str | None = None,
) -> None:
    """Measure with a server that runs already."""
    environment = {
        **os.environ,
        "WANDB_BASE_URL": client.base_url,
        "WANDB_API_KEY": client.key,
        "HOME": str(folder),
        "WANDB_SILENT": "true",
    }
    environment |= dict.fromkeys(("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"), str(folder))
    if only != "large":
        measure(folder, f"{files} files", small_files(files), environment, process)
    if only != "files":
        measure(folder, f"one file of {gigabytes:g} GiB", large_file(int(gigabytes * 1024)), environment, process)


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
    """Bring an artifact up and down; print times, CPU times of server and client, and the server's memory."""
    source, target, name = folder / "source", folder / "target", what.replace(" ", "-")
    source.mkdir()
    write(source)
    print(f"\n{what}")
    start = time.monotonic()
    shutil.copytree(source, folder / "copy")
    os.sync()
    print(f"  {'copied':22} {time.monotonic() - start:7.1f} s")
    shutil.rmtree(folder / "copy")

    def one(verb: str, script: str, where: Path, server: psutil.Process, **more: str) -> None:
        with peak_of(server) as peak:
            start, before, own = time.monotonic(), cpu_seconds(server), client_cpu_seconds()
            command = [sys.executable, "-c", script, str(where), name]
            subprocess.run(command, env=environment | more, cwd=folder, check=True)
            took, cpu, own = time.monotonic() - start, cpu_seconds(server) - before, client_cpu_seconds() - own
        memory = peak.bytes / MEBI
        print(f"  {verb:22} {took:7.1f} s   CPU: client {own:6.1f} s, server {cpu:6.1f} s; server {memory:4.0f} MiB")

    one("up", UP, source, process)
    one("down", DOWN, target, process)
    shutil.rmtree(target)
    size = max(path.stat().st_size for path in source.rglob("*") if path.is_file())
    with nothing(environment["WANDB_BASE_URL"], size) as (url, stub):
        one("up, nothing kept", UP_ELSEWHERE, source, stub, WANDB_BASE_URL=url)
        one("down, nothing kept", DOWN, target, stub, WANDB_BASE_URL=url)
    shutil.rmtree(source)
    shutil.rmtree(target)


@contextmanager
def nothing(behind: str, size: int) -> Generator[tuple[str, psutil.Process]]:
    """Run a server that keeps nothing; gives its URL, and the process."""
    command = [sys.executable, "-m", "benchmarks.nothing", behind, str(size)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), psutil.Process(process.pid)
    finally:
        process.kill()
        process.communicate()


def client_cpu_seconds() -> float:
    """Return the CPU time of all processes that have ended below this one: of clients, as long as servers run."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


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
