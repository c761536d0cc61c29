"""YAML as JSON. A config comes from anyone, so what cannot be JSON, or grows without end, is refused with its reason.

YAML knows more than JSON: dates, sets, and aliases, which let a short text stand for an endless or an enormous one.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any, cast

import yaml

from protocol.json_types import Json
from server.errors import RequestError

MAX_DEPTH = 64
MAX_NODES = 100_000
"""Of a config with its aliases followed."""
_MAX_BITS = 1023
"""Of a whole number: what still has a place among the floats."""


def load(text: str) -> Json:
    """Read YAML; `RequestError` says why it is none, or no JSON. Dates become their ISO text, and keys text."""
    try:
        value: Any = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: 2024-13-01, or a number of thousands of digits
        raise RequestError(f"The sweep's config is not YAML: {error}.") from error
    except RecursionError:
        raise _too_deep() from None
    return _Reading().json(value)


@dataclass(slots=True)
class _Reading:
    """One walk through a value. It stops as soon as the whole has become too much."""

    nodes: Iterator[int] = field(default_factory=lambda: iter(range(MAX_NODES)))

    def json(self, value: Any, depth: int = 0) -> Json:
        if depth > MAX_DEPTH:
            raise _too_deep()
        if next(self.nodes, None) is None:
            raise RequestError(
                f"The sweep's config has over {MAX_NODES:,} values, its aliases followed. Make it smaller."
            )
        if isinstance(value, Mapping):
            items = cast("Mapping[object, object]", value).items()
            return {str(key): self.json(item, depth + 1) for key, item in items}
        if isinstance(value, list):
            return [self.json(item, depth + 1) for item in cast("list[object]", value)]
        return _scalar(value)


def _scalar(value: Any) -> Json:
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, int) and value.bit_length() > _MAX_BITS:
        raise RequestError("The sweep's config has a whole number of over 300 digits. Write a smaller one.")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise RequestError(
        f"The sweep's config has a value of type {type(value).__name__}, which is no JSON. Use text, numbers, true, "
        "false, null, lists and mappings."
    )


def _too_deep() -> RequestError:
    return RequestError(f"The sweep's config is nested deeper than {MAX_DEPTH} levels, or contains itself. Flatten it.")
