"""Speaks to Google Cloud: the one module that knows its packages.

Of each of them only the generated client of one service is imported, when it is first used. The packages themselves
import all of their services, which takes seconds.
"""

import asyncio
import sys
import threading
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from backends.base import BackendError, BackendUnavailable, PlatformFull
from backends.rate_limit import RateLimit
from backends.vertex import names
from backends.vertex.reading import PREFIX, Job
from backends.vertex.settings import Settings
from protocol.json_types import JsonObject

CALL_SECONDS = 30.0
PAGE_JOBS = 1000
PAGE_ENTRIES = 1000
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
PLAIN = "http://"
BUSY_SECONDS, FULL_SECONDS = 10.0, 60.0
"""When to ask again: where too much was asked in a minute, and where there is no room for the job."""
_SEEN_FIELDS = "name,state,labels,create_time,start_time,end_time,update_time,error"
"""What a list tells of jobs that are known."""


@dataclass(frozen=True, slots=True)
class Service:
    """One of Google's services."""

    package: str
    module: str
    client: str
    host: str
    rate: float
    """Calls per second. Google allows more, but for the logging service, and shares that between all who ask."""
    burst: int


_SERVICES: Mapping[str, Service] = {
    "jobs": Service(
        "google.cloud.aiplatform_v1",
        "job_service",
        "JobServiceAsyncClient",
        "{region}-aiplatform.googleapis.com",
        8,
        10,
    ),
    "logging": Service(
        "google.cloud.logging_v2",
        "logging_service_v2",
        "LoggingServiceV2AsyncClient",
        "logging.googleapis.com",
        0.9,
        10,
    ),
    "secrets": Service(
        "google.cloud.secretmanager_v1",
        "secret_manager_service",
        "SecretManagerServiceAsyncClient",
        "secretmanager.googleapis.com",
        8,
        10,
    ),
}


class VertexRefused(BackendError):
    """Google refused a request for a reason that trying again will not change."""


class VertexUnavailable(BackendUnavailable):
    """Google could not be reached or could not answer."""

    def __init__(self, message: str, *, may_have_happened: bool) -> None:
        super().__init__(message)
        self.may_have_happened = may_have_happened
        """Whether what was asked for may have been done all the same."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What one entry of a job's log says. Times are in nanoseconds since the epoch."""

    job: str
    """Its number."""
    task: str
    """Which of its machines, as `workerpool0-0`."""
    id: str
    received_at: int
    text: str


