"""Code from git as local folders, by remote and commit: fetched once, then only read.

They are in the cache of code, which says when they are complete and which of them may go (`agent/caches/bounded.py`).
What is in them is made by a program of its own, `agent/sources/git_fetch.py`.
"""

import asyncio
import errno
import hashlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Literal

import structlog

from agent.caches.bounded import BoundedCache
from agent.config.forms import parse_limit
from agent.config.model import AgentConfig, GitHost
from agent.errors import LaunchFailed
from agent.launch import Cause, Launch, Tell
from agent.policy import check_git_remote
from agent.proxies import PROXY_VARIABLES
from agent.redaction import SECRETS
from agent.sources.git_errors import git_failed
from agent.sources.git_fetch import (
    FULL_HASH,
    REPOSITORY,
    TREE,
    Answer,
    Failed,
    Kind,
    Submodule,
    Task,
    check_links,
    copy_tree,
)
from agent.sources.git_remote import GitRemote, is_reference, relative_remote
from protocol.job_file import GitSource

PARALLEL_FETCHES = 4
DEEPEST_SUBMODULE = 8
LOOKUP = "lookup-"
DIFF = "diff.patch"
"""The file of a job's artifact with what was not committed when the job was made."""
OWN_VARIABLES = frozenset(
    {"LD_LIBRARY_PATH", "PATH", "TMPDIR", "GIT_SSL_CAINFO", "GIT_SSL_CAPATH", "SSL_CERT_DIR", "SSL_CERT_FILE"}
    | PROXY_VARIABLES
)
"""What git may see of the agent's environment: how to get out of here, and whom to believe."""
_HOME = os.path.expanduser("~")  # noqa: PTH111 -- an account that this machine does not know has none
KNOWN_HOSTS = (Path(_HOME, ".ssh", "known_hosts"), Path("/etc/ssh/ssh_known_hosts"))
"""Where ssh itself looks."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Commit:
    """Which commit of which repository a job's code is."""

    remote: str
    """Without what may be secret."""
    commit: str
    """Its full hash."""


@dataclass(frozen=True, slots=True)
class Checkout(Commit):
    """A commit's files on this machine. Only for reading."""

    folder: Path


