"""What a launch in a Kubernetes cluster asks for beyond a pod that is shut in. Pure.

Fields count by their names, wherever they stand and however they are spelled: kinds nest pods differently, and some
describe them without a pod template, or spell names in their own way. So a field that means nothing where it stands may
be refused; one that means something is not overlooked. What the Pod Security profiles forbid is taken from version 1.37
of Kubernetes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeGuard

from protocol.errors import SpecError
from protocol.json_types import Json, JsonObject
from protocol.kubernetes_kinds import LAUNCH_KINDS, SERVICE_KINDS, kind_name, kind_of
from protocol.launch_spec import ADDITIONAL_SERVICES

BASELINE, PRIVILEGED = "baseline", "privileged"
PROFILES = ("restricted", BASELINE, PRIVILEGED)
"""The Pod Security profiles; each allows what those before it do."""
RAY_AUTOSCALER = "ray-autoscaler"
"""Stands for the account that KubeRay makes for its autoscaler. It may change what pods its cluster has, and the job
runs beside it."""
FORBIDDEN: Mapping[str, str] = {
    "nodename": "it goes past the scheduler; choose nodes with `nodeSelector` or `affinity`",
    "ephemeralcontainers": "only a pod that is there can be given some",
    "finalizers": "nothing of a launch may stay when it is removed",
    "externalips": "they would take what is sent to others",
}
"""What nobody can allow, and why."""


class Rule(StrEnum):
    """What guards a field: the key of `policy.kubernetes` that must allow it."""

    POD_SECURITY = "pod_security"
    HOST_PATHS = "host_paths"
    SERVICE_ACCOUNTS = "service_accounts"
    SECRETS = "secrets"
    CLAIMS = "claims"
    CSI_DRIVERS = "csi_drivers"
    KINDS = "kinds"
    SERVICE_TYPES = "service_types"
    PRIORITY_CLASSES = "priority_classes"
    RUNTIME_CLASSES = "runtime_classes"


@dataclass(frozen=True, slots=True)
class Use:
    """Something that a launch would have beyond a pod that is shut in."""

    rule: Rule
    where: str
    """Path of the field."""
    what: str
    """The name or path that it asks for. For Pod Security the value of the field, where that is not long."""
    profile: str = ""
    """For Pod Security: the first profile that allows it."""
    usual: Sequence[str] = ()
    """What needs no rule in its place."""


def uses(resource_args: JsonObject, services: Json) -> Iterator[Use]:
    """Yield what the resource args of a launch, and what it has beside itself, ask for.

    Raises `SpecError` for what nobody can allow, or cannot be read.
    """
    name = kind_name(*kind_of(resource_args))
    if name not in LAUNCH_KINDS:
        yield Use(Rule.KINDS, "kind", name, usual=sorted(LAUNCH_KINDS))
    manifest = {key: value for key, value in resource_args.items() if key not in _NO_MANIFEST}
    yield from _in_object(manifest, name, "")
    _check_nested_namespaces(manifest, "", _namespace(resource_args))
    for place, config in _configs(services):
        where = f"{ADDITIONAL_SERVICES}[{place}].config"
        name = kind_name(_text(config.get("apiVersion")), _text(config.get("kind")))
        if name not in SERVICE_KINDS:
            yield Use(Rule.KINDS, f"{where}.kind", name, usual=sorted(SERVICE_KINDS))
        yield from _in_object(config, name, where)
        _check_nested_namespaces(config, where, _namespace(config))


_NO_MANIFEST = frozenset({"builder", "status"})
"""Resource args that are no part of the object, and hold more than texts."""
_TEXTS = frozenset({"annotations", "labels", "matchlabels", "nodeselector"})
"""Fields whose keys are people's own words."""


def _configs(services: Json) -> Iterator[tuple[int, JsonObject]]:
    if services is None:
        return
    if not isinstance(services, Sequence) or isinstance(services, str):
        raise SpecError(f"`{ADDITIONAL_SERVICES}` must be a list.")
    for place, service in enumerate(services):
        config = service.get("config") if isinstance(service, Mapping) else None
        if not isinstance(service, Mapping) or not isinstance(config, Mapping | None):
            raise SpecError(
                f"`{ADDITIONAL_SERVICES}[{place}]` must be a mapping, and its `config` the manifest of an object."
            )
        if config:
            yield place, config


