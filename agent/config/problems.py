"""Says what is wrong with a configuration: which key, its value, where that came from, and what is allowed."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from agent.config.builder import SENTENCE
from agent.config.keys import hint
from agent.config.masking import FREE_FORM
from protocol.words import counted

_ELSEWHERE = {
    "api_key": "Set WANDB_API_KEY or WANDB_API_KEY_FILE instead: a key does not belong into this file.",
    "base_url": "Set WANDB_BASE_URL instead.",
    "runner": "Such settings belong into the queue's resource config.",
}
"""Unknown keys that people look for here."""

Path = tuple[str | int, ...]
"""Keys, and places in lists."""

_ALLOWED = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dict_type": "a mapping of keys to values",
    "finite_number": "a finite number",
    "float_parsing": "a number",
    "float_type": "a number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "model_type": "a mapping of keys to values",
    "path_type": "a path",
    "string_pattern_mismatch": "a name of letters, digits, dots, dashes and underscores",
    "string_too_short": "text with something in it",
    "string_type": "text",
    "too_short": "a list with something in it",
    "tuple_type": "a list",
}
"""What the library calls by the names of Python's types."""


def explain(error: ValidationError, values: Mapping[str, Any], origins: Mapping[str, str]) -> str:
    """Return one line per problem of these values; `origins` says of each top-level key where it was given."""
    found: dict[Path, list[ErrorDetails]] = {}
    for detail in error.errors():
        found.setdefault(_path(detail, values), []).append(detail)
    lines = [
        f"  {_sentence(path, details)} ({origins.get(str(path[0]), 'default')})"
        for path, details in found.items()
        # Of a value that may be of several types, the one that fits best says most.
        if not any(other[: len(path)] == path and other != path for other in found)
    ]
    return "\n".join([f"The agent's configuration has {counted(len(lines), 'problem')}:", *lines])


def _path(detail: ErrorDetails, values: Mapping[str, Any]) -> Path:
    """Return the keys that lead to a problem, without what the library puts between them for types."""
    path: list[str | int] = []
    here: Any = values
    for step in detail["loc"]:
        if isinstance(here, Mapping) and step in here:
            here = cast("Mapping[Any, Any]", here)[step]
        elif isinstance(here, Sequence) and not isinstance(here, str) and isinstance(step, int):
            here = cast("Sequence[Any]", here)[step]
        elif not (step == detail["loc"][-1] and detail["type"] == "missing"):
            continue
        path.append(step)
    return tuple(path)


def _sentence(path: Path, details: Sequence[ErrorDetails]) -> str:
    key = ".".join(map(str, path))
    first = details[0]
    if first["type"] == "extra_forbidden":
        names = [part for part in path if isinstance(part, str)]
        return f"`{key}` is not a known key. {_ELSEWHERE.get(key) or hint(names)}"
    if first["type"] == SENTENCE:
        return f"`{key}`: {first['msg']}"
    if first["type"] == "missing":
        return f"`{key}` is missing."
    allowed = " or ".join(dict.fromkeys(_allowed(detail) for detail in details))
    return f"`{key}` is {_said(first['input'], path)}; it must be {allowed}."


def _allowed(detail: ErrorDetails) -> str:
    words = detail["msg"].removeprefix("Value error, ").removeprefix("must be ").removeprefix("Input should be ")
    return _ALLOWED.get(detail["type"], words)


def _said(value: Any, path: Path) -> str:
    match value:
        case None:
            return "empty"
        case dict():
            return "a mapping"
        case [] | ():
            return "an empty list"
        case list() | tuple():
            return "a list"
        case _:
            # A block that should be a mapping may be a secret in the wrong place.
            return "a single value" if path[0] in FREE_FORM else repr(value)
