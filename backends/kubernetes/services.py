"""What belongs to a launch's object and goes with it: its Secret, and what else it has beside itself."""

from collections.abc import Sequence

from backends.base import BackendError
from backends.kubernetes import names
from backends.kubernetes.api import Kind, KubeApi, KubeObject, KubeRefused, KubeUnavailable
from backends.kubernetes.reading.fields import mapping


def owner_of(made: KubeObject) -> KubeObject:
    """Return the reference that has something removed with an object."""
    metadata = made["metadata"]
    return {key: made[key] for key in ("apiVersion", "kind")} | {key: metadata[key] for key in ("name", "uid")}


def own_by(owner: KubeObject) -> KubeObject:
    """Return the patch that has something that is there go with its owner."""
    return {"metadata": {"ownerReferences": [owner]}}


def owned(manifest: KubeObject, owner: KubeObject) -> KubeObject:
    """Return a manifest of something that goes with its owner."""
    return {**manifest, "metadata": {**manifest["metadata"], "ownerReferences": [owner]}}


async def make(api: KubeApi, kind: Kind, namespace: str, manifest: KubeObject) -> KubeObject:
    """Make something that is this launch's, unless it is there.

    Of what is there and belongs to an object that is gone, the cluster is about to remove it: `KubeUnavailable`. Raises
    `BackendError` if it is somebody else's.
    """
    metadata = manifest["metadata"]
    try:
        return await api.create(kind, namespace, manifest)
    except KubeRefused as error:
        if not is_taken(error):
            raise
    found = await api.get(kind, namespace, metadata["name"])
    if found is None or found["metadata"].get("deletionTimestamp"):
        raise KubeUnavailable(f"The {kind.kind} {namespace}/{metadata['name']} is just being removed.")
    if not is_ours(found, manifest):
        raise BackendError(
            f"There is a {kind.kind} {namespace}/{metadata['name']} already, and it is not this launch's. Remove it."
        )
    wanted = metadata.get("ownerReferences")
    if wanted and found["metadata"].get("ownerReferences") != wanted:
        await api.delete(kind, namespace, metadata["name"], propagation="Background", uid=found["metadata"]["uid"])
        raise KubeUnavailable(f"The {kind.kind} {namespace}/{metadata['name']} is left from before; it is removed.")
    return found


async def make_services(api: KubeApi, namespace: str, manifests: Sequence[KubeObject], owner: KubeObject) -> None:
    """Make what a launch has beside itself, in its order."""
    for manifest in manifests:
        kind = await api.kind(manifest["apiVersion"], manifest["kind"])
        await make(api, kind, namespace, owned(manifest, owner))


def is_ours(found: KubeObject, manifest: KubeObject) -> bool:
    """Whether what is there is what we wanted to make: of the same agent, for the same launch."""
    there, ours = mapping(found, "metadata", "labels"), mapping(manifest, "metadata", "labels")
    return all(there.get(key) == ours[key] for key in (names.OWNER, names.LAUNCH))


def is_taken(error: KubeRefused) -> bool:
    """Whether an object could not be made because there is one of its name."""
    return error.status == 409 and error.reason == "AlreadyExists"
