"""From a start request to the configuration of a container, as the engine's API has it. Pure."""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from typing import Any
from urllib.parse import urlsplit

from backends.base import BackendError, StartRequest
from protocol import container_options as table
from protocol.container_options import Gpus, Volume
from protocol.errors import SpecError
from protocol.json_types import Json

CODE_FOLDER = "/mnt/wandb"
"""Where a launch's own folder is in its container. The protocol says so."""
HOME = "/tmp"  # noqa: S108 -- in the container, where every account may write
LABEL = "launchbay.launch."
"""Before the names of a launch's labels."""
FOLDER_LABEL = "launchbay.folder"
"""The state folder of the agent whose container it is."""
SEEN_GPUS = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
IMAGE_VARIABLE = "WANDB_DOCKER"
"""Tells a launch its image, which the client writes down with the run."""
LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class Machine:
    """What of this machine a container's configuration depends on."""

    folder: str
    """The agent's state folder."""
    is_podman: bool
    user: tuple[int, int] = (os.geteuid(), os.getegid())
    """The agent's own account and group."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A container to be."""

    image: str
    config: Mapping[str, Any]
    platform: str | None
    pull: str | None
    """When to pull the image, if the launch says so."""


def plan(request: StartRequest, machine: Machine) -> Plan:
    """Return the container for a request. `BackendError` says what cannot be asked for, and what can."""
    if not request.image:
        raise BackendError(f"The launch {request.name} has no image to run.")
    try:
        options = table.read_options(request.resource_args)
        return _plan(request, machine, request.image, options)
    except SpecError as error:
        raise BackendError(str(error)) from error


def telling(planned: Plan, image: str) -> Plan:
    """Return the same container, whose launch is told that this is its image."""
    variables = [
        f"{IMAGE_VARIABLE}={image}" if each.startswith(f"{IMAGE_VARIABLE}=") else each for each in planned.config["Env"]
    ]
    return replace(planned, config={**planned.config, "Env": variables})


def _plan(request: StartRequest, machine: Machine, image: str, options: Mapping[str, Json]) -> Plan:
    read = _Reader(options)
    variables = _environment(request, read)
    user = read.text("user")
    if user is None and machine.user[0] != 0 and (request.working_dir or request.folders):
        # The folders are the agent's. As root the job would leave files in them that the agent cannot remove; as
        # the image's own account it might not even read them.
        user = f"{machine.user[0]}:{machine.user[1]}"
        variables.setdefault("HOME", HOME)  # that account has no home in the image
    host: dict[str, Any] = {
        "Init": read.flag("init", default=True),  # as process 1 a job would not hear SIGTERM, nor reap its orphans
        "LogConfig": _log(machine),
        "NetworkMode": read.text("network") or ("host" if _is_local(request) else "default"),
        "Binds": _binds(read),
        "Mounts": [*_own_mounts(request), *_asked_mounts(read)],
        "Tmpfs": dict(_split_tmpfs(each) for each in read.texts("tmpfs")),
        "DeviceRequests": _gpus(request, read),
        "Devices": [_device(each) for each in read.texts("device")],
        "NanoCpus": read.number("cpus", 10**9),
        "CpuPeriod": read.whole("cpu-period"),
        "CpuQuota": read.whole("cpu-quota"),
        "CpuShares": read.whole("cpu-shares"),
        "CpusetCpus": read.text("cpuset-cpus"),
        "CpusetMems": read.text("cpuset-mems"),
        "Memory": read.size("memory"),
        "MemoryReservation": read.size("memory-reservation"),
        "MemorySwap": read.size("memory-swap"),
        "PidsLimit": read.whole("pids-limit"),
        "ShmSize": read.size("shm-size"),
        "Ulimits": [_ulimit(each) for each in read.texts("ulimit")],
        "GroupAdd": read.texts("group-add"),
        "ReadonlyRootfs": read.flag("read-only"),
        "ExtraHosts": read.texts("add-host"),
        "Dns": read.texts("dns"),
        "DnsOptions": read.texts("dns-option"),
        "DnsSearch": read.texts("dns-search"),
        "Runtime": read.text("runtime"),
        "Privileged": read.flag("privileged"),
        "CapAdd": read.texts("cap-add"),
        "CapDrop": read.texts("cap-drop"),
        "IpcMode": read.text("ipc"),
        "PidMode": read.text("pid"),
        "SecurityOpt": read.texts("security-opt"),
        "Sysctls": dict(read.pairs("sysctl")),
        "UsernsMode": read.text("userns"),
        "UTSMode": read.text("uts"),
    }
    config: dict[str, Any] = {
        "Image": image,
        "Env": [f"{key}={value}" for key, value in variables.items()],
        "Labels": {
            **dict(read.pairs("label")),
            FOLDER_LABEL: machine.folder,
            **{LABEL + key: value for key, value in request.labels.items()},
        },
        "Hostname": read.text("hostname"),
        "User": user,
        "WorkingDir": read.text("workdir") or (_folder(request) if request.working_dir else None),
        "HostConfig": {key: value for key, value in host.items() if value not in (None, [], {}, "")},
    }
    if request.command:
        config |= {"Entrypoint": [request.command[0]], "Cmd": list(request.command[1:])}
    elif request.args:
        config |= {"Cmd": list(request.args)}
    return Plan(
        image,
        {key: value for key, value in config.items() if value is not None},
        read.text("platform"),
        read.text("pull"),
    )


