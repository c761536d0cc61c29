"""Health: whether the agent is alive (its event loop runs) and ready (it gets work where it has room for some)."""

import asyncio
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager

from agent.config.model import AgentConfig
from agent.held import Launches
from agent.observability.metrics import Metrics

LOOK_SECONDS = 1.0
"""How often the loop is measured."""
BLOCKED_SECONDS = 5.0
"""A loop that is this late was blocked."""
LATELY_SECONDS = 15.0
"""How long a blocked loop is held against the agent: a probe every ten seconds sees one block once or twice, which is
no reason for a restart, and a loop that is blocked over and over each time."""
SILENT_SECONDS = 60.0
"""No poll takes longer than this, so an agent with room had a good one since."""


class Health:
    """What the agent knows of its own health. `clock` tells seconds that never go back."""

    def __init__(
        self, launches: Launches, config: Callable[[], AgentConfig], metrics: Metrics, clock: Callable[[], float]
    ) -> None:
        self._launches = launches
        self._config = config
        self._metrics = metrics
        self._clock = clock
        self.draining = False
        """Set when the agent claims nothing more."""
        self.polled_at: dict[str, float] = {}
        """When a poll of each queue was last answered."""
        self._polls: dict[str, list[float]] = {}
        """When each poll that is on its way was begun, by queue."""
        self.started_at = clock()
        self._looked_at = self.started_at
        self._full_at = self.started_at
        self._late: deque[tuple[float, float]] = deque(maxlen=int(LATELY_SECONDS / LOOK_SECONDS) + 1)

    @property
    def uptime(self) -> float:
        """Seconds since the start."""
        return self._clock() - self.started_at

    def polled(self, queue: str) -> None:
        """The server has answered a poll of a queue, with an item or without."""
        self.polled_at[queue] = self._clock()

    @contextmanager
    def polling(self, queue: str) -> Generator[None]:
        """Note that a poll of a queue is on its way, as long as the block runs. There may be several at once."""
        begun = self._clock()
        polls = self._polls.setdefault(queue, [])
        polls.append(begun)
        try:
            yield
        finally:
            polls.remove(begun)

    def seconds_polling(self, queue: str) -> float | None:
        """Return for how long a poll of a queue has been on its way; None if none is."""
        polls = self._polls.get(queue)
        return self._clock() - min(polls) if polls else None

    def seconds_since_poll(self, queue: str) -> float | None:
        """Return how long ago the last poll of a queue was answered; None if none was."""
        polled_at = self.polled_at.get(queue)
        return None if polled_at is None else self._clock() - polled_at

    async def watch(self) -> None:
        """Measure the event loop, and note when there was no room; never returns. Somebody has to keep this running."""
        self._looked_at = self._clock()
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            late = max(0.0, self._clock() - self._looked_at - LOOK_SECONDS)
            self._looked_at = self._clock()
            self._late.append((self._looked_at, late))
            self._metrics.loop_was_late(late)
            if all(self.why_full(queue) for queue in self._config().queues):
                self._full_at = self._looked_at

    def why_full(self, queue: str) -> str | None:
        """Return the limit that keeps the agent from taking more of a queue; None if there is room."""
        config = self._config()
        if config.max_jobs != -1 and self._launches.jobs() >= config.max_jobs:
            return f"at limit max_jobs={config.max_jobs}"
        limit = config.queue_limits.get(queue)
        if limit is not None and self._launches.jobs(queue) >= limit:
            return f"at limit queue_limits.{queue}={limit}"
        return None

    def why_not_alive(self) -> str | None:
        """Return why the agent should be started again; None if it is alive."""
        now = self._clock()
        overdue = now - self._looked_at - LOOK_SECONDS
        worst = max([overdue, *(late for at, late in self._late if now - at <= LATELY_SECONDS)])
        return f"the event loop was blocked for {worst:.0f} s" if worst > BLOCKED_SECONDS else None

    def why_not_ready(self) -> str | None:
        """Return why the agent gets no work; None if it does, or has no room for any."""
        if problem := self.why_not_alive():
            return problem
        if self.draining:
            return "draining: it claims nothing more"
        if all(self.why_full(queue) for queue in self._config().queues):
            return None
        # The agent starts once it has reached its server, and one that was full could not poll.
        since = max(self.started_at, self._full_at, *self.polled_at.values())
        silent = self._clock() - since
        if silent <= SILENT_SECONDS:
            return None
        return f"no queue could be polled for {silent:.0f} s, although there is room; the log says why"
