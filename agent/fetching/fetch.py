"""Brings the code of one launch into a folder: the whole work of `launchbay fetch-code`, beside the job and before it.

It is done by the agent's own modules, so the same is checked as where the agent fetches by itself.
"""

import asyncio
import json
import shutil
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from random import Random
from tempfile import TemporaryDirectory, mkdtemp

from uv import find_uv_bin

from agent.addresses import is_loopback
from agent.beginning import beginning, check_subfolder
from agent.building.dockerfile import UV
from agent.building.recipe import Recipe, fill
from agent.caches.artifacts import ArtifactCache
from agent.caches.bounded import BoundedCache
from agent.caches.manifest import Limits
from agent.config.forms import parse_limit
from agent.config.model import AgentConfig
from agent.control_plane import ControlPlane
from agent.errors import ControlPlaneUnavailable, LaunchFailed
from agent.fetching.modes import TO_READ, for_all_in, open_up
from agent.fetching.source import (
    GIT_KEY,
    GIT_REMOTE,
    GIT_TOKEN,
    KNOWN_HOSTS,
    CodeSource,
    GitCode,
    ImageContext,
    Version,
    read,
)
from agent.fetching.tools import lay_out
from agent.launch import Cause, Launch
from agent.policy import check_requirements
from agent.redaction import SECRETS
from agent.requirements import FROZEN, REQUIREMENTS, Requirements, find_requirements
from agent.sources.notebook import convert_notebook
from agent.sources.repositories import Repositories
from backends.base import CODE_VARIABLE
from protocol.job_file import GitSource

SCRATCH = ".launchbay-"
MADE = ".made"
"""After the name of a folder that was made here, and a dot before it: a file that is touched whenever it is used."""
LEFT_SECONDS = 24 * 3600
"""After which nobody is at work any more in a folder that was for a moment."""
PATIENCE_SECONDS = 300.0
"""How long a server may be away."""
IMPATIENCE_SECONDS = 10.0
"""The same where its address is that of this very container."""
QUIET_SECONDS = 60.0
"""After that long without trouble, it is new trouble. Longer than any pause between two tries."""
SECRET_VARIABLES = ("WANDB_API_KEY", GIT_REMOTE, GIT_TOKEN, GIT_KEY)
"""How the names of variables begin whose values must not be seen."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be done."""

    source: CodeSource
    folder: Path
    """Where the code goes. One that is there is filled, for this launch alone; another is made whole or not at all,
    and others may use it as well."""
    tools: Path | None
    """Where that goes what installs requirements; None if there are none."""
    keep_days: int | None
    """After how many days folders beside it go that nobody has begun to use since; None if there are none of ours."""
    dockerfile: Path | None
    """By which an image is to be built of the code; None if it is to run by itself."""
    environment: Mapping[str, str]
    random: Random
    clock: Callable[[], float] = time.monotonic


def read_order(
    folder: Path,
    tools: Path | None,
    environment: Mapping[str, str],
    random: Random,
    *,
    keep_days: int | None = None,
    dockerfile: Path | None = None,
) -> Order:
    """Read what the environment tells; raises `SourceError`, or `LaunchFailed` if it tells nothing."""
    text = environment.get(CODE_VARIABLE)
    if not text:
        raise LaunchFailed(f"Variable {CODE_VARIABLE} does not tell what to fetch. Agents start this command.")
    SECRETS.keep(*(value for name, value in environment.items() if name.startswith(SECRET_VARIABLES)))
    try:
        raw = json.loads(text)
    except ValueError as error:
        raise LaunchFailed(f"Variable {CODE_VARIABLE} is no JSON: {error}.") from error
    return Order(read(raw), folder, tools, keep_days, dockerfile, environment, random)


async def fetch(order: Order) -> None:
    """Do it all. Raises `LaunchFailed` or another `LaunchbayError`, whose text is for people, and `OSError`."""
    with _scratch(order.folder) as scratch:
        async with _server(order) as server:
            work = _Work(order, scratch, server)
            job = await work.fetch_version(order.source.job) if order.source.job else None
            if order.source.image and order.dockerfile:
                await work.bring_context(order.source.image, order.dockerfile, job)
                return
            await work.bring_code(job)
        if order.keep_days is not None:
            await asyncio.to_thread(_remove_unused, order.folder, time.time() - order.keep_days * 24 * 3600)
        if order.tools:
            wanted = await asyncio.to_thread(_requirements, order, scratch, job)
            # Of an artifact the agent itself knows where the job begins.
            is_known = order.source.subfolder or not isinstance(order.source.code, GitCode)
            begins_in = "" if is_known else _begins_in(order.source, order.folder)
            await asyncio.to_thread(lay_out, order.tools, wanted, SCRATCH, begins_in)


