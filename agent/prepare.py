"""Prepare: a working folder with the code, an environment with its requirements, and a complete start request."""

import asyncio
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import cast

from agent import policy
from agent.beginning import begins_in, check_subfolder
from agent.building.build import build, is_wanted
from agent.caches.image_environments import Place
from agent.context import AgentContext
from agent.copying import copy_code
from agent.errors import LaunchFailed
from agent.images import without_builder
from agent.launch import Launch, Stage, Tell
from agent.render import macro_environment, render_services
from agent.requirements import REQUIREMENTS, Requirements, find_requirements
from agent.resolve import SCHEDULER_REQUIREMENTS, Resolved
from agent.sources.notebook import convert_notebook
from backends.base import Backend, ImageBackend, StartRequest
from protocol.command import keeps_entry_point, launch_args, launch_command, notebook_of
from protocol.container_options import read_options
from protocol.json_types import JsonObject
from protocol.launch_spec import LaunchSpec, is_scheduler
from protocol.run_environment import run_environment

GPU_VARIABLES = frozenset(
    {"CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"}
)
HARMLESS_VARIABLES = frozenset(
    {"HOME", "LANG", "LANGUAGE", "LD_LIBRARY_PATH", "LOGNAME", "PATH", "SHELL", "TMPDIR", "TZ", "USER"}
    | {"CUDA_HOME"}
    | GPU_VARIABLES
    | {"REQUESTS_CA_BUNDLE", "SSL_CERT_DIR", "SSL_CERT_FILE"}
)
"""What a job on this machine may see of the agent's environment: nothing that could be a secret."""
HARMLESS_PREFIXES = ("LC_",)
DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"
OWN_COMMANDS = Path(sys.executable).parent
"""Where the commands are that were installed beside this agent."""


def backend_for(context: AgentContext, spec: LaunchSpec) -> Backend:
    """Return the backend of the spec's resource; `LaunchFailed` if this agent does not serve it."""
    backend = context.backends.get(spec.resource)
    if backend is None or not (spec.resource in context.config.resources or policy.is_sweep_command(spec)):
        served = ", ".join(sorted(context.config.resources)) or "none"
        raise LaunchFailed(f"This agent does not serve resource {spec.resource!r}; it serves: {served}.")
    return backend


def is_container(context: AgentContext, spec: LaunchSpec) -> bool:
    """Whether the launch runs in a container on this machine."""
    capabilities = backend_for(context, spec).capabilities
    return capabilities.runs_locally and capabilities.needs_image


@dataclass(frozen=True, slots=True)
class _Ground:
    """What a launch stands on."""

    working_dir: Path | None = None
    subfolder: str = ""
    folders: Sequence[Path] = ()
    variables: Mapping[str, str] = field(default_factory=dict[str, str])
    secrets: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)


async def prepare(context: AgentContext, launch: Launch, resolved: Resolved, tell: Tell) -> StartRequest:
    """Make everything ready that the start needs. Raises `SpecError` or `LaunchFailed`."""
    spec = resolved.spec
    backend = backend_for(context, spec)
    is_built = is_wanted(context, backend, resolved)
    if is_built:
        resolved = await build(context, launch, resolved, tell)
    command = launch_command(spec, resolved.job)
    if resolved.image and not backend.capabilities.runs_images:
        raise LaunchFailed(f"Resource {spec.resource!r} cannot run the image {resolved.image!r}.")
    environment = run_environment(
        spec,
        run_id=launch.run_id,
        base_url=context.config.job_base_url or context.server.base_url,
        queue=launch.queue,
        queue_entity=context.entity,
        item_id=launch.item_id,
        image=None if is_built else resolved.image,
        max_value_chars=backend.capabilities.max_value_chars,
    )
    if resolved.commit:
        # The code comes without its repository, where the client would look for these.
        environment |= {"WANDB_GIT_REMOTE_URL": resolved.commit.remote, "WANDB_GIT_COMMIT": resolved.commit.commit}
    ground = _Ground()
    launch.use()
    if is_container(context, spec):
        ground = await _in_container(context, launch, resolved, cast(ImageBackend, backend), tell)
    elif backend.capabilities.runs_locally:
        ground = await _as_process(context, launch, resolved, tell)
    else:
        ground = _Ground(secrets=_listed(context))  # where it runs they would stand in plain sight otherwise
    return StartRequest(
        name=launch.name,
        command=() if keeps_entry_point(spec, resolved.job) else command,
        args=launch_args(spec, resolved.job),
        command_yields=not spec.overrides.entry_point,
        environment={**ground.variables, **environment},
        secrets={
            **{name: value for name, value in ground.secrets.items() if name not in environment},
            "WANDB_API_KEY": spec.api_key or context.server.api_key,
        },
        working_dir=ground.working_dir,
        subfolder=ground.subfolder or resolved.begins_in,
        folders=ground.folders,
        image=resolved.runs_in,
        code=resolved.code,
        services=_services(context, launch, resolved) if backend.capabilities.makes_services else (),
        grace_seconds=context.config.stopped_run_timeout,
        labels={
            "item": launch.item_id,
            "attempt": str(launch.attempt),
            "agent": context.identity.agent_name,
            "owner": context.owner,
            "queue": launch.queue,
            "entity": spec.entity,
            "project": spec.project,
            "run": launch.run_id,
            "uses": ",".join(launch.uses or ()) if backend.capabilities.runs_locally else "",
        },
        resource_args=without_builder(resolved.resource_args),
    )


