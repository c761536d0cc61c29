"""The whole plan of a launch: its object, its Secret, and what it has beside itself."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from backends.base import StartRequest
from backends.kubernetes import names
from backends.kubernetes.api import Kind, KubeObject
from backends.kubernetes.manifest.code import add_code, runs_through
from backends.kubernetes.manifest.command import give_command, give_text
from backends.kubernetes.manifest.fields import Fields, inner, joined, text, wrong
from backends.kubernetes.manifest.kinds import Shape, shape_of
from backends.kubernetes.manifest.marks import Marks, marks_of, name_object
from backends.kubernetes.manifest.pods import (
    Template,
    complete_launch_pod,
    complete_pod,
    give_home,
    name_containers,
    templates_of,
)
from backends.kubernetes.manifest.secrets import secret_of
from backends.kubernetes.manifest.services import services_of
from backends.kubernetes.manifest.target import Target, Waiting, bare, target, waiting
from backends.kubernetes.manifest.variables import give, give_default, of_launch
from backends.kubernetes.settings import Settings
from protocol.errors import SpecError

UNBUFFERED = "PYTHONUNBUFFERED"


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that is to be made for a launch."""

    object: KubeObject
    """The launch itself, complete."""
    secret: KubeObject | None = field(repr=False)
    """None if there is nothing to hide, and no service either, which would belong to it."""
    services: Sequence[KubeObject]
    """What it has beside itself, in the order in which the launch names it."""
    namespace: str
    """Of all of them."""
    context: str
    """The cluster; empty for the operator's."""
    waiting: Waiting
    """How the services are waited for."""

    @property
    def waits(self) -> bool:
        """Whether there are services to wait for, before the launch itself is made. Then there is a Secret, too."""
        return bool(self.services) and self.waiting.for_ready


def plan(request: StartRequest, settings: Settings, kind: Kind | None, namespace: str, owner: str) -> Plan:
    """Return what is to be made for a request, in a namespace that `namespace_of` has returned.

    `kind` is what the cluster knows of the object's kind, if it has been asked. Raises `SpecError`, which names the
    resource arg that cannot be so.
    """
    asked = target(request.resource_args, settings)
    if kind is not None and not kind.is_namespaced:
        raise SpecError(f"A {asked.kind} of {asked.api_version} belongs to no namespace, and can be no launch.")
    marks = marks_of(request, owner)
    return Plan(
        object=_object(request, settings, asked, namespace, marks),
        secret=secret_of(request, namespace, marks),
        services=services_of(request, settings, namespace, marks),
        namespace=namespace,
        context=asked.context,
        waiting=waiting(request.resource_args),
    )


def _object(request: StartRequest, settings: Settings, asked: Target, namespace: str, marks: Marks) -> KubeObject:
    manifest = bare(request.resource_args, asked)
    shape = shape_of(asked.api_version, asked.kind)
    _complete_metadata(manifest, request, namespace, marks)
    if shape.has_pods or "spec" in manifest:
        _complete_spec(manifest, request, shape)
    templates = templates_of(manifest)
    if shape.has_pods and not templates:
        raise SpecError(f"The resource args describe no pods: a {asked.kind} has `containers` somewhere in its `spec`.")
    if request.code and not templates:
        raise SpecError(
            f"The resource args describe no pods (a {asked.kind} of {asked.api_version} need not), so a job's code "
            "cannot be put into them. Use a job that is an image, or have the agent build one."
        )
    leader = _leader(templates, shape)
    for template in templates:
        _complete_template(template, request, settings, shape, is_leader=shape.all_are_the_run or template is leader)
        if template.path:
            marks.put_on(template.fields, template.where)
    return manifest


def _complete_metadata(manifest: Fields, request: StartRequest, namespace: str, marks: Marks) -> None:
    own = inner(manifest, "metadata", "")
    prefix = text(own, "name", "metadata") or text(own, "generateName", "metadata")
    name_object(manifest, "", names.object_name(request.name, prefix), namespace)
    marks.put_on(manifest, "")


def _complete_spec(manifest: Fields, request: StartRequest, shape: Shape) -> None:
    if not shape.has_pods and manifest["spec"] is None:
        raise wrong("spec", None, "a mapping")
    spec = inner(manifest, "spec", "")
    shape.complete(spec)
    if shape.command_at:
        give_text(spec, shape.command_at, request, runs_through(request.code), "spec")
    if shape.container_at:
        container = inner(spec, shape.container_at, "spec")
        _give_job(container, request, shape, joined("spec", shape.container_at), is_leader=True, runs=True)


def _complete_template(
    template: Template, request: StartRequest, settings: Settings, shape: Shape, *, is_leader: bool
) -> None:
    name_containers(template, shape)
    where, main = template.main(shape)
    jobs: list[Fields] = []
    if shape.helpers and shape.helpers in template.path:
        _give_image(main, request, shape, where)
    else:
        runs = shape.runs_in is None or shape.runs_in in template.path
        _give_job(main, request, shape, where, is_leader=is_leader, runs=runs)
        added = add_code(template.pod, main, request, settings, template.pod_where)
        jobs = [main, *added]
    complete_pod(template, settings)
    complete_launch_pod(template, shape, request.grace_seconds)
    for container in jobs:
        give_home(template.pod, container, settings, where)


def _give_job(
    container: Fields, request: StartRequest, shape: Shape, where: str, *, is_leader: bool, runs: bool
) -> None:
    """Make a container the job: its image, command and variables."""
    _give_image(container, request, shape, where)
    if runs:
        give_command(container, request, runs_through(request.code), where)
    give(container, of_launch(request, is_leader=is_leader), where)
    # What a job prints goes to a pipe, where Python would hold it back.
    give_default(container, UNBUFFERED, "1", where)


def _give_image(container: Fields, request: StartRequest, shape: Shape, where: str) -> None:
    """Code runs in the queue's image, if it names one. What is itself an image runs in that."""
    own = text(container, "image", where)
    if request.image and (not own or (shape.forces_image and not request.code)):
        container["image"] = request.image
    elif not own:
        raise SpecError(f"The launch has no image, and neither has the resource arg `{joined(where, 'image')}`.")


def _leader(templates: Sequence[Template], shape: Shape) -> Template | None:
    for key in shape.leaders:
        for template in templates:
            if key in template.path:
                return template
    return templates[0] if templates else None
