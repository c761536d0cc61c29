"""Kinds of objects that run jobs: what each needs beyond its pod templates.

A kind that is not known here is completed by its pod templates alone. What the known ones are like was read from their
types: JobSet 0.8, Volcano 1.9, Kubeflow's training operator 1.8 and Trainer 2.0, KubeRay 1.2.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from backends.kubernetes.manifest.fields import Fields, copied, default, entries, inner

KEPT_SECONDS = 7 * 24 * 3600
"""How long an ended Job stays if nobody removes it. The agent does once it has reported; it may be away for a while."""


def _nothing(spec: Fields) -> None:
    """Most kinds need nothing."""
    del spec


@dataclass(frozen=True, slots=True)
class Shape:
    """What is particular about a kind."""

    complete: Callable[[Fields], None] = _nothing
    """Fills in the defaults of a `spec`."""
    container: str = ""
    """What the kind's controller wants the container called that is the job. Empty: it is the first."""
    container_at: str = ""
    """A key of the `spec` under which the container that is the job stands without a pod around it."""
    command_at: str = ""
    """A key of the `spec` where the job's command stands, as one text."""
    runs_in: str | None = None
    """A key on the way to those pod templates that run the job's command; None for all of them."""
    helpers: str = ""
    """A key on the way to those pod templates that only help, and are not given what a job is."""
    leaders: tuple[str, ...] = ()
    """Keys on the way to the pod template whose pod is the run, best first. Without one it is the first template."""
    ends: bool = True
    """Whether its pods are to end, so that the pod templates must not start them again."""
    has_pods: bool = True
    """Whether an object without any pod template is a mistake."""
    all_are_the_run: bool = False
    """Whether every pod is given the run's id."""
    forces_image: bool = False
    """Whether a launch's image goes over what the queue has written."""


def shape_of(api_version: str, kind: str) -> Shape:
    """Return what is particular about a kind. Versions of one do not differ in it."""
    group = api_version.rpartition("/")[0]
    return SHAPES.get((group, kind), _ANY)


def _fail_at_once(job: Fields) -> None:
    """Trying again is the agent's. Who counts failures by index has said so, and may have many in all."""
    if job.get("backoffLimitPerIndex") is None:
        default(job, "backoffLimit", 0)


def _job(spec: Fields) -> None:
    _fail_at_once(spec)
    default(spec, "ttlSecondsAfterFinished", KEPT_SECONDS)
    pod = inner(inner(spec, "template", "spec"), "spec", "spec.template")
    if not entries(pod, "containers", "spec.template.spec"):
        pod["containers"] = [{}]


def _pod(spec: Fields) -> None:
    if not entries(spec, "containers", "spec"):
        spec["containers"] = [{}]


def _job_set(spec: Fields) -> None:
    for place, replicated in enumerate(entries(spec, "replicatedJobs", "spec")):
        where = f"spec.replicatedJobs[{place}]"
        _fail_at_once(inner(inner(replicated, "template", where), "spec", f"{where}.template"))


def _replicas(key: str) -> Callable[[Fields], None]:
    """The controller writes this policy over that of the pod templates, and by default starts failed pods again."""

    def complete(spec: Fields) -> None:
        replicas = inner(spec, key, "spec")
        for role in replicas:
            default(inner(replicas, role, f"spec.{key}"), "restartPolicy", "Never")

    return complete


def _kubeflow(key: str, container: str, *leaders: str, runs_in: str | None = None) -> Shape:
    return Shape(_replicas(key), container, runs_in=runs_in, leaders=leaders, ends=False)


_SUBMITTER = "submitterPodTemplate"
_SUBMITTER_RESOURCES = {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m", "memory": "200Mi"}}
"""What the operator gives it where it is not described."""


def _ray_job(spec: Fields) -> None:
    """The pod that hands over the job, and prints what it says, is described here: otherwise it would not be ours."""
    if spec.get("rayClusterSpec") is None:  # it runs on a cluster that is there
        return
    where = "spec.rayClusterSpec.headGroupSpec"
    cluster = inner(spec, "rayClusterSpec", "spec")
    template = inner(inner(cluster, "headGroupSpec", "spec.rayClusterSpec"), "template", where)
    pod = inner(template, "spec", f"{where}.template")
    containers = entries(pod, "containers", f"{where}.template.spec")
    if cluster.get("enableInTreeAutoscaling") is True:
        # The autoscaler runs in there, with an account that KubeRay makes for it.
        default(pod, "automountServiceAccountToken", True)
    if spec.get(_SUBMITTER) is not None or spec.get("submissionMode") not in (None, "K8sJobMode"):
        return
    image = {"image": containers[0]["image"]} if containers and containers[0].get("image") is not None else {}
    submitter = {"name": "ray-job-submitter", **image, "resources": copied(_SUBMITTER_RESOURCES)}
    spec[_SUBMITTER] = {"spec": {"restartPolicy": "Never", "containers": [submitter]}}


_ANY = Shape(ends=False, has_pods=False)
SHAPES: Mapping[tuple[str, str], Shape] = {
    ("batch", "Job"): Shape(_job, all_are_the_run=True, forces_image=True),
    ("", "Pod"): Shape(_pod, all_are_the_run=True, forces_image=True),
    ("jobset.x-k8s.io", "JobSet"): Shape(_job_set),
    ("batch.volcano.sh", "Job"): Shape(),
    ("kubeflow.org", "PyTorchJob"): _kubeflow("pytorchReplicaSpecs", "pytorch", "Master"),
    ("kubeflow.org", "TFJob"): _kubeflow("tfReplicaSpecs", "tensorflow", "Chief", "Master"),
    ("kubeflow.org", "XGBoostJob"): _kubeflow("xgbReplicaSpecs", "xgboost", "Master"),
    ("kubeflow.org", "PaddleJob"): _kubeflow("paddleReplicaSpecs", "paddle", "Master"),
    ("kubeflow.org", "JAXJob"): _kubeflow("jaxReplicaSpecs", "jax"),
    ("kubeflow.org", "MPIJob"): _kubeflow("mpiReplicaSpecs", "mpi", "Launcher", runs_in="Launcher"),
    # Their containers are Ray itself. Which command runs on it, `spec.entrypoint` tells.
    ("ray.io", "RayJob"): Shape(
        _ray_job,
        command_at="entrypoint",
        runs_in="",
        helpers=_SUBMITTER,
        leaders=("headGroupSpec",),
        ends=False,
        has_pods=False,
    ),
    # Its pods are those of a runtime that stands elsewhere.
    ("trainer.kubeflow.org", "TrainJob"): Shape(container_at="trainer", has_pods=False),
}
