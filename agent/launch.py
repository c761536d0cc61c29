"""A launch: an item that this agent has claimed, on its way through the agent.

The one object that flows through the daemon. Its stage moves by the table below and by nothing else.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from backends.base import Handle
from protocol import names
from protocol.json_types import JsonObject
from protocol.launch_spec import is_scheduler_spec


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
    ENDED = "ended"
    """It is over, and the server may not know yet."""


MOVES: dict[Stage, frozenset[Stage]] = {
    Stage.CLAIMED: frozenset({Stage.PREPARING, Stage.ENDED}),
    Stage.PREPARING: frozenset({Stage.STARTING, Stage.ENDED}),
    Stage.STARTING: frozenset({Stage.STARTED, Stage.ENDED}),
    Stage.STARTED: frozenset({Stage.ENDED}),
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


@dataclass(frozen=True, slots=True)
class End:
    """The end of a launch, as far as the agent knows it."""

    outcome: Outcome
    message: str
    """For people: what happened and what to do."""
    exit_code: int | None = None
    reason: str = ""
    stage: str = "agent"
    """The protocol's word for where a failure lies: agent, build or run."""


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
    resource: str = ""
    """The backend that holds it, once it is known."""
    handle: Handle | None = None
    end: End | None = None
    stop_requested: bool = False
    log_offset: int = 0
    """How much of the output the server already has, in bytes."""

    @property
    def name(self) -> str:
        """The platform name: a function of item and attempt, so that starting is idempotent."""
        return names.launch_name(self.item_id, self.attempt)

    @property
    def is_scheduler(self) -> bool:
        """Whether it is a sweep's scheduler, which does not count as a job."""
        return is_scheduler_spec(self.spec)

    def move(self, stage: Stage) -> None:
        """Go on to a stage; moving back, or past a stage, is a bug."""
        if stage not in MOVES[self.stage]:
            raise ValueError(f"launch {self.name}: illegal move from {self.stage} to {stage}")
        self.stage = stage
