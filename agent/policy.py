"""Policy: what launches may do on this agent. Every refusal names its rule, and who can change it. Pure, but for one
thing: where a path of this machine leads that a container would have.

The operator's rules are in the agent's configuration: `resources`, `secure_mode` and the block `policy`. The queue's
owner has one: what is pushed to a queue runs on its resource and on no other.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import NoReturn

from agent.config.model import AgentConfig, KubernetesPolicy, Policy
from agent.errors import LaunchFailed
from agent.images import IMAGE_MACRO
from agent.requirement_sources import read_sources
from agent.requirements import Requirements
from agent.sources.git_remote import FORMS, GitRemote, parse_remote
from protocol import container_options, kubernetes_rules
from protocol.container_options import Rule, Use
from protocol.image_names import DOCKER_HUB, ImageName, parse_image, split_registry
from protocol.job_file import GitSource, JobFile
from protocol.json_types import Json, JsonObject
from protocol.kubernetes_rules import PROFILES
from protocol.kubernetes_rules import Rule as ClusterRule
from protocol.launch_spec import (
    ADDITIONAL_SERVICES,
    ImageSource,
    JobSource,
    LaunchSpec,
    PlaceholderSource,
    is_scheduler,
)
from protocol.names import is_launch_name

SCHEDULER_RESOURCE = "local-process"
CONTAINERS = "local-container"
"""Where launches are shut in, but for what the operator lists. Asking about it looks at the disk."""
CLUSTERS = "kubernetes"
LOCKED_KEYS = frozenset(
    {"hostpid", "hostipc", "hostnetwork", "initcontainers"}
    | {"command", "args", "entrypoint", "containerentrypoint", "containerarguments", "baseimage"}
)
"""What `secure_mode` locks, anywhere in what the platform is given; without regard to case, dashes and underscores."""
IMAGE_KEYS = frozenset({"image", "imageuri", "trainingimage", "baseimage"})
"""Where the platforms look for images, in the same spelling."""
SHOWN_CHARS = 200

_OPERATOR = "Who runs the agent can change that in its configuration."


class Refused(LaunchFailed):
    """The launch asks for what a rule does not allow."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message, reason=f"policy:{rule.removeprefix('policy.')}")
        self.rule = rule
        """The key in the agent's configuration, or `queue.resource`."""


def check(
    config: AgentConfig,
    spec: LaunchSpec,
    job: JobFile | None,
    resource_args: JsonObject,
    image: str | None,
    queue_resource: str | None,
    services: Json = None,
) -> None:
    """Refuse what this agent may not run: raises `Refused`, or `SpecError` for what cannot be understood.

    `resource_args` and `services` are the rendered ones, and `image` is what would run. `queue_resource` is None where
    the server does not tell it. Before a launch's job has been read, `job` and `image` are None; then ask again.
    Whoever fetches code asks `check_git_remote` before: submodules have remotes that no job file names.
    """
    given: tuple[Json, ...] = (resource_args, services)
    # On this machine a sweep's scheduler is one command of the client. It runs beside the jobs of every queue.
    if not is_sweep_command(spec):
        _check_resource(config, spec.resource, queue_resource)
    if config.secure_mode:
        _check_locked(spec, given)
    _check_resource_args(config.policy, spec.resource, resource_args)
    if services:
        _check_resource_args(config.policy, spec.resource, {ADDITIONAL_SERVICES: services})
    if spec.resource == CONTAINERS:
        _check_container(config.policy, resource_args)
    if spec.resource == CLUSTERS:
        _check_cluster(config.policy.kubernetes, resource_args, services)
    is_read = job is not None or not isinstance(spec.source, JobSource)
    named = [name for name in _images(given) if is_read or IMAGE_MACRO not in name]
    check_images(config.policy, [image, job and job.base_image, *named])
    if job is not None and isinstance(job.source, GitSource):
        check_git_remote(config.policy, job.source.remote)


def check_git_remote(policy: Policy, remote: str) -> GitRemote:
    """Read a git remote. Raises `Refused` if it is none, or may not be used."""
    return _check_remote(policy, remote, "the job's code is on the git host", "The job's code", "git remote")


