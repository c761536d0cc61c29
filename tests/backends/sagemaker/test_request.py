"""What AWS is asked to make for a launch."""

import json
from dataclasses import replace
from typing import Any, ClassVar

import pytest

from backends.base import BackendError, StartRequest
from backends.sagemaker.kinds import PROCESSING, TRAINING, TRANSFORM
from backends.sagemaker.names import MAX_NAME, job_name, owner_of, read_tags, tags_of
from backends.sagemaker.request import SECRETS, Account, Plan, unwrapped
from backends.sagemaker.request import plan as plan_with
from protocol.run_environment import split_variable

ACCOUNT = Account("123456789012", "aws", "eu-west-1")
IMAGE = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/team/train:1"
ARGS: dict[str, Any] = {
    "RoleArn": "jobs",
    "OutputDataConfig": {"S3OutputPath": "s3://bucket/output/"},
    "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 10},
    "StoppingCondition": {"MaxRuntimeInSeconds": 3600},
}
REQUEST = StartRequest(
    "launch-0123456789abcdef-1",
    ["python", "train.py", "--lr", "0.1"],
    {"WANDB_RUN_ID": "run1", "WANDB_PROJECT": "p"},
    args=["--lr", "0.1"],
    secrets={"WANDB_API_KEY": "key"},
    image=IMAGE,
    labels={"item": "aXRlbQ==", "attempt": "1", "run": "run1"},
    resource_args=ARGS,
)
PROCESSING_ARGS: dict[str, Any] = {
    "role_arn": "jobs",
    "ProcessingResources": {"ClusterConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 10}},
}
TRANSFORM_ARGS: dict[str, Any] = {
    "ModelName": "model",
    "TransformInput": {"DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": "s3://bucket/in"}}},
    "TransformOutput": {"S3OutputPath": "s3://bucket/out"},
    "TransformResources": {"InstanceType": "ml.m5.large", "InstanceCount": 1},
}


def plan(args: Any = ARGS, request: StartRequest = REQUEST, secret_prefix: str = "", **changes: Any) -> Plan:
    """Plan a launch."""
    return plan_with(replace(request, resource_args=args, **changes), "agent", ACCOUNT, secret_prefix)


def test_training_job_has_what_launch_and_queue_say() -> None:
    planned = plan()
    assert planned.kind is TRAINING
    assert planned.image == IMAGE
    arguments: Any = dict(planned.arguments)
    tags = {tag["Key"]: tag["Value"] for tag in arguments.pop("Tags")}
    assert tags["WandbRunId"] == "run1"
    assert read_tags(tags) == REQUEST.labels
    assert arguments == {
        **ARGS,
        "RoleArn": "arn:aws:iam::123456789012:role/jobs",
        "TrainingJobName": f"launch-0123456789abcdef-1-{owner_of('agent')}",
        "AlgorithmSpecification": {
            "TrainingImage": IMAGE,
            "TrainingInputMode": "File",
            "ContainerEntrypoint": ["python", "train.py"],
            "ContainerArguments": ["--lr", "0.1"],
        },
        "Environment": {"WANDB_RUN_ID": "run1", "WANDB_PROJECT": "p", "WANDB_API_KEY": "key"},
    }


def test_keys_may_be_in_snake_case_and_nulls_are_nothing() -> None:
    args = {
        "role_arn": "jobs",
        "output_data_config": ARGS["OutputDataConfig"],
        "resource_config": ARGS["ResourceConfig"],
        "stopping_condition": ARGS["StoppingCondition"],
        "vpc_config": None,
        "enable_network_isolation": True,
        "EcrRepoName": "repository",
        "region": "eu-west-1",
        "profile": "somebody",
    }
    arguments = plan(args).arguments
    expected = {**plan().arguments, "EnableNetworkIsolation": True}
    assert arguments == expected


def test_key_in_two_spellings_is_refused() -> None:
    with pytest.raises(BackendError, match="'RoleArn' is given twice"):
        plan({**ARGS, "role_arn": "other"})


