"""Where a launch goes: which kind of object, in which cluster and namespace. The operator lists what may be named."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from backends.kubernetes.manifest.fields import Fields, copied, text, wrong
from backends.kubernetes.settings import WHERE, Settings
from protocol.errors import SpecError
from protocol.json_types import JsonObject
from protocol.kubernetes_kinds import JOB, kind_of

LAUNCH_ONLY = frozenset(
    {"builder", "configFile", "context", "group", "name", "namespace", "version", "wait_for_ready", "wait_timeout"}
)
"""Resource args that are about the launch, and no part of the object."""
JOB_KEYS = frozenset({"apiVersion", "kind", "metadata", "spec"})
DEFAULT_WAIT_SECONDS = 300.0
"""How long additional services have to get ready."""


class Target(NamedTuple):
    """Where a launch goes."""

    api_version: str
    kind: str
    context: str
    """Empty for the operator's."""
    namespace: str
    """Empty for the operator's, or else the context's."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """What is waited for once the additional services are made."""

    for_ready: bool = True
    seconds: float = DEFAULT_WAIT_SECONDS


def target(resource_args: JsonObject, settings: Settings) -> Target:
    """Read where a launch goes. Raises `SpecError` for a context that queues may not name."""
    file = text(resource_args, "configFile")
    if file and file != str(settings.config_file):
        raise SpecError(
            f"The resource arg `configFile` cannot be used: which file tells of the clusters is the operator's to say "
            f"(`{WHERE}config_file`). Name one of its contexts with `context`."
        )
    context = text(resource_args, "context")
    if context == settings.context:
        context = ""
    if context and context not in settings.contexts:
        raise _not_listed("context", context, "contexts", settings.contexts)
    metadata = resource_args.get("metadata") or {}
    if not isinstance(metadata, Mapping):
        raise wrong("metadata", copied(metadata), "a mapping")
    namespace = text(metadata, "namespace", "metadata") or text(resource_args, "namespace")
    return Target(*kind_of(resource_args), context, namespace)


def namespace_of(asked: Target, settings: Settings, default: str) -> str:
    """Return the namespace of a launch. `default` is that of its context.

    Raises `SpecError` for one that queues may not name.
    """
    own = settings.namespace or default
    if asked.namespace and asked.namespace != own and asked.namespace not in settings.namespaces:
        raise _not_listed("namespace", asked.namespace, "namespaces", (own, *settings.namespaces))
    return asked.namespace or own


def bare(resource_args: JsonObject, asked: Target) -> Fields:
    """Return a copy of the manifest that the resource args are, without what is about the launch."""
    is_job = (asked.api_version, asked.kind) == JOB
    own = {
        key: copied(value)
        for key, value in resource_args.items()
        if (key in JOB_KEYS if is_job else key not in LAUNCH_ONLY and key != "status")
    }
    named: Fields = {"apiVersion": asked.api_version, "kind": asked.kind}
    return {**named, "metadata": None, **own, **named}


def waiting(resource_args: JsonObject) -> Waiting:
    """Read how long additional services are waited for."""
    for_ready = resource_args.get("wait_for_ready")
    seconds = resource_args.get("wait_timeout")
    if not isinstance(for_ready, bool | None):
        raise wrong("wait_for_ready", copied(for_ready), "true or false")
    if seconds is None:
        seconds = DEFAULT_WAIT_SECONDS
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < float("inf"):
        raise wrong("wait_timeout", copied(seconds), "a number of seconds")
    return Waiting(for_ready is not False, seconds)


def _not_listed(what: str, named: str, key: str, listed: Iterable[str]) -> SpecError:
    allowed = ", ".join(filter(None, listed)) or "none"
    return SpecError(
        f"The launch's {what} is {named!r}, which is not one of those that queues may name: {allowed}. "
        f"Who runs the agent can add it to `{WHERE}{key}`."
    )
