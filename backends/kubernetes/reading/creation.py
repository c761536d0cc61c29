"""Why an object has no pods yet, by what its controller says of making them."""

import re
from collections.abc import Sequence

from backends.base import Step
from backends.kubernetes.reading.events import Event, latest
from backends.kubernetes.reading.fields import sentence
from backends.kubernetes.reading.waits import GRACE_SECONDS, Wait

_MAY_PASS = re.compile(
    r"failed calling webhook|timeout|timed out|deadline exceeded|connection refused|unavailable|etcd", re.I
)
_DENIED = re.compile(r"violates PodSecurity|denied the request|is forbidden|is invalid|not found", re.I)  # fmt: skip


def refusal(events: Sequence[Event], since: float | None) -> Wait | None:
    """Return why the cluster does not take the pods; None if nobody says so. `since`: from when they were to be."""
    refused = latest(events, "FailedCreate", "FailedCreatePod", "FailedCreateJob")
    made = latest(events, "SuccessfulCreate", "SuccessfulCreatePod")
    if refused is None or refused.at < (since or 0) or (made is not None and made.at > refused.at):
        return None
    # Each try has another name, which nobody will ever see.
    words = sentence(re.sub(r'^Error creating: (?:pods "[^"]*" is forbidden: )?', "", refused.message))
    if "exceeded quota" in refused.message:
        message = f"Its pods do not fit into the quota of their namespace: {words}"
        return Wait(message, "quota", step=Step.SCHEDULE, since=since)
    if _MAY_PASS.search(refused.message):
        message = f"The cluster could not make its pods: {words}"
        return Wait(message, "admission", since=since, is_platforms_fault=True)
    message = f"The cluster refuses its pods: {words}"
    if _DENIED.search(refused.message):
        return Wait(message, "admission", since=since, hopeless_at=None if since is None else since + GRACE_SECONDS)
    return Wait(message, "admission", since=since)
