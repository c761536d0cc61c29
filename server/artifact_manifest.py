"""The manifest of an artifact version: which files it has, and the digest of the whole. Pure."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from server.errors import Conflict


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of an artifact."""

    path: str
    digest: str
    """Base64 MD5 of a file's content; of a reference, whatever its origin calls a checksum."""
    size_bytes: int
    ref: str | None
    """Where a reference's content is. None: it was uploaded here."""


def parse(content: bytes) -> list[Entry]:
    """Read a manifest; `Conflict` says what is wrong with it."""
    try:
        contents: dict[str, dict[str, Any]] = json.loads(content)["contents"]
        entries = [
            Entry(path, entry["digest"], int(entry.get("size") or 0), entry.get("ref"))
            for path, entry in contents.items()
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise Conflict(f"The artifact's manifest cannot be read: {type(error).__name__}: {error}.") from error
    for entry in entries:
        parts = PurePosixPath(entry.path)
        if parts.is_absolute() or ".." in parts.parts or not parts.parts:
            raise Conflict(f"The artifact names a file {entry.path!r}, which would lie outside of it.")
    return entries


def digest(entries: list[Entry]) -> str:
    """Return the digest of a whole artifact, in hex."""
    text = hashlib.md5(b"wandb-artifact-manifest-v1\n", usedforsecurity=False)
    for entry in sorted(entries, key=lambda entry: entry.path):
        text.update(f"{entry.path}:{entry.digest}\n".encode())
    return text.hexdigest()
