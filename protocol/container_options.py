"""Resource args of local containers: the options of `docker run`, by the names that people write. Pure.

One table. The backend makes containers of it, and the agent's policy asks it what a launch would reach outside of its
container, so that the two cannot read the same words differently.
"""

import difflib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from pathlib import PurePosixPath

from protocol.errors import SpecError
from protocol.json_types import Json, JsonObject


class Rule(StrEnum):
    """What guards an option: the key of the policy that must allow it."""

    HOST_PATHS = "host_paths"
    NETWORKS = "networks"
    DEVICES = "devices"
    PRIVILEGED = "privileged"


@dataclass(frozen=True, slots=True)
class Option:
    """An option of `docker run`."""

    name: str
    rule: Rule | None = None
    aliases: tuple[str, ...] = ()
    harmless: frozenset[str] = frozenset()
    """Values that no rule need allow, as they reach nothing outside of the container."""


OPTIONS: Mapping[str, Option] = {
    option.name: option
    for option in (
        # what it may use
        Option("cpus", aliases=("cpu",)),
        Option("cpu-period"),
        Option("cpu-quota"),
        Option("cpu-shares", aliases=("c",)),
        Option("cpuset-cpus"),
        Option("cpuset-mems"),
        Option("gpus"),
        Option("memory", aliases=("m",)),
        Option("memory-reservation"),
        Option("memory-swap"),
        Option("pids-limit"),
        Option("shm-size"),
        Option("ulimit"),
        # what runs in it
        Option("env", aliases=("e",)),
        Option("group-add"),
        Option("init"),
        Option("label", aliases=("l",)),
        Option("platform"),
        Option("pull"),
        Option("read-only"),
        Option("tmpfs"),
        Option("user", aliases=("u",)),
        Option("workdir", aliases=("w",)),
        # how it is reached
        Option("add-host"),
        Option("dns"),
        Option("dns-option"),
        Option("dns-search"),
        Option("hostname", aliases=("h",)),
        Option("network", Rule.NETWORKS, ("net",), frozenset({"none", "bridge", "default"})),
        # what it reaches of the machine
        Option("volume", Rule.HOST_PATHS, ("v",)),
        Option("mount", Rule.HOST_PATHS),
        Option("device", Rule.DEVICES),
        Option("runtime", Rule.DEVICES, harmless=frozenset({"runc", "crun"})),
        # how far it is shut in
        Option("privileged", Rule.PRIVILEGED),
        Option("cap-add", Rule.PRIVILEGED),
        Option("cap-drop"),
        Option("ipc", Rule.PRIVILEGED, harmless=frozenset({"none", "private"})),
        Option("pid", Rule.PRIVILEGED),
        Option("security-opt", Rule.PRIVILEGED, harmless=frozenset({"no-new-privileges"})),
        Option("sysctl", Rule.PRIVILEGED),
        Option("userns", Rule.PRIVILEGED),
        Option("uts", Rule.PRIVILEGED),
    )
}
"""By name. Which rule guards which of them is a promise to who writes a policy."""

IGNORED = frozenset({"rm", "name", "detach", "d", "builder"})
"""Accepted without effect: a launch's container has a name of ours and is removed by its agent; `builder` is how its
image is made."""
REFUSED: Mapping[str, str] = {
    "command": "`docker run` has no such option; give the launch an entry point or arguments",
    "entrypoint": "give the launch an entry point (`--entry-point`)",
    "env-file": "it would read a file of the agent's machine; give the variables with `env`",
    "label-file": "it would read a file of the agent's machine; give the labels with `label`",
    "log-driver": "the launch's output is read from the engine's own log",
    "restart": "retries are the agent's (`retries` of its configuration)",
}
"""Known and not possible, and why."""

_UNITS = "bkmgtp"
_SIZE = re.compile(rf"([0-9]{{1,15}}(?:\.[0-9]{{1,6}})?)\s*([{_UNITS}]?)(?:i?b)?", re.IGNORECASE)
_NAMES = {name: option for option in OPTIONS.values() for name in (option.name, *option.aliases)}


@dataclass(frozen=True, slots=True)
class Volume:
    """What is mounted into a container."""

    kind: str
    """`bind` for a folder or file of the machine, `volume` for a volume of the engine's, `tmpfs` for memory."""
    source: str
    """Path or name; empty for a new volume or for memory."""
    target: str
    options: tuple[str, ...] = ()
    """Of a `volume` option: `ro`, `z` and the like."""
    read_only: bool = False
    size: str = ""
    """Of memory: at most so much."""


@dataclass(frozen=True, slots=True)
class Gpus:
    """Which GPUs are asked for."""

    count: int | None
    """How many, whichever they are; None for all there are. 0 where they are named."""
    named: tuple[str, ...] = ()
    """By index or UUID."""


