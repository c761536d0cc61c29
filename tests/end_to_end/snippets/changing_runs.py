"""Runs are made, changed, stopped and deleted through the public API."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import wandb
from wandb.apis.public import Run, runs

from tests.end_to_end.snippets.checks import refusal, shows

PATH = "admin/changing"


def new(name: str) -> Run:
    """Return a new run."""
    return wandb.Api().create_run(entity="admin", project="changing", run_id=name)


def again(name: str) -> Run:
    """Return a run as the server has it now."""
    return wandb.Api().run(f"{PATH}/{name}")


@shows("Api.create_run", "Run.create", "Run.update_state", "Run.stop")
def create_a_run_and_update_its_state() -> None:
    made = new("made")
    assert made.state == "running"
    assert made.update_state("failed")
    found = again("made")
    assert found.state == "failed"
    found.stop()
    other = Run.create(wandb.Api(), project="changing", entity="admin", run_id="other")
    assert other.path == ["admin", "changing", "other"]


@shows("Run.update", "Run.config", "Run.name", "Run.summary")
def edit_a_run() -> None:
    with wandb.init(entity="admin", project="changing", id="edited", config={"lr": 0.1}) as logging:
        logging.log({"loss": 1})
    run: Any = again("edited")
    run.config["lr"] = 0.5
    run.tags.append("late")
    run.notes, run.name, run.group, run.job_type = "changed", "renamed", "regrouped", "test"
    run.summary["best"] = 1
    run.update()
    found = again("edited")
    assert (found.config, found.tags, found.notes) == ({"lr": 0.5}, ["late"], "changed")
    assert (found.name, found.group, found.job_type, found.state) == ("renamed", "regrouped", "test", "finished")
    assert (found.summary["best"], found.summary["loss"]) == (1, 1)
    assert [run.id for run in wandb.Api().runs(PATH, {"config.lr": 0.5, "summary_metrics.best": 1})] == ["edited"]


@shows("Run.save")
def save_the_notes_of_a_run() -> None:
    new("saved")
    run: Any = again("saved")
    run.notes = "saved"
    run.save()
    assert again("saved").notes == "saved"


@shows("Run.summary")
def update_a_nested_summary() -> None:
    new("nested").summary.update({"deep": {"value": 2}})
    assert again("nested").summary["deep"]["value"] == 2


@shows("Run.summary", "Run.update")
def rename_a_metric() -> None:
    new("renaming").summary.update({"val_acc": 0.8})
    run = again("renaming")
    run.summary["accuracy"] = run.summary["val_acc"]
    del run.summary["val_acc"]
    run.summary.update()
    assert again("renaming").summary._json_dict == {"accuracy": 0.8}
    assert [run.id for run in wandb.Api().runs(PATH, {"summary_metrics.accuracy": {"$gt": 0}})] == ["renaming"]


@shows("File.delete")
def delete_files_with_an_extension() -> None:
    run = new("cleaned")
    for name in ("model.h5", "log.tmp"):
        Path(name).write_text(name)
        run.upload_file(name)
    for file in again("cleaned").files():
        if file.name.endswith(".tmp"):
            file.delete()
    assert [file.name for file in again("cleaned").files(pattern="%.TMP")] == []
    assert [file.name for file in again("cleaned").files(pattern="model%")] == ["model.h5"]


@shows("Run.use_artifact", "Run.log_artifact", "Run.logged_artifacts", "Run.used_artifacts")
def use_and_log_an_artifact_through_the_api() -> None:
    with wandb.init(entity="admin", project="changing") as run:
        artifact = wandb.Artifact("made", "dataset")
        with artifact.new_file("file") as file:
            file.write("content")
        run.log_artifact(artifact).wait()
    artifact, user = wandb.Api().artifact(f"{PATH}/made:v0"), new("user")
    user.use_artifact(artifact)
    user.log_artifact(artifact)
    assert [found.name for found in user.used_artifacts()] == ["made:v0"]
    assert [found.name for found in user.logged_artifacts()] == ["made:v0"]
    assert [run.id for run in artifact.used_by()] == ["user"]


@shows("Run.wait_until_finished")
def wait_until_a_run_is_finished() -> None:
    made = new("awaited")
    run = again("awaited")
    seen: list[str] = []

    def end(_seconds: float) -> None:
        seen.append(run.state)
        made.update_state("failed")

    with patch.object(runs, "time", SimpleNamespace(sleep=end)):  # instead of five seconds
        run.wait_until_finished()
    assert (seen, run.state) == (["running"], "failed")


@shows("Run.delete")
def delete_a_run_whose_id_is_not_used_again() -> None:
    new("gone").delete()
    assert "gone" not in [run.id for run in wandb.Api().runs(PATH)]
    told = refusal(lambda: wandb.init(entity="admin", project="changing", id="gone"), wandb.Error)
    assert "previously created and deleted" in told


@shows("Run.delete")
def delete_a_run_with_or_without_its_artifacts() -> None:
    for name, also_artifacts in (("whole", True), ("half", False)):
        with wandb.init(entity="admin", project="changing", id=name) as run:
            artifact = wandb.Artifact(name, "dataset")
            with artifact.new_file("file") as file:
                file.write("content")
            run.log_artifact(artifact).wait()
        again(name).delete(delete_artifacts=also_artifacts)
        assert wandb.Api().artifact_exists(f"{PATH}/{name}:v0") != also_artifacts


@shows("Run.delete", "Api.runs")
def delete_all_runs_of_a_project() -> None:
    for number in range(5):
        wandb.Api().create_run(entity="admin", project="tidied", run_id=f"old{number}")
    for run in wandb.Api().runs("admin/tidied", per_page=2):
        run.delete()
    assert len(wandb.Api().runs("admin/tidied")) == 0
