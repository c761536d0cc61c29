"""Takes fields out of raw objects. Whatever the JSON is, nothing here raises: a field of another type is not there."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

from backends.kubernetes.api import KubeObject


def dig(value: Any, *keys: str) -> Any:
    """Return what lies under a path of keys; None as soon as something on the way is no object."""
    for key in keys:
        if not isinstance(value, Mapping):
            return None
        value = cast("Mapping[str, Any]", value).get(key)
    return value


def text(value: Any, *keys: str) -> str:
    """Return a string; an empty one if it is absent."""
    found = dig(value, *keys)
    return found if isinstance(found, str) else ""


def number(value: Any, *keys: str) -> int | None:
    """Return an integer; None if it is absent."""
    found = dig(value, *keys)
    return found if isinstance(found, int) and not isinstance(found, bool) else None


def is_true(value: Any, *keys: str) -> bool:
    """Return whether a switch is there and on."""
    return dig(value, *keys) is True


def mapping(value: Any, *keys: str) -> KubeObject:
    """Return an object; an empty one if it is absent."""
    found = dig(value, *keys)
    return cast("KubeObject", found) if isinstance(found, dict) else {}


def objects(value: Any, *keys: str) -> list[KubeObject]:
    """Return the objects of a list; an empty one if it is absent."""
    found = dig(value, *keys)
    if not isinstance(found, list):
        return []
    return [cast("KubeObject", each) for each in cast("list[Any]", found) if isinstance(each, dict)]


def when(value: Any, *keys: str) -> float | None:
    """Return a time in seconds since the epoch; None if it is absent."""
    written = text(value, *keys)
    if not written:
        return None
    try:
        time = datetime.fromisoformat(written)
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def latest_of(*times: float | None) -> float | None:
    """Return the latest of those that are known."""
    return max((time for time in times if time is not None), default=None)


def group_and_kind(raw: KubeObject) -> tuple[str, str]:
    """Return the API group, empty for the core one, and the kind."""
    group, slash, _ = text(raw, "apiVersion").partition("/")
    return group if slash else "", text(raw, "kind")


def name_of(raw: KubeObject) -> str:
    """Return the name."""
    return text(raw, "metadata", "name")


@dataclass(frozen=True, slots=True)
class Condition:
    """What somebody says of an object, and since when."""

    type: str
    status: str
    """True, False or Unknown."""
    reason: str
    message: str
    since: float | None

    @property
    def is_true(self) -> bool:
        """Whether it holds."""
        return self.status == "True"


def conditions(raw: KubeObject) -> dict[str, Condition]:
    """Return the conditions of an object's status by type."""
    found: dict[str, Condition] = {}
    for each in objects(raw, "status", "conditions"):
        kind = text(each, "type")
        found[kind] = Condition(
            kind, text(each, "status"), text(each, "reason"), text(each, "message"), when(each, "lastTransitionTime")
        )
    return found


def sentence(words: str) -> str:
    """Return somebody else's words on one line, with a full stop, as they stand in a message of ours."""
    line = " ".join(words.split())
    return line if not line or line[-1] in ".!?" else f"{line}."
