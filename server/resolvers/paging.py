"""Relay connections: the one way in which lists are paged."""

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard, cast

from server import json_text
from server.errors import RequestError
from server.storage.places import Key

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


@dataclass(frozen=True, slots=True)
class OrderedPage:
    """Which part of an ordered list is asked for: at most `limit` entries behind a place in its order.

    A place is named by what the list is ordered by, and so stays where it is when entries come and go.
    """

    behind: Sequence[Any] | None
    limit: int

    @classmethod
    def of(
        cls, first: int | None, after: str | None, keys: Sequence[Key], default: int = DEFAULT_PAGE
    ) -> "OrderedPage":
        """Read GraphQL's `first` and `after` of a list that is ordered by these."""
        behind = _decoded(after) if after else None
        if after and not _is_place(behind, keys):
            raise _no_cursor(after)
        return cls(cast("list[Any] | None", behind), min(max(first or default, 1), MAX_PAGE))


def cursor(position: int | Sequence[Any]) -> str:
    """Return the opaque cursor of a position, or of a place."""
    return base64.b64encode(f"cursor:{json.dumps(position)}".encode()).decode()


def connection_of(
    found: Sequence[tuple[int | Sequence[Any], Any]], page: Page | OrderedPage, **more: Any
) -> dict[str, Any]:
    """Shape (position, node) or (place, node) pairs as a connection. One more than the limit tells that more follow."""
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
    position = _decoded(after)
    if not _is_row_number(position):
        raise _no_cursor(after)
    return position


def _is_place(found: object, keys: Sequence[Key]) -> bool:
    """Whether a list that is ordered by these can have such a place: cursors of other orders come, too."""
    if not isinstance(found, list) or len(cast("list[Any]", found)) != len(keys) + 1:
        return False
    *values, row_id = cast("list[Any]", found)
    return _is_row_number(row_id) and all(key.may_be(value) for key, value in zip(keys, values, strict=True))


def _is_row_number(found: object) -> TypeGuard[int]:
    return isinstance(found, int) and not isinstance(found, bool) and 0 <= found < 2**63


def _decoded(after: str) -> object:
    try:
        kind, _, position = base64.b64decode(after, validate=True).decode().partition(":")
        return json_text.parse(position) if kind == "cursor" else None
    except (binascii.Error, ValueError):
        return None


def _no_cursor(after: str) -> RequestError:
    return RequestError(f"{after!r} is not a cursor of this list.")