class Access:
    """Google Cloud, as this backend uses it. `open` makes one."""

    def __init__(self, settings: Settings, credentials: Any, project: str) -> None:
        self._settings = settings
        self._credentials = credentials
        self.project = project
        self.parent = f"projects/{project}/locations/{settings.region}"
        self._clients: dict[str, Any] = {}
        self._opening = asyncio.Lock()
        self._limits = {name: RateLimit(service.rate, burst=service.burst) for name, service in _SERVICES.items()}

    @classmethod
    async def open(cls, settings: Settings) -> "Access":
        """Find the credentials. Raises `BackendUnavailable` if there are none: somebody may log in yet."""
        if all(settings.endpoints.get(name, "").startswith(PLAIN) for name in _SERVICES):
            return cls(settings, None, settings.project or "-")
        credentials, project = await asyncio.to_thread(find_credentials)
        if not (settings.project or project):
            raise BackendUnavailable(
                "The credentials for Google Cloud belong to no project: name one in the agent's block "
                "`environment: {type: gcp, project: ...}`."
            )
        return cls(settings, credentials, settings.project or project)

    async def close(self) -> None:
        """Let go of all connections."""
        for client in self._clients.values():
            await client.transport.close()

    # --- jobs --------------------------------------------------------------------------------------------------------

    async def create(self, job: JsonObject) -> Job:
        """Make a job. Raises `PlatformFull` where a quota is used up."""
        await self._client("jobs")
        request = _types("jobs", "job_service").CreateCustomJobRequest
        made = _types("jobs", "custom_job").CustomJob
        raw = _parsed(job, made)
        try:
            answer = await self._call("jobs", "create_custom_job", request(parent=self.parent, custom_job=raw))
        except _Exhausted as error:
            is_busy = "per minute" in str(error)
            raise PlatformFull(
                f"Vertex AI has no room for the launch now: {error}",
                retry_seconds=BUSY_SECONDS if is_busy else FULL_SECONDS,
            ) from error
        return _job(_raw(answer), is_whole=True)

    async def get(self, name: str) -> Job | None:
        """Return a job; None if there is none."""
        try:
            answer = await self._call("jobs", "get_custom_job", {"name": name})
        except _NotThere:
            return None
        return _job(_raw(answer), is_whole=True)

    async def list_jobs(self, condition: str, *, is_whole: bool = False) -> list[Job]:
        """Return all jobs for which a filter holds; labels and commands only if `is_whole`."""
        found: list[Job] = []
        token = ""
        while True:
            asked: dict[str, Any] = {"parent": self.parent, "filter": condition, "page_size": PAGE_JOBS}
            if not is_whole:
                asked["read_mask"] = _mask()
            pager = await self._call("jobs", "list_custom_jobs", {**asked, "page_token": token})
            page = await anext(aiter(pager.pages))
            found += [_job(raw, is_whole=is_whole) for raw in _raw(page).custom_jobs]
            token = page.next_page_token
            if not token:
                return found

    async def cancel(self, name: str) -> None:
        """Ask for a job's end. One that is over, or is not there, is fine."""
        try:
            await self._call("jobs", "cancel_custom_job", {"name": name})
        except (_NotThere, _TooLate):
            return

    async def delete(self, name: str) -> None:
        """Remove a job that is over. One that is not there is fine."""
        try:
            await self._call("jobs", "delete_custom_job", {"name": name})
        except _NotThere:
            return

    # --- logs --------------------------------------------------------------------------------------------------------

    async def entries(self, condition: str) -> list[Entry]:
        """Return all entries of logs for which a filter holds, by the time at which they were written."""
        found: list[Entry] = []
        token = ""
        while True:
            asked = {
                "resource_names": [f"projects/{self.project}"],
                "filter": condition,
                "order_by": "timestamp asc",
                "page_size": PAGE_ENTRIES,
                "page_token": token,
            }
            pager = await self._call("logging", "list_log_entries", asked)
            page = await anext(aiter(pager.pages))
            found += map(_entry, _raw(page).entries)
            token = page.next_page_token
            if not token:
                return found

    # --- secrets -----------------------------------------------------------------------------------------------------

    async def make_secret(self, name: str, content: bytes, seconds: int) -> str:
        """Give a secret a version with this content, and return its name. It goes by itself after so many seconds."""
        parent = f"projects/{self.project}"
        asked: dict[str, Any] = {
            "parent": parent,
            "secret_id": name,
            "secret": {"replication": {"automatic": {}}, "ttl": {"seconds": seconds}},
        }
        with suppress(_Exists):
            await self._call("secrets", "create_secret", asked)
        made = await self._call(
            "secrets", "add_secret_version", {"parent": f"{parent}/secrets/{name}", "payload": {"data": content}}
        )
        return str(made.name)

    async def delete_secret(self, name: str) -> None:
        """Remove a secret. One that is not there is fine."""
        try:
            await self._call("secrets", "delete_secret", {"name": f"projects/{self.project}/secrets/{name}"})
        except _NotThere:
            return

    # --- calls -------------------------------------------------------------------------------------------------------

    async def _call(self, service: str, method: str, request: Any) -> Any:
        client = await self._client(service)
        api = import_module("google.api_core.exceptions")
        limit = self._limits[service]
        try:
            async with limit:
                return await getattr(client, method)(request=request, timeout=CALL_SECONDS, retry=None)
        except api.ResourceExhausted as error:
            limit.throttled()
            raise _Exhausted(_words(error)) from error
        except api.GoogleAPICallError as error:
            raise _translated(error, method.replace("_", " ")) from error
        except import_module("google.auth.exceptions").GoogleAuthError as error:
            raise _no_login(str(error)) from error

    async def _client(self, service: str) -> Any:
        async with self._opening:
            if service not in self._clients:
                module = await asyncio.to_thread(load, service)
                self._clients[service] = self._connected(module, service)
            return self._clients[service]

    def _connected(self, module: ModuleType, service: str) -> Any:
        known = _SERVICES[service]
        client = getattr(module, known.client)
        host = self._settings.endpoints.get(service, known.host.format(region=self._settings.region))
        if host.startswith(PLAIN):
            channel = import_module("grpc.aio").insecure_channel(host.removeprefix(PLAIN))
            return client(transport=client.get_transport_class("grpc_asyncio")(channel=channel))
        return client(credentials=self._credentials, client_options={"api_endpoint": host})


# --- what goes wrong --------------------------------------------------------------------------------------------------


class _NotThere(VertexRefused):
    """What was asked about does not exist."""


class _Exists(VertexRefused):
    """What was to be made exists."""


class _TooLate(VertexRefused):
    """It is not in a state for that any more."""


class _Exhausted(VertexUnavailable):
    """Too much was asked, or there is no room."""

    def __init__(self, message: str) -> None:
        super().__init__(message, may_have_happened=False)


def _translated(error: Any, doing: str) -> BackendError | BackendUnavailable:
    api = import_module("google.api_core.exceptions")
    words = _words(error)
    for kind, known in ((api.NotFound, _NotThere), (api.AlreadyExists, _Exists), (api.FailedPrecondition, _TooLate)):
        if isinstance(error, kind):
            return known(f"Google Cloud refused to {doing}: {words}")
    if isinstance(error, api.Unauthenticated) or "metadata from plugin failed" in words:
        return _no_login(words)
    if isinstance(error, api.Forbidden | api.BadRequest | api.MethodNotImplemented):
        return VertexRefused(f"Google Cloud refused to {doing}: {words}")
    return VertexUnavailable(f"Google Cloud could not {doing} now: {words}", may_have_happened=True)


