"""What the agent holds right now. Room, slots, metrics and status are all derived from it, and never counted."""

import asyncio
from collections.abc import Iterable, Iterator

from agent.launch import Assigned, Launch, Stage
from agent.log_fields import LAUNCH_NAMES
from agent.redaction import SECRETS
from backends.base import Observation
from backends.flag import Flag
from protocol.launch_spec import api_key_of


class Held:
    """A launch in the agent's hands, with what only this process knows of it."""

    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        self.stop = Flag()
        self.stop_sent = False
        """Whether the backend has taken the order to stop this attempt."""
        self.ending = False
        """Whether what the backend said of the end of this attempt is being seen to."""
        self.driving: asyncio.Task[None] | None = None
        self.streaming: asyncio.Task[None] | None = None
        self.waits_for = ""
        """Why it is not running yet, for people."""
        self.seen: Observation | None = None
        """What its platform says of this attempt."""
        self.seen_anew = Flag()
        """Set when the platform says something else."""
        # Whether the server knows that the launch is being prepared, and so may give it back if we fall silent. Of one
        # that an earlier agent left we do not know, and have to assume it.
        self.progress_told = launch.stage is Stage.PREPARING
        if launch.is_unwanted:
            self.stop.set()

    def see(self, seen: Observation) -> None:
        """Take note of what the platform says of a started launch."""
        if seen != self.seen:
            self.seen = seen
            self.waits_for = seen.message if seen.phase.is_waiting else ""
            self.seen_anew.set()


class Launches:
    """The launches held, by item."""

    def __init__(self) -> None:
        self._by_item: dict[str, Held] = {}

    def __len__(self) -> int:
        """How many are held, whatever their stage."""
        return len(self._by_item)

    def __iter__(self) -> Iterator[Held]:
        """Iterate over those held now; they may come and go meanwhile."""
        return iter(list(self._by_item.values()))

    def __contains__(self, item_id: object) -> bool:
        """Whether a launch of that item is held."""
        return item_id in self._by_item

    def add(self, launch: Launch) -> Held:
        """Hold a launch. Every log names it, and none the key that came with it."""
        SECRETS.keep(api_key_of(launch.spec))
        LAUNCH_NAMES.keep(launch)
        held = self._by_item[launch.item_id] = Held(launch)
        return held

    def get(self, item_id: str) -> Held | None:
        """Return the launch of an item."""
        return self._by_item.get(item_id)

    def remove(self, held: Held) -> None:
        """Let go of a launch; unknown ones are fine."""
        if self._by_item.pop(held.launch.item_id, None):
            SECRETS.drop(api_key_of(held.launch.spec))
            LAUNCH_NAMES.drop(held.launch)

    def started(self, resource: str) -> list[Launch]:
        """Return the launches that a backend has."""
        return [
            held.launch
            for held in self._by_item.values()
            if held.launch.resource == resource and held.launch.stage is Stage.STARTED
        ]

    def jobs(self, queue: str | None = None) -> int:
        """Return how many places are taken, of all queues or of one; schedulers take none."""
        return sum(
            launch.is_active and not launch.is_scheduler and queue in {None, launch.queue}
            for launch in self._launches()
        )

    def schedulers(self) -> int:
        """Return how many schedulers of sweeps are held."""
        return sum(launch.is_active and launch.is_scheduler for launch in self._launches())

    def next_retry(self) -> float | None:
        """Return when the next failed launch is due to be tried again, in seconds since the epoch; None if none is."""
        return min((each.not_before for each in self._launches() if each.stage is Stage.RETRYING), default=None)

    def assigned(self) -> list[Assigned]:
        """Return what of this machine has been given away."""
        return [launch.assigned for launch in self._launches() if launch.assigned is not None and launch.is_active]

    def in_use(self) -> frozenset[str] | None:
        """Return the keys of the cached folders that are in use; None while one runs of which that is not known."""
        used: set[str] = set()
        for launch in self._launches():
            if launch.uses is None and launch.stage in {Stage.STARTING, Stage.STARTED}:
                return None
            used.update(launch.uses or ())
        return frozenset(used)

    def _launches(self) -> Iterable[Launch]:
        return (held.launch for held in self._by_item.values())
