"""A Google Cloud for tests: Vertex AI's jobs, Cloud Logging and Secret Manager, spoken to over gRPC on loopback.

No emulator exists, so this is a server of the SDK's own messages: what the generated clients send is read, and what
they get is written, by the types that come with them. Jobs are processes of this machine, or do what a test says.
Everything that goes wrong there can be made to go wrong here (`Fault`).
"""

import base64
import json
import os
import re
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from typing import Any

import grpc

from backends.vertex.access import _SERVICES, load

PROJECT, REGION = "tests", "us-central1"
PARENT = f"projects/{PROJECT}/locations/{REGION}"
CODES = grpc.StatusCode
ENDED = {4, 5, 7, 9, 11}
SECRET_HOST = "https://secretmanager.googleapis.com"
QUOTA = "aiplatform.googleapis.com/custom_model_training_cpus"
LOGS = "To find out more about why your job exited please check the logs: https://console.cloud.google.com/logs"


@dataclass
class Fault:
    """Something that goes wrong in calls of a method."""

    method: str
    code: Any
    message: str = "it is broken"
    times: int = 1
    """How often; every such call counts down."""
    happens: bool = False
    """Whether what was asked for is done all the same."""
    seconds: float = 0.0
    """How long the answer takes."""


@dataclass(frozen=True)
class Line:
    """An entry of the log."""

    job: str
    task: str
    id: str
    text: str
    written_at: float
    found_at: float
    """When it can be found: Google is not there at once."""
    fields: Any = None


@dataclass
class _Job:
    message: Any
    made_at: float
    process: "subprocess.Popen[bytes] | None" = None
    is_deaf: bool = False


