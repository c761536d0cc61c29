"""A script logs, as the guides have it: metrics, tables, charts, files, alerts; all of it is there afterwards."""

import time
from pathlib import Path
from typing import Any

import wandb
from wandb.sdk.wandb_run import RunStatus

from tests.end_to_end.snippets.checks import differs, once, refusal, shows

PATH = "admin/training"


@once
def train() -> None:
    """Do a bit of everything in a run."""
    run: Any = wandb.init(
        entity="admin", project="training", id="all", name="first", group="g", job_type="train", tags=["a"], notes="n",
        config={"lr": 0.1},
    )  # fmt: skip
    run.define_metric("epoch", hidden=True)
    run.define_metric("accuracy", step_metric="epoch", summary="max")
    run.define_metric("loss", summary="min,mean")
    for epoch, accuracy in enumerate([0.5, 0.9, 0.7]):
        run.log({"epoch": epoch, "accuracy": accuracy, "loss": 3 - epoch, "nested": {"deep": epoch}})
    run.log({"partial": 1}, step=5, commit=False)
    run.log({"histogram": wandb.Histogram([1, 2, 3])}, step=5)
    table = wandb.Table(columns=["x", "y"], data=[[1, 2], [3, 4]])
    run.log({"table": table, "line": wandb.plot.line(table, "x", "y", title="A line")})
    matrix = wandb.plot.confusion_matrix(y_true=[0, 1], preds=[0, 1], class_names=["cat", "dog"])
    run.log({"page": wandb.Html("<b>bold</b>"), "matrix": matrix})
    run.config.update({"late": "value"})
    run.pin_config_keys(["late", "lr"])
    run.summary["best"] = 0.9
    run.tags += ("b",)
    run.notes, run.name = "changed", "renamed"
    Path("code").mkdir()
    Path("code/train.py").write_text("print('hello')")
    run.log_code("code")
    Path("kept").mkdir()
    Path("kept/late.txt").write_text("kept")
    run.save("kept/*.txt", policy="end")
    run.alert("Low accuracy", "It is 0.7", level="WARN", wait_duration=0)
    print("\x1b[31mred\x1b[0m")
    print("10%\r50%\r100%")
    run.write_logs("from write_logs\n")
    run.finish()


def trained() -> Any:
    """Return that run, as the public API sees it."""
    train()
    return wandb.Api().run(f"{PATH}/all")


@shows("wandb.Run.log", "wandb.init")
def log_metrics_and_histograms() -> None:
    rows = list(trained().scan_history())
    assert [row["nested"]["deep"] if "nested" in row else None for row in rows[:3]] == [0, 1, 2]
    assert (rows[3]["_step"], rows[3]["partial"], rows[3]["histogram"]["_type"]) == (5, 1, "histogram")


@shows("wandb.Run.define_metric")
def define_metrics() -> None:
    run = trained()
    assert run.summary["accuracy"]["max"] == 0.9
    assert (run.summary["loss"]["min"], run.summary["loss"]["mean"]) == (1, 2)
    assert run.history(keys=["accuracy"], x_axis="epoch", pandas=False)[1] == {"epoch": 1, "accuracy": 0.9}
    assert len(run.rawconfig["_wandb"]["m"]) >= 3


@shows("wandb.Run.log")
def log_tables_charts_and_html() -> None:
    run = trained()
    assert (run.summary["table"]["_type"], run.summary["table"]["nrows"]) == ("table-file", 2)
    assert run.summary["page"]["_type"] == "html-file"
    file = run.file(run.summary["page"]["path"])
    assert "<b>bold</b>" in file.download(root="pages").read()
    assert {"line", "matrix"} <= run.rawconfig["_wandb"]["visualize"].keys()
    table: Any = wandb.Api().artifact(f"{PATH}/run-all-table:latest").get("table")
    assert (table.columns, table.data) == (["x", "y"], [[1, 2], [3, 4]])


