"""Names, labels and annotations, by which what is started is found again: by its agent, and by people. Pure."""

import hashlib
import json
import re
import sys
from collections.abc import Mapping
from typing import cast

PREFIX = "launchbay.dev/"
"""How all of our own labels and annotations begin."""
OWNER = f"{PREFIX}owner"
"""Label: a short hash of the agent's owner, which is the same across its restarts. What has it is ours."""
LAUNCH = f"{PREFIX}launch"
"""Label: the launch that it belongs to, as `launch_of` spells it."""
SERVICE = f"{PREFIX}service"
"""Label of what a launch has beside itself, and of its pods: they are not the launch's own."""
LABELS = f"{PREFIX}labels"
"""Annotation: all of the launch's labels, as JSON. Values of labels could not hold them."""
STOP = f"{PREFIX}stop"
"""Annotation of an object that was asked to stop."""

BUILD = f"{PREFIX}build"
"""Label of what builds an image: which one. It is no launch, and no agent's own."""
WANTED = f"{PREFIX}wanted-by-"
"""Annotation of a build, with the owner's hash behind it: that agent waits for it."""

DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container"
"""Annotation of a pod: which of its containers is meant where none is named. `kubectl` goes by it, too."""

FETCH = "wandb-source-code-init"
"""The init container of a pod that fetches the launch's code, as the protocol calls it."""

RUN = "wandb.ai/run-id"
AGENT = "wandb.ai/agent"
MONITOR = "wandb.ai/monitor"
CREATED_BY = "wandb.ai/created-by"
AUXILIARY = "wandb.ai/auxiliary-resource"

MAX_LABEL = 63
MAX_NAME = 40
"""Of an object that is a launch. Its pods' names are made from it, and have to fit into labels with what is added."""
HASH_CHARS = 8
OWNER_CHARS = 16


def owner_of(owner: str) -> str:
    """Return the value of the owner's label."""
    return hashlib.sha256(owner.encode("utf-8", "surrogatepass")).hexdigest()[:OWNER_CHARS]


def selector_of(owner: str) -> str:
    """Return the selector of everything that an owner has in a cluster."""
    return f"{OWNER}={owner_of(owner)}"


def launches_of(owner: str) -> str:
    """Return the selector of an owner's launches and of their pods, without what they have beside themselves."""
    return f"{selector_of(owner)},!{SERVICE}"


def services_of(owner: str) -> str:
    """Return the selector of what an owner's launches have beside themselves, and of its pods."""
    return f"{selector_of(owner)},{SERVICE}"


def launch_of(name: str) -> str:
    """Return a launch's name as a cluster can have it. Also the name of its Secret."""
    return dns_label(name, MAX_NAME)


def object_name(name: str, prefix: str = "") -> str:
    """Return what the object of a launch is called: as the launch, after as much of a prefix as there is room for.

    Different launches have different names, whatever the prefix.
    """
    launch = launch_of(name)
    room = MAX_NAME - len(launch) - 1
    start = re.sub(r"^[^a-z]+", "", _dns_chars(prefix))[: max(room, 0)].strip("-")
    return f"{start}-{launch}" if start else launch


def service_name(name: str, place: int) -> str:
    """Return the name of something beside a launch that nobody has named."""
    return f"{launch_of(name)}-service-{place}"


def dns_label(text: str, limit: int = MAX_LABEL) -> str:
    """Return a text as a DNS label that begins with a letter. Different texts stay different."""
    label = re.sub(r"^[^a-z]+", "", _dns_chars(text))
    if label and label == text and len(label) <= limit:
        return label
    return "-".join(filter(None, [label[: limit - HASH_CHARS - 1].strip("-") or "x", _hash(text)]))


def label_value(text: str) -> str:
    """Return a text as the value of a label. Different texts stay different."""
    if len(text) <= MAX_LABEL and re.fullmatch(r"|[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?", text):
        return text
    start = re.sub(r"[^A-Za-z0-9_.-]+", "-", text)[: MAX_LABEL - HASH_CHARS - 1].strip("-_.")
    return f"{start}-{_hash(text)}" if start else _hash(text)


def stock_label(text: str) -> str:
    """Return a text as the stock agent spells it in a label. Long ones lose their end."""
    return _dns_chars(text, joint="")[:MAX_LABEL].strip("-")


def labels_of(owner: str, name: str, labels: Mapping[str, str]) -> dict[str, str]:
    """Return the labels of everything that is started for a launch."""
    return {
        OWNER: owner_of(owner),
        LAUNCH: launch_of(name),
        MONITOR: "true",
        **{key: label_value(labels[name]) for key, name in ((RUN, "run"), (AGENT, "agent")) if labels.get(name)},
    }


def annotations_of(labels: Mapping[str, str]) -> dict[str, str]:
    """Return the annotations of everything that is started for a launch."""
    return {LABELS: json.dumps(dict(labels), sort_keys=True, separators=(",", ":"))}


def read_labels(annotations: Mapping[str, object]) -> dict[str, str]:
    """Return what `annotations_of` has written; nothing where somebody else wrote."""
    try:
        read: object = json.loads(str(annotations.get(LABELS, "{}")))
    except (ValueError, RecursionError):
        return {}
    if not isinstance(read, dict):
        return {}
    # Most of them are the same for all launches of an agent.
    said = cast("dict[str, object]", read).items()
    return {sys.intern(key): sys.intern(value) for key, value in said if isinstance(value, str)}


def _dns_chars(text: str, joint: str = "-") -> str:
    lower = re.sub(r"[\s_./:]+", "-", text.lower()) if joint else text.replace("_", "-").lower()
    return re.sub(r"-+", "-", re.sub(r"[^a-z0-9-]+", joint, lower)).strip("-")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:HASH_CHARS]