@dataclass
class Google:
    """See above. What a test changes here counts for the next call."""

    port: int = 0
    tls_port: int = 0
    metadata_port: int = 0
    runs: bool = True
    """Whether jobs run by themselves, as processes of this machine."""
    grace_seconds: float = 0.5
    """How long a job has that is cancelled."""
    list_lag: float = 0.0
    """How long it takes until a list has a job that was made."""
    log_lag: float = 0.0
    latency: float = 0.0
    most_jobs: int = 100
    """On one page of a list, whatever was asked for."""
    room: int | None = None
    """How many jobs there may be that have not ended; None for no quota."""
    calls: Counter[str] = field(default_factory=Counter[str])
    faults: list[Fault] = field(default_factory=list[Fault])
    jobs: dict[str, _Job] = field(default_factory=dict[str, _Job])
    made: list[Any] = field(default_factory=list[Any])
    """Every job that was ever made, as it was then."""
    lines: list[Line] = field(default_factory=list[Line])
    secrets: dict[str, bytes] = field(default_factory=dict[str, bytes])
    headers: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    """Metadata of the last call."""
    in_flight: int = 0
    most_in_flight: int = 0

    def __post_init__(self) -> None:
        self._lock = threading.RLock()
        self._number = 1000
        self.types = {
            "jobs": _types("jobs", "job_service", "custom_job", "job_state"),
            "logging": _types("logging", "logging", "log_entry"),
            "secrets": _types("secrets", "service", "resources"),
        }

    # --- what tests do -----------------------------------------------------------------------------------------------

    @property
    def config(self) -> dict[str, Any]:
        """The block of a backend that speaks to this."""
        url = f"http://127.0.0.1:{self.port}"
        return {
            "region": REGION,
            "project": PROJECT,
            "poll_seconds": 0.1,
            "endpoints": dict.fromkeys(("jobs", "logging", "secrets"), url),
        }

    def reset(self) -> None:
        """Be as new."""
        with self._lock:
            for job in self.jobs.values():
                if job.process and job.process.poll() is None:
                    job.process.kill()
            fresh = Google()
            for name in ("runs", "grace_seconds", "list_lag", "log_lag", "latency", "most_jobs", "room"):
                setattr(self, name, getattr(fresh, name))
            for held in (self.calls, self.faults, self.jobs, self.made, self.lines, self.secrets):
                held.clear()
            self.most_in_flight = 0

    @property
    def messages(self) -> list[Any]:
        """All jobs, in the order in which they were made."""
        with self._lock:
            return [job.message for job in self.jobs.values()]

    def move(self, launch: str, state: str, *, code: int = 0, error: str = "") -> None:
        """Bring the job of a launch into a state."""
        with self._lock:
            for job in self.jobs.values():
                if job.message.labels["launchbay-launch"] == launch:
                    self._move(job.message, state, code, error)

    def write(
        self, launch: str, text: str, *, task: str = "workerpool0-0", lag: float = 0.0, fields: Any = None
    ) -> None:
        """Have a launch's job print a line."""
        with self._lock:
            for job in self.jobs.values():
                if job.message.labels["launchbay-launch"] == launch:
                    self._print(job.message, task, text, lag=lag, fields=fields)

    def remove(self, launch: str) -> None:
        """Remove a launch's job, as somebody in the console."""
        with self._lock:
            self.jobs = {
                name: job for name, job in self.jobs.items() if job.message.labels["launchbay-launch"] != launch
            }

    # --- the job service ---------------------------------------------------------------------------------------------

    def create_custom_job(self, request: Any) -> Any:
        job = request.custom_job
        _expect(request.parent == PARENT, "parent")
        _expect(job.display_name and len(job.display_name) <= 128, "display_name")
        _expect(all(re.fullmatch(r"[a-z][a-z0-9_-]{0,62}", key) for key in job.labels), "labels")
        _expect(all(re.fullmatch(r"[a-z0-9_-]{0,63}", value) for value in job.labels.values()), "labels")
        pools = job.job_spec.worker_pool_specs
        _expect(pools, "worker_pool_specs")
        for pool in pools:
            _expect(pool.container_spec.image_uri, "image_uri")
            _expect(len(pool.container_spec.env) <= 100, "env")
            names = [each.name for each in pool.container_spec.env]
            _expect(len(set(names)) == len(names), "env")
        _expect(job.job_spec.base_output_directory.output_uri_prefix.startswith("gs://"), "base_output_directory")
        with self._lock:
            open_jobs = sum(each.message.state not in ENDED for each in self.jobs.values())
            if self.room is not None and open_jobs >= self.room:
                raise _Aborted(
                    CODES.RESOURCE_EXHAUSTED,
                    f"The following quota metrics exceed quota limits: {QUOTA}",
                )
            self._number += 1
            job.name = f"{PARENT}/customJobs/{self._number}"
            job.state = 2
            _stamp(job.create_time)
            _stamp(job.update_time)
            made = self.jobs[job.name] = _Job(job, time.monotonic())
            answer = type(job)()
            answer.CopyFrom(job)
            self.made.append(answer)
        if self.runs:
            threading.Thread(target=self._run, args=(made,), daemon=True).start()
        return answer

    def get_custom_job(self, request: Any) -> Any:
        return self._found(request.name).message

    def list_custom_jobs(self, request: Any) -> Any:
        answer = self.types["jobs"].ListCustomJobsResponse.pb()()
        now = time.monotonic()
        with self._lock:
            found = [
                job.message
                for job in self.jobs.values()
                if _holds(request.filter, job.message) and now - job.made_at >= self.list_lag
            ]
        begin = int(request.page_token or 0)
        size = min(request.page_size or self.most_jobs, self.most_jobs)
        for message in found[begin : begin + size]:
            entry = answer.custom_jobs.add()
            request.read_mask.MergeMessage(message, entry) if request.read_mask.paths else entry.CopyFrom(message)
        if begin + size < len(found):
            answer.next_page_token = str(begin + size)
        return answer

    def cancel_custom_job(self, request: Any) -> Any:
        job = self._found(request.name)
        with self._lock:
            if job.message.state in ENDED:
                raise _Aborted(CODES.FAILED_PRECONDITION, "The job is in a final state.")
            self._move(job.message, "CANCELLING")
            if job.process is None and not job.is_deaf:
                self._move(job.message, "CANCELLED")
        if job.process:
            threading.Thread(target=self._stop, args=(job.process,), daemon=True).start()
        return import_module("google.protobuf.empty_pb2").Empty()

    def delete_custom_job(self, request: Any) -> Any:
        job = self._found(request.name)
        if job.message.state not in ENDED:
            raise _Aborted(CODES.FAILED_PRECONDITION, "The job is not in a final state.")
        with self._lock:
            del self.jobs[request.name]
        return import_module("google.longrunning.operations_pb2").Operation(name=f"{request.name}/operations/1")

    def _found(self, name: str) -> _Job:
        with self._lock:
            if name not in self.jobs:
                raise _Aborted(CODES.NOT_FOUND, f"The CustomJob does not exist: {name}")
            return self.jobs[name]

    # --- the others --------------------------------------------------------------------------------------------------

    def list_log_entries(self, request: Any) -> Any:
        _expect(list(request.resource_names) == [f"projects/{PROJECT}"], "resource_names")
        _expect(request.order_by == "timestamp asc", "order_by")
        _expect(0 < request.page_size <= 1000, "page_size")
        _expect(len(request.filter) <= 20_000, "filter")
        ids = re.search(r"resource\.labels\.job_id=\(([^)]*)\)", request.filter)
        since = re.search(r'receive_timestamp>="([^"]*)"', request.filter)
        jobs = set(re.findall(r'"(\d+)"', ids[1])) if ids else set[str]()
        after = _read_time(since[1]) if since else 0.0
        now = time.time()
        with self._lock:
            found = [
                each for each in self.lines if each.job in jobs and each.found_at >= after and each.found_at <= now
            ]
        found.sort(key=lambda line: line.written_at)
        begin = int(request.page_token or 0)
        answer = self.types["logging"].ListLogEntriesResponse.pb()()
        for line in found[begin : begin + request.page_size]:
            entry = answer.entries.add(insert_id=line.id, log_name=f"projects/{PROJECT}/logs/{line.task}")
            entry.resource.type = "ml_job"
            entry.resource.labels.update(job_id=line.job, task_name=line.task, project_id=PROJECT)
            if line.fields is None:
                entry.text_payload = line.text
            else:
                entry.json_payload.update(line.fields)
            _stamp(entry.timestamp, line.written_at)
            _stamp(entry.receive_timestamp, line.found_at)
        if begin + request.page_size < len(found):
            answer.next_page_token = str(begin + request.page_size)
        return answer

    def create_secret(self, request: Any) -> Any:
        name = f"{request.parent}/secrets/{request.secret_id}"
        _expect(re.fullmatch(r"[A-Za-z0-9_-]{1,255}", request.secret_id), "secret_id")
        _expect(request.secret.ttl.seconds > 0, "ttl")
        if name in self.secrets:
            raise _Aborted(CODES.ALREADY_EXISTS, f"Secret [{name}] already exists.")
        self.secrets[name] = b""
        request.secret.name = name
        return request.secret

    def add_secret_version(self, request: Any) -> Any:
        _expect(request.parent in self.secrets, "parent")
        self.secrets[request.parent] = request.payload.data
        return self.types["secrets"].SecretVersion.pb()(name=f"{request.parent}/versions/1")

    def delete_secret(self, request: Any) -> Any:
        if self.secrets.pop(request.name, None) is None:
            raise _Aborted(CODES.NOT_FOUND, f"Secret [{request.name}] not found.")
        return import_module("google.protobuf.empty_pb2").Empty()

    # --- jobs --------------------------------------------------------------------------------------------------------

    def _run(self, job: _Job) -> None:
        message = job.message
        container = message.job_spec.worker_pool_specs[0].container_spec
        local = f"http://127.0.0.1:{self.metadata_port}"
        command = [word.replace(SECRET_HOST, local) for word in (*container.command, *container.args)]
        variables = {each.name: each.value for each in container.env}
        environment = {"PATH": os.environ["PATH"], "GCE_METADATA_HOST": local.removeprefix("http://"), **variables}
        with self._lock:
            if message.state != 2:
                return
            try:
                job.process = subprocess.Popen(
                    command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
                )
            except OSError as error:
                self._end(job, 127, f"failed to start: {error}")
                return
            self._move(message, "RUNNING")
        assert job.process.stdout
        with job.process.stdout as output:
            for line in output:
                self._print(message, "workerpool0-0", line.decode(errors="replace").removesuffix("\n"))
        status = job.process.wait()
        self._end(job, 128 - status if status < 0 else status)

    def _end(self, job: _Job, status: int, why: str = "") -> None:
        with self._lock:
            if job.message.state == 6:
                self._move(job.message, "CANCELLED")
            elif status:
                error = f"The replica workerpool0-0 exited with a non-zero status of {status}. {why}{LOGS}"
                self._move(job.message, "FAILED", 3, error)
            else:
                self._move(job.message, "SUCCEEDED")

    def _stop(self, process: "subprocess.Popen[bytes]") -> None:
        process.terminate()
        try:
            process.wait(self.grace_seconds)
        except subprocess.TimeoutExpired:
            process.kill()

    def _move(self, message: Any, state: str, code: int = 0, error: str = "") -> None:
        message.state = self.types["jobs"].JobState[f"JOB_STATE_{state}"]
        _stamp(message.update_time)
        if state == "RUNNING" and not message.HasField("start_time"):
            _stamp(message.start_time)
        if message.state in ENDED:
            _stamp(message.end_time)
        if code or error:
            message.error.code, message.error.message = code, error

    def _print(self, message: Any, task: str, text: str, *, lag: float = 0.0, fields: Any = None) -> None:
        now = time.time()
        with self._lock:
            number = message.name.rpartition("/")[2]
            found_at = now + self.log_lag + lag
            self.lines.append(Line(number, task, f"id{len(self.lines)}", text, now, found_at, fields))

    # --- calls -------------------------------------------------------------------------------------------------------

    def answer(self, method: str, work: Callable[[Any], Any], request: Any, context: Any) -> Any:
        """Answer a call, or let it go wrong."""
        with self._lock:
            self.calls[method] += 1
            self.headers = [(key, str(value)) for key, value in context.invocation_metadata()]
            fault = next((each for each in self.faults if each.method == method and each.times > 0), None)
            if fault:
                fault.times -= 1
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            time.sleep(self.latency)
            done = work(request) if fault is None or fault.happens else None
            if fault:
                time.sleep(fault.seconds)
                context.abort(fault.code, fault.message)
            return done
        except _Aborted as error:
            return context.abort(error.code, error.words)
        finally:
            with self._lock:
                self.in_flight -= 1


