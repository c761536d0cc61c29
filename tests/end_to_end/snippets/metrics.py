"""Metrics with axes and summaries, values of every kind, and how they come back; and the ways to configure a run."""

import argparse
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import wandb
from absl import flags

from tests.end_to_end.snippets.checks import once, refusal, shows

PATH = "admin/metrics"
PLACE: Any = {"entity": "admin", "project": "metrics"}
LONG = "long " * 20_000
VALUES: dict[str, Any] = {
    "whole": 2**53 + 1,
    "huge": 2**70,
    "small": 1e-300,
    "truth": True,
    "nothing": None,
    "text": "ünï 🚀 \x1b[31m",
    "long": LONG,
    "list": [1, "two", None],
    "with.dot": 1,
    "with/slash": 2,
    'with "quotes" and spaces': 3,
    "schlüssel": 4,
    "nested": {"deep": {"er": 5}, "list": [{"a": 1}]},
    "array": np.float32(0.5),
}
ODD = {"nan": math.nan, "inf": math.inf, "minus": -math.inf}


@once
def log_values() -> None:
    """Log values of every kind."""
    with wandb.init(**PLACE, id="values", config=VALUES | ODD | {"tuple": (1, 2), "set": {"a"}}) as run:
        run.log(VALUES | ODD)
        run.log({f"key {number}": number for number in range(10_000)})
        run.log({"late": 1}, step=7)
        run.log({"past": 1}, step=3)
        run.summary.update({"own": {"best": np.float64(0.5)}, "mean": math.nan})


def logged() -> Any:
    """Return the run with these, as the public API sees it."""
    log_values()
    return wandb.Api().run(f"{PATH}/values")


@shows("wandb.Run.log", "Run.scan_history")
def log_values_of_every_type() -> None:
    (row, *_) = logged().scan_history()
    assert {key: row[key] for key in VALUES if key != "huge"} == {key: VALUES[key] for key in VALUES if key != "huge"}
    assert float(row["huge"]) == 2.0**70
    assert (math.isnan(row["nan"]), row["inf"], row["minus"]) == (True, math.inf, -math.inf)
    assert isinstance(row["_step"], int)
    assert row["_timestamp"] > 1e9
    assert 0 <= row["_runtime"] < 1000


@shows("Run.history")
def read_history_of_keys_with_values_of_every_type() -> None:
    run = logged()
    for key in VALUES:
        (row,) = run.history(keys=[key], pandas=False)
        assert (row["_step"], row[key]) == (0, VALUES[key]), key
    (row,) = run.history(keys=["nested.deep.er", "nan", "inf"], pandas=False)
    assert row == {"_step": 0, "nested.deep.er": 5, "nan": "NaN", "inf": "Infinity"}


@shows("Run.config", "Run.summary")
def configs_and_summaries_with_values_of_every_type() -> None:
    run = logged()
    wanted = {key: value for key, value in VALUES.items() if key not in ("huge", "nested", "nothing")}
    for found in (run.config, run.summary):
        assert {key: found[key] for key in wanted} == wanted
        assert found["nested"]["deep"]["er"] == 5
        assert found["inf"] == math.inf
    assert (run.config["nan"], math.isnan(run.summary["nan"])) == (None, True), "the client sends null in configs"
    assert (run.config["tuple"], run.config["set"]) == ([1, 2], ["a"])
    assert "_wandb" not in run.config
    assert run.summary["own"]["best"] == 0.5
    assert run.summary["key 9999"] == 9999
    assert [each.id for each in wandb.Api().runs(PATH, {"summary_metrics.key 9999": 9999})] == ["values"]
    assert [each.id for each in wandb.Api().runs(PATH, {"config.schlüssel": 4, "config.text": VALUES["text"]})] == [
        "values"
    ]


@shows("wandb.Run.log")
def log_with_a_step() -> None:
    run = logged()
    steps = {row["_step"]: row for row in run.scan_history(min_step=2)}
    assert (list(steps), steps[7]["late"]) == ([7], 1)
    assert run.lastHistoryStep == 7


@shows("wandb.Run.define_metric")
def define_metrics_with_axes_and_summaries() -> None:
    with wandb.init(**PLACE, id="defined") as run:
        run.define_metric("epoch", hidden=True)
        run.define_metric("train/*", step_metric="epoch", step_sync=True)
        for kind in ("min", "max", "mean", "last", "first", "none"):
            run.define_metric(f"of {kind}", summary=kind)
        run.define_metric("both", summary="min,max")
        for epoch, value in enumerate([2, 1, 3]):
            run.log({"epoch": epoch, "train/loss": value, "both": value})
            run.log({f"of {kind}": value for kind in ("min", "max", "mean", "last", "first", "none")})
    found: Any = wandb.Api().run(f"{PATH}/defined")
    told = {kind: found.summary.get(f"of {kind}") for kind in ("min", "max", "mean", "last", "first", "none")}
    assert {kind: value and value[kind] for kind, value in told.items()} == {
        "min": 1, "max": 3, "mean": 2, "last": 3, "first": 2, "none": None,
    }  # fmt: skip
    assert (found.summary["both"]["min"], found.summary["both"]["max"]) == (1, 3)
    assert found.history(keys=["train/loss"], x_axis="epoch", pandas=False)[2] == {"epoch": 2, "train/loss": 3}
    assert [run.id for run in wandb.Api().runs(PATH, {"summary_metrics.both.max": {"$gte": 3}})] == ["defined"]


