"""A launch's whole way: from the queue to Vertex AI, and back to its item."""

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from backends.base import Backend
from backends.registry import load
from tests.agent.world import World, until, world
from tests.backends.vertex.google import Google

RESOURCE = "gcp-vertex"
POOL = {"machine_spec": {"machine_type": "n1-standard-4"}, "container_spec": {"image_uri": "${image_uri}"}}
LAUNCH: dict[str, Any] = {
    "uri": None,
    "docker": {"docker_image": "registry.test/train:v1"},
    "resource": RESOURCE,
    "resource_args": {
        "vertex": {
            "spec": {"worker_pool_specs": [POOL], "staging_bucket": "gs://b", "labels": {"project": "${project_name}"}}
        }
    },
}


@pytest.fixture(name="made")
async def _made(tmp_path: Path) -> AsyncGenerator[World]:
    async with world(tmp_path / "world", RESOURCE) as made:
        yield made


@pytest.fixture
async def backend(google: Google, tmp_path: Path) -> AsyncGenerator[Backend]:
    backend = load(RESOURCE)(tmp_path / "vertex", "owner", google.config)
    yield backend
    await backend.close()


async def test_a_launch_runs_with_its_macros_and_variables_and_its_output_is_on_the_item(
    made: World, google: Google, backend: Backend
) -> None:
    command = ["/bin/sh", "-c", "echo run $WANDB_RUN_ID of $WANDB_PROJECT; exit 3"]
    async with made.agent(backends={RESOURCE: backend}, resources=[RESOURCE], max_schedulers=0):
        item = await made.push(**LAUNCH, overrides={"entry_point": command, "args": []})
        failed = await made.in_state(item, "FAILED")
        (job,) = google.made
        run = job.labels["wandb-run-id"]
        assert await made.output(item) == f"run {run} of p\n".encode()
        assert "non-zero status of 3" in failed["error"]["message"]
        assert job.job_spec.worker_pool_specs[0].container_spec.image_uri == "registry.test/train:v1"
        assert job.labels["project"] == "p"

        async def is_cleaned_up() -> bool:
            return not google.messages

        await until(is_cleaned_up, "the job to be removed")


async def test_what_finds_no_room_begins_again_as_the_same_run(made: World, google: Google, backend: Backend) -> None:
    google.runs = False
    retries = [{"on": ["preempted"], "attempts": 1, "first_seconds": 0}]
    async with made.agent(backends={RESOURCE: backend}, resources=[RESOURCE], max_schedulers=0, retries=retries):
        await made.push(**LAUNCH, overrides={"entry_point": ["train"]})

        async def job() -> Any:
            return next((each for each in google.messages if each.state == 2), None)

        first = await until(job, "the job")
        before = (first.name, first.labels["wandb-run-id"], first.job_spec.base_output_directory.output_uri_prefix)
        google.move(first.labels["launchbay-launch"], "FAILED", code=8, error="Resources are insufficient in region.")
        second = await until(job, "another job")
        after = (second.name, second.labels["wandb-run-id"], second.job_spec.base_output_directory.output_uri_prefix)
        assert before[0] != after[0]
        assert before[1:] == after[1:], "it finds its checkpoints"
        environment = {each.name: each.value for each in second.job_spec.worker_pool_specs[0].container_spec.env}
        assert environment["WANDB_RESUME"] == "allow"
        google.move(second.labels["launchbay-launch"], "SUCCEEDED")