class _Aborted(Exception):
    def __init__(self, code: Any, words: str) -> None:
        super().__init__(words)
        self.code, self.words = code, words


class _Types:
    def __init__(self, modules: list[Any]) -> None:
        self._modules = modules

    def __getattr__(self, name: str) -> Any:
        return next(getattr(module, name) for module in self._modules if hasattr(module, name))


def _types(service: str, *names: str) -> _Types:
    load(service)
    package = _SERVICES[service].package
    return _Types([import_module(f"{package}.types.{name}") for name in names])


def _expect(holds: Any, what: str) -> None:
    if not holds:
        raise _Aborted(CODES.INVALID_ARGUMENT, f"Invalid value of {what}.")


def _holds(condition: str, message: Any) -> bool:
    """Whether a job is meant by a filter. Only what Google's reference lists is understood."""
    for part in condition.split(" AND "):
        if label := re.fullmatch(r'labels\.([a-z0-9_-]+)="([^"]*)"', part):
            holds = message.labels.get(label[1]) == label[2]
        elif state := re.fullmatch(r'state(!?=)"JOB_STATE_([A-Z_]+)"', part):
            known = import_module("google.cloud.aiplatform_v1.types.job_state").JobState
            holds = (message.state == known[f"JOB_STATE_{state[2]}"]) is (state[1] == "=")
        else:
            raise _Aborted(CODES.INVALID_ARGUMENT, f"Invalid filter: {part}")
        if not holds:
            return False
    return True


