"""The table of kinds: who reads which."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

from backends.kubernetes.api import KubeObject
from backends.kubernetes.reading.fields import group_and_kind
from backends.kubernetes.reading.jobs import job, pod
from backends.kubernetes.reading.operators import any_kind, by_conditions, ray, tekton, volcano
from backends.kubernetes.reading.pods import Pod
from backends.kubernetes.reading.told import Told

ReadKind: TypeAlias = Callable[[KubeObject, Sequence[Pod]], Told]

KINDS: dict[tuple[str, str], ReadKind] = {
    ("batch", "Job"): job,
    ("", "Pod"): pod,
    ("jobset.x-k8s.io", "JobSet"): by_conditions,
    ("trainer.kubeflow.org", "TrainJob"): by_conditions,
    ("batch.volcano.sh", "Job"): volcano,
    ("ray.io", "RayJob"): ray,
}
"""By group and kind, whatever the version."""
GROUPS: dict[str, ReadKind] = {
    "kubeflow.org": by_conditions,  # PyTorchJob, TFJob, MPIJob, XGBoostJob, PaddleJob, JAXJob
    "tekton.dev": tekton,
}


def told_by(raw: KubeObject, pods: Sequence[Pod]) -> Told:
    """Return what an object says of itself."""
    return reader_of(raw)(raw, pods)


def reader_of(raw: KubeObject) -> ReadKind:
    """Return who reads an object's kind."""
    group, kind = group_and_kind(raw)
    return KINDS.get((group, kind)) or GROUPS.get(group) or any_kind
