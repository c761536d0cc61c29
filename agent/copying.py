"""Copies a job's code."""

import shutil
from pathlib import Path


def copy_code(source: Path, target: Path) -> None:
    """Copy a folder to where there is none yet, links as links. Raises `OSError`, with one cause. Blocks."""
    try:
        shutil.copytree(source, target, symlinks=True)
    except shutil.Error as error:  # it has a line for each file that a full disk did not take
        (path, _, why), *_ = error.args[0]
        raise OSError(f"{path}: {why}") from error
