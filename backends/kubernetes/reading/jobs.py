"""The Job of Kubernetes itself, and the Pod."""

import re
from collections.abc import Sequence

from backends.base import Phase
from backends.kubernetes.api import KubeObject
from backends.kubernetes.reading.endings import Ending, ending_of, signal_name
from backends.kubernetes.reading.fields import Condition, conditions, dig, is_true, number, sentence, text, when
from backends.kubernetes.reading.pods import Pod
from backends.kubernetes.reading.told import State, Told

_EXIT_CODE = re.compile(r"\bContainer (\S+) for pod \S+ failed with exit code (\d+)")


def job(raw: KubeObject, pods: Sequence[Pod]) -> Told:
    """Read a Job: its conditions, and never its counters."""
    said = conditions(raw)
    alone = number(raw, "spec", "parallelism") in {None, 1}
    last_counts = alone or number(raw, "spec", "backoffLimit") != 0
    if failed := _true(said, "Failed"):
        return _failed(raw, failed, State.FAILED, last_counts)
    if complete := _true(said, "Complete"):
        since = when(raw, "status", "completionTime") or complete.since
        return Told(State.SUCCEEDED, complete.reason, complete.message, since)
    if target := _true(said, "FailureTarget"):
        return _failed(raw, target, State.FATED, last_counts)
    if met := _true(said, "SuccessCriteriaMet"):
        return Told(State.FATED, met.reason, met.message, met.since, well=True)
    if is_true(raw, "spec", "suspend"):
        held = _true(said, "Suspended")
        return Told(State.HELD, since=held.since if held else when(raw, "metadata", "creationTimestamp"))
    return _foregone(raw, pods) or Told(since=when(raw, "status", "startTime"), last_failure_counts=last_counts)


def pod(raw: KubeObject, pods: Sequence[Pod]) -> Told:
    """Read a Pod, which is its own pod."""
    its = Pod(raw)
    if its.phase == "Succeeded":
        return Told(State.SUCCEEDED, since=its.ended_at)
    if its.phase == "Failed":
        return Told(State.FAILED, its.reason, its.message, its.ended_at)
    return Told(since=its.created_at)


def _foregone(raw: KubeObject, pods: Sequence[Pod]) -> Told | None:
    """Return the end of a Job of one pod, where that pod leaves no choice.

    Its controller says the same, a second or more later: it puts together what changes within a second. A pod that is
    being deleted is left to the controller, which does not count those that it deletes itself.
    """
    of_one = number(raw, "spec", "completions") in {None, 1} and number(raw, "spec", "parallelism") in {None, 1}
    if not of_one or text(raw, "metadata", "deletionTimestamp"):
        return None
    for its in pods:
        if its.is_deleted:
            continue
        if its.phase == "Succeeded":
            return Told(State.SUCCEEDED, since=its.ended_at)
        no_other = number(raw, "spec", "backoffLimit") == 0 and dig(raw, "spec", "podFailurePolicy") is None
        if its.phase == "Failed" and no_other and ending_of(its) is not None:
            return Told(State.FAILED, since=its.ended_at, last_failure_counts=True)
    return None


def _failed(raw: KubeObject, said: Condition, state: State, last_counts: bool) -> Told:
    ending: Ending | None = None
    match said.reason:
        case "DeadlineExceeded":
            limit = number(raw, "spec", "activeDeadlineSeconds")
            allowed = f" ({limit} seconds, activeDeadlineSeconds)" if limit is not None else ""
            message = f"The Job ran longer than it may{allowed}."
            ending = Ending(Phase.FAILED, "deadline_exceeded", message, at=said.since)
        case "PodFailurePolicy":
            ending = _by_policy(said)
        case _:
            pass
    failed = text(raw, "status", "failedIndexes")
    message = said.message + (f" (failed indexes: {failed})" if failed else "")
    return Told(state, said.reason, message, said.since, last_failure_counts=last_counts, ending=ending)


def _by_policy(said: Condition) -> Ending | None:
    """Return what the words of a pod failure policy tell, for when the pod itself is not there any more."""
    if found := _EXIT_CODE.search(said.message):
        code = int(found[2])
        message = f"The Job was failed by its podFailurePolicy: {sentence(said.message)}"
        return Ending(Phase.FAILED, signal_name(code), message, code, at=said.since)
    if "DisruptionTarget" in said.message:
        return Ending(Phase.PREEMPTED, "evicted", f"Its pod was taken away: {sentence(said.message)}", at=said.since)
    return None


def _true(said: dict[str, Condition], word: str) -> Condition | None:
    condition = said.get(word)
    return condition if condition and condition.is_true else None