def test_region_of_another_agent_is_refused() -> None:
    with pytest.raises(BackendError, match=r"wants the region 'us-east-1', and this agent works in 'eu-west-1'"):
        plan({**ARGS, "region": "us-east-1"})


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("RoleArn", "AWS sagemaker require a string RoleArn set this by adding a `RoleArn` key"),
        ("OutputDataConfig", "Sagemaker launcher requires an OutputDataConfig Sagemaker resource argument"),
        ("ResourceConfig", "Sagemaker launcher requires a ResourceConfig resource argument"),
        ("StoppingCondition", "Sagemaker launcher requires a StoppingCondition resource argument"),
    ],
)
def test_required_args_are_told_in_the_words_of_the_stock_agent(missing: str, message: str) -> None:
    with pytest.raises(BackendError, match=message):
        plan({key: value for key, value in ARGS.items() if key != missing})


@pytest.mark.parametrize(
    ("role", "arn"),
    [
        ("jobs", "arn:aws-cn:iam::210987654321:role/jobs"),
        ("service-role/jobs", "arn:aws-cn:iam::210987654321:role/service-role/jobs"),
        ("arn:aws-cn:iam::999999999999:role/jobs", "arn:aws-cn:iam::999999999999:role/jobs"),
    ],
)
def test_role_is_completed(role: str, arn: str) -> None:
    account = Account("210987654321", "aws-cn", "cn-north-1")
    request = replace(REQUEST, resource_args={**ARGS, "RoleArn": role})
    assert plan_with(request, "agent", account).arguments["RoleArn"] == arn


class TestTheImageOfTheQueue:
    """A given training image wins over the job's, and then only the launch's own program is used."""

    ARGS: ClassVar[dict[str, Any]] = {
        **ARGS,
        "AlgorithmSpecification": {"TrainingImage": "registry.example/own:1", "TrainingInputMode": "Pipe"},
    }

    def test_runs_its_own_program(self) -> None:
        planned = plan(self.ARGS, command_yields=True)
        assert planned.image == "registry.example/own:1"
        assert planned.arguments["AlgorithmSpecification"] == {
            "TrainingImage": "registry.example/own:1",
            "TrainingInputMode": "Pipe",
            "ContainerArguments": ["--lr", "0.1"],
        }

    def test_runs_the_program_that_the_launch_names(self) -> None:
        specification: Any = plan(self.ARGS).arguments["AlgorithmSpecification"]
        assert specification["ContainerEntrypoint"] == ["python", "train.py"]

    def test_that_is_the_jobs_runs_the_jobs_program(self) -> None:
        """As where it is written `${image_uri}`."""
        args = {**ARGS, "algorithm_specification": {"TrainingImage": IMAGE, "TrainingInputMode": "File"}}
        specification: Any = plan(args, command_yields=True).arguments["AlgorithmSpecification"]
        assert specification["ContainerEntrypoint"] == ["python", "train.py"]

    def test_is_needed_where_the_launch_has_none(self) -> None:
        with pytest.raises(BackendError, match="names no image"):
            plan(image=None)
        algorithm = {"AlgorithmName": "from-the-marketplace", "TrainingInputMode": "File"}
        assert plan({**ARGS, "AlgorithmSpecification": algorithm}, image=None).image is None


def test_image_without_a_program_runs_its_own_with_the_launchs_words() -> None:
    specification: Any = plan(command=[]).arguments["AlgorithmSpecification"]
    assert "ContainerEntrypoint" not in specification
    assert specification["ContainerArguments"] == ["--lr", "0.1"]