@shows("wandb.init", "wandb.Run.config")
def configure_a_run_from_argparse_a_file_and_defaults() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--hidden", default="x")
    given: Any = parser.parse_args(["--lr", "0.5"])
    Path("config.yaml").write_text("depth:\n  desc: how deep\n  value: 3\nwidth:\n  value: 4\n")
    with wandb.init(**PLACE, id="configured", config=given) as run:
        run.config.setdefaults({"lr": 9, "late": 2})
        run.config.update({"lr": 0.6}, allow_val_change=True)
        run.config.more = {"a": [1]}
    assert wandb.Api().run(f"{PATH}/configured").config == {"lr": 0.6, "hidden": "x", "late": 2, "more": {"a": [1]}}
    with wandb.init(**PLACE, id="of-file", config="config.yaml") as run:
        assert run.config["depth"] == 3
    assert wandb.Api().run(f"{PATH}/of-file").config == {"depth": 3, "width": 4}


@shows("wandb.init", "wandb.Run.config")
def configure_a_run_from_absl_flags() -> None:
    given: Any = flags.FlagValues()
    flags.DEFINE_integer("epochs", 3, "how many", flag_values=given)
    flags.DEFINE_string("net", "small", "which one", flag_values=given)
    given(["train.py", "--net=large"])
    with wandb.init(**PLACE, id="absl", config=given):
        pass
    assert wandb.Api().run(f"{PATH}/absl").config == {"epochs": 3, "net": "large"}
    with wandb.init(**PLACE, id="absl-later") as run:
        run.config.update(given)
    assert wandb.Api().run(f"{PATH}/absl-later").config == {"epochs": 3, "net": "large"}


@shows("wandb.init")
def configure_a_run_with_environment_variables() -> None:
    os.environ |= {
        "WANDB_ENTITY": "admin",
        "WANDB_PROJECT": "metrics",
        "WANDB_RUN_ID": "from-environment",
        "WANDB_NAME": "named",
        "WANDB_NOTES": "some notes",
        "WANDB_TAGS": "one,two",
        "WANDB_RUN_GROUP": "group",
        "WANDB_JOB_TYPE": "eval",
        "WANDB_RESUME": "allow",
    }
    with wandb.init() as logging:
        logging.log({"a": 1})
    run = wandb.Api().run(f"{PATH}/from-environment")
    assert (run.name, run.notes, run.tags, run.group, run.job_type) == (
        "named",
        "some notes",
        ["one", "two"],
        "group",
        "eval",
    )


@shows("wandb.init")
def several_runs_in_one_script() -> None:
    first = wandb.init(**PLACE, id="first", reinit="create_new", group="many")
    second = wandb.init(**PLACE, id="second", reinit="create_new", group="many")
    first.log({"a": 1})
    second.log({"a": 2})
    first.finish()
    second.finish()
    with wandb.init(**PLACE, id="third", group="many") as third:
        assert wandb.init(reinit="return_previous") is third
    found = wandb.Api().runs(PATH, {"group": "many"})
    assert [(run.id, run.summary.get("a")) for run in found] == [("first", 1), ("second", 2), ("third", None)]


@shows("wandb.init", "wandb.Run.log", "wandb.Run.save")
def projects_runs_and_files_with_unusual_names() -> None:
    project, name, file = "my project & {co}", "a^b`c{d} über+~!", "notes #1 100% ü.txt"
    with wandb.init(entity="admin", project=project, id=name, name="n" * 1000, group="a/b #1") as run:
        run.log({"a": 1})
        Path(file).write_text("named oddly")
        run.save(file, policy="now")
    found = wandb.Api().run(f"admin/{project}/{name}")
    assert (found.state, found.name, found.group) == ("finished", "n" * 1000, "a/b #1")
    assert [row["a"] for row in found.scan_history()] == [1]
    assert found.file(file).download(root="back", replace=True).read() == "named oddly"
    assert "cannot be a run id" in refusal(lambda: wandb.init(**PLACE, id="100%"), wandb.Error)


@shows("wandb.Run.tags", "Api.runs")
def a_run_with_a_thousand_tags() -> None:
    tags = [f"tag {number}" for number in range(1000)]
    with wandb.init(**PLACE, id="tagged", tags=tags) as run:
        assert len(run.tags or ()) == 1000
    run: Any = wandb.Api().run(f"{PATH}/tagged")
    assert run.tags == tags
    assert [each.id for each in wandb.Api().runs(PATH, {"tags": {"$in": ["tag 999"]}})] == ["tagged"]
    run.tags = ["one"]
    run.update()
    assert wandb.Api().run(f"{PATH}/tagged").tags == ["one"]
    assert len(wandb.Api().runs(PATH, {"tags": "tag 999"})) == 0