def _server(order: Order) -> ControlPlane:
    """Return the launch's server, with its own key."""
    url, key = order.environment.get("WANDB_BASE_URL", ""), order.environment.get("WANDB_API_KEY", "")
    control = ControlPlane(url, key, random=order.random)
    control.on_retry = _Patience(url, order.clock)
    return control


def _requirements(order: Order, scratch: Path, job: Path | None) -> Requirements | None:
    source = order.source
    if source.packages:
        file = scratch / REQUIREMENTS
        file.write_text(source.packages)
        return Requirements(file)
    wanted = find_requirements(order.folder.resolve(), source.build_context, job, None)
    if wanted:
        policy = AgentConfig.model_validate(source.config).policy
        check_requirements(policy, wanted, on_this_machine=False)
    return wanted


def _begins_in(source: CodeSource, code: Path) -> str:
    """Return in which folder of the code the job begins, unless the launch says it."""
    return beginning(
        source.build_context,
        source.program,
        lambda path: (code / path).is_file(),
        lambda path: (code / path).is_dir(),
    )


class _Work:
    """What is at hand while it is done. `scratch` is on the disk of the folder that is to be filled."""

    def __init__(self, order: Order, scratch: Path, server: ControlPlane) -> None:
        self._order = order
        self._scratch = scratch
        self._server = server
        self._launch = Launch("", 1, "", {}, "")
        self._config = AgentConfig.model_validate(order.source.config)
        limits = self._config.limits
        self._artifacts = ArtifactCache(
            self._cache("artifacts"), server, Limits(parse_limit(limits.file), parse_limit(limits.total))
        )

    async def fetch_version(self, version: Version) -> Path:
        """Return the files of an artifact."""

        async def fetched() -> Path:
            found = await self._artifacts.by_id(version.id)
            if found.digest != version.digest:
                raise LaunchFailed(f"The artifact with id {version.id} is not what it was when the launch was started.")
            return await self._artifacts.fetch(found, self._launch)

        return await self._server.persist(fetched, doing="fetching an artifact")

    async def bring_code(self, job: Path | None) -> None:
        """See to it that the folder has the code, ready to run."""
        source, folder = self._order.source, self._order.folder
        if not await asyncio.to_thread(_use, folder):
            is_there = folder.is_dir()
            code = await self._code(job)
            if source.notebook:
                name = str(PurePosixPath(_begins_in(source, code), source.notebook))
                await asyncio.to_thread(convert_notebook, code, name)
            await asyncio.to_thread(open_up, code, for_all_in(folder) if is_there else TO_READ)
            if is_there:
                await asyncio.to_thread(_fill, code, folder)
            else:
                await asyncio.to_thread(_make, code, folder)
        await asyncio.to_thread(check_subfolder, folder, source.subfolder)

    async def bring_context(self, image: ImageContext, dockerfile: Path, job: Path | None) -> None:
        """See to it that the folder has what an image is built of."""
        code = await self._code(job)
        text = await asyncio.to_thread(dockerfile.read_text, "utf-8")
        more = {name: self._file(name, job) for name in image.more}
        recipe = Recipe(text, code / image.root, image.place, more, notebook=image.notebook or None)
        made = self._scratch / "context"
        await asyncio.to_thread(fill, made, recipe, image.limit)
        await asyncio.to_thread(_fill, made, self._order.folder)

    async def _code(self, job: Path | None) -> Path:
        match self._order.source.code:
            case Version() as version:
                return await self.fetch_version(version)
            case GitCode() as git:
                return await self._check_out(git, job)
            case None:
                empty = self._scratch / "empty"
                empty.mkdir()
                return empty

    def _file(self, name: str, job: Path | None) -> Path:
        """Return a file of a build's context that is none of the code, by its name there."""
        if name == UV:
            return Path(find_uv_bin())
        if name == FROZEN and job:
            return job / FROZEN
        raise LaunchFailed(f"The agent wants {name!r} in an image, unknown here.", cause=Cause.INFRASTRUCTURE)

    async def _check_out(self, git: GitCode, job: Path | None) -> Path:
        environment = self._order.environment
        config = await asyncio.to_thread(self._with_ssh, git)
        repositories = Repositories(self._cache("git"), self._scratch / "own", environment)
        remote = environment.get(GIT_REMOTE) or git.remote
        return (await repositories.check_out(config, self._launch, GitSource(remote, git.commit), job, _tell)).folder

    def _with_ssh(self, git: GitCode) -> AgentConfig:
        """Return the configuration with keys as files, which is how ssh wants them."""
        folder, environment = self._scratch / "ssh", self._order.environment
        folder.mkdir(mode=0o700)
        hosts = dict(self._config.git.hosts)
        for number, (host, variable) in enumerate(git.keys.items()):
            file = folder / f"key{number}"
            file.touch(0o600)
            file.write_text(environment.get(variable, "").rstrip("\n") + "\n", "utf-8")  # ssh wants the line to end
            hosts[host] = self._config.git.host(host).model_copy(update={"key_file": file})
        known_hosts = folder / "known_hosts"
        known_hosts.write_text(environment.get(KNOWN_HOSTS, ""), "utf-8")
        block = self._config.git.model_copy(update={"hosts": hosts, "known_hosts": known_hosts})
        return self._config.model_copy(update={"git": block})

    def _cache(self, name: str) -> BoundedCache:
        return BoundedCache(self._scratch / name, None, tuple)


