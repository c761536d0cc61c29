"""A launch goes from its queue to SageMaker and back: a real server, an agent, and the double at the wire."""

import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from backends.base import Backend
from backends.registry import load
from tests.agent.world import World, until, world
from tests.backends.sagemaker.double import Double, Job
from tests.backends.sagemaker.test_request import ARGS

LAUNCH: dict[str, Any] = {
    "project": "Vision",
    "resource": "sagemaker",
    "docker": {"docker_image": "registry.example/train:1"},
    "overrides": {"entry_point": ["python", "train.py"], "args": ["--lr", "0.1"]},
}


@pytest.fixture(name="world")
async def _world(aws: Double, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[World]:
    monkeypatch.setattr("backends.sagemaker.access.FIRST_PAUSE_SECONDS", 0.001)
    async with world(tmp_path, "sagemaker") as made:
        yield made


@pytest.fixture
async def backends(tmp_path: Path) -> AsyncGenerator[dict[str, Backend]]:
    async with AsyncExitStack() as stack:
        backend = load("sagemaker")(tmp_path / "sagemaker", "owner", {"poll_seconds": 0.05})
        stack.push_async_callback(backend.close)
        yield {"sagemaker": backend}


async def push(world: World, args: dict[str, Any] = ARGS, **changes: Any) -> str:
    """Push a launch with these resource args; returns its item's id."""
    launch: dict[str, Any] = {**LAUNCH, "uri": None, "resource_args": {"sagemaker": args}, **changes}
    return await world.push(**launch)


async def job_number(aws: Double, number: int) -> Job:
    """Wait until so many jobs have been made, and return the last."""

    async def look() -> Job | None:
        return list(aws.jobs.values())[number - 1] if len(aws.jobs) >= number else None

    return await until(look, f"job {number}")


async def says(world: World, item: str, words: str) -> None:
    """Wait until an item tells that it waits for something."""

    async def look() -> bool:
        return words in ((await world.item(item))["waitingReason"] or "")

    await until(look, f"{item} waits for {words!r}")


async def test_there_and_back(aws: Double, world: World, backends: dict[str, Backend]) -> None:
    run_config = {"text": "x" * 1200}
    macros = {
        **ARGS,
        "role_arn": "jobs-of-${entity_name}",
        "RoleArn": None,
        "output_data_config": {"S3OutputPath": "s3://bucket/${project_name}/${run_id}"},
        "OutputDataConfig": None,
        "AlgorithmSpecification": {"TrainingImage": "${image_uri}", "TrainingInputMode": "File"},
    }
    overrides = {**LAUNCH["overrides"], "run_config": run_config}
    async with world.agent(backends=backends, resources=["sagemaker"]):
        item = await push(world, macros, overrides=overrides, run_id="run1")
        job = await job_number(aws, 1)
        await says(world, item, "SageMaker: Starting: Launching requested ML instances")
        job.move("Training")
        job.print("epoch 1")
        job.end("Failed", why="AlgorithmError: boom, exit code: 3")
        ended = await world.in_state(item, "FAILED")

        async def is_over() -> bool:
            return "launchbay:over" in job.tags

        await until(is_over, "the job is marked as over")
    assert ended["exitCode"] == 3
    assert "AlgorithmError: boom" in ended["error"]["message"]
    assert await world.output(item) == b"epoch 1\n"
    request = job.request
    assert request["RoleArn"] == "arn:aws:iam::123456789012:role/jobs-of-admin"
    assert request["OutputDataConfig"] == {"S3OutputPath": "s3://bucket/Vision/run1"}
    assert request["AlgorithmSpecification"] == {
        "TrainingImage": "registry.example/train:1",
        "TrainingInputMode": "File",
        "ContainerEntrypoint": ["python", "train.py"],
        "ContainerArguments": ["--lr", "0.1"],
    }
    variables = request["Environment"]
    assert max(map(len, variables.values())) <= 512
    config = "".join(variables[f"WANDB_CONFIG_{number}"] for number in range(3))
    assert json.loads(config) == run_config
    assert "WANDB_CONFIG" not in variables
    assert (variables["WANDB_RUN_ID"], variables["WANDB_PROJECT"]) == ("run1", "Vision")
    assert variables["WANDB_API_KEY"] == world.server.api_key
    assert job.tags["WandbRunId"] == "run1"


async def test_preempted_launch_goes_on_in_another_job_of_its_run(
    aws: Double, world: World, backends: dict[str, Backend]
) -> None:
    spot = {**ARGS, "EnableManagedSpotTraining": True}
    retries = [{"on": ["preempted"], "attempts": 1, "first_seconds": 0.01}]
    async with world.agent(backends=backends, resources=["sagemaker"], retries=retries):
        item = await push(world, spot)
        first = await job_number(aws, 1)
        first.move("Training")
        first.move("Interrupted")
        first.end("Stopped", "MaxWaitTimeExceeded")
        second = await job_number(aws, 2)
        second.end("Stopped", "MaxWaitTimeExceeded")
        await world.in_state(item, "FAILED", "PREEMPTED", "STOPPED")
    one, two = first.request, second.request
    assert one["Environment"]["WANDB_RUN_ID"] == two["Environment"]["WANDB_RUN_ID"]
    assert one["CheckpointConfig"] == two["CheckpointConfig"]
    assert two["Environment"]["WANDB_RESUME"] == "allow"
    assert len(aws.jobs) == 2


async def test_quota_is_waited_for_and_told(aws: Double, world: World, backends: dict[str, Backend]) -> None:
    aws.fail("CreateTrainingJob", "ResourceLimitExceeded", "service limit 'ml.g5.xlarge' is 0", times=3)
    async with world.agent(backends=backends, resources=["sagemaker"]):
        item = await push(world)
        await says(world, item, "waits for room in a quota of AWS: service limit 'ml.g5.xlarge'")
        (await job_number(aws, 1)).end("Completed")
        await world.in_state(item, "FINISHED", "FAILED")
    assert len(aws.jobs) == 1


async def test_wrong_queue_is_told_in_the_words_of_the_stock_agent(
    aws: Double, world: World, backends: dict[str, Backend]
) -> None:
    async with world.agent(backends=backends, resources=["sagemaker"]):
        item = await push(world, {"RoleArn": "jobs"})
        message = (await world.in_state(item, "FAILED"))["error"]["message"]
    assert "Sagemaker launcher requires an OutputDataConfig Sagemaker resource argument" in message
    assert aws.jobs == {}


async def test_stop_and_restart_of_the_agent(
    aws: Double, world: World, backends: dict[str, Backend], tmp_path: Path
) -> None:
    """The next agent has neither journal nor state folder, and goes by the tags."""
    async with world.agent(backends=backends, resources=["sagemaker"]) as daemon:
        item = await push(world)
        job = await job_number(aws, 1)
        job.move("Training")
    await world.goodbye(daemon)
    again = load("sagemaker")(tmp_path / "lost", "owner", {"poll_seconds": 0.05})
    async with world.agent(state="lost-state", backends={"sagemaker": again}, resources=["sagemaker"]):
        await world.stop(item)

        async def stopping() -> bool:
            return job.status == "Stopping"

        await until(stopping, "the job is told to stop")
        job.end("Stopped")
        await world.in_state(item, "STOPPED")
    await again.close()
    assert len(aws.jobs) == 1
