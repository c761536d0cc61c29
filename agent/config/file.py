"""Reads the agent's configuration: one YAML file, environment variables over it, flags over both.

An unknown key or a bad value is an error that names the key, the value, what is allowed, and the nearest known key.
"""

import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import ValidationError

from agent.config.builder import any_builder, builder_warnings
from agent.config.model import AgentConfig
from agent.config.problems import explain
from agent.config.stock_blocks import block_warnings
from agent.errors import ConfigError

DEFAULT_PATH = Path.home() / ".config" / "wandb" / "launch-config.yaml"
"""Where the stock agent looks as well."""
VARIABLES = {"WANDB_ENTITY": "entity", "WANDB_LAUNCH_MAX_JOBS": "max_jobs"}
FLAG = "flag"
"""The origin of what was given on the command line."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A valid configuration, and what there is to say about it."""

    config: AgentConfig
    origins: Mapping[str, str]
    """By top-level key that was given: the file, the variable, or `flag`."""
    warnings: tuple[str, ...]
    """Sentences about what is accepted and has no effect, or is likely to be a mistake."""


def load(
    path: Path | None, environment: Mapping[str, str], flags: Mapping[str, Any], *, default_path: Path = DEFAULT_PATH
) -> AgentConfig:
    """Return the configuration of an agent that is to work: valid, and with a queue to serve."""
    return with_queues(read(path, environment, flags, default_path=default_path)).config


def read(
    path: Path | None, environment: Mapping[str, str], flags: Mapping[str, Any], *, default_path: Path = DEFAULT_PATH
) -> Loaded:
    """Merge file, environment and flags (None or nothing means not given) and validate the result."""
    file = path or default_path
    values = {} if path is None and not file.is_file() else _file_values(file)
    warnings: list[str] = []
    if values.pop("project", None) is not None:
        warnings.append("`project` is accepted and ignored: each item names its own project.")
    _name_queues(values, file)
    # What has no value is as if not given, as it is to the stock agent.
    values = {key: value for key, value in values.items() if value is not None}
    if str(values.get("state_dir")).startswith("~/"):
        values["state_dir"] = Path.home() / values["state_dir"][2:]  # in a flag, the shell does this
    origins = dict.fromkeys(values, str(file))
    for variable, key in VARIABLES.items():
        if environment.get(variable):
            values[key], origins[key] = environment[variable], variable
    for key, value in flags.items():
        if value is not None and value != ():
            values[key], origins[key] = value, FLAG
    try:
        config = AgentConfig.model_validate(values)
        any_builder(config)
    except ValidationError as error:
        raise ConfigError(explain(error, values, origins)) from error
    served = {*config.resources, "local-process"}  # where schedulers run, whatever is served otherwise
    unserved = [resource for resource in config.backends if resource not in served]
    warnings += [f"`backends.{resource}` without effect: `resources` does not name it." for resource in unserved]
    return Loaded(config, origins, (*warnings, *block_warnings(config), *builder_warnings(config)))


def with_queues(loaded: Loaded) -> Loaded:
    """Return what was loaded, if it names a queue to serve; `ConfigError` otherwise."""
    if not loaded.config.queues:
        raise ConfigError("No queue to serve. Name one with -q QUEUE, or under `queues:` in the configuration file.")
    return loaded


def _name_queues(values: dict[str, Any], file: Path) -> None:
    """Let one queue be named in the singular: the stock agent merges it as well, though it then refuses to start."""
    queue = values.pop("queue", None)
    if queue is None:
        return
    if not isinstance(queue, str):
        raise ConfigError(f"`queue` must be one name ({file}). Name several under `queues`.")
    queues: Any = values.get("queues") or []
    if isinstance(queues, list):  # anything else is an error that the validation tells
        values["queues"] = [*cast("list[Any]", queues), queue]


# --- the file ---------------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """YAML in which dates, `on` and `off` are words, as they are since YAML 1.2: `on` is a key of a retry rule.

    A key may stand once: of two, the first would be ignored.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.MarkedYAMLError(problem="this key stands there twice", problem_mark=key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _is_word(tag: str, letter: str) -> bool:
    return tag == "tag:yaml.org,2002:timestamp" or (tag == "tag:yaml.org,2002:bool" and letter in "oO")


_Loader.yaml_implicit_resolvers = {
    letter: [resolver for resolver in resolvers if not _is_word(resolver[0], letter)]
    for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _file_values(file: Path) -> dict[str, Any]:
    try:
        loaded: Any = yaml.load(file.read_text("utf-8"), _Loader) or {}  # noqa: S506 -- a SafeLoader
    except OSError as error:
        raise ConfigError(f"The configuration file {file} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"The configuration file {file} is not UTF-8 text.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"The configuration file {file} is not YAML: {_where(error)}.") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"The configuration file {file} cannot be read: it holds a number that is too long, or is nested too deep."
        ) from error
    if not isinstance(loaded, dict):
        raise ConfigError(f"The configuration file {file} must hold a mapping of keys to values.")
    return {str(key): value for key, value in cast("dict[Any, Any]", loaded).items()}


def _where(error: yaml.YAMLError) -> str:
    """Say what is wrong where, without the line itself, which the library would show: it may hold a secret."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return "it holds characters that YAML does not allow"
    mark = error.problem_mark
    # Quotes in pairs: what stands between two of them ("',' or ']'") is the library's own.
    problem = re.sub(r"'([^']*)'", lambda word: word[0] if _is_harmless(word[1]) else "'...'", error.problem or "")
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}"


def _is_harmless(word: str) -> bool:
    """Whether a word of the library's is one character, or a name of its own, as `<stream end>`."""
    return len(word) < 2 or word.startswith("<")
