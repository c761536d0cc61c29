"""A launch: an item that this agent has claimed, on its way through the agent.

The one object that flows through the daemon. Its stage moves by the table below and by nothing else.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum

from backends.base import Handle
from protocol import names
from protocol.json_types import JsonObject
from protocol.launch_spec import is_scheduler_spec

Tell = Callable[[str], Awaitable[None]]
"""Tells people what a launch is waiting for."""


class Stage(StrEnum):
    """How far a launch has come. Kept in the journal, so that a restarted agent goes on from here."""

    CLAIMED = "claimed"
    """Popped from the queue under a lease and written down; perhaps not acknowledged yet."""
    PREPARING = "preparing"
    """Acknowledged: ours. Its job is fetched and its environment made."""
    STARTING = "starting"
    """Everything is ready; the backend may or may not have been asked to start it."""
    STARTED = "started"
    """The backend has it."""
    RETRYING = "retrying"
    """An attempt has failed and another is due at `not_before`. The handle is the failed attempt's, until tidied up."""
    ENDED = "ended"
    """It is over, and the server may not know yet."""


MOVES: dict[Stage, frozenset[Stage]] = {
    Stage.CLAIMED: frozenset({Stage.PREPARING, Stage.ENDED}),
    Stage.PREPARING: frozenset({Stage.STARTING, Stage.RETRYING, Stage.ENDED}),
    Stage.STARTING: frozenset({Stage.STARTED, Stage.RETRYING, Stage.ENDED}),
    Stage.STARTED: frozenset({Stage.RETRYING, Stage.ENDED}),
    Stage.RETRYING: frozenset({Stage.PREPARING, Stage.ENDED}),
    Stage.ENDED: frozenset(),
}
"""Every legal move."""


class Outcome(StrEnum):
    """How a launch ended, in the words of `finishRunQueueItem`."""

    FINISHED = "finished"
    FAILED = "failed"
    STOPPED = "stopped"
    PREEMPTED = "preempted"
    LOST = "lost"


class Cause(StrEnum):
    """Who or what is at fault for a failure. Each has a retry budget of its own."""

    WORKLOAD = "workload"
    """The job itself: its exit code, its specification, its requirements."""
    PREEMPTED = "preempted"
    """The platform took the place away."""
    NODE_LOST = "node_lost"
    """The place is gone, and the job with it."""
    INFRASTRUCTURE = "infrastructure"
    """The platform could not run it: refused, out of resources, not started in time."""
    CONTROL_PLANE = "control_plane"
    """The server refused what the launch needs, as its job. One that is away is waited for."""


class StopReason(StrEnum):
    """Why a launch is to be stopped."""

    REQUEST = "request"
    """Somebody asked for it."""
    ADMIT_TIMEOUT = "timeout:admit"
    SCHEDULE_TIMEOUT = "timeout:schedule"
    PULL_TIMEOUT = "timeout:pull"
    START_TIMEOUT = "timeout:start"
    RUN_TIMEOUT = "timeout:run"
    HOPELESS = "hopeless"
    """Its platform says that it cannot start as things are."""
    DRAIN = "drain"
    """The agent was told twice to end."""


@dataclass(frozen=True, slots=True)
class End:
    """The end of a launch, or of one attempt, as far as the agent knows it."""

    outcome: Outcome
    message: str
    """For people: what happened and what to do."""
    exit_code: int | None = None
    reason: str = ""
    stage: str = "agent"
    """The protocol's word for where a failure lies: agent, build or run."""
    cause: Cause = Cause.WORKLOAD
    """Means something only where the outcome is not finished or stopped."""


@dataclass(frozen=True, slots=True)
class Assigned:
    """What of this machine a launch has been given, and nobody else has."""

    gpus: tuple[str, ...] = ()
    """Ids as the inventory has them."""
    cpus: float = 0
    memory: int = 0
    """Bytes."""


@dataclass(slots=True)
class Launch:
    """One item on its way. Mutable only in what the stages find out, one owner at a time."""

    item_id: str
    attempt: int
    queue: str
    spec: JsonObject = field(repr=False)
    """As it came from the queue."""
    run_id: str
    """Of the spec, or chosen here before the item is acknowledged."""
    stage: Stage = Stage.CLAIMED
    agent_id: str = ""
    """Who claimed it, as the server knows this agent; empty if an earlier version did not write it down."""
    enqueued_at: float = 0
    """When its item was pushed, in seconds since the epoch, and never after `claimed_at`; 0 if nobody has said it."""
    claimed_at: float = 0
    """Seconds since the epoch."""
    since: float = 0
    """When it came into its stage, in seconds since the epoch."""
    resource: str = ""
    """The backend that holds it, once it is known."""
    handle: Handle | None = None
    uses: tuple[str, ...] | None = None
    """Keys of the cached folders that it uses (`agent/caches/bounded.py`). None until it is prepared, and where an
    earlier version did not write them down."""
    assigned: Assigned | None = None
    """None until it was given its place on this machine, and where the agent does not manage that."""
    end: End | None = None
    stop: StopReason | None = None
    verdict: End | None = None
    """How it is to end once it has stopped, of one that is stopped because it cannot start or has had its time. What
    was the matter nobody can tell any more once it is gone."""
    tries: dict[str, int] = field(default_factory=dict[str, int])
    """How many retries each cause has had."""
    not_before: float = 0
    """When the next attempt is due, in seconds since the epoch."""
    log_base: int = 0
    """Where the output of this attempt begins in that of the launch, in bytes."""
    log_offset: int = 0
    """How much of this attempt's output the server already has, in bytes."""

    @property
    def name(self) -> str:
        """The platform name: a function of item and attempt, so that starting is idempotent."""
        return names.launch_name(self.item_id, self.attempt)

    @property
    def log_fields(self) -> dict[str, str | int]:
        """What stands on every log line about it."""
        return {"item": self.item_id, "attempt": self.attempt, "queue": self.queue}

    @property
    def known_since(self) -> float:
        """When its way began, as far as this agent knows, in seconds since the epoch: at its push or at its claim."""
        return self.enqueued_at or self.claimed_at

    @property
    def is_scheduler(self) -> bool:
        """Whether it is a sweep's scheduler, which does not count as a job."""
        return is_scheduler_spec(self.spec)

    @property
    def is_unwanted(self) -> bool:
        """Whether somebody wants it stopped for good; one that has had its time may yet be tried again."""
        return self.stop in {StopReason.REQUEST, StopReason.DRAIN}

    @property
    def is_active(self) -> bool:
        """Whether it takes one of the places that `max_jobs` limits: not while it waits for a retry, not once over."""
        return self.stage not in {Stage.RETRYING, Stage.ENDED}

    def use(self, *keys: str) -> None:
        """Use cached folders from now on, until it is over."""
        self.uses = tuple(dict.fromkeys((*(self.uses or ()), *keys)))

    def move(self, stage: Stage) -> None:
        """Go on to a stage; moving back, or past a stage, is a bug."""
        if stage not in MOVES[self.stage]:
            raise ValueError(f"launch {self.name}: illegal move from {self.stage} to {stage}")
        self.stage = stage
