"""What everything of a launch is marked with, so that it is found again, and known for what it is."""

from dataclasses import dataclass, replace

from backends.base import StartRequest
from backends.kubernetes import names
from backends.kubernetes.manifest.fields import Fields, inner, joined

SERVERS_OWN = (
    "creationTimestamp",
    "generation",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
)
"""What stands in the metadata of objects that are there, and so in manifests that were copied from them."""


@dataclass(frozen=True, slots=True)
class Marks:
    """Labels and annotations."""

    labels: Fields
    annotations: Fields

    def put_on(self, holder: Fields, where: str) -> None:
        """Put them on an object or a pod template, whose path is `where`.

        Nothing that a queue has written can pose as a mark of ours.
        """
        path = joined(where, "metadata")
        metadata = inner(holder, "metadata", where)
        for key in SERVERS_OWN:
            metadata.pop(key, None)
        for key, marks in (("labels", self.labels), ("annotations", self.annotations)):
            own = inner(metadata, key, path)
            metadata[key] = {name: value for name, value in own.items() if not name.startswith(names.PREFIX)} | marks

    def of_service(self, name: str, auxiliary: str) -> "Marks":
        """Return those of something that a launch has beside itself."""
        more = {names.SERVICE: name, names.CREATED_BY: "launch-agent", names.AUXILIARY: names.stock_label(auxiliary)}
        return replace(self, labels=self.labels | more)


def name_object(holder: Fields, where: str, name: str, namespace: str) -> None:
    """Name an object, whose path is `where`, in place of the name that it has."""
    own = inner(holder, "metadata", where)
    named = {"name": name, "namespace": namespace}
    holder["metadata"] = named | {key: value for key, value in own.items() if key not in {*named, "generateName"}}


def marks_of(request: StartRequest, owner: str) -> Marks:
    """Return the marks of a launch."""
    return Marks(dict(names.labels_of(owner, request.name, request.labels)), dict(names.annotations_of(request.labels)))
