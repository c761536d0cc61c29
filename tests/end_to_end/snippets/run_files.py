"""Files of runs: kept as they are, as they change, or at the end; large ones; at URLs that are good for one file."""

import os
import time
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import wandb

from tests.end_to_end.snippets.checks import refusal, shows

PATH = "admin/files"
PLACE: Any = {"entity": "admin", "project": "files"}


def kept(name: str, file: str) -> str:
    """Return what is in a file of a run; nothing if it is not there."""
    found = list(wandb.Api().run(f"{PATH}/{name}").files([file]))
    return found[0].download(root=f"files-of-{name}", replace=True).read() if found else ""


@shows("wandb.Run.save")
def saved_now_at_each_change_or_at_the_end() -> None:
    folder = Path("saved")
    folder.mkdir(exist_ok=True)
    with wandb.init(**PLACE, id="saved") as run:
        for policy in ("now", "live", "end"):
            (folder / f"{policy}.txt").write_text("first")
            run.save(str(folder / f"{policy}.txt"), base_path="saved", policy=policy)
        while (kept("saved", "now.txt"), kept("saved", "live.txt")) != ("first", "first"):
            time.sleep(0.1)
        assert not kept("saved", "end.txt")
        (folder / "live.txt").write_text("second")
        (folder / "end.txt").write_text("second")
        while kept("saved", "live.txt") != "second":
            time.sleep(0.1)
        assert not kept("saved", "end.txt")
    assert kept("saved", "end.txt") == "second"


@shows("Run.upload_file", "Run.file", "File.download", "File.size")
def a_large_file_whole_and_in_pieces() -> None:
    content = os.urandom(8 * 1024 * 1024) * 4
    Path("large").mkdir(exist_ok=True)
    Path("large/model.bin").write_bytes(content)
    run = wandb.Api().create_run(**PLACE, run_id="large")
    run.upload_file("large/model.bin", root="large")
    file = wandb.Api().run(f"{PATH}/large").file("model.bin")
    assert file.size == len(content)
    assert Path(file.download(root="large-back", replace=True).name).read_bytes() == content
    for first, last in ((0, 0), (len(content) // 2, len(content) // 2 + 99), (len(content) - 10, len(content) + 99)):
        with urlopen(Request(file.direct_url, headers={"Range": f"bytes={first}-{last}"})) as answer:
            assert (answer.status, answer.read()) == (206, content[first : last + 1])
    for wrong in (file.direct_url[:-1], file.direct_url.partition("?")[0]):
        assert "403" in refusal(lambda wrong=wrong: urlopen(wrong), HTTPError)


@shows("wandb.Run.save", "Run.upload_file")
def folders_and_places() -> None:
    Path("results/deep").mkdir(parents=True, exist_ok=True)
    for name in ("results/a.csv", "results/deep/b.csv", "results/c.csv"):
        Path(name).write_text(name)
    with wandb.init(**PLACE, id="folders") as run:
        run.save("results/a*.csv")
        run.save("results/deep/b*", base_path="results/deep")
        run.save(str(Path("results/c.csv").resolve()))
    found = wandb.Api().run(f"{PATH}/folders")
    found.upload_file("results/deep/b.csv", root="results")
    names = {file.name for file in wandb.Api().run(f"{PATH}/folders").files(pattern="%.csv")}
    assert names == {"results/a.csv", "b.csv", "results/c.csv", "deep/b.csv"}
    assert kept("folders", "deep/b.csv") == "results/deep/b.csv"


@shows("wandb.Run.log_code")
def code_of_some_kinds() -> None:
    Path("code/skipped").mkdir(parents=True, exist_ok=True)
    for name in ("train.py", "model.cu", "notes.md", "skipped/old.py"):
        Path("code", name).write_text(f"# {name}")
    with wandb.init(**PLACE, id="code") as run:
        code = run.log_code(
            "code",
            name="my-code",
            include_fn=lambda path: path.endswith((".py", ".cu")),
            exclude_fn=lambda path, root: os.path.relpath(path, root).startswith("skipped/"),
        )
        assert code is not None
    (logged,) = wandb.Api().run(f"{PATH}/code").logged_artifacts()
    assert (logged.name, logged.type) == ("my-code:v0", "code")
    folder = Path(logged.download(root="code-back"))
    assert {file.name: file.read_text() for file in folder.iterdir()} == {
        "train.py": "# train.py",
        "model.cu": "# model.cu",
    }
