"""Answers a costly field for all nodes of a list with one read, made when the first of them is asked."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Generic, TypeVar

T = TypeVar("T")


class Batch(Generic[T]):
    """One field of the nodes that were made together, by row number."""

    def __init__(self, load: Callable[[], Awaitable[Mapping[int, T]]]) -> None:
        self._load = load
        self._lock = asyncio.Lock()
        self._loaded: Mapping[int, T] | None = None

    async def get(self, row_id: int) -> T | None:
        """Return the field of one node."""
        async with self._lock:
            if self._loaded is None:
                self._loaded = await self._load()
        return self._loaded.get(row_id)