def _in_object(manifest: JsonObject, kind: str, where: str) -> Iterator[Use]:
    if kind == "ConfigMap":  # it holds words, whatever they look like
        manifest = {"metadata": manifest.get("metadata")}
    if kind == "StatefulSet.apps":
        yield from _kept_claims(manifest, where)
    yield from _in_value(manifest, where, "default")


def _in_value(value: Json, where: str, account: str) -> Iterator[Use]:
    """Yield what a part of a manifest asks for, in pods that run under a service account."""
    if isinstance(value, Mapping):
        account = _account(value) or account
        for key, entry in value.items():
            name, path = _plain(key), f"{where}.{key}" if where else key
            if entry is None:
                continue
            if name in FORBIDDEN and entry:
                raise SpecError(f"The resource arg `{path}` cannot be used here: {FORBIDDEN[name]}.")
            if look := _LOOKS.get(name):
                yield from look(entry, path)
            elif name.endswith(_SECRET_ENDS):
                yield from _named(Rule.SECRETS, entry, path)
            elif name in _TOKENS and entry is not False:
                yield Use(Rule.SERVICE_ACCOUNTS, path, account)
            if not (name in _TEXTS and _is_texts(entry)):
                yield from _in_value(entry, path, account)
    elif _is_list(value):
        for place, entry in enumerate(value):
            yield from _in_value(entry, f"{where}[{place}]", account)


# --- where an object goes, and whose it is ---------------------------------------------------------------------------


def _namespace(manifest: JsonObject) -> str:
    metadata = manifest.get("metadata")
    own = metadata.get("namespace") if isinstance(metadata, Mapping) else None
    return _text(own) or _text(manifest.get("namespace"))


def _check_nested_namespaces(value: Json, where: str, own: str) -> None:
    """Refuse namespaces within a manifest that are not the object's own. Which that may be, the backend knows."""
    if isinstance(value, Mapping):
        for key, entry in value.items():
            path = f"{where}.{key}" if where else key
            nested = _text(entry.get("namespace")) if _plain(key) == "metadata" and isinstance(entry, Mapping) else ""
            if nested not in ("", own):
                raise SpecError(
                    f"The resource arg `{path}.namespace` cannot be used here: everything of a launch is in one "
                    "namespace. Leave it out."
                )
            _check_nested_namespaces(entry, path, own)
    elif _is_list(value):
        for place, entry in enumerate(value):
            _check_nested_namespaces(entry, f"{where}[{place}]", own)


_ACCOUNTS = ("serviceaccountname", "serviceaccount")
_TOKENS = frozenset({"automountserviceaccounttoken", "serviceaccounttoken", "podcertificate"})


def _account(value: JsonObject) -> str:
    named = [_text(entry) for key, entry in value.items() if _plain(key) in _ACCOUNTS]
    return next(filter(None, named), "")


def _ray_autoscaler(value: Json, where: str) -> Iterator[Use]:
    if value is not False:
        yield Use(Rule.SERVICE_ACCOUNTS, where, RAY_AUTOSCALER)


# --- names of what is there ------------------------------------------------------------------------------------------

_SECRET_ENDS = ("secret", "secrets", "secretname", "secretref", "secretkeyref")


def _named(rule: Rule, value: Json, where: str) -> Iterator[Use]:
    """Yield the names of a field: a text, an object with a name, or a list of these. Kinds differ in it."""
    if isinstance(value, str):
        if value:
            yield Use(rule, where, value)
    elif isinstance(value, Mapping):
        for name in _fields(value, "name", "secretname") or [""]:
            yield Use(rule, where, _text(name))
    elif _is_list(value):
        for place, entry in enumerate(value):
            yield from _named(rule, entry, f"{where}[{place}]")


def _names(rule: Rule) -> "_Look":
    return lambda value, where: _named(rule, value, where)


def _data_source(value: Json, where: str) -> Iterator[Use]:
    for name in _fields(value, "name"):
        yield Use(Rule.CLAIMS, where, _text(name))


