"""A pod and its containers, as far as they tell how a launch is."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from backends.base import FETCH_MAY_PASS
from backends.kubernetes.api import KubeObject
from backends.kubernetes.names import DEFAULT_CONTAINER, FETCH, SERVICE
from backends.kubernetes.reading.fields import (
    Condition,
    conditions,
    dig,
    group_and_kind,
    is_true,
    mapping,
    name_of,
    number,
    objects,
    text,
    when,
)


@dataclass(frozen=True, slots=True)
class Terminated:
    """The end of one run of a container."""

    exit_code: int
    reason: str
    """The runtime's word, as `OOMKilled`, `Error` or `StartError`."""
    message: str
    """What it left as its last words, or the runtime's words."""
    started_at: float | None
    ended_at: float | None


@dataclass(frozen=True)
class Container:
    """A container of a pod: what it is and how it is."""

    name: str
    image: str
    raw: KubeObject
    is_init: bool = False
    is_sidecar: bool = False
    """An init container that runs on beside the others."""
    memory_limit: str = ""

    @cached_property
    def terminated(self) -> Terminated | None:
        """How it ended, if it has."""
        return _terminated(mapping(self.raw, "state", "terminated"))

    @cached_property
    def last_terminated(self) -> Terminated | None:
        """How it ended the time before."""
        return _terminated(mapping(self.raw, "lastState", "terminated"))

    @property
    def is_running(self) -> bool:
        """Whether it runs."""
        return isinstance(dig(self.raw, "state", "running"), dict)

    @property
    def waits_for(self) -> str:
        """The kubelet's word for why it does not run, as `ImagePullBackOff`."""
        return text(self.raw, "state", "waiting", "reason")

    @property
    def waiting_message(self) -> str:
        """The kubelet's words for it."""
        return text(self.raw, "state", "waiting", "message")

    @property
    def is_past(self) -> bool:
        """Of an init container: whether it lets the next one begin."""
        if self.is_sidecar:
            return is_true(self.raw, "started") or (self.is_running and "started" not in self.raw)
        return self.terminated is not None and self.terminated.exit_code == 0

    def may_pass(self, end: Terminated) -> bool:
        """Whether it fetches the launch's code, and said at this end that the launch is not at fault."""
        return self.is_init and self.name == FETCH and end.exit_code == FETCH_MAY_PASS

    @property
    def has_run(self) -> bool:
        """Whether its program has ever run."""
        return self.is_running or any(
            end is not None and end.reason not in NEVER_RAN for end in (self.terminated, self.last_terminated)
        )

    @property
    def started_at(self) -> float | None:
        """When it first began, as far as its status still knows. Seconds since the epoch."""
        ends = [end.started_at for end in (self.last_terminated, self.terminated) if end and end.started_at]
        begun = when(self.raw, "state", "running", "startedAt")
        return min([*ends, begun] if begun else ends, default=None)


NEVER_RAN = frozenset({"StartError", "ContainerCannotRun", "ContainerStatusUnknown"})
"""Why a container is said to have ended that may never have begun."""


