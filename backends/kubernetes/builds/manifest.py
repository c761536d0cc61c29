"""The Job that builds an image, and its Secret. Pure.

An init container, shut in as every pod of ours, fetches the code and lays out what the image is built of. The other one
is BuildKit without root: it makes user namespaces of its own, in which the steps run. So it is shut in likewise, but
for what that takes: no seccomp or AppArmor profile, which would forbid to make them, and two capabilities for the
programs that map accounts into them.
"""

import base64
import json

from backends.base import CODE_VARIABLE
from backends.kubernetes import names
from backends.kubernetes.api import KubeObject
from backends.kubernetes.builds.order import Order
from backends.kubernetes.manifest.fields import Fields, copied, default, entries, inner, wrong
from backends.kubernetes.manifest.variables import plain
from protocol.errors import SpecError

FETCH, BUILD = "fetch", "build"
"""The containers."""
USER = 1000
"""Of BuildKit's image, whose files are for this account alone."""
FINISHED_SECONDS = 600
"""After which the cluster removes a Job that has ended, if no agent has."""
GRACE_SECONDS = 2
CONTEXT, GIVEN, LOGIN = "/mnt/context", "/mnt/given", "/mnt/login"
STATE = "/home/user/.local/share/buildkit"
"""Where BuildKit keeps what it builds: a volume, as layers cannot lie on layers."""
DOCKERFILE, SETTINGS, LOGIN_FILE = "Dockerfile", "buildkitd.toml", "config.json"
"""What the Secret has besides variables."""
VARIABLE = "variable."
"""Before the names of variables in the Secret."""
RESOURCES: Fields = {
    "requests": {"cpu": "500m", "memory": "1Gi"},
    "limits": {"cpu": "4", "memory": "8Gi", "ephemeral-storage": "100Gi"},
}
FETCH_RESOURCES: Fields = {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"cpu": "2", "memory": "2Gi"}}
CONNECTS = "100"
"""How often to ask whether the daemon is there: for half a minute or so, on a slow node."""


def job_of(order: Order) -> KubeObject:
    """Return the Job. What the order bases it on stands, but for what makes it a build.

    Raises `SpecError` where that has another form.
    """
    job: Fields = copied(order.base)
    where = "builder.job-config"
    metadata = inner(job, "metadata", where)
    metadata |= {"name": order.name, "namespace": order.namespace}
    metadata.pop("generateName", None)
    inner(metadata, "labels", where)[names.BUILD] = order.key
    spec = inner(job, "spec", where)
    spec |= {"backoffLimit": 0, "completions": 1, "parallelism": 1}
    default(spec, "activeDeadlineSeconds", order.seconds)
    default(spec, "ttlSecondsAfterFinished", FINISHED_SECONDS)
    template = inner(spec, "template", where)
    inner(inner(template, "metadata", where), "labels", where)[names.BUILD] = order.key
    _complete_pod(inner(template, "spec", where), order, f"{where}.spec.template.spec")
    return {**job, "apiVersion": "batch/v1", "kind": "Job"}


def secret_of(order: Order) -> KubeObject:
    """Return the Secret: what fetches the code, the Dockerfile, and the login at the registry."""
    texts = {VARIABLE + name: value for name, value in {**order.secrets, **order.code.secrets}.items()}
    texts[DOCKERFILE] = order.dockerfile
    texts[SETTINGS] = _settings(order)
    if not order.registry.secret:
        texts[LOGIN_FILE] = order.registry.login or "{}"
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": order.name, "namespace": order.namespace, "labels": {names.BUILD: order.key}},
        "type": "Opaque",
        "immutable": True,
        "data": {
            name: base64.b64encode(text.encode("utf-8", "surrogatepass")).decode() for name, text in texts.items()
        },
    }


