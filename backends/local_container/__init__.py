"""Launches as containers of this machine, through Docker's API: Docker Engine, or Podman.

The engine is the truth, and its labels are what a new agent finds its launches by. `options` says what a container is
made of, `engine` speaks to the engine, `events` listens to it, `reading` understands its answers, `images` pulls, and
`records` keeps what the engine cannot. `backend` has the six verbs.
"""

from pathlib import Path

from backends.base import Backend, BackendError
from protocol.json_types import JsonObject


def create(state_dir: Path, owner: str, config: JsonObject) -> Backend:
    """Return the backend whose containers bear the label of `state_dir`. Asks the engine nothing yet.

    Raises `BackendError` for a bad configuration, or if the extra `docker` is not installed.
    """
    del owner
    try:
        from backends.local_container.backend import LocalContainerBackend
        from backends.local_container.engine import DockerEngine
        from backends.local_container.settings import read_settings
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {"docker", "requests", "urllib3"}:
            raise
        raise BackendError("local-container needs the `docker` package: pip install 'launchbay[docker]'.") from error
    settings = read_settings(config)
    return LocalContainerBackend(DockerEngine(settings.engine), state_dir, settings)
