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
from agent.context import AgentContext
from agent.errors import LaunchFailed
from agent.images import base_image, is_built
from agent.launch import Launch, Stage, Tell
from agent.render import macro_environment, render_resource_args
from agent.sources.repositories import Checkout
from protocol.job_file import CodeArtifactSource, GitSource, ImageJobSource, JobCode, JobFile, parse_job_file
from protocol.json_types import Json, JsonObject
from protocol.launch_spec import ImageSource, JobSource, LaunchSpec, PlaceholderSource, parse_launch_spec
from protocol.masking import REDACTED

JOB_FILE = "wandb-job.json"


@dataclass(frozen=True, slots=True)
class Resolved:
    """A launch's ingredients."""

    spec: LaunchSpec
    job: JobFile | None = None
    job_folder: Path | None = None
    """The job artifact's own files, among them its frozen requirements. Only for reading."""
    code_folder: Path | None = None
    """The job's code. Only for reading."""
    checkout: Checkout | None = None
    """Of code from git: which commit it is."""
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
            return await _allowed(context, launch, Resolved(spec))
        case ImageSource(image):
            return await _allowed(context, launch, Resolved(spec, image=image))
        case JobSource(reference):
            await _allowed(context, launch, Resolved(spec))
            await tell(f"fetching job {reference}")
            folder = await context.artifacts.fetch(await context.artifacts.find(reference), launch)
            job = await _read_job(folder, str(reference))
            image = job.source.image if isinstance(job.source, ImageJobSource) else None
            resolved = await _allowed(context, launch, Resolved(spec, job, folder, image=image))
            return await _with_code(context, launch, resolved, job.source, tell)
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
    if needs_one and not is_built(spec, job, context.config.builder):
        so_far = replace(so_far, base_image=base_image(spec, job, resource_args, context.config.builder))
        resource_args = rendered(so_far.base_image)
    asked = (context.config, spec, job, resource_args, so_far.runs_in, context.queue_resources.get(launch.queue))
    if spec.resource == policy.CONTAINERS:
        await asyncio.to_thread(policy.check, *asked)  # it looks where paths lead, and disks may be far away
    else:
        policy.check(*asked)
    return replace(so_far, resource_args=resource_args)


async def _with_code(context: AgentContext, launch: Launch, so_far: Resolved, source: JobCode, tell: Tell) -> Resolved:
    match source:
        case ImageJobSource():
            return so_far
        case CodeArtifactSource(artifact_id, reference):
            await tell("fetching its code")
            if artifact_id:
                version = await context.artifacts.by_id(artifact_id)
            elif reference:
                version = await context.artifacts.find(reference)
            else:
                raise LaunchFailed("The job names no code artifact. Make the job again.")
            return replace(so_far, code_folder=await context.artifacts.fetch(version, launch))
        case GitSource():
            found = await context.repositories.check_out(context.config, launch, source, so_far.job_folder, tell)
            return replace(so_far, code_folder=found.folder, checkout=found)
        case _ as never:
            assert_never(never)


async def _read_job(folder: Path, reference: str) -> JobFile:
    path = folder / JOB_FILE
    try:
        raw = json.loads(await asyncio.to_thread(path.read_text, "utf-8"))
    except (OSError, ValueError) as error:
        raise LaunchFailed(
            f"The job {reference} has no readable {JOB_FILE}: {error}. Make the job again with `wandb job create`."
        ) from error
    return parse_job_file(raw)