def _stamp(stamp: Any, seconds: float | None = None) -> None:
    nanoseconds = int((time.time() if seconds is None else seconds) * 1e9)
    stamp.seconds, stamp.nanos = divmod(nanoseconds, 10**9)


def _read_time(text: str) -> float:
    stamp = import_module("google.protobuf.timestamp_pb2").Timestamp()
    stamp.FromJsonString(text)
    return stamp.seconds + stamp.nanos / 1e9


METHODS = {
    "google.cloud.aiplatform.v1.JobService": {
        "CreateCustomJob": ("jobs", "create_custom_job"),
        "GetCustomJob": ("jobs", "get_custom_job"),
        "ListCustomJobs": ("jobs", "list_custom_jobs"),
        "CancelCustomJob": ("jobs", "cancel_custom_job"),
        "DeleteCustomJob": ("jobs", "delete_custom_job"),
    },
    "google.logging.v2.LoggingServiceV2": {"ListLogEntries": ("logging", "list_log_entries")},
    "google.cloud.secretmanager.v1.SecretManagerService": {
        "CreateSecret": ("secrets", "create_secret"),
        "AddSecretVersion": ("secrets", "add_secret_version"),
        "DeleteSecret": ("secrets", "delete_secret"),
    },
}


def _handler(google: Google, service: str, method: str, name: str) -> Any:
    request: Any = getattr(google.types[service], f"{method}Request").pb()

    def call(asked: Any, context: Any) -> Any:
        return google.answer(name, getattr(google, name), asked, context)

    def written(answer: Any) -> bytes:
        return answer.SerializeToString()

    return grpc.unary_unary_rpc_method_handler(
        call, request_deserializer=request.FromString, response_serializer=written
    )


