"""Asks what was said of launches that do not get to run. Nothing watches events: there are many, and few of ours."""

import asyncio
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
REST = 20
"""After an answer nobody asks for so many times as long as it took: of thousands of events it takes seconds."""
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
        self._rests: dict[Namespace, float] = {}
        """Until when nobody asks."""

    def forget(self, handle: Handle) -> None:
        """Ask no more about a launch."""
        self._waits.pop(handle, None)

    async def ask(self, namespace: Namespace, seen: Callable[[Handle], Observation | None]) -> None:
        """Ask about the launches of a namespace that wait, with one question for all, if the time of one has come.

        Raises `KubeUnavailable`.
        """
        loop = asyncio.get_running_loop()
        now = loop.time()
        waiting: dict[Tracked, _Wait] = {}
        for tracked in namespace.launches:
            handle = tracked.address.handle
            known = seen(handle)
            if known is not None and known.phase.is_waiting:
                waiting[tracked] = self._waits.setdefault(handle, _Wait(FIRST_SECONDS, now + FIRST_SECONDS))
            else:
                self._waits.pop(handle, None)
        if now < self._rests.get(namespace, now) or all(now < wait.due for wait in waiting.values()):
            return
        for wait in waiting.values():
            if now >= wait.due:
                wait.pause = min(LAST_SECONDS, GROWTH * wait.pause)
            wait.due = now + wait.pause  # the answer is about all of them
        try:
            await _tell(namespace, waiting, self._changed)
        finally:
            self._rests[namespace] = loop.time() + REST * (loop.time() - now)


async def _tell(namespace: Namespace, launches: Iterable[Tracked], changed: Callable[[Tracked], None]) -> None:
    """Give launches the events that are about them."""
    try:
        listed = await namespace.api.list(EVENT, namespace.name, fields=WARNINGS, trim=_trimmed)
    except KubeRefused as error:
        log.debug("cannot read events", namespace=namespace.name, error=str(error))
        return
    by_name: dict[str, list[KubeObject]] = {}
    for event in listed.items:
        by_name.setdefault(_about(event), []).append(event)
    for tracked in launches:
        address, pods = tracked.address, {*tracked.pods.live, *tracked.pods.gone}
        named = (event for name in (address.name, *pods) for event in by_name.get(name, ()))
        found = tuple(event for event in named if is_about(event, address.kind, address.name, pods))[-KEPT:]
        if found != tracked.events:
            tracked.events = found
            changed(tracked)


def _about(event: KubeObject) -> str:
    """Return the name of a pod or of a launch's object, if the event is about one."""
    name = text(event, "involvedObject", "name")
    if text(event, "involvedObject", "kind") != "Workload":
        return name
    return name.partition("-")[2].rpartition("-")[0]  # Kueue calls it `job-NAME-HASH`


def _trimmed(event: KubeObject) -> KubeObject:
    kept = {key: event[key] for key in FIELDS if event.get(key) is not None}
    return {**kept, "metadata": {"name": event["metadata"]["name"]}}
