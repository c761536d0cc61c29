"""Hides what may be secret in the agent's configuration, before anything of it is shown."""

import re
from collections.abc import Mapping
from typing import Any, cast

from agent.config.stock_blocks import STOCK_BLOCKS
from protocol.masking import REDACTED, without_passwords

FREE_FORM = frozenset({"backends", *STOCK_BLOCKS})
"""Keys under which anything may stand. Nowhere else can a secret have a name."""

_NAME = r"(?:pass(?:word|wd|phrase)|pwd|token|secret|key|credential|auth|connection)"
_SECRET_NAME = re.compile(_NAME, re.IGNORECASE)
_ASSIGNED = re.compile(rf"(?P<name>[\w.-]*{_NAME}[\w.-]*\s*[=:]\s*)\S.*", re.IGNORECASE | re.DOTALL)
_NO_SECRET = (
    ("builder", "secret-name"),
    ("builder", "secret-key"),
    ("builder", "password_file"),
    ("backends", "kubernetes", "image_pull_secrets"),
    ("backends", "local-container", "registries", "*", "password_file"),
    ("backends", "local-container", "registries", "*", "password_env"),
    ("backends", "sagemaker", "secrets", "prefix"),
    ("backends", "gcp-vertex", "secrets", "prefix"),
    ("backends", "vertex", "secrets", "prefix"),
)
"""Paths of keys, in which * is any: these name where a secret is, or how its name begins."""


def mask(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration, as plain values, without the secrets in it."""
    return {key: masked(value, key) for key, value in config.items()}


def masked(value: Any, *path: str) -> Any:
    """Return the plain value that stands at a path of keys, without the secrets in it.

    Secret is what stands under a name such as `password`, `token`, `key` or `secret`, the value of a pair whose `name`
    or `key` is such, what is assigned to such a name in a text, as `TOKEN=...`, and whatever stands before the @ of a
    URL.
    """
    is_free = path[0] in FREE_FORM
    if value is None:
        return None
    is_named_so = is_free and any(_SECRET_NAME.search(name) for name in path[1:])
    if is_named_so and not _leads_to_no_secret(path, is_end=not isinstance(value, dict)):
        return REDACTED
    if isinstance(value, str):
        assigned = _ASSIGNED.fullmatch(value) if is_free else None
        return f"{assigned['name']}{REDACTED}" if assigned else without_passwords(value)
    if isinstance(value, list):
        return [masked(each, *path) for each in cast("list[Any]", value)]
    if isinstance(value, dict):
        mapping = cast("dict[object, Any]", value)
        # An environment variable of a manifest: {name: AWS_SECRET_ACCESS_KEY, value: ...}
        secret_pair = is_free and any(_SECRET_NAME.search(str(mapping.get(name, ""))) for name in ("name", "key"))
        return {
            key: REDACTED if secret_pair and key == "value" else masked(each, *path, str(key))
            for key, each in mapping.items()
        }
    return value


def _leads_to_no_secret(path: tuple[str, ...], *, is_end: bool) -> bool:
    """Whether a path, with more keys behind it unless it is at its end, is that of something that is no secret."""
    return any(
        (len(path) == len(known) if is_end else len(path) < len(known))
        and all(key in ("*", given) for key, given in zip(known, path, strict=False))
        for known in _NO_SECRET
    )