def _no_login(words: str) -> VertexUnavailable:
    return VertexUnavailable(
        f"Google Cloud does not know who the agent is: {words}. Credentials may have expired or were revoked: "
        "gcloud auth application-default login, or see to GOOGLE_APPLICATION_CREDENTIALS.",
        may_have_happened=False,
    )


def _words(error: Any) -> str:
    return str(error.message or error)


# --- Google's packages ------------------------------------------------------------------------------------------------

_loading = threading.Lock()


def check_installed() -> None:
    """Raise `BackendError` unless Google's packages are there. Imports none of them."""
    for service in _SERVICES.values():
        try:
            found = find_spec(service.package)
        except ModuleNotFoundError:
            found = None
        if found is None:
            raise BackendError("gcp-vertex needs Google's packages: pip install 'launchbay[vertex]'.")


def load(service: str) -> ModuleType:
    """Import the client of one service, and return its module. Blocks, for most of a second the first time."""
    known = _SERVICES[service]
    with _loading, _bare((known.package, f"{known.package}.types", f"{known.package}.services")):
        return import_module(f"{known.package}.services.{known.module}")


def find_credentials() -> tuple[Any, str]:
    """Return the default credentials of Google Cloud, and their project. Blocks.

    Raises `BackendUnavailable` if there are none.
    """
    auth = import_module("google.auth")
    try:
        credentials, project = auth.default(scopes=[SCOPE])
    except import_module("google.auth.exceptions").GoogleAuthError as error:
        raise _no_login(str(error)) from error
    return credentials, str(project or "")


@contextmanager
def _bare(packages: Iterable[str]) -> Generator[None]:
    """Have packages stand in for themselves that import nothing, so that a module of theirs can be imported alone.

    Afterwards they are as if they had not been imported, and whoever imports them gets them whole.
    """
    own: list[str] = []
    for name in packages:
        if name in sys.modules:
            continue
        parent, _, last = name.rpartition(".")
        module = ModuleType(name)
        module.__path__ = [str(Path(entry, last)) for entry in import_module(parent).__path__]
        sys.modules[name] = module
        own.append(name)
    try:
        yield
    finally:
        for name in own:
            del sys.modules[name]


def _types(service: str, name: str) -> Any:
    """Return a module of types of a service that was loaded."""
    return sys.modules[f"{_SERVICES[service].package}.types.{name}"]


def _mask() -> Any:
    return import_module("google.protobuf.field_mask_pb2").FieldMask(paths=_SEEN_FIELDS.split(","))


def _parsed(job: JsonObject, kind: Any) -> Any:
    json_format = import_module("google.protobuf.json_format")
    try:
        return kind.wrap(json_format.ParseDict(job, kind.pb(kind())))
    except json_format.ParseError as error:
        raise VertexRefused(f"The queue's config for Vertex AI cannot be understood: {error}") from error


def _raw(message: Any) -> Any:
    """Return the message inside of Google's wrapper around it: reading that is much faster."""
    return message.__class__.pb(message)


def _job(raw: Any, *, is_whole: bool) -> Job:
    pools = raw.job_spec.worker_pool_specs
    container = pools[0].container_spec if pools else None
    variables = {each.name: each.value for each in container.env} if container else {}
    states = _types("jobs", "job_state").JobState
    return Job(
        name=raw.name,
        launch=raw.labels.get(names.LAUNCH, ""),
        state=states(raw.state).name.removeprefix(PREFIX)
        if raw.state in states.__members__.values()
        else str(raw.state),
        created_at=_seconds(raw, "create_time") or 0.0,
        updated_at=_seconds(raw, "update_time") or 0.0,
        started_at=_seconds(raw, "start_time"),
        ended_at=_seconds(raw, "end_time"),
        code=raw.error.code,
        error=raw.error.message,
        labels=names.read_labels(variables.get(names.LABELS_VARIABLE, "{}")),
        command=tuple(container.command) if container else (),
        image=container.image_uri if container else "",
        is_whole=is_whole,
    )


def _entry(raw: Any) -> Entry:
    stamp = raw.receive_timestamp
    return Entry(
        job=raw.resource.labels["job_id"],
        task=raw.resource.labels["task_name"],
        id=raw.insert_id,
        received_at=stamp.seconds * 10**9 + stamp.nanos,
        text=_text(raw),
    )


def _text(raw: Any) -> str:
    if not raw.HasField("json_payload"):
        return str(raw.text_payload)
    fields = raw.json_payload.fields
    if "message" in fields:
        return str(fields["message"].string_value)
    text: str = import_module("google.protobuf.json_format").MessageToJson(raw.json_payload, indent=None)
    return text


def _seconds(raw: Any, field: str) -> float | None:
    if not raw.HasField(field):
        return None
    stamp = getattr(raw, field)
    return float(stamp.seconds) + stamp.nanos / 1e9
