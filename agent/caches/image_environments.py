"""Environments of jobs that run in images: requirements, installed for the Python of the image, cached by content.

No image is built, and no shell runs. The installation is a launch of its own on the same backend, in the same image:
`uv` from this machine makes the environment in a folder that it is given, and the job's container has that folder to
read. So packages are built with what the image has, and never by code that sees more than its container. What the image
itself has counts: where that is all that a job wants, nothing is installed.
"""

import asyncio
import json
import os
import platform
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import structlog
from uv import find_uv_bin

from agent.caches import install_in_image
from agent.caches.bounded import BoundedCache
from agent.caches.environments import CODE_COPY, INSTALLER_PREFIX, key_of, settings_of
from agent.copying import copy_code
from agent.errors import LaunchFailed
from agent.launch import Cause, Launch, Tell
from agent.proxies import PROXY_VARIABLES
from agent.requirements import Requirements
from backends.base import (
    BackendUnavailable,
    Handle,
    ImageBackend,
    Observation,
    Phase,
    StartRequest,
)
from protocol.json_types import JsonObject

ENVIRONMENT_LABEL = "environment"
"""On an installation, in place of an item's id."""
CACHE = ".cache"
LOOK_SECONDS = 0.2
TELL_SECONDS = 1.0
AGAIN_SECONDS = 1.0
STOP_SECONDS = 5.0
TOLD_BYTES = 2**20
OUTPUT_BYTES = 2**20
"""How much of an installation's output is kept; its end says what went wrong."""
INDEX_VARIABLES = frozenset({"SSL_CERT_DIR", "SSL_CERT_FILE"} | PROXY_VARIABLES)
"""What an installation sees of the agent's environment beside uv's own variables: where packages come from."""
OF_THIS_MACHINE = re.compile(
    r"UV_(CACHE_DIR|CONFIG_FILE|LINK_MODE|PUBLISH_.*|.*PYTHON.*|TOOL_.*|.*PROJECT.*|WORKING_DIR.*)"
)
"""Of uv's variables, those that mean nothing in there."""
PLACES = frozenset({"UV_CONSTRAINT", "UV_FIND_LINKS", "UV_OVERRIDE", "SSL_CERT_DIR", "SSL_CERT_FILE"})
"""Those that may name files of this machine."""
OPTIONS = frozenset({"add-host", "dns", "dns-option", "dns-search", "network", "platform", "pull", "ulimit"})
"""Of a launch's resource args, those that its installation has too: it reaches no more than the launch may."""
CANNOT_RUN = frozenset({126, 127})
"""Exit codes of a program that could not be run."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Told:
    """What an installation leaves beside the environment."""

    is_needed: bool
    path: str
    """The image's own PATH."""
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ImageEnvironment:
    """What a job in an image gets."""

    folders: Sequence[Path] = ()
    """To be in its container."""
    variables: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Place:
    """Where an installation runs."""

    backend: ImageBackend
    image: str
    options: JsonObject
    """The launch's resource args, by the names in `protocol/container_options.py`."""
    base_url: str
    """The server's: where it is on this machine, so may be the index."""
    owner: str
    """The agent, as it is labelled."""


