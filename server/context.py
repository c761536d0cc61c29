"""What a resolver or handler has at hand: the services of the process, and who is asking."""

import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from random import Random, SystemRandom

from server.database import Database
from server.errors import Forbidden, NotFound
from server.heartbeats import Heartbeats
from server.intervals import Intervals
from server.object_store import ObjectStore
from server.registry_roles import Role
from server.remembered import Remembered
from server.sweeps.curves import Curves
from server.sweeps.turns import Turns
from server.wakeups import Wakeups

PLACE_SECONDS = 1.0
"""How long a poller is believed to know its queue: one that was deleted meanwhile has no items."""


VIEWER_SECONDS = 5.0
"""How long a key's user is remembered, unless somebody says that keys or memberships have changed: word from another
process can be lost."""
FRESH_SECONDS = 60.0
"""How long who made a service account may read its key from the list of members. It is stored only as a hash."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a poller takes items from, and who it is."""

    queue_id: int
    agent_id: int | None


@dataclass(frozen=True, slots=True)
class Services:
    """What one server process holds. Time and chance are here, so that tests can set them."""

    database: Database
    objects: ObjectStore
    heartbeats: Heartbeats
    wakeups: Wakeups = field(default_factory=Wakeups)
    intervals: Intervals = field(default_factory=Intervals)
    viewers: Remembered[Hashable, "Viewer"] = field(default_factory=lambda: Remembered(VIEWER_SECONDS))
    fresh_keys: Remembered[Hashable, str] = field(default_factory=lambda: Remembered(FRESH_SECONDS))
    places: Remembered[Hashable, Place] = field(default_factory=lambda: Remembered(PLACE_SECONDS))
    turns: Turns = field(default_factory=Turns)
    curves: Curves = field(default_factory=Curves)
    clock: Callable[[], float] = time.time
    listening_since: float = field(default_factory=time.time)
    """When this process started: nobody is silent who has not had the time to speak to it."""
    random: Random = field(default_factory=SystemRandom)


@dataclass(frozen=True, slots=True)
class Viewer:
    """The authenticated user behind a request."""

    id: int
    username: str
    email: str
    admin: bool
    entity: str
    """Default entity, by name."""
    entities: frozenset[str]
    """Names of all entities that the user is a member of, the own one included."""
    service_account: bool = False
    """Whether it is a team's, and nobody's own. It may act for a member of its team, whose name and id are then here;
    the rights stay its own."""

    registries: Mapping[int, Role] = field(default_factory=dict[int, Role])
    """The role in each registry that is open to the user, by its row number."""

    def may_use(self, entity: str) -> bool:
        """Whether membership (or being an admin of the server) opens this entity's projects and queues."""
        return self.admin or entity in self.entities

    def must_use(self, entity: str) -> None:
        """Raise `Forbidden` unless `may_use`."""
        if not self.may_use(entity):
            raise Forbidden(
                f"User {self.username!r} is not a member of entity {entity!r}, or there is no such entity. "
                f"Use one of: {', '.join(sorted(self.entities))}."
            )

    def has_role(self, role: Role, entity: str, project_id: int) -> bool:
        """Whether what this role allows in a registry is allowed in a project, be it a registry or not."""
        own = self.registries.get(project_id)
        return self.may_use(entity) or (own is not None and own.includes(role))

    def must_have_role(self, role: Role, entity: str, project_id: int, name: str) -> None:
        """Raise `Forbidden` unless `has_role`, to who sees the project, and `NotFound` to others."""
        if self.has_role(role, entity, project_id):
            return
        own = self.registries.get(project_id)
        if own is None:
            raise NotFound(f"There is no project {entity}/{name}, or you may not see it.")
        raise Forbidden(f"Your role in {entity}/{name} is {own}; that needs the role {role}. Ask an admin of it.")

    def must_see(self, entity: str, thing: str) -> None:
        """Raise `NotFound` unless `may_use`, in the words for a thing that is not there: ids shall tell nothing."""
        if not self.may_use(entity):
            raise NotFound(f"There is no such {thing}.")


@dataclass(frozen=True, slots=True)
class Context:
    """One request."""

    services: Services
    viewer: Viewer
    base_url: str
    """Scheme and host under which the client reached us; URLs that we hand out start with it."""
    writer: str | None = None
    """Which one of the processes that write to a run in shared mode is asking; None for the only one of a run."""
    wait_seconds: float = 0
    """How long the client is willing to wait for an answer that is not there yet (`Prefer: wait=N`, RFC 7240)."""

    is_gone: Callable[[], bool] = lambda: False
    """Whether the client has hung up meanwhile, or has to ask again: its rights may have changed, or this process is
    about to end. Nothing may be handed out to it then: it would be lost for a while."""

    @property
    def now(self) -> float:
        """Seconds since the epoch."""
        return self.services.clock()
