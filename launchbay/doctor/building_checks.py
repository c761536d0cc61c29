"""Checks of what builds images: the buildx plugin with its builder, a cluster, and the registry for built images."""

import asyncio
import time
from collections.abc import Mapping

from agent.building import credentials
from agent.building.buildx import BuilderFacts, Buildx, find_buildx
from agent.building.cluster import find_login, site
from agent.building.engine import engine_environment
from agent.building.registry import pushed_digest
from agent.config.builder import DockerBuilder, cluster_builder, docker_builder
from agent.errors import LaunchFailed
from backends.kubernetes.builds import RIGHTS
from launchbay.doctor.checks import Finding, Surroundings, absent, broken, ok, skipped, warning

CONTAINERS = "local-container"
PROBE_TAG = "launchbay-doctor"
"""A tag that no image has: the answer tells whether one may ask."""
OWN_BUILDER = "docker buildx create --name launchbay --driver docker-container"


async def buildx(around: Surroundings) -> Finding:
    """Whether the plugin that builds images is there, and the builder that it would use."""
    try:
        program = await asyncio.to_thread(find_buildx, around.environment)
    except LaunchFailed:
        return absent(
            "there is no docker-buildx", "Install Docker's buildx plugin, or leave the block `builder` out of the file."
        )
    settings = docker_builder(around.config)
    if settings is None:
        return ok(f"the plugin is at {program}; this configuration builds no images")
    try:
        facts = await Buildx(program, _environment(around), settings.buildx_instance).inspect()
    except LaunchFailed as error:
        return broken(str(error), "See: docker buildx ls. `builder.buildx_instance` names one of these.")
    return _judged(facts, settings, str(program))


def _judged(facts: BuilderFacts, settings: DockerBuilder, program: str) -> Finding:
    what = f"builder {facts.name!r}"
    if facts.error:
        return broken(f"{what} cannot be used: {facts.error}", "See: docker buildx inspect, and that its engine runs.")
    if facts.driver == "remote" and facts.status != "running":
        return broken(f"{what} does not answer", "See that its BuildKit runs: docker buildx inspect tells where.")
    if settings.cache == "registry" and settings.destination is None:
        return warning("`builder.cache` has no effect", "It is kept at `builder.destination`: name one.")
    if settings.cache == "registry" and facts.driver == "docker":
        return warning(
            f"{what} is the engine's own, and builds fail with `builder.cache: registry` unless that keeps its images "
            "in containerd's store",
            f"Make another one and name it in `builder.buildx_instance`: {OWN_BUILDER}",
        )
    return ok(f"{what} ({facts.driver}), by {program}")


async def registry(around: Surroundings) -> Finding:
    """Whether the registry answers, and takes the login. Whether it takes images is only told by a push."""
    settings = docker_builder(around.config)
    if settings is None:
        return skipped("this configuration builds no images on this machine")
    repository = settings.destination
    if repository is None:
        return skipped("images stay in the engine: `builder.destination` is not set")
    environment = _environment(around)
    fresh, now = credentials.Tokens(around.config.environment), time.time()
    credential = await asyncio.to_thread(credentials.find, repository, settings, environment, fresh, now)
    with credentials.logged_in(repository, credential, environment) as inside:
        await Buildx(find_buildx(around.environment), inside, settings.buildx_instance).pushed_digest(
            f"{repository}:{PROBE_TAG}"
        )
    who = f"takes {credential.user!r}" if credential else "may be asked"
    return ok(f"the registry of {repository} answers and {who}; only a push tells whether it takes images")


async def in_cluster(around: Surroundings) -> Finding:
    """Whether images can be built in the cluster, as far as that is told without building one."""
    settings = cluster_builder(around.config)
    if settings is None:
        return skipped("this configuration builds no images in a cluster")
    repository = settings.destination
    if repository is None:
        return broken("it is not said where built images go", "Set `builder.destination`.")
    async with site(around.config, settings) as where:
        lacking = [
            f"{verb} {kind.plural}{subresource and '/' + subresource}"
            for verb, kind, subresource in RIGHTS
            if not await where.api.may(verb, kind, where.namespace, subresource=subresource)
        ]
        if lacking:
            return broken(
                f"in namespace {where.namespace} of the cluster the agent may not {', '.join(lacking)}",
                "Give it a Role there: docs/kubernetes.md has it, and `builds.enabled` of the chart makes it.",
            )
        fresh, now = credentials.Tokens(), time.time()
        login = await find_login(where, repository, settings, around.environment, fresh, now)
    with login.kept_secret():
        image = f"{repository}:{PROBE_TAG}"
        await pushed_digest(image, login.credential, is_insecure=settings.insecure_registry)
    return ok(
        f"namespace {where.namespace} lets the agent build, and the registry of {repository} answers; only a build "
        "tells whether it takes images, and whether nodes run BuildKit without root"
    )


def _environment(around: Surroundings) -> Mapping[str, str]:
    return engine_environment(around.config, CONTAINERS, around.environment)
