"""What a built image is called: a repository, and a tag that is a function of everything that goes into the image."""

import hashlib
import json
import re

from agent.building.recipe import Recipe
from agent.resolve import Resolved
from protocol.launch_spec import JobSource

LOCAL_FOLDER = "launchbay"
"""Under which built images are that stay in the engine of this machine."""
TAG_DIGITS = 16
UV = "uv"


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
        **({"notebook": recipe.notebook} if recipe.notebook else {}),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:TAG_DIGITS]
