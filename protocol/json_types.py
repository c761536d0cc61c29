"""Types of JSON values, as every layer speaks of them."""

from collections.abc import Mapping, Sequence
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
