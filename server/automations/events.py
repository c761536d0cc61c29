"""What the filters of automations say. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy import ColumnElement

from protocol.json_types import JsonObject
from server import artifact_filters, run_filters
from server.automations import metrics
from server.automations.event_types import (
    COLLECTION_EVENTS,
    FAILED,
    FINISHED,
    RUN_EVENTS,
    RUNNING,
    EventType,
)
from server.automations.metrics import Condition
from server.errors import RequestError


@dataclass(frozen=True, slots=True)
class RunRule:
    """What an automation waits for in a run."""

    run_filter: str
    """Which runs, in MongoDB's language; empty if all."""
    states: frozenset[str] = frozenset()
    condition: Condition | None = None
    """What is asked of a metric, if it is not for a state that the automation waits."""


def condition(event: EventType, filter_text: str) -> ColumnElement[bool] | None:
    """Return the SQL of a filter as for nobody's event; `RequestError` unless it can be one of such an event."""
    if event in RUN_EVENTS:
        return run_filters.condition(run_rule(event, filter_text).run_filter, 0, 0)
    if event in COLLECTION_EVENTS:
        return artifact_filters.of_tag(filter_text, "")
    return artifact_filters.of_versions(filter_text)


def run_rule(event: EventType, filter_text: str) -> RunRule:
    """Read the filter of an event of runs."""
    told = _object(filter_text, "filter")
    wanted = _object(told.get("run_filter") or {}, "run_filter")
    run_filter = "" if wanted in ({}, {"$and": []}) else json.dumps(wanted)
    if event is not EventType.RUN_STATE:
        return RunRule(run_filter, condition=metrics.read(_object(told.get("run_metric_filter"), "run_metric_filter")))
    states = _object(told.get("run_state_filter"), "run_state_filter").get("states")
    known = (RUNNING, FINISHED, FAILED)
    if not isinstance(states, list) or not states or not all(state in known for state in cast("list[Any]", states)):
        raise RequestError(f"The filter's states are a list of some of {RUNNING}, {FINISHED} and {FAILED}.")
    return RunRule(run_filter, states=frozenset(cast("list[str]", states)))


def shown_filter(event: EventType, filter_text: str) -> str:
    """Return a filter as it is sent back: that of artifacts is wrapped once more then, whatever for."""
    return filter_text if event in RUN_EVENTS else json.dumps({"filter": filter_text})


def _object(raw: object, name: str) -> JsonObject:
    """Return a JSON object, which may come as text."""
    try:
        value: object = json.loads(raw) if isinstance(raw, str) else raw
    except (ValueError, RecursionError) as error:
        raise RequestError(f"The automation's {name} is not JSON: {error}.") from error
    if not isinstance(value, Mapping):
        raise RequestError(f"The automation's {name} must be a JSON object.")
    return cast("JsonObject", value)
