"""Reading: what a description of a job says about its launch. Pure."""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from signal import Signals
from typing import Any, cast

from backends.base import Observation, Phase, Step
from backends.sagemaker.kinds import Kind
from backends.sagemaker.request import unwrapped

TIMED_OUT = "timeout:run"
"""The reason of a launch that had all the time that its queue gives; as of one that the agent stops for that."""
PLATFORMS_FAULTS = ("InternalServerError", "CapacityError", "ServiceUnavailable")
"""What a failure begins with that is not the job's fault, and may pass."""
LAST_DETAILS = 8

_SCHEDULING = frozenset({"Starting", "Pending", "LaunchingMLInstances", "PreparingTrainingStack"})
_TOLD = re.compile(r"(?P<kind>[A-Z]\w*(?:Error|Unavailable)):?\s")
_EXIT_CODE = re.compile(r"exit(?:ed with)? ?(?:code|status):?\s*(?P<code>[0-9]+)", re.IGNORECASE)


def read(kind: Kind, told: Mapping[str, Any], labels: Mapping[str, str]) -> Observation:
    """Return what a description (`DescribeTrainingJob` and its like) says."""
    status = str(told.get(kind.status, ""))
    if status in _ENDS:
        return _ended(kind, told, labels, status)
    transitions = _transitions(told)
    secondary = str(told.get("SecondaryStatus") or "")
    message = _message(secondary or status, transitions)
    since = _time(transitions[-1].get("StartTime")) if transitions else None
    started_at = _time(told.get(kind.started))
    if status == "Stopping":
        phase = Phase.RUNNING if started_at else Phase.STARTING
    elif secondary:
        has_run = any(each.get("Status") in {"Training", "Interrupted"} for each in transitions[:-1])
        phase = _phase(secondary, has_run=has_run, is_spot=bool(told.get("EnableManagedSpotTraining")))
    else:
        phase = Phase.RUNNING if started_at else Phase.STARTING
    return Observation(
        phase,
        message=message,
        started_at=started_at if phase is Phase.RUNNING else None,
        step=_step(secondary),
        since=since if phase.is_waiting else None,
        image=_digest(told),
        labels=labels,
    )


def _phase(secondary: str, *, has_run: bool, is_spot: bool) -> Phase:
    if secondary in {"Pending", "Interrupted", "Restarting"}:
        return Phase.QUEUED
    if secondary in _SCHEDULING or secondary in {"Downloading", "DownloadingTrainingImage"}:
        # What was interrupted waits for its turn: it has begun long ago, and no limit of a start is for it. Nor is one
        # for what has said how long it will wait for spot instances.
        return Phase.QUEUED if has_run or (is_spot and secondary in _SCHEDULING) else Phase.STARTING
    return Phase.RUNNING


def _step(secondary: str) -> Step:
    if secondary == "DownloadingTrainingImage":
        return Step.PULL
    return Step.SCHEDULE if secondary in _SCHEDULING else Step.START


# --- the end ----------------------------------------------------------------------------------------------------------

_ENDS = frozenset({"Completed", "Failed", "Stopped", "Deleting"})


def _ended(kind: Kind, told: Mapping[str, Any], labels: Mapping[str, str], status: str) -> Observation:
    why = str(told.get("FailureReason") or told.get("ExitMessage") or "")
    phase, code, reason, message = {
        "Completed": lambda: (Phase.FINISHED, 0, "", ""),
        "Failed": lambda: _failed(told, why),
        "Stopped": lambda: _stopped(kind, told, why),
        "Deleting": lambda: (Phase.LOST, None, "deleted", "Somebody has deleted the job."),
    }[status]()
    return Observation(
        phase,
        code,
        reason,
        message,
        is_platforms_fault=phase is Phase.FAILED and why.startswith(PLATFORMS_FAULTS),
        started_at=_time(told.get(kind.started)),
        ended_at=_time(told.get(kind.ended)) or _time(told.get("LastModifiedTime")),
        details=() if phase in {Phase.FINISHED, Phase.STOPPED} else _details(told),
        image=_digest(told),
        labels=labels,
    )


