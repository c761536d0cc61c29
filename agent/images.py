"""Images: in which image a launch runs whose source is code. Pure."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from agent.config.builder import IN_CLUSTER
from protocol.errors import SpecError
from protocol.job_file import ImageJobSource, JobFile
from protocol.json_types import Json, JsonObject
from protocol.launch_spec import LaunchSpec

DEFAULT_PYTHON = "3.12"
BUILDER = "builder"
"""The part of resource args that is about the image, and no option of a platform's."""
IMAGE_MACRO = "${image_uri}"
"""Stands for the launch's image, and for itself until that is known."""
_BASE_IMAGES = (("base_image",), ("accelerator", "base_image"), ("cuda", "base_image"))


def base_image(spec: LaunchSpec, job: JobFile | None, resource_args: JsonObject, agents: Mapping[str, Any]) -> str:
    """Return the image that the code is put into: the one that is named, else a Python.

    Raises `SpecError` as `named_base_image`.
    """
    return named_base_image(job, resource_args, agents) or f"python:{python_version(spec, job)}-slim"


def named_base_image(job: JobFile | None, resource_args: JsonObject, agents: Mapping[str, Any]) -> str | None:
    """Return the base image that somebody names: the job's own, else the queue's, else the agent's.

    `agents` is the agent's block `builder`. Raises `SpecError` where one of them is no text.
    """
    named = [
        job and job.base_image,
        *(_text(resource_args, "resource arg", BUILDER, *path) for path in _BASE_IMAGES),
        _text({BUILDER: agents}, "agent's", BUILDER, "base_image"),
    ]
    return next(filter(None, named), None)


def names_own_image(resource_args: JsonObject, paths: Sequence[Sequence[str]]) -> bool:
    """Whether resource args name what runs in place of the launch's own image (`Capabilities.image_args`)."""
    for path in paths:
        value: Json = resource_args
        for key in path:
            value = _spelled_freely(value, key)
        if isinstance(value, str) and value and IMAGE_MACRO not in value:
            return True
    return False


def brings_dockerfile(spec: LaunchSpec, job: JobFile | None) -> bool:
    """Whether the launch or its job names a Dockerfile."""
    return bool(spec.overrides.dockerfile or (job and job.dockerfile))


def is_built(spec: LaunchSpec, job: JobFile | None, agents: Mapping[str, Any], *, brings_code: bool = True) -> bool:
    """Whether a job's code goes into an image that is built for it, and not into a base image as it is.

    A job with a base image of its own is made to run on that, where its backend brings code into images.
    """
    if agents.get("type") not in {"docker", *IN_CLUSTER} or job is None or isinstance(job.source, ImageJobSource):
        return False
    return brings_dockerfile(spec, job) or not job.base_image or not brings_code


def without_builder(resource_args: JsonObject) -> JsonObject:
    """Return resource args without what is about the image."""
    return {key: value for key, value in resource_args.items() if key != BUILDER}


def python_version(spec: LaunchSpec, job: JobFile | None) -> str:
    """Return the version of Python that a job wants, as `3.11`."""
    for wish in (job and job.runtime, spec.python_version):
        if match := re.search(r"\b3\.[0-9]{1,2}\b", wish or ""):
            return match[0]
    return DEFAULT_PYTHON


def _spelled_freely(block: Json, wanted: str) -> Json:
    if not isinstance(block, Mapping):
        return None
    found = (value for key, value in block.items() if key.replace("_", "").lower() == wanted.lower())
    return next(found, None)


def _text(block: Json, whose: str, *path: str) -> str | None:
    value: Json = block
    for place, key in enumerate(path):
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise SpecError(f"The {whose} `{'.'.join(path[:place])}` is {value!r}; it must be an object.")
        value = value.get(key)
    if value is None or isinstance(value, str):
        return value
    raise SpecError(f"The {whose} `{'.'.join(path)}` is {value!r}; it must be the name of an image.")
