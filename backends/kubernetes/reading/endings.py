"""How a pod ended, and whose doing that was."""

import re
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from backends.base import Phase
from backends.kubernetes.reading.events import Event
from backends.kubernetes.reading.fields import sentence
from backends.kubernetes.reading.pods import Container, Pod, Terminated

NOT_FOUND, NOT_EXECUTABLE = 127, 126
"""What a shell says of a program that is not there, or is none."""
_NOT_FOUND = re.compile(
    r"executable file\b.*\bnot found|exec\w*:? .*no such file or directory|stat .*no such file", re.I
)
_NOT_EXECUTABLE = re.compile(r"exec\w*:? .*(?:permission denied|exec format error|is a directory)", re.I)
_OWN_LIMIT = re.compile(r"exceed(?:s|ed) (?:the total limit|its local|the limit|the local)|usage .* exceed", re.I)
"""An eviction for what a pod was allowed, and not for what its node had left."""


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a pod ended otherwise than well."""

    phase: Phase
    reason: str
    message: str
    exit_code: int | None = None
    is_platforms_fault: bool = False
    at: float | None = None
    is_consequence: bool = False
    """Whether it may have been ended because something else had."""


def ending_of(pod: Pod, events: Sequence[Event] = ()) -> Ending | None:
    """Return why a pod ended; None of one that ended well, that goes on, or whose end nobody has seen."""
    if pod.phase == "Succeeded":
        return None
    failing = _failing(pod)
    ending = _taken_away(pod) or (_by_containers(pod, *failing) if failing else None)
    if ending is None and pod.phase == "Failed":
        words = sentence(pod.message) or f"The pod {pod.name} failed."
        ending = Ending(Phase.FAILED, _snake(pod.reason) or "pod_failed", words)
    if ending is None and pod.is_deleted:
        ending = ending_told(events, pod.name)
    return ending


def ending_told(events: Sequence[Event], pod: str | None = None) -> Ending | None:
    """Return how a pod was taken away by what was said of it last; of any pod, if none is named."""
    for event in reversed(events):
        if event.reason in _BY_EVENT and event.kind == "Pod" and pod in {None, event.name}:
            return _BY_EVENT[event.reason](sentence(event.message), event.at)
    return None


def was_deleted(pod: Pod) -> Ending:
    """Return what is said of a pod that somebody removed."""
    return Ending(
        Phase.LOST, "pod_deleted", f"The pod {pod.name} was deleted by somebody else, and the job with it.", at=None
    )


def signal_name(code: int) -> str:
    """Return the signal that an exit code stands for, as `signal:SIGKILL`; empty if none."""
    if not 128 < code < 128 + signal.NSIG:
        return ""
    try:
        return f"signal:{signal.Signals(code - 128).name}"
    except ValueError:
        return f"signal:{code - 128}"


def start_failure(words: str) -> int | None:
    """Return the exit code for a program that a runtime could not start; None if something else is the matter."""
    if _NOT_FOUND.search(words):
        return NOT_FOUND
    return NOT_EXECUTABLE if _NOT_EXECUTABLE.search(words) else None


def program_words(words: str) -> str:
    """Return what a runtime said of a program, without all that it puts before it."""
    found = re.search(r"exec\w*:? .*|executable file.*", words, re.IGNORECASE | re.DOTALL)
    return found.group() if found else words


def _failing(pod: Pod) -> tuple[Container, Terminated] | None:
    """Return the container at fault: the main one before others, an init container before both if it kept them out."""
    for container in [*(each for each in pod.init_containers if not each.is_sidecar), *pod.containers]:
        end = container.terminated or (container.last_terminated if pod.has_ended else None)
        if end and (end.exit_code or end.reason in {"OOMKilled", "ContainerStatusUnknown"}):
            return container, end
    return None


def _by_containers(pod: Pod, container: Container, end: Terminated) -> Ending:
    at, code = end.ended_at, end.exit_code
    # Where other pods of a launch end, theirs are deleted: what that kills is not why the launch failed.
    consequence = pod.is_deleted and signal_name(code) in {"signal:SIGTERM", "signal:SIGKILL"}
    if end.reason == "ContainerStatusUnknown":
        message = f"Nobody knows how container {container.name} ended: its node lost it, or was restarted."
        return Ending(Phase.LOST, "node_lost", message, at=at)
    if end.reason == "OOMKilled":
        limit = f"the {container.memory_limit} that it may use" if container.memory_limit else "its node had"
        message = f"It was killed because it needed more memory than {limit} (container {container.name})."
        return Ending(Phase.FAILED, "oom_killed", message, code, at=at)
    if end.reason in {"StartError", "ContainerCannotRun"}:
        known = start_failure(end.message)
        message = f"Container {container.name} could not be started: {sentence(program_words(end.message))}"
        return Ending(Phase.FAILED, "" if known else "start_failed", message, known or code, at=at)
    last_words = f" Its last words: {sentence(end.message[-500:])}" if end.message.strip() else ""
    if container.is_init:
        message = f"Init container {container.name} ended with exit code {code}.{last_words}"
        may_pass = container.may_pass(end)
        return Ending(Phase.FAILED, "init_failed", message, code, may_pass, at=at, is_consequence=consequence)
    message = ""
    if last_words or container is not pod.main:
        message = f"Container {container.name} ended with exit code {code}.{last_words}"
    elif code == NOT_FOUND:
        message = "Its program is not in the image, or ended with exit code 127 itself. Its log says which."
    return Ending(Phase.FAILED, signal_name(code), message, code, at=at, is_consequence=consequence)


def _taken_away(pod: Pod) -> Ending | None:
    """Return the ending of a pod that the cluster took away, or its node never took."""
    at = pod.ended_at
    words = sentence(pod.message)
    if pod.reason == "Evicted" and _OWN_LIMIT.search(pod.message):
        return Ending(Phase.FAILED, "evicted", f"Its pod was evicted: {words}", at=at)
    if pod.reason in _BY_STATUS:
        return _BY_STATUS[pod.reason](words, at)
    if pod.reason.startswith("OutOf"):
        return _refused_by_node(words, at)
    disruption = pod.conditions.get("DisruptionTarget") or pod.conditions.get("TerminationTarget")
    if disruption is None or not disruption.is_true or not (pod.has_ended or pod.is_deleted):
        return None
    if at is not None and disruption.since is not None and disruption.since > at:
        return None  # it was over already: what is left of a pod is taken from a node, too
    make = _BY_DISRUPTION.get(disruption.reason, _evicted)
    if "preempt" in disruption.reason.lower():
        make = _preempted
    return make(sentence(disruption.message), at or disruption.since)


def _preempted(words: str, at: float | None) -> Ending:
    return Ending(Phase.PREEMPTED, "preempted", f"It was preempted: {words or 'its place was given away.'}", at=at)


def _evicted(words: str, at: float | None) -> Ending:
    return Ending(Phase.PREEMPTED, "evicted", f"Its pod was evicted: {words or 'its node had to be rid of it.'}", at=at)


def _node_lost(words: str, at: float | None) -> Ending:
    return Ending(Phase.LOST, "node_lost", f"Its node is gone or shut down: {words or 'the pod went with it.'}", at=at)


def _refused_by_node(words: str, at: float | None) -> Ending:
    message = f"The node that was chosen for it did not take it: {words or 'it did not say why.'}"
    return Ending(Phase.FAILED, "node_refused", message, at=at, is_platforms_fault=True)


def _too_long(words: str, at: float | None) -> Ending:
    return Ending(Phase.FAILED, "deadline_exceeded", f"Its pod ran longer than it may: {words}".rstrip(), at=at)


_BY_STATUS: dict[str, Callable[[str, float | None], Ending]] = {
    "Evicted": _evicted,
    "Preempting": _preempted,
    "NodeLost": _node_lost,
    "Terminated": _node_lost,
    "Shutdown": _node_lost,
    "NodeShutdown": _node_lost,
    "DeadlineExceeded": _too_long,
    "UnexpectedAdmissionError": _refused_by_node,
    "NodeAffinity": _refused_by_node,
}
_BY_DISRUPTION: dict[str, Callable[[str, float | None], Ending]] = {
    "EvictionByEvictionAPI": _evicted,
    "DeletionByTaintManager": _node_lost,
    "DeletionByDeviceTaintManager": _node_lost,
    "DeletionByPodGC": _node_lost,
}
_BY_EVENT: dict[str, Callable[[str, float | None], Ending]] = {
    "Preempted": _preempted,
    "Preempting": _preempted,
    "Evicted": _evicted,
    "TaintManagerEviction": _node_lost,
    "NodeNotReady": _node_lost,
}


def _snake(word: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", word).lower()
