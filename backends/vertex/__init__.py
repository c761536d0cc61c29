"""Launches as custom jobs of Vertex AI.

Google Cloud is the truth, and the labels of what is on it are what a new agent finds its launches by. `request` says
what a launch becomes there and `reading` understands what became of it; both are pure. `access` is the one module that
knows Google's packages. `tracker` knows which jobs there are, `logs` brings their output here, `secrets` hands over
what must not be seen. `backend` has the six verbs.
"""

from pathlib import Path

from backends.base import Backend
from protocol.json_types import JsonObject


def create(state_dir: Path, owner: str, config: JsonObject) -> Backend:
    """Return the backend whose launches bear the owner's label. Asks Google nothing yet, and imports none of it.

    Raises `BackendError` for a bad configuration, or if the extra `vertex` is not installed.
    """
    from backends.vertex.access import Access, check_installed
    from backends.vertex.backend import VertexBackend
    from backends.vertex.settings import read_settings

    settings = read_settings(config)
    check_installed()
    return VertexBackend(lambda: Access.open(settings), state_dir, owner, settings)
