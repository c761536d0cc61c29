"""What a built image is called: a repository, and a tag that is a function of everything that goes into the image."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from agent.building.context import Recipe
from agent.config.model import AgentConfig
from agent.errors import ConfigError
from agent.resolve import Resolved
from protocol.image_names import parse_image
from protocol.launch_spec import JobSource

LOCAL_FOLDER = "launchbay"
"""Under which built images are that stay in the engine of this machine."""
TAG_DIGITS = 16
UV = "uv"


def repository(config: AgentConfig, destination: str | None) -> str | None:
    """Return where built images are pushed: the builder's destination, or what the old `registry` block says.

    None: nowhere. Raises `ConfigError` if the block does not say enough.
    """
    if destination or not config.registry:
        return destination
    block: Mapping[str, Any] = config.registry
    uri = block.get("uri")
    if not uri:
        form, keys = {
            "ecr": ("{}.dkr.ecr.{}.amazonaws.com/{}", ("account_id", "region", "repo_name")),
            "gcr": ("{}-docker.pkg.dev/{}/{}/{}", ("region", "project", "repository", "image-name")),
        }.get(block.get("type", ""), ("", ("uri",)))
        missing = [f"`registry.{key}`" for key in keys if not block.get(key)]
        if missing:
            raise ConfigError(f"The agent does not know where built images go: {', '.join(missing)} missing.")
        uri = form.format(*(block[key] for key in keys))
    repository = str(uri).removeprefix("https://").rstrip("/")
    name = parse_image(repository)
    if name is None or name.digest or ":" in repository.rpartition("/")[2]:
        raise ConfigError("`registry.uri` must be an image repository without a tag.")
    return repository


def local_repository(resolved: Resolved) -> str:
    """Return the repository, in the engine of this machine, of the images of a job."""
    source = resolved.spec.source
    name = source.reference.collection if isinstance(source, JobSource) else "job"
    return f"{LOCAL_FOLDER}/{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-') or 'job'}"


def tag(resolved: Resolved, recipe: Recipe, platform: str | None) -> str:
    """Return the tag of the image of a recipe: the same for the same content, on every machine.

    The code is told by its folder in the cache, which is named after its content. Blocks: it reads what else goes in.
    """
    assert resolved.code_folder is not None
    content = {
        "code": resolved.code_folder.name,
        "folder": recipe.code.relative_to(resolved.code_folder).as_posix(),
        "dockerfile": recipe.dockerfile,
        # The installer is not part of what it makes: another version of it is no reason to build again.
        "more": {
            name: hashlib.sha256(file.read_bytes()).hexdigest()
            for name, file in sorted(recipe.more.items())
            if name != UV
        },
        "platform": platform,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:TAG_DIGITS]
