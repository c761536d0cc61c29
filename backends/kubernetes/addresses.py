"""Where a launch is: what its handle says. Pure."""

from dataclasses import dataclass

from backends.base import Handle


@dataclass(frozen=True, slots=True)
class Address:
    """An object of a cluster. Its handle is `context/namespace/kind.version.group/name`."""

    context: str
    """Of the kubeconfig; empty for the one that is used where nothing is said."""
    namespace: str
    api_version: str
    """As manifests write it: `batch/v1`."""
    kind: str
    name: str

    @property
    def handle(self) -> Handle:
        """The handle of the launch that this object is."""
        group, _, version = self.api_version.rpartition("/")
        return Handle(f"{self.context}/{self.namespace}/{self.kind}.{version}.{group}/{self.name}")

    def __str__(self) -> str:
        """Return it for people: `Job team-a/launch-1`."""
        return f"{self.kind} {self.namespace}/{self.name}"


def address_of(handle: Handle) -> Address | None:
    """Return what a handle stands for; None if it is not one of this backend's."""
    parts = handle.rsplit("/", 3)  # contexts may have slashes
    if len(parts) != 4:
        return None
    context, namespace, what, name = parts
    kind, _, version_and_group = what.partition(".")
    version, _, group = version_and_group.partition(".")
    if not (namespace and kind and version and name):
        return None
    return Address(context, namespace, f"{group}/{version}" if group else version, kind, name)
