"""Names and tags, by which jobs are found again: by their agent, and by people. Pure.

A job's name depends on the launch and on who the agent is, so that asking twice starts it once. It also has what all
names of one agent have in common: one list finds them, whatever else runs in the account.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping

PREFIX = "launchbay:"
"""How the keys of our own tags begin."""
OWNER = f"{PREFIX}owner-id"
"""Tag: who the agent is, as `owner_of` spells it."""
OVER = f"{PREFIX}over"
"""Tag of a job that its agent is done with. SageMaker keeps jobs for ever."""
RUN = "WandbRunId"
"""Tag: the run, as the stock agent has it."""

MAX_NAME = 63
MAX_LAUNCH = 40
MAX_TAG_VALUE = 256
OWNER_CHARS = 8
HASH_CHARS = 8


def owner_of(owner: str) -> str:
    """Return what all names of an agent's jobs have in common."""
    return hashlib.sha256(owner.encode("utf-8", "surrogatepass")).hexdigest()[:OWNER_CHARS]


def job_name(launch: str, owner: str, wish: str = "") -> str:
    """Return what the job of a launch is called: after as much of the queue's wish as there is room for.

    A name is taken for ever, so the wish alone would do for one attempt of one launch.
    """
    own = f"{_plain(launch, MAX_LAUNCH)}-{owner_of(owner)}"
    start = re.sub(r"[^A-Za-z0-9]+", "-", wish)[: MAX_NAME - len(own) - 1].strip("-")
    return f"{start}-{own}" if start else own


def tags_of(owner: str, labels: Mapping[str, str]) -> dict[str, str]:
    """Return the tags of a job with these labels."""
    tags = {OWNER: owner_of(owner)}
    if labels.get("run"):
        tags[RUN] = labels["run"]
    for name, value in labels.items():
        spelled = _spell(value)
        pieces = [spelled[start : start + MAX_TAG_VALUE] for start in range(0, len(spelled), MAX_TAG_VALUE)] or [""]
        tags |= {f"{PREFIX}{name}" + (f":{place}" if place else ""): piece for place, piece in enumerate(pieces)}
    return tags


def read_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the labels that `tags_of` has written."""
    labels: dict[str, list[str]] = {}
    for key, value in sorted(tags.items(), key=_place):
        if key.startswith(PREFIX) and key not in {OWNER, OVER}:
            labels.setdefault(key.removeprefix(PREFIX).partition(":")[0], []).append(value)
    return {name: _read("".join(pieces)) for name, pieces in labels.items()}


def as_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Return tags as the API takes them."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def as_mapping(tags: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Return tags as the API gives them."""
    return {tag["Key"]: tag["Value"] for tag in tags}


def _plain(text: str, limit: int) -> str:
    plain = re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")
    if plain and plain == text and len(plain) <= limit:
        return plain
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:HASH_CHARS]
    return "-".join(filter(None, [plain[: limit - HASH_CHARS - 1].strip("-"), digest]))


def _spell(value: str) -> str:
    """Spell a value with what tags may have. What they may not is written as its bytes, `+2C`."""
    return re.sub(
        r"[^A-Za-z0-9_.:/=@-]",
        lambda found: "".join(f"+{byte:02X}" for byte in found[0].encode("utf-8", "surrogatepass")),
        value,
    )


def _read(spelled: str) -> str:
    return re.sub(
        r"(?:\+[0-9A-F]{2})+",
        lambda found: bytes.fromhex(found[0].replace("+", "")).decode("utf-8", "replace"),
        spelled,
    )


def _place(tag: tuple[str, str]) -> tuple[str, int]:
    name, _, place = tag[0].removeprefix(PREFIX).partition(":")
    return name, int(place) if place.isdigit() else 0
