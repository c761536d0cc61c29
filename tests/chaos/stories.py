"""What the launches of these tests do, and what must come of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from backends.fake import Behavior


@dataclass(frozen=True, slots=True)
class Story:
    """What the attempts of an item do, and what must come of it."""

    behaviors: Sequence[Behavior]
    """One per attempt; the last stays."""
    state: str = "FAILED"
    """These jobs never call `wandb.init`, so that their items end so even if they exit with 0."""
    exit_code: int | None = None
    output: bytes | None = b""
    """What the server must have of it; None if that depends on the moment."""
    attempts: Sequence[int] | None = (1,)
    """Those that must have begun; None if it may or may not have come to the first."""
    preempted: frozenset[int] = frozenset()
    """Attempts that the platform takes away."""


SOON = {"first_seconds": 0.01, "longest_seconds": 0.01, "attempts": 2}
RETRIES = [{"on": ["preempted"], **SOON}, {"on": [{"exit_code": [75]}], **SOON}]
"""The rules of the agents' configuration that these stories rely on."""

_SHORT = Behavior(seconds=0.01, output=b"begin\n", last_output=b"end\n", exit_code=7)
_AGAIN = Behavior(seconds=0.01, output=b"begin\n", last_output=b"again\n", exit_code=75)
_ENDLESS = Behavior(output=b"begin\n")

PLAIN = Story([_SHORT], exit_code=7, output=b"begin\nend\n")
RETRIED = Story([_AGAIN, _SHORT], exit_code=7, output=b"begin\nagain\nbegin\nend\n", attempts=(1, 2))
RETRIED_IN_VAIN = Story([_AGAIN], exit_code=75, output=b"begin\nagain\n" * 3, attempts=(1, 2, 3))
PREEMPTED = Story(
    [_ENDLESS, _SHORT], exit_code=7, output=b"begin\nbegin\nend\n", attempts=(1, 2), preempted=frozenset({1})
)
OVERDUE = Story([_ENDLESS], exit_code=143, output=b"begin\n")
"""It needs a limit of the agent's."""
STOPPED = Story([_ENDLESS], state="STOPPED", output=None, attempts=None)
"""Somebody has to ask for it."""
STORIES = (PLAIN, RETRIED, RETRIED_IN_VAIN, PREEMPTED)