class _Reader:
    """Reads values of options, by their forms."""

    def __init__(self, options: Mapping[str, Json]) -> None:
        self._options = options

    def text(self, name: str) -> str | None:
        return table.text(name, self._options[name]) if name in self._options else None

    def texts(self, name: str) -> list[str]:
        return table.texts(name, self._options[name]) if name in self._options else []

    def flag(self, name: str, *, default: bool = False) -> bool:
        return table.flag(name, self._options[name]) if name in self._options else default

    def gpus(self) -> Gpus:
        return table.parse_gpus(self._options.get("gpus", 0))

    def pairs(self, name: str) -> list[tuple[str, str]]:
        return [_pair(name, each) for each in self.texts(name)]

    def number(self, name: str, times: int) -> int | None:
        return self._parsed(name, lambda text: int(Decimal(text) * times), "a number, as 4 or 0.5")

    def whole(self, name: str) -> int | None:
        return self._parsed(name, int, "a whole number")

    def size(self, name: str) -> int | None:
        return self._parsed(name, table.parse_size, "a number of bytes, or a size as 512m or 8g")

    def _parsed(self, name: str, parse: Callable[[str], int], allowed: str) -> int | None:
        text = self.text(name)
        if text is None:
            return None
        try:
            value = -1 if text == "-1" else parse(text)
        except (ValueError, OverflowError, InvalidOperation) as error:
            raise SpecError(f"The resource arg {name!r} is {text!r}; it must be {allowed}.") from error
        if value < (-1 if name in {"memory-swap", "pids-limit", "cpu-quota"} else 0) or value >= 2**63:
            raise SpecError(f"The resource arg {name!r} is {text!r}; it must be {allowed}.")
        return value


def _environment(request: StartRequest, read: _Reader) -> dict[str, str]:
    """What the launch itself is given goes over the queue's own: a queue must not make runs pose as others."""
    variables: dict[str, str] = {}
    for written in read.texts("env"):
        key, is_set, value = written.partition("=")
        if not is_set:
            raise SpecError(
                f"The resource arg 'env' names {written!r} without a value; that would copy a variable of the agent. "
                f"Write {written}=VALUE."
            )
        variables[key] = value
    given = {**request.environment, **request.secrets}
    if request.gpus:
        # The container has no other GPUs, and may number those it has otherwise.
        given = {key: value for key, value in given.items() if key not in SEEN_GPUS}
    variables |= given
    for key, value in variables.items():
        if not key or "=" in key or "\0" in key + value:
            raise BackendError(f"The launch {request.name} has an environment variable {key!r} that cannot be set.")
    return variables


