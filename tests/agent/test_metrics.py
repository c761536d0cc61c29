"""Metrics tell what is so, in the Prometheus manner, and the dashboard shows them all."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent.admission.inventory import Gpu, Inventory
from agent.held import Launches
from agent.launch import Assigned, Cause, Launch, Outcome, Stage
from agent.observability.metrics import Metrics
from backends.base import Observation, Phase

DASHBOARD = Path(__file__).parents[2] / "deploy" / "grafana" / "launchbay-agent.json"
NAME = re.compile(r"\b(?:launchbay_agent|process)_\w+")


def launch(number: int = 1, stage: Stage = Stage.CLAIMED, assigned: Assigned | None = None) -> Launch:
    """Return a launch."""
    return Launch(f"item-{number}", 1, "q", {"project": "p"}, f"run-{number}", stage, assigned=assigned)


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    """Return a sample as a scrape has it."""
    return metrics.registry.get_sample_value(f"launchbay_agent_{name}", labels)


def test_launches_are_derived_from_what_is_held() -> None:
    launches = Launches()
    metrics = Metrics(launches)
    assert value(metrics, "launches", queue="q", stage="claimed") is None, "nobody has heard of the queue yet"
    first, second = launches.add(launch(1)), launches.add(launch(2))
    assert value(metrics, "launches", queue="q", stage="claimed") == 2
    first.launch.move(Stage.PREPARING)
    assert value(metrics, "launches", queue="q", stage="claimed") == 1
    assert value(metrics, "launches", queue="q", stage="preparing") == 1
    assert value(metrics, "places_taken") == 2
    launches.remove(first)
    launches.remove(second)
    assert value(metrics, "places_taken") == 0


def test_why_launches_wait_on_their_platform_is_derived_from_what_is_seen() -> None:
    launches = Launches()
    metrics = Metrics(launches)
    held = [launches.add(launch(number, Stage.STARTED)) for number in range(3)]
    for each in held:
        each.launch.resource = "kubernetes"
    held[0].see(Observation(Phase.STARTING, reason="image_pull"))
    held[1].see(Observation(Phase.STARTING, reason="image_pull"))
    labels = {"resource": "kubernetes", "phase": "starting", "reason": "image_pull"}
    assert value(metrics, "platform_launches", **labels) == 2
    held[0].see(Observation(Phase.RUNNING))
    held[1].see(Observation(Phase.FAILED, 1))
    assert value(metrics, "platform_launches", **labels) is None
    assert value(metrics, "platform_launches", resource="kubernetes", phase="running", reason="") == 1


def test_a_queue_that_is_polled_has_a_series_for_each_stage() -> None:
    metrics = Metrics(Launches())
    metrics.polled("q", "empty")
    assert [value(metrics, "launches", queue="q", stage=stage) for stage in Stage] == [0] * len(Stage)
    assert value(metrics, "polls_total", queue="q", result="empty") == 1


def test_slots_are_derived_from_what_is_held() -> None:
    launches = Launches()
    metrics = Metrics(launches)
    metrics.limits(4, Inventory((Gpu("GPU-a", 0), Gpu("GPU-b", 1)), 8, 1024))
    held = launches.add(launch(1, Stage.STARTED, Assigned(("GPU-a",), 2.5, 512)))
    names = ("places", "gpus", "gpus_assigned", "cpus", "cpus_assigned", "memory_bytes", "memory_assigned_bytes")
    assert [value(metrics, name) for name in names] == [4, 2, 1, 8, 2.5, 1024, 512]
    launches.remove(held)
    assert [value(metrics, name) for name in names if name.endswith("_assigned")] == [0, 0]


def test_no_limit_is_infinite() -> None:
    metrics = Metrics(Launches())
    metrics.limits(-1, Inventory())
    assert value(metrics, "places") == math.inf


def test_what_has_happened_is_counted() -> None:
    metrics = Metrics(Launches())
    metrics.stage_took(Stage.PREPARING, 3.0)
    metrics.enqueued_to_started("q", 0.02)
    metrics.retried("exit_code:143")
    metrics.refused("policy.images")
    metrics.backend_unavailable("kubernetes")
    metrics.control_plane_retried()
    metrics.loop_was_late(0.3)
    assert value(metrics, "stage_seconds_sum", stage="preparing") == 3
    assert value(metrics, "enqueued_to_started_seconds_bucket", queue="q", le="0.025") == 1
    assert value(metrics, "enqueued_to_started_seconds_bucket", queue="q", le="0.01") == 0
    assert value(metrics, "retries_total", cause="exit_code:143") == 1
    assert value(metrics, "refusals_total", rule="policy.images") == 1
    assert value(metrics, "backend_unavailable_total", resource="kubernetes") == 1
    assert value(metrics, "control_plane_retries_total") == 1
    assert value(metrics, "loop_lag_seconds_sum") == 0.3


@pytest.mark.parametrize(
    ("outcome", "shown"),
    [
        (Outcome.FINISHED, "none"),
        (Outcome.STOPPED, "none"),
        (Outcome.FAILED, "infrastructure"),
        (Outcome.PREEMPTED, "infrastructure"),
        (Outcome.LOST, "infrastructure"),
    ],
)
def test_somebody_is_at_fault_for_a_failure_alone(outcome: Outcome, shown: str) -> None:
    metrics = Metrics(Launches())
    metrics.ended("q", outcome, Cause.INFRASTRUCTURE)
    assert value(metrics, "launches_ended_total", queue="q", outcome=outcome, cause=shown) == 1


def everything() -> Metrics:
    """Return metrics of which every one has a sample."""
    launches = Launches()
    metrics = Metrics(launches)
    launches.add(launch()).see(Observation(Phase.STARTING, reason="image_pull"))
    metrics.limits(1, Inventory())
    metrics.polled("q", "item")
    metrics.stage_took(Stage.CLAIMED, 1)
    metrics.enqueued_to_started("q", 1)
    metrics.ended("q", Outcome.FINISHED, Cause.WORKLOAD)
    metrics.retried("preempted")
    metrics.refused("policy.images")
    metrics.backend_unavailable("local-process")
    metrics.control_plane_retried()
    metrics.loop_was_late(0)
    return metrics


def test_names_have_prefix_and_unit_and_no_label_holds_an_id() -> None:
    text = everything().exposition().decode()
    families = list(text_string_to_metric_families(text))
    assert all(NAME.fullmatch(family.name) for family in families)
    assert all(family.documentation for family in families)
    assert all(family.name.endswith("_seconds") for family in families if family.type == "histogram")
    assert not any(sample.name.endswith("_created") for family in families for sample in family.samples)
    assert "item-1" not in text
    assert "run-1" not in text


def panels() -> list[dict[str, Any]]:
    """Return the panels of the dashboard that show something."""
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def test_the_dashboard_shows_what_there_is_and_all_that_is_ours() -> None:
    shown = {name for panel in panels() for target in panel["targets"] for name in NAME.findall(target["expr"])}
    families = list(everything().registry.collect())
    there = {sample.name for family in families for sample in family.samples}
    assert shown <= there, "the dashboard asks for what nobody tells"
    for family in families:
        if family.name.startswith("launchbay_agent_"):
            assert shown & {sample.name for sample in family.samples}, f"{family.name} is on no panel"


def test_the_dashboard_can_be_imported() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    corners = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in dashboard["panels"]]
    assert len(corners) == len(set(corners))
    for panel in panels():
        assert panel["description"]
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"
            assert '$instance"' in target["expr"]
            assert set(re.findall(r"\$(\w+)", target["expr"])) <= {*variables, "__rate_interval"}
            assert target["expr"].count("(") == target["expr"].count(")")
            for label in re.findall(r"{{(\w+)}}", target["legendFormat"]):
                assert re.search(rf"by \([^)]*\b{label}\b", target["expr"]) or label == "instance"