@shows("wandb.Run.config", "wandb.Run.tags", "wandb.Run.notes", "wandb.Run.name", "wandb.Run.pin_config_keys")
def change_config_tags_notes_and_name_of_a_run() -> None:
    run = trained()
    assert (run.config, run.summary["best"]) == ({"lr": 0.1, "late": "value"}, 0.9)
    assert (run.tags, run.notes, run.name, run.group, run.job_type) == (["a", "b"], "changed", "renamed", "g", "train")
    assert run.rawconfig["_wandb"]["pinned_keys"] == ["late", "lr"]


@shows("wandb.Run.log_code", "wandb.Run.save", "wandb.Run.alert", "wandb.Run.write_logs")
def log_code_save_files_and_read_console() -> None:
    run = trained()
    (code,) = [artifact for artifact in run.logged_artifacts() if artifact.type == "code"]
    assert [file.name for file in code.files()] == ["train.py"]
    assert run.file("kept/late.txt").download(root="back").read() == "kept"
    lines = [line.content for line in run.console_logs()]
    assert "\x1b[31mred\x1b[0m" in lines
    assert "from write_logs" in lines
    assert "100%" in lines[-2]


@shows("wandb.Run.url", "wandb.Run.project_url", "wandb.Run.path", "wandb.Run.group", "wandb.Run.to_html")
@shows("wandb.Run.entity", "wandb.Run.project", "wandb.Run.finish", "wandb.Run.id", "wandb.Run.job_type")
@shows("wandb.Run.settings", "wandb.Run.start_time", "wandb.Run.config_static")
@differs("wandb.Run.status", "it is empty: the client does not count what it has sent")
def properties_of_a_run() -> None:
    before = time.time()
    run: Any = wandb.init(
        entity="admin", project="training", id="looked-at", group="g", job_type="train", config={"lr": 0.1}
    )
    assert run.url.endswith("/admin/training/runs/looked-at")
    assert run.project_url.endswith("/admin/training")
    assert (run.entity, run.project, run.path, run.group) == ("admin", "training", f"{PATH}/looked-at", "g")
    assert "<iframe" in run.to_html()
    assert (run.id, run.job_type, run.settings.run_group) == ("looked-at", "train", "g")
    assert run.config_static["lr"] == 0.1
    assert before <= run.start_time <= time.time()
    assert run.status() == RunStatus()
    run.finish()
    assert wandb.Api().run(f"{PATH}/looked-at").state == "finished"


@shows("wandb.Run.log_artifact", "wandb.Run.use_artifact", "wandb.Run.log_model", "wandb.Run.use_model")
def log_and_use_artifacts_and_models() -> None:
    Path("model.txt").write_text("weights")
    with wandb.init(entity="admin", project="training", id="maker") as run:
        data = wandb.Artifact("data", "dataset", metadata={"rows": 1})
        data.add_file("model.txt")
        run.log_artifact(data, aliases=["best"]).wait()
        run.log_model("model.txt", name="model")
    with wandb.init(entity="admin", project="training", id="user") as run:
        assert run.use_artifact("data:best").metadata == {"rows": 1}
        assert Path(run.use_model("model:latest")).read_text() == "weights"
    names = {artifact.name for artifact in wandb.Api().run(f"{PATH}/user").used_artifacts()}
    assert names == {"data:v0", "model:v0"}


@shows("wandb.Run.restore", "wandb.restore")
def restore_a_file_of_another_run() -> None:
    train()
    restored = wandb.restore("kept/late.txt", run_path=f"{PATH}/all", root="restored")
    assert restored is not None
    assert restored.read() == "kept"
    with wandb.init(entity="admin", project="training", id="restorer") as run:
        assert run.restore("never.txt") is None


@differs("wandb.restore", "IndexError for a file that is not there, if there are others")
def restore_a_file_that_does_not_exist() -> None:
    train()
    refusal(lambda: wandb.restore("never.txt", run_path=f"{PATH}/all"), IndexError)


@shows("wandb.Run.mark_preempting", "Run.state")
def mark_a_run_as_preempting() -> None:
    with wandb.init(entity="admin", project="training", id="preempted") as run:
        run.log({"a": 1})
        run.mark_preempting()
        found = wandb.Api().run(f"{PATH}/preempted")
        while found.state != "preempting":
            time.sleep(0.1)
            found.load(force=True)
        run.finish(exit_code=1)
    assert wandb.Api().run(f"{PATH}/preempted").state == "preempted"