class Repositories:
    """The cache of code from git, under one root."""

    def __init__(self, folders: BoundedCache, own: Path, environment: Mapping[str, str]) -> None:
        """`own` is a folder for what is only needed for a moment, and for the keys of hosts that are trusted once."""
        self._folders = folders
        self._own = own
        self._agents_environment = environment
        self._environment = {name: value for name, value in environment.items() if name in OWN_VARIABLES}
        if authorities := self._environment.get("SSL_CERT_FILE"):
            # What Python and uv go by; git, as Debian builds it, knows only its own name for it.
            self._environment.setdefault("GIT_SSL_CAINFO", authorities)
        self._slots = asyncio.Semaphore(PARALLEL_FETCHES)

    def remove_leftovers(self) -> None:
        """Remove what an agent that was killed was looking up. Only before the first use."""
        for path in self._own.glob(f"{LOOKUP}*"):
            shutil.rmtree(path, ignore_errors=True)

    def known_hosts(self, config: AgentConfig) -> list[Path]:
        """Return the files with the ssh keys of hosts, of which some may not be there. New keys go to the first."""
        git = config.git
        files = [git.known_hosts] if git.known_hosts else list(KNOWN_HOSTS)
        return [self._own / "known_hosts", *files] if git.accept_new_hosts else files

    async def check_out(
        self, config: AgentConfig, launch: Launch, source: GitSource, job_folder: Path | None, tell: Tell
    ) -> Checkout:
        """Return a folder with the code that a job names, fetched now if it is not here yet; the launch uses it.

        A full hash that is here needs no network at all; a branch or a tag is looked up each time. Raises
        `policy.Refused` and `LaunchFailed`, and `OSError` where the disk is full.
        """
        visit = await self._look_up(config, launch, source, tell)
        tree = await self._tree(visit)
        if job_folder is not None and await asyncio.to_thread(has_patch, job_folder):
            tree = await self._patched(visit, tree, job_folder / DIFF)
        log.info("code from git", remote=visit.remote.url, commit=visit.reference)
        return Checkout(visit.remote.url, visit.reference, tree)

    async def look_up(self, config: AgentConfig, launch: Launch, source: GitSource, tell: Tell) -> Commit:
        """Return which commit a job names, without fetching it. Raises as `check_out`."""
        visit = await self._look_up(config, launch, source, tell)
        return Commit(visit.remote.url, visit.reference)

    async def _look_up(self, config: AgentConfig, launch: Launch, source: GitSource, tell: Tell) -> "_Visit":
        remote = check_git_remote(config.policy, source.remote)
        if source.commit and not is_reference(source.commit):
            raise LaunchFailed(
                f"The job's commit is {source.commit!r}, which cannot be a branch, a tag or a commit. "
                "Make the job again from one.",
                reason="git:bad_reference",
            )
        visit = _Visit(
            config, launch, remote, source.remote, source.commit or "", tell, parse_limit(config.limits.total)
        )
        return replace(visit, reference=await self._resolve(visit))

    async def _resolve(self, visit: "_Visit") -> str:
        if FULL_HASH.fullmatch(visit.reference):
            return visit.reference
        await visit.tell(f"looking up {visit.reference or 'the default branch'} at {visit.remote.url}")
        await asyncio.to_thread(self._own.mkdir, parents=True, exist_ok=True)
        folder = Path(await asyncio.to_thread(mkdtemp, prefix=LOOKUP, dir=self._own))
        try:
            return (await self._perform(visit, folder, await self._task(visit, "resolve"))).commit
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def _tree(self, visit: "_Visit") -> Path:
        with_submodules = visit.config.git.submodules

        async def make(folder: Path) -> None:
            await visit.tell(f"fetching {visit.reference[:12]} of {visit.remote.url}")
            await asyncio.to_thread(folder.mkdir)
            answer = await self._perform(visit, folder, await self._task(visit, "fetch"))
            await asyncio.to_thread(shutil.rmtree, folder / REPOSITORY)
            if answer.submodules and not with_submodules:
                await visit.tell("leaving submodules out: git.submodules of the agent is false")
            elif answer.submodules:
                await self._add_submodules(visit, answer, folder / TREE)

        key = _key(_address(visit.remote), visit.reference, *(["submodules"] if with_submodules else []))
        return await self._folders.get(key, visit.launch, make) / TREE

    async def _patched(self, visit: "_Visit", tree: Path, patch: Path) -> Path:
        async def make(folder: Path) -> None:
            await asyncio.to_thread(folder.mkdir)
            limits = visit.config.limits
            task = Task(
                action="patch",
                tree=str(tree),
                patch=str(patch),
                max_file=parse_limit(limits.file),
                max_total=parse_limit(limits.total),
            )
            await self._perform(visit, folder, task)

        digest = hashlib.sha256(await asyncio.to_thread(patch.read_bytes)).hexdigest()
        return await self._folders.get(_key(tree.parent.name, digest), visit.launch, make) / TREE

    async def _add_submodules(self, visit: "_Visit", answer: Answer, tree: Path) -> None:
        """Put the trees of other repositories where they belong. Each is fetched, and kept, like any other."""
        if visit.depth == DEEPEST_SUBMODULE:
            raise LaunchFailed(
                f"The submodules of {visit.remote.url} are more than {DEEPEST_SUBMODULE} deep.", reason="git:submodules"
            )
        total = answer.size
        for submodule in answer.submodules:
            text = relative_remote(visit.address, submodule.url)
            inner = replace(
                visit,
                remote=check_git_remote(visit.config.policy, text),
                address=text,
                reference=submodule.commit,
                depth=visit.depth + 1,
                room=None if visit.room is None else max(0, visit.room - total),
            )
            folder = await self._tree(inner)
            total += await asyncio.to_thread(_copy_into, folder, tree / submodule.path)
            if visit.room is not None and total > visit.room:
                raise _failed(visit, Kind.TOO_BIG, f"with its submodule {submodule.path}")
        try:
            await asyncio.to_thread(check_links, tree)
        except Failed as failed:
            raise _failed(visit, failed.kind, str(failed)) from failed

    # --- the program --------------------------------------------------------------------------------------------------

    async def _task(self, visit: "_Visit", action: Literal["resolve", "fetch"]) -> Task:
        git = visit.config.git
        known_hosts = self.known_hosts(visit.config)
        if git.accept_new_hosts:
            await asyncio.to_thread(self._own.mkdir, parents=True, exist_ok=True)
        user, password = await asyncio.to_thread(_user_and_password, visit, self._agents_environment)
        key_file = git.host(visit.remote.host).key_file
        return Task(
            action=action,
            url=visit.remote.url,
            reference=visit.reference,
            # To go on from http to https is no loss; the other way would be one.
            transports=("http", "https") if visit.remote.transport == "http" else (visit.remote.transport,),
            redirects=visit.config.policy.git_hosts is None,
            host=visit.remote.host,
            user=user,
            password=password,
            key_file=str(key_file) if key_file else None,
            known_hosts=[str(path) for path in known_hosts],
            accept_new_hosts=git.accept_new_hosts,
            max_file=parse_limit(visit.config.limits.file),
            max_total=visit.room,
        )

    async def _perform(self, visit: "_Visit", folder: Path, task: Task) -> Answer:
        """Have a piece of work done in a folder, which is empty."""
        SECRETS.keep(task.user, task.password)
        try:
            return await self._run(visit, replace(task, folder=str(folder)))
        finally:
            SECRETS.drop(task.user, task.password)

    async def _run(self, visit: "_Visit", task: Task) -> Answer:
        limit = visit.config.git.timeout
        async with self._slots:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-m", "agent.sources.git_fetch"),
                env=self._environment,
                cwd="/",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
            assert process.stdin
            assert process.stdout
            assert process.stderr
            try:
                async with asyncio.timeout(limit):
                    process.stdin.write(json.dumps(asdict(task)).encode() + b"\n")
                    output, said = await asyncio.gather(process.stdout.read(), process.stderr.read())
                    await process.wait()
            except TimeoutError as error:
                raise LaunchFailed(
                    f"Fetching from {visit.remote.url} took longer than {limit:g} seconds (git.timeout of the agent).",
                    reason="git:too_slow",
                    stage="build",
                    cause=Cause.INFRASTRUCTURE,
                ) from error
            finally:
                # Also when the launch is stopped in the middle: git and what it started must not go on.
                if process.returncode != 0:
                    with suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
                    await process.wait()
                process.stdin.close()
        if process.returncode != 0:
            raise _failed(visit, Kind.OTHER, f"the program that fetches ended with code {process.returncode}", said)
        return _understood(visit, output, said)


