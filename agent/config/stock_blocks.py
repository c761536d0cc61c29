"""The blocks `environment`, `registry` and `builder`, as the stock agent has them.

They are kept as they are written, for those that use them: `agent/config/builder.py` and the backends. What is known of
their keys is here, for warnings, for the published schema and for the reference.
"""

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from agent.config.model import AgentConfig
from protocol.json_types import JsonObject

STOCK_BLOCKS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "environment": {
        "type": {"enum": ["aws", "gcp", "azure"], "description": "Which cloud."},
        "region": {"type": "string", "description": "Its region. Azure has none."},
        "project": {"type": "string", "description": "gcp: the project; else that of the credentials."},
        "profile": {"type": "string", "description": "aws: whose credentials of the files; else the default ones."},
        "role_arn": {"type": "string", "description": "aws: the role that the agent assumes; else none."},
    },
    "registry": {
        "type": {"enum": ["ecr", "gcr", "acr"], "description": "Amazon, Google or Azure."},
        "uri": {"type": "string", "description": "Where built images go, without a tag."},
        "account_id": {"type": "string", "description": "ecr: the account, where there is no uri."},
        "region": {"type": "string", "description": "ecr, gcr: the region, where there is no uri."},
        "repo_name": {"type": "string", "description": "ecr: the repository, where there is no uri."},
        "repository": {"type": "string", "description": "gcr: the repository, where there is no uri."},
        "image-name": {"type": "string", "description": "gcr: the image, where there is no uri."},
        "project": {"type": "string", "description": "gcr: the project, where there is no uri."},
        "credentials": {"type": "object", "description": "An old key; must not differ from the builder's."},
    },
    "builder": {
        "type": {
            "enum": ["docker", "buildkit", "kaniko", "noop"],
            "description": "Who builds images: buildkit (or kaniko) does so in a cluster; noop refuses to.",
        },
        "destination": {"type": "string", "description": "Where built images go, without a tag."},
        "base_image": {"type": "string", "description": "What code runs in that names no image. Default: a Python."},
        "platform": {"enum": ["linux/amd64", "linux/arm64"], "description": "What images are built for."},
        "cache": {"enum": ["none", "registry"], "description": "Whether steps of builds are kept at the destination."},
        "buildx_instance": {"type": "string", "description": "docker: name of the buildx builder to use."},
        "context_limit": {"type": ["string", "integer"], "description": "The most code, as 1GiB."},
        "user": {"type": "string", "description": "Who pushes to the destination."},
        "password_file": {"type": "string", "description": "File with that user's password or token."},
        "insecure_registry": {"type": "boolean", "description": "buildkit: the destination's registry speaks HTTP."},
        "namespace": {"type": "string", "description": "buildkit: where its pods are. Default: where launches go."},
        "image": {"type": "string", "description": "buildkit: the image of rootless BuildKit."},
        "build-job-name": {"type": "string", "description": "buildkit: what the names of its Jobs begin with."},
        "secret-name": {"type": "string", "description": "buildkit: Secret with a docker configuration."},
        "secret-key": {"type": "string", "description": "buildkit: the key in there. Default: .dockerconfigjson."},
        "job-config": {"type": "object", "description": "buildkit: what its Jobs' manifests are based on."},
        "kaniko-config": {"type": "object", "description": "The same, as kaniko had it."},
        "build-context-store": {"type": "string", "description": "Of kaniko's; has no effect."},
        "kaniko-image": {"type": "string", "description": "Of kaniko's; has no effect."},
        "credentials": {"type": "object", "description": "An old key; must not differ from the registry's."},
    },
}
"""Block -> key -> JSON schema of its value."""

CLOUDS: Mapping[str, str] = {"sagemaker": "aws", "gcp-vertex": "gcp", "vertex": "gcp"}
"""Resource -> the cloud that it is a part of, as `environment.type` calls it."""

WITHOUT_BLOCKS = frozenset({"local-process"})
"""Resources that use none of these blocks."""


def uses_blocks(config: AgentConfig) -> bool:
    """Whether these blocks have a meaning for what an agent serves."""
    return not WITHOUT_BLOCKS.issuperset(config.resources)


def backend_block(config: AgentConfig, resource: str) -> JsonObject:
    """Return what a resource's backend is told: what the environment says of its cloud, and then its own block."""
    own = config.backends.get(resource, {})
    if resource not in CLOUDS or CLOUDS[resource] != config.environment.get("type"):
        return own
    known = STOCK_BLOCKS["environment"]
    return {**{key: value for key, value in config.environment.items() if key in known and key != "type"}, **own}


def block_warnings(config: AgentConfig) -> Iterator[str]:
    """Yield what is likely to be a mistake in these blocks, in sentences, without values that may be secret."""
    blocks: Mapping[str, Mapping[str, Any]] = {name: getattr(config, name) for name in STOCK_BLOCKS}
    given = [f"`{name}`" for name, block in blocks.items() if block]
    if given and not uses_blocks(config):
        served = ", ".join(config.resources) or "none"
        yield f"Without effect: {', '.join(given)}. No resource that this agent serves ({served}) uses them."
    for resource in [resource for resource in config.resources if resource in CLOUDS]:
        if not config.backends.get(resource, {}).get("secrets"):
            yield (
                f"The API key of launches on {resource} stands in plain variables of their jobs, for all to see who "
                f"may look at them. With `backends.{resource}.secrets: {{prefix: launchbay-}}` it comes by reference."
            )
    if config.registry:
        yield "`registry` is deprecated: name the repository under `builder.destination`."
    for name, block in blocks.items():
        known = STOCK_BLOCKS[name]
        for key in [key for key in block if key not in known]:
            nearest = difflib.get_close_matches(key, list(known), 1)
            hint = f"Did you mean `{name}.{nearest[0]}`?" if nearest else f"Known keys: {', '.join(known)}."
            yield f"`{name}.{key}` is not a known key, and is ignored. {hint}"
        allowed = known["type"]["enum"]
        if block and block.get("type") not in allowed:
            yield f"`{name}.type` must be one of {', '.join(allowed)}, and is {_said(block.get('type'))}."


def _said(value: Any) -> str:
    return "missing" if value is None else repr(value) if isinstance(value, str) else "something else"
