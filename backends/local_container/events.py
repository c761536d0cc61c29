"""One stream of events for all containers of this agent, opened again for as long as the agent lives."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing, suppress

from backends.base import BackendError, BackendUnavailable, Handle
from backends.local_container.engine import ContainerEngine

PAUSES = (0.1, 5.0)
"""Between tries to reach the engine: the first, and the longest."""
GONE = frozenset({"destroy", "remove"})
TOLD = frozenset({"start", "die", "died", "oom", "pause", "unpause"}) | GONE
"""Events after which a container is worth a look. Podman has words of its own for two."""


class EventWatch:
    """Calls back when something happened to a container, and when it began to listen, or ceased to."""

    def __init__(
        self,
        engine: ContainerEngine,
        label: str,
        on_event: Callable[[Handle, str], None],
        on_listening: Callable[[bool], None],
    ) -> None:
        self._engine = engine
        self._label = label
        self._on_event = on_event
        self._on_listening = on_listening
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Listen from now on."""
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Listen no more."""
        if self._task:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        pause = PAUSES[0]
        while True:
            with suppress(BackendError, BackendUnavailable):  # whoever observes is told the same, and tells it
                async with aclosing(self._engine.events(self._label)) as batches:
                    async for batch in batches:
                        pause = PAUSES[0]
                        for event in batch:
                            self._take(event)
            self._on_listening(False)
            await asyncio.sleep(pause)
            pause = min(2 * pause, PAUSES[1])

    def _take(self, event: object) -> None:
        match event:
            case None:
                self._on_listening(True)
            case {"Action": str(action), "Actor": {"Attributes": {"name": str(name)}}} if action in TOLD:
                self._on_event(Handle(name), action)
            case _:
                pass
