"""The states of runs and of run queue items, in the spelling of the wire."""

from enum import StrEnum


class RunState(StrEnum):
    """What a run is doing, as `RunState` tells it."""

    PENDING = "pending"
    """Known to a queue or a sweep, and not started yet."""
    RUNNING = "running"
    PREEMPTING = "preempting"
    """It has announced that it will be taken away."""
    FINISHED = "finished"
    FAILED = "failed"
    CRASHED = "crashed"
    """Its heartbeat was lost."""
    KILLED = "killed"
    """It was stopped on request."""
    PREEMPTED = "preempted"

    @property
    def is_ended(self) -> bool:
        """Whether it is over, as far as one can know: a late word from the client revives a crashed run."""
        return self in RUN_STATES_ENDED


RUN_STATES_ENDED: frozenset[RunState] = frozenset(RunState) - {
    RunState.PENDING,
    RunState.RUNNING,
    RunState.PREEMPTING,
}


class ItemState(StrEnum):
    """What has become of one request to run a job."""

    PENDING = "PENDING"
    """It waits in its queue."""
    LEASED = "LEASED"
    """An agent has taken it and not acknowledged it yet; it goes back when the lease ends."""
    CLAIMED = "CLAIMED"
    """An agent has acknowledged it; its run has not started."""
    RUNNING = "RUNNING"
    FINISHED = "FINISHED"
    FAILED = "FAILED"
    CRASHED = "CRASHED"
    KILLED = "KILLED"
    STOPPED = "STOPPED"
    """Stopped on request before its run started."""
    PREEMPTED = "PREEMPTED"

    @property
    def is_ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self not in {ItemState.PENDING, ItemState.LEASED, ItemState.CLAIMED, ItemState.RUNNING}
