"""The sagemaker backend, and what can go wrong at AWS: at the wire, with jobs that do what the test says."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from agent.config.model import Timeouts
from agent.launch import Cause
from agent.watch import end_of
from backends.base import BackendError, BackendUnavailable, Handle, Observation, Phase, PlatformFull, StartRequest
from backends.rate_limit import RateLimit
from backends.sagemaker.access import ATTEMPTS, Aws
from backends.sagemaker.backend import SageMakerBackend
from backends.sagemaker.kinds import PROCESSING, TRAINING, TRANSFORM
from backends.sagemaker.settings import Identity, Settings
from backends.testing.contract import observed
from tests.backends.sagemaker.double import Double, Job
from tests.backends.sagemaker.test_request import ARGS, PROCESSING_ARGS, TRANSFORM_ARGS

LABELS = {"item": "aXRlbQ==", "attempt": "1", "owner": "agent", "run": "run1", "project": "größe"}
REQUEST = StartRequest(
    "launch-1",
    ["python", "train.py"],
    {"WANDB_RUN_ID": "run1"},
    secrets={"WANDB_API_KEY": "key"},
    image="registry.example/image:1",
    labels=LABELS,
    resource_args=ARGS,
)
THROTTLED = {"code": "ThrottlingException", "message": "Rate exceeded"}


@dataclass
class Agents:
    """Opens backends as agents would that come and go."""

    folder: Path
    stack: AsyncExitStack

    def open(self, state: str = "state", *, owner: str = "agent", **settings: Any) -> SageMakerBackend:
        """Return a backend, closed at the end of the test."""
        aws = Aws(Identity())
        aws._limits = {"create": RateLimit(1000), "": RateLimit(1000)}
        backend = SageMakerBackend(aws, self.folder / state, owner, Settings(poll_seconds=0.02, **settings))
        self.stack.push_async_callback(backend.close)
        return backend


@pytest.fixture
async def agents(aws: Double, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Agents]:
    monkeypatch.setattr("backends.sagemaker.access.FIRST_PAUSE_SECONDS", 0.001)
    async with AsyncExitStack() as stack:
        yield Agents(tmp_path, stack)


async def seen(backend: SageMakerBackend, handle: Handle, accept: Callable[[Observation], bool]) -> Observation:
    """Wait until a launch looks so."""
    return await observed(backend, handle, accept)


async def phase(backend: SageMakerBackend, handle: Handle, wanted: Phase) -> Observation:
    """Wait until a launch is in a phase."""
    return await seen(backend, handle, lambda found: found.phase is wanted)


async def output(backend: SageMakerBackend, handle: Handle, since: int = 0) -> str:
    return b"".join([chunk.data async for chunk in backend.logs(handle, since)]).decode()


# --- the life of a job ------------------------------------------------------------------------------------------------


async def test_status_and_messages_are_told_as_they_change(aws: Double, agents: Agents) -> None:
    backend = agents.open()
    handle = await backend.start(REQUEST)
    assert (await backend.observe())[handle].message == "SageMaker: accepted"
    await seen(backend, handle, lambda found: found.message == "SageMaker: Starting: Launching requested ML instances")
    aws.job.move("Downloading", "Downloading input data")
    await seen(backend, handle, lambda found: found.message.endswith("Downloading input data"))
    aws.job.move("Training")
    running = await phase(backend, handle, Phase.RUNNING)
    assert running.started_at == pytest.approx(aws.job.started, abs=0.001)
    aws.job.end("Failed", why="AlgorithmError: boom, exit code: 3")
    ended = await phase(backend, handle, Phase.FAILED)
    assert (ended.exit_code, ended.labels) == (3, LABELS)
    assert "AlgorithmError: boom" in ended.message


async def test_spot_interruption_waits_goes_on_and_is_preempted_in_the_end(aws: Double, agents: Agents) -> None:
    backend = agents.open()
    handle = await backend.start(replace(REQUEST, resource_args={**ARGS, "EnableManagedSpotTraining": True}))
    aws.job.move("Training")
    await phase(backend, handle, Phase.RUNNING)
    aws.job.move("Interrupted", "Training job interrupted")
    await phase(backend, handle, Phase.QUEUED)
    aws.job.move("Training")
    await phase(backend, handle, Phase.RUNNING)
    assert aws.job.request["Environment"]["WANDB_RESUME"] == "allow"
    aws.job.move("Interrupted", "Training job interrupted")
    aws.job.end("Stopped", "MaxWaitTimeExceeded")
    ended = await phase(backend, handle, Phase.PREEMPTED)
    assert end_of(ended, None, Timeouts()).cause is Cause.PREEMPTED


async def test_stop_is_told_as_stopped(aws: Double, agents: Agents) -> None:
    backend = agents.open()
    handle = await backend.start(REQUEST)
    aws.job.move("Training")
    await phase(backend, handle, Phase.RUNNING)
    for _ in range(5):
        await backend.stop(handle, 0)
    await seen(backend, handle, lambda found: "Stopping" in found.message)
    aws.job.end("Stopped")
    await phase(backend, handle, Phase.STOPPED)
    assert aws.count("StopTrainingJob") == 1, "asking again for what is under way asks nobody"


async def test_stop_of_what_has_just_ended_does_no_harm(aws: Double, agents: Agents) -> None:
    backend = agents.open()
    handle = await backend.start(REQUEST)
    aws.job.move("Training")
    aws.job.end("Completed")
    await backend.stop(handle, 0)
    await phase(backend, handle, Phase.FINISHED)


async def test_timeout_is_told_as_one(aws: Double, agents: Agents) -> None:
    backend = agents.open()
    handle = await backend.start(REQUEST)
    aws.job.move("Training")
    aws.job.end("Stopped", "MaxRuntimeExceeded")
    assert (await phase(backend, handle, Phase.FAILED)).reason == "timeout:run"


@pytest.mark.parametrize(("args", "kind"), [(PROCESSING_ARGS, PROCESSING), (TRANSFORM_ARGS, TRANSFORM)])
async def test_other_kinds_of_jobs(aws: Double, agents: Agents, args: Any, kind: Any) -> None:
    backend = agents.open()
    handle = await backend.start(replace(REQUEST, resource_args=args))
    assert handle == kind.handle(aws.job.name)
    assert aws.job.noun == kind.noun
    aws.job.move("Training")
    aws.job.print("hello", instance="i-1")
    await phase(backend, handle, Phase.RUNNING)
    assert await output(backend, handle) == "hello\n"
    again = agents.open("lost")
    assert (await again.observe())[handle].labels == LABELS
    await again.stop(handle, 0)
    aws.job.end("Stopped")
    await phase(backend, handle, Phase.STOPPED)
    await backend.cleanup(handle)
    assert await backend.observe() == {}


async def test_deleted_job_is_lost(aws: Double, agents: Agents, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = agents.open()
    handle = await backend.start(REQUEST)
    aws.job.move("Training")
    await phase(backend, handle, Phase.RUNNING)
    monkeypatch.setattr("backends.sagemaker.tracker.UNSEEN_SECONDS", 0.0)
    aws.jobs.clear()
    assert "deleted it" in (await phase(backend, handle, Phase.LOST)).message


# --- faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        {**THROTTLED, "times": 3},
        {"status": 429},
        {"code": "InternalFailure", "status": 500},
        {"code": "InternalFailure", "status": 500, "after": True},
        {"code": "ServiceUnavailable", "status": 503, "after": True, "times": 2},
        {"cut": True},
        {"cut": True, "after": True},
        {"cut": True, "after": True, "times": 3},
    ],
)
async def test_faulty_answer_to_a_start_starts_once(aws: Double, agents: Agents, fault: dict[str, Any]) -> None:
    backend = agents.open()
    aws.fail("CreateTrainingJob", **fault)
    handle = await backend.start(REQUEST)
    assert handle == TRAINING.handle(aws.job.name)
    assert list(await backend.observe()) == [handle]


async def test_start_that_nobody_has_heard_of_is_found_by_the_next_agent(aws: Double, agents: Agents) -> None:
    aws.fail("CreateTrainingJob", cut=True, after=True, times=ATTEMPTS)
    with pytest.raises(BackendUnavailable):
        await agents.open().start(REQUEST)
    again = agents.open("lost")
    (handle,) = await again.observe()
    assert (await again.observe())[handle].labels == LABELS
    assert await again.start(REQUEST) == handle
    assert len(aws.jobs) == 1


@pytest.mark.parametrize("operation", ["ListTrainingJobs", "DescribeTrainingJob"])
@pytest.mark.parametrize("fault", [THROTTLED, {"code": "InternalFailure", "status": 500}, {"cut": True}])
async def test_faulty_looks_end_no_launch(aws: Double, agents: Agents, operation: str, fault: dict[str, Any]) -> None:
    backend = agents.open()
    handle = await backend.start(REQUEST)
    aws.fail(operation, **fault, times=2 * ATTEMPTS)
    aws.job.move("Training")
    async with asyncio.timeout(60):
        while True:
            try:
                if (await backend.observe())[handle].phase is Phase.RUNNING:
                    break
            except BackendUnavailable:
                pass
            await asyncio.sleep(0.01)
    assert len(aws.jobs) == 1


async def test_throttling_slows_down(aws: Double, agents: Agents) -> None:
    backend = agents.open()
    await backend.observe()
    limit = backend._aws._limits["create"]
    aws.fail("CreateTrainingJob", **THROTTLED)
    await backend.start(REQUEST)
    assert limit.rate < 600


async def test_credentials_that_have_expired_are_looked_for_anew(
    aws: Double, agents: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = agents.open()
    await backend.observe()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIARENEWED")
    aws.fail("CreateTrainingJob", "ExpiredTokenException", "The security token included in the request is expired")
    await backend.start(REQUEST)
    assert aws.keys[-1] == "AKIARENEWED"


async def test_credentials_that_stay_expired_are_waited_for(aws: Double, agents: Agents) -> None:
    backend = agents.open()
    handle = await backend.start(REQUEST)
    aws.fail("ListTrainingJobs", "ExpiredTokenException", "expired", times=6)

    async def fails() -> str:
        try:
            await asyncio.sleep(0.01)
            await backend.observe()
        except BackendUnavailable as error:
            return str(error)
        return ""

    async with asyncio.timeout(60):
        while "does not take the agent's credentials: expired" not in await fails():
            pass
        while await fails():
            pass
    assert list(await backend.observe()) == [handle]


async def test_lists_that_are_late_lose_nothing(aws: Double, agents: Agents) -> None:
    aws.hides_from_lists = 8
    backend = agents.open()
    handle = await backend.start(REQUEST)
    aws.job.move("Training")
    await phase(backend, handle, Phase.RUNNING)
    assert await backend.start(REQUEST) == handle
    assert len(aws.jobs) == 1


async def test_change_that_no_list_of_changes_tells_is_found_all_the_same(aws: Double, agents: Agents) -> None:
    """Their time is told by AWS, and may be older than what was looked at."""
    backend = agents.open()
    handle = await backend.start(REQUEST)
    await seen(backend, handle, lambda found: "Launching" in found.message)
    aws.job.end("Completed")
    aws.job.modified -= 100_000
    await phase(backend, handle, Phase.FINISHED)


async def test_quota_is_waited_for(aws: Double, agents: Agents) -> None:
    backend = agents.open()
    said = "The account-level service limit 'ml.p4d.24xlarge for training job usage' is 0 Instances"
    aws.fail("CreateTrainingJob", "ResourceLimitExceeded", said)
    with pytest.raises(PlatformFull, match=r"service limit 'ml.p4d.24xlarge") as error:
        await backend.start(REQUEST)
    assert error.value.retry_seconds > 0
    assert await backend.start(REQUEST)
    aws.fail("CreateTrainingJob", "ResourceLimitExceeded", said)
    assert await agents.open("lost").start(REQUEST), "what was started is not asked for again"


@pytest.mark.parametrize("code", ["ValidationException", "AccessDeniedException"])
async def test_refusal_is_told_in_the_words_of_aws(aws: Double, agents: Agents, code: str) -> None:
    backend = agents.open()
    aws.fail("CreateTrainingJob", code, "Could not assume role arn:aws:iam::123456789012:role/jobs")
    with pytest.raises(BackendError, match=f"Could not assume role .* \\({code}\\)"):
        await backend.start(REQUEST)


async def test_args_that_are_no_request_are_told(aws: Double, agents: Agents) -> None:
    with pytest.raises(BackendError, match='Unknown parameter in input: "Wishes"'):
        await agents.open().start(replace(REQUEST, resource_args={**ARGS, "wishes": 3}))
    assert aws.jobs == {}


async def test_unreachable_aws_is_unavailable(agents: Agents, aws_variables: pytest.MonkeyPatch) -> None:
    aws_variables.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(BackendUnavailable, match="AWS does not answer"):
        await agents.open().observe()


async def test_without_credentials_or_region_it_says_so(agents: Agents, aws_variables: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        aws_variables.delenv(name)
    with pytest.raises(BackendUnavailable, match="Unable to locate credentials"):
        await agents.open().observe()
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        aws_variables.delenv(name)
    with pytest.raises(BackendUnavailable, match="No region of AWS is named"):
        await agents.open().observe()


# --- images -----------------------------------------------------------------------------------------------------------


async def test_image_that_ecr_does_not_have_is_told_before_anything_is_made(aws: Double, agents: Agents) -> None:
    image = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/team/train:1"
    aws.fail("DescribeImages", "ImageNotFoundException", "The image with imageId {tag:'1'} does not exist")
    with pytest.raises(BackendError, match=r"There is no image .*team/train:1 in ECR"):
        await agents.open().start(replace(REQUEST, image=image))
    assert aws.jobs == {}


async def test_registry_that_answers_no_questions_is_left_to_sagemaker(aws: Double, agents: Agents) -> None:
    image = "999999999999.dkr.ecr.us-east-1.amazonaws.com/theirs@sha256:" + "0" * 64
    aws.fail("DescribeImages", "AccessDeniedException", "not yours")
    backend = agents.open()
    await backend.start(replace(REQUEST, image=image))
    await backend.start(replace(REQUEST, name="launch-2", image=image))
    assert aws.count("DescribeImages") == 1


# --- adoption ---------------------------------------------------------------------------------------------------------


async def test_agent_without_its_state_finds_its_jobs_by_their_tags(aws: Double, agents: Agents) -> None:
    first = agents.open()
    running, ended, over = [await first.start(replace(REQUEST, name=f"launch-{n}")) for n in range(3)]
    jobs = {TRAINING.handle(job.name): job for job in aws.jobs.values()}
    jobs[running].move("Training")
    jobs[ended].end("Failed", why="AlgorithmError: , exit code: 3")
    jobs[over].end("Completed")
    await phase(first, over, Phase.FINISHED)
    await first.cleanup(over)
    other = await agents.open("other", owner="other").start(REQUEST)
    named = replace(REQUEST, name="launch-9", resource_args={**ARGS, "TrainingJobName": jobs[running].name})
    stranger = await agents.open("third", owner="third").start(named)  # has our mark in its name, and not our tags
    found = await agents.open("lost").observe()
    assert set(found) == {running, ended}
    assert not {other, stranger} & set(found)
    assert found[running].phase is Phase.RUNNING
    assert (found[ended].phase, found[ended].exit_code) == (Phase.FAILED, 3)
    assert all(each.labels == LABELS for each in found.values())


async def test_restarted_agent_asks_little(aws: Double, agents: Agents) -> None:
    first = agents.open()
    handles = [await first.start(replace(REQUEST, name=f"launch-{n}")) for n in range(20)]
    for job in aws.jobs.values():
        job.move("Training")
    for handle in handles:
        await phase(first, handle, Phase.RUNNING)
    aws.asked.append("Describe")
    async with asyncio.timeout(60):
        while aws.count("Describe"):  # what changed between a list and a description is described once more
            aws.asked.clear()
            await first._tracker.look()
    await first.close()
    aws.asked.clear()
    assert set(await agents.open().observe()) == set(handles)
    assert (aws.count("Describe"), aws.count("ListTags")) == (0, 0)


async def test_quiet_launches_cost_few_calls(aws: Double, agents: Agents, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are, and of however many kinds; a list has a hundred on a page."""
    monkeypatch.setattr("backends.sagemaker.tracker.OVERLAP_SECONDS", 0.0)
    backend = agents.open()
    for n, args in enumerate([ARGS] * 110 + [PROCESSING_ARGS, TRANSFORM_ARGS]):
        await backend.start(replace(REQUEST, name=f"launch-{n}", resource_args=args))
    for job in aws.jobs.values():
        job.move("Training")
    assert backend._polling
    backend._polling.cancel()
    looks = backend._tracker

    async def calls() -> int:
        aws.asked.clear()
        await looks.look()
        return len(aws.asked)

    async with asyncio.timeout(60):
        while max([await calls() for _ in range(8)]) > 4:  # what has changed within a second is listed twice
            pass
    assert {each.phase for each in looks.snapshot.values()} == {Phase.RUNNING}