@dataclass(frozen=True, slots=True)
class Use:
    """Something outside of its container that a launch would have."""

    rule: Rule
    option: str
    what: str
    """Host path or name of a volume, name of a network, path of a device, or the option's value."""
    read_only: bool = False
    """Of what is mounted."""


def normalize(name: str) -> str:
    """Return an option's name without leading dashes, in small letters, with dashes between its words."""
    return name.strip().lstrip("-").replace("_", "-").lower()


def read_options(resource_args: JsonObject) -> dict[str, Json]:
    """Return the values by the options' names in `OPTIONS`; what is null or without effect is left out.

    Raises `SpecError` for an option that is unknown, refused, or given under two names.
    """
    read: dict[str, Json] = {}
    for written, value in resource_args.items():
        name = normalize(written)
        if value is None or name in IGNORED:
            continue
        if name in REFUSED:
            raise SpecError(f"The resource arg {written!r} cannot be used here: {REFUSED[name]}.")
        if name not in _NAMES:
            raise SpecError(f"The resource arg {written!r} is not known. {_nearest(name)}")
        option = _NAMES[name]
        if option.name in read:
            raise SpecError(f"The resource arg {option.name!r} is given twice, under two of its names. Leave one out.")
        read[option.name] = value
    return read


def texts(name: str, value: Json) -> list[str]:
    """Return the value of an option that may be given several times."""
    values = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    return [text(name, each) for each in values]


def text(name: str, value: Json) -> str:
    """Return a value that is one text or number; `SpecError` if it is not, or is empty."""
    if isinstance(value, str) and value.strip() and "\0" not in value:
        return value.strip()
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:g}" if isinstance(value, float) else str(value)
    raise SpecError(f"The resource arg {name!r} is {value!r}; it must be a text or a number.")


def flag(name: str, value: Json) -> bool:
    """Return a value that is true or false; `SpecError` if it is not."""
    word = value.strip().lower() if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else None
    if word in {"true", ""}:  # `docker run` takes the bare option for true
        return True
    if word == "false":
        return False
    raise SpecError(f"The resource arg {name!r} is {value!r}; it must be true or false.")


def parse_size(written: str) -> int:
    """Return bytes, as the engine reads them: units are powers of 1024, whatever their case. Raises `ValueError`."""
    match = _SIZE.fullmatch(written)
    if match is None:
        raise ValueError(written)
    return int(Decimal(match[1]) * 1024 ** _UNITS.index(match[2].lower() or "b"))


def parse_gpus(value: Json) -> Gpus:
    """Read a `gpus` option as `docker run` does: 2, all, device=0,1; `SpecError` if it is none of these."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return Gpus(value)
    # People quote it twice, as a shell makes them: '"device=0,1"'.
    words = [word.strip() for word in value.strip().strip("\"'").split(",")] if isinstance(value, str) else []
    key, equals, first = words[0].partition("=") if words else ("", "", "")
    if equals and key == "device" and all([first, *words[1:]]) and "=" not in "".join(words[1:]):
        return Gpus(0, tuple(dict.fromkeys([first, *words[1:]])))
    number = first if equals and key == "count" else words[0] if words else ""
    if len(words) == 1 and number == "all":
        return Gpus(None)
    if len(words) == 1 and number.isdecimal():
        return Gpus(int(number))
    raise SpecError(f"The resource arg 'gpus' is {value!r}; it must be a number, all, or device=0,1.")


def parse_bytes(name: str, value: Json) -> int:
    """Read a size as the engine does, or a number of bytes; `SpecError` if it is neither."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    with suppress(ValueError):
        return parse_size(value.strip() if isinstance(value, str) else "")
    raise SpecError(f"The resource arg {name!r} is {value!r}; it must be a size, as 512m or 8g.")


def parse_number(name: str, value: Json) -> float:
    """Read a number that is not negative, as 2 or 0.5; else `SpecError`."""
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = -1.0
        if 0 <= number < math.inf:
            return number
    raise SpecError(f"The resource arg {name!r} is {value!r}; it must be a number, as 2 or 0.5.")


def parse_volume(written: str) -> Volume:
    """Read a `volume` option: [SOURCE:]TARGET[:OPTIONS]."""
    parts = written.split(":")
    if len(parts) > 3 or not all(parts):
        raise SpecError(f"The resource arg 'volume' is {written!r}; it must be SOURCE:TARGET or SOURCE:TARGET:ro.")
    if len(parts) == 1:
        return Volume("volume", "", _target("volume", parts[0]))
    source, target, *options = parts
    words = tuple(options[0].split(",")) if options else ()
    unknown = [word for word in words if word not in _VOLUME_OPTIONS]
    if unknown:
        raise SpecError(
            f"The resource arg 'volume' is {written!r}; {unknown[0]!r} must be one of {', '.join(_VOLUME_OPTIONS)}."
        )
    kind = "bind" if _is_path(source) else "volume"
    return Volume(kind, _source("volume", source), _target("volume", target), words, read_only="ro" in words)


