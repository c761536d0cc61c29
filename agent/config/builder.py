"""The block `builder` as the agent understands it: what it is told about building images, here or in a cluster."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from agent.config.forms import SIZE_FORM, parse_size
from agent.config.model import AgentConfig, Block
from agent.errors import ConfigError
from protocol.image_names import parse_image, split_registry
from protocol.json_types import dig

ARTIFACT_REGISTRY = re.compile(r"[a-z0-9-]+-docker\.pkg\.dev")

_REGISTRY_PARTS = {
    "ecr": ("{}.dkr.ecr.{}.amazonaws.com/{}", ("account_id", "region", "repo_name")),
    "gcr": ("{}-docker.pkg.dev/{}/{}/{}", ("region", "project", "repository", "image-name")),
}
"""By its type, how a destination is put together of the keys of the old block `registry`."""
IN_CLUSTER = frozenset({"buildkit", "kaniko"})
"""Types of builders that build in a cluster."""
BUILDKIT = "moby/buildkit:v0.33.1-rootless"
DOCKER_CONFIG_KEY = ".dockerconfigjson"
"""As Kubernetes has it in Secrets of the type for it."""
AWS_FILE = "credentials"
"""What people call a file of AWS's in a Secret that kaniko was given."""
NAMESPACE = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
SENTENCE = "sentence"
"""The type of an error whose text is a whole sentence."""


def _repository(value: str) -> str:
    value = value.removeprefix("https://").rstrip("/")  # as the stock agent takes it
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
    if ARTIFACT_REGISTRY.fullmatch(name.registry) and name.path.count("/") < 2:
        raise PydanticCustomError(
            SENTENCE,
            "An image name must be specified in the URI for a GCP Artifact Registry. Please provide a uri with the "
            "format 'https://<region>-docker.pkg.dev/<project>/<repository>/<image>'.",
        )
    return value


def _size(value: object) -> int:
    try:
        return parse_size(value)
    except ValueError as error:
        raise ValueError(SIZE_FORM) from error


class Builder(BaseModel):
    """What is said of every kind of build."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    destination: Annotated[str, AfterValidator(_repository)] | None = None
    """Where built images are pushed."""
    platform: Literal["linux/amd64", "linux/arm64"] | None = None
    """None: that of the machine that builds."""
    context_limit: Annotated[int, BeforeValidator(_size)] = 2**30
    """How much code an image may be built of, in bytes."""
    user: str | None = Field(default=None, min_length=1)
    password_file: Path | None = None
    """Who pushes, where neither docker's own configuration nor the cloud knows it."""

    @model_validator(mode="after")
    def _fits_together(self) -> "Builder":
        if (self.user is None) != (self.password_file is None):
            raise PydanticCustomError(SENTENCE, "`user` and `password_file` belong together: give both or neither.")
        return self


class DockerBuilder(Builder):
    """`type: docker`: images are built with BuildKit, by the `docker buildx` plugin beside the agent.

    Without a destination they stay in the engine of this machine.
    """

    type: Literal["docker"]
    cache: Literal["none", "registry"] = "none"
    """Whether steps of builds are kept beside the images, for other machines."""
    buildx_instance: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the buildx builder; None: the current one."""


class ClusterBuilder(Builder):
    """`type: buildkit`, which may be called `kaniko`: images are built with BuildKit, in pods of a cluster."""

    type: Literal["buildkit", "kaniko"]
    cache: Literal["none", "registry"] = "registry"
    """The same. Pods keep nothing themselves."""
    insecure_registry: bool = False
    """Whether the registry of the destination speaks HTTP."""
    namespace: str = Field(default="", pattern=rf"^({NAMESPACE})?$")
    """Where the pods are; empty: where launches of the agent go."""
    image: str = BUILDKIT
    """That of rootless BuildKit."""
    job_name: str = Field(default="launchbay", validation_alias="build-job-name", min_length=1)
    """What the names of its Jobs begin with."""
    secret_name: str | None = Field(default=None, validation_alias="secret-name", min_length=1)
    """A Secret of that namespace with a docker configuration, which has logins at registries."""
    secret_key: str = Field(default=DOCKER_CONFIG_KEY, validation_alias="secret-key", min_length=1)
    """Its place in there."""
    job_config: dict[str, Any] = Field(
        default_factory=dict[str, Any], validation_alias=AliasChoices("job-config", "kaniko-config")
    )
    """What its Jobs' manifests are based on."""


class _DockerBlock(Block):
    builder: DockerBuilder


class _ClusterBlock(Block):
    builder: ClusterBuilder


AnyBuilder = TypeVar("AnyBuilder", DockerBuilder, ClusterBuilder)


def docker_builder(config: AgentConfig) -> DockerBuilder | None:
    """Return what to build images with on this machine, or None if that is not asked for.

    Raises `ConfigError` or pydantic's `ValidationError`; not for a configuration that was loaded from a file.
    """
    if config.builder.get("type") != "docker":
        return None
    return _with_destination(config, _DockerBlock.model_validate({"builder": config.builder}).builder)


def cluster_builder(config: AgentConfig) -> ClusterBuilder | None:
    """Return what to build images with in a cluster, or None if that is not asked for. Raises as `docker_builder`."""
    if config.builder.get("type") not in IN_CLUSTER:
        return None
    return _with_destination(config, _ClusterBlock.model_validate({"builder": config.builder}).builder)


def any_builder(config: AgentConfig) -> DockerBuilder | ClusterBuilder | None:
    """Return what to build images with, wherever that is. Raises as `docker_builder`."""
    return docker_builder(config) or cluster_builder(config)


def builder_warnings(config: AgentConfig) -> Iterator[str]:
    """Yield what of a block for builds in a cluster has no effect, or not the one that it had with kaniko itself."""
    builder, block = cluster_builder(config), config.builder
    if builder is None:
        return
    kind = f"with `builder.type: {builder.type}`"
    if builder.destination is None:
        yield f"`builder.destination` is missing: {kind} nothing can be built, as images have to be in a registry."
    if "build-context-store" in block:
        yield f"`builder.build-context-store` has no effect: {kind} the pod that builds fetches the code itself."
    if "kaniko-image" in block:
        yield f"`builder.kaniko-image` has no effect: {kind} BuildKit builds. `builder.image` names its image."
    if "buildx_instance" in block:
        yield f"`builder.buildx_instance` has no effect {kind}."
    if "secret-key" in block and "secret-name" not in block:
        yield "`builder.secret-key` has no effect without `builder.secret-name`."
    if builder.secret_name and builder.secret_key == AWS_FILE:
        yield (
            "`builder.secret-name` must be a Secret with a docker configuration (type kubernetes.io/dockerconfigjson), "
            "and not one with a cloud's credentials. For the registries of clouds leave it out: the agent asks them."
        )
    if builder.secret_name and builder.user:
        yield "`builder.user` has no effect: the login is that of `builder.secret-name`."
    if _arguments(builder.job_config):
        yield "`args` in `builder.job-config` (or kaniko-config) has no effect: those were for kaniko's program."


def _arguments(job: Mapping[str, Any]) -> bool:
    containers: Any = dig(job, "spec", "template", "spec", "containers")
    return isinstance(containers, list) and any(dig(each, "args") for each in containers)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]


def _with_destination(config: AgentConfig, builder: AnyBuilder) -> AnyBuilder:
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
    try:
        return _repository(str(uri))
    except ValueError as error:
        raise ConfigError("`registry.uri` must be an image repository without a tag.") from error
