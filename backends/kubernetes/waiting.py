"""Asks what was said of launches that do not get to run. Nothing watches events: there are many, and few of ours."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import structlog

from backends.base import Handle, Observation
from backends.kubernetes.api import KubeObject, KubeRefused
from backends.kubernetes.cluster import EVENT, Namespace
from backends.kubernetes.launches import Tracked
from backends.kubernetes.reading import is_about
from backends.kubernetes.reading.fields import text

FIRST_SECONDS = 4.0
"""How long a launch may wait until somebody asks why."""
LAST_SECONDS = 300.0
GROWTH = 3
"""Each time it is asked again after so many times the pause."""
KEPT = 20
"""How many events of a launch are kept."""
WARNINGS = "type=Warning"
"""All that is wrong is said so; the rest is left out, as are its many objects."""
FIELDS = ("type", "reason", "message", "count", "lastTimestamp", "eventTime", "series", "involvedObject")

log = structlog.get_logger(__name__)


@dataclass
class _Wait:
    pause: float
    due: float


class Waits:
    """Which launches wait, and when to ask about them next. `changed` is called with those of which more is known."""

    def __init__(self, changed: Callable[[Tracked], None]) -> None:
        self._changed = changed
        self._waits: dict[Handle, _Wait] = {}

    def forget(self, handle: Handle) -> None:
        """Ask no more about a launch."""
        self._waits.pop(handle, None)

    async def ask(self, namespace: Namespace, seen: Callable[[Handle], Observation | None], now: float) -> None:
        """Ask about those launches of a namespace whose time has come, with one question for all. `now` is monotonic.

        Raises `KubeUnavailable`.
        """
        waiting: list[Tracked] = []
        is_due = False
        for tracked in namespace.launches:
            handle = tracked.address.handle
            known = seen(handle)
            if known is None or not known.phase.is_waiting:
                self._waits.pop(handle, None)
                continue
            waiting.append(tracked)
            wait = self._waits.setdefault(handle, _Wait(FIRST_SECONDS, now + FIRST_SECONDS))
            if now >= wait.due:
                is_due = True
                wait.pause = min(LAST_SECONDS, GROWTH * wait.pause)
                wait.due = now + wait.pause
        if is_due:
            await tell(namespace, waiting, self._changed, WARNINGS)


async def tell(
    namespace: Namespace, launches: Iterable[Tracked], changed: Callable[[Tracked], None], fields: str
) -> None:
    """Give launches the events that are about them. Raises `KubeUnavailable`."""
    try:
        listed = await namespace.api.list(EVENT, namespace.name, fields=fields, trim=_trimmed)
    except KubeRefused as error:
        log.debug("cannot read events", namespace=namespace.name, error=str(error))
        return
    by_name: dict[str, list[KubeObject]] = {}
    for event in listed.items:
        by_name.setdefault(text(event, "involvedObject", "name"), []).append(event)
    for tracked in launches:
        found = tuple(_about(tracked, by_name))[-KEPT:]
        if found != tracked.events:
            tracked.events = found
            changed(tracked)


def _about(tracked: Tracked, by_name: dict[str, list[KubeObject]]) -> Iterable[KubeObject]:
    pods = {*tracked.pods.live, *tracked.pods.gone}
    address = tracked.address
    for name, events in by_name.items():
        if name in pods or address.name in name:
            yield from (event for event in events if is_about(event, address.kind, address.name, pods))


def _trimmed(event: KubeObject) -> KubeObject:
    kept = {key: event[key] for key in FIELDS if event.get(key) is not None}
    return {**kept, "metadata": {"name": event["metadata"]["name"]}}