# --- output -----------------------------------------------------------------------------------------------------------


class TestOutput:
    async def start(self, aws: Double, backend: SageMakerBackend) -> tuple[Handle, Job]:
        handle = await backend.start(REQUEST)
        aws.job.move("Training")
        await phase(backend, handle, Phase.RUNNING)
        return handle, aws.job

    async def test_nothing_is_there_before_anything_is_printed(self, aws: Double, agents: Agents) -> None:
        backend = agents.open()
        handle, _ = await self.start(aws, backend)
        assert await output(backend, handle) == ""

    async def test_all_instances_are_read(self, aws: Double, agents: Agents) -> None:
        backend = agents.open()
        handle, job = await self.start(aws, backend)
        job.print("one", "two\n")
        job.print("other", instance="algo-2")
        assert await output(backend, handle) == "one\ntwo\n[algo-2] other\n"

    async def test_reading_goes_on_after_a_restart(self, aws: Double, agents: Agents) -> None:
        backend = agents.open()
        handle, job = await self.start(aws, backend)
        job.print(*[f"line {n}" for n in range(2500)])
        before = await output(backend, handle)
        assert before.splitlines() == [f"line {n}" for n in range(2500)]
        await backend.close()
        job.print("last")
        aws.asked.clear()
        again = agents.open()
        assert await output(again, handle, len(before)) == "last\n"
        assert aws.count("GetLogEvents") <= 2

    async def test_token_that_is_too_old_costs_nothing_but_time(self, aws: Double, agents: Agents) -> None:
        backend = agents.open()
        handle, job = await self.start(aws, backend)
        job.print(*[f"line {n}" for n in range(1500)])
        before = await output(backend, handle)
        job.print("last")
        aws.fail("GetLogEvents", "InvalidParameterException", "The specified nextToken is invalid.")
        assert await output(backend, handle) == f"{before}last\n"

    async def test_output_that_may_not_be_read_does_not_keep_the_end_from_being_told(
        self, aws: Double, agents: Agents
    ) -> None:
        backend = agents.open()
        handle, job = await self.start(aws, backend)
        job.print("one")
        aws.fail("DescribeLogStreams", "AccessDeniedException", "not allowed", times=99)
        assert await output(backend, handle) == ""

    async def test_last_words_that_come_late_are_followed(self, aws: Double, agents: Agents) -> None:
        backend = agents.open()
        handle, job = await self.start(aws, backend)
        job.print("first")
        chunks: list[bytes] = []

        async def follow() -> None:
            async for chunk in backend.logs(handle, follow=True):
                chunks.append(chunk.data)
                if len(chunks) == 1:
                    job.end("Completed")
                    await phase(backend, handle, Phase.FINISHED)
                    job.print("last")

        async with asyncio.timeout(60):
            await follow()
        assert b"".join(chunks) == b"first\nlast\n"


def test_agent_imports_no_sdk() -> None:
    program = (
        "import sys, agent.run, agent.opening, launchbay.commands.agent, backends.sagemaker, backends.registry\n"
        "print([name for name in ('boto3', 'botocore', 'google.cloud.aiplatform') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
