"""Remembers when a chore is due again, for chores that ride along with requests."""

from collections.abc import Hashable


class Intervals:
    """Chores by name. Each is due a first time some while after it was first asked for."""

    def __init__(self) -> None:
        self._next: dict[Hashable, float] = {}

    def due(self, chore: Hashable, now: float, *, first: float, every: float) -> bool:
        """Whether to do it now; then it is not due again for `every` seconds."""
        if now < self._next.setdefault(chore, now + first):
            return False
        self._next[chore] = now + every
        return True