class TestVariables:
    def test_queues_own_win_but_for_the_run(self) -> None:
        given = {"WANDB_PROJECT": "queue's", "WANDB_RUN_ID": "other", "MORE": "x", "WANDB_API_KEY": "own"}
        assert plan({**ARGS, "Environment": given}).arguments["Environment"] == {
            "WANDB_PROJECT": "queue's",
            "WANDB_RUN_ID": "run1",
            "MORE": "x",
            "WANDB_API_KEY": "own",
        }

    def test_too_long_for_aws_is_told_by_name(self) -> None:
        with pytest.raises(BackendError, match="The variable WANDB_ARTIFACTS has 513 characters"):
            plan(environment={"WANDB_ARTIFACTS": "x" * 513})
        assert plan(environment={"WANDB_ARTIFACTS": "x" * 512})

    @pytest.mark.parametrize(("args", "limit"), [(ARGS, 512), (PROCESSING_ARGS, 256), (TRANSFORM_ARGS, 10240)])
    def test_config_comes_in_pieces_that_the_kind_of_job_takes(self, args: Any, limit: int) -> None:
        given = split_variable("WANDB_CONFIG", json.dumps({str(n): n for n in range(300)}), 512)
        variables: Any = plan(args, environment={"WANDB_RUN_ID": "run1", **given}).arguments["Environment"]
        pieces = [value for name, value in variables.items() if name.startswith("WANDB_CONFIG")]
        assert "".join(pieces) == "".join(given.values())
        assert max(map(len, pieces)) <= limit
        assert ("WANDB_CONFIG" in variables) == (limit == 10240)

    def test_by_reference_the_key_stands_nowhere(self) -> None:
        planned = plan(secret_prefix="launchbay/")
        assert planned.secret is not None
        assert planned.secret.name == f"launchbay/{planned.name}"
        assert json.loads(planned.secret.value) == {"WANDB_API_KEY": "key"}
        variables: Any = planned.arguments["Environment"]
        assert variables[SECRETS] == f"eu-west-1/{planned.secret.name}"
        assert "WANDB_API_KEY" not in variables
        specification: Any = planned.arguments["AlgorithmSpecification"]
        assert unwrapped(specification["ContainerEntrypoint"]) == ["python", "train.py"]
        assert all(len(word) <= 256 and "\n" not in word for word in specification["ContainerEntrypoint"])
        assert len(specification["ContainerEntrypoint"]) < 50
        assert specification["ContainerArguments"] == ["--lr", "0.1"]

    def test_by_reference_an_image_of_its_own_program_is_refused(self) -> None:
        with pytest.raises(BackendError, match="Give the launch or its job an entry point"):
            plan(secret_prefix="launchbay/", command=[])


class TestSpot:
    ARGS: ClassVar[dict[str, Any]] = {**ARGS, "EnableManagedSpotTraining": True}

    def test_goes_on_with_its_run_and_its_checkpoints(self) -> None:
        arguments: Any = plan(self.ARGS).arguments
        assert arguments["Environment"]["WANDB_RESUME"] == "allow"
        assert arguments["CheckpointConfig"] == {"S3Uri": "s3://bucket/output/run1/checkpoints"}
        later: Any = plan(self.ARGS, name="launch-0123456789abcdef-2").arguments
        assert later["CheckpointConfig"] == arguments["CheckpointConfig"], "the next attempt finds them"
        assert later["TrainingJobName"] != arguments["TrainingJobName"]

    def test_what_the_queue_says_stays(self) -> None:
        checkpoints = {"S3Uri": "s3://bucket/own", "LocalPath": "/checkpoints"}
        args = {**self.ARGS, "CheckpointConfig": checkpoints, "Environment": {"WANDB_RESUME": "must"}}
        arguments: Any = plan(args).arguments
        assert arguments["CheckpointConfig"] == checkpoints
        assert arguments["Environment"]["WANDB_RESUME"] == "must"

    def test_others_are_left_alone(self) -> None:
        assert "CheckpointConfig" not in plan().arguments
        assert "WANDB_RESUME" not in dict(plan().arguments["Environment"])  # type: ignore[call-overload]