@dataclass(frozen=True, slots=True)
class _Visit:
    """One commit of one repository that a launch needs."""

    config: AgentConfig
    launch: Launch
    remote: GitRemote
    address: str
    """The remote as it was written: submodules may be relative to it."""
    reference: str
    tell: Tell
    room: int | None
    """Bytes that it may take; None for as many as there are."""
    depth: int = 0
    """Of submodules."""


def _user_and_password(visit: _Visit, environment: Mapping[str, str]) -> tuple[str, str]:
    """Return what proves at the remote who we are: what itself carries, or else the configured token."""
    remote, host = visit.remote, visit.config.git.host(visit.remote.host)
    if remote.transport == "ssh" or remote.password:
        return remote.user, remote.password
    if token := token_of(host, remote.host, environment):
        return remote.user or host.user, token
    return remote.user, ""


def token_of(host: GitHost, name: str, environment: Mapping[str, str]) -> str:
    """Return the token that the configuration has for a host, if any; read anew each time, as tokens are renewed.

    Raises `LaunchFailed` if it cannot be read. Blocks.
    """
    try:
        if host.token_file:
            return host.token_file.read_text("utf-8").strip()
        return environment[host.token_env] if host.token_env else ""
    except (OSError, UnicodeError, KeyError) as error:
        where = host.token_file or f"variable {host.token_env}"
        raise LaunchFailed(
            f"The agent's token for the git host {name} cannot be read from {where}. Whoever runs the agent has to see "
            f"to `git.hosts.{name}` of its configuration.",
            reason="git:token",
            cause=Cause.INFRASTRUCTURE,
        ) from error


def _address(remote: GitRemote) -> str:
    """Return where something is, and by whose right: what one job may see by its password, another may not without."""
    return "\n".join((remote.url, remote.user, remote.password))


def _key(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def has_patch(job_folder: Path) -> bool:
    """Whether a job has changes that were not committed when it was made. Blocks."""
    patch = job_folder / DIFF
    return patch.is_file() and bool(patch.read_bytes().strip())


def _copy_into(folder: Path, place: Path) -> int:
    """Copy a tree to a place that is an empty folder; returns how many bytes it has."""
    copy_tree(folder, place)
    return sum(path.lstat().st_size for above, _, files in os.walk(place) for path in (Path(above, n) for n in files))


def _understood(visit: _Visit, output: bytes, said: bytes) -> Answer:
    raw = json.loads(output)
    answer = Answer(
        error=Kind(raw["error"]) if raw["error"] else None,
        detail=raw["detail"],
        commit=raw["commit"],
        size=raw["size"],
        submodules=[Submodule(**each) for each in raw["submodules"]],
    )
    if answer.error is Kind.DISK_FULL:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if answer.error is not None:
        raise _failed(visit, answer.error, answer.detail, said)
    return answer


def _failed(visit: _Visit, kind: Kind, detail: str, said: bytes = b"") -> LaunchFailed:
    return git_failed(visit.config, visit.remote, visit.reference, kind, SECRETS.text(detail), SECRETS.data(said))
