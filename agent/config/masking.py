"""Hides what may be secret in the agent's configuration, before anything of it is shown."""

import re
from collections.abc import Mapping
from typing import Any, cast

from agent.config.stock_blocks import STOCK_BLOCKS
from protocol.launch_spec import REDACTED

FREE_FORM = frozenset({"backends", *STOCK_BLOCKS})
"""Keys under which anything may stand. Nowhere else can a secret be."""

_SECRET_NAME = re.compile(r"pass(word|wd|phrase)|pwd|token|secret|key|credential|auth|connection", re.IGNORECASE)
_NO_SECRET = frozenset({("builder", "secret-name"), ("builder", "secret-key")})
"""These name a Kubernetes secret and a key in it."""
_PASSWORD_IN_URL = re.compile(r"(?<=://)[^/@\s]+(?=@)")


def mask(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration, as plain values, without the secrets in it."""
    return {key: masked(value, key) for key, value in config.items()}


def masked(value: Any, *path: str) -> Any:
    """Return the plain value that stands at a path of keys, without the secrets in it.

    Secret is what stands under a name such as `password`, `token`, `key` or
    `secret`, the value of a pair whose `name` is such, and whatever stands before the @ of a URL.
    """
    if value is None or path[0] not in FREE_FORM:
        return value
    if path not in _NO_SECRET and any(_SECRET_NAME.search(name) for name in path[1:]):
        return REDACTED
    if isinstance(value, str):
        return _PASSWORD_IN_URL.sub(REDACTED, value)
    if isinstance(value, list):
        return [masked(each, *path) for each in cast("list[Any]", value)]
    if isinstance(value, dict):
        mapping = cast("dict[object, Any]", value)
        # An environment variable of a manifest: {name: AWS_SECRET_ACCESS_KEY, value: ...}
        secret_pair = _SECRET_NAME.search(str(mapping.get("name", "")))
        return {
            key: REDACTED if secret_pair and key == "value" else masked(each, *path, str(key))
            for key, each in mapping.items()
        }
    return value
