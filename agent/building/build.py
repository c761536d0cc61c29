"""Build: the image of a job whose code is to be in one. Between resolve and start, where the agent's `builder` asks.

An image that exists is used as it is. Of many launches that want the same one, the first builds it, and the others
wait. What the build says is streamed to the first one's item, ahead of what its job will say.
"""

import asyncio
import shutil
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, replace
from typing import cast

import structlog

from agent import policy, report
from agent.building import credentials, names
from agent.building.buildx import Build, Buildx, find_buildx
from agent.building.context import Recipe, choose, fill
from agent.building.dockerfile import images_of
from agent.config.builder import DockerBuilder, docker_builder
from agent.config.model import AgentConfig
from agent.context import AgentContext
from agent.errors import ControlPlaneRefused, LaunchFailed
from agent.images import brings_dockerfile, is_built, named_base_image
from agent.launch import Cause, Launch, Tell
from agent.redaction import SECRETS
from agent.render import macro_environment, render_resource_args
from agent.resolve import Resolved
from backends.base import Backend, BackendError, BackendUnavailable, ImageBackend, LogChunk
from protocol.image_names import parse_image
from protocol.json_types import Json, JsonObject

LOG_PAUSE_SECONDS = 0.3
AGAIN_SECONDS = 2.0
NOOP = "Attempted build with noop builder. Specify a builder in your launch config"

log = structlog.get_logger(__name__)


def is_wanted(context: AgentContext, backend: Backend, resolved: Resolved) -> bool:
    """Whether a launch's code is to be built into an image; `LaunchFailed` if it needs that, and nobody builds."""
    if not backend.capabilities.needs_image or resolved.image or resolved.code_folder is None:
        return False
    builder = context.config.builder
    if is_built(resolved.spec, resolved.job, builder):
        return True
    if not brings_dockerfile(resolved.spec, resolved.job):
        return False
    why = {
        "kaniko": "`builder.type` is kaniko, which builds in Kubernetes",
        "noop": f"{NOOP}: `builder.type` is noop",
    }.get(str(builder.get("type")), "its configuration has no block `builder`")
    raise LaunchFailed(
        f"The job brings a Dockerfile, and this agent builds no images: {why}. With `builder: {{type: docker}}` it "
        f"builds for {resolved.spec.resource} with docker buildx.",
        stage="build",
        reason="no_builder",
    )


async def build(context: AgentContext, launch: Launch, resolved: Resolved, tell: Tell) -> Resolved:
    """Return a launch's ingredients with its code in an image, built now if need be. Raises `LaunchFailed`."""
    builder = docker_builder(context.config)
    assert builder is not None
    if builder.destination is None and not context.backends[resolved.spec.resource].capabilities.runs_locally:
        raise LaunchFailed(
            f"Images for {resolved.spec.resource} have to be in a registry, and the agent's `builder` does not say in "
            "which. Whoever runs the agent can set `builder.destination`.",
            stage="build",
            reason="no_destination",
            cause=Cause.INFRASTRUCTURE,
        )
    if context.facts.is_launchbay:
        # An agent that was killed may have sent the output of a build, which the journal does not know.
        launch.log_base = max(launch.log_base, await report.log_size(context, launch))
    recipe = await asyncio.to_thread(choose, resolved, _base_image(context, resolved))
    if context.config.policy.images is not None:
        policy.check_images(context.config.policy, images_of(recipe.dockerfile))
    if recipe.requirements:
        await asyncio.to_thread(
            policy.check_requirements, context.config.policy, recipe.requirements, on_this_machine=False
        )
    tag = await asyncio.to_thread(names.tag, resolved, recipe, builder.platform)
    image = f"{builder.destination or names.local_repository(resolved)}:{tag}"
    if context.builds.is_busy(image):
        await tell(f"waiting for the build of {image}")
    async with context.builds.alone(image):
        maker = _Maker(context, launch, resolved, builder, recipe, image)
        digest = await maker.ensure(tell)
    return _in_image(context, launch, resolved, recipe, f"{image}@{digest}" if digest else image)


def _in_image(context: AgentContext, launch: Launch, resolved: Resolved, recipe: Recipe, image: str) -> Resolved:
    job = resolved.job
    if job and recipe.command:
        job = replace(job, entry_point=recipe.command)
    # The macro `${image_uri}` had no value before.
    resource_args = render_resource_args(
        resolved.spec,
        launch.run_id,
        image,
        is_rendered=context.facts.is_launchbay,
        environment=macro_environment(context.process_environment, context.config.policy.macro_environment),
    )
    return replace(resolved, job=job, code_folder=None, image=image, resource_args=resource_args)


