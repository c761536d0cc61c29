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
        reason = b"".join(error.args).decode(errors="replace")
        raise RequestError(f"{pattern!r} is no regular expression (of RE2): {reason}.") from error


def is_found(pattern: str, text: str | None) -> bool:
    """Tell whether an expression is found anywhere in a text."""
    # As bytes, whose positions need no translation.
    return text is not None and _compiled(pattern).search(text.encode()) is not None


@lru_cache
def _compiled(pattern: str) -> Any:
    options = _re2.Options()
    options.log_errors = False
    return _re2.compile(pattern, options)


# --- PostgreSQL's words ----------------------------------------------------------------------------------------------

_MAX_REPEATS = 255
_ALIKE = "afnrtv"
"""Letters that mean the same behind a backslash."""
_CLASSES = {"d": "0-9", "w": "A-Za-z0-9_", "s": r"\t\n\f\r "}
_ANCHORS = {"b": r"\y", "B": r"\Y", "A": r"\A", "z": r"\Z"}
_TOKEN = re.compile(
    r"""
      \\Q (?P<quoted>.*?) (?:\\E|\Z)
    | \\x (?:\{(?P<long_code>[0-9A-Fa-f]+)\} | (?P<code>[0-9A-Fa-f]{2}))
    | \\ (?P<escaped>.)
    | \(\? (?: : | P?<\w+> | (?P<flags>[A-Za-z-]+[:)]) )
    | \{ (?P<least>\d+) (?:,(?P<most>\d*))? \}
    | \[ (?P<negated>\^?) (?P<members> \]? (?: \[:\^?\w+:\] | \\. | [^\]\\] )* ) \]
    | (?P<plain>.)
    """,
    re.DOTALL | re.VERBOSE,
)


def in_postgresql(pattern: str) -> str:
    """Return an expression that `check` has let pass in PostgreSQL's words; `RequestError` for what it has none for.

    What it calls a digit, a space or a part of a word depends on its locale, and its dot finds ends of lines.
    """
    pattern, flags = _without_flags(pattern)
    words = "".join(_translated(pattern, token, "s" in flags) for token in _TOKEN.finditer(pattern))
    return f"(?i){words}" if "i" in flags else words


def _without_flags(pattern: str) -> tuple[str, str]:
    """Take flags from the beginning, where people write them, and where PostgreSQL has them, too."""
    found = re.match(r"\(\?([is]+)\)", pattern)
    return (pattern[found.end() :], found[1]) if found else (pattern, "")


def _translated(pattern: str, token: re.Match[str], dot_is_all: bool) -> str:
    if token["quoted"] is not None:
        return re.escape(token["quoted"])
    if token["long_code"] or token["code"]:
        return re.escape(chr(int(token["long_code"] or token["code"], 16)))
    if (letter := token["escaped"]) is not None:
        return _escape(pattern, letter)
    if token["flags"]:
        raise _foreign(pattern, token[0])
    if token["least"] and max(int(token["least"]), int(token["most"] or 0)) > _MAX_REPEATS:
        raise _foreign(pattern, token[0])
    if (members := token["members"]) is not None:
        return f"[{token['negated']}{_members(pattern, members)}]"
    if token[0].startswith("(?"):
        return "(?:"
    return {".": "." if dot_is_all else r"[^\n]", "{": r"\{", "}": r"\}"}.get(token[0], token[0])


def _escape(pattern: str, letter: str) -> str:
    if letter.lower() in _CLASSES:
        return f"[{'^' if letter.isupper() else ''}{_CLASSES[letter.lower()]}]"
    return _ANCHORS.get(letter) or _alike(pattern, letter)


def _alike(pattern: str, letter: str) -> str:
    if letter.isalnum() and letter not in _ALIKE:
        raise _foreign(pattern, f"\\{letter}")
    return f"\\{letter}"


def _members(pattern: str, members: str) -> str:
    def translated(member: re.Match[str]) -> str:
        if member[0].startswith("[:"):
            if member[0].startswith("[:^"):
                raise _foreign(pattern, member[0])
            return _CLASSES["w"] if member[0] == "[:word:]" else member[0]
        if member[1] is None:
            return r"\["
        return _CLASSES.get(member[1]) or _alike(pattern, member[1])

    return re.sub(r"\[:\^?\w+:\]|\\(.)|\[", translated, members, flags=re.DOTALL)


def _foreign(pattern: str, part: str) -> RequestError:
    return RequestError(f"The regular expression {pattern!r} has {part!r}, which not every database can look for.")