def check_requirements(policy: Policy, requirements: Requirements, *, on_this_machine: bool) -> None:
    """Refuse requirements that name URLs where code may not come from, by the rules of git remotes: raises `Refused`.

    On this machine those that name files outside of the code are refused, too: `LaunchFailed`. In a container such
    files are its image's. Blocks.
    """
    sources = read_sources(requirements)
    for url in sources.urls:
        _check_remote(policy, url, "the job's requirements name a URL at", "A requirement of the job", "URL")
    if on_this_machine and sources.outside:
        raise LaunchFailed(
            f"The job's requirements name {_shown(sources.outside[0])}, which is no file of the job's code. Put it "
            "beside the code and name it from there, or have who runs the agent offer it (UV_FIND_LINKS).",
            stage="build",
            reason="requirements",
        )


def _check_remote(policy: Policy, remote: str, is_at: str, subject: str, kind: str) -> GitRemote:
    parsed = parse_remote(remote)
    hosts = {name.lower() for name in policy.git_hosts} if policy.git_hosts is not None else None
    if parsed is None:
        # What stands before the host may be a password.
        asked = f"{_shown(remote.rpartition('@')[2])} is no {kind} that it understands ({FORMS})"
        if hosts is not None:
            _refuse("policy.git_hosts", asked, hosts)
        raise Refused("git_remote", f"{subject} cannot be fetched: {asked}. Make the job again with such a one.")
    if hosts is not None and parsed.host not in hosts:
        _refuse("policy.git_hosts", f"{is_at} {_shown(parsed.host)}", sorted(hosts))
    if parsed.transport == "http" and parsed.host not in {name.lower() for name in policy.git_http_hosts}:
        asked = f"the {kind} {_shown(parsed.url)} is not encrypted; https is"
        _refuse("policy.git_http_hosts", asked, policy.git_http_hosts)
    return parsed


def is_sweep_command(spec: LaunchSpec) -> bool:
    """Whether this is a sweep's scheduler that is the client's own command: no job, no image, no other words."""
    return is_scheduler(spec) and isinstance(spec.source, PlaceholderSource) and spec.resource == SCHEDULER_RESOURCE


# --- resources -------------------------------------------------------------------------------------------------------


def _check_resource(config: AgentConfig, resource: str, queue_resource: str | None) -> None:
    if queue_resource is not None and resource != queue_resource:
        _refuse(
            "queue.resource",
            f"the launch asks for resource {_shown(resource)}, which is not its queue's",
            (queue_resource,),
            "Push it to a queue of that resource; a queue's resource is its owner's to set.",
        )
    if resource not in config.resources:
        _refuse("resources", f"the launch asks for resource {_shown(resource)}", sorted(config.resources))


def _check_resource_args(policy: Policy, resource: str, resource_args: JsonObject) -> None:
    if policy.resource_args is None:
        return
    allowed = policy.resource_args.get(resource, ())
    for path in _paths(resource_args):
        if not any(_covers(entry.split("."), path) for entry in allowed):
            asked = f"the launch sets the resource arg {_shown('.'.join(path))} of {_shown(resource)}"
            _refuse("policy.resource_args", asked, allowed)


def _covers(entry: Sequence[str], path: Sequence[str]) -> bool:
    """Whether an entry of the list is a path's, or that of something above it. A key may be a pattern."""
    return len(entry) <= len(path) and all(map(fnmatchcase, path, entry))


