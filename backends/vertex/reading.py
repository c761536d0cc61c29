"""What became of a job: from what Vertex AI says of it to an observation. Pure."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from signal import Signals

from backends.base import Observation, Phase, Step
from backends.vertex.secrets import own_command

PREFIX = "JOB_STATE_"
CODE_DEADLINE_EXCEEDED = 4
CODE_RESOURCE_EXHAUSTED = 8
CODE_ABORTED = 10
CODE_INTERNAL = 13
CODE_UNAVAILABLE = 14
NOT_FOUND_EXIT, NOT_RUNNABLE_EXIT = 127, 126
_BY_STOP = frozenset({128 + Signals.SIGTERM, 128 + Signals.SIGKILL})

_EXIT = re.compile(r"non-zero status of (\d+)")
_PREEMPTED = re.compile(r"preempt|stockout", re.IGNORECASE)
_NO_ROOM = re.compile(r"quota|resources are insufficient|insufficient resources|out of capacity", re.IGNORECASE)
_OUT_OF_MEMORY = re.compile(r"out[- ]of[- ]memory", re.IGNORECASE)
_TOO_LONG = re.compile(r"timed? ?out|max(imum)? (job )?run(ning)? ?time|deadline", re.IGNORECASE)

ENDED = frozenset({"SUCCEEDED", "PARTIALLY_SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED"})
"""States in which a job stays for ever, without their prefix."""


@dataclass(frozen=True, slots=True)
class Job:
    """What Vertex AI says of a custom job. Times are seconds since the epoch."""

    name: str
    """Google's own: it is given when the job is made."""
    launch: str
    """The launch's label."""
    state: str
    """Without its prefix, as RUNNING."""
    created_at: float = 0.0
    updated_at: float = 0.0
    started_at: float | None = None
    ended_at: float | None = None
    code: int = 0
    """Of its error, as gRPC numbers them; 0 where there is none."""
    error: str = ""
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    """Of the launch."""
    command: Sequence[str] = ()
    """That was asked for; empty for the image's own."""
    image: str = ""
    is_whole: bool = True
    """Whether all of this was asked for. A list leaves out the labels, the command and the image."""

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.state in ENDED

    @property
    def number(self) -> str:
        """What Cloud Logging calls it."""
        return self.name.rpartition("/")[2]


def observation_of(job: Job, *, is_stopped: bool, last: Phase = Phase.STARTING) -> Observation:
    """Return what a job's state means. `is_stopped`: we have asked for its end. `last` is where it was before."""
    match job.state:
        case "QUEUED":
            return _seen(job, Phase.QUEUED, message="It waits in the queue of Vertex AI.", since=job.created_at)
        case "PAUSED":
            return _seen(job, Phase.QUEUED, reason="paused", message="It was paused in Vertex AI, and can be resumed.")
        case "PENDING":
            return _seen(job, Phase.STARTING, message="Vertex AI prepares its machines.", since=job.created_at)
        case "RUNNING" | "UPDATING":
            return _seen(job, Phase.RUNNING)
        case "CANCELLING":
            return _seen(job, last, reason="cancelling", message="Vertex AI is stopping it.")
        case "SUCCEEDED":
            return _seen(job, Phase.FINISHED, exit_code=0)
        case "CANCELLED":
            return _cancelled(job, is_stopped=is_stopped)
        case "FAILED":
            return _failed(job, is_stopped=is_stopped)
        case "EXPIRED":
            return _seen(job, Phase.FAILED, reason="expired", message=_told("It ran out of time in Vertex AI", job))
        case "PARTIALLY_SUCCEEDED":
            message = _told("Only a part of it succeeded, says Vertex AI", job)
            return _seen(job, Phase.FAILED, reason="partially_succeeded", message=message)
        case _:  # a state that is newer than this agent: nothing is known of it, so that it stays where it was
            return _seen(job, last, message=f"Vertex AI says that it is {job.state.lower() or 'in no state'}.")


def _cancelled(job: Job, *, is_stopped: bool) -> Observation:
    if is_stopped:
        return _seen(job, Phase.STOPPED)
    if job.code == CODE_DEADLINE_EXCEEDED or _TOO_LONG.search(job.error):
        return _timed_out(job)
    if _PREEMPTED.search(job.error):
        return _preempted(job)
    message = _told("It was cancelled in Vertex AI, and not by this agent", job)
    return _seen(job, Phase.STOPPED, reason="cancelled", message=message)


def _failed(job: Job, *, is_stopped: bool) -> Observation:
    if exited := _EXIT.search(job.error):
        code = int(exited[1])
        if is_stopped and code in _BY_STOP:
            return _seen(job, Phase.STOPPED, exit_code=code, reason=_signal(code))
        return _exited(job, code)
    if _PREEMPTED.search(job.error):
        return _preempted(job)
    if job.code == CODE_RESOURCE_EXHAUSTED or _NO_ROOM.search(job.error):
        message = _told("Vertex AI had no room for it", job)
        return _seen(job, Phase.PREEMPTED, reason="no_room", message=message)
    if job.code == CODE_DEADLINE_EXCEEDED:
        return _timed_out(job)
    is_platforms = job.code in {CODE_INTERNAL, CODE_UNAVAILABLE, CODE_ABORTED}
    message = _told("Vertex AI could not run it", job)
    return _seen(job, Phase.FAILED, reason=f"vertex:{job.code}", message=message, is_platforms_fault=is_platforms)


def _exited(job: Job, code: int) -> Observation:
    if _OUT_OF_MEMORY.search(job.error):
        message = _told("The job used more memory than its machine has", job)
        return _seen(job, Phase.FAILED, exit_code=code, reason="oom_killed", message=message)
    if code in {NOT_FOUND_EXIT, NOT_RUNNABLE_EXIT} and job.command:
        what = "is not there" if code == NOT_FOUND_EXIT else "cannot be run"
        program = own_command(job.command)[0]
        message = _told(f"The program {program!r}, or one that it runs, {what} in the image {job.image}", job)
        return _seen(job, Phase.FAILED, exit_code=code, message=message)
    return _seen(job, Phase.FAILED, exit_code=code, reason=_signal(code), message=_told("The job failed", job))


def _signal(code: int) -> str:
    try:
        return f"signal:{Signals(code - 128).name}" if code > 128 else ""
    except ValueError:
        return ""


def _preempted(job: Job) -> Observation:
    return _seen(job, Phase.PREEMPTED, reason="preempted", message=_told("Google took its machines away", job))


def _timed_out(job: Job) -> Observation:
    message = _told("It ran longer than Vertex AI lets it, by `vertex.run.timeout` or 7 days", job)
    return _seen(job, Phase.FAILED, reason="timeout", message=message)


def _told(what: str, job: Job) -> str:
    return f"{what}: {job.error}" if job.error else f"{what}."


def _seen(
    job: Job,
    phase: Phase,
    *,
    exit_code: int | None = None,
    reason: str = "",
    message: str = "",
    since: float | None = None,
    is_platforms_fault: bool = False,
) -> Observation:
    return Observation(
        phase,
        exit_code=exit_code,
        reason=reason,
        message=message,
        is_platforms_fault=is_platforms_fault,
        started_at=(job.started_at or job.created_at) if phase.is_terminal else job.started_at,
        step=Step.START,
        since=since,
        ended_at=job.ended_at if phase.is_terminal else None,
        image=job.image if "@" in job.image else "",
        labels=job.labels,
    )
