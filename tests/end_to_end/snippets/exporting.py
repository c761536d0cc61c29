"""What people do with runs that have ended: they export them, compare them, take the best."""

from pathlib import Path
from typing import Any

import pandas as pd
import wandb

from tests.end_to_end.snippets.checks import once, shows

PATH = "admin/exporting"


@once
def train_three() -> None:
    """Log three runs of a group, each with a model of its own."""
    for number, (rate, accuracy) in enumerate([(0.1, 0.7), (0.2, 0.9), (0.3, 0.8)]):
        config = {"lr": rate, "net": {"depth": number}, "_private": 1, "names": ["a", "b"]}
        with wandb.init(
            entity="admin", project="exporting", id=f"r{number}", name=f"run {number}", group="three", config=config
        ) as run:
            for epoch in range(3):
                run.log({"loss": 1 / (epoch + 1), "val_acc": accuracy * (epoch + 1) / 3, "epoch": epoch})
            Path("model.h5").write_text(f"weights {number}")
            run.save("model.h5", policy="now")


def api() -> Any:
    """Return a public API of a server that has these runs."""
    train_three()
    return wandb.Api()


@shows("Api.runs", "Run.summary", "Run.config", "Run.name")
def export_summaries_and_configs_to_csv() -> None:
    runs = api().runs(PATH)
    summaries, configs, names = [], [], []
    for run in runs:
        summaries.append(run.summary._json_dict)
        configs.append({key: value for key, value in run.config.items() if not key.startswith("_")})
        names.append(run.name)
    frame = pd.DataFrame({"summary": summaries, "config": configs, "name": names})
    frame.to_csv("project.csv")
    read = pd.read_csv("project.csv")
    assert list(read["name"]) == ["run 0", "run 1", "run 2"]
    assert configs[1] == {"lr": 0.2, "net": {"depth": 1}, "names": ["a", "b"]}
    assert round(summaries[1]["val_acc"], 6) == 0.9


@shows("Run.history", "Runs.histories")
def read_metrics_as_a_data_frame() -> None:
    run = api().run(f"{PATH}/r0")
    frame = run.history()
    assert list(frame["loss"]) == [1, 1 / 2, 1 / 3]
    assert frame["_timestamp"].is_monotonic_increasing
    assert {"_step", "_runtime", "_timestamp", "val_acc", "epoch"} <= set(frame.columns)
    assert list(run.history(keys=["loss", "epoch"], samples=2).columns) == ["_step", "loss", "epoch"]
    system = run.history(stream="events")
    assert len(system) == 0 or any(name.startswith("system.") for name in system.columns)
    of_all = api().runs(PATH).histories(keys=["loss"], format="pandas")
    assert sorted(of_all["run_id"].unique()) == ["r0", "r1", "r2"]
    assert len(of_all) == 9


@shows("Run.config")
def compare_two_runs() -> None:
    frame = pd.DataFrame([api().run(f"{PATH}/r0").config, api().run(f"{PATH}/r1").config]).transpose()
    different = frame[frame[0].astype(str) != frame[1].astype(str)]
    assert sorted(different.index) == ["lr", "net"]


@shows("Run.file", "Run.files", "File.download")
def download_the_best_model() -> None:
    runs = sorted(api().runs(PATH), key=lambda run: run.summary.get("val_acc", 0), reverse=True)
    runs[0].file("model.h5").download(root="best", replace=True)
    assert Path("best/model.h5").read_text() == "weights 1"
    (best, *_) = api().runs(PATH, order="-summary_metrics.val_acc", per_page=1)
    assert best.id == runs[0].id
    for file in best.files():
        file.download(root="everything", replace=True)
    assert {"model.h5", "config.yaml"} <= {path.name for path in Path("everything").iterdir()}
