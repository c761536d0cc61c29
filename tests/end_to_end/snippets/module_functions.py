"""A script that holds no run: it sets up the client for all of its runs, and uses the functions of the module."""

from functools import cache
from pathlib import Path

import wandb
from wandb.apis.public import Run

from tests.end_to_end.snippets.checks import shows


@cache
def logged() -> Run:
    """Return the run of such a script."""
    wandb.setup(wandb.Settings(entity="admin", project="functions", run_tags=("of-all",)))
    wandb.init(id="unheld")
    for loss in (2, 1):
        wandb.log({"loss": loss})
    Path("by-function.txt").write_text("saved")
    wandb.save("by-function.txt", policy="now")
    wandb.finish(exit_code=3)
    return wandb.Api().run("admin/functions/unheld")


@shows("wandb.setup")
def what_was_set_for_all_runs() -> None:
    assert (logged().path, logged().tags) == (["admin", "functions", "unheld"], ["of-all"])


@shows("wandb.log", "wandb.save", "wandb.finish")
def what_the_functions_did() -> None:
    assert [row["loss"] for row in logged().scan_history()] == [2, 1]
    assert logged().file("by-function.txt").download(root="by-function", exist_ok=True).read() == "saved"
    assert logged().state == "failed", "it said so when it finished"
