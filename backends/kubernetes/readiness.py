"""Waits until what a launch has beside itself can be used, before the launch begins that uses it."""

import asyncio
from collections.abc import Sequence

import structlog

from backends.base import BackendError
from backends.kubernetes import names
from backends.kubernetes.api import Kind, KubeApi, KubeObject, KubeUnavailable
from backends.kubernetes.cluster import POD
from backends.kubernetes.reading.fields import conditions, mapping, name_of, number, objects, sentence, text
from backends.kubernetes.reading.pods import Pod
from backends.kubernetes.reading.waits import wait_of

LOOK_SECONDS = 1.0
"""How often to look. Few launches have services, and they do not wait for long."""
SLICE = Kind("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices")
REPLICATED = {("apps/v1", "Deployment"), ("apps/v1", "StatefulSet"), ("apps/v1", "ReplicaSet")}
SAYS_SO = ("Ready", "Available")
"""Conditions by which other objects say that they can be used, if they do."""

log = structlog.get_logger(__name__)


async def wait_until_ready(api: KubeApi, namespace: str, manifests: Sequence[KubeObject], seconds: float) -> None:
    """Return when every object can be used. Raises `BackendError` that says what is not ready after so many seconds.

    A cluster that does not answer is asked again.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    for manifest in manifests:
        kind = await api.kind(manifest["apiVersion"], manifest["kind"])
        what = f"{kind.kind} {namespace}/{name_of(manifest)}"
        lacks = "it was not seen yet"
        while True:
            try:
                lacks = await _lacks(api, kind, namespace, manifest)
                if not lacks:
                    break
            except KubeUnavailable as error:
                log.debug("cannot look whether it is ready", service=what, error=str(error))
            if loop.time() >= deadline:
                raise BackendError(
                    f"The {what}, which the launch has beside itself, is not ready after {seconds:g} seconds "
                    f"(`wait_timeout` of the queue's config): {sentence(lacks)}"
                )
            await asyncio.sleep(LOOK_SECONDS)


async def _lacks(api: KubeApi, kind: Kind, namespace: str, manifest: KubeObject) -> str:
    """Return why an object cannot be used yet; nothing if it can be."""
    name = name_of(manifest)
    found = await api.get(kind, namespace, name)
    if found is None:
        return "it is not there any more"
    if kind == POD:
        return _pods_lack([found])
    if (kind.api_version, kind.kind) in REPLICATED:
        wanted, ready = number(found, "spec", "replicas"), number(found, "status", "readyReplicas") or 0
        wanted = 1 if wanted is None else wanted
        seen = (number(found, "status", "observedGeneration") or 0) >= (number(found, "metadata", "generation") or 0)
        if seen and ready >= wanted:
            return ""
        return f"{ready} of {wanted} replicas are ready. {await _said_of_its_pods(api, namespace, manifest)}"
    if (kind.api_version, kind.kind) == ("v1", "Service"):
        if not mapping(found, "spec", "selector"):
            return ""  # where it leads is not ours to know
        slices = await api.list(SLICE, namespace, labels=f"kubernetes.io/service-name={name}")
        ends = (end for each in slices.items for end in objects(each, "endpoints"))
        if any(mapping(end, "conditions").get("ready") is not False for end in ends):
            return ""
        return "no pod behind it is ready"
    said = conditions(found)
    unmet = next((said[key] for key in SAYS_SO if key in said and not said[key].is_true), None)
    return (unmet.message or unmet.reason or "it says so") if unmet else ""


async def _said_of_its_pods(api: KubeApi, namespace: str, manifest: KubeObject) -> str:
    labels = mapping(manifest, "metadata", "labels")
    selector = ",".join(f"{key}={labels[key]}" for key in (names.OWNER, names.LAUNCH, names.SERVICE))
    return _pods_lack((await api.list(POD, namespace, labels=selector)).items)


def _pods_lack(pods: Sequence[KubeObject]) -> str:
    for raw in pods:
        ready = conditions(raw).get("Ready")
        if ready is not None and ready.is_true:
            continue
        pod = Pod(raw)
        if pod.has_ended:
            return f"Its pod {pod.name} has ended: {pod.message or text(raw, 'status', 'phase')}"
        if all(container.is_running for container in pod.containers):
            return f"Its pod {pod.name} runs and is not ready: {ready.message if ready else ''}"
        return wait_of(pod, ()).message
    return ""
