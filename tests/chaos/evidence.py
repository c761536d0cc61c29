"""What happened to items and to their workloads, and what of it must never happen. Pure."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from protocol.states import ItemState

BEGINS = "begins"
ENDS = "ends"
TICK = 0.002
"""Times are told by several clocks of one machine, in milliseconds at best."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to an item: its workload began or ended, or it got into a state."""

    at: float
    """Seconds since the epoch."""
    item: str
    what: str
    """`BEGINS`, `ENDS` or the state."""
    attempt: int = 0
    """Of the workload."""

    @property
    def is_final(self) -> bool:
        """Whether the item has ended."""
        return self.what not in {BEGINS, ENDS} and ItemState(self.what).is_ended


def attempts(events: Iterable[Event], item: str) -> list[int]:
    """Return which attempts of an item began, in order."""
    return [event.attempt for event in events if event.item == item and event.what == BEGINS]


def violations(events: Iterable[Event]) -> list[str]:
    """Return what went wrong, when all is over: every item has ended, once; each attempt ran once, and alone."""
    in_order = sorted(events, key=lambda event: event.at)
    return [
        f"item {item}: {wrong}"
        for item in dict.fromkeys(event.item for event in in_order)
        for wrong in _of_item([event for event in in_order if event.item == item])
    ]


def _of_item(events: list[Event]) -> Iterator[str]:
    ends = [event for event in events if event.is_final]
    if not ends:
        yield "it never ended"
    elif len(ends) > 1:
        yield f"it ended more than once: {', '.join(event.what for event in ends)}"
    states = [event for event in events if event.what not in {BEGINS, ENDS}]
    if ends and not states[-1].is_final:
        yield f"it was {states[-1].what} after its end"
    yield from _of_workloads(events, ends[0].at if ends else None)


def _of_workloads(events: list[Event], end: float | None) -> Iterator[str]:
    begun: list[int] = []
    live: set[int] = set()
    for event in events:
        if event.what in {BEGINS, ENDS} and end is not None and event.at > end + TICK:
            yield f"attempt {event.attempt} {event.what} after the item's end"
        if event.what == BEGINS:
            if live:
                yield f"attempt {event.attempt} begins while {sorted(live)} live"
            if event.attempt in begun:
                yield f"attempt {event.attempt} begins again"
            begun.append(event.attempt)
            live.add(event.attempt)
        elif event.what == ENDS:
            live.discard(event.attempt)
    if live:
        yield f"{sorted(live)} never ended: an orphan"
    if sorted(set(begun)) != list(range(1, len(set(begun)) + 1)):
        yield f"attempts {begun} began, and others are missing"
