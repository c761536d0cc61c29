"""Kinds of others: JobSet, TrainJob, the jobs of the training operator, Volcano, Ray, and any that is not known."""

from collections.abc import Sequence

from backends.base import Phase
from backends.kubernetes.api import KubeObject
from backends.kubernetes.reading.endings import Ending
from backends.kubernetes.reading.fields import conditions, is_true, number, sentence, text, when
from backends.kubernetes.reading.pods import Pod
from backends.kubernetes.reading.told import State, Told

_SUCCEEDED = ("Complete", "Completed", "Succeeded", "Finished")
_FAILED = ("Failed", "Failure", "Aborted")
_WELL = ("succeeded", "success", "successful", "complete", "completed", "finished", "done")
_BADLY = ("failed", "failure", "error", "errored", "aborted", "terminated", "cancelled", "canceled", "killed")
_HELD = ("suspended", "queued", "held")
_WORDS: dict[str, State] = {
    **dict.fromkeys(_WELL, State.SUCCEEDED),
    **dict.fromkeys(_BADLY, State.FAILED),
    **dict.fromkeys(_HELD, State.HELD),
}
"""Words that operators use for where an object is."""


def by_conditions(raw: KubeObject, pods: Sequence[Pod]) -> Told:
    """Read a kind that tells its end by conditions: JobSet, TrainJob, PyTorchJob, MPIJob and their like."""
    said = [each for each in conditions(raw).values() if each.is_true]
    found = {each.type: each for each in said}
    for word in _FAILED:
        if its := found.get(word):
            return Told(State.FAILED, its.reason, its.message, its.since)
    for word in _SUCCEEDED:
        if its := found.get(word):
            # Kueue's way: finished either way, and the reason says which.
            state = State.FAILED if word == "Finished" and "fail" in its.reason.lower() else State.SUCCEEDED
            return Told(state, its.reason, its.message, when(raw, "status", "completionTime") or its.since)
    if is_suspended(raw):
        held = found.get("Suspended")
        return Told(State.HELD, since=held.since if held else when(raw, "metadata", "creationTimestamp"))
    runs = True if "Running" in found else None
    return Told(since=when(raw, "status", "startTime"), runs=runs, has_status=bool(conditions(raw)))


def volcano(raw: KubeObject, pods: Sequence[Pod]) -> Told:
    """Read a Volcano Job. It makes no pods while it waits in Volcano's queue."""
    phase = text(raw, "status", "state", "phase")
    reason, message = text(raw, "status", "state", "reason"), text(raw, "status", "state", "message")
    since = when(raw, "status", "state", "lastTransitionTime")
    match phase:
        case "Completed":
            return Told(State.SUCCEEDED, reason, message, since)
        case "Failed" | "Aborted" | "Terminated":
            return Told(State.FAILED, reason or phase, message or f"Volcano says that it is {phase.lower()}.", since)
        case "Pending" | "" if not pods:
            queue = text(raw, "spec", "queue") or "default"
            message = sentence(message) or f"It waits in Volcano's queue {queue}."
            return Told(State.HELD, "queue", message, since or when(raw, "metadata", "creationTimestamp"))
        case _:
            return Told(since=since, runs=phase == "Running")


def ray(raw: KubeObject, pods: Sequence[Pod]) -> Told:
    """Read a RayJob. Its cluster's pods run before the job does, and a failed try may be followed by another."""
    deployment, job = text(raw, "status", "jobDeploymentStatus"), text(raw, "status", "jobStatus")
    reason, message = text(raw, "status", "reason"), text(raw, "status", "message")
    since = when(raw, "status", "endTime")
    match deployment:
        case "Complete" if job not in {"FAILED", "STOPPED"}:
            return Told(State.SUCCEEDED, reason, message, since)
        case "Complete" | "Failed" | "ValidationFailed":
            return Told(State.FAILED, reason or job, message, since, ending=_rays_word(raw, reason, message, since))
        case "Suspended" | "Suspending":
            return Told(State.HELD, since=_suspended_since(raw))
        case "" if is_suspended(raw):
            return Told(State.HELD, since=_suspended_since(raw))
        case _:
            runs = deployment == "Running" and job == "RUNNING"
            return Told(since=when(raw, "status", "startTime"), runs=runs, decides_alone=True)


def tekton(raw: KubeObject, pods: Sequence[Pod]) -> Told:
    """Read a kind that has one condition: `Succeeded`, unknown until the end."""
    said = conditions(raw).get("Succeeded")
    if said is None or said.status not in {"True", "False"}:
        return Told(since=when(raw, "status", "startTime"))
    state = State.SUCCEEDED if said.is_true else State.FAILED
    return Told(state, said.reason, said.message, when(raw, "status", "completionTime") or said.since)


def any_kind(raw: KubeObject, pods: Sequence[Pod]) -> Told:
    """Read a kind that nobody here knows: by the conditions, else by the words, that most of them use."""
    told = by_conditions(raw, pods)
    if told.state is not State.GOING:
        return told
    for path in (("phase",), ("state",), ("status",), ("state", "phase"), ("applicationState", "state")):
        word = text(raw, "status", *path)
        if not word:
            continue
        state = _WORDS.get(word.lower(), State.GOING)
        message = text(raw, "status", "message") or text(raw, "status", "reason")
        runs = True if word.lower() == "running" else told.runs
        return Told(state, word, message, told.since, runs=runs)
    return told


def is_suspended(raw: KubeObject) -> bool:
    """Return whether an object is told to wait, where its kind has the usual switch for it."""
    return is_true(raw, "spec", "suspend") or is_true(raw, "spec", "runPolicy", "suspend")


def _suspended_since(raw: KubeObject) -> float | None:
    said = conditions(raw).get("Suspended")
    return (said.since if said and said.is_true else None) or when(raw, "metadata", "creationTimestamp")


def _rays_word(raw: KubeObject, reason: str, message: str, at: float | None) -> Ending | None:
    if "Deadline" in reason:
        limit = number(raw, "spec", "activeDeadlineSeconds")
        allowed = f" ({limit} seconds, activeDeadlineSeconds)" if limit is not None else ""
        return Ending(Phase.FAILED, "deadline_exceeded", f"The RayJob ran longer than it may{allowed}.", at=at)
    if reason == "SubmissionFailed":
        words = sentence(message) or "it did not say why."
        message = f"Ray did not take the job: {words}"
        return Ending(Phase.FAILED, "submission_failed", message, is_platforms_fault=True, at=at)
    return None
