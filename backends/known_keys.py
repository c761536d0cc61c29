"""Refuses keys that a backend does not know, with the nearest one that it does."""

import difflib
from collections.abc import Iterable, Sequence

from backends.base import BackendError


def check_known(where: str, keys: Iterable[str], known: Sequence[str]) -> None:
    """Raise `BackendError` for a key that is none of the known ones; `where` is what stands before keys in messages."""
    for key in keys:
        if key in known:
            continue
        near = difflib.get_close_matches(key, known, 1)
        hint = f"Did you mean `{where}{near[0]}`?" if near else f"There are: {', '.join(known) or 'none'}."
        raise BackendError(f"`{where}{key}` is not known. {hint}")
