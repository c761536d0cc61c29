"""What an object says of itself, whatever its kind."""

from dataclasses import dataclass
from enum import Enum

from backends.kubernetes.reading.endings import Ending


class State(Enum):
    """Where an object is, in its own words."""

    GOING = "going"
    """Begun or to begin; its pods tell how far it is."""
    HELD = "held"
    """Suspended, or in a queue of the cluster's."""
    FATED = "fated"
    """Its end is decided and cannot change any more, while its last pods end."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Told:
    """What an object says of itself."""

    state: State = State.GOING
    reason: str = ""
    """In its own word, as `BackoffLimitExceeded`."""
    message: str = ""
    since: float | None = None
    """When it came into this state, in seconds since the epoch."""
    runs: bool | None = None
    """Whether the job itself runs, where the kind says so and its pods do not."""
    has_status: bool = True
    """Whether it says anything at all."""
    well: bool = False
    """Of what is fated: whether it will succeed."""
    decides_alone: bool = False
    """Whether the kind's word for running counts for more than its pods."""
    last_failure_counts: bool = False
    """Whether pods come one after the other, so that the last one tells why it failed; else the first one does."""
    ending: Ending | None = None
    """Why it failed, where the object itself says all that there is to say."""
