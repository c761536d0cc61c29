"""Runs and projects are found through the public API: by filter, in an order, page by page."""

from typing import Any

import wandb
from wandb.apis.public import Api

from tests.end_to_end.snippets.checks import once, refusal, shows

PATH = "admin/finding"


@once
def make_runs() -> None:
    """Make three runs, of which the last one is not finished."""
    for name, rate in (("adam", 0.1), ("sgd", 0.5)):
        config = {"lr": rate, "experiment_name": f"b-{name}", "net": {"depth": 3}}
        with wandb.init(
            entity="admin", project="finding", id=name, name=f"foo {name}", config=config, tags=[name]
        ) as run:
            run.log({"loss": rate * 2, "val": {"acc": 1 - rate}, "best": f"{name}.pt"})
    wandb.Api().create_run(entity="admin", project="finding", run_id="waiting")


def api() -> Api:
    """Return a public API of a server that has these runs."""
    make_runs()
    return wandb.Api()


def found(filters: dict[str, Any], order: str = "+created_at") -> list[str]:
    """Return the ids of the runs that a filter finds."""
    return [run.id for run in api().runs(PATH, filters=filters, order=order)]


@shows("Api.runs")
def filter_runs_by_config() -> None:
    assert found({"config.experiment_name": "b-sgd"}) == ["sgd"]
    assert found({"config.lr.value": {"$gt": 0.05, "$lt": 0.2}}) == ["adam"]
    assert found({"config.net.depth": {"$in": [3, 4]}}) == ["adam", "sgd"]
    assert found({"config.experiment_name": {"$regex": "b.*"}}) == ["adam", "sgd"]
    assert found({"config.lr": {"$exists": False}}) == ["waiting"]


@shows("Api.runs")
def filter_runs_by_summary_metric() -> None:
    assert found({"summary_metrics.loss": {"$lte": 0.2}}) == ["adam"]
    assert found({"summary_metrics.val.acc": {"$ne": 0.5}}) == ["adam", "waiting"]
    assert found({"$or": [{"summary_metrics.loss": {"$lt": 0.3}}, {"config.lr": 0.5}]}) == ["adam", "sgd"]


@shows("Api.runs")
def filter_runs_by_state_tags_name_time_and_user() -> None:
    assert found({"state": "finished"}) == ["adam", "sgd"]
    assert found({"tags": {"$in": ["adam", "other"]}}) == ["adam"]
    assert found({"display_name": {"$regex": "^foo.*"}}) == ["adam", "sgd"]
    assert found({"$nor": [{"tags": "sgd"}, {"display_name": "foo adam"}]}) == ["waiting"]
    assert found({"createdAt": {"$gt": "2020-01-01T00:00:00Z"}, "username": "admin"}) == ["adam", "sgd", "waiting"]