def _kept_claims(manifest: JsonObject, where: str) -> Iterator[Use]:
    """A StatefulSet takes the claims that one of the same name has left behind, and leaves its own."""
    spec = manifest.get("spec")
    templates = spec.get("volumeClaimTemplates") if isinstance(spec, Mapping) else None
    for place, template in enumerate(templates if _is_list(templates) else ()):
        owns = [each.get("metadata") if isinstance(each, Mapping) else None for each in (template, manifest)]
        names = [_text(each.get("name")) if isinstance(each, Mapping) else "" for each in owns]
        yield Use(Rule.CLAIMS, f"{where}.spec.volumeClaimTemplates[{place}]", "-".join([*names, "0"]))


def _csi(value: Json, where: str) -> Iterator[Use]:
    for driver in _fields(value, "driver") or [""]:
        yield Use(Rule.CSI_DRIVERS, where, _text(driver))


def _host_path(value: Json, where: str) -> Iterator[Use]:
    for path in _fields(value, "path") or [value]:
        yield Use(Rule.HOST_PATHS, where, _text(path))


_OUTSIDE = frozenset({"NodePort", "LoadBalancer", "ExternalName"})


def _service_type(value: Json, where: str) -> Iterator[Use]:
    if isinstance(value, str) and value in _OUTSIDE:
        yield Use(Rule.SERVICE_TYPES, where, value, usual=("ClusterIP",))


# --- Pod Security ----------------------------------------------------------------------------------------------------