async def _as_process(context: AgentContext, launch: Launch, resolved: Resolved, tell: Tell) -> _Ground:
    folder = context.folder_of(launch.name)
    subfolder, requirements = await asyncio.to_thread(_fill_working_folder, folder, launch, resolved)
    if requirements:
        await asyncio.to_thread(policy.check_requirements, context.config.policy, requirements, on_this_machine=True)
    folders = [await context.environments.ensure(requirements, launch, tell)] if requirements else []
    base = job_base_environment(context.process_environment, context.config.job_environment)
    return _Ground(folder, subfolder, folders, _with_python(base, resolved, folders))


async def _in_container(
    context: AgentContext, launch: Launch, resolved: Resolved, backend: ImageBackend, tell: Tell
) -> _Ground:
    """Nothing of this machine's environment is meant for in there, but for what the operator lists."""
    base = {"PYTHONUNBUFFERED": "1", **_listed(context)}
    if resolved.image is not None or resolved.base_image is None:
        return _Ground(variables=base)
    folder = context.folder_of(launch.name)
    subfolder, requirements = await asyncio.to_thread(_fill_working_folder, folder, launch, resolved)
    if requirements is None:
        return _Ground(folder, subfolder, (), base)
    await asyncio.to_thread(policy.check_requirements, context.config.policy, requirements, on_this_machine=False)
    place = Place(
        backend, resolved.base_image, read_options(resolved.resource_args), context.server.base_url, context.owner
    )
    environment = await context.image_environments.ensure(place, requirements, launch, tell)
    return _Ground(folder, subfolder, environment.folders, {**base, **environment.variables})


def _listed(context: AgentContext) -> dict[str, str]:
    """Return what jobs elsewhere see of the agent's environment: what the operator lists."""
    listed = context.config.job_environment
    return {name: value for name, value in context.process_environment.items() if name in listed}


def _services(context: AgentContext, launch: Launch, resolved: Resolved) -> Sequence[JsonObject]:
    return render_services(
        resolved.spec,
        launch.run_id,
        resolved.runs_in,
        is_rendered=context.facts.is_launchbay,
        environment=macro_environment(context.process_environment, context.config.policy.macro_environment),
    )


def uses_by(labels: Mapping[str, str]) -> tuple[str, ...] | None:
    """Return the keys of the cached folders that a launch with these labels uses; None if they do not tell."""
    return tuple(key for key in labels["uses"].split(",") if key) if "uses" in labels else None


def job_base_environment(own: Mapping[str, str], more: tuple[str, ...]) -> dict[str, str]:
    """Return what a local job sees of the agent's environment: harmless variables and those the operator lists."""
    allowed = HARMLESS_VARIABLES.union(more)
    seen = {name: value for name, value in own.items() if name in allowed or name.startswith(HARMLESS_PREFIXES)}
    # A job's output goes to a file, where Python would hold back what it prints; people want to see it as it comes.
    return {"PYTHONUNBUFFERED": "1", **seen}


def _fill_working_folder(folder: Path, launch: Launch, resolved: Resolved) -> tuple[str, Requirements | None]:
    """Copy the code into a folder of the launch's own: what a job writes must not reach the cache.

    Returns in which folder of it the job begins, and its requirements, if it has any.
    """
    beginning = begins_in(resolved.spec, resolved.job, resolved.code_folder)
    # An earlier agent may have got this far already, so that the job is running in there.
    if launch.stage is not Stage.STARTING or not folder.is_dir():
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        if resolved.code_folder:
            copy_code(resolved.code_folder, folder)
            if resolved.job and (notebook := notebook_of(resolved.job)):
                convert_notebook(folder, str(PurePosixPath(beginning, notebook)))
        else:
            folder.mkdir()
    subfolder = resolved.spec.overrides.working_dir or beginning
    check_subfolder(folder, subfolder)
    if is_scheduler(resolved.spec) and not resolved.job:
        if (OWN_COMMANDS / "wandb").exists() and not resolved.runs_in:
            return subfolder, None
        (folder / REQUIREMENTS).write_text(SCHEDULER_REQUIREMENTS)
        return subfolder, Requirements(folder / REQUIREMENTS)
    job = resolved.job
    return subfolder, find_requirements(
        resolved.code_folder,
        job.build_context if job else None,
        resolved.job_folder,
        job.runtime if job else None,
    )


def _with_python(base: dict[str, str], resolved: Resolved, environments: Sequence[Path]) -> dict[str, str]:
    """Put the job's environment first on the PATH; without requirements, the Python that this agent finds itself.

    A sweep's scheduler is a command of the stock client: of the one beside this agent, or else of a fresh one.
    """
    path = base.get("PATH", DEFAULT_PATH)
    if not environments:
        is_own = is_scheduler(resolved.spec) and not resolved.job
        return {**base, "PATH": f"{OWN_COMMANDS}:{path}"} if is_own else base
    return {**base, "PATH": f"{environments[0] / 'bin'}:{path}", "VIRTUAL_ENV": str(environments[0])}
