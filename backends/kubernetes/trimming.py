"""What is kept of an object in memory: what somebody reads. Ten thousand launches have two each. Pure."""

import sys
from functools import lru_cache
from typing import Any

import orjson

from backends.kubernetes import names
from backends.kubernetes.api import KubeObject
from backends.kubernetes.reading.fields import is_true, mapping, objects, text
from backends.kubernetes.reading.read import KUEUES_QUEUE

METADATA = ("name", "generateName", "uid", "resourceVersion", "creationTimestamp", "deletionTimestamp")
LABELS = (names.LAUNCH, names.SERVICE, KUEUES_QUEUE)
ANNOTATIONS = (names.LABELS, names.STOP, names.DEFAULT_CONTAINER)
OWNER = ("kind", "uid", "controller")
SPEC = (
    "activeDeadlineSeconds",
    "backoffLimit",
    "completions",
    "parallelism",
    "podFailurePolicy",
    "queue",
    "runPolicy",
    "suspend",
)
JOB_STATUS = ("uncountedTerminatedPods", "active", "ready", "terminating")
"""What is not kept of a status: numbers that change often and decide nothing."""
POD_SPEC = ("nodeName", "restartPolicy", "schedulingGates")
POD_STATUS = ("phase", "reason", "message")
POD_CONDITIONS = ("PodScheduled", "PodReadyToStartContainers", "DisruptionTarget", "TerminationTarget")
CONDITION = ("type", "status", "reason", "message", "lastTransitionTime")
CONTAINER = ("name", "image", "restartPolicy")
CONTAINER_STATUS = ("name", "started", "state", "lastState", "imageID")
SHARED = 4096
"""How many pieces are remembered, to be shared by the objects that have the same."""
CONTAINERS = (("initContainers", "initContainerStatuses"), ("containers", "containerStatuses"))


def trimmed(whole: KubeObject) -> KubeObject:
    """Return what is kept of the object that a launch is: without what describes its pods."""
    if text(whole, "kind") == "Pod" and text(whole, "apiVersion") == "v1":
        return trimmed_pod(whole)
    status = {key: value for key, value in mapping(whole, "status").items() if key not in JOB_STATUS}
    return {**_common(whole), "spec": _shared(_some(mapping(whole, "spec"), SPEC)), "status": status}


def trimmed_pod(whole: KubeObject) -> KubeObject:
    """Return what is kept of a pod."""
    raw_spec, raw_status = mapping(whole, "spec"), mapping(whole, "status")
    spec, status = _some(raw_spec, POD_SPEC), _some(raw_status, POD_STATUS)
    said = [each for each in objects(raw_status, "conditions") if each.get("type") in POD_CONDITIONS]
    status["conditions"] = _shared([_some(each, CONDITION) for each in said])
    for containers, statuses in CONTAINERS:
        if containers in raw_spec:
            spec[containers] = [_container(each) for each in objects(raw_spec, containers)]
        if statuses in raw_status:
            status[statuses] = _shared([_some(each, CONTAINER_STATUS) for each in objects(raw_status, statuses)])
    return {**_common(whole), "spec": _shared(spec), "status": status}


def _common(whole: KubeObject) -> KubeObject:
    raw = mapping(whole, "metadata")
    metadata = _some(raw, METADATA)
    metadata["labels"] = _some(mapping(raw, "labels"), LABELS)
    owners = [_some(each, OWNER) for each in objects(raw, "ownerReferences")]
    if owners:
        metadata["ownerReferences"] = owners
    # What the launch's object says, its parts need not say again.
    is_part = any(is_true(each, "controller") for each in owners)
    if annotations := _some(mapping(raw, "annotations"), (names.DEFAULT_CONTAINER,) if is_part else ANNOTATIONS):
        metadata["annotations"] = annotations
    return {
        "apiVersion": _shared(text(whole, "apiVersion")),
        "kind": _shared(text(whole, "kind")),
        "metadata": metadata,
    }


def _container(container: KubeObject) -> KubeObject:
    kept = _some(container, CONTAINER)
    if limit := text(container, "resources", "limits", "memory"):
        kept["resources"] = {"limits": {"memory": limit}}
    return kept


def _some(fields: KubeObject, keys: tuple[str, ...]) -> KubeObject:
    """Return some fields, as far as they say anything."""
    return {key: _shared(fields[key]) for key in keys if fields.get(key) not in (None, {})}


def _shared(value: Any) -> Any:
    """Return a value as there is one of it for all objects that say the same. So nobody may change what is kept."""
    if isinstance(value, str):
        return sys.intern(value)
    return _piece(orjson.dumps(value)) if isinstance(value, dict | list) else value


@lru_cache(SHARED)
def _piece(data: bytes) -> Any:
    return orjson.loads(data)
