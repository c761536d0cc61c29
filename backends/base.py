"""The contract between the agent and the places where launches run.

A backend is six verbs over handles. It knows nothing of queues, items or the server: the agent hands it a finished
`StartRequest` and later compares what it holds with what `observe` says. What a backend can or cannot do is told by its
`Capabilities`, never by its type. One contract suite (`backends/testing/contract.py`) runs against every backend.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import NewType, Protocol, TypeAlias

from protocol.errors import LaunchbayError
from protocol.json_types import JsonObject
from protocol.run_environment import MAX_VALUE_CHARS

CODE_VARIABLE = "LAUNCHBAY_CODE"
"""Variable by which `launchbay fetch-code` is told what to fetch: `Code.source`, as JSON."""
CACHE_VARIABLE = "LAUNCHBAY_CACHE"
"""Variable with a folder in which packages are kept for other launches, if there is one."""
FETCH_MAY_PASS = 75
"""Exit code of `launchbay fetch-code` where the launch is not at fault, and another try may go better: EX_TEMPFAIL."""

Handle = NewType("Handle", str)
"""What a backend needs to find a launch again after a restart of the agent. Opaque to the agent, which keeps it."""

Snapshot: TypeAlias = "Mapping[Handle, Observation]"
"""Everything of this agent's that the platform knows of, by handle. What is not in it does not exist."""


class BackendError(LaunchbayError):
    """The platform refused a request for a reason that trying again will not change."""

    code = "backend_refused"


class BackendUnavailable(LaunchbayError):
    """The platform could not be reached or is overloaded; nothing is known, and trying again is right."""

    code = "backend_unavailable"


class PlatformFull(BackendUnavailable):
    """The platform would start the launch and has no room for it now, as where a quota is used up. It did not start."""

    code = "platform_full"

    def __init__(self, message: str, *, retry_seconds: float = 60.0) -> None:
        super().__init__(message)
        self.retry_seconds = retry_seconds
        """When to ask again."""


class Phase(StrEnum):
    """Where a started launch is, as its platform tells it."""

    QUEUED = "queued"
    """Held back by a queue of the platform's own, with nothing wrong: it is not starting yet."""
    STARTING = "starting"
    """Accepted by the platform, not running yet: pending, pulling, scheduling."""
    RUNNING = "running"
    FINISHED = "finished"
    """Ended with exit code 0."""
    FAILED = "failed"
    """Ended with another exit code, or killed by a signal that nobody here asked for."""
    STOPPED = "stopped"
    """Ended because `stop` was called."""
    PREEMPTED = "preempted"
    """Taken away by the platform."""
    LOST = "lost"
    """Gone without a trace of its end: the host rebooted, or somebody removed it."""

    @property
    def is_terminal(self) -> bool:
        """Whether a launch stays in this phase for ever."""
        return self not in {Phase.QUEUED, Phase.STARTING, Phase.RUNNING}

    @property
    def is_waiting(self) -> bool:
        """Whether a launch has yet to run."""
        return self in {Phase.QUEUED, Phase.STARTING}


class Step(StrEnum):
    """What a launch that is starting waits for."""

    SCHEDULE = "schedule"
    """A place to run."""
    PULL = "pull"
    """Its image."""
    START = "start"
    """Anything else."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What the platform says about one launch."""

    phase: Phase
    exit_code: int | None = None
    """Exit status as a shell would show it: 128 + n for a death by signal n. None while it runs, or where unknown."""
    reason: str = ""
    """Machine-readable cause, for example `signal:SIGKILL` or `oom_killed`. Empty where there is nothing to say."""
    message: str = ""
    """A sentence for people."""
    is_platforms_fault: bool = False
    """Whether a launch failed by what befell the platform and may pass, and not by what was asked for."""
    started_at: float | None = None
    """Seconds since the epoch. Of what is starting: since when it may run, where the platform tells it."""
    step: Step = Step.START
    """Of what is starting."""
    since: float | None = None
    """Since when it is queued, or in its step. Seconds since the epoch."""
    hopeless_at: float | None = None
    """Of what waits and cannot start as things are: when to give it up, in seconds since the epoch. The exit code is
    then the one that it would have ended with, if any."""
    details: Sequence[str] = ()
    """What the platform has said of it lately, line by line, for people who look into it."""
    ended_at: float | None = None
    image: str = ""
    """The image that runs, by its digest, where the platform tells it. May come later than the rest."""
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    """What the launch was labelled with at its start."""


