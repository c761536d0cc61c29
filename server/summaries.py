"""Numbers in what runs have logged. The database cannot look for them: clients log bare NaN, which is no JSON."""

import json
import math
from collections.abc import Mapping
from typing import Any, cast

import orjson


def number_at(values: Mapping[str, Any], key: str) -> float | None:
    """Return a finite number by key; a dotted key is first taken literally, then as a path. None if there is none."""
    found: Any = values[key] if key in values else _follow(values, key)
    if isinstance(found, bool) or not isinstance(found, int | float):
        return None
    try:
        number = float(found)
    except OverflowError:  # an integer beyond all floats
        return None
    return number if math.isfinite(number) else None


def parsed(text: str) -> dict[str, Any]:
    """Read the text of a JSON object as clients send it."""
    try:
        value: Any = orjson.loads(text)
    except orjson.JSONDecodeError:
        value = json.loads(text)
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _follow(values: Mapping[str, Any], path: str) -> Any:
    found: Any = values
    for part in path.split("."):
        if not isinstance(found, Mapping):
            return None
        found = cast("Mapping[str, Any]", found).get(part)
    return found
