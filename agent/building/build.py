"""Build: the image of a job whose code is to be in one. Between resolve and start, where the agent's `builder` asks.

An image that exists is used as it is. Of many launches that want the same one, the first builds it, and the others
wait. What the build says is streamed to the first one's item, ahead of what its job will say. Where it is built is for
`engine.py` and `cluster.py`.
"""

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from agent import policy, report
from agent.building import names
from agent.building.context import choose
from agent.building.dockerfile import images_of
from agent.building.engine import OnEngine
from agent.building.making import Making
from agent.building.recipe import Recipe
from agent.config.builder import ClusterBuilder, DockerBuilder, any_builder
from agent.context import AgentContext
from agent.errors import LaunchFailed
from agent.images import brings_dockerfile, is_built, named_base_image, names_own_image
from agent.launch import Cause, Launch, Tell
from agent.render import macro_environment, render_resource_args
from agent.resolve import Resolved
from backends.base import Backend
from protocol.image_names import parse_image

if TYPE_CHECKING:
    from agent.building.cluster import InCluster

NOOP = "Attempted build with noop builder. Specify a builder in your launch config"


def is_wanted(context: AgentContext, backend: Backend, resolved: Resolved) -> bool:
    """Whether a launch's code is to be built into an image; `LaunchFailed` if it needs that, and nobody builds."""
    if not backend.capabilities.needs_image or resolved.image or resolved.code_folder is None:
        return False
    if resolved.base_image is None and names_own_image(resolved.resource_args, backend.capabilities.image_args):
        return False
    builder, brings_code = context.config.builder, backend.capabilities.brings_code
    if is_built(resolved.spec, resolved.job, builder, brings_code=brings_code):
        return True
    if brings_dockerfile(resolved.spec, resolved.job):
        what = "The job brings a Dockerfile"
    elif not brings_code:
        what = f"The job is code, which has to be in an image for {resolved.spec.resource}"
    else:
        return False
    is_noop = builder.get("type") == "noop"
    why = f"{NOOP}: `builder.type` is noop" if is_noop else "its configuration has no block `builder`"
    raise LaunchFailed(
        f"{what}, and this agent builds no images: {why}. With `builder: {{type: docker}}` it "
        f"builds for {resolved.spec.resource} with docker buildx, and with `type: buildkit` in a cluster.",
        stage="build",
        reason="no_builder",
    )


async def build(context: AgentContext, launch: Launch, resolved: Resolved, tell: Tell) -> Resolved:
    """Return a launch's ingredients with its code in an image, built now if need be. Raises `LaunchFailed`."""
    builder = any_builder(context.config)
    assert builder is not None
    is_elsewhere = isinstance(builder, ClusterBuilder)
    runs_here = context.backends[resolved.spec.resource].capabilities.runs_locally
    if builder.destination is None and (is_elsewhere or not runs_here):
        what = "that are built in a cluster" if is_elsewhere else f"for {resolved.spec.resource}"
        raise LaunchFailed(
            f"Images {what} have to be in a registry, and the agent's `builder` does not say in which. Whoever runs "
            "the agent can set `builder.destination`.",
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
        making = Making(context, launch, resolved, recipe, image)
        digest = await _maker(making, builder).ensure(tell)
    return _in_image(context, launch, resolved, recipe, f"{image}@{digest}" if digest else image)


def _maker(making: Making, builder: DockerBuilder | ClusterBuilder) -> "InCluster | OnEngine":
    if not isinstance(builder, ClusterBuilder):
        return OnEngine(making, builder)
    from agent.building.cluster import InCluster  # with all that knows of Kubernetes; most agents have no use for it

    return InCluster(making, builder)


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
    return replace(resolved, job=job, code_folder=None, code=None, image=image, resource_args=resource_args)


def _base_image(context: AgentContext, resolved: Resolved) -> str | None:
    """Return what a generated Dockerfile builds on, where that is said. It becomes a line of the Dockerfile."""
    image = named_base_image(resolved.job, resolved.resource_args, context.config.builder)
    if image and parse_image(image) is None:
        raise LaunchFailed(f"The base image {image!r} is no image reference.", stage="build")
    return image
