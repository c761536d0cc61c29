"""What the engine's answers mean. Pure."""

import signal
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from backends.base import Observation, Phase
from backends.local_container.options import LABEL
from backends.local_container.records import Record

NEVER = "0001-01-01"
"""What times begin with that are none."""
RUNNING = frozenset({"running", "paused", "restarting"})
NOT_STARTED = frozenset({"created", "configured", "initialized"})
"""Podman has more words for it."""


def labels_of(found: Any) -> Mapping[str, str]:
    """Return all labels of an inspected container."""
    labels: Mapping[str, str] | None = found["Config"].get("Labels")
    return labels or {}


def launch_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """Return the launch's own of a container's labels."""
    return {key.removeprefix(LABEL): value for key, value in labels.items() if key.startswith(LABEL)}


def observation_of(found: Any, record: Record | None, image: str) -> Observation | None:
    """Return what an inspected container says; None of one that is being removed."""
    state = found["State"]
    status = state["Status"]
    labels = launch_labels(labels_of(found))
    if status == "removing":
        return None
    if status in RUNNING:
        message = "It is paused: somebody has stopped it for a while." if status == "paused" else ""
        return Observation(
            Phase.RUNNING, message=message, started_at=seconds(state["StartedAt"]), image=image, labels=labels
        )
    if status in NOT_STARTED:
        return _not_started(state, record, image, labels)
    return _ended(found, record, image, labels)


def _not_started(state: Any, record: Record | None, image: str, labels: Mapping[str, str]) -> Observation:
    if record and (record.is_over or record.is_stopped):
        seen = record.observation
        return Observation(
            seen.phase, seen.exit_code, seen.reason, seen.message, ended_at=seen.ended_at, image=image, labels=labels
        )
    if state.get("Error"):
        return failed_start(state["Error"], state.get("ExitCode"), image, labels)
    return Observation(Phase.STARTING, message="created, not started yet", image=image, labels=labels)


def failed_start(words: str, exit_code: int | None, image: str, labels: Mapping[str, str]) -> Observation:
    """Return what is said about a container that the engine could not start."""
    message = f"The container engine could not start it: {words}"
    return Observation(Phase.FAILED, exit_code or None, "start_failed", message, image=image, labels=labels)


def _ended(found: Any, record: Record | None, image: str, labels: Mapping[str, str]) -> Observation:
    state = found["State"]
    code = int(state["ExitCode"])
    began, ended = seconds(state["StartedAt"]), seconds(state["FinishedAt"])
    if began and ended:
        ended = max(began, ended)  # an engine notices the end of what is over at once before its beginning
    reason, message = _cause(found, code)
    phase = Phase.STOPPED if record and record.is_stopped else Phase.FAILED if code else Phase.FINISHED
    return Observation(
        phase,
        exit_code=code,
        reason=reason,
        message=message,
        started_at=began,
        ended_at=ended,
        image=image,
        labels=labels,
    )


def _cause(found: Any, code: int) -> tuple[str, str]:
    if code == 0:
        return "", ""
    if found["State"].get("OOMKilled"):
        limit: int = found["HostConfig"].get("Memory") or 0
        allowed = f"the {limit / 2**20:.0f} MiB that it may use. Give it more (`memory`)." if limit else "there was."
        return "oom_killed", f"It was killed because it needed more memory than {allowed}"
    if code == 127:
        program = found.get("Path") or "its program"
        return "", f"{program} is not in the image, or ended with exit code 127 itself. Its log says which."
    if 128 < code < 128 + signal.NSIG:
        try:
            return f"signal:{signal.Signals(code - 128).name}", ""
        except ValueError:
            return f"signal:{code - 128}", ""
    return "", ""


def digest_of(image: str, found: Any) -> str:
    """Return the image by its digest in the registry it is from; by its id, if it is from none."""
    if found is None:
        return image
    digests: Sequence[str] = found.get("RepoDigests") or ()
    return sorted(digests)[0] if digests else found.get("Id") or image


def seconds(written: str | None) -> float | None:
    """Return a time of the engine's in seconds since the epoch; None of one that has not come."""
    if not written or written.startswith(NEVER):
        return None
    return datetime.fromisoformat(written).timestamp()
