"""Copies a job's code."""

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path


def copy_code(source: Path, target: Path, *, ignore: Callable[[str, list[str]], Iterable[str]] | None = None) -> None:
    """Copy a folder to where there is none yet, links as links. Raises `OSError`, with one cause. Blocks.

    `ignore` is asked for each folder, with the names in it, and returns those to leave out.
    """
    try:
        shutil.copytree(source, target, symlinks=True, ignore=ignore)
    except shutil.Error as error:  # it has a line for each file that a full disk did not take
        (path, _, why), *_ = error.args[0]
        raise OSError(f"{path}: {why}") from error
