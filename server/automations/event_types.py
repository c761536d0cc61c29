"""What automations can wait for, as the protocol names it. Pure."""

from enum import StrEnum

from protocol.states import RunState


class EventType(StrEnum):
    """An event."""

    CREATE_ARTIFACT = "CREATE_ARTIFACT"
    LINK_ARTIFACT = "LINK_MODEL"
    UNLINK_ARTIFACT = "UNLINK_ARTIFACT"
    ADD_ARTIFACT_ALIAS = "ADD_ARTIFACT_ALIAS"
    ADD_ARTIFACT_TAG = "ADD_ARTIFACT_TAG"
    REMOVE_ARTIFACT_TAG = "REMOVE_ARTIFACT_TAG"
    ADD_COLLECTION_TAG = "ADD_COLLECTION_TAG"
    REMOVE_COLLECTION_TAG = "REMOVE_COLLECTION_TAG"
    RUN_METRIC = "RUN_METRIC"
    RUN_METRIC_CHANGE = "RUN_METRIC_CHANGE"
    RUN_METRIC_ZSCORE = "RUN_METRIC_ZSCORE"
    RUN_STATE = "RUN_STATE"


RUN_ALERT = "RUN_ALERT"
"""Not waited for by automations: alerts find their way by themselves."""
METRIC_EVENTS = (EventType.RUN_METRIC, EventType.RUN_METRIC_CHANGE, EventType.RUN_METRIC_ZSCORE)
RUN_EVENTS = (*METRIC_EVENTS, EventType.RUN_STATE)
COLLECTION_EVENTS = (EventType.ADD_COLLECTION_TAG, EventType.REMOVE_COLLECTION_TAG)

RUNNING, FINISHED, FAILED = "RUNNING", "FINISHED", "FAILED"
"""The states of runs that can be waited for."""


def coarse(state: RunState) -> str | None:
    """Return the state of a run as automations know it; None for one that has not begun."""
    if state is RunState.PENDING:
        return None
    if not state.is_ended:
        return RUNNING
    return FINISHED if state is RunState.FINISHED else FAILED
