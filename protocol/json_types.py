"""Types of JSON values, as every layer speaks of them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

Json: TypeAlias = "str | int | float | bool | Mapping[str, Json] | Sequence[Json] | None"
JsonObject: TypeAlias = Mapping[str, Json]


def dig(value: Any, *keys: str) -> Any:
    """Return what lies under a path of keys; None as soon as something on the way is missing or null."""
    for key in keys:
        if value is None:
            return None
        value = value.get(key)
    return value


def is_deeper(value: Json, levels: int) -> bool:
    """Return whether a value is nested deeper than so many levels; it takes no stack to find out."""
    level: list[Json] = [value]
    for _ in range(levels):
        level = [part for each in level for part in _parts(each)]
        if not level:
            return False
    return True


def _parts(value: Json) -> Iterable[Json]:
    if isinstance(value, Mapping):
        return value.values()
    return value if isinstance(value, Sequence) and not isinstance(value, str) else ()
