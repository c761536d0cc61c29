"""Python environments of jobs: one virtual environment per set of requirements, made with `uv`, cached by content.

What decides the content is in the key: the requirements with what they include, uv's settings, the interpreter, and the
code where the requirements name files of it. Many launches that want the same one wait for one installation.
"""

import asyncio
import hashlib
import os
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from agent.caches.bounded import BoundedCache
from agent.caches.frozen import install_frozen
from agent.caches.uv import NOWHERE, Result, Uv
from agent.copying import copy_code
from agent.errors import LaunchFailed
from agent.launch import Launch, Tell
from agent.proxies import PROXY_VARIABLES
from agent.requirement_sources import read_sources
from agent.requirements import PROJECT, Requirements, has_dynamic_dependencies, settings_files
from protocol.masking import without_passwords

CODE_COPY = Path("src") / "job"
"""In an environment, the code that its requirements name files of."""
MISSING = "missing-requirements.txt"
"""In an environment, what of the frozen requirements could not be had."""
QUOTED_CHARS = 600

INSTALLER_VARIABLES = frozenset(
    PROXY_VARIABLES
    | {"CC", "CXX", "CFLAGS", "CPPFLAGS", "CXXFLAGS", "LDFLAGS", "MAX_JOBS"}
    | {"NETRC", "XDG_CACHE_HOME", "XDG_CONFIG_DIRS", "XDG_CONFIG_HOME", "XDG_DATA_HOME"}
)
"""What uv and the builds that it runs see beside what jobs see. A build may be the job's own code."""
INSTALLER_PREFIX = "UV_"
_NOT_DECIDING = re.compile(r"UV_(CACHE_DIR|CONCURRENT_.*|HTTP_.*|LINK_MODE|NO_PROGRESS|.*_(USERNAME|PASSWORD))")

_INCLUDED = re.compile(r"^\s*(?:-r|-c|--requirement|--constraint)[\s=]*(\S+)", re.MULTILINE)
_COMMENT = re.compile(r"(^|\s)#.*$", re.MULTILINE)
_URL = re.compile(r"\b(?!file:)[a-z][a-z0-9+.-]*://\S+")
_LOCAL = re.compile(r"^\s*(?:\.|-e\b|--editable\b)|[/\\]|file:|\.(?:whl|zip|tar\.\w+|tgz)\b", re.MULTILINE)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Interpreter:
    path: str
    identity: str
    """Changes with whatever decides which packages fit."""
    instead_of: str = ""
    """The version that was asked for, where this machine does not have it."""


class Environments:
    """The environments of jobs. `own` is the agent's environment, less what jobs may not see."""

    def __init__(self, folders: BoundedCache, own: Mapping[str, str]) -> None:
        self._folders = folders
        self._uv = Uv(own)
        self._settings = settings_of(own)
        self._interpreters: dict[str, _Interpreter] = {}

    async def ensure(self, requirements: Requirements, launch: Launch, tell: Tell) -> Path:
        """Return an environment with these requirements, made now if need be.

        Raises `LaunchFailed` with uv's words. Frozen requirements may be missing, which people are told.
        """
        python = await self._interpreter(requirements.python)
        if python.instead_of:
            own = platform.python_version()
            await tell(f"making its environment with Python {own}: Python {python.instead_of} is not on this machine")
        key, names_files = await asyncio.to_thread(key_of, requirements, (python.identity, *self._settings))
        if not python.instead_of and not await self._folders.has(key):
            await tell("making its environment")
        folder = await self._folders.get(
            key, launch, lambda folder: self._make(folder, requirements, python.path, names_files=names_files)
        )
        if requirements.is_frozen and (missing := await asyncio.to_thread(_missing, folder)):
            await tell(f"{len(missing)} of its frozen requirements cannot be installed: {', '.join(missing)}")
        return folder

    async def _make(self, folder: Path, requirements: Requirements, python: str, *, names_files: bool) -> None:
        await self._run("venv", "--quiet", "--python", python, str(folder))
        file = requirements.file
        if names_files and requirements.code is not None:
            # What an environment refers to has to live as long as it does, and a build may write beside its source.
            copy = folder / CODE_COPY
            await asyncio.to_thread(copy_code, requirements.code, copy)
            file = copy / file.relative_to(requirements.code)
        installed = str(folder / "bin" / "python")
        if requirements.is_frozen:
            missing = await install_frozen(self._uv, installed, await asyncio.to_thread(file.read_text, "utf-8"))
            await asyncio.to_thread((folder / MISSING).write_text, "".join(f"{each}\n" for each in missing))
        else:
            await self._run(
                *("pip", "install", "--quiet", "--python", installed, "--requirements", file.name), cwd=file.parent
            )
        log.info("environment made", folder=str(folder), python=python)

    async def _interpreter(self, version: str | None) -> _Interpreter:
        """Return a Python of that minor version; the agent's own where this machine has no such."""
        own = f"{sys.version_info.major}.{sys.version_info.minor}"
        wanted = ".".join((version or own).split(".")[:2])
        found = self._interpreters.get(wanted) or await self._find(wanted, is_own=wanted == own)
        if not found.instead_of:  # what is missing may come
            self._interpreters[wanted] = found
        return found

    async def _find(self, wanted: str, *, is_own: bool) -> _Interpreter:
        machine = f"{platform.machine()} {platform.libc_ver()}"
        own = f"{sys.executable} {sys.version} {machine}"
        if is_own:
            return _Interpreter(sys.executable, own)
        result = await self._uv.run("python", "find", "--no-python-downloads", wanted)
        if result.code == 0:
            path = result.output.decode().strip().splitlines()[-1]
            changed = await asyncio.to_thread(lambda: Path(path).stat().st_mtime_ns)
            return _Interpreter(path, f"{path} {changed} {machine}")
        log.warning("no such Python here, using the agent's own", wanted=wanted, using=sys.executable)
        return _Interpreter(sys.executable, own, instead_of=wanted)

    async def _run(self, *arguments: str, cwd: Path = NOWHERE) -> None:
        result = await self._uv.run(*arguments, cwd=cwd)
        if result.code != 0:
            raise _failed(result)


