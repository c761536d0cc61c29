"""Takes up a changed configuration while the agent works: on SIGHUP, or when the file has changed.

What cannot be used changes nothing. What only counts at the start keeps its value until then, and is named.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import structlog

from agent.config.masking import FREE_FORM, masked
from agent.config.model import AgentConfig
from agent.errors import ConfigError

LOOK_SECONDS = 2.0

AT_THE_START = frozenset(
    {"entity", "queues", "resources", "name", "state_dir", "listen", "slots", "limits", "caches", "verbosity"}
    | {"leader_election"}
    | FREE_FORM
)
"""Keys that are read once: who the agent is, what it has opened, and how it logs."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Change:
    """One key that has another value now."""

    key: str
    """With its path, as `timeouts.start`."""
    old: Any
    """Plain values without secrets; None also where there was or is nothing."""
    new: Any


def changes(old: AgentConfig, new: AgentConfig) -> list[Change]:
    """Return what differs between two configurations, in the order of the model."""
    before, after = dict(_leaves(_plain(old))), dict(_leaves(_plain(new)))
    return [
        Change(".".join(path), masked(before.get(path), *path), masked(after.get(path), *path))
        for path in {**before, **after}
        if before.get(path) != after.get(path)
    ]


def needs_restart(old: AgentConfig, new: AgentConfig) -> list[Change]:
    """Return those changes that take effect only when the agent is started again."""
    fixed = _fixed_keys(old, new)
    return [change for change in changes(old, new) if change.key.split(".")[0] in fixed]


async def reload_on_change(
    config: AgentConfig,
    load: Callable[[], AgentConfig],
    apply: Callable[[AgentConfig], None],
    hangup: asyncio.Event,
    path: Path | None,
    *,
    look_seconds: float = LOOK_SECONDS,
) -> None:
    """Go from `config` to what `load` returns whenever `hangup` is set or the file at `path` has changed; never ends.

    `load` puts environment and flags over the file, as at the start, and raises `ConfigError`. It runs in a thread.
    """
    read: _Stamp = _UNREAD  # the file may have changed since it was read at the start
    seen = read
    while True:
        with suppress(TimeoutError):
            async with asyncio.timeout(look_seconds):
                await hangup.wait()
        told = hangup.is_set()
        hangup.clear()
        earlier, seen = seen, await asyncio.to_thread(_stamp, path)
        # A file that has just changed may be half-written: it is read when it has been the same for two looks.
        if told or (seen != read and seen == earlier):
            read = seen
            config = await _reloaded(config, load, apply, told=told)


async def _reloaded(
    config: AgentConfig, load: Callable[[], AgentConfig], apply: Callable[[AgentConfig], None], *, told: bool
) -> AgentConfig:
    """Apply what is new, and return the configuration that is in force now."""
    try:
        wanted = await asyncio.to_thread(load)
    except ConfigError as error:
        log.error("the new configuration cannot be used; the old one stays in force", error=str(error))
        return config
    kept = wanted.model_copy(update={key: getattr(config, key) for key in _fixed_keys(config, wanted)})
    later = needs_restart(config, wanted)
    for change in later:
        log.warning("takes effect when the agent is started again", key=change.key, now=change.old, then=change.new)
    changed = changes(config, kept)
    for change in changed:
        log.info("configuration changed", key=change.key, old=change.old, new=change.new)
    if changed:
        apply(kept)
    elif told and not later:
        log.info("told to read the configuration again: nothing to change")
    return kept


def _fixed_keys(old: AgentConfig, new: AgentConfig) -> frozenset[str]:
    # Sweep schedulers need a backend on this machine, which is opened at the start, and not where none may run.
    return AT_THE_START if old.max_schedulers or not new.max_schedulers else AT_THE_START | {"max_schedulers"}


def _plain(config: AgentConfig) -> dict[str, Any]:
    return config.model_dump(mode="json")


def _leaves(values: Mapping[str, Any], *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(cast("dict[str, Any]", value), *path, str(key))
        else:
            yield (*path, str(key)), value


# --- the file ---------------------------------------------------------------------------------------------------------

_Stamp = tuple[int, ...] | None
_UNREAD: _Stamp = (-1,)


def _stamp(path: Path | None) -> _Stamp:
    """Return what differs when a file was written or replaced; None where there is none."""
    try:
        found = path.stat() if path else None
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev) if found else None
