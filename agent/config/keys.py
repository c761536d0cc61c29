"""Which keys the agent's configuration has, and which one somebody may have meant."""

import difflib
from collections.abc import Iterator, Sequence
from typing import Any, get_args

from pydantic import BaseModel

from agent.config.model import AgentConfig

_FAR_COUSIN = 0.85
"""How alike a key of another block must be to be worth a hint; within a block the library's 0.6 is right."""


def every_key() -> list[str]:
    """Return every key with its path, as `timeouts.start`; a block of a list under the list's own, `retries.on`."""
    return list(_keys(AgentConfig, ""))


def _keys(block: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in block.model_fields.items():
        yield prefix + name
        for inner in _blocks(field.annotation):
            yield from _keys(inner, f"{prefix}{name}.")


def _blocks(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _blocks(argument)


def hint(path: Sequence[str]) -> str:
    """Return what to write instead of an unknown key: the nearest known one, or all that are known at its place."""
    *block, name = path
    prefix = ".".join([*block, ""])
    known = every_key()
    siblings = [key.removeprefix(prefix) for key in known if key.startswith(prefix)]
    siblings = [key for key in siblings if "." not in key]
    if near := difflib.get_close_matches(name, siblings, 1):
        return f"Did you mean `{prefix}{near[0]}`?"
    # Right key, wrong block: a matter of indentation.
    last_names = {key.rpartition(".")[2]: key for key in reversed(known)}
    if near := difflib.get_close_matches(name, last_names, 1, _FAR_COUSIN):
        return f"Did you mean `{last_names[near[0]]}`?"
    return f"Known keys{f' of `{prefix[:-1]}`' if block else ''}: {', '.join(siblings)}."
