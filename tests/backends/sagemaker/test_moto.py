"""The real boto3 against moto: SageMaker, ECR, IAM, STS, Secrets Manager, S3 and CloudWatch Logs, without a double."""

import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any
from uuid import uuid4

import boto3
import pytest

from agent.building.credentials import Tokens
from agent.config.model import AgentConfig
from agent.control_plane import ControlPlane
from backends.base import BackendError, BackendUnavailable, Phase, PlatformFull, StartRequest
from backends.registry import load
from backends.sagemaker.access import Aws, open_session
from backends.sagemaker.bring_secrets import sign
from backends.sagemaker.kinds import TRAINING
from backends.sagemaker.request import SECRETS, plan
from backends.sagemaker.settings import Identity
from backends.testing.contract import end_of
from launchbay.doctor import aws_checks
from launchbay.doctor.checks import Surroundings, Verdict, ok
from protocol.json_types import JsonObject
from tests.backends.sagemaker.double import REGION, double
from tests.backends.sagemaker.test_request import ACCOUNT, ARGS, PROCESSING_ARGS, REQUEST, TRANSFORM_ARGS


@pytest.fixture
def moto_aws(moto: str, aws_variables: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    aws_variables.setenv("AWS_ENDPOINT_URL", moto)
    return aws_variables


@pytest.fixture
async def backend(moto_aws: pytest.MonkeyPatch, tmp_path: Path) -> AsyncGenerator[Any]:
    backend = load("sagemaker")(
        tmp_path / "state", uuid4().hex, {"poll_seconds": 0.05, "secrets": {"prefix": "launchbay/"}}
    )
    yield backend
    await backend.close()


@pytest.fixture
def request_(moto_aws: pytest.MonkeyPatch) -> StartRequest:
    """A request of its own, as moto remembers those of other tests."""
    return replace(REQUEST, name=f"launch-{uuid4().hex[:8]}", image="registry.example/image:1")


async def test_training_job(backend: Any, request_: StartRequest) -> None:
    handle = await backend.start(request_)
    assert await backend.start(request_) == handle
    seen = await end_of(backend, handle)
    assert (seen.phase, seen.labels) == (Phase.FINISHED, REQUEST.labels)
    sagemaker: Any = boto3.client("sagemaker")
    told = sagemaker.describe_training_job(TrainingJobName=handle.partition("/")[2])
    assert told["RoleArn"] == "arn:aws:iam::123456789012:role/jobs"
    assert told["OutputDataConfig"] == ARGS["OutputDataConfig"]
    tags = sagemaker.list_tags(ResourceArn=told["TrainingJobArn"])["Tags"]
    assert {"Key": "WandbRunId", "Value": "run1"} in tags
    secrets: Any = boto3.client("secretsmanager")
    name = f"launchbay/{handle.partition('/')[2]}"
    assert json.loads(secrets.get_secret_value(SecretId=name)["SecretString"]) == {"WANDB_API_KEY": "key"}
    await backend.cleanup(handle)
    assert await backend.observe() == {}
    with pytest.raises(secrets.exceptions.ResourceNotFoundException):
        secrets.get_secret_value(SecretId=name)
    assert {"Key": "launchbay:over", "Value": "true"} in sagemaker.list_tags(ResourceArn=told["TrainingJobArn"])["Tags"]


@pytest.mark.parametrize("args", [PROCESSING_ARGS, TRANSFORM_ARGS])
async def test_other_kinds_of_jobs_are_made(backend: Any, request_: StartRequest, args: Any) -> None:
    handle = await backend.start(replace(request_, resource_args=args))
    assert (await backend.observe())[handle].labels == REQUEST.labels


async def test_output_from_cloudwatch(backend: Any, request_: StartRequest) -> None:
    handle = await backend.start(request_)
    job = handle.partition("/")[2]
    logs: Any = boto3.client("logs")
    with suppress(logs.exceptions.ResourceAlreadyExistsException):
        logs.create_log_group(logGroupName=TRAINING.log_group)
    stream = f"{job}/algo-1-1700000000"
    logs.create_log_stream(logGroupName=TRAINING.log_group, logStreamName=stream)
    now = int(time.time() * 1000)
    for lines in (["epoch 1", "größe"], ["epoch 2"]):
        events = [{"timestamp": now, "message": line} for line in lines]
        logs.put_log_events(logGroupName=TRAINING.log_group, logStreamName=stream, logEvents=events)
    seen = b"".join([chunk.data async for chunk in backend.logs(handle)])
    assert seen.decode() == "epoch 1\ngröße\nepoch 2\n"


@pytest.mark.parametrize("code", ["ValidationException", "ResourceLimitExceeded"])
async def test_secret_goes_if_the_job_is_not_made(
    moto: str, backend: Any, request_: StartRequest, moto_aws: pytest.MonkeyPatch, code: str
) -> None:
    async with double(moto) as aws:
        moto_aws.setenv("AWS_ENDPOINT_URL", aws.url)
        aws.fail("CreateTrainingJob", code, "no")
        with pytest.raises((BackendError, PlatformFull)):
            await backend.start(request_)
        assert aws.count("CreateSecret") == aws.count("DeleteSecret") == 1
        assert await backend.start(request_)
        (secret,) = [job.request["Environment"][SECRETS] for job in aws.jobs.values()]
    moto_aws.setenv("AWS_ENDPOINT_URL", moto)
    client: Any = boto3.client("secretsmanager")
    assert client.get_secret_value(SecretId=secret.partition("/")[2])


async def test_secret_of_this_name_that_is_just_being_deleted_is_waited_for(
    moto: str, backend: Any, request_: StartRequest, moto_aws: pytest.MonkeyPatch
) -> None:
    async with double(moto) as aws:
        moto_aws.setenv("AWS_ENDPOINT_URL", aws.url)
        aws.fail("CreateSecret", "InvalidRequestException", "a secret with this name is scheduled for deletion")
        with pytest.raises(BackendUnavailable, match="scheduled for deletion"):
            await backend.start(request_)
        assert await backend.start(request_)


async def test_image_is_looked_for_in_ecr(backend: Any, request_: StartRequest) -> None:
    ecr: Any = boto3.client("ecr")
    repository = f"team/{uuid4().hex[:8]}"
    uri = ecr.create_repository(repositoryName=repository)["repository"]["repositoryUri"]
    with pytest.raises(BackendError, match="There is no image"):
        await backend.start(replace(request_, image=f"{uri}:1"))
    manifest = {"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json", "layers": []}
    made = ecr.put_image(repositoryName=repository, imageTag="1", imageManifest=json.dumps(manifest))
    digest = made["image"]["imageId"]["imageDigest"]
    assert await backend.start(replace(request_, image=f"{uri}:1"))
    assert await backend.start(replace(request_, name=f"{request_.name}-2", image=f"{uri}@{digest}"))
    with pytest.raises(BackendError, match="There is no image"):
        await backend.start(replace(request_, name=f"{request_.name}-3", image=f"{uri}-other:1"))


async def test_assumed_role_profile_and_region(moto_aws: pytest.MonkeyPatch) -> None:
    """The agent's own keys are those of a profile, and are only good for becoming a role."""
    iam: Any = boto3.client("iam")
    name = f"agent-{uuid4().hex[:8]}"
    role = iam.create_role(RoleName=name, AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_DEFAULT_REGION"):
        moto_aws.delenv(variable)
    Path(os.environ["AWS_SHARED_CREDENTIALS_FILE"]).write_text(
        "[clusters]\naws_access_key_id = AKIAPROFILE\naws_secret_access_key = secret\n"
    )
    aws = Aws(Identity(region="us-west-2", profile="clusters", role_arn=role))
    me = await aws.call("sts", "get_caller_identity")
    assert me["Arn"].split(":")[5] == f"assumed-role/{name}/launchbay"
    assert await aws.region() == "us-west-2"
    aws.close()
    plain = Aws(Identity(region="us-west-2", profile="clusters"))
    assert "assumed-role" not in (await plain.call("sts", "get_caller_identity"))["Arn"]
    plain.close()
    with_typo = Aws(Identity(region="us-west-2", profile="cluster"))
    with pytest.raises(BackendError, match="cluster"):
        await with_typo.call("sts", "get_caller_identity")
    with_typo.close()


def test_builder_logs_in_at_ecr_as_the_environment_says(
    moto_aws: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[Identity] = []

    def open_noted(identity: Identity) -> Any:
        asked.append(identity)
        return open_session(identity)

    monkeypatch.setattr("backends.sagemaker.access.open_session", open_noted)
    tokens = Tokens({"type": "aws", "region": "us-west-2", "role_arn": "arn:aws:iam::123456789012:role/pusher"})
    found = tokens.get("123456789012.dkr.ecr.eu-west-1.amazonaws.com", time.time())
    assert found
    assert found.user == "AWS"
    assert asked == [Identity("eu-west-1", "", "arn:aws:iam::123456789012:role/pusher")]
    Tokens({"type": "gcp", "profile": "x"}).get("123456789012.dkr.ecr.eu-west-1.amazonaws.com", time.time())
    assert asked[1:] == [Identity("eu-west-1")]


def run_in_container(moto: str, command: list[str], secret: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a job's command as its container would."""
    environment = {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "AWS_ENDPOINT_URL": moto,
        "AWS_ACCESS_KEY_ID": "job",
        "AWS_SECRET_ACCESS_KEY": "job",
        SECRETS: f"{REGION}/{secret}",
        **variables,
    }
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def command_of(*words: str) -> list[str]:
    """Return what runs in the container of a job with this command whose secrets come by reference."""
    planned = plan(replace(REQUEST, command=words, args=()), "agent", ACCOUNT, "launchbay/")
    specification: Any = planned.arguments["AlgorithmSpecification"]
    return list(specification["ContainerEntrypoint"])


def test_job_brings_its_secrets_itself(moto: str, moto_aws: pytest.MonkeyPatch) -> None:
    secrets: Any = boto3.client("secretsmanager")
    name = f"launchbay/{uuid4().hex}"
    secrets.create_secret(Name=name, SecretString=json.dumps({"WANDB_API_KEY": "a $key with 'quotes'\n"}))
    show = command_of("python3", "-c", "import os, sys; print(repr(os.environ['WANDB_API_KEY'])); sys.exit(3)")
    done = run_in_container(moto, show, name)
    assert (done.stdout, done.returncode) == (repr("a $key with 'quotes'\n") + "\n", 3)
    missing = run_in_container(moto, show, "launchbay/other")
    assert missing.returncode == 1
    assert "cannot be fetched from Secrets Manager" in missing.stderr
    assert "ResourceNotFoundException" in missing.stderr
    unknown = run_in_container(moto, command_of("no-such-program", "--flag"), name)
    assert unknown.returncode == 127
    assert "no-such-program cannot be started" in unknown.stderr


async def test_signature_is_what_boto3_makes(moto_aws: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch) -> None:
    """As moto takes any: the same request, signed by both."""
    import botocore.auth
    import botocore.awsrequest
    import botocore.credentials

    moment = time.gmtime(1_700_000_000)
    monkeypatch.setattr("backends.sagemaker.bring_secrets.time.gmtime", lambda *_: moment)
    body, host = b'{"SecretId": "launchbay/x"}', f"secretsmanager.{REGION}.amazonaws.com"
    ours = sign(host, REGION, body, ["AKIA", "secret", "token"])
    unsigned = {key: value for key, value in ours.items() if key not in {"authorization", "x-amz-security-token"}}
    request: Any = botocore.awsrequest.AWSRequest("POST", f"https://{host}/", headers=unsigned, data=body)
    signer: Any = botocore.auth.SigV4Auth(
        botocore.credentials.Credentials("AKIA", "secret", "token"), "secretsmanager", REGION
    )
    request.headers["X-Amz-Security-Token"] = "token"
    request.context["timestamp"] = ours["x-amz-date"]
    theirs = signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request)
    assert ours["authorization"].endswith(f"Signature={theirs}")


async def test_bad_block_is_told(tmp_path: Path) -> None:
    wrong: dict[str, tuple[JsonObject, str]] = {
        "regoin": ({"regoin": "x"}, "`backends.sagemaker.regoin` is not known"),
        "region": ({"region": "Frankfurt am Main"}, r"`backends.sagemaker.region` \(or `environment.region`\)"),
        "role": ({"role_arn": "agent"}, "must be the ARN of a role"),
        "poll": ({"poll_seconds": 0}, "poll_seconds` cannot be read"),
        "secrets": ({"secrets": "launchbay/"}, r"as \{prefix: launchbay/\}"),
        "prefix": ({"secrets": {"prefix": "a b"}}, "secrets.prefix` cannot be read"),
    }
    for block, problem in wrong.values():
        with pytest.raises(BackendError, match=problem):
            load("sagemaker")(tmp_path, "agent", block)


async def test_nobody_answers_for_a_wrong_endpoint(moto_aws: pytest.MonkeyPatch, tmp_path: Path) -> None:
    moto_aws.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    moto_aws.setattr("backends.sagemaker.access.FIRST_PAUSE_SECONDS", 0.001)
    backend = load("sagemaker")(tmp_path, "agent", {})
    with pytest.raises(BackendUnavailable):
        await backend.observe()
    await backend.close()


def around(tmp_path: Path, **config: Any) -> Surroundings:
    """What doctor looks at."""
    given = AgentConfig.model_validate({"resources": ["sagemaker"], **config})
    server = ControlPlane("http://127.0.0.1:1", "key", random=Random(1))
    return Surroundings(given, ok("valid"), server, "", dict(os.environ), tmp_path)


async def test_doctor_asks_aws(moto_aws: pytest.MonkeyPatch, tmp_path: Path) -> None:
    name = uuid4().hex[:8]
    role: str = boto3.client("iam").create_role(RoleName=name, AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    environment = {"type": "aws", "region": "us-west-2", "role_arn": role}
    found = await aws_checks.sagemaker(around(tmp_path, environment=environment))
    assert found.verdict is Verdict.OK
    assert f"assumed-role/{name}/launchbay in us-west-2" in found.found
    destination = f"123456789012.dkr.ecr.us-west-2.amazonaws.com/{name}"
    builder = {"type": "docker", "destination": destination}
    found = await aws_checks.sagemaker(around(tmp_path, environment=environment, builder=builder))
    assert found.verdict is Verdict.PROBLEM
    assert "RepositoryNotFoundException" in found.found
    boto3.client("ecr", region_name="us-west-2").create_repository(repositoryName=name)
    found = await aws_checks.sagemaker(around(tmp_path, environment=environment, builder=builder))
    assert found == ok(
        f"{role.replace(':iam:', ':sts:').replace(':role/', ':assumed-role/')}/launchbay in us-west-2 "
        f"sees its jobs; images go to the repository {name!r}"
    )


async def test_doctor_tells_what_is_wrong_with_aws(moto_aws: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = await aws_checks.sagemaker(around(tmp_path, environment={"type": "aws", "profile": "nobody"}))
    assert found.verdict is Verdict.PROBLEM
    assert "nobody" in found.found
    found = await aws_checks.sagemaker(around(tmp_path, backends={"sagemaker": {"regoin": "x"}}))
    assert "`backends.sagemaker.regoin` is not known" in found.found
    moto_aws.delenv("AWS_ACCESS_KEY_ID")
    moto_aws.delenv("AWS_SECRET_ACCESS_KEY")
    found = await aws_checks.sagemaker(around(tmp_path))
    assert "Unable to locate credentials" in found.found
    assert (await aws_checks.sagemaker(around(tmp_path, resources=["kubernetes"]))).verdict is Verdict.SKIPPED
