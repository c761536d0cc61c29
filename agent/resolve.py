"""Resolve: from the item's words to things that exist: the spec parsed, its job read, its code in a local folder."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import assert_never

from agent.context import AgentContext
from agent.errors import LaunchFailed
from agent.launch import Launch, Stage
from protocol.job_file import CodeArtifactSource, GitSource, ImageJobSource, JobFile, parse_job_file
from protocol.launch_spec import REDACTED, ImageSource, JobSource, LaunchSpec, PlaceholderSource, parse_launch_spec

JOB_FILE = "wandb-job.json"

Tell = Callable[[str], Awaitable[None]]
"""Tells people what a launch is waiting for."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """A launch's ingredients."""

    spec: LaunchSpec
    job: JobFile | None = None
    job_folder: Path | None = None
    """The job artifact's own files, among them its frozen requirements. Only for reading."""
    code_folder: Path | None = None
    """The job's code. Only for reading."""
    image: str | None = None


async def resolve(context: AgentContext, launch: Launch, tell: Tell) -> Resolved:
    """Find everything that the spec names. Raises `SpecError`, `JobFileError` or `LaunchFailed`."""
    spec = replace(parse_launch_spec(launch.spec), resume_count=launch.attempt - 1)
    if spec.api_key == REDACTED and launch.stage is Stage.PREPARING:
        raise LaunchFailed(
            "The agent was restarted while it prepared this launch, and does not keep the API key that came with it. "
            "Push the launch again."
        )
    match spec.source:
        case PlaceholderSource():
            return Resolved(spec)
        case ImageSource(image):
            return Resolved(spec, image=image)
        case JobSource(reference):
            await tell(f"fetching job {reference}")
            folder = await context.artifacts.fetch(await context.artifacts.find(reference))
            job = await _read_job(folder, str(reference))
            return await _with_code(context, spec, job, folder, tell)
        case _ as never:
            assert_never(never)


async def _with_code(context: AgentContext, spec: LaunchSpec, job: JobFile, folder: Path, tell: Tell) -> Resolved:
    match job.source:
        case ImageJobSource(image):
            return Resolved(spec, job, folder, image=image)
        case CodeArtifactSource(artifact_id, reference):
            await tell("fetching its code")
            if artifact_id:
                version = await context.artifacts.by_id(artifact_id)
            elif reference:
                version = await context.artifacts.find(reference)
            else:
                raise LaunchFailed("The job names no code artifact. Make the job again.")
            return Resolved(spec, job, folder, await context.artifacts.fetch(version))
        case GitSource(remote):
            raise LaunchFailed(
                f"This agent cannot fetch code from git yet ({remote}). Make the job from a folder instead: "
                "wandb job create code PATH."
            )
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