def key_of(requirements: Requirements, more: Sequence[str]) -> tuple[str, bool]:
    """Return a key of all that decides what is installed, and whether the code is part of it. Blocks."""
    text = "\n".join(read_sources(requirements).texts)
    names_files = _names_files(requirements, text)
    code = str(requirements.code) if names_files else ""
    parts = [str(requirements.is_frozen), *more, code, text]
    parts.extend(_text(file) for file in settings_files(requirements))
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:32], names_files


def installer_environment(own: Mapping[str, str], jobs: Mapping[str, str]) -> dict[str, str]:
    """Return what uv may see of the agent's environment, given what jobs may see of it."""
    more = {
        name: value for name, value in own.items() if name in INSTALLER_VARIABLES or name.startswith(INSTALLER_PREFIX)
    }
    return {**jobs, **more}


def _failed(result: Result) -> LaunchFailed:
    words = " ".join(result.output.decode(errors="replace").split()) or f"uv ended with code {result.code}"
    quoted = words if len(words) <= QUOTED_CHARS else f"{words[:QUOTED_CHARS]}..."
    return LaunchFailed(
        f"The job's requirements could not be installed: {quoted} "
        "Correct them and make the job again; the whole output is attached.",
        log=result.output,
        stage="build",
    )


def settings_of(own: Mapping[str, str]) -> list[str]:
    """Return the settings of uv that this machine gives and that may decide what is installed."""
    variables = [
        f"{name}={without_passwords(value)}"  # which may be new ones every hour
        for name, value in sorted(own.items())
        if name.startswith(INSTALLER_PREFIX) and not _NOT_DECIDING.fullmatch(name)
    ]
    home = Path(own.get("XDG_CONFIG_HOME") or Path(own.get("HOME", "/")) / ".config")
    files = (Path(own.get("UV_CONFIG_FILE", "/etc/uv/uv.toml")), home / "uv" / "uv.toml")
    return variables + [without_passwords(_text(file)) for file in files if os.access(file, os.R_OK)]


def _names_files(requirements: Requirements, text: str) -> bool:
    if requirements.code is None:
        return False
    if requirements.file.name == PROJECT:
        return has_dynamic_dependencies(requirements.file) or "[tool.uv.sources]" in text
    included = _INCLUDED.sub("", text)
    return bool(_LOCAL.search(_URL.sub("", _COMMENT.sub("", included))))


def needs_code(requirements: Requirements) -> bool:
    """Whether requirements name files of the code, or depend on it in another way. In doubt, they do. Blocks."""
    return _names_files(requirements, "\n".join(read_sources(requirements).texts))


def _text(file: Path) -> str:
    return file.read_text("utf-8", errors="replace")


def _missing(folder: Path) -> list[str]:
    return (folder / MISSING).read_text("utf-8").splitlines()
