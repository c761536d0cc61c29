"""Regular expressions that people send: those of RE2, as the client's documentation has them, in linear time."""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import re2  # type: ignore[import-untyped]

from server.errors import RequestError

_re2: Any = re2  # it has no types

SHORT_CHARS = 100
"""Only for texts up to here answers are remembered."""


def check(pattern: str) -> None:
    """Raise `RequestError` unless this is a regular expression."""
    try:
        _compiled(pattern)
    except _re2.error as error:
        reason = b"".join(error.args).decode(errors="replace")
        raise RequestError(f"{pattern!r} is no regular expression (of RE2): {reason}.") from error


def is_found(pattern: str, text: str | None) -> bool:
    """Tell whether an expression is found anywhere in a text."""
    if text is None:
        return False
    return _remembered(pattern, text) if len(text) <= SHORT_CHARS else _search(pattern, text)


def _search(pattern: str, text: str) -> bool:
    # As bytes, whose positions need no translation.
    return _compiled(pattern).search(text.encode()) is not None


# Many runs have few different values, and a page is asked for together with how many runs there are.
_remembered = lru_cache(10_000)(_search)


@lru_cache
def _compiled(pattern: str) -> Any:
    options = _re2.Options()
    options.log_errors = False
    options.never_capture = True  # nobody asks where groups are, and to find out takes time
    return _re2.compile(pattern, options)


# --- its syntax ------------------------------------------------------------------------------------------------------

_TOKEN = re.compile(
    r"""
      \\Q (?P<quoted>.*?) (?:\\E|\Z)
    | \\x (?:\{(?P<long_code>[0-9A-Fa-f]+)\} | (?P<code>[0-9A-Fa-f]{2}))
    | \\ (?P<escaped>.)
    | (?P<group> \(\? P?<\w+> )
    | \{ \d+ (?:,\d*)? \}
    | \[ (?P<negated>\^?) (?P<members> \]? (?: \[:\^?\w+:\] | \\. | [^\]\\] )* ) \]
    | .
    """,
    re.DOTALL | re.VERBOSE,
)
_FLAGS = re.compile(r"\(\?([is]+)\)")
"""Where people write them: in front."""
_OTHER_FLAGS = re.compile(r"\(\?(?!:|P?<)")
_STANDS_FOR_SEVERAL = frozenset("dDsSwWbBAz")
_NOT_JUST_TWO_CASES = re.compile("[^\0-\x7f]|[kKsS]")
"""A long s and the sign for Kelvin are cases of letters, too."""
_GAP = "\0"
MAX_PARTS = 10
"""More are not worth the while."""


class Parts(NamedTuple):
    """What is in every text in which an expression is found."""

    alternatives: Sequence[Sequence[str]]
    """All the parts of one of these lists. Where there is no list, nothing is known."""
    in_small_letters: bool
    """Whether they are in the text once its letters of ASCII are small ones."""


def certain_parts(pattern: str) -> Parts:
    """Return the parts of each text in which an expression of RE2 is found.

    To look for these first costs a database next to nothing. Only what is plainly certain counts: nothing in groups
    does, nothing that may be repeated, and nothing where flags change in the middle.
    """
    flags, rest = _without_flags(pattern)
    ignores_case = "i" in flags
    alternatives = [] if _OTHER_FLAGS.search(rest) else _alternatives(rest)
    if ignores_case:
        alternatives = [_NOT_JUST_TWO_CASES.sub(_GAP, alternative).lower() for alternative in alternatives]
    parts = [[part for part in alternative.split(_GAP) if part] for alternative in alternatives]
    return Parts(parts if all(parts) and sum(map(len, parts)) <= MAX_PARTS else [], ignores_case)


def _alternatives(pattern: str) -> list[str]:
    """Return what is certain of each alternative, with gaps; nothing if not all of the expression is understood."""
    alternatives, depth = [""], 0
    for token in _TOKEN.finditer(pattern):
        word = token[0]
        if word == "(" or token["group"]:
            depth += 1
            alternatives[-1] += _GAP
        elif depth:
            depth -= word == ")"
        elif word == "|":
            alternatives.append("")
        elif word in {"*", "+", "?"} or (word[0] == "{" and len(word) > 1):
            alternatives[-1] = alternatives[-1][:-1] + _GAP
        elif (plain := _plain(token)) is not None:
            alternatives[-1] += plain
        else:
            return []
    return alternatives


def _without_flags(pattern: str) -> tuple[str, str]:
    """Return the flags in front of an expression, and what is behind them."""
    found = _FLAGS.match(pattern)
    return (found[1], pattern[found.end() :]) if found else ("", pattern)


def _plain(token: re.Match[str]) -> str | None:
    """Return the one text that a token stands for; a gap if there are several, and None if it is not known here."""
    if token["quoted"] is not None:
        return token["quoted"]
    if (letter := token["escaped"]) is not None:
        if letter in _STANDS_FOR_SEVERAL:
            return _GAP
        return None if letter.isalnum() else letter
    return _GAP if len(token[0]) > 1 or token[0] in ".^$" else token[0]


# --- PostgreSQL's words ----------------------------------------------------------------------------------------------

_CLASSES = {"d": "0-9", "w": "A-Za-z0-9_", "s": r"\t\n\f\r "}
_ANCHORS = {"b": r"\y", "B": r"\Y", "z": r"\Z"}


def in_postgresql(pattern: str) -> str:
    r"""Return an expression of RE2 in PostgreSQL's words.

    What PostgreSQL calls a digit, a space or a part of a word depends on its locale, its dot finds ends of lines, and
    it takes `\b` for a backspace. What it has no words for is left as it is: `\pL`, flags in the middle, more than 255
    repeats. It refuses those.
    """
    flags, rest = _without_flags(pattern)
    words = "".join(_translated(token, dot_is_all="s" in flags) for token in _TOKEN.finditer(rest))
    return f"(?i){words}" if "i" in flags else words


def _translated(token: re.Match[str], *, dot_is_all: bool) -> str:
    if token["quoted"] is not None:
        return re.escape(token["quoted"])
    if token["long_code"] or token["code"]:
        return re.escape(chr(int(token["long_code"] or token["code"], 16)))
    if (letter := token["escaped"]) is not None:
        if letter.lower() in _CLASSES:
            return f"[{'^' if letter.isupper() else ''}{_CLASSES[letter.lower()]}]"
        return _ANCHORS.get(letter, token[0])
    if token["members"] is not None:
        return f"[{token['negated']}{_members(token['members'])}]"
    if token["group"]:
        return "(?:"
    return {".": "." if dot_is_all else r"[^\n]", "{": r"\{", "}": r"\}"}.get(token[0], token[0])


def _members(members: str) -> str:
    def translated(member: re.Match[str]) -> str:
        if member[0] == "[:word:]":
            return _CLASSES["w"]
        if member[0] == "[":
            return r"\["
        return _CLASSES.get(member[1] or "", member[0])

    return re.sub(r"\[:\^?\w+:\]|\\(.)|\[", translated, members, flags=re.DOTALL)