@dataclass(frozen=True, slots=True)
class _Maker:
    """One image, for one launch."""

    context: AgentContext
    launch: Launch
    resolved: Resolved
    builder: DockerBuilder
    recipe: Recipe
    image: str

    async def ensure(self, tell: Tell) -> str | None:
        """See to it that the image exists; returns its digest, if it is in a registry."""
        resource = self.resolved.spec.resource
        environment = engine_environment(self.context.config, resource, self.context.process_environment)
        repository = self.builder.destination
        if repository is None:
            backend = cast("ImageBackend", self.context.backends[resource])
            if not await _is_local(self.image, backend, tell):
                await self._build(environment, tell)
            return None
        tokens, now = self.context.tokens, self.context.clock()
        credential = await asyncio.to_thread(credentials.find, repository, self.builder, environment, tokens, now)
        try:
            with credentials.logged_in(repository, credential, environment) as inside:
                found = await self._buildx(inside).pushed_digest(self.image)
                return found or await self._build(inside, tell)
        except LaunchFailed:
            tokens.forget(repository)
            raise

    async def _build(self, environment: Mapping[str, str], tell: Tell) -> str | None:
        await tell(f"building the image {self.image}")
        folder = self.context.build_folder_of(self.launch.name)
        try:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)  # of an agent that was killed
            await asyncio.to_thread(fill, folder / "context", self.recipe, self.builder.context_limit)
            wanted = Build(
                context=folder / "context",
                metadata=folder / "metadata.json",
                image=self.image,
                push_to=self.builder.destination,
                platform=self.builder.platform,
                keeps_cache=self.builder.cache == "registry",
            )
            digest = await self._run(self._buildx(environment), wanted)
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        log.info("image built", image=self.image, digest=digest)
        return digest

    async def _run(self, buildx: Buildx, wanted: Build) -> str | None:
        said = _Said()
        sending = asyncio.create_task(_send(self.context, self.launch, said))
        try:
            digest = await buildx.build(wanted, said.write)
            said.close()
            await sending  # all of it, as what the job will say comes after it
        except LaunchFailed as error:
            said.close()
            error.log = SECRETS.data(bytes(said.data))
            raise
        finally:
            sending.cancel()
            await asyncio.wait([sending])
        self.launch.log_base, self.launch.log_offset = self.launch.log_base + self.launch.log_offset, 0
        return digest

    def _buildx(self, environment: Mapping[str, str]) -> Buildx:
        return Buildx(find_buildx(self.context.process_environment), environment, self.builder.buildx_instance)


class _Said:
    """What a build has said so far."""

    def __init__(self) -> None:
        self.data = bytearray()
        self._news = asyncio.Event()
        self._is_over = False

    def write(self, data: bytes) -> None:
        """Add to it."""
        self.data += data
        self._news.set()

    def close(self) -> None:
        """No more will come."""
        self._is_over = True
        self._news.set()

    async def chunks(self) -> AsyncGenerator[LogChunk]:
        """Yield it as it comes, until it is over."""
        sent = 0
        while True:
            await self._news.wait()
            self._news.clear()
            is_over = self._is_over
            if new := bytes(self.data[sent:]):
                yield LogChunk(sent, new)
                sent += len(new)
            if is_over:
                return
            await asyncio.sleep(LOG_PAUSE_SECONDS)


async def _send(context: AgentContext, launch: Launch, said: _Said) -> None:
    if not context.facts.is_launchbay:
        return
    try:
        async for chunk in SECRETS.chunks(said.chunks()):
            await report.send_log(context, launch, chunk.offset, chunk.data)
    except ControlPlaneRefused as error:
        log.warning("the server does not take the output of the build", error=str(error))


async def _is_local(image: str, backend: ImageBackend, tell: Tell) -> bool:
    """Whether the engine has an image. One that is away is waited for."""
    told = ""
    while True:
        try:
            return await backend.has_image(image)
        except BackendUnavailable as error:
            if str(error) != told:
                told = str(error)
                await tell(f"waiting: {error}")
            await asyncio.sleep(AGAIN_SECONDS)
        except BackendError as error:
            raise LaunchFailed(
                f"The container engine does not say whether it has the image {image}: {error}",
                stage="build",
                reason="builder",
                cause=Cause.INFRASTRUCTURE,
            ) from error


def _base_image(context: AgentContext, resolved: Resolved) -> str | None:
    """Return what a generated Dockerfile builds on, where that is said. It becomes a line of the Dockerfile."""
    image = named_base_image(resolved.job, resolved.resource_args, context.config.builder)
    if image and parse_image(image) is None:
        raise LaunchFailed(f"The base image {image!r} is no image reference.", stage="build")
    return image


def engine_environment(config: AgentConfig, resource: str, environment: Mapping[str, str]) -> Mapping[str, str]:
    """Return what builds run with: their engine is the one where launches of the resource run."""
    block: JsonObject = config.backends.get(resource, {})
    engine: Json = block.get("engine")
    return {**environment, **({"DOCKER_HOST": engine} if isinstance(engine, str) and engine else {})}
