"""Runs are made, changed, stopped and deleted through the public API."""

from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import wandb
from wandb.apis.public import Run, runs

from tests.end_to_end.snippets.checks import refusal, shows

PATH = "admin/changing"


@cache
def logged() -> Run:
    """Return a run that has ended, and has logged an artifact."""
    with wandb.init(entity="admin", project="changing", id="logged", config={"lr": 0.1}) as run:
        run.log({"loss": 1})
        Path("made.txt").write_text("made")
        artifact = wandb.Artifact("made", "dataset")
        artifact.add_file("made.txt")
        run.log_artifact(artifact).wait()
    return wandb.Api().run(f"{PATH}/logged")


def again() -> Run:
    """Return the run as the server has it now."""
    return wandb.Api().run(f"{PATH}/logged")


@shows("Api.create_run", "Run.create", "Run.update_state", "Run.stop")
def a_run_is_made_and_its_state_told() -> None:
    made = wandb.Api().create_run(entity="admin", project="changing", run_id="made")
    assert made.state == "running"
    assert made.update_state("failed")
    found = wandb.Api().run(f"{PATH}/made")
    assert found.state == "failed"
    found.stop()
    other = Run.create(wandb.Api(), project="changing", entity="admin", run_id="other")
    assert other.path == ["admin", "changing", "other"]


@shows("Run.update", "Run.config", "Run.name", "Run.summary")
def a_run_is_edited() -> None:
    run: Any = logged()
    run.config["lr"] = 0.5
    run.tags.append("late")
    run.notes, run.name, run.group, run.job_type = "changed", "renamed", "regrouped", "test"
    run.summary["best"] = 1
    run.update()
    found = again()
    assert (found.config, found.tags, found.notes) == ({"lr": 0.5}, ["late"], "changed")
    assert (found.name, found.group, found.job_type, found.state) == ("renamed", "regrouped", "test", "finished")
    assert (found.summary["best"], found.summary["loss"]) == (1, 1)
    assert [run.id for run in wandb.Api().runs(PATH, {"config.lr": 0.5, "summary_metrics.best": 1})] == ["logged"]


@shows("Run.save", "Run.id")
def a_run_is_saved() -> None:
    run: Any = again()
    run.notes = "saved"
    run.save()
    assert again().notes == "saved"


@shows("Run.summary")
def a_nested_summary_is_edited() -> None:
    run = again()
    run.summary.update({"deep": {"value": 2}})
    assert again().summary["deep"]["value"] == 2


@shows("Run.use_artifact", "Run.log_artifact", "Run.logged_artifacts", "Run.used_artifacts")
def artifacts_of_a_run() -> None:
    logged()
    artifact = wandb.Api().artifact(f"{PATH}/made:v0")
    user = wandb.Api().create_run(entity="admin", project="changing", run_id="user")
    user.use_artifact(artifact)
    user.log_artifact(artifact)
    assert [found.name for found in user.used_artifacts()] == ["made:v0"]
    assert [found.name for found in user.logged_artifacts()] == ["made:v0"]
    assert [run.id for run in artifact.used_by()] == ["user"]


@shows("Run.wait_until_finished")
def the_end_is_waited_for() -> None:
    made = wandb.Api().create_run(entity="admin", project="changing", run_id="awaited")
    run = wandb.Api().run(f"{PATH}/awaited")
    seen: list[str] = []

    def end(_seconds: float) -> None:
        seen.append(run.state)
        made.update_state("failed")

    with patch.object(runs, "time", SimpleNamespace(sleep=end)):  # instead of five seconds
        run.wait_until_finished()
    assert (seen, run.state) == (["running"], "failed")


@shows("Run.delete")
def a_run_is_deleted_and_its_id_not_used_again() -> None:
    wandb.Api().create_run(entity="admin", project="changing", run_id="gone").delete()
    assert "gone" not in [run.id for run in wandb.Api().runs(PATH)]
    told = refusal(lambda: wandb.init(entity="admin", project="changing", id="gone"), wandb.Error)
    assert "previously created and deleted" in told


@shows("Run.delete")
def a_run_is_deleted_with_its_artifacts_or_without() -> None:
    for name, also_artifacts in (("whole", True), ("half", False)):
        with wandb.init(entity="admin", project="changing", id=name) as run:
            artifact = wandb.Artifact(name, "dataset")
            with artifact.new_file("file") as file:
                file.write("content")
            run.log_artifact(artifact).wait()
        wandb.Api().run(f"{PATH}/{name}").delete(delete_artifacts=also_artifacts)
        assert wandb.Api().artifact_exists(f"{PATH}/{name}:v0") != also_artifacts
