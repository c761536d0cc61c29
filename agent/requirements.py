"""What a job wants installed: the requirements of its code, or else those that were frozen at its making."""

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, TypeVar, cast

from agent.config.forms import size_text
from agent.errors import LaunchFailed

AnyPath = TypeVar("AnyPath", bound=PurePath)

REQUIREMENTS = "requirements.txt"
PROJECT = "pyproject.toml"
FROZEN = "requirements.frozen.txt"
MAX_BYTES = 2**20
"""Of a file of requirements."""


@dataclass(frozen=True, slots=True)
class Requirements:
    """What a job wants installed."""

    file: Path
    """A requirements file or a `pyproject.toml`; relative paths in it are meant from its folder."""
    python: str | None = None
    """Version, as `3.11` or `3.11.7`; None for the agent's own."""
    code: Path | None = None
    """The code that the file belongs to: a folder whose path stands for its content. None if it belongs to none."""
    is_frozen: bool = False
    """Whether it lists what happened to be installed where the job was made, and not what the job asks for."""


def find_requirements(
    code: Path | None, build_context: str | None, job_folder: Path | None, python: str | None
) -> Requirements | None:
    """Return what to install, in the order of the protocol; None if nothing is asked for. Blocks.

    A folder of the code that the job names (`build_context`) is asked before the whole of it. Raises `LaunchFailed` if
    a file cannot be read.
    """
    if code is not None:
        for folder in _asked(code, build_context):
            for name, is_any in ((REQUIREMENTS, _has_text), (PROJECT, _has_dependencies)):
                if _is_inside(folder / name, code) and is_any(folder / name):
                    return Requirements(folder / name, python, code)
    if job_folder is not None and has_frozen(job_folder):
        return Requirements(job_folder / FROZEN, python, is_frozen=True)
    return None


def may_have_requirements(files: Mapping[PurePosixPath, int], build_context: str | None, job_folder: Path) -> bool:
    """Whether a job may want something installed, by its files, with their sizes in bytes, alone. Blocks."""
    if has_frozen(job_folder):
        return True
    folders = _asked(PurePosixPath(), build_context)
    return any(files.get(folder / name) for folder in folders for name in (REQUIREMENTS, PROJECT))


def has_frozen(job_folder: Path) -> bool:
    """Whether a job tells what was installed where it was made. Blocks."""
    return _has_text(job_folder / FROZEN)


def has_dynamic_dependencies(pyproject: Path) -> bool:
    """Whether a project's dependencies are known only once its build has been asked for them."""
    return "dependencies" in _project(pyproject).get("dynamic", ())


def settings_files(requirements: Requirements) -> Iterator[Path]:
    """Yield the files of the code from which uv takes settings when it installs these requirements."""
    if requirements.code is not None:
        for folder in (requirements.file.parent, *requirements.file.parent.parents):
            yield from (path for name in ("uv.toml", PROJECT) if (path := folder / name).is_file())
            if folder == requirements.code:
                return


def _asked(code: AnyPath, build_context: str | None) -> Iterable[AnyPath]:
    """Return the folders of the code that are asked, in their order."""
    return dict.fromkeys((code / (build_context or ""), code))


def _is_inside(file: Path, code: Path) -> bool:
    """Whether it is a file of the code: a link to another of this machine's files must not be read for it."""
    return file.is_file() and file.resolve().is_relative_to(code.resolve())


def _has_text(file: Path) -> bool:
    if not file.is_file():
        return False
    if file.stat().st_size > MAX_BYTES:
        raise LaunchFailed(
            f"{file.name} of the job is larger than {size_text(MAX_BYTES)}, and not read.", stage="build"
        )
    return bool(file.read_text("utf-8", errors="replace").strip())


def _has_dependencies(pyproject: Path) -> bool:
    return _has_text(pyproject) and (
        bool(_project(pyproject).get("dependencies")) or has_dynamic_dependencies(pyproject)
    )


def _project(pyproject: Path) -> dict[str, Any]:
    try:
        project: Any = tomllib.loads(pyproject.read_text("utf-8")).get("project")
    except ValueError as error:
        raise LaunchFailed(
            f"{PROJECT} of the job's code cannot be read: {error}. Correct it and make the job again.", stage="build"
        ) from error
    return cast("dict[str, Any]", project) if isinstance(project, dict) else {}
