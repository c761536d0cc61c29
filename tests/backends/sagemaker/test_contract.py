"""The sagemaker backend keeps the contract, on a double whose jobs are processes; secrets come through moto."""

import json
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from backends.base import Handle, StartRequest
from backends.sagemaker.kinds import TRAINING
from backends.sagemaker.names import job_name
from backends.testing.contract import BackendContract
from backends.testing.shell import OWNER, ShellHarness
from tests.backends.sagemaker.double import Double, double

ARGS: dict[str, Any] = {
    "RoleArn": "jobs",
    "OutputDataConfig": {"S3OutputPath": "s3://bucket/output"},
    "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 10},
    "StoppingCondition": {"MaxRuntimeInSeconds": 3600},
}


class SageMakerHarness(ShellHarness):
    """Launches as training jobs."""

    exact_environment: ClassVar[bool] = False
    many: ClassVar[int] = 5
    lag: ClassVar[float] = 1.0
    tells_how_stopped: ClassVar[bool] = False
    output_is_text: ClassVar[bool] = True

    def __init__(self, state_dir: Path, aws: Double) -> None:
        super().__init__("sagemaker", state_dir, {"poll_seconds": 0.1, "secrets": {"prefix": "launchbay/"}})
        self.aws = aws

    def complete(self, request: StartRequest) -> StartRequest:
        secrets = request.secrets or {"WANDB_API_KEY": "a-key-for-the-contract"}
        return replace(request, image="registry.example/image:1", resource_args=ARGS, secrets=secrets)

    def handle(self, name: str) -> Handle:
        return TRAINING.handle(job_name(name, OWNER))

    def in_plain_sight(self) -> bytes:
        told = [[job.description(), job.tags] for job in self.aws.jobs.values()]
        return super().in_plain_sight() + json.dumps(told).encode()


@pytest.fixture
async def harness(aws_variables: pytest.MonkeyPatch, moto: str, tmp_path: Path) -> AsyncGenerator[SageMakerHarness]:
    async with double(moto, runs=True) as aws:
        aws_variables.setenv("AWS_ENDPOINT_URL", aws.url)
        yield SageMakerHarness(tmp_path / "state", aws)


class TestOnSageMaker(BackendContract, runs_locally=False):
    """Uses the module's fixture `harness`."""