class ImageEnvironments:
    """Environments for images, in a cache. `own` is the agent's environment; `tools` is where uv is kept for images."""

    def __init__(self, folders: BoundedCache, tools: Path, own: Mapping[str, str], random: Random) -> None:
        self._folders = folders
        self._tools = tools
        self._variables = installer_variables(own, brings_files=True)
        self._settings = settings_of(self._variables)
        self._random = random
        self._names: set[str] = set()
        self._bringing = asyncio.Lock()

    def is_making(self, name: str) -> bool:
        """Whether this is an installation that somebody waits for. Any other is left over."""
        return name in self._names

    async def ensure(self, place: Place, requirements: Requirements, launch: Launch, tell: Tell) -> ImageEnvironment:
        """Return an environment with these requirements for an image, made now if need be.

        Raises `LaunchFailed` with uv's words, or what the backend raises about the image.
        """
        identity = await _fetch_image(place, tell)
        fits = f"image {identity} {place.options.get('platform') or platform.machine()}"
        key, names_files = await asyncio.to_thread(key_of, requirements, (fits, *self._settings))
        if not await self._folders.has(key):
            await tell(f"making its environment in {place.image}")

        async def make(folder: Path) -> None:
            await self._make(folder, place, requirements, tell, names_files=names_files)

        folder = await self._folders.get(key, launch, make)
        told = await asyncio.to_thread(_read_told, folder)
        if told is None:
            raise LaunchFailed(f"The environment {folder} was changed. Remove it, and push the launch again.")
        if told.missing:
            missing = ", ".join(told.missing)
            await tell(f"{len(told.missing)} of its frozen requirements cannot be installed: {missing}")
        if not told.is_needed:
            return ImageEnvironment()
        environment = folder / install_in_image.ENVIRONMENT
        path = ":".join(filter(None, (str(environment / "bin"), told.path)))
        return ImageEnvironment((folder,), {"PATH": path, "VIRTUAL_ENV": str(environment)})

    async def _make(
        self, folder: Path, place: Place, requirements: Requirements, tell: Tell, *, names_files: bool
    ) -> None:
        name = f"environment-{self._random.getrandbits(64):016x}"
        self._names.add(name)
        try:
            async with self._bringing:
                uv = await asyncio.to_thread(_bring_uv, self._tools)
            await asyncio.to_thread(_prepare, folder, requirements if names_files else None)
            request = _request(name, folder, uv, place, requirements, self._variables, names_files=names_files)
            seen, output = await _run(place.backend, request, tell)
            if seen.phase is not Phase.FINISHED or await asyncio.to_thread(_read_told, folder) is None:
                raise _failed(seen, output, place.image)
            await asyncio.to_thread(shutil.rmtree, folder / CACHE, ignore_errors=True)
        finally:
            self._names.discard(name)
        log.info("environment made", folder=str(folder), image=place.image)


def installer_variables(own: Mapping[str, str], *, brings_files: bool) -> dict[str, str]:
    """Return what an installation sees of the agent's environment, which may be secret.

    What names files of this machine is in it only if the installation has these.
    """
    return {
        name: value
        for name, value in own.items()
        if (name in INDEX_VARIABLES or (name.startswith(INSTALLER_PREFIX) and not OF_THIS_MACHINE.fullmatch(name)))
        and (brings_files or name not in PLACES)
    }


async def _fetch_image(place: Place, tell: Tell) -> str:
    """See that the image is here; returns what identifies it. People are told how far a pull is."""
    last = told = ""

    def keep(text: str) -> None:
        nonlocal last
        last = text

    async def fetch() -> str:
        while True:
            try:
                return await place.backend.fetch_image(place.image, place.options, keep)
            except BackendUnavailable as error:
                keep(f"waiting: {error}")
                await asyncio.sleep(AGAIN_SECONDS)

    fetching = asyncio.create_task(fetch())
    try:
        while not (await asyncio.wait([fetching], timeout=TELL_SECONDS))[0]:
            if last != told:
                told = last
                await tell(told)
        return fetching.result()
    finally:
        fetching.cancel()
        await asyncio.wait([fetching])


