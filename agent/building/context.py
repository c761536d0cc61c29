"""Which recipe an image is built by: which Dockerfile, and which files go into the build context.

The first that is there: `overrides.dockerfile`, the job's `dockerfile`, a `Dockerfile.wandb` beside the entry point,
whose folder is the context then, and otherwise a generated one. Paths lie inside of the code, with links followed.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from uv import find_uv_bin

from agent.beginning import begins_in
from agent.building.dockerfile import SOURCE, UV, Installation, generate
from agent.building.recipe import DOCKERFILE, Recipe, is_within, unusable
from agent.config.forms import size_text
from agent.images import python_version
from agent.requirements import FROZEN, find_requirements
from agent.resolve import Resolved
from protocol.command import notebook_of

ROOT_RESOURCES = frozenset({"sagemaker"})
"""Platforms on which jobs have to be root."""
DEFAULT_USER_ID = 1000
MAX_TEXT_BYTES = 2**20
"""Of a Dockerfile, or of requirements."""
_NAMES_FILES = re.compile(
    r"^\s*(?:-r|-c|-e|-f|--requirement|--constraint|--editable|--find-links|\.|/)|\bfile:|@\s*\.", re.MULTILINE
)


def choose(resolved: Resolved, base_image: str | None) -> Recipe:
    """Find the Dockerfile of a launch, or make one; `LaunchFailed` where it names one that is not there."""
    recipe = _recipe(resolved, base_image)
    return replace(recipe, notebook=_notebook(resolved, recipe.code))


def _recipe(resolved: Resolved, base_image: str | None) -> Recipe:
    assert resolved.code_folder is not None
    job, overrides = resolved.job, resolved.spec.overrides
    root = resolved.code_folder
    if job and job.build_context:
        root = _inside(root, job.build_context, "build context")
        if not root.is_dir():
            raise unusable(f"The job's build context {job.build_context!r} is not a folder of its code.")
    named = overrides.dockerfile or (job.dockerfile if job else None)
    if named:
        return Recipe(_read(root, named), root)
    entry_point = job.entry_point if job else ()
    folder = PurePosixPath(entry_point[-1]).parent if entry_point else PurePosixPath()
    if not folder.is_absolute() and ".." not in folder.parts and (root / folder / DOCKERFILE).is_file():
        beside = _inside(root, str(folder), "folder of the entry point")
        return Recipe(_read(beside, DOCKERFILE), beside, command=_moved(entry_point))
    return _generated(resolved, base_image)


def _notebook(resolved: Resolved, code: Path) -> str | None:
    """Return the job's notebook, by its path in the folder that goes into the context; None if that has none."""
    name = notebook_of(resolved.job) if resolved.job else None
    assert resolved.code_folder is not None
    if name is None:
        return None
    path = resolved.code_folder / begins_in(resolved.spec, resolved.job, resolved.code_folder) / name
    return path.relative_to(code).as_posix() if path.is_relative_to(code) else None


def _generated(resolved: Resolved, base_image: str | None) -> Recipe:
    assert resolved.code_folder is not None
    code, job = resolved.code_folder, resolved.job
    more = {UV: Path(find_uv_bin())}
    installation = None
    wanted = find_requirements(code, job.build_context if job else None, resolved.job_folder, None)
    if wanted and wanted.is_frozen:
        more[FROZEN] = wanted.file
        installation = Installation(FROZEN, is_tolerant=True)
    elif wanted:
        file = f"{SOURCE}/{wanted.file.relative_to(code).as_posix()}"
        installation = Installation(file, needs_code=_names_files(wanted.file))
    dockerfile = generate(
        python=python_version(resolved.spec, job),
        base_image=base_image,
        user_id=_user_id(resolved),
        installation=installation,
        beginning=_beginning(resolved),
    )
    return Recipe(dockerfile, code, SOURCE, more, is_generated=True, requirements=wanted)


def _beginning(resolved: Resolved) -> str:
    """Return where in its code a job begins, as a line of a Dockerfile may have it."""
    found = begins_in(resolved.spec, resolved.job, resolved.code_folder)
    if not re.fullmatch(r"[\w./ +@=,-]*", found):
        raise unusable(f"The job's build context {found!r} cannot be named in a Dockerfile. Call the folder otherwise.")
    return found


def _names_files(requirements: Path) -> bool:
    """Whether requirements name files beside them. A project's own table does not, unless uv is told where they are."""
    text = _text(requirements)
    return (
        bool(_NAMES_FILES.search(text))
        if requirements.suffix == ".txt"
        else "tool.uv" in text or "file:" in text or "dynamic" in text
    )


def _user_id(resolved: Resolved) -> int:
    if resolved.spec.resource in ROOT_RESOURCES:
        return 0
    docker = resolved.spec.raw.get("docker")
    user_id = docker.get("user_id") if isinstance(docker, Mapping) else None
    if user_id is None:
        return DEFAULT_USER_ID
    if not isinstance(user_id, int) or isinstance(user_id, bool) or not 0 <= user_id < 2**31:
        raise unusable(f"`docker.user_id` is {user_id!r}; it must be a number of a user, as 1000.")
    return user_id


def _moved(entry_point: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return the command for an image whose context is the entry point's own folder, as the stock agent has it."""
    if len(entry_point) == 2 and (entry_point[0].startswith("python") or entry_point[0] == "bash"):
        return (entry_point[0], PurePosixPath(entry_point[1]).name)
    return None


def _inside(root: Path, path: str, what: str) -> Path:
    parts = PurePosixPath(path)
    found = root.joinpath(*parts.parts)
    if parts.is_absolute() or ".." in parts.parts or not is_within(found, root):
        raise unusable(f"The {what} {path!r} lies outside of the job's code.")
    return found


def _read(root: Path, path: str) -> str:
    file = _inside(root, path, "Dockerfile")
    if not file.is_file():
        raise unusable(f"Dockerfile does not exist at {path}: the job's code has no such file.")
    return _text(file)


def _text(file: Path) -> str:
    if file.stat().st_size > MAX_TEXT_BYTES:
        raise unusable(
            f"{file.name} is larger than {size_text(MAX_TEXT_BYTES)}. It is hardly meant to be read as text."
        )
    return file.read_text("utf-8", errors="replace")
