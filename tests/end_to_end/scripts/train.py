"""A run that uses everything a training script uses. Arguments: project, run id."""

import sys
from pathlib import Path

import wandb

project, run_id = sys.argv[1:]
Path("notes").mkdir(exist_ok=True)
Path("notes/über uns.txt").write_text("saved by the run\n", "utf-8")
with wandb.init(
    entity="admin",
    project=project,
    id=run_id,
    name="first try",
    group="group a",
    job_type="train",
    tags=["red", "blue"],
    notes="some notes",
    config={"lr": 0.1, "nested": {"depth": 3}},
) as run:
    run.config["late"] = "value"
    for step in range(20):
        row = {"loss": 1 / (step + 1), "train/acc": step / 20}
        if step % 5 == 0:
            row["sparse"] = float("nan") if step == 5 else step
        run.log(row)
    print("hello from the run")
    run.summary["best"] = 0.25
    run.save("notes/über uns.txt", policy="now")
    run.alert("an alert", "some text")
