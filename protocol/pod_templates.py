"""Pod templates: where pods are described in an object of Kubernetes, whatever its kind. Pure.

Kinds nest them differently: a Job has one, a Volcano Job one in each task, a RayJob one in the head and one in each
group of workers. What they share is their form: an object whose `spec` has a list `containers`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from protocol.json_types import Json


def pod_templates(manifest: Json, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Yield every object of a manifest that describes pods, outermost first, with the keys that lead to it.

    Each has `spec`, whose `containers` is a list, and maybe `metadata`. They are the manifest's own: who changes one
    changes the manifest. A Pod is one itself. Places in lists are named by their index.
    """
    if isinstance(manifest, Mapping):
        spec = manifest.get("spec")
        if isinstance(spec, Mapping) and isinstance(spec.get("containers"), list):
            yield path, cast("dict[str, Any]", manifest)
        for key, value in manifest.items():
            yield from pod_templates(value, (*path, key))
    elif isinstance(manifest, Sequence) and not isinstance(manifest, str):
        for place, value in enumerate(manifest):
            yield from pod_templates(value, (*path, str(place)))
