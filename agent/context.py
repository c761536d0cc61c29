"""What every stage has at hand. One per agent process."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from agent.admission.slots import SlotTable
from agent.building.credentials import Tokens
from agent.caches.artifacts import ArtifactCache
from agent.caches.bounded import BoundedCache
from agent.caches.environments import Environments
from agent.caches.image_environments import ImageEnvironments
from agent.caches.single_flight import SingleFlight
from agent.config.model import AgentConfig
from agent.control_plane import ControlPlane
from agent.held import Launches
from agent.journal import Identity, Journal
from agent.launch import Launch, Stage
from agent.observability.metrics import Metrics
from agent.observability.tracing import Tracer
from agent.operations import ServerFacts
from agent.sources.repositories import Repositories
from backends.base import Backend


@dataclass(slots=True)
class AgentContext:
    """The agent's surroundings. Time and chance are here, so that tests can set them."""

    config: AgentConfig
    """The one thing that changes after the start: it is replaced as a whole when it is reloaded."""
    entity: str
    """Owner of the queues."""
    server: ControlPlane
    facts: ServerFacts
    identity: Identity
    journal: Journal
    owner: str
    """Who this agent is on the platforms: what is labelled so is its own, also when its state folder was lost."""
    queue_resources: Mapping[str, str]
    """The resource of each queue, where the server tells it."""
    launches: Launches
    """What the agent holds."""
    slots: SlotTable
    backends: Mapping[str, Backend]
    """By resource; those that this agent is able to serve."""
    artifacts: ArtifactCache
    repositories: Repositories
    environments: Environments
    image_environments: ImageEnvironments
    metrics: Metrics
    tracer: Tracer
    state_dir: Path
    work_dir: Path
    """Holds a working folder per launch."""
    process_environment: Mapping[str, str]
    """The agent's own variables."""
    clock: Callable[[], float]
    random: Random
    caches: Sequence[BoundedCache] = ()
    """What is to be kept bounded: the folders of artifacts and environments."""
    builds: SingleFlight = field(default_factory=SingleFlight)
    """Of images, by name."""
    tokens: Tokens = field(default_factory=Tokens)
    """For the registries of clouds."""

    @property
    def kept_dir(self) -> Path:
        """Holds working folders of failed attempts, for a while."""
        return self.state_dir / "kept"

    def folder_of(self, name: str) -> Path:
        """Return the working folder of the launch of that platform name."""
        return self.work_dir / name

    def build_folder_of(self, name: str) -> Path:
        """Return the folder, beside that one, in which the image of a launch is built."""
        return self.folder_of(name).with_suffix(".build")

    def move(self, launch: Launch, stage: Stage) -> None:
        """Let a launch go on to a stage, and note how long it was in the one before."""
        before, since, now = launch.stage, launch.since, self.clock()
        launch.move(stage)
        launch.since = now
        self.metrics.stage_took(before, now - since)
        self.tracer.stage(launch, before, since, now)
