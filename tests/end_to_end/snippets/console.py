"""What a script prints is kept: with colours, progress bars, many lines, long ones, in chunks."""

import logging
import sys
import time
from typing import Any

import wandb

from tests.end_to_end.snippets.checks import shows

PATH = "admin/console"
PLACE: Any = {"entity": "admin", "project": "console"}


def lines(name: str) -> list[str]:
    """Return what is kept of a run's console."""
    return [line.content for line in wandb.Api().run(f"{PATH}/{name}").console_logs()]


def text(name: str, path: str) -> str:
    """Return a file of a run."""
    return wandb.Api().run(f"{PATH}/{name}").file(path).download(root=f"console-{name}", replace=True).read()


@shows("Run.console_logs")
def colours_and_progress_bars() -> None:
    with wandb.init(**PLACE, id="bars"):
        print("\x1b[1;32mgreen\x1b[0m and plain")
        for percent in range(0, 101, 10):
            print(f"\r{percent:3}%|{'#' * (percent // 10):10}|", end="", flush=True)
        print()
        print("told on stderr", file=sys.stderr)
    wanted = ["\x1b[1;32mgreen\x1b[0m and plain", "100%|##########|", "told on stderr"]
    assert lines("bars") == text("bars", "output.log").splitlines() == wanted
    errors = [line.content for line in wandb.Api().run(f"{PATH}/bars").console_logs() if line.level == "error"]
    assert errors == ["told on stderr"]


@shows("Run.console_logs")
def many_lines_and_long_ones() -> None:
    with wandb.init(**PLACE, id="large"):
        for number in range(5_000):
            print(f"line {number}")
        print("x" * 100_000)
        print("the end")
    told = lines("large")
    assert told == [*(f"line {number}" for number in range(5_000)), "x" * 4096, "the end"], "the client cuts lines"
    run = wandb.Api().run(f"{PATH}/large")
    assert [line.content for line in run.console_logs(last=2)] == told[-2:]


@shows("wandb.init", "Run.files")
def chunks_are_there_while_it_runs() -> None:
    settings = wandb.Settings(console_multipart=True, console_chunk_max_bytes=1_000)
    with wandb.init(**PLACE, id="chunked", settings=settings):
        for number in range(1_000):
            print(f"line {number}")
        while not chunks():
            time.sleep(0.2)
        print("the end")
    parts = chunks()
    assert len(parts) > 1
    whole = "".join(text("chunked", part) for part in parts).splitlines()
    assert whole == lines("chunked") == [*(f"line {number}" for number in range(1_000)), "the end"]


def chunks() -> list[str]:
    """Return the names of the files that the console of a run is in."""
    return sorted(file.name for file in wandb.Api().run(f"{PATH}/chunked").files() if file.name.startswith("logs/"))


@shows("wandb.init")
def what_loggers_say() -> None:
    settings = wandb.Settings(console="off", capture_loggers={"trainer": "INFO"})
    with wandb.init(**PLACE, id="loggers", settings=settings):
        print("not kept")
        logging.getLogger("trainer").warning("the loss is %s", "nan")
    assert lines("loggers") == ["WARNING:trainer:the loss is nan"]
