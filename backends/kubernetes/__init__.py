"""Launches as objects of a Kubernetes cluster: a Job, or any other kind that the cluster knows.

The cluster is the truth, and the labels of what is on it are what a new agent finds its launches by. `api` says what is
asked of a cluster, `client` asks it; `reflector` keeps what it says, and `clock` knows how far its clock is from ours.
`manifest` says what a launch is made of, and `reading` understands what became of it. `cluster` and `launches` know
what there is, `logs` brings its output here, `stopping` ends it. `backend` has the six verbs.
"""

from pathlib import Path

from backends.base import Backend, BackendError
from protocol.json_types import JsonObject


def create(state_dir: Path, owner: str, config: JsonObject) -> Backend:
    """Return the backend whose launches bear the owner's label. Asks no cluster anything yet.

    Raises `BackendError` for a bad configuration, or if the extra `kubernetes` is not installed.
    """
    try:
        from backends.kubernetes.backend import KubernetesBackend
        from backends.kubernetes.client import KubeClient
        from backends.kubernetes.settings import read_settings
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "kubernetes":
            raise
        raise BackendError("kubernetes needs the `kubernetes` package: pip install 'launchbay[kubernetes]'.") from error
    settings = read_settings(config)
    file = str(settings.config_file) if settings.config_file else None

    async def connect(context: str) -> KubeClient:
        return await KubeClient.open(file, context or settings.context or None)

    return KubernetesBackend(connect, state_dir, owner, settings)
