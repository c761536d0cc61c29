"""Launches as processes of this machine.

Three roles. The *backend* lives in the agent. The *spawner* is a small helper process of the agent's that forks
quickly. Each launch has a *shim*, forked by the spawner, which owns the job's process, outlives agent and spawner, and
writes the exit status. What they share is the launch's folder: `spawner` writes it, `records` reads it.
"""

from pathlib import Path

from backends.base import Backend
from backends.local_process.backend import LocalProcessBackend
from protocol.json_types import JsonObject


def create(state_dir: Path, agent_name: str, config: JsonObject) -> Backend:
    """Return the backend whose launches are kept under `state_dir`. It has no options yet."""
    del agent_name, config
    return LocalProcessBackend(state_dir / "launches")
