"""What a description of a job says about its launch."""

from datetime import UTC, datetime
from typing import Any

import pytest

from backends.base import Observation, Phase, Step
from backends.sagemaker.kinds import PROCESSING, TRAINING, TRANSFORM, Kind
from backends.sagemaker.reading import read as read_with
from backends.sagemaker.request import plan
from tests.backends.sagemaker.test_request import ACCOUNT, REQUEST

START = 1_700_000_000.0
STOPPING = {"MaxRuntimeInSeconds": 3600, "MaxWaitTimeInSeconds": 7200}


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(START + seconds, UTC)


def told(status: str, *secondary: str, message: str = "said", **more: Any) -> dict[str, Any]:
    """Return the description of a training job that went through these secondary statuses, ten seconds each."""
    transitions = [
        {"Status": each, "StartTime": at(10 * place), "StatusMessage": message} for place, each in enumerate(secondary)
    ]
    trained = [each["StartTime"] for each in transitions if each["Status"] == "Training"]
    return {
        "TrainingJobStatus": status,
        "SecondaryStatus": secondary[-1],
        "SecondaryStatusTransitions": transitions,
        "CreationTime": at(0),
        "LastModifiedTime": at(100),
        "StoppingCondition": STOPPING,
        **({"TrainingStartTime": trained[0]} if trained else {}),
        **({"TrainingEndTime": at(90)} if status in {"Completed", "Failed", "Stopped"} else {}),
        **more,
    }


def read(description: dict[str, Any], kind: Kind = TRAINING) -> Observation:
    return read_with(kind, description, {"item": "i"})


@pytest.mark.parametrize(
    ("secondary", "phase", "step", "since"),
    [
        (["Starting"], Phase.STARTING, Step.SCHEDULE, START),
        (["Pending"], Phase.QUEUED, Step.SCHEDULE, START),
        (["Starting", "Downloading"], Phase.STARTING, Step.START, START + 10),
        (["Starting", "DownloadingTrainingImage"], Phase.STARTING, Step.PULL, START + 10),
        (["Starting", "Downloading", "Training"], Phase.RUNNING, Step.START, None),
        (["Starting", "Training", "Uploading"], Phase.RUNNING, Step.START, None),
        (["Starting", "Training", "Updating"], Phase.RUNNING, Step.START, None),
        (["Starting", "Training", "Interrupted"], Phase.QUEUED, Step.START, START + 20),
        (["Starting", "Training", "Interrupted", "Starting"], Phase.QUEUED, Step.SCHEDULE, START + 30),
        (["Starting", "Training", "Interrupted", "Starting", "Training"], Phase.RUNNING, Step.START, None),
        (["Starting", "Training", "Restarting"], Phase.QUEUED, Step.START, START + 20),
        (["Starting", "Training", "SomethingNew"], Phase.RUNNING, Step.START, None),
    ],
)
def test_secondary_status_says_what_it_is_at(
    secondary: list[str], phase: Phase, step: Step, since: float | None
) -> None:
    seen = read(told("InProgress", *secondary))
    assert (seen.phase, seen.step, seen.since) == (phase, step, since)
    assert seen.message == f"SageMaker: {secondary[-1]}: said"
    assert seen.labels == {"item": "i"}


def test_interrupted_job_has_no_time_from_its_first_start() -> None:
    """Else the limit for a start would end it at once."""
    seen = read(told("InProgress", "Starting", "Training", "Interrupted", "Starting", "Downloading"))
    assert (seen.phase, seen.started_at) == (Phase.QUEUED, None)


def test_waiting_for_spot_instances_is_no_start_that_takes_too_long() -> None:
    waiting = told("InProgress", "Starting", EnableManagedSpotTraining=True)
    assert read(waiting).phase is Phase.QUEUED
    downloading = told("InProgress", "Starting", "Downloading", EnableManagedSpotTraining=True)
    assert read(downloading).phase is Phase.STARTING


