"""Hands a launch's code over to its platform: what to fetch and what that takes, found out without fetching it.

Of the code itself the agent sees its manifest, or which commit it is. What the platform is given: for an artifact the
launch's own API key, which the job has anyway; for git the token or key that `git.hosts` has for the remote's host
alone, or for all hosts where submodules are fetched, whose hosts are not known yet. The job itself sees none of those.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from agent.addresses import is_loopback
from agent.beginning import beginning, program_of
from agent.caches.artifacts import ArtifactVersion
from agent.caches.image_environments import installer_variables
from agent.config.model import AgentConfig
from agent.context import AgentContext
from agent.errors import LaunchFailed
from agent.fetching.source import (
    GIT_KEY,
    GIT_REMOTE,
    GIT_TOKEN,
    KNOWN_HOSTS,
    CodeSource,
    GitCode,
    ImageContext,
    Version,
    config_block,
    read,
    written,
)
from agent.launch import Cause, Launch, Tell
from agent.policy import check_git_remote
from agent.proxies import PROXY_VARIABLES
from agent.requirements import has_frozen, may_have_requirements
from agent.sources.git_remote import GitRemote
from agent.sources.repositories import Commit, has_patch, token_of
from backends.base import Code
from protocol.command import notebook_of
from protocol.job_file import GitSource, JobFile
from protocol.json_types import JsonObject
from protocol.launch_spec import LaunchSpec
from protocol.masking import without_passwords

MOST_KNOWN_HOSTS = 64 * 1024
"""Bytes; a variable may have twice as many."""


async def of_artifact(
    context: AgentContext,
    launch: Launch,
    spec: LaunchSpec,
    job: JobFile,
    own: tuple[ArtifactVersion, Path],
    version: ArtifactVersion,
) -> tuple[Code, str]:
    """Return the code of a job that is an artifact, and in which folder of it the job begins.

    `own` is the job's artifact, and the folder with its files.
    """
    files = await context.artifacts.files(version, launch)
    folder, sizes = own[1], {file.path: file.size for file in files}
    source = replace(
        _source(spec, job),
        code=Version(version.id, version.digest),
        job=_version(own[0]) if await asyncio.to_thread(has_frozen, folder) else None,
        config=config_block(context.config),
    )
    has_requirements = await asyncio.to_thread(may_have_requirements, sizes, job.build_context, folder)
    folders = {parent for path in sizes for parent in path.parents}
    begins_in = beginning(
        job.build_context,
        source.program,
        lambda path: PurePosixPath(path) in sizes,
        lambda path: PurePosixPath(path) in folders,
    )
    return _code(context, source, _Given(), has_requirements=has_requirements), begins_in


async def of_commit(
    context: AgentContext,
    launch: Launch,
    spec: LaunchSpec,
    job: JobFile,
    own: tuple[ArtifactVersion, Path],
    git: GitSource,
    tell: Tell,
) -> tuple[Code, Commit]:
    """Return the code of a job from git, and which commit that is. Raises as `Repositories.look_up`.

    Whether it wants packages, and where it begins, only the commit itself tells.
    """
    found = await context.repositories.look_up(context.config, launch, git, tell)
    given, hosts, keys = await asyncio.to_thread(_given_for, context, git)
    folder = own[1]
    needs_job = await asyncio.to_thread(lambda: has_frozen(folder) or has_patch(folder))
    source = replace(
        _source(spec, job),
        code=GitCode(found.remote, found.commit, keys),
        job=_version(own[0]) if needs_job else None,
        config=config_block(context.config, hosts),
    )
    return _code(context, source, given, has_requirements=True), found


def of_packages(context: AgentContext, packages: str) -> Code:
    """Return what installs packages where there is no code."""
    return _code(context, CodeSource(packages=packages), _Given(), has_requirements=True)


def for_image(code: Code, image: ImageContext) -> Code:
    """Return code that is to become what an image is built of."""
    source = replace(read(code.source), notebook="", build_context="", program="", subfolder="", image=image)
    return replace(code, source=written(source), has_requirements=False)


@dataclass(slots=True)
class _Given:
    """Variables of the command that fetches."""

    environment: dict[str, str] = field(default_factory=dict[str, str])
    secrets: dict[str, str] = field(default_factory=dict[str, str], repr=False)


def _source(spec: LaunchSpec, job: JobFile) -> CodeSource:
    return CodeSource(
        notebook=notebook_of(job) or "",
        build_context=job.build_context or "",
        program=program_of(spec, job) if job.build_context else "",
        subfolder=spec.overrides.working_dir or "",
    )


def _code(context: AgentContext, source: CodeSource, given: _Given, *, has_requirements: bool) -> Code:
    """Add how to get out of here, and where packages come from: what the agent itself goes by."""
    for name, value in installer_variables(context.process_environment, brings_files=False).items():
        if name in PROXY_VARIABLES and is_loopback(value):
            continue
        # What names an index or a proxy may have a password in it.
        is_secret = name not in PROXY_VARIABLES or without_passwords(value) != value
        (given.secrets if is_secret else given.environment)[name] = value
    return Code(written(source), given.environment, given.secrets, has_requirements=has_requirements)


def _given_for(context: AgentContext, git: GitSource) -> tuple[_Given, Mapping[str, JsonObject], Mapping[str, str]]:
    """Return what fetching a repository takes: variables, hosts by their names, and by them variables with keys."""
    config, given = context.config, _Given()
    remote = check_git_remote(config.policy, git.remote)
    if remote.transport != "ssh" and (remote.user or remote.password):
        given.secrets[GIT_REMOTE] = git.remote
    hosts: dict[str, JsonObject] = {}
    keys: dict[str, str] = {}
    for number, name in enumerate(_hosts(config, remote)):
        host = config.git.host(name)
        if token := token_of(host, name, context.process_environment):
            given.secrets[f"{GIT_TOKEN}{number}"] = token
            hosts[name] = {"user": host.user, "token_env": f"{GIT_TOKEN}{number}"}
        if host.key_file:
            given.secrets[f"{GIT_KEY}{number}"] = _text(host.key_file, f"git.hosts.{name}.key_file")
            keys[name] = f"{GIT_KEY}{number}"
    if remote.transport == "ssh" or keys:
        given.environment[KNOWN_HOSTS] = _known_hosts(context)
    return given, hosts, keys


def _hosts(config: AgentConfig, remote: GitRemote) -> list[str]:
    named = sorted(config.git.hosts)
    return named if config.git.submodules else [name for name in named if name == remote.host]


def _known_hosts(context: AgentContext) -> str:
    files = context.repositories.known_hosts(context.config)
    text = "".join(file.read_text("utf-8", errors="replace").rstrip("\n") + "\n" for file in files if file.is_file())
    if len(text.encode()) > MOST_KNOWN_HOSTS:
        raise LaunchFailed(
            f"The files {', '.join(map(str, files))} have more ssh keys than can be handed over. Whoever runs the "
            "agent can name a file with those of the git hosts alone: `git.known_hosts`.",
            reason="git:known_hosts",
            cause=Cause.INFRASTRUCTURE,
        )
    return text


def _text(file: Path, key: str) -> str:
    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeError) as error:
        raise LaunchFailed(
            f"The agent's private key {file} cannot be read. Whoever runs the agent has to see to `{key}` of its "
            "configuration.",
            reason="git:key",
            cause=Cause.INFRASTRUCTURE,
        ) from error


def _version(version: ArtifactVersion) -> Version:
    return Version(version.id, version.digest)
