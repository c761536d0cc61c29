"""Pods that are not shut in: by name, a pod and the first Pod Security profile that allows it."""

from typing import Any

Manifest = dict[str, Any]


def pod(spec: Manifest | None = None, container: Manifest | None = None, annotation: str = "") -> Manifest:
    """Return a pod with these fields in its `spec` and in its container, and with an annotation `unconfined`."""
    metadata: Manifest = {"annotations": {annotation: "unconfined"}} if annotation else {}
    containers = [{"name": "main", "image": "i", **(container or {})}]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": containers, **(spec or {})}}


def of_pod(**context: Any) -> Manifest:
    """Return a pod with this security context."""
    return pod({"securityContext": context})


def of_container(**context: Any) -> Manifest:
    """Return a pod whose container has this security context."""
    return pod(container={"securityContext": context})


def of_first(**context: Any) -> Manifest:
    """Return a pod with an init container that has this security context."""
    return pod({"initContainers": [{"name": "first", "image": "i", "securityContext": context}]})


def with_volume(**volume: Any) -> Manifest:
    """Return a pod with this volume."""
    return pod({"volumes": [{"name": "data", **volume}]})


BASELINE, PRIVILEGED = "baseline", "privileged"
_PORTS = [{"containerPort": 80, "hostPort": 80}]
_SELINUX = "seLinuxOptions"

CASES: dict[str, tuple[Manifest, str]] = {
    "network-of-the-node": (pod({"hostNetwork": True}), PRIVILEGED),
    "processes-of-the-node": (pod({"hostPID": True}), PRIVILEGED),
    "shared-memory-of-the-node": (pod({"hostIPC": True}), PRIVILEGED),
    "port-of-the-node": (pod(container={"ports": _PORTS}), PRIVILEGED),
    "privileged": (of_container(privileged=True), PRIVILEGED),
    "privileged-at-first": (of_first(privileged=True), PRIVILEGED),
    "escalation": (of_container(allowPrivilegeEscalation=True), BASELINE),
    "escalation-at-first": (of_first(allowPrivilegeEscalation=True), BASELINE),
    "capability": (of_container(capabilities={"add": ["SYS_PTRACE"]}), PRIVILEGED),
    "capability-of-all": (of_container(capabilities={"add": ["ALL"], "drop": ["ALL"]}), PRIVILEGED),
    "usual-capability": (of_container(capabilities={"add": ["NET_BIND_SERVICE", "CHOWN"]}), BASELINE),
    "capabilities-kept": (of_container(capabilities={"drop": []}), BASELINE),
    "few-capabilities-dropped": (of_first(capabilities={"drop": ["NET_RAW"]}), BASELINE),
    "root": (of_pod(runAsUser=0, runAsNonRoot=True), BASELINE),
    "root-in-a-container": (of_container(runAsUser=0, runAsNonRoot=True), BASELINE),
    "maybe-root": (of_pod(runAsNonRoot=False), BASELINE),
    "maybe-root-in-a-container": (of_container(runAsNonRoot=False), BASELINE),
    "any-system-call": (of_pod(seccompProfile={"type": "Unconfined"}), PRIVILEGED),
    "any-system-call-in-a-container": (of_container(seccompProfile={"type": "Unconfined"}), PRIVILEGED),
    "no-apparmor": (of_container(appArmorProfile={"type": "Unconfined"}), PRIVILEGED),
    "no-apparmor-by-annotation": (pod(annotation="container.apparmor.security.beta.kubernetes.io/main"), PRIVILEGED),
    "selinux-type": (of_pod(**{_SELINUX: {"type": "spc_t"}}), PRIVILEGED),
    "selinux-user": (of_container(**{_SELINUX: {"user": "system_u"}}), PRIVILEGED),
    "selinux-role": (of_container(**{_SELINUX: {"role": "system_r"}}), PRIVILEGED),
    "sysctl": (of_pod(sysctls=[{"name": "kernel.msgmax", "value": "1"}]), PRIVILEGED),
    "probe-of-a-host": (
        pod(container={"livenessProbe": {"httpGet": {"host": "169.254.169.254", "port": 80}}}),
        PRIVILEGED,
    ),
    "hook-to-a-host": (
        pod(container={"lifecycle": {"preStop": {"httpGet": {"host": "10.0.0.1", "port": 80}}}}),
        PRIVILEGED,
    ),
    "connection-to-a-host": (
        pod(container={"readinessProbe": {"tcpSocket": {"host": "10.0.0.1", "port": 80}}}),
        PRIVILEGED,
    ),
    "nfs": (with_volume(nfs={"server": "nfs.test", "path": "/"}), BASELINE),
    "iscsi": (with_volume(iscsi={"targetPortal": "10.0.0.1:3260", "iqn": "iqn.2001-04.test:a", "lun": 0}), BASELINE),
    "flex-volume": (with_volume(flexVolume={"driver": "test/any"}), BASELINE),
}
"""What an API server takes, but for its profiles."""

MORE: dict[str, tuple[Manifest, str]] = {
    "all-of-proc": (of_container(procMount="Unmasked"), PRIVILEGED),
    "windows-host": (of_pod(windowsOptions={"hostProcess": True}), PRIVILEGED),
    "windows-host-in-a-container": (of_container(windowsOptions={"hostProcess": True}), PRIVILEGED),
    "seccomp-of-old": (pod(annotation="seccomp.security.alpha.kubernetes.io/pod"), PRIVILEGED),
    "seccomp-of-old-for-a-container": (
        pod(annotation="container.seccomp.security.alpha.kubernetes.io/main"),
        PRIVILEGED,
    ),
    "no-type-of-seccomp": (of_pod(seccompProfile={"localhostProfile": "x"}), PRIVILEGED),
    "root-as-a-text": (of_pod(runAsUser="0"), BASELINE),
    "root-as-a-fraction": (of_pod(runAsUser=0.0), BASELINE),
    "a-word-for-yes": (pod({"hostNetwork": "yes"}), PRIVILEGED),
    "selinux-as-a-text": (of_pod(seLinuxOptions="spc_t"), PRIVILEGED),
    "capability-as-a-text": (of_container(capabilities={"add": "SYS_ADMIN"}), PRIVILEGED),
    "sysctls-as-a-text": (of_pod(sysctls="kernel.msgmax"), PRIVILEGED),
}
"""What an API server refuses in a pod anyway, or only takes with more: other kinds may have it."""
