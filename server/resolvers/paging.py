"""Relay connections: the one way in which lists are paged."""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from server.errors import RequestError

DEFAULT_PAGE = 50
MAX_PAGE = 10_000


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of a list is asked for: at most `limit` entries behind position `after`."""

    after: int
    limit: int

    @classmethod
    def of(cls, first: int | None, after: str | None, default: int = DEFAULT_PAGE) -> "Page":
        """Read GraphQL's `first` and `after`."""
        return cls(_position(after) if after else 0, min(max(first or default, 1), MAX_PAGE))


def cursor(position: int) -> str:
    """Return the opaque cursor of a position."""
    return base64.b64encode(f"cursor:{position}".encode()).decode()


def connection_of(found: Sequence[tuple[int, Any]], page: Page, **more: Any) -> dict[str, Any]:
    """Shape (position, node) pairs as a connection. One more than the limit tells that more follow."""
    shown = found[: page.limit]
    edges = [{"cursor": cursor(position), "node": node} for position, node in shown]
    return {
        "edges": edges,
        "pageInfo": {
            "__typename": "PageInfo",
            "endCursor": edges[-1]["cursor"] if edges else None,
            "hasNextPage": len(found) > page.limit,
        },
        **more,
    }


def _position(after: str) -> int:
    try:
        kind, _, number = base64.b64decode(after, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        kind, number = "", ""
    if kind != "cursor" or not number.isdecimal():
        raise RequestError(f"{after!r} is not a cursor of this server.")
    return int(number)