class _Patience:
    """Called whenever a server was away; raises `ControlPlaneUnavailable` once that has lasted for too long."""

    def __init__(self, url: str, clock: Callable[[], float]) -> None:
        self._url = url
        self._clock = clock
        self._since = self._last = -QUIET_SECONDS

    def __call__(self) -> None:
        now = self._clock()
        if now - self._last >= QUIET_SECONDS:
            self._since = now
        self._last = now
        if now - self._since >= (IMPATIENCE_SECONDS if is_loopback(self._url) else PATIENCE_SECONDS):
            raise ControlPlaneUnavailable(
                f"The server at {self._url} cannot be reached from where the launch runs. If it has another address "
                "there than for the agent, whoever runs the agent can set `job_base_url`."
            )


async def _tell(what: str) -> None:
    print(what, flush=True)  # noqa: T201 -- it goes to the launch's log


# --- the folder -------------------------------------------------------------------------------------------------------


def _is_made(folder: Path) -> bool:
    """Whether a folder was made here before, so that others may use it now."""
    return folder.is_dir() and _mark_of(folder).exists()


def _use(folder: Path) -> bool:
    """Begin to use a folder that was made here before; return whether there is one. Whoever removes it looks again."""
    if not _is_made(folder):
        return False
    _mark(folder)
    return folder.is_dir()


def _remove_unused(own: Path, since: float) -> None:
    """Remove the folders beside our own that were made here, and that nobody has begun to use since a time.

    What is another account's stays: that one may do the same. Others may be at it, or begin to use one, right now.
    """
    for mark in own.parent.glob(f".*{MADE}"):
        folder = mark.with_name(mark.name.removeprefix(".").removesuffix(MADE))
        if folder == own or not _is_older(mark, since):
            continue
        with suppress(OSError), TemporaryDirectory(prefix=SCRATCH, dir=own.parent, ignore_cleanup_errors=True) as aside:
            moved = Path(aside, folder.name)
            folder.rename(moved)
            if _is_older(mark, since):
                mark.unlink()
            else:  # somebody has begun to use it just now
                moved.rename(folder)


def _is_older(mark: Path, since: float) -> bool:
    try:
        return mark.stat().st_mtime < since
    except FileNotFoundError:
        return False


def _mark(folder: Path) -> None:
    """Note that a folder is used now, or about to be made."""
    mark = _mark_of(folder)
    with suppress(PermissionError):  # it is of another account, and being made just now
        mark.touch()
        mark.chmod(0o666)  # other launches may have other accounts


def _mark_of(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}{MADE}")


@contextmanager
def _scratch(folder: Path) -> Generator[Path]:
    """Give a folder on the disk of another one, while the block runs. What a try before has left goes."""
    is_ours = folder.is_dir() and not _is_made(folder)
    above = folder if is_ours else folder.parent
    for left in above.glob(f"{SCRATCH}*"):
        with suppress(FileNotFoundError):  # somebody else was faster
            if is_ours or left.stat().st_mtime < time.time() - LEFT_SECONDS:  # others are at work there
                shutil.rmtree(left, ignore_errors=True)
    scratch = Path(mkdtemp(prefix=SCRATCH, dir=above))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _fill(code: Path, folder: Path) -> None:
    """Move code into a folder that is there. What an earlier try has left goes."""
    for entry in code.iterdir():
        target = folder / entry.name
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        entry.replace(target)


def _make(code: Path, folder: Path) -> None:
    """Have the folder at once with all that is in it. Somebody else may do so, or remove the one before, just now."""
    _mark(folder)
    try:
        code.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
    _mark(folder)
