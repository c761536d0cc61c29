"""Finds backends by entry point (group `launchbay.backends`), so that a site can add its own."""

from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import TypeAlias, cast

from backends.base import Backend, BackendError
from protocol.json_types import JsonObject

GROUP = "launchbay.backends"

BackendFactory: TypeAlias = Callable[[Path, str, JsonObject], Backend]
"""Makes a backend from its state folder, who the agent is on its platforms (the same across restarts), and its block of
the agent's configuration."""


def load(resource: str) -> BackendFactory:
    """Import and return the factory of a resource's backend; `BackendError` if there is none."""
    found = entry_points(group=GROUP)
    if resource not in found.names:
        known = ", ".join(sorted(found.names)) or "none"
        raise BackendError(f"There is no backend for resource {resource!r} here; there are: {known}.")
    return cast("BackendFactory", found[resource].load())
