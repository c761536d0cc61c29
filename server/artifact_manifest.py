"""The manifest of an artifact version: which files it has, and the digest of the whole. Pure."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from protocol.errors import LaunchbayError
from protocol.json_read import Reader
from protocol.json_types import Json
from server.errors import Conflict

SIZES = range(2**63)
MAX_PATH_CHARS = 1024
MAX_PATH_BYTES = 2048
"""What every database takes as a key, in UTF-8."""
_NO_TEXT = re.compile("[\x00\ud800-\udfff]")
"""What JSON can say and neither a database nor a file system can hold."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of an artifact."""

    path: str
    digest: str
    """Base64 MD5 of a file's content; of a reference, whatever its origin calls a checksum."""
    size_bytes: int
    ref: str | None
    """Where a reference's content is. None: it was uploaded here."""


class _Unreadable(LaunchbayError):
    """A value of the manifest is not what it must be."""


def parse(content: bytes) -> list[Entry]:
    """Read a manifest; `Conflict` says what is wrong with it."""
    try:
        manifest = Reader(json.loads(content), _Unreadable)
        if "contents" not in manifest.raw:
            raise _Unreadable("it has no `contents`.")
        return [_entry(path, entry) for path, entry in manifest.object("contents").items()]
    except (ValueError, RecursionError, _Unreadable) as error:
        raise Conflict(f"The artifact's manifest cannot be read: {error}") from error


def merged(manifests: Sequence[bytes]) -> bytes:
    """Return the manifest that several make together; of a path that several name, the last one says what it is."""
    whole: dict[str, Json] = {}
    contents: dict[str, Json] = {}
    for manifest in manifests:
        parse(manifest)  # says what is wrong with it
        read: dict[str, Any] = json.loads(manifest)
        contents.update(read["contents"])
        whole = read
    return json.dumps({**whole, "contents": contents}).encode()


def _entry(path: str, entry: Json) -> Entry:
    _check_path(path)
    raw = Reader(entry, _Unreadable, f"{path}: ")
    size, file_digest, ref = raw.integer("size"), raw.required_text("digest"), raw.text("ref")
    if size not in SIZES:
        raise _Unreadable(f"{path!r} cannot have {size} bytes.")
    if _NO_TEXT.search(file_digest) or _NO_TEXT.search(ref or ""):
        raise _Unreadable(f"{path!r} has digest {file_digest!r} and reference {ref!r}, which are not both text.")
    return Entry(path, file_digest, size, ref)


def _check_path(path: str) -> None:
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts or not parts.parts:
        raise Conflict(f"The artifact names a file {path!r}, which would lie outside of it.")
    if len(path) > MAX_PATH_CHARS:
        raise Conflict(
            f"The artifact names a file {path[:40]!r}..., whose path has {len(path)} characters. "
            f"Use at most {MAX_PATH_CHARS}."
        )
    if _NO_TEXT.search(path):
        raise Conflict(f"The artifact names a file {path!r}, which no folder can hold. Rename it.")
    size = len(path.encode())
    if size > MAX_PATH_BYTES:
        raise Conflict(
            f"The artifact names a file {path[:40]!r}..., whose path has {size} bytes. Use at most {MAX_PATH_BYTES}."
        )


def digest(entries: list[Entry]) -> str:
    """Return the digest of a whole artifact, in hex."""
    text = hashlib.md5(b"wandb-artifact-manifest-v1\n", usedforsecurity=False)
    for entry in sorted(entries, key=lambda entry: entry.path):
        text.update(f"{entry.path}:{entry.digest}\n".encode())
    return text.hexdigest()
