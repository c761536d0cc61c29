"""Types of JSON values, as every layer speaks of them."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

Json: TypeAlias = "str | int | float | bool | Mapping[str, Json] | Sequence[Json] | None"
JsonObject: TypeAlias = Mapping[str, Json]
