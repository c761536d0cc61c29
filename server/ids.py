"""Opaque ids on the wire: base64 of `Kind:number`, as clients of the protocol expect of them.

Artifact ids must be valid base64, because references are built from their decoded bytes. Run ids are the exception that
clients build themselves: base64 of `Run:v1:<run>:<project>:<entity>`.
"""

import base64
import binascii
from typing import NamedTuple

from server.errors import NotFound

REFERENCE = "wandb-artifact://"
"""How references to files of other versions begin. An id in hex and a path come behind it."""


class RunKey(NamedTuple):
    """What a run's storage id says."""

    run: str
    project: str
    entity: str


def encode(kind: str, number: int) -> str:
    """Return the wire id of row `number` of that kind."""
    return base64.b64encode(f"{kind}:{number}".encode()).decode()


def decode(kind: str, wire_id: str) -> int:
    """Return the row number behind a wire id; `NotFound` if it is not an id of that kind."""
    text = _text(wire_id)
    prefix, _, number = text.partition(":")
    if prefix != kind or not number.isdecimal():
        raise NotFound(f"{wire_id!r} is not the id of a {kind}.")
    return int(number)


def is_of(kind: str, wire_id: str) -> bool:
    """Whether this is the wire id of that kind."""
    return _text(wire_id).partition(":")[0] == kind


def decode_reference(uri: str) -> int | None:
    """Return the row number of the version that a reference to its file leads to; None if it leads to none."""
    try:
        text = bytes.fromhex(uri.removeprefix(REFERENCE).partition("/")[0]).decode()
    except ValueError:
        return None
    prefix, _, number = text.partition(":")
    return int(number) if prefix == "Artifact" and number.isdecimal() else None


def decode_run(wire_id: str) -> RunKey:
    """Return the run id, project and entity behind a run's storage id; `NotFound` if it is none."""
    parts = _text(wire_id).split(":")
    # A project's name holds no colon, nor does an entity's; a run id may not either.
    if len(parts) != 5 or parts[:2] != ["Run", "v1"]:
        raise NotFound(f"{wire_id!r} is not the id of a run.")
    return RunKey(*parts[2:])


def _text(wire_id: str) -> str:
    try:
        return base64.b64decode(wire_id, validate=True).decode()
    except (binascii.Error, ValueError):
        return ""
