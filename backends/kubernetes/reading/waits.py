"""Why a pod does not run yet, since when, and whether it ever will."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from backends.base import Phase, Step
from backends.kubernetes.reading.endings import program_words, start_failure
from backends.kubernetes.reading.events import Event, latest
from backends.kubernetes.reading.fields import latest_of, name_of, objects, sentence, text
from backends.kubernetes.reading.pods import Container, Pod
from backends.kubernetes.reading.pulls import pull_failure, registrys_words

GRACE_SECONDS = 60.0
"""How long what cannot work as things are may yet be put right: an image be pushed, a Secret be made."""
_VOLUME_EVENTS = ("FailedMount", "FailedAttachVolume", "FailedMapVolume")
_NODE_EVENTS = ("FailedCreatePodSandBox", "NetworkNotReady", "FailedPrepareDynamicResources")
_PROGRESS_EVENTS = ("Pulling", "Pulled", "Created", "Started")
_PULL_WORDS = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "ImageInspectError", "RegistryUnavailable", "SignatureValidationFailed"}
)
_CREATE_WORDS = frozenset({"CreateContainerError", "RunContainerError", "PreCreateHookError", "PreStartHookError",
                           "PostStartHookError", "StartError", "CreatePodSandboxError"})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Wait:
    """What something waits for. Without a `reason` nothing is wrong."""

    message: str
    reason: str = ""
    phase: Phase = Phase.STARTING
    step: Step = Step.START
    since: float | None = None
    hopeless_at: float | None = None
    """When it is to be given up, in seconds since the epoch; None if it may come right by itself."""
    is_platforms_fault: bool = False
    exit_code: int | None = None
    """With which it will be said to have ended, once it is given up."""

    @property
    def weight(self) -> tuple[bool, float, bool, int, str]:
        """Orders what several pods of a launch wait for: the smallest tells most."""
        steps = (Step.SCHEDULE, Step.PULL, Step.START)
        hopeless = self.hopeless_at
        return hopeless is None, hopeless or 0, not self.reason, steps.index(self.step), self.message


def wait_of(pod: Pod, events: Sequence[Event]) -> Wait:
    """Return what a pod waits for that does not run."""
    gated = _gates(pod)
    if gated is not None:
        return gated
    scheduled = pod.conditions.get("PodScheduled")
    if scheduled is not None and not scheduled.is_true:
        return _unscheduled(scheduled.message, scheduled.since or pod.created_at, scheduled.reason)
    if scheduled is None and not text(pod.raw, "spec", "nodeName"):
        return _unscheduled("", pod.created_at, "")
    since = (scheduled.since if scheduled else None) or pod.created_at
    for container in pod.init_containers:
        if not container.is_past:
            return _container(pod, container, since, events)
        ended = container.terminated.ended_at if container.terminated else None
        since = latest_of(since, ended)
    waits = [_container(pod, each, since, events) for each in pod.containers if not each.is_running]
    return min(waits, key=lambda wait: wait.weight, default=Wait("Its containers begin.", since=since))


def crash_of(pod: Pod) -> Wait | None:
    """Return what is the matter with a pod whose container ran and ended, and is started again and again."""
    for container in pod.containers:
        end = container.last_terminated or container.terminated
        if end and container.waits_for == "CrashLoopBackOff" and container.has_run:
            why = "needed more memory than it may use" if end.reason == "OOMKilled" else f"exit code {end.exit_code}"
            words = f" Its last words: {sentence(end.message[-500:])}" if end.message.strip() else ""
            message = f"Container {container.name} ends again and again and is started anew: {why}.{words}"
            return Wait(message, "crash_loop", exit_code=end.exit_code)
    return None


def _gates(pod: Pod) -> Wait | None:
    gates = [text(gate, "name") for gate in objects(pod.raw, "spec", "schedulingGates")]
    scheduled = pod.conditions.get("PodScheduled")
    if not gates and (scheduled is None or scheduled.reason != "SchedulingGated"):
        return None
    if any(gate.startswith("kueue.x-k8s.io/") for gate in gates):
        return Wait("Kueue has not let it in yet.", "suspended", Phase.QUEUED, since=pod.created_at)
    named = ", ".join(gates) or "not named"
    return Wait(f"Its pod is held back by a scheduling gate: {named}.", "suspended", Phase.QUEUED, since=pod.created_at)


def _unscheduled(words: str, since: float | None, reason: str) -> Wait:
    if "persistentvolumeclaim" in words.lower():
        return Wait(f"It waits for a volume: {sentence(words)}", "volume", step=Step.SCHEDULE, since=since)
    if reason or words:
        message = f"No node has room for it: {sentence(words) or sentence(reason)}"
        return Wait(message, "unschedulable", step=Step.SCHEDULE, since=since)
    return Wait("It waits for a node.", step=Step.SCHEDULE, since=since)


def _container(pod: Pod, container: Container, since: float | None, events: Sequence[Event]) -> Wait:
    words = container.waiting_message
    word = container.waits_for
    soon = None if since is None else since + GRACE_SECONDS
    named = f"Init container {container.name}" if container.is_init else f"Container {container.name}"
    if word in _PULL_WORDS:
        return _pull(pod, container, since, events)
    if word == "InvalidImageName":
        message = f"The image {container.image} has no valid name: {sentence(words)}"
        return Wait(message, "image_pull", step=Step.PULL, since=since, hopeless_at=since)
    if word == "ErrImageNeverPull":
        message = f"The image {container.image} is not on the node, and must not be pulled (imagePullPolicy: Never)."
        return Wait(message, "image_pull", step=Step.PULL, since=since, hopeless_at=soon)
    if word == "CreateContainerConfigError":
        return Wait(f"{named} cannot be made: {sentence(words)}", "config_error", since=since, hopeless_at=soon)
    end = container.last_terminated or container.terminated
    if word in _CREATE_WORDS or (end and end.reason in {"StartError", "ContainerCannotRun"}):
        return _start_failed(named, words if word in _CREATE_WORDS else end.message if end else "", since)
    if end and (container.is_init or end.exit_code) and not container.is_running:
        last_words = f" Its last words: {sentence(end.message[-500:])}" if end.message.strip() else ""
        message = f"{named} ended with exit code {end.exit_code} and is to be started again.{last_words}"
        reason = "init_failed" if container.is_init else "crash_loop"
        return Wait(message, reason, since=since, exit_code=end.exit_code, is_platforms_fault=container.may_pass(end))
    if container.is_running:
        return Wait(f"{named} runs, which comes before the job.", since=container.started_at)
    return _creating(pod, container, since, events)


def _pull(pod: Pod, container: Container, since: float | None, events: Sequence[Event]) -> Wait:
    words = registrys_words(container.waiting_message)
    if not words and (event := latest(events, "Failed", name=pod.name)):
        words = registrys_words(event.message)  # an old kubelet says why in its event only
    failure = pull_failure(f"{container.waits_for} {words}")
    what = ": ".join(part for part in (failure.what, words) if part) or "the kubelet does not say why"
    return Wait(
        f"The image {container.image} cannot be pulled: {sentence(what)}",
        "image_pull",
        step=Step.PULL,
        since=since,
        hopeless_at=None if failure.may_pass or since is None else since + GRACE_SECONDS,
        is_platforms_fault=failure.may_pass,
    )


def _start_failed(named: str, words: str, since: float | None) -> Wait:
    code = start_failure(words)
    message = f"{named} cannot be started: {sentence(program_words(words))}"
    if code is None:
        return Wait(message, "start_failed", since=since, is_platforms_fault=True)
    # Its pod fails by itself in a moment, unless it is one that is started again and again.
    hopeless_at = None if since is None else since + GRACE_SECONDS
    return Wait(message, "start_failed", since=since, hopeless_at=hopeless_at, exit_code=code)


def _creating(pod: Pod, container: Container, since: float | None, events: Sequence[Event]) -> Wait:
    trouble = latest(events, *_VOLUME_EVENTS, *_NODE_EVENTS, name=pod.name)
    progress = latest(events, *_PROGRESS_EVENTS, name=pod.name)
    if trouble and (progress is None or progress.at < trouble.at):
        if re.search(r"\b(?:secrets?|configmaps?)\b.*\bnot found|references non-existent", trouble.message, re.I):
            message = f"Its pod cannot be set up: {sentence(trouble.message)}"
            soon = None if since is None else since + GRACE_SECONDS
            return Wait(message, "config_error", since=since, hopeless_at=soon)
        if trouble.reason in _VOLUME_EVENTS:
            message = f"It waits for a volume: {sentence(trouble.message)}"
            return Wait(message, "volume", since=since, is_platforms_fault=True)
        message = f"Its node cannot set its pod up: {sentence(trouble.message)}"
        return Wait(message, "node_trouble", since=since, is_platforms_fault=True)
    ready = pod.conditions.get("PodReadyToStartContainers")
    if progress is not None and progress.reason == "Pulling":
        return Wait(
            f"The image {container.image} is being pulled.", step=Step.PULL, since=latest_of(since, progress.at)
        )
    if ready is not None and ready.is_true:
        begun = latest_of(since, ready.since)
        return Wait(f"The image {container.image} is being pulled, or its container made.", step=Step.PULL, since=begun)
    node = text(pod.raw, "spec", "nodeName")
    return Wait(f"Its pod {name_of(pod.raw)} is being set up on node {node or '?'}.", since=since)
