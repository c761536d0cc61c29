"""What every stage has at hand. One per agent process; nothing in it changes after the start."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random

from agent.artifact_cache import ArtifactCache
from agent.config import AgentConfig
from agent.control_plane import ControlPlane
from agent.environments import Environments
from agent.journal import Identity, Journal
from agent.operations import ServerFacts
from backends.base import Backend


@dataclass(frozen=True, slots=True)
class AgentContext:
    """The agent's surroundings. Time and chance are here, so that tests can set them."""

    config: AgentConfig
    entity: str
    """Owner of the queues."""
    server: ControlPlane
    facts: ServerFacts
    identity: Identity
    journal: Journal
    backends: Mapping[str, Backend]
    """By resource; those that this agent is able to serve."""
    artifacts: ArtifactCache
    environments: Environments
    work_dir: Path
    """Holds a working folder per launch."""
    process_environment: Mapping[str, str]
    """The agent's own variables."""
    clock: Callable[[], float]
    random: Random

    def folder_of(self, name: str) -> Path:
        """Return the working folder of the launch of that platform name."""
        return self.work_dir / name