def _read_told(folder: Path) -> _Told | None:
    """Return what an installation tells of itself; None if that cannot be: a package's build may have written it."""
    try:
        # Nothing that it leads to on this machine, and nothing that waits for a writer.
        opened = os.open(folder / install_in_image.TOLD, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(opened, encoding="utf-8") as file:
            read = json.loads(file.read(TOLD_BYTES))
        return _Told(bool(read["is_needed"]), str(read["path"]), tuple(map(str, read["missing"])))
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _bring_uv(tools: Path) -> Path:
    """Return uv in a folder of its own: beside the agent's there are other programs, which the image may have, too."""
    own = Path(find_uv_bin())
    found = own.stat()
    uv = tools / f"{found.st_mtime_ns}-{found.st_size}" / "uv"
    if not uv.exists():
        shutil.rmtree(tools, ignore_errors=True)  # earlier ones
        uv.parent.mkdir(parents=True)
        shutil.copy(own, uv.with_suffix(".part"))
        uv.with_suffix(".part").rename(uv)
    return uv


def _prepare(folder: Path, copied: Requirements | None) -> None:
    folder.mkdir(parents=True)
    shutil.copy(install_in_image.__file__, folder)
    if copied and copied.code:
        # A build may write beside its source.
        copy_code(copied.code, folder / CODE_COPY)


def _request(
    name: str,
    folder: Path,
    uv: Path,
    place: Place,
    requirements: Requirements,
    variables: Mapping[str, str],
    *,
    names_files: bool,
) -> StartRequest:
    file, read = requirements.file, [requirements.code or requirements.file.parent]
    if names_files and requirements.code:
        file, read = CODE_COPY / file.relative_to(requirements.code), []
    words = [Path(install_in_image.__file__).name, str(file), *(["frozen"] if requirements.is_frozen else [])]
    named = [Path(word) for key in PLACES for word in variables.get(key, "").replace(",", " ").split()]
    return StartRequest(
        name=name,
        command=[str(uv), "run", "--quiet", "--no-project", *words],
        environment={
            "WANDB_BASE_URL": place.base_url,
            "UV_CACHE_DIR": CACHE,
            "UV_NO_EDITABLE": "1",  # the job has its code elsewhere
            "UV_NO_PROGRESS": "1",
            "UV_PYTHON_DOWNLOADS": "never",
            "UV_PYTHON_PREFERENCE": "only-system",
        },
        secrets=variables,  # the URL of an index may have a password in it
        working_dir=folder,
        folders=[uv.parent, *read, *(path for path in named if path.is_absolute() and path.exists())],
        image=place.image,
        labels={"owner": place.owner, ENVIRONMENT_LABEL: name},
        resource_args={key: value for key, value in place.options.items() if key in OPTIONS},
    )


async def _run(backend: ImageBackend, request: StartRequest, tell: Tell) -> tuple[Observation, bytes]:
    """Run a launch to its end, and return that with the end of its output. Nothing is left of it, also if cancelled."""
    try:
        handle = await _start(backend, request)
        seen = await _end(backend, handle, tell)
        output = b""
        async for chunk in backend.logs(handle):
            output = (output + chunk.data)[-OUTPUT_BYTES:]
        return seen, output
    finally:
        with suppress(TimeoutError):  # then the agent's next start removes it
            async with asyncio.timeout(STOP_SECONDS * 4):
                await _put_down(backend, request.name)


async def _start(backend: ImageBackend, request: StartRequest) -> Handle:
    while True:
        try:
            return await backend.start(request)
        except BackendUnavailable as error:
            log.warning("the backend is not available", error=str(error))
            await asyncio.sleep(AGAIN_SECONDS)


async def _end(backend: ImageBackend, handle: Handle, tell: Tell) -> Observation:
    told = ""
    while True:
        with suppress(BackendUnavailable):
            seen = (await backend.observe()).get(handle) or Observation(Phase.LOST)
            if seen.phase.is_terminal:
                return seen
            if seen.phase is Phase.STARTING and seen.message not in {"", told}:
                told = seen.message
                await tell(told)
        await asyncio.sleep(LOOK_SECONDS)


async def _put_down(backend: ImageBackend, name: str) -> None:
    """Remove an installation, also one whose start was cut short."""
    while True:
        with suppress(BackendUnavailable):
            observed = await backend.observe()
            left = {handle: seen for handle, seen in observed.items() if seen.labels.get(ENVIRONMENT_LABEL) == name}
            for handle, seen in left.items():
                await (backend.cleanup(handle) if seen.phase.is_terminal else backend.stop(handle, STOP_SECONDS))
            if all(seen.phase.is_terminal for seen in left.values()):
                return
        await asyncio.sleep(LOOK_SECONDS)


def _failed(seen: Observation, output: bytes, image: str) -> LaunchFailed:
    text = output.decode(errors="replace").strip()
    if seen.phase is not Phase.FAILED:
        return LaunchFailed(
            f"The installation of the job's requirements in {image} was cut short ({seen.phase}). {seen.message}",
            log=output,
            stage="build",
            reason="installation_cut_short",
            cause=Cause.INFRASTRUCTURE,
        )
    if seen.exit_code in CANNOT_RUN and not text.startswith("error:"):
        why = (
            "uv, which this agent brings, does not run in there: it needs glibc and libgcc, and images of Alpine, or "
            "without a system, do not have them. Use an image of Debian's kind, or one that has all that the job needs"
        )
    elif "No interpreter found" in text:
        why = "there is no Python in its PATH. Use an image with one, or one that has all that the job needs"
    else:
        why = text.splitlines()[-1] if text else seen.message or f"it ended with code {seen.exit_code}"
    return LaunchFailed(
        f"The job's requirements could not be installed in {image}: {why.rstrip('.')}. The whole output is attached.",
        log=output or str(seen.message).encode(),
        stage="build",
        reason="requirements",
    )
