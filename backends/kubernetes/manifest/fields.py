"""Fields of a manifest that people have written: what is missing or null is made, what has a wrong form is named."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from protocol.errors import SpecError
from protocol.json_types import Json

Fields = dict[str, Any]
"""An object of a manifest of our own, to be changed."""


def copied(value: Json) -> Any:
    """Return a deep copy that can be changed."""
    if isinstance(value, Mapping):
        return {key: copied(entry) for key, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [copied(entry) for entry in value]
    return value


def inner(parent: Fields, key: str, where: str) -> Fields:
    """Return the object at a key; an empty one is put there if there is none. `where` is the parent's path."""
    if parent.get(key) is None:
        parent[key] = {}
    return as_fields(parent[key], joined(where, key))


def entries(parent: Fields, key: str, where: str) -> list[Fields]:
    """Return the list of objects at a key; an empty one is put there if there is none."""
    if parent.get(key) is None:
        parent[key] = []
    found = parent[key]
    if not isinstance(found, list):
        raise wrong(joined(where, key), found, "a list")
    listed = cast("list[Fields]", found)
    for place, entry in enumerate(listed):
        as_fields(entry, f"{joined(where, key)}[{place}]")
    return listed


def texts(parent: Fields, key: str, where: str) -> list[str]:
    """Return the list of texts at a key; an empty one if there is none."""
    found = parent.get(key)
    if found is None:
        return []
    if not isinstance(found, list) or not all(isinstance(each, str) for each in cast("list[Any]", found)):
        raise wrong(joined(where, key), found, "a list of texts")
    return cast("list[str]", found)


def text(parent: Mapping[str, Any], key: str, where: str = "") -> str:
    """Return the text at a key; empty if there is none."""
    found = parent.get(key)
    if found is None:
        return ""
    if not isinstance(found, str):
        raise wrong(joined(where, key), found, "a text")
    return found


def default(parent: Fields, key: str, value: Any) -> None:
    """Set a key that is missing or null."""
    if parent.get(key) is None:
        parent[key] = value


def dig_fields(parent: Fields, *keys: str) -> Fields:
    """Return the object that lies under a path of keys; an empty one if there is none, or something else."""
    for key in keys:
        found = parent.get(key)
        parent = cast(Fields, found) if isinstance(found, dict) else {}
    return parent


def as_fields(value: Any, path: str) -> Fields:
    """Return a value that must be an object."""
    if not isinstance(value, dict):
        raise wrong(path, value, "a mapping")
    return cast(Fields, value)


def wrong(path: str, value: Any, wanted: str) -> SpecError:
    """Return the error for a value of another form. The value itself may be a secret."""
    return SpecError(f"The resource arg `{path}` is {_form(value)}; it must be {wanted}.")


def joined(where: str, key: str) -> str:
    """Return the path of a key."""
    return f"{where}.{key}" if where else key


def _form(value: Any) -> str:
    match value:
        case None:
            return "missing"
        case bool():
            return "true or false"
        case str():
            return "a text"
        case int() | float():
            return "a number"
        case dict():
            return "a mapping"
        case _:
            return "a list"
