"""Events of a launch: what controllers, scheduler and kubelets said of its objects."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from backends.kubernetes.api import KubeObject
from backends.kubernetes.reading.fields import text, when

SHOWN = 5
SHOWN_CHARS = 300


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that was said, perhaps often."""

    kind: str
    """Of the object that it is about, as `Pod`."""
    name: str
    reason: str
    message: str
    at: float
    """When it was last said, in seconds since the epoch; 0 if that is not told."""


def events_of(raw: Iterable[KubeObject]) -> list[Event]:
    """Return events in the order of their time. They may be of either API, `v1` or `events.k8s.io/v1`."""
    return sorted((_event(each) for each in raw), key=lambda event: (event.at, event.name, event.reason, event.message))


def is_about(event: KubeObject, kind: str, name: str, pods: Iterable[str]) -> bool:
    """Return whether an event is about an object, one of its pods, or what Kueue made for it."""
    about = "involvedObject" if "involvedObject" in event else "regarding"
    its_kind, its_name = text(event, about, "kind"), text(event, about, "name")
    if its_kind == "Pod":
        return its_name in pods or (kind == "Pod" and its_name == name)
    if its_kind == "Workload":
        return its_name.startswith(f"{kind.lower()}-{name}-")
    return (its_kind, its_name) == (kind, name)


def latest(events: Sequence[Event], *reasons: str, name: str | None = None) -> Event | None:
    """Return the last event for one of these reasons; about the object of this name, if one is given."""
    found = (event for event in reversed(events) if event.reason in reasons and name in {None, event.name})
    return next(found, None)


def shown(events: Sequence[Event]) -> tuple[str, ...]:
    """Return the latest distinct ones for people, in the order of their time."""
    lines: dict[str, None] = {}
    for event in reversed(events):
        line = f"{event.reason}: {' '.join(event.message.split())}"
        lines.setdefault(line if len(line) <= SHOWN_CHARS else f"{line[: SHOWN_CHARS - 1]}…")
        if len(lines) == SHOWN:
            break
    return tuple(reversed(lines))


def _event(raw: KubeObject) -> Event:
    about = "involvedObject" if "involvedObject" in raw else "regarding"
    times = (
        when(raw, "series", "lastObservedTime"),
        when(raw, "lastTimestamp"),
        when(raw, "deprecatedLastTimestamp"),
        when(raw, "eventTime"),
        when(raw, "metadata", "creationTimestamp"),
    )
    return Event(
        text(raw, about, "kind"),
        text(raw, about, "name"),
        text(raw, "reason"),
        text(raw, "message") or text(raw, "note"),
        max((time for time in times if time), default=0),
    )
