"""Labels, by which what is started is found again: by its agent, and by people. Pure."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import cast

from backends.base import Handle

OWNER = "launchbay-owner"
"""Label: a short hash of the agent's owner, which is the same across its restarts. What has it is ours."""
LAUNCH = "launchbay-launch"
"""Label: the launch, as `launch_of` spells it."""
RUN = "wandb-run-id"
"""Label: the run, as the stock agent has it."""
LABELS_VARIABLE = "LAUNCHBAY_LABELS"
"""Variable of a job with all of the launch's labels, as JSON. Values of Google's labels could not hold them."""

MAX_LABEL = 63
HASH_CHARS = 8
OWNER_CHARS = 16


def owner_of(owner: str) -> str:
    """Return the value of the owner's label."""
    return hashlib.sha256(owner.encode("utf-8", "surrogatepass")).hexdigest()[:OWNER_CHARS]


def launch_of(name: str) -> str:
    """Return a launch's name as a label can have it. Also what identifies its secret."""
    return label_value(name)


def handle_of(name: str) -> Handle:
    """Return the handle of a launch. Google's own name of its job is known too late for that."""
    return Handle(launch_of(name))


def label_value(text: str) -> str:
    """Return a text as the value of a label. Different texts stay different."""
    if len(text) <= MAX_LABEL and re.fullmatch(r"[a-z0-9_-]*", text):
        return text
    start = re.sub(r"[^a-z0-9_-]+", "-", text.lower())[: MAX_LABEL - HASH_CHARS - 1].strip("-_")
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:HASH_CHARS]
    return f"{start}-{digest}" if start else digest


def labels_of(owner: str, name: str, labels: Mapping[str, str]) -> dict[str, str]:
    """Return the labels of a launch's job."""
    run = {RUN: label_value(labels["run"])} if labels.get("run") else {}
    return {**run, OWNER: owner_of(owner), LAUNCH: launch_of(name)}


def written_labels(labels: Mapping[str, str]) -> str:
    """Return the value of `LABELS_VARIABLE`."""
    return json.dumps(dict(labels), sort_keys=True, separators=(",", ":"))


def read_labels(written: str) -> dict[str, str]:
    """Return what `written_labels` has written; nothing where somebody else wrote."""
    try:
        read: object = json.loads(written)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(read, dict):
        return {}
    return {key: value for key, value in cast("dict[str, object]", read).items() if isinstance(value, str)}