@dataclass(frozen=True, slots=True)
class StartRequest:
    """Everything a backend needs to start one launch. Complete: nothing is looked up later."""

    name: str
    """Platform name: a function of item id and attempt. Starting the same name twice starts it once."""
    command: Sequence[str]
    """Program and arguments. Never passes through a shell. Empty means the image's own."""
    environment: Mapping[str, str]
    """Plain variables of the job."""
    args: Sequence[str] = ()
    """The launch's own arguments: the last words of `command`. Where that is empty, they are for the image's own
    program, in place of those that the image has for it.
    """
    command_yields: bool = False
    """Whether nobody but the job names the program: where the queue's resource args name another, that one runs."""
    secrets: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    """Variables of the job whose values must not stand in plain sight: not on a command line, not in a log."""
    working_dir: Path | None = None
    """Where the job's code lies, for backends on this machine."""
    subfolder: str = ""
    """Where in `working_dir` the job begins, as `src/train`; empty for its top."""
    folders: Sequence[Path] = ()
    """What it only reads beside its code, for backends on this machine: in a container at the same paths, read-only."""
    gpus: Sequence[str] = ()
    """The GPUs that it was given, by identity, for backends on this machine."""
    cpus: float = 0
    memory: int = 0
    """How much of this machine it was given, for backends on it; memory in bytes. 0: it has asked for nothing."""
    image: str | None = None
    code: "Code | None" = None
    """What its platform is to fetch before it runs, for backends that can."""
    services: Sequence[JsonObject] = ()
    """What else its platform is to make for it, in the platform's words: `additional_services`, rendered."""
    grace_seconds: float = 60.0
    """How long it has from a polite stop until it is killed."""
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    """Item id, attempt and agent, written on whatever is started so that it can be adopted without the journal."""
    resource_args: JsonObject = field(default_factory=dict[str, object])  # type: ignore[assignment]
    """The queue's resource block for this backend, rendered."""


@dataclass(frozen=True, slots=True)
class Code:
    """The code of a launch that runs elsewhere, as `launchbay fetch-code` is told of it there."""

    source: JsonObject
    """What to fetch, where from and how it is made ready to run. Holds no secret."""
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    """Variables of the command, beside those of the launch."""
    secrets: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    """Those whose values must not stand in plain sight."""
    has_requirements: bool = False
    """Whether packages must be installed for it in the image that it runs in."""


@dataclass(frozen=True, slots=True)
class LogChunk:
    """A piece of a launch's output. `offset` is the position in bytes of its first byte; the next chunk is at `end`."""

    offset: int
    data: bytes

    @property
    def end(self) -> int:
        """The offset to ask from next time."""
        return self.offset + len(self.data)


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend can do, so that the daemon never asks what it is."""

    runs_locally: bool = False
    """The launch runs on the agent's own machine: code and environment are prepared as local folders."""
    runs_images: bool = False
    """A launch may name a container image."""
    needs_image: bool = False
    """A launch that names no image gets a base image. The backend is an `ImageBackend`, if it runs locally."""
    fetches_code: bool = False
    """The launch's code is fetched where it runs: `StartRequest.code`."""
    makes_services: bool = False
    """It can make what a launch asks for beside itself: `StartRequest.services`."""
    image_args: Sequence[Sequence[str]] = ()
    """Paths of resource args that name what runs in place of the launch's own image. Spelling (case, `_`) is free."""
    max_value_chars: int = MAX_VALUE_CHARS
    """How long a variable's value may be. The launch's longer ones are cut into numbered pieces."""

    @property
    def brings_code(self) -> bool:
        """Whether code gets to a launch beside its image. Elsewhere it has to be in the image."""
        return self.runs_locally or self.fetches_code


class Backend(Protocol):
    """Where launches run. Safe to call concurrently; every method may raise `BackendUnavailable`."""

    @property
    def capabilities(self) -> Capabilities:
        """What this backend can do."""
        ...

    async def start(self, request: StartRequest) -> Handle:
        """Start a launch. Idempotent by `request.name`: called twice, also across restarts of the agent, it starts
        only once.

        Raises `BackendError` if the platform refuses, and `PlatformFull` if it is to be asked again later.
        """
        ...

    async def observe(self) -> Snapshot:
        """Return everything of this agent's on the platform, ended launches included until `cleanup`."""
        ...

    def changes(self) -> AsyncIterator[frozenset[Handle]]:
        """Yield hints that something happened to some handles. Makes observing prompt; never replaces it."""
        ...

    async def stop(self, handle: Handle, grace_seconds: float) -> None:
        """Ask politely, wait out the grace period, then kill. Returns when that is under way; `observe` tells the end.

        Stopping what has ended, or was never started, does nothing.
        """
        ...

    def logs(self, handle: Handle, since: int = 0, *, follow: bool = False) -> AsyncIterator[LogChunk]:
        """Yield the output from byte `since`; with `follow`, until the launch has ended. Works after its end too."""
        ...

    async def cleanup(self, handle: Handle) -> None:
        """Forget an ended launch and remove what it left on the platform. Unknown handles are fine."""
        ...

    async def close(self) -> None:
        """Let go of the platform. Running launches are left running."""
        ...


class ImageBackend(Backend, Protocol):
    """A backend on this machine whose launches run in images."""

    async def fetch_image(self, image: str, resource_args: JsonObject, tell: Callable[[str], None]) -> str:
        """See that an image is on this machine, pulling it if need be, and return what identifies its content.

        Of the resource args those count that are about the image. `tell` is given a sentence for people as it gets
        on. Who is cancelled waits no more. Raises `BackendError` if the image cannot be had.
        """
        ...

    async def has_image(self, image: str) -> bool:
        """Return whether an image is on this machine."""
        ...
