"""Pods of a launch: what every pod template is given, whatever the kind of object around it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from backends.kubernetes.manifest.fields import Fields, default, dig_fields, entries, inner, joined, text
from backends.kubernetes.manifest.kinds import Shape
from backends.kubernetes.manifest.variables import give_default
from backends.kubernetes.names import DEFAULT_CONTAINER
from backends.kubernetes.settings import Settings
from protocol.errors import SpecError
from protocol.pod_templates import pod_templates

HOME = "/tmp"  # noqa: S108 -- in the pod, where every account may write


@dataclass(frozen=True, slots=True)
class Template:
    """A pod template, whose parts have the forms that they must have."""

    path: tuple[str, ...]
    """The keys that lead to it."""
    where: str
    """Its path, for people."""
    fields: Fields

    @property
    def pod(self) -> Fields:
        """Its `spec`."""
        return self.fields["spec"]

    @property
    def pod_where(self) -> str:
        """The path of its `spec`."""
        return joined(self.where, "spec")

    def containers(self) -> Iterator[tuple[str, Fields]]:
        """Yield its containers with their paths, those that run before the others included."""
        for key in ("initContainers", "containers"):
            for place, container in enumerate(entries(self.pod, key, self.pod_where)):
                yield f"{self.pod_where}.{key}[{place}]", container

    def main(self, shape: Shape) -> tuple[str, Fields]:
        """Return the container that is the job, with its path: the one that the queue names, else the kind's, else the
        first.
        """
        containers = entries(self.pod, "containers", self.pod_where)
        names = [text(each, "name", f"{self.pod_where}.containers[{place}]") for place, each in enumerate(containers)]
        metadata = joined(self.where, "metadata")
        annotations = inner(inner(self.fields, "metadata", self.where), "annotations", metadata)
        named = text(annotations, DEFAULT_CONTAINER, f"{metadata}.annotations")
        if named and named not in names:
            raise SpecError(
                f"The annotation `{DEFAULT_CONTAINER}` under `{metadata}` names {named!r}, and "
                f"there is no such container; there are: {', '.join(filter(None, names)) or 'none with a name'}."
            )
        if not containers:
            raise SpecError(f"The resource arg `{self.pod_where}.containers` is empty; it must have a container.")
        wanted = named or shape.container
        place = names.index(wanted) if wanted in names else 0
        return f"{self.pod_where}.containers[{place}]", containers[place]


def templates_of(manifest: Fields, where: str = "") -> list[Template]:
    """Return the pod templates of an object, whose own path is `where`."""
    found = [Template(path, _shown(path, where), fields) for path, fields in pod_templates(manifest)]
    for each in found:
        list(each.containers())
    return found


def name_containers(template: Template, shape: Shape) -> None:
    """Name the containers that have no name."""
    _, main = template.main(shape)
    if shape.container:
        default(main, "name", shape.container)
    for place, container in enumerate(entries(template.pod, "containers", template.pod_where)):
        default(container, "name", f"launch{place}")


def complete_pod(template: Template, settings: Settings) -> None:
    """Fill in what a pod of ours has unless its queue says otherwise: it is shut in, and may pull its images."""
    pod, where = template.pod, template.pod_where
    if not (pod.get("serviceAccountName") or pod.get("serviceAccount")):
        default(pod, "automountServiceAccountToken", False)
    listed = entries(pod, "imagePullSecrets", where)
    listed += [{"name": name} for name in settings.image_pull_secrets if {"name": name} not in listed]
    if not listed:
        del pod["imagePullSecrets"]
    _shut_in_pod(inner(pod, "securityContext", where), settings)
    for path, container in template.containers():
        _shut_in(inner(container, "securityContext", path), joined(path, "securityContext"))
    for key in ("initContainers", "volumes"):
        if key in pod and not pod[key]:
            del pod[key]


def complete_launch_pod(template: Template, shape: Shape, grace_seconds: float) -> None:
    """Fill in how a pod of the launch itself ends."""
    default(template.pod, "terminationGracePeriodSeconds", max(math.ceil(grace_seconds), 0))
    if shape.ends:
        default(template.pod, "restartPolicy", "Never")
    if _hears_nothing(template.pod):
        default(template.pod, "shareProcessNamespace", True)


def give_home(pod: Fields, container: Fields, settings: Settings, where: str) -> None:
    """An account that the image does not know has no home there."""
    if settings.run_as_user is not None and pod["securityContext"].get("runAsUser") == settings.run_as_user:
        give_default(container, "HOME", HOME, where)


def _shut_in_pod(context: Fields, settings: Settings) -> None:
    default(context, "seccompProfile", {"type": "RuntimeDefault"})
    _say_whether_root(context)
    if settings.run_as_user is not None and context.get("runAsUser") is None and context.get("runAsNonRoot") is None:
        # An image's own account may be root, which namespaces with the profile `restricted` refuse.
        context |= {"runAsNonRoot": True, "runAsUser": settings.run_as_user}
        default(context, "runAsGroup", settings.run_as_user)
        default(context, "fsGroup", settings.run_as_user)


def _shut_in(context: Fields, where: str) -> None:
    """Take away what a job has no need of. Who is privileged cannot be without, and the operator has allowed it."""
    _say_whether_root(context)
    if context.get("privileged") is True:
        return
    capabilities = inner(context, "capabilities", where)
    default(capabilities, "drop", ["ALL"])
    added = capabilities.get("add")
    if not (isinstance(added, list) and ("SYS_ADMIN" in added or "CAP_SYS_ADMIN" in added)):
        default(context, "allowPrivilegeEscalation", False)


def _hears_nothing(pod: Fields) -> bool:
    """Whether a program that somebody has named would be process 1, which does not hear SIGTERM unless it listens.

    Few do, and each stop would take its whole grace period. The pod has a process of its own that can be process 1. The
    job sees those of the other containers then, so there must be none.
    """
    (main, *beside), before = pod["containers"], pod.get("initContainers", ())
    if beside or any(each.get("restartPolicy") == "Always" for each in before) or not main.get("command"):
        return False
    return not pod.get("hostPID") and dig_fields(pod, "os").get("name") != "windows"


def _say_whether_root(context: Fields) -> None:
    """Namespaces with the profile `restricted` want to be told of an account that is named that it is not root's."""
    account = context.get("runAsUser")
    if isinstance(account, int):
        default(context, "runAsNonRoot", account != 0)


def _shown(path: tuple[str, ...], shown: str) -> str:
    for part in path:
        shown = f"{shown}[{part}]" if part.isdecimal() else joined(shown, part)
    return shown
