"""Python environments of jobs: one virtual environment per set of requirements, made with `uv`, cached by content.

An environment counts as made when its marker file is there, and the marker is written last: what a crash leaves
half-made is made again. Many launches that want the same one wait for one installation.
"""

import asyncio
import hashlib
import os
import re
import shutil
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog
from uv import find_uv_bin

from agent.caches.single_flight import SingleFlight
from agent.errors import LaunchFailed

INSTALL_TIMEOUT_SECONDS = 1800
MARKER = ".launchbay-ready"
_INCLUDED = re.compile(r"^\s*(?:-r|-c|--requirement|--constraint)[\s=]+(\S+)", re.MULTILINE)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Requirements:
    """What a job wants installed."""

    file: Path
    """A requirements file; relative paths in it are meant from its folder."""
    python: str | None
    """Version, as `3.11` or `3.11.7`; None for the agent's own."""


class Environments:
    """The cache of environments under one root."""

    def __init__(self, root: Path, environment: Mapping[str, str]) -> None:
        self._root = root
        self._environment = environment
        self._making = SingleFlight()

    async def ensure(self, requirements: Requirements) -> Path:
        """Return an environment with these requirements, made now if need be; `LaunchFailed` with uv's words if not."""
        text = await asyncio.to_thread(_whole_text, requirements.file)
        key = hashlib.sha256(f"{requirements.python}\n{sys.version}\n{text}".encode()).hexdigest()[:32]
        folder = self._root / key
        async with self._making.alone(key):
            if not await asyncio.to_thread((folder / MARKER).exists):
                await self._make(folder, requirements)
        return folder

    async def _make(self, folder: Path, requirements: Requirements) -> None:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        await asyncio.to_thread(folder.parent.mkdir, parents=True, exist_ok=True)
        python = await self._interpreter(requirements.python)
        await self._uv("venv", "--quiet", "--python", python, str(folder))
        await self._uv(
            *("pip", "install", "--quiet", "--python", str(folder / "bin" / "python")),
            *("--requirements", requirements.file.name),
            cwd=requirements.file.parent,
        )
        await asyncio.to_thread((folder / MARKER).touch)
        log.info("environment made", folder=str(folder), python=python)

    async def _interpreter(self, version: str | None) -> str:
        """Return a Python of that minor version; the agent's own where this machine has no such."""
        own = f"{sys.version_info.major}.{sys.version_info.minor}"
        wanted = ".".join((version or own).split(".")[:2])
        if wanted == own:
            return sys.executable
        code, output = await self._run("python", "find", "--no-python-downloads", wanted)
        if code == 0:
            return output.decode().strip().splitlines()[-1]
        log.warning("no such Python here, using the agent's own", wanted=wanted, using=own)
        return sys.executable

    async def _uv(self, *arguments: str, cwd: Path | None = None) -> None:
        code, output = await self._run(*arguments, cwd=cwd)
        if code != 0:
            tail = output.decode(errors="replace").strip()
            raise LaunchFailed(
                "The job's requirements could not be installed: "
                f"{tail.splitlines()[-1] if tail else f'uv ended with code {code}'}. "
                "Correct requirements.txt and make the job again; the whole output is attached.",
                log=output,
                stage="build",
            )

    async def _run(self, *arguments: str, cwd: Path | None = None) -> tuple[int, bytes]:
        process = await asyncio.create_subprocess_exec(
            find_uv_bin(),
            *arguments,
            cwd=cwd,
            env=dict(self._environment),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(INSTALL_TIMEOUT_SECONDS):
                output, _ = await process.communicate()
        except TimeoutError:
            return -1, f"No end after {INSTALL_TIMEOUT_SECONDS} seconds.".encode()
        finally:
            # Also when the launch is stopped in the middle: uv and what it started must not go on.
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        return process.returncode or 0, output


def _whole_text(file: Path, seen: frozenset[Path] = frozenset()) -> str:
    """Return a requirements file with the files that it includes, so that the cache key covers them all."""
    text = file.read_text("utf-8", errors="replace")
    parts = [text]
    for name in _INCLUDED.findall(text):
        included = (file.parent / name).resolve()
        if included.is_file() and included not in seen:
            parts.append(_whole_text(included, seen | {included}))
    return "\n".join(parts)
