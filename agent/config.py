"""The agent's configuration: one YAML file, environment variables over it, flags over both.

Every key of the stock agent's file is accepted with its meaning. An unknown key or a bad value is an error that names
the key, the value, what is allowed, and the nearest known key.
"""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from agent.errors import ConfigError

DEFAULT_PATH = Path.home() / ".config" / "wandb" / "launch-config.yaml"
"""Where the stock agent looks as well."""

JsonBlock = dict[str, Any]


class AgentConfig(BaseModel):
    """What an agent serves, and how."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    entity: str | None = Field(None, description="Owner of the queues. Default: the API key's user's own entity.")
    queues: tuple[str, ...] = Field((), description="Names of the queues to serve.")
    max_jobs: int = Field(1, description="How many launches may be held at once; -1 for no limit.")
    max_schedulers: int = Field(1, ge=-1, description="How many sweep schedulers may run at once; -1 for no limit.")
    secure_mode: bool = Field(False, description="Refuse items that override the entry point.")
    verbosity: int = Field(0, ge=0, le=2, description="0 tells what happened, 1 and 2 also how.")
    stopped_run_timeout: float = Field(60, ge=0, description="Seconds between a polite stop and a kill.")
    environment: JsonBlock = Field(default_factory=dict, description="Cloud environment (aws, gcp, azure).")
    registry: JsonBlock = Field(default_factory=dict, description="Image registry; deprecated in favor of builder.")
    builder: JsonBlock = Field(default_factory=dict, description="How images are built.")

    resources: tuple[str, ...] = Field(("local-process",), description="Where this agent may run launches.")
    state_dir: Path | None = Field(
        None, description="Holds the journal, running launches and caches. Default: one per server, entity and queues."
    )
    job_environment: tuple[str, ...] = Field(
        (), description="Names of variables of the agent's own environment that jobs may see, beside the harmless ones."
    )

    @field_validator("max_jobs")
    @classmethod
    def _not_negative(cls, value: int) -> int:
        if value < -1 or value == 0:
            raise ValueError("must be 1 or more, or -1 for no limit")
        return value


def load(
    path: Path | None, environment: Mapping[str, str], flags: Mapping[str, Any], *, default_path: Path = DEFAULT_PATH
) -> AgentConfig:
    """Merge file, environment and flags (None means not given) and validate the result."""
    values = _file_values(path, default_path)
    for name, key in (("WANDB_ENTITY", "entity"), ("WANDB_LAUNCH_MAX_JOBS", "max_jobs")):
        if environment.get(name):
            values[key] = environment[name]
    values.update({key: value for key, value in flags.items() if value is not None and value != ()})
    # The stock agent merges `queue` and then refuses it; here one queue may be named in the singular.
    if queue := values.pop("queue", None):
        values["queues"] = [queue, *values.get("queues", ())]
    source = str(path or default_path)
    try:
        config = AgentConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(error, source)) from error
    if not config.queues:
        raise ConfigError("No queue to serve. Name one with -q QUEUE, or under `queues:` in the configuration file.")
    return config


def _file_values(path: Path | None, default_path: Path) -> dict[str, Any]:
    if path is None and not default_path.is_file():
        return {}
    chosen = path or default_path
    try:
        loaded: dict[str, Any] = yaml.safe_load(chosen.read_text("utf-8")) or {}
    except OSError as error:
        raise ConfigError(f"The configuration file {chosen} cannot be read: {error.strerror}.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"The configuration file {chosen} is not YAML: {error}") from error
    if not isinstance(loaded, dict):  # pyright: ignore[reportUnnecessaryIsInstance] -- YAML holds anything
        raise ConfigError(f"The configuration file {chosen} must hold a mapping of keys to values.")
    return loaded


def _explain(error: ValidationError, source: str) -> str:
    lines = [f"The agent's configuration ({source}, environment and flags) has {error.error_count()} problem(s):"]
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            nearest = difflib.get_close_matches(key, AgentConfig.model_fields, 1)
            hint = f"Did you mean `{nearest[0]}`?" if nearest else f"Known keys: {', '.join(AgentConfig.model_fields)}."
            lines.append(f"  `{key}` is not a known key. {hint}")
        else:
            lines.append(f"  `{key}` is {problem['input']!r}: {problem['msg']}.")
    return "\n".join(lines)
