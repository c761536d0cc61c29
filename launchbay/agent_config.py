"""The flags that make up an agent's configuration, for the commands that need it, and how it is shown."""

import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import click
import yaml

from agent.config.file import DEFAULT_PATH, Loaded, load, read
from agent.config.masking import mask
from agent.config.model import AgentConfig
from agent.config.stock_blocks import backend_block
from agent.errors import ConfigError
from backends import registry
from backends.base import BackendError
from backends.registry import GROUP

_OPTIONS = (
    click.option("-q", "--queue", "queues", multiple=True, help="Queue to serve; may be given several times."),
    click.option(
        *("-r", "--resource", "resources"),
        multiple=True,
        help="Where it may run launches; may be given several times. Default: local-process.",
    ),
    click.option("-e", "--entity", help="Owner of the queues. Default: the API key's user."),
    click.option("-j", "--max-jobs", type=int, help="How many launches to hold at once; -1 for no limit. Default: 1."),
    click.option(
        "-c", "--config", "config_file", type=click.Path(dir_okay=False, path_type=Path), help="The YAML configuration."
    ),
    click.option(
        "--state-dir", type=click.Path(file_okay=False, path_type=Path), help="Holds the journal, launches and caches."
    ),
    click.option("-v", "--verbose", count=True, help="Say more; twice for debugging."),
)


def configuration_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of the agent; it gets them as the arguments of `Given`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@dataclass(frozen=True, slots=True)
class Given:
    """What was given on the command line."""

    queues: tuple[str, ...]
    resources: tuple[str, ...]
    entity: str | None
    max_jobs: int | None
    config_file: Path | None
    state_dir: Path | None
    verbose: int

    @property
    def path(self) -> Path:
        """Where the configuration file is, if there is one."""
        return self._file or DEFAULT_PATH

    def read(self) -> Loaded:
        """Return the configuration of file, environment and flags as it is now; `ConfigError` if it is not valid."""
        return read(self._file, os.environ, self._flags)

    def load(self) -> AgentConfig:
        """Return the configuration of an agent that is to work."""
        return load(self._file, os.environ, self._flags)

    @property
    def _file(self) -> Path | None:
        return self.config_file and at_home(self.config_file)

    @property
    def _flags(self) -> Mapping[str, Any]:
        return {
            "queues": self.queues,
            "resources": self.resources,
            "entity": self.entity,
            "max_jobs": self.max_jobs,
            "state_dir": self.state_dir and at_home(self.state_dir),
            "verbosity": min(self.verbose, 2) or None,
        }


def at_home(path: Path) -> Path:
    """Return a path with ~ in front as it is meant: the shell does this for `-c ~/file`, not for `--config=~/file`."""
    return Path.home().joinpath(*path.parts[1:]) if path.parts[:1] == ("~",) else path


def check_usable(config: AgentConfig) -> None:
    """Raise `ConfigError` for a valid configuration with which an agent would not start."""
    known = entry_points(group=GROUP).names
    if missing := [resource for resource in config.resources if resource not in known]:
        raise ConfigError(
            f"`resources` names {', '.join(missing)}, for which there is no backend here; there are: "
            f"{', '.join(sorted(known))}."
        )
    with tempfile.TemporaryDirectory() as nowhere:
        for resource in config.resources:
            try:
                registry.load(resource)(Path(nowhere, resource), "check", backend_block(config, resource))
            except BackendError as error:
                raise ConfigError(str(error)) from error


def plain(config: AgentConfig) -> dict[str, Any]:
    """Return a configuration as JSON has it, without secrets."""
    return mask(config.model_dump(mode="json"))


def as_yaml(loaded: Loaded) -> Iterable[str]:
    """Yield the lines of a configuration, without secrets; where each value that was given came from is a comment."""
    for key, value in plain(loaded.config).items():
        first, *rest = yaml.safe_dump({key: value}, sort_keys=False, width=1000).splitlines()
        yield f"{first}  # {loaded.origins[key]}" if key in loaded.origins else first
        yield from rest