VOLUME_TYPES = frozenset(
    {
        "configmap",
        "csi",
        "downwardapi",
        "emptydir",
        "ephemeral",
        "image",
        "persistentvolumeclaim",
        "projected",
        "secret",
    }
)
CAPABILITIES = frozenset(
    {"AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "SETFCAP"}
    | {"SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"}
)
"""What the profile `baseline` lets be added."""
RESTRICTED_CAPABILITIES = frozenset({"NET_BIND_SERVICE"})
SAFE_SYSCTLS = frozenset(
    {
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.ip_local_reserved_ports",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.ping_group_range",
        "net.ipv4.tcp_fin_timeout",
        "net.ipv4.tcp_keepalive_intvl",
        "net.ipv4.tcp_keepalive_probes",
        "net.ipv4.tcp_keepalive_time",
        "net.ipv4.tcp_rmem",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.tcp_wmem",
    }
)
SELINUX_TYPES = frozenset({"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"})
_APPARMOR = "container.apparmor.security.beta.kubernetes.io/"
_SECCOMP = ("seccomp.security.alpha.kubernetes.io/pod", "container.seccomp.security.alpha.kubernetes.io/")
_SHUT_IN = ("runtime/default", "docker/default", "localhost/")

_Look = Callable[[Json, str], Iterator[Use]]


def _security(value: Json, where: str, profile: str) -> Use:
    shown = str(value).lower() if isinstance(value, bool) else value
    return Use(Rule.POD_SECURITY, where, str(shown) if isinstance(shown, str | int | float) else "set", profile)


def _unless(is_fine: Callable[[Json], bool], profile: str) -> _Look:
    """Return a look at a field that needs a profile, but for some values."""

    def look(value: Json, where: str) -> Iterator[Use]:
        if not is_fine(value):
            yield _security(value, where, profile)

    return look


def _is_off(value: Json) -> bool:
    return value is False


def _is_account(value: Json) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _profile_type(value: Json, where: str) -> Iterator[Use]:
    """Of seccomp and AppArmor."""
    for kind in _fields(value, "type") or [None if isinstance(value, Mapping) else value]:
        if kind not in ("RuntimeDefault", "Localhost"):
            yield _security(kind, f"{where}.type", PRIVILEGED)


def _capabilities(value: Json, where: str) -> Iterator[Use]:
    for added in _fields(value, "add"):
        for name in added if _is_list(added) else [added]:
            if not _is_one_of(name, RESTRICTED_CAPABILITIES):
                yield _security(name, f"{where}.add", BASELINE if _is_one_of(name, CAPABILITIES) else PRIVILEGED)
    for dropped in _fields(value, "drop"):
        if not (_is_list(dropped) and "ALL" in dropped):
            yield Use(Rule.POD_SECURITY, f"{where}.drop", "without ALL", BASELINE)


def _selinux(value: Json, where: str) -> Iterator[Use]:
    for kind in _fields(value, "type") or [None if isinstance(value, Mapping) else value]:
        if kind is not None and not _is_one_of(kind, SELINUX_TYPES):
            yield _security(kind, f"{where}.type", PRIVILEGED)
    for named in filter(None, _fields(value, "user", "role")):
        yield _security(named, where, PRIVILEGED)


def _sysctls(value: Json, where: str) -> Iterator[Use]:
    for entry in value if _is_list(value) else [value]:
        for name in _fields(entry, "name") or [entry]:
            if not _is_one_of(name, SAFE_SYSCTLS):
                yield _security(name, where, PRIVILEGED)


def _handler(value: Json, where: str) -> Iterator[Use]:
    """A probe or hook is asked by the node, which reaches more than the pod does."""
    for host in filter(None, _fields(value, "host")):
        yield _security(host, f"{where}.host", PRIVILEGED)


def _volumes(value: Json, where: str) -> Iterator[Use]:
    for place, volume in enumerate(value if _is_list(value) else ()):
        for key, entry in volume.items() if isinstance(volume, Mapping) else ():
            # Where what is no type of volume has fields of its own: claims of a Volcano Job.
            if isinstance(entry, Mapping) and _plain(key) not in VOLUME_TYPES | {"hostpath", "volumeclaim"}:
                yield _security(key, f"{where}[{place}].{key}", BASELINE)


def _annotations(value: Json, where: str) -> Iterator[Use]:
    for key, entry in value.items() if isinstance(value, Mapping) else ():
        is_profile = key.startswith((_APPARMOR, *_SECCOMP))
        if is_profile and entry and not (isinstance(entry, str) and entry.startswith(_SHUT_IN)):
            yield _security(entry, f"{where}[{key}]", PRIVILEGED)


_LOOKS: Mapping[str, _Look] = {
    # whose rights its pods have, and what is theirs
    "serviceaccountname": _names(Rule.SERVICE_ACCOUNTS),
    "serviceaccount": _names(Rule.SERVICE_ACCOUNTS),
    "enableintreeautoscaling": _ray_autoscaler,
    "claimname": _names(Rule.CLAIMS),
    "volumeclaimname": _names(Rule.CLAIMS),
    "resourceclaimname": _names(Rule.CLAIMS),
    "volumename": _names(Rule.CLAIMS),
    "datasource": _data_source,
    "datasourceref": _data_source,
    "csi": _csi,
    "hostpath": _host_path,
    "type": _service_type,
    "servicetype": _service_type,
    "priorityclassname": _names(Rule.PRIORITY_CLASSES),
    "priorityclass": _names(Rule.PRIORITY_CLASSES),
    "runtimeclassname": _names(Rule.RUNTIME_CLASSES),
    # how far they are shut in
    "hostnetwork": _unless(_is_off, PRIVILEGED),
    "hostpid": _unless(_is_off, PRIVILEGED),
    "hostipc": _unless(_is_off, PRIVILEGED),
    "hostprocess": _unless(_is_off, PRIVILEGED),
    "privileged": _unless(_is_off, PRIVILEGED),
    "hostport": _unless(lambda value: value == 0, PRIVILEGED),
    "procmount": _unless(lambda value: value in ("", "Default"), PRIVILEGED),
    "seccompprofile": _profile_type,
    "apparmorprofile": _profile_type,
    "selinuxoptions": _selinux,
    "sysctls": _sysctls,
    "httpget": _handler,
    "tcpsocket": _handler,
    "annotations": _annotations,
    "allowprivilegeescalation": _unless(_is_off, BASELINE),
    "runasnonroot": _unless(lambda value: value is True, BASELINE),
    "runasuser": _unless(_is_account, BASELINE),
    "capabilities": _capabilities,
    "volumes": _volumes,
}


# --- what they share -------------------------------------------------------------------------------------------------


def _plain(key: str) -> str:
    return key.replace("_", "").replace("-", "").casefold()


def _fields(value: Json, *names: str) -> list[Json]:
    """Return what stands under these names, however they are spelled."""
    entries = value.items() if isinstance(value, Mapping) else ()
    return [entry for key, entry in entries if _plain(key) in names and entry is not None]


def _is_one_of(value: Json, names: frozenset[str]) -> bool:
    return isinstance(value, str) and value in names


def _text(value: Json) -> str:
    return value if isinstance(value, str) else ""


def _is_list(value: Json) -> TypeGuard[Sequence[Json]]:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _is_texts(value: Json) -> bool:
    return isinstance(value, Mapping) and all(isinstance(entry, str) for entry in value.values())