def _paths(value: Json, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the keys that lead to each value. Entries of lists have no keys of their own."""
    if isinstance(value, Mapping) and (value or not above):
        for key, entry in value.items():
            yield from _paths(entry, (*above, key))
    elif isinstance(value, Sequence) and not isinstance(value, str) and value:
        for entry in value:
            yield from _paths(entry, above)
    else:
        yield above


# --- secure_mode -----------------------------------------------------------------------------------------------------


def _check_locked(spec: LaunchSpec, given: Json) -> None:
    """Refuse what would run something else than the job as it was made."""
    overridden = {
        "overrides.entry_point": bool(spec.overrides.entry_point),
        "overrides.dockerfile": spec.overrides.dockerfile is not None,
        "docker.docker_image, beside a job": isinstance(spec.source, ImageSource) and spec.job is not None,
    }
    locked = [what for what, is_set in overridden.items() if is_set]
    locked += [".".join(path) for path, _ in _entries(given) if _plain(path[-1]) in LOCKED_KEYS]
    if locked:
        _refuse("secure_mode", f"the launch sets {_shown(locked[0])}", ("the job as it was made",))


# --- containers ------------------------------------------------------------------------------------------------------


def _check_container(policy: Policy, resource_args: JsonObject) -> None:
    """Refuse what would let a container out, unless the operator has listed it.

    Who wrote a resource arg, the queue's owner or who pushed, cannot be told here: the list is for both.
    """
    for use in container_options.uses(resource_args):
        _CONTAINER_RULES[use.rule](policy, use)
    env = container_options.read_options(resource_args).get("env", ())
    for place, entry in enumerate(container_options.texts("env", env), 1):
        if "=" not in entry:
            asked = f"entry {place} of the resource arg 'env' has no value, and would copy a variable of the agent"
            who = "Write NAME=VALUE. Who runs the agent can list variables there, and every job sees those."
            _refuse("job_environment", asked, (), who)


def _check_host_path(policy: Policy, use: Use) -> None:
    how = "to read" if use.read_only else "to read and write"
    allowed = [entry for entry in policy.host_paths if use.read_only or not entry.endswith(":ro")]
    _check_place("policy.host_paths", use.what, allowed, policy.host_paths, f"the launch mounts {{}}, {how}")


def _check_device(policy: Policy, use: Use) -> None:
    asked = f"the launch asks for the {use.option} {{}}"
    _check_place("policy.devices", use.what, policy.devices, policy.devices, asked)


def _check_network(policy: Policy, use: Use) -> None:
    """The machine's own network, and another container's, are meant only by entries that say so."""
    kind, colon, _ = use.what.partition(":")
    candidates = [entry for entry in policy.networks if not colon or entry.startswith(f"{kind}:")]
    if use.what == "host":
        candidates = [entry for entry in candidates if entry == "host"]
    if not any(fnmatchcase(use.what, entry) for entry in candidates):
        _refuse("policy.networks", f"the launch joins the network {_shown(use.what)}", policy.networks)


def _check_privilege(policy: Policy, use: Use) -> None:
    if not policy.privileged:
        _refuse("policy.privileged", f"the launch sets the resource arg {use.option!r} to {_shown(use.what)}", ())


_CONTAINER_RULES = {
    Rule.HOST_PATHS: _check_host_path,
    Rule.NETWORKS: _check_network,
    Rule.DEVICES: _check_device,
    Rule.PRIVILEGED: _check_privilege,
}


def _check_place(rule: str, what: str, entries: Iterable[str], listed: Iterable[str], asked: str) -> None:
    """Refuse a path, or a name, that no entry covers. What counts of a path is where its links lead."""
    patterns = [PurePosixPath(entry.removesuffix(":ro")) for entry in entries]
    if not what.startswith("/"):
        if not any(not pattern.is_absolute() and fnmatchcase(what, str(pattern)) for pattern in patterns):
            _refuse(rule, asked.format(_shown(what)), listed)
        return
    path = PurePosixPath(os.path.realpath(what))
    patterns = [pattern for pattern in patterns if pattern.is_absolute()]
    if not any(_covers(each.parts, path.parts) for pattern in patterns for each in (pattern, _followed(pattern))):
        leads = "" if str(path) == what.rstrip("/") else f", which is {_shown(str(path))}"
        _refuse(rule, asked.format(_shown(what) + leads), listed)


def _followed(pattern: PurePosixPath) -> PurePosixPath:
    """Return a pattern with the links followed of what stands before its first wildcard."""
    plain = next((place for place, part in enumerate(pattern.parts) if set(part) & set("*?[")), len(pattern.parts))
    return PurePosixPath(os.path.realpath(PurePosixPath(*pattern.parts[:plain])), *pattern.parts[plain:])


# --- clusters --------------------------------------------------------------------------------------------------------

_ASKED: Mapping[ClusterRule, str] = {
    ClusterRule.HOST_PATHS: "mounts the path {} of its node",
    ClusterRule.SERVICE_ACCOUNTS: "gives pods the rights of the service account {}",
    ClusterRule.SECRETS: "names the Secret {}, which is not the launch's own",
    ClusterRule.CLAIMS: "takes what is on the volume, or of the claim, {}",
    ClusterRule.CSI_DRIVERS: "asks the CSI driver {} for a volume",
    ClusterRule.KINDS: "is {}, which may be more than pods",
    ClusterRule.SERVICE_TYPES: "is {}, which reaches out of the cluster",
    ClusterRule.PRIORITY_CLASSES: "names the priority class {}",
    ClusterRule.RUNTIME_CLASSES: "names the runtime class {}",
}


def _check_cluster(policy: KubernetesPolicy, resource_args: JsonObject, services: Json) -> None:
    """Refuse what would let a pod out, or be more than a launch has need of, unless the operator has listed it."""
    for use in kubernetes_rules.uses(resource_args, services):
        rule, where, allowed = f"policy.kubernetes.{use.rule}", f"`{_cut(use.where)}`", (policy.pod_security,)
        if use.rule is ClusterRule.POD_SECURITY:
            if PROFILES.index(use.profile) > PROFILES.index(policy.pod_security):
                asked = f"{where} is {_shown(use.what)}, which needs the Pod Security profile `{use.profile}`"
                _refuse(rule, asked, allowed)
            continue
        listed: Sequence[str] = getattr(policy, use.rule)  # rules are called as their keys
        if not _is_listed(policy, use, listed):
            _refuse(rule, f"{where} {_ASKED[use.rule].format(_shown(use.what))}", (*use.usual, *listed))


def _is_listed(policy: KubernetesPolicy, use: kubernetes_rules.Use, listed: Sequence[str]) -> bool:
    if use.rule is ClusterRule.HOST_PATHS:
        # Whole paths alone: below one that a job may write to, it could lead the next job anywhere by a link.
        path = PurePosixPath(use.what).parts
        entries = [each.parts for each in map(PurePosixPath, listed)]
        found = any(len(each) == len(path) and _covers(each, path) for each in entries)
        return (found and ".." not in path) or policy.pod_security == kubernetes_rules.PRIVILEGED
    if use.rule is ClusterRule.SECRETS and is_launch_name(use.what):
        return use.what in listed  # a pattern does not mean the keys of other launches
    return any(fnmatchcase(use.what, entry) for entry in listed)


# --- images ----------------------------------------------------------------------------------------------------------


def check_images(policy: Policy, images: Iterable[str | None]) -> None:
    """Refuse images that no pattern covers: raises `Refused`."""
    if policy.images is None:
        return
    for image in images:
        if image is None:
            continue
        parsed = parse_image(image)
        if parsed is None:
            _refuse("policy.images", f"{_shown(image)} is no image reference", policy.images)
        if not any(_allows(pattern, parsed) for pattern in policy.images):
            _refuse("policy.images", f"the launch asks for the image {_shown(image)}", policy.images)


def _images(given: Json) -> Iterator[str]:
    """Yield every image that the platform is given."""
    for path, value in _entries(given):
        if _plain(path[-1]) in IMAGE_KEYS:
            # An image volume of Kubernetes has an object there.
            reference = value.get("reference") if isinstance(value, Mapping) else value
            if isinstance(reference, str):
                yield reference


def _allows(pattern: str, image: ImageName) -> bool:
    """Whether a pattern covers an image. Registry and name are matched apart, so that neither can pose as the other."""
    if pattern == "*":
        return True
    name, _, digest = pattern.partition("@")
    registry, name = ("*", name[2:]) if name.startswith("*/") else split_registry(name)
    path, _, tag = name.partition(":")
    if registry == DOCKER_HUB and "/" not in path and path != "*":
        path = f"library/{path}"
    return (
        fnmatchcase(image.registry, registry)
        and fnmatchcase(image.path, path)
        and (not tag or fnmatchcase(image.tag, tag))
        # Beside a digest an engine ignores the tag: that a tag is allowed says nothing about a digest.
        and (fnmatchcase(image.digest or "", digest) if digest else not tag or image.digest is None)
    )


# --- what rules share ------------------------------------------------------------------------------------------------


def _entries(value: Json, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Json]]:
    """Yield every key at every depth, with what leads to it, and its value."""
    if isinstance(value, Mapping):
        for key, entry in value.items():
            yield (*above, key), entry
            yield from _entries(entry, (*above, key))
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for entry in value:
            yield from _entries(entry, above)


def _plain(key: str) -> str:
    return key.replace("_", "").replace("-", "").casefold()


def _shown(text: str) -> str:
    return repr(_cut(text))


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}..."


def _refuse(rule: str, asked: str, allowed: Iterable[str], who: str = _OPERATOR) -> NoReturn:
    raise Refused(rule, f"Refused by `{rule}`: {asked}. Allowed: {', '.join(allowed) or 'nothing'}. {who}")