@dataclass(frozen=True)
class Pod:
    """A pod. `is_gone`: this is its last form, and it is not there any more."""

    raw: KubeObject
    is_gone: bool = False

    @property
    def name(self) -> str:
        """Its name."""
        return name_of(self.raw)

    @property
    def phase(self) -> str:
        """Kubernetes' word: Pending, Running, Succeeded, Failed or Unknown."""
        return text(self.raw, "status", "phase")

    @property
    def reason(self) -> str:
        """Why it is in its phase, as `Evicted`."""
        return text(self.raw, "status", "reason")

    @property
    def message(self) -> str:
        """The same in words."""
        return text(self.raw, "status", "message")

    @property
    def created_at(self) -> float | None:
        """Seconds since the epoch."""
        return when(self.raw, "metadata", "creationTimestamp")

    @property
    def is_deleted(self) -> bool:
        """Whether it is gone or is to go."""
        return self.is_gone or bool(text(self.raw, "metadata", "deletionTimestamp"))

    @property
    def has_ended(self) -> bool:
        """Whether none of its containers will run again."""
        return self.is_gone or self.phase in {"Succeeded", "Failed"}

    @cached_property
    def conditions(self) -> dict[str, Condition]:
        """What is said of it, by type."""
        return conditions(self.raw)

    @cached_property
    def init_containers(self) -> list[Container]:
        """In the order in which they run."""
        return _containers(self.raw, "initContainers", "initContainerStatuses")

    @cached_property
    def containers(self) -> list[Container]:
        """The main one first."""
        found = _containers(self.raw, "containers", "containerStatuses")
        main = main_of(self.raw)
        return sorted(found, key=lambda container: container.name != main)

    @property
    def main(self) -> Container | None:
        """The container that the pod is about."""
        return self.containers[0] if self.containers else None

    @property
    def is_running(self) -> bool:
        """Whether its main container runs."""
        return not self.has_ended and self.main is not None and self.main.is_running

    @property
    def started_at(self) -> float | None:
        """When its main container began. Seconds since the epoch."""
        return self.main.started_at if self.main else None

    @property
    def ended_at(self) -> float | None:
        """When the last of its containers ended. Seconds since the epoch."""
        ends = [each.terminated.ended_at for each in self.containers + self.init_containers if each.terminated]
        return max((end for end in ends if end), default=None)

    @property
    def is_service(self) -> bool:
        """Whether it belongs to something that runs beside the launch."""
        return bool(text(self.raw, "metadata", "labels", SERVICE))

    @property
    def key(self) -> tuple[float, str]:
        """Orders pods, the oldest first."""
        return self.created_at or 0, self.name


def main_of(pod: KubeObject) -> str:
    """Return the name of the container that a pod is about: the one that it names, else the first."""
    first = next((text(each, "name") for each in objects(pod, "spec", "containers")), "")
    return text(pod, "metadata", "annotations", DEFAULT_CONTAINER) or first


def pods_of(raw: KubeObject, pods: Iterable[KubeObject], gone: Iterable[KubeObject]) -> list[Pod]:
    """Return the pods of a launch, the oldest first, those of its services left out."""
    found = [*(Pod(each) for each in pods), *(Pod(each, is_gone=True) for each in gone)]
    if group_and_kind(raw) == ("batch", "Job"):
        uid = text(raw, "metadata", "uid")
        found = [pod for pod in found if _is_owned(pod, uid)]
    return sorted((pod for pod in found if not pod.is_service), key=lambda pod: pod.key)


def _is_owned(pod: Pod, uid: str) -> bool:
    owners = objects(pod.raw, "metadata", "ownerReferences")
    return not uid or not owners or any(text(owner, "uid") == uid for owner in owners)


def _containers(pod: KubeObject, spec: str, status: str) -> list[Container]:
    statuses = {text(each, "name"): each for each in objects(pod, "status", status)}
    return [
        Container(
            name := text(each, "name"),
            text(each, "image"),
            statuses.get(name, {}),
            is_init=spec == "initContainers",
            is_sidecar=spec == "initContainers" and text(each, "restartPolicy") == "Always",
            memory_limit=text(each, "resources", "limits", "memory"),
        )
        for each in objects(pod, "spec", spec)
    ]


def _terminated(raw: KubeObject) -> Terminated | None:
    code = number(raw, "exitCode")
    if code is None:
        return None
    return Terminated(code, text(raw, "reason"), text(raw, "message"), when(raw, "startedAt"), when(raw, "finishedAt"))


def first_start(pods: Sequence[Pod]) -> float | None:
    """Return when the first main container of these pods began, in seconds since the epoch."""
    return min((pod.started_at for pod in pods if pod.started_at), default=None)
