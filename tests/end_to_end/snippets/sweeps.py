"""A sweep is made, gone through by an agent, and read back."""

import time
from collections.abc import Callable
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


def go_through(name: str, train: Callable[[], None], count: int) -> Sweep:
    """Return a sweep after an agent of this process has done so many runs of it."""
    agents: Any = pyagent.Agent
    agents.HEARTBEAT_SLEEP_SECONDS = 0.2  # they ask more often than usual
    wandb.agent(name, train, entity="admin", project="swept", count=count)
    return wandb.Api().sweep(f"admin/swept/{name}")


@shows("wandb.sweep", "wandb.agent", "wandb.Run.sweep_id", "wandb.Run.sweep_url")
def run_a_sweep_with_an_agent() -> None:
    seen: list[tuple[str | None, str | None]] = []

    def train() -> None:
        with wandb.init() as run:
            seen.append((run.sweep_id, run.sweep_url))
            run.log({"score": run.config["a"]})

    sweep = go_through(wandb.sweep(CONFIG, entity="admin", project="swept"), train, 3)
    assert [(sweep.id, sweep.url)] * 3 == seen
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
def look_up_a_sweep() -> None:
    name = wandb.sweep(CONFIG, entity="admin", project="swept")
    sweep = wandb.Api().sweep(f"admin/swept/{name}")
    assert (sweep.config, sweep.name, sweep.expected_run_count) == (CONFIG, "three values", 3)
    assert sweep.id == name
    assert (sweep.entity, sweep.username, sweep.path) == ("admin", "admin", ["admin", "swept", sweep.id])
    assert sweep.url.endswith(f"/admin/swept/sweeps/{sweep.id}")
    assert f"{sweep.url}?jupyter=true" in sweep.to_html()
    assert wandb.Api().from_path(f"admin/swept/sweeps/{sweep.id}").config == CONFIG


@shows("Sweep.best_run", "Sweep.order")
def best_run_of_a_sweep() -> None:
    def train() -> None:
        with wandb.init() as run:
            run.log({"score": run.config["a"] * 10, "cost": run.config["a"]})

    sweep = go_through(wandb.sweep(CONFIG, entity="admin", project="swept"), train, 3)
    best: Any = sweep.best_run()
    cheapest: Any = sweep.best_run(order="+summary_metrics.cost")
    assert (sweep.order, best.config["a"], cheapest.config["a"]) == ("-summary_metrics.score", 3, 1)


@shows("wandb.sweep", "wandb.agent")
def sweep_over_nested_parameters() -> None:
    net = {"parameters": {"depth": {"value": 2}, "width": {"distribution": "q_uniform", "min": 8, "max": 8, "q": 8}}}
    config = {"method": "random", "parameters": {"net": net, "lr": {"min": 0.1, "max": 0.1001}}}
    found: list[dict[str, Any]] = []

    def seen() -> None:
        with wandb.init() as run:
            found.append(dict(run.config))

    sweep = go_through(wandb.sweep(config, entity="admin", project="swept"), seen, 1)
    (only,) = found
    assert only["net"] == {"depth": 2, "width": 8}
    assert 0.1 <= only["lr"] <= 0.1001
    assert [run.config["net"]["depth"] for run in sweep.runs] == [2]
    assert len(wandb.Api().runs("admin/swept", {"config.net.depth": 2})) == 1


@shows("wandb.sweep", "wandb.agent")
def stop_runs_early_with_hyperband() -> None:
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

    sweep = go_through(name, endless, 1)
    assert [run.state for run in sweep.runs] == ["finished", "killed"]


@shows("wandb.sweep")
def start_a_sweep_from_earlier_runs() -> None:
    with wandb.init(entity="admin", project="swept", id="before", config={"a": 7}) as run:
        run.log({"score": 70})
    name = wandb.sweep(CONFIG, entity="admin", project="swept", prior_runs=["before"])
    sweep: Any = wandb.Api().sweep(f"admin/swept/{name}")
    assert ([run.id for run in sweep.runs], sweep.best_run().config["a"]) == (["before"], 7)


@shows("Sweep.get", "Sweep.load")
def reload_a_sweep() -> None:
    name = wandb.sweep(CONFIG, entity="admin", project="swept")
    sweep: Any = Sweep.get(wandb.Api(), entity="admin", project="swept", sid=name)
    assert (sweep.state, len(sweep.runs), sweep.best_run()) == ("PENDING", 0, None)
    wandb.init(entity="admin", project="swept", settings=wandb.Settings(sweep_id=name)).finish()
    assert len(sweep.runs) == 0, "until it is loaded"
    sweep.load(force=True)
    assert len(sweep.runs) == 1