@pytest.mark.parametrize(
    ("description", "end"),
    [
        (told("Completed", "Training", "Completed"), (Phase.FINISHED, 0, "")),
        (told("Stopped", "Training", "Stopped"), (Phase.STOPPED, None, "")),
        (told("Stopped", "Training", "MaxRuntimeExceeded"), (Phase.FAILED, None, "timeout:run")),
        (told("Stopped", "Starting", "MaxWaitTimeExceeded"), (Phase.PREEMPTED, None, "max_wait_time_exceeded")),
        (told("Stopped", "Training", "Interrupted"), (Phase.PREEMPTED, None, "interrupted")),
        (told("Deleting", "Training", "Completed"), (Phase.LOST, None, "deleted")),
        (
            told("Failed", "Training", "Failed", FailureReason="AlgorithmError: , exit code: 3"),
            (Phase.FAILED, 3, "algorithm_error"),
        ),
        (
            told("Failed", "Training", "Failed", FailureReason="AlgorithmError: ExecuteUserScriptError:\nExitCode 1"),
            (Phase.FAILED, 1, "algorithm_error"),
        ),
        (
            told("Failed", "Training", "Failed", FailureReason="AlgorithmError: , exit code: 137"),
            (Phase.FAILED, 137, "signal:SIGKILL"),
        ),
        (
            told("Failed", "Training", "Failed", FailureReason="AlgorithmError: , exit code: 255"),
            (Phase.FAILED, 255, ""),
        ),
        (
            told("Failed", "Downloading", "Failed", FailureReason="ClientError: Data download failed: NoSuchKey"),
            (Phase.FAILED, None, "client_error"),
        ),
        (told("Failed", "Starting", "Failed"), (Phase.FAILED, None, "")),
    ],
)
def test_end_is_told(description: dict[str, Any], end: tuple[Phase, int | None, str]) -> None:
    seen = read(description)
    assert (seen.phase, seen.exit_code, seen.reason) == end
    assert not seen.is_platforms_fault
    assert seen.ended_at == START + (90 if "TrainingEndTime" in description else 100)


@pytest.mark.parametrize(
    "why",
    [
        "CapacityError: Unable to provision requested ML compute capacity. Please retry using a different instance.",
        "InternalServerError: We encountered an internal error. Please try again.",
    ],
)
def test_what_is_not_the_jobs_fault_may_be_tried_again(why: str) -> None:
    seen = read(told("Failed", "Starting", "Failed", FailureReason=why))
    assert seen.is_platforms_fault
    assert why in seen.message


def test_failure_tells_the_reason_and_how_it_came_to_it() -> None:
    seen = read(told("Failed", "Starting", "Training", "Failed", FailureReason="AlgorithmError: boom, exit code: 1"))
    assert seen.message == "SageMaker says: AlgorithmError: boom, exit code: 1"
    assert seen.details == ("Starting: said", "Training: said", "Failed: said")


def test_timeout_and_interruption_say_which_limit_it_was() -> None:
    assert "3600 seconds (StoppingCondition.MaxRuntimeInSeconds)" in read(told("Stopped", "MaxRuntimeExceeded")).message
    seen = read(told("Stopped", "Starting", "Training", "Interrupted", "MaxWaitTimeExceeded"))
    assert seen.message == (
        "Its spot instances were taken away, and none came within 7200 seconds "
        "(StoppingCondition.MaxWaitTimeInSeconds)."
    )
    assert read(told("Stopped", "MaxWaitTimeExceeded")).message.startswith("There were no spot instances for it")


def test_missing_program_is_named_also_behind_what_brings_secrets() -> None:
    planned = plan(REQUEST, "agent", ACCOUNT, "launchbay/")
    specification = planned.arguments["AlgorithmSpecification"]
    why = "AlgorithmError: , exit code: 127"
    seen = read(told("Failed", "Failed", FailureReason=why, AlgorithmSpecification=specification))
    assert "The program 'python' is not in the image." in seen.message


@pytest.mark.parametrize("kind", [PROCESSING, TRANSFORM])
@pytest.mark.parametrize(
    ("status", "more", "end"),
    [
        ("InProgress", {}, (Phase.STARTING, None, "")),
        ("InProgress", {"started": at(10)}, (Phase.RUNNING, None, "")),
        ("Stopping", {"started": at(10)}, (Phase.RUNNING, None, "")),
        ("Stopping", {}, (Phase.STARTING, None, "")),
        ("Completed", {"started": at(10), "ended": at(20)}, (Phase.FINISHED, 0, "")),
        ("Stopped", {"started": at(10), "ended": at(20)}, (Phase.STOPPED, None, "")),
        ("Stopped", {"started": at(10), "ended": at(3610)}, (Phase.FAILED, None, "timeout:run")),
        ("Failed", {"why": "AlgorithmError: exit code: 2"}, (Phase.FAILED, 2, "algorithm_error")),
    ],
)
def test_other_kinds(kind: Kind, status: str, more: dict[str, Any], end: tuple[Phase, int | None, str]) -> None:
    spelled = {"started": kind.started, "ended": kind.ended, "why": "FailureReason"}
    description = {spelled[key]: value for key, value in more.items()}
    seen = read({kind.status: status, "StoppingCondition": STOPPING, **description}, kind)
    assert (seen.phase, seen.exit_code, seen.reason) == end


def test_image_is_told_by_its_digest_alone() -> None:
    digest = "registry.example/image@sha256:" + "0" * 64
    assert read(told("InProgress", "Training", AlgorithmSpecification={"TrainingImage": digest})).image == digest
    assert read(told("InProgress", "Training", AlgorithmSpecification={"TrainingImage": "image:1"})).image == ""
