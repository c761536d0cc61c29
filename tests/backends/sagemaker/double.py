"""SageMaker and its logs at the wire, for what moto does not model: jobs that take time, fail, are stopped, interrupted
and throttled, and answers that are lost. Everything else that is asked of AWS is passed on to moto.

Jobs are processes of this machine, or do what the test says.
"""

import asyncio
import json
import os
import re
import signal
import sys
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

ACCOUNT = "123456789012"
REGION = "eu-west-1"
JSON = "application/x-amz-json-1.1"
KINDS = {"TrainingJob": "training-job", "ProcessingJob": "processing-job", "TransformJob": "transform-job"}
KILLED_AFTER_SECONDS = 0.4
"""Two minutes, in life."""


@dataclass
class Job:
    """A job of any kind, as SageMaker has it."""

    noun: str
    request: dict[str, Any]
    tags: dict[str, str]
    created: float
    modified: float = 0.0
    status: str = "InProgress"
    secondary: str = "Starting"
    transitions: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    started: float | None = None
    ended: float | None = None
    failure: str = ""
    streams: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """By stream, what was printed."""
    hidden: int = 0
    """From how many lists yet to come it is left out."""
    process: asyncio.subprocess.Process | None = None

    @property
    def name(self) -> str:
        return str(self.request[f"{self.noun}Name"])

    @property
    def arn(self) -> str:
        return f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:{KINDS[self.noun]}/{self.name}"

    def move(self, secondary: str, message: str = "", status: str = "InProgress") -> None:
        """Go on to another secondary status."""
        now = time.time()
        self.modified, self.status, self.secondary = now, status, secondary
        if self.transitions:
            self.transitions[-1]["EndTime"] = now
        self.transitions.append({"Status": secondary, "StartTime": now, "StatusMessage": message})
        if secondary == "Training" and self.started is None:
            self.started = now
        if status in {"Completed", "Failed", "Stopped"}:
            self.ended = now

    def end(self, status: str, secondary: str = "", why: str = "") -> None:
        """Be over."""
        self.failure = why
        self.move(secondary or status, status=status)

    def print(self, *lines: str, instance: str = "algo-1") -> None:
        """Print lines to a stream."""
        self.streams.setdefault(f"{self.name}/{instance}-1700000000", []).extend(lines)

    def summary(self) -> dict[str, Any]:
        """What a list says of it."""
        noun, start = self.noun, self.noun.removesuffix("Job")
        told: dict[str, Any] = {
            f"{noun}Name": self.name,
            f"{noun}Arn": self.arn,
            f"{noun}Status": self.status,
            "CreationTime": self.created,
            "LastModifiedTime": self.modified,
        }
        if self.ended:
            told[f"{start}EndTime"] = self.ended
        return told

    def description(self) -> dict[str, Any]:
        """What it is described as."""
        told = {key: value for key, value in self.request.items() if key != "Tags"} | self.summary()
        if self.started:
            told[f"{self.noun.removesuffix('Job')}StartTime"] = self.started
        if self.failure:
            told["FailureReason"] = self.failure
        if self.noun == "TrainingJob":
            told |= {"SecondaryStatus": self.secondary, "SecondaryStatusTransitions": self.transitions}
        return told


@dataclass
class Fault:
    """What goes wrong with a call."""

    operation: str
    code: str = ""
    message: str = ""
    status: int = 400
    after: bool = False
    """Whether what was asked for happens all the same."""
    cut: bool = False
    """Whether the connection is cut instead of an answer."""
    times: int = 1