def _complete_pod(pod: Fields, order: Order, where: str) -> None:
    if not pod.get("serviceAccountName"):
        default(pod, "automountServiceAccountToken", False)
    default(pod, "enableServiceLinks", False)
    pod["restartPolicy"] = "Never"
    pod["terminationGracePeriodSeconds"] = GRACE_SECONDS
    pod["securityContext"] = {
        "runAsUser": USER,
        "runAsGroup": USER,
        "runAsNonRoot": True,
        "fsGroup": USER,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    listed = entries(pod, "imagePullSecrets", where)
    listed += [{"name": name} for name in order.pull_secrets if {"name": name} not in listed]
    entries(pod, "volumes", where).extend(_volumes(order))
    entries(pod, "initContainers", where).append(_fetching(order))
    containers = entries(pod, "containers", where)
    if len(containers) > 1:
        raise SpecError(f"`{where}.containers` has more than one; there is room for one, with the resources of builds.")
    pod["containers"] = [_building(containers[0] if containers else {}, order, f"{where}.containers[0]")]


def _volumes(order: Order) -> list[Fields]:
    login = order.registry.secret or (order.name, LOGIN_FILE)
    given = [{"key": DOCKERFILE, "path": DOCKERFILE}, {"key": SETTINGS, "path": SETTINGS}]
    return [
        {"name": "context", "emptyDir": {}},
        {"name": "state", "emptyDir": {}},
        {"name": "given", "secret": {"secretName": order.name, "items": given}},
        {"name": "login", "secret": {"secretName": login[0], "items": [{"key": login[1], "path": LOGIN_FILE}]}},
    ]


def _fetching(order: Order) -> Fields:
    hidden = {**order.secrets, **order.code.secrets}
    source = json.dumps(copied(order.code.source), sort_keys=True, separators=(",", ":"))
    variables = {**order.environment, **order.code.environment, CODE_VARIABLE: source}
    return {
        "name": FETCH,
        "image": order.fetch_image,
        "command": ["launchbay", "fetch-code", CONTEXT, "--dockerfile", f"{GIVEN}/{DOCKERFILE}"],
        "env": [
            *plain({name: value for name, value in variables.items() if name not in hidden}),
            *(
                {"name": name, "valueFrom": {"secretKeyRef": {"name": order.name, "key": VARIABLE + name}}}
                for name in hidden
            ),
        ],
        "resources": copied(FETCH_RESOURCES),
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "context", "mountPath": CONTEXT},
            {"name": "given", "mountPath": GIVEN, "readOnly": True},
        ],
    }


def _building(container: Fields, order: Order, where: str) -> Fields:
    env = entries(container, "env", where)
    env += plain(
        {
            # A pod has no /proc of its own for each step: it may not mount one.
            "BUILDKITD_FLAGS": f"--oci-worker-no-process-sandbox --config={GIVEN}/{SETTINGS}",
            "BUILDCTL_CONNECT_RETRIES_MAX": CONNECTS,
            "DOCKER_CONFIG": LOGIN,
        }
    )
    mounts = entries(container, "volumeMounts", where)
    mounts += [
        {"name": "context", "mountPath": CONTEXT, "readOnly": True},
        {"name": "given", "mountPath": GIVEN, "readOnly": True},
        {"name": "login", "mountPath": LOGIN, "readOnly": True},
        {"name": "state", "mountPath": STATE},
    ]
    default(container, "resources", copied(RESOURCES))
    if not isinstance(container["resources"], dict):
        raise wrong(f"{where}.resources", container["resources"], "a mapping")
    return {
        **container,
        "name": BUILD,
        "image": order.build_image,
        "command": ["buildctl-daemonless.sh"],
        "args": _arguments(order),
        "securityContext": {
            "allowPrivilegeEscalation": True,
            "capabilities": {"drop": ["ALL"], "add": ["SETUID", "SETGID"]},
            "seccompProfile": {"type": "Unconfined"},
            "appArmorProfile": {"type": "Unconfined"},
        },
    }


def _arguments(order: Order) -> list[str]:
    words = ["build", "--progress=plain", "--frontend=dockerfile.v0"]
    words += [f"--local=context={CONTEXT}", f"--local=dockerfile={CONTEXT}", f"--opt=filename={order.file_name}"]
    words += [f"--output=type=image,name={order.image},push=true"]
    if order.platform:
        words.append(f"--opt=platform={order.platform}")
    if order.cache:
        kept = f"type=registry,ref={order.cache}"
        words += [f"--import-cache={kept}"]
        # As an image, which every registry takes; and an image that is built is not failed for its cache.
        words += [f"--export-cache={kept},mode=max,image-manifest=true,oci-mediatypes=true,ignore-error=true"]
    return words


def _settings(order: Order) -> str:
    """Return what the daemon is told. A host has neither quotes nor backslashes."""
    return f'[registry."{order.registry.host}"]\nhttp = true\n' if order.registry.is_insecure else ""
