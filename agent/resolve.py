"""Resolve: from the item's words to things that exist: the spec parsed, its job read, its code in a local folder.

Every rule of `agent/policy.py` is asked as soon as what it is about is known: nothing is fetched for a launch that is
refused.
"""

import asyncio
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import assert_never

from agent import policy
from agent.caches.artifacts import ArtifactVersion
from agent.config.builder import IN_CLUSTER
from agent.context import AgentContext
from agent.errors import LaunchFailed
from agent.fetching import hand_over
from agent.images import base_image, brings_dockerfile, is_built, names_own_image
from agent.launch import Launch, Stage, Tell
from agent.render import macro_environment, render_resource_args, render_services
from agent.sources.repositories import Commit
from backends.base import Code
from protocol.job_file import CodeArtifactSource, GitSource, ImageJobSource, JobCode, JobFile, parse_job_file
from protocol.json_types import Json, JsonObject
from protocol.launch_spec import (
    ImageSource,
    JobSource,
    LaunchSpec,
    PlaceholderSource,
    is_scheduler,
    parse_launch_spec,
)
from protocol.masking import REDACTED

JOB_FILE = "wandb-job.json"
SCHEDULER_REQUIREMENTS = "wandb[launch]\n"
"""What a sweep's scheduler needs where the agent's own environment does not have it."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """A launch's ingredients."""

    spec: LaunchSpec
    job: JobFile | None = None
    job_folder: Path | None = None
    """The job artifact's own files, among them its frozen requirements. Only for reading."""
    code_folder: Path | None = None
    """The job's code. Only for reading."""
    code: Code | None = None
    """The same where its platform fetches it."""
    begins_in: str = ""
    """Of code that its platform fetches: in which of its folders the job begins, as far as that is known."""
    commit: Commit | None = None
    """Of code from git."""
    image: str | None = None
    """What the job is, where it is an image."""
    base_image: str | None = None
    """What its code is put into, where it is code and its backend needs an image."""
    resource_args: JsonObject = field(default_factory=dict[str, Json])
    """Rendered."""

    @property
    def runs_in(self) -> str | None:
        """The image that will run, if any does."""
        return self.image or self.base_image


async def resolve(context: AgentContext, launch: Launch, tell: Tell) -> Resolved:
    """Find everything that the spec names. Raises `SpecError`, `JobFileError`, `Refused` or `LaunchFailed`."""
    spec = replace(parse_launch_spec(launch.spec), resume_count=launch.attempt - 1)
    if spec.api_key == REDACTED and launch.stage is Stage.PREPARING:
        raise LaunchFailed(
            "The agent was restarted while it prepared this launch, and does not keep the API key that came with it. "
            "Push the launch again."
        )
    match spec.source:
        case PlaceholderSource():
            allowed = await _allowed(context, launch, Resolved(spec))
            if is_scheduler(spec) and _is_fetched_there(context, allowed):
                return replace(allowed, code=hand_over.of_packages(context, SCHEDULER_REQUIREMENTS))
            return allowed
        case ImageSource(image):
            return await _allowed(context, launch, Resolved(spec, image=image))
        case JobSource(reference):
            await _allowed(context, launch, Resolved(spec))
            await tell(f"fetching job {reference}")
            version = await context.artifacts.find(reference)
            folder = await context.artifacts.fetch(version, launch)
            job = await _read_job(folder, str(reference))
            image = job.source.image if isinstance(job.source, ImageJobSource) else None
            resolved = await _allowed(context, launch, Resolved(spec, job, folder, image=image))
            if _is_fetched_there(context, resolved):
                return await _with_code_there(context, launch, resolved, (version, folder), tell)
            resolved = await _with_code(context, launch, resolved, job.source, tell)
            if _is_built_there(context, resolved):
                return await _handed_over(context, launch, resolved, (version, folder), tell)
            return resolved
        case _ as never:
            assert_never(never)


