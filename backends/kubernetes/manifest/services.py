"""What a launch has beside itself: the additional services of its spec, as objects of the cluster."""

from typing import Any

from backends.base import StartRequest
from backends.kubernetes import names
from backends.kubernetes.manifest.fields import Fields, as_fields, copied, entries, inner, joined, text, wrong
from backends.kubernetes.manifest.marks import Marks, name_object
from backends.kubernetes.manifest.pods import complete_pod, templates_of
from backends.kubernetes.manifest.variables import give, of_service
from backends.kubernetes.settings import Settings
from protocol.errors import SpecError

WHERE = "additional_services"


def services_of(request: StartRequest, settings: Settings, namespace: str, marks: Marks) -> list[Fields]:
    """Return the objects. `marks` are those of everything of this launch."""
    made: list[Fields] = []
    for place, service in enumerate(request.services):
        where = f"{WHERE}[{place}]"
        config: Any = as_fields(copied(service), where).get("config")
        if config:
            where = f"{where}.config"
            made.append(as_fields(config, where))
            _name(made[-1], where, place, request, namespace)
            _complete(made[-1], where, request, settings, marks)
    return made


def _name(config: Fields, where: str, place: int, request: StartRequest, namespace: str) -> None:
    """See what kind of object it is, where it goes, and what it is called."""
    for key in ("apiVersion", "kind"):
        if not text(config, key, where):
            raise wrong(joined(where, key), None, "a text")
    metadata = inner(config, "metadata", where)
    asked = text(metadata, "namespace", f"{where}.metadata")
    if asked and asked != namespace:
        raise SpecError(
            f"`{where}.metadata.namespace` is {asked!r}; what a launch has beside itself goes into the launch's own "
            f"namespace, which is {namespace!r}."
        )
    # Others refer to it by the name that is written, so that stands, spelled as a cluster can have it.
    name = names.stock_label(text(metadata, "name", f"{where}.metadata")) or names.service_name(request.name, place)
    name_object(config, where, name, namespace)


def _complete(config: Fields, where: str, request: StartRequest, settings: Settings, marks: Marks) -> None:
    whose = [request.labels.get(key, "") for key in ("entity", "project", "run")]
    own = marks.of_service(config["metadata"]["name"], "-".join(["aux", *whose]))
    own.put_on(config, where)
    for template in templates_of(config, where):
        if template.fields is not config:
            own.put_on(template.fields, template.where)
        for place, container in enumerate(entries(template.pod, "containers", template.pod_where)):
            path = f"{template.pod_where}.containers[{place}]"
            container["name"] = names.stock_label(text(container, "name", path)) or f"service{place}"
            give(container, of_service(request), path)
        complete_pod(template, settings)
