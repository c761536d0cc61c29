"""Launches as processes of this machine.

Two roles. The *backend* lives in the agent. The *keeper* is a small process of the agent's that starts the jobs, is
their parent, outlives the agent, and writes the exit statuses. What they share is the launch's folder: `keeper` writes
it, `records` reads it. `keeping` is the agent's end of the line between them.
"""

from pathlib import Path

from backends.base import Backend
from backends.known_keys import check_known
from backends.local_process.backend import LocalProcessBackend
from protocol.json_types import JsonObject


def create(state_dir: Path, owner: str, config: JsonObject) -> Backend:
    """Return the backend whose launches are kept under `state_dir`. It has no options yet."""
    del owner
    check_known("backends.local-process.", config, ())
    return LocalProcessBackend(state_dir / "launches")