def _failed(told: Mapping[str, Any], why: str) -> tuple[Phase, int | None, str, str]:
    found = _EXIT_CODE.search(why)
    code = int(found["code"]) if found else None
    reason = ""
    if code is not None and code > 128:
        reason = _signal(code - 128)
    elif kind := _TOLD.match(why):
        reason = _in_snake_case(kind["kind"])
    message = f"SageMaker says: {why}" if why else ""
    if code == 127 and (program := _program(told)):
        message = f"The program {program!r} is not in the image. {message}"
    return Phase.FAILED, code or None, reason, message


def _stopped(kind: Kind, told: Mapping[str, Any], why: str) -> tuple[Phase, int | None, str, str]:
    secondary = told.get("SecondaryStatus")
    said = f" SageMaker says: {why}" if why else ""
    limit = _dig(told, "StoppingCondition", "MaxRuntimeInSeconds")
    if secondary == "MaxRuntimeExceeded" or (secondary is None and _had_its_time(kind, told, limit)):
        return (
            Phase.FAILED,
            None,
            TIMED_OUT,
            f"The job ran longer than its queue allows, {limit} seconds (StoppingCondition.MaxRuntimeInSeconds).{said}",
        )
    if secondary in {"MaxWaitTimeExceeded", "Interrupted"}:
        message = "Its spot instances were taken away" if _has_run(told) else "There were no spot instances for it"
        if secondary == "MaxWaitTimeExceeded":
            wait = _dig(told, "StoppingCondition", "MaxWaitTimeInSeconds")
            message += f", and none came within {wait} seconds (StoppingCondition.MaxWaitTimeInSeconds)"
        return Phase.PREEMPTED, None, _in_snake_case(str(secondary)), f"{message}.{said}"
    return Phase.STOPPED, None, "", ""


def _had_its_time(kind: Kind, told: Mapping[str, Any], limit: Any) -> bool:
    """Whether a job was stopped for its time, of a kind that does not tell why it was stopped."""
    started_at, ended_at = _time(told.get(kind.started)), _time(told.get(kind.ended))
    return None not in {limit, started_at, ended_at} and (ended_at or 0) - (started_at or 0) >= limit


def _has_run(told: Mapping[str, Any]) -> bool:
    return any(each.get("Status") == "Training" for each in _transitions(told))


def _signal(number: int) -> str:
    try:
        return f"signal:{Signals(number).name}"
    except ValueError:
        return ""


def _program(told: Mapping[str, Any]) -> str:
    for key in ("AlgorithmSpecification", "AppSpecification"):
        if entrypoint := _dig(told, key, "ContainerEntrypoint"):
            return str(next(iter(unwrapped(list(entrypoint))), ""))
    return ""


# --- words ------------------------------------------------------------------------------------------------------------


def _message(status: str, transitions: Sequence[Mapping[str, Any]]) -> str:
    said = str(transitions[-1].get("StatusMessage") or "") if transitions else ""
    return f"SageMaker: {status}: {said}" if said else f"SageMaker: {status}"


def _details(told: Mapping[str, Any]) -> tuple[str, ...]:
    lines = [f"{each.get('Status')}: {each.get('StatusMessage') or ''}".rstrip(": ") for each in _transitions(told)]
    return tuple(lines[-LAST_DETAILS:])


def _transitions(told: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return told.get("SecondaryStatusTransitions") or ()


def _digest(told: Mapping[str, Any]) -> str:
    image = _dig(told, "AlgorithmSpecification", "TrainingImage") or _dig(told, "AppSpecification", "ImageUri") or ""
    return str(image) if "@sha256:" in str(image) else ""


def _dig(told: Mapping[str, Any], *path: str) -> Any:
    value: Any = told
    for key in path:
        value = cast("Mapping[str, Any]", value).get(key) if isinstance(value, Mapping) else None
    return value


def _in_snake_case(words: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", words).lower()


def _time(value: datetime | float | None) -> float | None:
    return value.timestamp() if isinstance(value, datetime) else value
