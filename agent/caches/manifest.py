"""What a version of an artifact consists of, as its manifest says, and whether that may become files here. Pure."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, cast

from agent.config.forms import size_text
from agent.errors import ControlPlaneRefused, LaunchFailed

LONGEST_NAME = 255
"""Bytes; what Linux file systems take."""
LONGEST_PATH = 2048
"""Bytes. Linux takes 4096, of which the state folder needs a part."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much code a launch may have, in bytes; None for no limit."""

    file: int | None = None
    total: int | None = None


@dataclass(frozen=True, slots=True)
class File:
    """One file of an artifact."""

    name: str
    """As the manifest has it."""
    path: PurePosixPath
    """Relative, and within the artifact's folder."""
    size: int
    """In bytes."""
    md5: str
    """In base64."""


def read_manifest(content: bytes, limits: Limits) -> Sequence[File]:
    """Return the files of an artifact. Raises `LaunchFailed` if they may not be or cannot be fetched."""
    try:
        entries = cast("Mapping[str, Mapping[str, Any]]", json.loads(content)["contents"])
        files = [_file(name, entry) for name, entry in entries.items()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ControlPlaneRefused("The artifact's manifest cannot be read.") from error
    _check_tree(files)
    _check_sizes(files, limits)
    return files


def _file(name: str, entry: Mapping[str, Any]) -> File:
    if entry.get("ref"):
        raise LaunchFailed(f"{name!r} in the code artifact is a reference ({entry['ref']}); log the file itself.")
    size, md5 = entry["size"], entry["digest"]
    if not isinstance(size, int) or size < 0 or not isinstance(md5, str):
        raise TypeError
    return File(name, _path(name), size, md5)


def _path(name: str) -> PurePosixPath:
    """Return a name as a path; also names that mean a place elsewhere on another system are refused."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\\" in name or path.parts[0][1:2] == ":":
        raise LaunchFailed(f"The artifact names a file {name!r}, which would lie outside of its folder.")
    try:
        lengths = [len(part.encode()) for part in path.parts]
    except UnicodeEncodeError:
        lengths = []
    if not lengths or "\0" in name or max(lengths) > LONGEST_NAME or sum(lengths) + len(lengths) > LONGEST_PATH:
        shown = f"{name[:100]!r}..." if len(name) > 100 else repr(name)
        raise LaunchFailed(f"The artifact names a file {shown}, which cannot be a file's name here. Rename it.")
    return path


def _check_tree(files: Sequence[File]) -> None:
    times = Counter(file.path for file in files)
    folders = {parent for file in files for parent in file.path.parents}
    for file in files:
        if times[file.path] > 1 or file.path in folders:
            raise LaunchFailed(
                f"The artifact names {str(file.path)!r} twice, as a file and again as a file or folder. Log it again."
            )


def _check_sizes(files: Sequence[File], limits: Limits) -> None:
    if limits.file is not None:
        for file in files:
            if file.size > limits.file:
                raise LaunchFailed(
                    f"{file.name!r} of the artifact has {size_text(file.size)}, and a file of a launch's code at most "
                    f"{size_text(limits.file)} (limits.file of the agent). Log data as an artifact of its own, which "
                    "the job fetches."
                )
    total = sum(file.size for file in files)
    if limits.total is not None and total > limits.total:
        raise LaunchFailed(
            f"The artifact has {size_text(total)}, and a launch's code at most {size_text(limits.total)} (limits.total "
            "of the agent). Log data as an artifact of its own, which the job fetches."
        )
