"""A script that holds no run: it sets up the client for all of its runs, and uses the functions of the module."""

from pathlib import Path

import wandb
from wandb.apis.public import Run

from tests.end_to_end.snippets.checks import once, shows


@once
def log_by_functions() -> None:
    """Do as such a script does."""
    wandb.setup(wandb.Settings(entity="admin", project="functions", run_tags=("of-all",)))
    wandb.init(id="unheld")
    for loss in (2, 1):
        wandb.log({"loss": loss})
    Path("by-function.txt").write_text("saved")
    wandb.save("by-function.txt", policy="now")
    wandb.finish(exit_code=3)


def logged() -> Run:
    """Return the run of such a script."""
    log_by_functions()
    return wandb.Api().run("admin/functions/unheld")


@shows("wandb.setup")
def set_up_all_runs_of_a_script() -> None:
    run = logged()
    assert (run.path, run.tags) == (["admin", "functions", "unheld"], ["of-all"])


@shows("wandb.log", "wandb.save", "wandb.finish")
def log_save_and_finish_without_a_run_object() -> None:
    run = logged()
    assert [row["loss"] for row in run.scan_history()] == [2, 1]
    assert run.file("by-function.txt").download(root="back").read() == "saved"
    assert run.state == "failed", "it said so when it finished"
