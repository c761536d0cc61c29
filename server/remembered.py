"""Remembers answers for a moment, for questions that are asked many times a second."""

from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Remembered(Generic[K, V]):
    """Values by key, each for a few seconds: what changes takes effect after at most that long."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._known: dict[K, tuple[float, V]] = {}
        self.times_forgotten = 0
        """Changes with every `forget`: an answer that was on its way meanwhile may be an old one."""

    def get(self, key: K, now: float) -> V | None:
        """Return what was remembered, if it is not too old."""
        known = self._known.get(key)
        return known[1] if known and 0 <= now - known[0] < self._seconds else None

    def put(self, key: K, value: V, now: float) -> V:
        """Remember a value, and forget what is too old; returns the value."""
        for old in [old for old, (seen, _) in self._known.items() if not 0 <= now - seen < self._seconds]:
            del self._known[old]
        self._known[key] = (now, value)
        return value

    def forget(self) -> None:
        """Forget everything: something has changed."""
        self._known.clear()
        self.times_forgotten += 1
