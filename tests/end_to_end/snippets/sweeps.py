"""A sweep is made, gone through by an agent, and read back."""

import time
from functools import cache
from typing import Any

import wandb
from wandb.agents import pyagent
from wandb.apis.public import Sweep

from tests.end_to_end.snippets.checks import shows

CONFIG: dict[str, Any] = {
    "name": "three values",
    "method": "grid",
    "metric": {"name": "score", "goal": "maximize"},
    "parameters": {"a": {"values": [1, 3, 2]}},
}
SEEN: list[tuple[str | None, str | None]] = []
"""By run, which sweep it said it was of, and where that is."""


def train() -> None:
    """Log what is to be made as large as can be."""
    with wandb.init() as run:
        SEEN.append((run.sweep_id, run.sweep_url))
        run.log({"score": run.config["a"] * 10, "cost": run.config["a"]})


@cache
def gone_through() -> Sweep:
    """Return a sweep that an agent of this process has gone through."""
    agents: Any = pyagent.Agent
    agents.HEARTBEAT_SLEEP_SECONDS = 0.2  # they ask more often than usual
    name = wandb.sweep(CONFIG, entity="admin", project="swept")
    wandb.agent(name, train, entity="admin", project="swept", count=3)
    return wandb.Api().sweep(f"admin/swept/{name}")


@shows("wandb.sweep", "wandb.agent", "wandb.Run.sweep_id", "wandb.Run.sweep_url")
def an_agent_goes_through_it() -> None:
    sweep = gone_through()
    assert [(sweep.id, sweep.url)] * 3 == SEEN
    found = [(run.config["a"], run.sweep_name, run.state) for run in sweep.runs]
    assert found == [(value, sweep.id, "finished") for value in (1, 3, 2)]


@shows(
    "Api.sweep",
    "Api.from_path",
    "Sweep.config",
    "Sweep.name",
    "Sweep.expected_run_count",
    "Sweep.entity",
    "Sweep.username",
)
@shows("Sweep.path", "Sweep.url", "Sweep.to_html")
def what_it_is_and_where() -> None:
    sweep = gone_through()
    assert (sweep.config, sweep.name, sweep.expected_run_count) == (CONFIG, "three values", 3)
    assert (sweep.entity, sweep.username, sweep.path) == ("admin", "admin", ["admin", "swept", sweep.id])
    assert sweep.url.endswith(f"/admin/swept/sweeps/{sweep.id}")
    assert f"{sweep.url}?jupyter=true" in sweep.to_html()
    assert wandb.Api().from_path(f"admin/swept/sweeps/{sweep.id}").config == CONFIG


@shows("Sweep.best_run", "Sweep.order")
def its_best_run() -> None:
    sweep = gone_through()
    best: Any = sweep.best_run()
    cheapest: Any = sweep.best_run(order="+summary_metrics.cost")
    assert (sweep.order, best.config["a"], cheapest.config["a"]) == ("-summary_metrics.score", 3, 1)


@shows("wandb.sweep", "wandb.agent")
def parameters_may_be_nested() -> None:
    net = {"parameters": {"depth": {"value": 2}, "width": {"distribution": "q_uniform", "min": 8, "max": 8, "q": 8}}}
    config = {"method": "random", "parameters": {"net": net, "lr": {"min": 0.1, "max": 0.1001}}}
    gone_through()
    name = wandb.sweep(config, entity="admin", project="swept")
    found: list[dict[str, Any]] = []

    def seen() -> None:
        with wandb.init() as run:
            found.append(dict(run.config))

    wandb.agent(name, seen, entity="admin", project="swept", count=1)
    (only,) = found
    assert only["net"] == {"depth": 2, "width": 8}
    assert 0.1 <= only["lr"] <= 0.1001
    assert [run.config["net"]["depth"] for run in wandb.Api().sweep(f"admin/swept/{name}").runs] == [2]
    assert len(wandb.Api().runs("admin/swept", {"config.net.depth": 2})) == 1


@shows("wandb.sweep", "wandb.agent")
def a_run_that_does_worse_than_others_is_stopped_early() -> None:
    gone_through()
    config = {
        "method": "random",
        "metric": {"name": "loss", "goal": "minimize"},
        "parameters": {"a": {"value": 9}},
        "early_terminate": {"type": "hyperband", "min_iter": 2, "eta": 2},
    }
    name = wandb.sweep(config, entity="admin", project="swept")
    with wandb.init(entity="admin", project="swept", settings=wandb.Settings(sweep_id=name)) as run:
        for _ in range(2):
            run.log({"loss": 1})

    def endless() -> None:
        with wandb.init(settings=wandb.Settings(x_file_stream_transmit_interval=1)) as run:  # not every 15 seconds
            while True:
                run.log({"loss": run.config["a"]})
                time.sleep(0.1)

    wandb.agent(name, endless, entity="admin", project="swept", count=1)
    assert [run.state for run in wandb.Api().sweep(f"admin/swept/{name}").runs] == ["finished", "killed"]


@shows("wandb.sweep")
def runs_of_before_are_a_part_of_it() -> None:
    with wandb.init(entity="admin", project="swept", id="before", config={"a": 7}) as run:
        run.log({"score": 70})
    name = wandb.sweep(CONFIG, entity="admin", project="swept", prior_runs=["before"])
    sweep: Any = wandb.Api().sweep(f"admin/swept/{name}")
    assert ([run.id for run in sweep.runs], sweep.best_run().config["a"]) == (["before"], 7)


@shows("Sweep.get", "Sweep.load")
def it_is_read_anew() -> None:
    name = wandb.sweep(CONFIG, entity="admin", project="swept")
    sweep: Any = Sweep.get(wandb.Api(), entity="admin", project="swept", sid=name)
    assert (sweep.state, len(sweep.runs), sweep.best_run()) == ("PENDING", 0, None)
    wandb.init(entity="admin", project="swept", settings=wandb.Settings(sweep_id=name)).finish()
    assert len(sweep.runs) == 0, "until it is loaded"
    sweep.load(force=True)
    assert len(sweep.runs) == 1
