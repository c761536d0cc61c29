"""Kinds of Kubernetes objects: which one a launch is, and which ones any launch may be, or have beside it. Pure."""

import re
from collections.abc import Mapping

from protocol.errors import SpecError
from protocol.json_types import Json

JOB = ("batch/v1", "Job")
KINDS = (
    JOB,
    ("v1", "Pod"),
    ("jobset.x-k8s.io/v1alpha2", "JobSet"),
    ("batch.volcano.sh/v1alpha1", "Job"),
    ("kubeflow.org/v1", "PyTorchJob"),
    ("kubeflow.org/v1", "TFJob"),
    ("kubeflow.org/v1", "XGBoostJob"),
    ("kubeflow.org/v1", "PaddleJob"),
    ("kubeflow.org/v1", "JAXJob"),
    ("kubeflow.org/v1", "MPIJob"),
    ("kubeflow.org/v2beta1", "MPIJob"),
    ("ray.io/v1", "RayJob"),
    ("trainer.kubeflow.org/v1alpha1", "TrainJob"),
)
"""What runs a launch's pods, and does nothing else with its agent's rights, as `apiVersion` and `kind`.

Who adds one sees to `backends.kubernetes`, too: what it needs is in `manifest.kinds`, what it says in `reading.kinds`.
"""
SERVICE_KINDS = frozenset({"ConfigMap", "Deployment.apps", "Job.batch", "Pod", "Service", "StatefulSet.apps"})
"""What a launch may have beside it."""

_GROUP_VERSION = re.compile(r"([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?v[a-z0-9]+")
_KIND = re.compile(r"[A-Z][A-Za-z0-9]*")


def kind_name(api_version: str, kind: str) -> str:
    """Return a kind as `Job.batch`, or `Pod` where it has no group. Versions of one share a name."""
    group = api_version.rpartition("/")[0]
    return f"{kind}.{group}" if group else kind


LAUNCH_KINDS = frozenset(kind_name(*each) for each in KINDS)
"""The names of those."""


def kind_of(manifest: Mapping[str, Json]) -> tuple[str, str]:
    """Return `apiVersion` and `kind` of what resource args describe; of a Job if they do not say.

    Raises `SpecError` where they cannot be read.
    """
    api_version, kind = _text(manifest, "apiVersion"), _text(manifest, "kind")
    group, version = _text(manifest, "group"), _text(manifest, "version")
    if (group or version) and api_version not in {"", "batch/v1", "batch/v1beta1"}:
        # The stock agent lets these go before what they repeat.
        own_group, _, own_version = api_version.rpartition("/")
        api_version = f"{group or own_group}/{version or own_version}".lstrip("/")
    if not api_version:
        if kind not in {"", "Job"}:
            raise SpecError(
                f"The resource arg `kind` is {kind!r}, and `apiVersion` is missing; write both, as "
                "`apiVersion: batch.volcano.sh/v1alpha1` for a Volcano Job."
            )
        return JOB
    if api_version in {"batch/v1", "batch/v1beta1"} and kind in {"", "Job"}:
        return JOB
    if not _GROUP_VERSION.fullmatch(api_version):
        raise SpecError(f"The resource arg `apiVersion` is {api_version!r}; it must be as `batch/v1`, or `v1`.")
    if not kind:
        raise SpecError(f"The resource arg `kind` is missing beside `apiVersion: {api_version}`.")
    if not _KIND.fullmatch(kind):
        raise SpecError(f"The resource arg `kind` is {kind!r}; it must be as `Job`: a word with a capital.")
    return api_version, kind


def _text(manifest: Mapping[str, Json], key: str) -> str:
    value = manifest.get(key)
    if value is not None and not isinstance(value, str):
        raise SpecError(f"The resource arg `{key}` must be a text.")
    return value or ""
