"""Launches as jobs of Amazon SageMaker: training jobs, and processing and batch-transform jobs.

SageMaker is the truth, and the tags of its jobs are what a new agent finds its launches by. `request` says what AWS is
asked to make for a launch, and `reading` understands what it says of that; both are pure. `access` asks it, `tracker`
looks what has changed, `logs` brings output here. `backend` has the six verbs.
"""

from pathlib import Path

from backends.base import Backend, BackendError
from protocol.json_types import JsonObject


def create(state_dir: Path, owner: str, config: JsonObject) -> Backend:
    """Return the backend whose jobs bear the owner's tag. Asks AWS nothing yet.

    Raises `BackendError` for a bad configuration, or if the extra `sagemaker` is not installed.
    """
    try:
        from backends.sagemaker.access import Aws
        from backends.sagemaker.backend import SageMakerBackend
        from backends.sagemaker.settings import read_settings
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {"boto3", "botocore"}:
            raise
        raise BackendError("sagemaker needs the `boto3` package: pip install 'launchbay[sagemaker]'.") from error
    settings = read_settings(config)
    return SageMakerBackend(Aws(settings.identity), state_dir, owner, settings)