def _metadata_handler(google: Google) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """The metadata server, and what jobs see of Secret Manager."""

        def do_GET(self) -> None:
            if self.path.endswith("/token"):
                ok = self.headers.get("Metadata-Flavor") == "Google"
                self._answer({"access_token": "of-the-job"} if ok else None)
                return
            name = self.path.removeprefix("/v1/").removesuffix("/versions/1:access")
            data = google.secrets.get(name) if self.headers.get("Authorization") == "Bearer of-the-job" else None
            self._answer({"payload": {"data": base64.b64encode(data).decode()}} if data else None)

        def _answer(self, body: Any) -> None:
            self.send_response(200 if body else 403)
            self.end_headers()
            self.wfile.write(json.dumps(body or {}).encode())

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- named by the library
            """Say nothing."""

    return Handler


@contextmanager
def google_cloud(certificate: tuple[Path, Path] | None = None) -> Generator[Google]:
    """Run one, as long as the block runs. With a certificate and its key it is also spoken to by TLS, as in life."""
    google = Google()
    pool = ThreadPoolExecutor(128)
    server = grpc.server(pool)
    for service, methods in METHODS.items():
        handlers = {method: _handler(google, kind, method, name) for method, (kind, name) in methods.items()}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    google.port = server.add_insecure_port("127.0.0.1:0")
    if certificate:
        pair = certificate[1].read_bytes(), certificate[0].read_bytes()
        google.tls_port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    metadata = ThreadingHTTPServer(("127.0.0.1", 0), _metadata_handler(google))
    google.metadata_port = metadata.server_address[1]
    serving = threading.Thread(target=metadata.serve_forever, daemon=True)
    serving.start()
    server.start()
    try:
        yield google
    finally:
        google.reset()
        server.stop(None).wait()
        pool.shutdown()
        metadata.shutdown()
        metadata.server_close()
        serving.join()