def _log(machine: Machine) -> dict[str, Any]:
    """Docker's usual log replaces bytes that are no text, and its `local` one throws away what is old unless told."""
    if machine.is_podman:
        return {"Type": "k8s-file"}
    return {"Type": "local", "Config": {"max-size": "1t", "max-file": "1", "compress": "false"}}


def _is_local(request: StartRequest) -> bool:
    """Whether the server is on this machine: from a network of its own a container would look for it in itself."""
    return urlsplit(request.environment.get("WANDB_BASE_URL", "")).hostname in LOCAL_HOSTS


def _folder(request: StartRequest) -> str:
    return f"{CODE_FOLDER}/{request.subfolder}" if request.subfolder else CODE_FOLDER


def _binds(read: _Reader) -> list[str]:
    volumes = [table.parse_volume(each) for each in read.texts("volume")]
    return [
        ":".join([each.source, each.target, *filter(None, [",".join(each.options)])]) for each in volumes if each.source
    ]


def _own_mounts(request: StartRequest) -> Iterator[dict[str, Any]]:
    if request.working_dir:
        yield _mount(Volume("bind", str(request.working_dir), CODE_FOLDER))
    for folder in request.folders:
        yield _mount(Volume("bind", str(folder), str(folder), read_only=True))


def _asked_mounts(read: _Reader) -> Iterator[dict[str, Any]]:
    for written in read.texts("volume"):
        if not (volume := table.parse_volume(written)).source:  # one without a name, which goes with the container
            yield _mount(volume)
    for written in read.texts("mount"):
        yield _mount(table.parse_mount(written))


def _mount(volume: Volume) -> dict[str, Any]:
    mount: dict[str, Any] = {"Type": volume.kind, "Target": volume.target, "ReadOnly": volume.read_only}
    if volume.source:
        mount["Source"] = volume.source
    if volume.size:
        try:
            mount["TmpfsOptions"] = {"SizeBytes": table.parse_size(volume.size)}
        except ValueError as error:
            raise SpecError(f"The resource arg 'mount' has tmpfs-size={volume.size}; write it as 64m or 1g.") from error
    return mount


def _split_tmpfs(written: str) -> tuple[str, str]:
    target, _, options = written.partition(":")
    if not target.startswith("/"):
        raise SpecError(f"The resource arg 'tmpfs' is {written!r}; it must be a path, as /scratch or /scratch:size=1g.")
    return target, options


def _device(written: str) -> dict[str, str]:
    path, target, rights = table.parse_device(written)
    return {"PathOnHost": path, "PathInContainer": target, "CgroupPermissions": rights}


def _gpus(request: StartRequest, read: _Reader) -> list[dict[str, Any]]:
    """Ids where there are ids. A number asks the engine for any so many, which no two launches agree about."""
    asked = read.gpus()
    if request.gpus or asked.named:
        return [_device_request(ids=request.gpus or asked.named)]
    if asked.count == 0:
        return []
    return [_device_request(count=-1 if asked.count is None else asked.count)]


def _device_request(*, count: int = 0, ids: Sequence[str] = ()) -> dict[str, Any]:
    which = {"DeviceIDs": list(ids)} if ids else {"Count": count}
    return {**which, "Capabilities": [["gpu"]]}


def _ulimit(written: str) -> dict[str, Any]:
    match = re.fullmatch(r"([a-z]+)=(-1|[0-9]+)(?::(-1|[0-9]+))?", written)
    if match is None:
        raise SpecError(f"The resource arg 'ulimit' is {written!r}; it must be as nofile=1024 or nofile=1024:4096.")
    return {"Name": match[1], "Soft": int(match[2]), "Hard": int(match[3] or match[2])}


def _pair(name: str, written: str) -> tuple[str, str]:
    key, is_set, value = written.partition("=")
    if not key or (not is_set and name != "label"):
        raise SpecError(f"The resource arg {name!r} is {written!r}; it must be as KEY=VALUE.")
    return key, value
