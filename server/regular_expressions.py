"""Regular expressions that people send: those of RE2, as the client's documentation has them, in linear time."""

import re
from functools import lru_cache
from typing import Any

import re2  # type: ignore[import-untyped]

from server.errors import RequestError

_re2: Any = re2  # it has no types


def check(pattern: str) -> None:
    """Raise `RequestError` unless this is a regular expression."""
    try:
        _compiled(pattern)
    except _re2.error as error:
        raise RequestError(f"{pattern!r} is no regular expression (of RE2): {error}.") from error


def is_found(pattern: str, text: str | None) -> bool:
    """Tell whether an expression is found anywhere in a text."""
    # As bytes, whose positions need no translation.
    return text is not None and _compiled(pattern).search(text.encode()) is not None


def in_postgresql(pattern: str) -> str:
    r"""Return the expression in PostgreSQL's words, which takes `\b` for a backspace."""
    return re.sub(r"\\(.)", lambda escape: {"b": r"\y", "B": r"\Y"}.get(escape[1], escape[0]), pattern, flags=re.DOTALL)


@lru_cache
def _compiled(pattern: str) -> Any:
    options = _re2.Options()
    options.log_errors = False
    return _re2.compile(pattern, options)