async def _allowed(context: AgentContext, launch: Launch, so_far: Resolved) -> Resolved:
    """Render what is known so far, and return it if it may run here: raises `Refused` otherwise."""
    spec, job = so_far.spec, so_far.job
    readable = macro_environment(context.process_environment, context.config.policy.macro_environment)

    def rendered(image: str | None) -> JsonObject:
        is_rendered = context.facts.is_launchbay
        return render_resource_args(spec, launch.run_id, image, is_rendered=is_rendered, environment=readable)

    resource_args = rendered(so_far.image)
    backend = context.backends.get(spec.resource)
    is_known = job is not None or isinstance(spec.source, PlaceholderSource)
    needs_one = so_far.image is None and is_known and backend is not None and backend.capabilities.needs_image
    brings_code = backend is not None and backend.capabilities.brings_code
    if backend is not None and names_own_image(resource_args, backend.capabilities.image_args):
        needs_one = False
    if needs_one and not is_built(spec, job, context.config.builder, brings_code=brings_code):
        so_far = replace(so_far, base_image=base_image(spec, job, resource_args, context.config.builder))
        resource_args = rendered(so_far.base_image)
    services = render_services(
        spec, launch.run_id, so_far.runs_in, is_rendered=context.facts.is_launchbay, environment=readable
    )
    queue_resource = context.queue_resources.get(launch.queue)
    asked = (context.config, spec, job, resource_args, so_far.runs_in, queue_resource, services)
    if spec.resource == policy.CONTAINERS:
        await asyncio.to_thread(policy.check, *asked)  # it looks where paths lead, and disks may be far away
    else:
        policy.check(*asked)
    return replace(so_far, resource_args=resource_args)


async def _with_code(context: AgentContext, launch: Launch, so_far: Resolved, source: JobCode, tell: Tell) -> Resolved:
    match source:
        case ImageJobSource():
            return so_far
        case CodeArtifactSource():
            await tell("fetching its code")
            version = await _find(context, source)
            return replace(so_far, code_folder=await context.artifacts.fetch(version, launch))
        case GitSource():
            found = await context.repositories.check_out(context.config, launch, source, so_far.job_folder, tell)
            return replace(so_far, code_folder=found.folder, commit=found)
        case _ as never:
            assert_never(never)


def _is_fetched_there(context: AgentContext, resolved: Resolved) -> bool:
    """Whether its platform fetches the code. What is built into an image has to be here."""
    spec, job = resolved.spec, resolved.job
    backend = context.backends.get(spec.resource)
    if backend is None or not backend.capabilities.fetches_code or resolved.image is not None:
        return False
    return not (is_built(spec, job, context.config.builder) or brings_dockerfile(spec, job))


def _is_built_there(context: AgentContext, resolved: Resolved) -> bool:
    """Whether its code goes into an image that is built elsewhere, and has to be fetched there as well."""
    builder, job = context.config.builder, resolved.job
    backend = context.backends.get(resolved.spec.resource)
    needs_image = backend is not None and backend.capabilities.needs_image
    return needs_image and builder.get("type") in IN_CLUSTER and is_built(resolved.spec, job, builder)


async def _handed_over(
    context: AgentContext, launch: Launch, so_far: Resolved, own: tuple[ArtifactVersion, Path], tell: Tell
) -> Resolved:
    """Add how the code that is here is fetched elsewhere: the very same, whatever a branch has come to meanwhile."""
    pinned = so_far
    if so_far.job and so_far.commit and isinstance(so_far.job.source, GitSource):
        source = replace(so_far.job.source, commit=so_far.commit.commit)
        pinned = replace(so_far, job=replace(so_far.job, source=source))
    there = await _with_code_there(context, launch, pinned, own, tell)
    return replace(so_far, code=there.code)


async def _with_code_there(
    context: AgentContext, launch: Launch, so_far: Resolved, own: tuple[ArtifactVersion, Path], tell: Tell
) -> Resolved:
    """`own` is the job's artifact, and the folder with its files."""
    spec, job = so_far.spec, so_far.job
    match job and job.source:
        case CodeArtifactSource() as source if job:
            version = await _find(context, source)
            code, begins_in = await hand_over.of_artifact(context, launch, spec, job, own, version)
            return replace(so_far, code=code, begins_in=spec.overrides.working_dir or begins_in)
        case GitSource() as source if job:
            code, commit = await hand_over.of_commit(context, launch, spec, job, own, source, tell)
            return replace(so_far, code=code, begins_in=spec.overrides.working_dir or "", commit=commit)
        case _:
            return so_far


async def _find(context: AgentContext, source: CodeArtifactSource) -> ArtifactVersion:
    if source.artifact_id:
        return await context.artifacts.by_id(source.artifact_id)
    if source.reference:
        return await context.artifacts.find(source.reference)
    raise LaunchFailed("The job names no code artifact. Make the job again.")


async def _read_job(folder: Path, reference: str) -> JobFile:
    path = folder / JOB_FILE
    try:
        raw = json.loads(await asyncio.to_thread(path.read_text, "utf-8"))
    except (OSError, ValueError) as error:
        raise LaunchFailed(
            f"The job {reference} has no readable {JOB_FILE}: {error}. Make the job again with `wandb job create`."
        ) from error
    return parse_job_file(raw)
