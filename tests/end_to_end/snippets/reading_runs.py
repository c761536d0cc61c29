"""What a run has logged is read through the public API: history, files, console, metadata."""

from pathlib import Path
from typing import Any

import wandb
from wandb.apis.public import Run
from wandb.apis.public.runhistory import IncompleteRunHistoryError

from tests.end_to_end.snippets.checks import differs, once, refusal, shows

PATH = "admin/reading"


@once
def log_rows() -> None:
    """Log 30 rows, some of them with a key that others lack."""
    with wandb.init(entity="admin", project="reading", id="logged", config={"lr": 0.1, "net": {"depth": 3}}) as run:
        for step in range(30):
            row = {"epoch": step // 10, "loss": 1 / (step + 1), "nested": {"deep": step}}
            run.log(row | ({"rare": step} if step % 10 == 0 else {}))
        print("hello from the run")
        Path("saved.txt").write_text("saved by the run")
        run.save("saved.txt", policy="now")


def logged() -> Run:
    """Return the run with these, as the public API sees it."""
    log_rows()
    return wandb.Api().run(f"{PATH}/logged")


@shows("Api.run", "Run.name", "Run.path", "Run.url", "Run.entity", "Run.username", "Run.state", "Run.id")
def look_up_a_run() -> None:
    run = logged()
    assert wandb.Api().run(f"/{PATH}/runs/logged").name == run.name
    assert str(run.name).count("-") == 2
    assert (run.path, run.entity, run.id, run.state) == (["admin", "reading", "logged"], "admin", "logged", "finished")
    assert (run.username, run.user.username) == ("admin", "admin")
    assert run.url.endswith("/admin/reading/runs/logged")


@shows("Run.config", "Run.rawconfig", "Run.json_config", "Run.summary", "Run.summary_metrics")
def read_config_and_summary() -> None:
    run = logged()
    assert run.config == {"lr": 0.1, "net": {"depth": 3}}
    assert run.rawconfig["_wandb"]["cli_version"] == wandb.__version__
    assert '"lr"' in run.json_config
    assert (run.summary["loss"], run.summary["nested"]["deep"]) == (1 / 30, 29)
    assert (run.summary_metrics["rare"], run.summary.get("none", "nothing")) == (20, "nothing")


@shows("Run.history")
def read_sampled_history() -> None:
    run: Any = logged()
    assert [row["_step"] for row in run.history(pandas=False)] == list(range(30))
    assert [row["_step"] for row in run.history(samples=3, pandas=False)] == [0, 14, 29]
    assert run.history(keys=["rare"], pandas=False) == [{"_step": step, "rare": step} for step in (0, 10, 20)]
    assert run.history(keys=["rare"], x_axis="epoch", pandas=False)[1] == {"epoch": 1, "rare": 10}


@shows("Run.history", "Run.system_metrics")
def read_system_metrics() -> None:
    run: Any = logged()
    assert any(key.startswith("system.") for key in run.history(stream="system", pandas=False)[0])
    assert any(key.startswith("system.") for key in run.system_metrics)


@shows("Run.scan_history", "Run.lastHistoryStep")
def scan_the_whole_history() -> None:
    run = logged()
    assert run.lastHistoryStep == 29
    assert [row["_step"] for row in run.scan_history(page_size=7)] == list(range(30))
    found = run.scan_history(keys=["loss", "nested.deep"], min_step=3, max_step=5, page_size=1)
    assert [(row["loss"], row["nested.deep"]) for row in found] == [(1 / 4, 3), (1 / 5, 4)]
    assert [row["rare"] for row in run.scan_history(keys=["rare"])] == [0, 10, 20]


@shows("Run.beta_scan_history")
def scan_history_by_its_old_name() -> None:
    run = logged()
    assert [row["epoch"] for row in run.beta_scan_history(min_step=8, max_step=12)] == [0, 0, 1, 1]
    assert list(run.beta_scan_history(page_size=7, use_cache=False)) == list(run.scan_history())
    assert [row["rare"] for row in run.beta_scan_history(keys=["rare"], page_size=3)] == [0, 10, 20]
    assert list(run.beta_scan_history(keys=["never"])) == []


@differs(
    "Run.download_history_exports", "`IncompleteRunHistoryError`: there are no Parquet exports; use `scan_history`"
)
def download_history_as_parquet() -> None:
    run = logged()
    refusal(lambda: run.download_history_exports("exports"), IncompleteRunHistoryError)
    found = run.download_history_exports("exports", require_complete_history=False)
    assert (found.paths, found.contains_live_data) == ([], True)
    empty = wandb.Api().create_run(entity="admin", project="reading", run_id="empty")
    found = empty.download_history_exports("exports")
    assert (found.paths, found.contains_live_data) == ([], False)


@shows("Run.files", "Run.file", "File.download", "File.size")
def list_and_download_files_of_a_run() -> None:
    run = logged()
    names = {file.name for file in run.files(per_page=2)}
    assert {"saved.txt", "config.yaml", "wandb-summary.json", "wandb-metadata.json", "output.log"} <= names
    assert len(run.files()) == len(names)
    assert [file.name for file in run.files(pattern="sav%")] == ["saved.txt"]
    file = run.file("saved.txt")
    assert (file.size, file.mimetype) == (16, "text/plain")
    assert file.download(root="back").read() == "saved by the run"


@differs("File.path_uri", "an http URL that is good for a while, wherever the file is kept")
def uri_of_a_file() -> None:
    assert logged().file("saved.txt").path_uri.startswith("http")


@shows("Run.upload_file", "File.delete")
def upload_and_delete_a_file() -> None:
    run = wandb.Api().create_run(entity="admin", project="reading", run_id="given")
    Path("upload.txt").write_text("by hand")
    assert run.upload_file("upload.txt").size == 7
    run.file("upload.txt").delete()
    assert list(wandb.Api().run(f"{PATH}/given").files(["upload.txt"])) == []


@shows("Run.metadata")
def read_metadata() -> None:
    found = logged().metadata
    assert found is not None
    assert found["python"].startswith("CPython")


@shows("Run.console_logs")
def read_console_logs() -> None:
    assert "hello from the run" in [line.content for line in logged().console_logs()]


@shows("Run.load", "Run.load_full_data", "Run.storage_id", "Run.to_html", "Run.sweep", "Run.sweep_name")
def load_and_display_a_run() -> None:
    run = logged()
    assert run.load(force=True)["name"] == "logged"
    assert run.load_full_data(force=True)["historyKeys"]["lastStep"] == 29
    assert run.to_html(height=99, hidden=True).count("iframe") == 2
    assert (run.sweep, run.sweep_name) == (None, None)
    assert run.storage_id