@shows("Api.runs")
def filter_runs_by_each_operator_and_field() -> None:
    runs = list(api().runs(PATH, lazy=False))
    values: dict[str, list[Any]] = {
        "config.experiment_name": [run.config.get("experiment_name") for run in runs],
        "summary_metrics.best": [run.summary.get("best") for run in runs],
        "state": [run.state for run in runs],
        "tags": [" ".join(run.tags) or None for run in runs],
        "createdAt": [run.created_at for run in runs],
        "name": [run.id for run in runs],
        "display_name": [run.name for run in runs],
    }
    for field, has in values.items():
        sought: Any = has[1]
        tests: dict[str, tuple[Any, list[bool]]] = {
            "$eq": (sought, [value == sought for value in has]),
            "$ne": (sought, [value != sought for value in has]),
            "$not": ({"$eq": sought}, [value != sought for value in has]),
            "$in": ([sought, "other"], [value == sought for value in has]),
            "$nin": ([sought, "other"], [value != sought for value in has]),
            "$gt": (sought, [value is not None and value > sought for value in has]),
            "$gte": (sought, [value is not None and value >= sought for value in has]),
            "$lt": (sought, [value is not None and value < sought for value in has]),
            "$lte": (sought, [value is not None and value <= sought for value in has]),
            "$exists": (True, [value is not None for value in has]),
            "$regex": (f"^{sought[:1]}.*{sought[-2:]}$", [value == sought for value in has]),
            "$contains": (sought, [value == sought for value in has]),
        }
        if field == "createdAt":  # there, others are times too
            tests |= {name: ([sought], tests[name][1]) for name in ("$in", "$nin")}
            tests["$regex"] = (f"^{sought}$", tests["$regex"][1])
        for operator, (operand, fits) in tests.items():
            expected = [run.id for run, is_found in zip(runs, fits, strict=True) if is_found]
            assert found({field: {operator: operand}}) == expected, (field, operator, operand, has)
    assert found({"$and": [{"state": "finished"}, {"tags": "sgd"}]}) == ["sgd"]
    assert found({"$or": [{"state": "running"}, {"name": "adam"}]}) == ["adam", "waiting"]
    assert found({"$nor": [{"state": "running"}, {"name": "adam"}]}) == ["sgd"]
    assert found({"$not": {"createdAt": {"$lt": "2100-01-01"}}}) == []


@shows("Api.runs")
def sort_runs() -> None:
    assert found({}, order="-created_at") == ["waiting", "sgd", "adam"]
    assert found({}, order="-summary_metrics.loss") == ["sgd", "adam", "waiting"]
    assert found({}, order="+config.lr.value") == ["adam", "sgd", "waiting"]


@shows("Api.runs", "Runs.more", "Runs.cursor", "Runs.convert_objects", "Api.flush")
def read_runs_page_by_page() -> None:
    runs = api().runs(PATH, per_page=1)
    assert (len(runs), runs[1].id) == (3, "sgd")
    assert (runs.more, bool(runs.cursor)) == (True, True)
    assert [run.id for run in runs.convert_objects()] == ["sgd"], "those of the newest page"
    assert [run.id for run in runs[0:2]] == ["adam", "sgd"]
    asking = wandb.Api()
    assert len(asking.runs(PATH, {"state": "killed"})) == 0
    asking.flush()
    assert asking.runs(PATH, {"state": "killed"}).last_response is None


@shows("Runs.upgrade_to_full", "Runs.histories")
def read_configs_and_histories_of_many_runs() -> None:
    runs = api().runs(PATH, {"state": "finished"})
    assert [row["run_id"] for row in runs.histories(keys=["loss"])] == ["adam", "sgd"]
    runs.upgrade_to_full()
    assert [run.config["lr"] for run in runs] == [0.1, 0.5]
    eager = wandb.Api().runs(PATH, {"state": "finished"}, lazy=False, include_sweeps=True)
    assert [run.summary["loss"] for run in eager] == [0.2, 1]


@shows("Api.from_path", "Api.project", "Project.path", "Project.url", "Project.to_html", "Project.id")
def look_up_a_project() -> None:
    project = api().project("finding", "admin")
    assert (project.path, bool(project.id)) == (["admin", "finding"], True)
    assert project.url.endswith("/admin/finding/workspace")
    assert "<iframe" in project.to_html()
    assert api().from_path(PATH).path == project.path
    assert api().from_path(f"{PATH}/runs/adam").id == api().from_path(f"{PATH}/adam").id == "adam"


@shows("Api.runs", "Api.run")
def look_up_a_project_or_run_that_does_not_exist() -> None:
    assert "Could not find project" in refusal(lambda: len(api().runs("admin/never")), ValueError)
    assert "Could not find run" in refusal(lambda: api().run(f"{PATH}/never"), wandb.Error)


@shows("Api.viewer", "Api.default_entity", "Api.user_agent")
def who_am_i() -> None:
    api = wandb.Api()
    assert (api.viewer.username, api.default_entity) == ("admin", "admin")
    assert wandb.__version__ in api.user_agent
