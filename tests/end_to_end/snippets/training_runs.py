"""A script logs, as the guides have it: metrics, tables, charts, files, alerts; all of it is there afterwards."""

import time
from functools import cache
from pathlib import Path
from typing import Any

import wandb
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from traitlets.config import Config
from wandb.sdk.wandb_run import RunStatus

from tests.end_to_end.snippets.checks import differs, refusal, shows

PATH = "admin/training"


@cache
def trained() -> Any:
    """Return a run that has done a bit of everything, as the public API sees it."""
    before = time.time()
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
    Path("training-code").mkdir(exist_ok=True)
    Path("training-code/train.py").write_text("print('hello')")
    run.log_code("training-code")
    Path("kept").mkdir(exist_ok=True)
    Path("kept/late.txt").write_text("kept")
    run.save("kept/*.txt", policy="end")
    run.alert("Low accuracy", "It is 0.7", level="WARN", wait_duration=0)
    print("\x1b[31mred\x1b[0m")
    print("10%\r50%\r100%")
    run.write_logs("from write_logs\n")
    assert run.url.endswith("/admin/training/runs/all")
    assert run.project_url.endswith("/admin/training")
    assert (run.entity, run.project, run.path, run.group) == ("admin", "training", f"{PATH}/all", "g")
    assert "<iframe" in run.to_html()
    assert (run.id, run.job_type, run.settings.run_group, run.config_static["lr"]) == ("all", "train", "g", 0.1)
    assert before <= run.start_time <= time.time()
    assert run.status() == RunStatus()
    run.finish()
    return wandb.Api().run(f"{PATH}/all")


@shows("wandb.Run.log", "wandb.init")
def rows_as_they_were_logged() -> None:
    rows = list(trained().scan_history())
    assert [row["nested"]["deep"] if "nested" in row else None for row in rows[:3]] == [0, 1, 2]
    assert (rows[3]["_step"], rows[3]["partial"], rows[3]["histogram"]["_type"]) == (5, 1, "histogram")


@shows("wandb.Run.define_metric")
def metrics_with_an_axis_and_a_summary() -> None:
    run = trained()
    assert run.summary["accuracy"]["max"] == 0.9
    assert (run.summary["loss"]["min"], run.summary["loss"]["mean"]) == (1, 2)
    assert run.history(keys=["accuracy"], x_axis="epoch", pandas=False)[1] == {"epoch": 1, "accuracy": 0.9}
    assert len(run.rawconfig["_wandb"]["m"]) >= 3


@shows("wandb.Run.log")
def tables_charts_and_pages() -> None:
    run = trained()
    assert (run.summary["table"]["_type"], run.summary["table"]["nrows"]) == ("table-file", 2)
    assert run.summary["page"]["_type"] == "html-file"
    file = run.file(run.summary["page"]["path"])
    assert "<b>bold</b>" in file.download(root="pages", exist_ok=True).read()
    assert {"line", "matrix"} <= run.rawconfig["_wandb"]["visualize"].keys()
    table: Any = wandb.Api().artifact(f"{PATH}/run-all-table:latest").get("table")
    assert (table.columns, table.data) == (["x", "y"], [[1, 2], [3, 4]])


@shows("wandb.Run.config", "wandb.Run.tags", "wandb.Run.notes", "wandb.Run.name", "wandb.Run.pin_config_keys")
def what_was_changed_while_it_ran() -> None:
    run = trained()
    assert (run.config, run.summary["best"]) == ({"lr": 0.1, "late": "value"}, 0.9)
    assert (run.tags, run.notes, run.name, run.group, run.job_type) == (["a", "b"], "changed", "renamed", "g", "train")
    assert run.rawconfig["_wandb"]["pinned_keys"] == ["late", "lr"]


@shows("wandb.Run.log_code", "wandb.Run.save", "wandb.Run.alert", "wandb.Run.write_logs")
def code_files_and_console() -> None:
    run = trained()
    (code,) = [artifact for artifact in run.logged_artifacts() if artifact.type == "code"]
    assert [file.name for file in code.files()] == ["train.py"]
    assert run.file("kept/late.txt").download(root="back", exist_ok=True).read() == "kept"
    lines = [line.content for line in run.console_logs()]
    assert "\x1b[31mred\x1b[0m" in lines
    assert "from write_logs" in lines
    assert "100%" in lines[-2]


@shows("wandb.Run.url", "wandb.Run.project_url", "wandb.Run.path", "wandb.Run.group", "wandb.Run.to_html")
@shows("wandb.Run.entity", "wandb.Run.project", "wandb.Run.finish", "wandb.Run.id", "wandb.Run.job_type")
@shows("wandb.Run.settings", "wandb.Run.start_time", "wandb.Run.config_static")
@differs("wandb.Run.status", "it is empty: the client does not count what it has sent")
def where_it_is() -> None:
    assert trained().state == "finished"


@shows("wandb.Run.log_artifact", "wandb.Run.use_artifact", "wandb.Run.log_model", "wandb.Run.use_model")
def artifacts_and_models() -> None:
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
def files_of_another_run() -> None:
    trained()
    restored = wandb.restore("kept/late.txt", run_path=f"{PATH}/all", root="restored")
    assert restored is not None
    assert restored.read() == "kept"
    with wandb.init(entity="admin", project="training", id="restorer") as run:
        assert run.restore("never.txt") is None


@differs("wandb.restore", "IndexError for a file that is not there, if there are others")
def a_file_that_another_run_does_not_have() -> None:
    trained()
    refusal(lambda: wandb.restore("never.txt", run_path=f"{PATH}/all"), IndexError)


@shows("wandb.Run.mark_preempting", "Run.state")
def a_run_that_will_be_preempted() -> None:
    with wandb.init(entity="admin", project="training", id="preempted") as run:
        run.log({"a": 1})
        run.mark_preempting()
        found = wandb.Api().run(f"{PATH}/preempted")
        while found.state != "preempting":
            time.sleep(0.1)
            found.load(force=True)
        run.finish(exit_code=1)
    assert wandb.Api().run(f"{PATH}/preempted").state == "preempted"


@shows("wandb.Run.display")
def a_notebook_displays_it() -> None:
    with wandb.init(entity="admin", project="training", settings=wandb.Settings(silent=False)) as run:
        assert not run.display(), "this is no notebook"
        # In a kernel, IPython knows of the file that says how to connect to it.
        InteractiveShell.instance(config=Config({"IPKernelApp": {"connection_file": "jupyter/kernel.json"}}))
        try:
            with capture_output() as captured:
                assert run.display(height=99)
        finally:
            InteractiveShell.clear_instance()
    (shown,) = captured.outputs
    assert f"{run.url}?jupyter=true" in shown.data["text/html"]
