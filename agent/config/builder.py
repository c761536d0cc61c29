"""The block `builder` as the agent itself understands it: what it is told about building images on its own machine.

`kaniko` builds in a cluster, and its keys are read there.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from agent.config.forms import SIZE_FORM, parse_size
from agent.config.model import AgentConfig, Block
from agent.errors import ConfigError
from protocol.image_names import parse_image, split_registry

_REGISTRY_PARTS = {
    "ecr": ("{}.dkr.ecr.{}.amazonaws.com/{}", ("account_id", "region", "repo_name")),
    "gcr": ("{}-docker.pkg.dev/{}/{}/{}", ("region", "project", "repository", "image-name")),
}
"""By its type, how a destination is put together of the keys of the old block `registry`."""
SENTENCE = "sentence"
"""The type of an error whose text is a whole sentence."""


def _repository(value: str) -> str:
    tag = split_registry(value)[1].partition("@")[0].partition(":")[2]
    if tag:
        raise PydanticCustomError(
            SENTENCE,
            "Destination for built images may not include a tag, but the URI provided includes the suffix '{tag}'. "
            "Please remove the tag and try again. The agent will automatically tag each image with a unique hash of "
            "the source code.",
            {"tag": tag},
        )
    name = parse_image(value)
    if name is None or name.digest:
        raise ValueError("an image repository without a tag, as registry.example/team/jobs")
    return value


def _size(value: object) -> int:
    try:
        return parse_size(value)
    except ValueError as error:
        raise ValueError(SIZE_FORM) from error


class DockerBuilder(BaseModel):
    """`type: docker`: images are built with BuildKit, by the `docker buildx` plugin beside the agent."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    type: Literal["docker"]
    destination: Annotated[str, AfterValidator(_repository)] | None = None
    """Where built images are pushed; None: they stay in the engine of this machine."""
    platform: Literal["linux/amd64", "linux/arm64"] | None = None
    """None: that of the engine."""
    cache: Literal["none", "registry"] = "none"
    """Whether steps of builds are kept beside the images, for other machines."""
    buildx_instance: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the buildx builder; None: the current one."""
    context_limit: Annotated[int, BeforeValidator(_size)] = 2**30
    """How much code an image may be built of, in bytes."""
    user: str | None = Field(default=None, min_length=1)
    password_file: Path | None = None
    """Who pushes, where neither docker's own configuration nor the cloud knows it."""

    @model_validator(mode="after")
    def _fits_together(self) -> "DockerBuilder":
        if (self.user is None) != (self.password_file is None):
            raise PydanticCustomError(SENTENCE, "`user` and `password_file` belong together: give both or neither.")
        return self


class _Blocks(Block):
    builder: DockerBuilder


def docker_builder(config: AgentConfig) -> DockerBuilder | None:
    """Return what to build images with, or None if that is not asked for.

    Raises `ConfigError` or pydantic's `ValidationError`; not for a configuration that was loaded from a file.
    """
    if config.builder.get("type") != "docker":
        return None
    builder = _Blocks.model_validate({"builder": config.builder}).builder
    if builder.destination or not config.registry:
        return builder
    return builder.model_copy(update={"destination": _registry_destination(config.registry)})


def _registry_destination(block: Mapping[str, Any]) -> str:
    """Return where built images go by the old block `registry`."""
    uri = block.get("uri")
    if not uri:
        form, keys = _REGISTRY_PARTS.get(block.get("type", ""), ("", ("uri",)))
        missing = [f"`registry.{key}`" for key in keys if not block.get(key)]
        if missing:
            raise ConfigError(f"It is not said where built images go: {', '.join(missing)} missing.")
        uri = form.format(*(block[key] for key in keys))
    destination = str(uri).removeprefix("https://").rstrip("/")
    try:
        return _repository(destination)
    except ValueError as error:
        raise ConfigError("`registry.uri` must be an image repository without a tag.") from error