@dataclass
class Double:
    """See above."""

    moto: str = ""
    """The URL of moto."""
    runs: bool = False
    """Whether jobs are processes; otherwise the test says what they do."""
    url: str = ""
    jobs: dict[str, Job] = field(default_factory=dict[str, Job])
    asked: list[str] = field(default_factory=list[str])
    """The operations that were asked for."""
    keys: list[str] = field(default_factory=list[str])
    """The access key with which each was."""
    faults: list[Fault] = field(default_factory=list[Fault])
    hides_from_lists: int = 0
    """From how many lists a new job is left out, as lists are not up to date."""
    allows: Callable[[str], bool] = lambda _: True
    """Whether an operation is within the platform's limits now."""
    _tasks: set[asyncio.Task[None]] = field(default_factory=set[asyncio.Task[None]])

    def fail(self, operation: str, code: str = "", message: str = "", **how: Any) -> None:
        """Let calls of an operation go wrong."""
        self.faults.append(Fault(operation, code, message, **how))

    @property
    def job(self) -> Job:
        """The only job."""
        (job,) = self.jobs.values()
        return job

    def count(self, prefix: str) -> int:
        """How many of the calls that were asked for begin like this."""
        return sum(operation.startswith(prefix) for operation in self.asked)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer a call."""
        body = await request.read()
        target = request.headers.get("X-Amz-Target", "")
        operation = target.rpartition(".")[2] or str((await request.post()).get("Action", ""))
        self.asked.append(operation)
        if found := re.search(r"Credential=([^/]+)/", request.headers.get("Authorization", "")):
            self.keys.append(found[1])
        fault = next((each for each in self.faults if each.operation == operation), None)
        if fault:
            fault.times -= 1
            if not fault.times:
                self.faults.remove(fault)
        if not self.allows(operation):
            fault = Fault(operation, "ThrottlingException", "Rate exceeded")
        answer: web.StreamResponse | None = None
        if fault is None or fault.after:
            answer = await self._answer(request, target, operation, body)
        if fault and fault.cut:
            assert request.transport
            request.transport.abort()
        elif fault:
            return _error(fault.code, fault.message, fault.status)
        return answer or web.Response()

    async def _answer(self, request: web.Request, target: str, operation: str, body: bytes) -> web.StreamResponse:
        service = target.partition(".")[0]
        if service in {"SageMaker", "Logs_20140328"}:
            answer = getattr(self, f"_{_snake(operation)}", None) or self._of_kind(operation)
            given = json.loads(body or b"{}")
            try:
                return web.json_response(answer(given), content_type=JSON)
            except _Refused as error:
                return _error(error.code, str(error), 400)
        if operation == "GetCallerIdentity" and not self.moto:
            return web.Response(text=_IDENTITY, content_type="text/xml")
        headers = {
            key: value for key, value in request.headers.items() if key.lower() not in {"host", "content-length"}
        }
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.request(request.method, self.moto + request.path_qs, headers=headers, data=body) as came,
        ):
            kept = {key: value for key, value in came.headers.items() if key.lower() in {"content-type", "date"}}
            return web.Response(status=came.status, headers=kept, body=await came.read())

    # --- SageMaker ---------------------------------------------------------------------------------------------------

    def _of_kind(self, operation: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
        found = re.fullmatch(r"(Create|Describe|Stop|List)(TrainingJob|ProcessingJob|TransformJob)s?", operation)
        assert found, operation
        verb: Callable[..., dict[str, Any]] = getattr(self, f"_{found[1].lower()}")
        return lambda given: verb(found[2], given)

    def _create(self, noun: str, given: dict[str, Any]) -> dict[str, Any]:
        name = given[f"{noun}Name"]
        if name in self.jobs:
            raise _Refused("ResourceInUse", "Training job names must be unique within an AWS account and region")
        for word in _words(given):
            if len(word) > 256 and not self.runs:
                raise _Refused("ValidationException", "a word of the command is longer than 256")
        tags = {tag["Key"]: tag["Value"] for tag in given.get("Tags", ())}
        job = self.jobs[name] = Job(noun, given, tags, time.time(), hidden=self.hides_from_lists)
        job.move("Starting", "Launching requested ML instances")
        if self.runs:
            task = asyncio.create_task(self._run(job))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return {f"{noun}Arn": job.arn}

    def _describe(self, noun: str, given: dict[str, Any]) -> dict[str, Any]:
        return self._find(noun, given).description()

    def _stop(self, noun: str, given: dict[str, Any]) -> dict[str, Any]:
        job = self._find(noun, given)
        if job.status != "InProgress":
            raise _Refused("ValidationException", f"The job is in status {job.status}.")
        job.move("Stopping", status="Stopping")
        if job.process:
            asyncio.get_running_loop().call_later(KILLED_AFTER_SECONDS, _signal, job.process, signal.SIGKILL)
            _signal(job.process, signal.SIGTERM)
        return {}

    def _list(self, noun: str, given: dict[str, Any]) -> dict[str, Any]:
        assert given["MaxResults"] <= 100
        jobs = [job for job in self.jobs.values() if job.noun == noun and given.get("NameContains", "") in job.name]
        jobs = [job for job in jobs if given.get("StatusEquals") in {None, job.status}]
        jobs = [job for job in jobs if job.modified > given.get("LastModifiedTimeAfter", 0)]
        jobs = [job for job in jobs if job.created > given.get("CreationTimeAfter", 0)]
        for job in [job for job in jobs if job.hidden]:
            job.hidden -= 1
            jobs.remove(job)
        start = int(given.get("NextToken", 0))
        page = jobs[start : start + given["MaxResults"]]
        more = {"NextToken": str(start + len(page))} if len(jobs) > start + len(page) else {}
        return {f"{noun}Summaries": [job.summary() for job in page], **more}

    def _list_tags(self, given: dict[str, Any]) -> dict[str, Any]:
        tags = self._by_arn(given).tags
        return {"Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}

    def _add_tags(self, given: dict[str, Any]) -> dict[str, Any]:
        self._by_arn(given).tags.update({tag["Key"]: tag["Value"] for tag in given["Tags"]})
        return {"Tags": given["Tags"]}

    def _find(self, noun: str, given: dict[str, Any]) -> Job:
        job = self.jobs.get(given[f"{noun}Name"])
        if job is None or job.noun != noun:
            raise _Refused("ValidationException", "Requested resource not found.")
        return job

    def _by_arn(self, given: dict[str, Any]) -> Job:
        return next(job for job in self.jobs.values() if job.arn == given["ResourceArn"])

    # --- CloudWatch Logs ---------------------------------------------------------------------------------------------

    def _describe_log_streams(self, given: dict[str, Any]) -> dict[str, Any]:
        streams = [stream for stream in self._streams(given) if stream.startswith(given["logStreamNamePrefix"])]
        if not streams:
            raise _Refused("ResourceNotFoundException", "The specified log group does not exist.")
        return {"logStreams": [{"logStreamName": stream} for stream in sorted(streams)]}

    def _get_log_events(self, given: dict[str, Any]) -> dict[str, Any]:
        lines = self._streams(given)[given["logStreamName"]]
        token = given.get("nextToken", "f/0")
        if not token.startswith("f/"):
            raise _Refused("InvalidParameterException", "The specified nextToken is invalid.")
        start = int(token[2:])
        page = lines[start : start + 1000]
        events = [{"timestamp": 1, "ingestionTime": 1, "message": line} for line in page]
        return {"events": events, "nextForwardToken": f"f/{start + len(page)}", "nextBackwardToken": "b/0"}

    def _streams(self, given: dict[str, Any]) -> dict[str, list[str]]:
        group = given["logGroupName"].rpartition("/")[2]
        jobs = [job for job in self.jobs.values() if f"{job.noun}s" == group]
        return {stream: lines for job in jobs for stream, lines in job.streams.items()}

    # --- processes ---------------------------------------------------------------------------------------------------

    async def _run(self, job: Job) -> None:
        environment = {
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "AWS_REGION": REGION,
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "job",
            "AWS_SECRET_ACCESS_KEY": "job",
            **job.request["Environment"],
        }
        stopped = job.status != "InProgress"
        if not stopped:
            job.process = await asyncio.create_subprocess_exec(
                *_words(job.request),
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
                limit=2**24,
            )
            job.move("Training", "Training in progress")
            assert job.process.stdout
            while line := await job.process.stdout.readline():
                job.print(line.decode("utf-8", "replace").removesuffix("\n"))
            code = await job.process.wait()
            code = 128 - code if code < 0 else code
            stopped = job.status == "Stopping"
        if stopped:
            job.end("Stopped")
        elif code:  # pyright: ignore[reportPossiblyUnboundVariable]
            job.end("Failed", why=f"AlgorithmError: , exit code: {code}")
        else:
            job.end("Completed")

    async def close(self) -> None:
        """End every process."""
        for job in self.jobs.values():
            if job.process:
                _signal(job.process, signal.SIGKILL)
        if self._tasks:
            await asyncio.wait(self._tasks)


@asynccontextmanager
async def double(moto: str = "", *, runs: bool = False) -> AsyncGenerator[Double]:
    """Run one while the block runs."""
    made = Double(moto, runs)
    application = web.Application(client_max_size=2**24)
    application.router.add_route("*", "/{path:.*}", made.handle)
    runner = web.AppRunner(application, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield made
    finally:
        await made.close()
        await runner.cleanup()


class _Refused(Exception):
    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def _words(request: Mapping[str, Any]) -> list[str]:
    specification = request.get("AlgorithmSpecification") or request.get("AppSpecification") or {}
    return [*specification.get("ContainerEntrypoint", ()), *specification.get("ContainerArguments", ())]


def _error(code: str, message: str, status: int) -> web.Response:
    body = {"__type": code, "message": message}
    return web.json_response(body, status=status, content_type=JSON)


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        if process.returncode is None:
            os.killpg(process.pid, number)


def _snake(operation: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", operation).lower()


_IDENTITY = f"""<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult>
<Arn>arn:aws:iam::{ACCOUNT}:user/agent</Arn><UserId>AIDA</UserId><Account>{ACCOUNT}</Account>
</GetCallerIdentityResult><ResponseMetadata><RequestId>1</RequestId></ResponseMetadata></GetCallerIdentityResponse>"""
