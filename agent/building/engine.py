"""Builds on this machine: by the buildx plugin, into its engine or into a registry."""

import asyncio
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import structlog

from agent.building import credentials
from agent.building.buildx import Build, Buildx, find_buildx
from agent.building.making import Making
from agent.building.recipe import fill
from agent.config.builder import DockerBuilder
from agent.config.model import AgentConfig
from agent.errors import LaunchFailed
from agent.launch import Cause, Tell
from backends.base import BackendError, BackendUnavailable, ImageBackend
from protocol.json_types import Json, JsonObject

AGAIN_SECONDS = 2.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class OnEngine:
    """Makes one image here."""

    making: Making
    builder: DockerBuilder

    async def ensure(self, tell: Tell) -> str | None:
        """See to it that the image exists; returns its digest, if it is in a registry."""
        resource = self.making.resolved.spec.resource
        environment = engine_environment(self.making.context.config, resource, self.making.context.process_environment)
        repository = self.builder.destination
        if repository is None:
            backend = cast("ImageBackend", self.making.context.backends[resource])
            if not await _is_local(self.making.image, backend, tell):
                await self._build(environment, tell)
            return None
        tokens, now = self.making.context.tokens, self.making.context.clock()
        credential = await asyncio.to_thread(credentials.find, repository, self.builder, environment, tokens, now)
        try:
            with credentials.logged_in(repository, credential, environment) as inside:
                found = await self._buildx(inside).pushed_digest(self.making.image)
                return found or await self._build(inside, tell)
        except LaunchFailed:
            tokens.forget(repository)
            raise

    async def _build(self, environment: Mapping[str, str], tell: Tell) -> str | None:
        await tell(f"building the image {self.making.image}")
        folder = self.making.context.build_folder_of(self.making.launch.name)
        try:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)  # of an agent that was killed
            await asyncio.to_thread(fill, folder / "context", self.making.recipe, self.builder.context_limit)
            wanted = Build(
                context=folder / "context",
                metadata=folder / "metadata.json",
                image=self.making.image,
                push_to=self.builder.destination,
                platform=self.builder.platform,
                keeps_cache=self.builder.cache == "registry",
            )
            buildx = self._buildx(environment)
            digest = await self.making.heard(lambda hear: buildx.build(wanted, hear))
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        log.info("image built", image=self.making.image, digest=digest)
        return digest

    def _buildx(self, environment: Mapping[str, str]) -> Buildx:
        return Buildx(find_buildx(self.making.context.process_environment), environment, self.builder.buildx_instance)


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


def engine_environment(config: AgentConfig, resource: str, environment: Mapping[str, str]) -> Mapping[str, str]:
    """Return what builds run with: their engine is the one where launches of the resource run."""
    block: JsonObject = config.backends.get(resource, {})
    engine: Json = block.get("engine")
    return {**environment, **({"DOCKER_HOST": engine} if isinstance(engine, str) and engine else {})}
