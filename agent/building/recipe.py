"""A recipe: everything that decides what an image holds, and the build context that is made by it."""

import os
import shutil
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agent.config.forms import size_text
from agent.copying import copy_code
from agent.errors import LaunchFailed
from agent.launch import Cause
from agent.requirements import Requirements
from agent.sources.notebook import convert_notebook

DOCKERFILE = "Dockerfile.wandb"
"""What the Dockerfile is called in every context, wherever it came from."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides what an image holds."""

    dockerfile: str
    """Its text."""
    code: Path
    """The folder whose files go into the context."""
    place: str = ""
    """Where in the context they go; empty: its root."""
    more: Mapping[str, Path] = field(default_factory=dict[str, Path])
    """Other files of the context, by their name there."""
    command: tuple[str, ...] | None = None
    """The job's own command where its paths are others in the image; None: as it is."""
    is_generated: bool = False
    requirements: Requirements | None = None
    """What a generated one installs."""
    notebook: str | None = None
    """What of the code becomes a script: a path in its folder."""


def fill(folder: Path, recipe: Recipe, limit: int) -> None:
    """Make the build context: copies of the files, without what git keeps, and nothing from outside of the code.

    `limit` is in bytes. Raises `LaunchFailed`, or `OSError` where the disk is full.
    """
    target = folder / recipe.place
    size = 0

    def checked(at: str, names: list[str]) -> set[str]:
        nonlocal size
        for name in names:
            if name != ".git":
                size += _size(Path(at, name), recipe.code)
        if size > limit:
            raise unusable(
                f"The code is larger than {size_text(limit)} (builder.context_limit of the agent). Leave data out of "
                "the job, and read it from an artifact instead."
            )
        return {".git"}.intersection(names)

    copy_code(recipe.code, target, ignore=checked)
    if recipe.notebook:
        convert_notebook(target, recipe.notebook)
    for name, file in recipe.more.items():
        shutil.copy(file, folder / name)
    file = folder / DOCKERFILE
    file.unlink(missing_ok=True)  # it may be a link
    file.write_text(recipe.dockerfile, "utf-8")


def _size(path: Path, root: Path) -> int:
    """Return how large a file is; `LaunchFailed` if it is none that may go into an image."""
    what = path.lstat()
    shown = path.relative_to(root).as_posix()
    if stat.S_ISLNK(what.st_mode):
        if not is_within(path, root):
            raise unusable(f"The code has a link that leads out of it: {shown!r} to {str(path.readlink())!r}.")
    elif not stat.S_ISREG(what.st_mode) and not stat.S_ISDIR(what.st_mode):
        raise unusable(f"The code has {shown!r}, which is neither a file nor a folder nor a link.")
    return what.st_size if stat.S_ISREG(what.st_mode) else 0


def is_within(path: Path, root: Path) -> bool:
    """Whether a path leads to a place below a folder, with links followed, also those that lead in a circle."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))


def unusable(message: str) -> LaunchFailed:
    """Return the failure for code of which no image can be built."""
    return LaunchFailed(message, stage="build", reason="build_context", cause=Cause.WORKLOAD)