def parse_mount(written: str) -> Volume:
    """Read a `mount` option: `type=bind,source=/data,target=/data,readonly`."""
    given: dict[str, str] = {}
    for word in written.split(","):
        key, _, value = word.strip().partition("=")
        name = _MOUNT_KEYS.get(key.strip().lower())
        if name is None or name in given:
            # Not `volume-opt`: with it a volume is a host path by another name.
            raise SpecError(
                f"The resource arg 'mount' is {written!r}; {key!r} must be one of type, source, target, readonly and "
                "tmpfs-size, and stand there once."
            )
        given[name] = value
    kind, source = given.get("type", "volume"), given.get("source", "")
    if (kind, bool(source)) not in {("bind", True), ("volume", True), ("volume", False), ("tmpfs", False)}:
        raise SpecError(
            f"The resource arg 'mount' is {written!r}; its type must be bind or volume, with a source, or tmpfs."
        )
    if source and (kind == "bind") != _is_path(source):
        raise SpecError(f"The resource arg 'mount' is {written!r}; only a bind's source is a path.")
    read_only = "readonly" in given and given["readonly"].lower() not in {"false", "0"}
    target = _target("mount", given.get("target", ""))
    return Volume(kind, _source("mount", source), target, read_only=read_only, size=given.get("tmpfs-size", ""))


def parse_device(written: str) -> tuple[str, str, str]:
    """Read a `device` option, PATH[:TARGET[:rwm]]: its path, its path in the container, and what may be done to it."""
    parts = written.split(":")
    path, target, rights = [*parts, *[""] * (3 - len(parts))][:3]
    if target and not target.startswith("/") and not rights:
        target, rights = "", target
    if len(parts) > 3 or not path.startswith("/dev/") or ".." in PurePosixPath(path).parts or set(rights) - set("rwm"):
        raise SpecError(f"The resource arg 'device' is {written!r}; it must be as /dev/fuse or /dev/fuse:/dev/fuse:rw.")
    return path, target or path, rights or "rwm"


def uses(resource_args: JsonObject) -> Iterator[Use]:
    """Yield what the launch would have outside of its container. Raises `SpecError` for what cannot be read."""
    for name, value in read_options(resource_args).items():
        option = OPTIONS[name]
        if option.rule is None:
            continue
        if option.rule is Rule.HOST_PATHS:
            parse = parse_volume if name == "volume" else parse_mount
            for each in map(parse, texts(name, value)):
                # What is given new labels (z, Z) is written to.
                is_read = each.read_only and not {"rw", "z", "Z"}.intersection(each.options)
                if each.source:
                    yield Use(option.rule, name, each.source, is_read)
            continue
        for what in _reached(option, value):
            if what not in option.harmless:
                yield Use(option.rule, name, what)


_VOLUME_OPTIONS = ("ro", "rw", "z", "Z", "nocopy", "rprivate", "private", "rslave", "slave")
_MOUNT_KEYS = {
    "type": "type",
    "source": "source",
    "src": "source",
    "target": "target",
    "destination": "target",
    "dst": "target",
    "readonly": "readonly",
    "ro": "readonly",
    "tmpfs-size": "tmpfs-size",
}


def _reached(option: Option, value: Json) -> list[str]:
    match option.name:
        case "privileged":
            return ["true"] if flag("privileged", value) else []
        case "device":
            return [parse_device(device)[0] for device in texts("device", value)]
        case _:
            return texts(option.name, value)


def _is_path(source: str) -> bool:
    return "/" in source or source.startswith((".", "~"))


def _source(name: str, source: str) -> str:
    if _is_path(source) and (not source.startswith("/") or ".." in PurePosixPath(source).parts):
        raise SpecError(f"The resource arg {name!r} names {source!r}; it must be a whole path, without `..`.")
    return str(PurePosixPath(source)) if source else ""


def _target(name: str, target: str) -> str:
    if not target.startswith("/") or PurePosixPath(target) == PurePosixPath("/"):
        raise SpecError(f"The resource arg {name!r} must say where in the container it goes, as /data.")
    return target


def _nearest(name: str) -> str:
    nearest = difflib.get_close_matches(name, [*_NAMES, *REFUSED], 1)
    return f"Did you mean {nearest[0]!r}?" if nearest else f"There are: {', '.join(sorted(OPTIONS))}."
