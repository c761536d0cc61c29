"""Where the output of a launch comes from: the containers of its pods. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from backends.kubernetes.api import KubeObject
from backends.kubernetes.reading.fields import mapping, objects, text
from backends.kubernetes.reading.pods import main_of

NEVER_RAN = frozenset({"StartError", "ContainerCannotRun"})
"""Reasons for a container's end of which its platform has words and the container none."""


@dataclass(frozen=True, slots=True)
class Source:
    """A container that has begun."""

    pod: str
    container: str
    is_main: bool
    """Whether it runs the job, and does not just accompany or precede it."""
    is_over: bool
    """Whether it prints no more."""
    is_gone: bool
    """Whether its pod is no more, and its output with it."""
    words: str = ""
    """Why it could not begin, if so."""

    @property
    def key(self) -> str:
        """What it is told from the others by."""
        return f"{self.pod}/{self.container}"


def sources_of(pods: Sequence[KubeObject], gone: Sequence[KubeObject] = ()) -> list[Source]:
    """Return the containers that have begun, the oldest pod's first, and in each pod those that prepare it first."""
    found = [(_age(pod), source) for pod in pods for source in _of_pod(pod, is_gone=False)]
    found += [(_age(pod), source) for pod in gone for source in _of_pod(pod, is_gone=True)]
    return [source for _, source in sorted(found, key=lambda pair: pair[0])]


def _age(pod: KubeObject) -> tuple[str, str]:
    return text(pod, "metadata", "creationTimestamp"), text(pod, "metadata", "name")


def _of_pod(pod: KubeObject, *, is_gone: bool) -> Iterator[Source]:
    is_over = is_gone or text(pod, "status", "phase") in {"Succeeded", "Failed"}
    main = main_of(pod)
    ends_once = text(pod, "spec", "restartPolicy") == "Never" or bool(text(pod, "metadata", "deletionTimestamp"))
    for group, statuses in (("initContainers", "initContainerStatuses"), ("containers", "containerStatuses")):
        told = {text(each, "name"): each for each in objects(pod, "status", statuses)}
        for name in (text(each, "name") for each in objects(pod, "spec", group)):
            status = told.get(name, {})
            end = mapping(status, "state", "terminated")
            if not (end or mapping(status, "lastState", "terminated") or "running" in mapping(status, "state")):
                continue
            yield Source(
                pod=text(pod, "metadata", "name"),
                container=name,
                is_main=group == "containers" and name == main,
                is_over=is_over or bool(end and (ends_once or group == "initContainers")),
                is_gone=is_gone,
                words=text(end, "message") if text(end, "reason") in NEVER_RAN else "",
            )