class TestOtherKinds:
    def test_processing_job(self) -> None:
        planned = plan(PROCESSING_ARGS)
        assert planned.kind is PROCESSING
        arguments: Any = planned.arguments
        assert arguments["AppSpecification"] == {
            "ImageUri": IMAGE,
            "ContainerEntrypoint": ["python", "train.py"],
            "ContainerArguments": ["--lr", "0.1"],
        }
        assert arguments["RoleArn"] == "arn:aws:iam::123456789012:role/jobs"
        assert arguments["ProcessingJobName"] == planned.name
        assert "AlgorithmSpecification" not in arguments

    def test_transform_job_runs_its_model(self) -> None:
        planned = plan(TRANSFORM_ARGS)
        assert (planned.kind, planned.image) == (TRANSFORM, None)
        assert planned.arguments["ModelName"] == "model"
        assert not {"RoleArn", "AlgorithmSpecification", "AppSpecification"} & set(planned.arguments)

    def test_transform_job_by_reference_is_told_where_its_secrets_are(self) -> None:
        variables: Any = plan(TRANSFORM_ARGS, secret_prefix="launchbay/").arguments["Environment"]
        assert variables[SECRETS].startswith("eu-west-1/launchbay/")
        assert "WANDB_API_KEY" not in variables

    @pytest.mark.parametrize("missing", ["ModelName", "TransformInput", "TransformOutput", "TransformResources"])
    def test_transform_job_needs_its_args(self, missing: str) -> None:
        with pytest.raises(BackendError, match=f"requires a {missing} resource argument"):
            plan({key: value for key, value in TRANSFORM_ARGS.items() if key != missing})

    def test_processing_job_needs_its_resources(self) -> None:
        with pytest.raises(BackendError, match="requires a ProcessingResources resource argument"):
            plan({"RoleArn": "jobs", "AppSpecification": {"ImageUri": IMAGE}})

    def test_of_two_kinds_is_refused(self) -> None:
        with pytest.raises(BackendError, match="several kinds of jobs: TrainingJob, ProcessingJob"):
            plan({**ARGS, "ProcessingResources": PROCESSING_ARGS["ProcessingResources"]})


class TestNames:
    def test_depend_on_launch_and_agent(self) -> None:
        assert job_name("launch-1", "a") == job_name("launch-1", "a")
        assert len({job_name("launch-1", "a"), job_name("launch-2", "a"), job_name("launch-1", "b")}) == 3

    def test_begin_as_the_queue_wishes_and_fit(self) -> None:
        name = plan({**ARGS, "TrainingJobName": "Team_Vision: " + "x" * 100}).name
        assert name.startswith("Team-Vision-xxx")
        assert name.endswith(f"-launch-0123456789abcdef-1-{owner_of('agent')}")
        assert len(name) <= MAX_NAME

    @pytest.mark.parametrize("launch", ["launch-1", "_", "Ü" * 100, "a b", "-a", "x" * 100])
    def test_are_what_aws_takes(self, launch: str) -> None:
        name = job_name(launch, "agent")
        assert len(name) <= MAX_NAME
        assert name.replace("-", "").isalnum()
        assert name.isascii()
        assert not name.startswith("-")

    def test_tags_bring_labels_back(self) -> None:
        labels = {
            "item": "aXRlbQ==",
            "owner": "host:/var/lib/launchbay",
            "project": "größe, \"1+1\" 'x'\n",
            "long": "ü" * 300,
            "empty": "",
        }
        tags = tags_of("agent", labels)
        assert read_tags(tags) == labels
        assert all(len(value) <= 256 for value in tags.values())

    def test_queues_tags_stay(self) -> None:
        args = {**ARGS, "Tags": [{"Key": "team", "Value": "vision"}, {"Key": "WandbRunId", "Value": "wrong"}]}
        tags: Any = plan(args).arguments["Tags"]
        assert {"Key": "team", "Value": "vision"} in tags
        assert [tag["Value"] for tag in tags if tag["Key"] == "WandbRunId"] == ["run1"]

    def test_tags_of_another_form_are_refused(self) -> None:
        with pytest.raises(BackendError, match="'Tags' must be a list"):
            plan({**ARGS, "Tags": {"team": "vision"}})
