"""Inventory: what this machine has to give to launches. Read once, at the agent's start.

GPUs go by identity. NVIDIA's are asked for through NVML, AMD's are read from the kernel's topology. CPUs and memory are
the machine's, or what the agent's own control group leaves of them.
"""

# ruff: noqa: N802 -- NVML's functions have the names that NVIDIA gave them
import asyncio
import importlib
import os
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias, cast

import structlog

from agent.config.forms import parse_size
from agent.config.model import Slots
from agent.errors import ConfigError

NVIDIA_VARIABLE = "CUDA_VISIBLE_DEVICES"
AMD_VARIABLE = "ROCR_VISIBLE_DEVICES"
"""Of AMD's variables the one that takes UUIDs, and that the others go by."""
GPU_ID = re.compile(r"\d+|(GPU|MIG)-[\w/-]+", re.ASCII)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU, or an instance of one that is cut into several (MIG)."""

    id: str
    """As the variable that shows it to a job takes it: a UUID, or an index where that is all we know."""
    index: int
    """Where it stands on the machine; instances have that of their GPU."""
    name: str = ""
    memory: int = 0
    """Bytes; 0 where it is not known."""


@dataclass(frozen=True, slots=True)
class Inventory:
    """What there is to give."""

    gpus: tuple[Gpu, ...] = ()
    """In the order in which they are given."""
    cpus: float = 0
    memory: int = 0
    """Bytes."""
    gpu_variable: str = ""
    """The variable that tells a job which GPUs are its own. Empty: GPUs are not managed, and jobs see what they see."""

    @property
    def manages_gpus(self) -> bool:
        """Whether a job sees only the GPUs that it was given."""
        return bool(self.gpu_variable)


class Nvml(Protocol):
    """What we use of the module `pynvml`, under NVIDIA's names."""

    @property
    def NVMLError(self) -> type[Exception]: ...
    @property
    def NVMLError_LibraryNotFound(self) -> type[Exception]: ...
    @property
    def NVMLError_DriverNotLoaded(self) -> type[Exception]: ...
    def nvmlInit(self) -> None: ...
    def nvmlShutdown(self) -> None: ...
    def nvmlDeviceGetCount(self) -> int: ...
    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any: ...
    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Any: ...
    def nvmlDeviceGetUUID(self, handle: Any) -> str: ...
    def nvmlDeviceGetName(self, handle: Any) -> str: ...
    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any: ...
    def nvmlDeviceGetMigMode(self, device: Any) -> Sequence[int]: ...
    def nvmlDeviceGetMaxMigDeviceCount(self, device: Any) -> int: ...
    def nvmlDeviceGetMigDeviceHandleByIndex(self, device: Any, index: int) -> Any: ...
    def nvmlDeviceGetComputeRunningProcesses(self, handle: Any) -> Sequence[Any]: ...


LoadNvml: TypeAlias = Callable[[], Nvml]


def load_nvml() -> Nvml:
    """Import `pynvml`, which nobody needs who has no use for GPUs."""
    return cast(Nvml, importlib.import_module("pynvml"))


async def read_inventory(
    config: Slots, environment: Mapping[str, str], *, load_nvml: LoadNvml = load_nvml, root: Path = Path("/")
) -> Inventory:
    """Return what this machine has to give, as configured. `environment` is the agent's own: GPUs that it hides are
    not given to anybody. `root` is where `/proc` and `/sys` lie.

    Raises `ConfigError` if the configuration makes no sense on this machine, or the NVIDIA driver is out of order.
    """
    return await asyncio.to_thread(_read, config, environment, load_nvml, root)


async def gpus_in_use(gpus: Sequence[Gpu], load_nvml: LoadNvml = load_nvml) -> frozenset[str]:
    """Return the ids of the NVIDIA GPUs on which a process computes, whoever's it is.

    On a GPU that no launch has, such a process is somebody else's. A GPU that does not answer counts as in use: it is
    not fit to be given away.
    """

    def look() -> frozenset[str]:
        try:
            with _nvml_session(load_nvml) as nvml:
                return frozenset(gpu.id for gpu in gpus if nvml is None or _is_in_use(nvml, gpu))
        except ConfigError as error:
            log.warning("cannot see which GPUs are in use, so none is given away", error=str(error))
            return frozenset(gpu.id for gpu in gpus)

    return await asyncio.to_thread(look)


def _read(config: Slots, environment: Mapping[str, str], load_nvml: LoadNvml, root: Path) -> Inventory:
    gpus, variable = _gpus(config, environment, load_nvml, root)
    cpus = _cpus(root) if config.cpus == "auto" else config.cpus
    return Inventory(gpus, cpus, _memory(config.memory, root), variable)


def _gpus(
    config: Slots, environment: Mapping[str, str], load_nvml: LoadNvml, root: Path
) -> tuple[tuple[Gpu, ...], str]:
    """Return the GPUs to give, and the variable that shows them."""
    if config.gpus == "none":
        return (), ""
    with _nvml_session(load_nvml) as nvml:
        found, variable = (_nvidia_gpus(nvml) if nvml else []), NVIDIA_VARIABLE
        if not found and (found := _amd_gpus(root)):
            variable = AMD_VARIABLE
        allowed = visible_gpus(found, environment.get(variable))
        if config.gpus == "auto":
            gpus = allowed
            variable = variable if gpus else ""
        elif found:
            gpus = _listed(config.gpus, allowed, variable)
        else:
            gpus = _taken_at_their_word(config.gpus)
        if config.skip_busy_gpus and gpus and (nvml is None or variable != NVIDIA_VARIABLE):
            raise ConfigError(
                "`slots.skip_busy_gpus` is set, and only the NVIDIA driver can tell which GPUs are busy; it is not "
                "here. Take the key out of the agent's configuration."
            )
        return tuple(gpus), variable


def visible_gpus(gpus: Sequence[Gpu], variable: str | None) -> list[Gpu]:
    """Return the GPUs that the value of `CUDA_VISIBLE_DEVICES` or `ROCR_VISIBLE_DEVICES` shows; None shows all."""
    if variable is None:
        return list(gpus)
    shown: set[Gpu] = set()
    for entry in variable.split(","):
        named = gpus_named(entry.strip(), gpus)
        if not named:
            break  # CUDA reads the list up to the first entry that is no GPU, as -1, and so do we
        shown.update(named)
    return [gpu for gpu in gpus if gpu in shown]


def gpus_named(name: str, gpus: Iterable[Gpu]) -> list[Gpu]:
    """Return the GPU that an index, a UUID or its beginning names; of one that is cut into instances, all of them."""
    if name.isdecimal():
        return [gpu for gpu in gpus if gpu.index == int(name)]
    named = [gpu for gpu in gpus if name and gpu.id.startswith(name)]
    return named if len(named) == 1 else []


def _listed(names: Sequence[str], gpus: Sequence[Gpu], variable: str) -> list[Gpu]:
    listed: list[Gpu] = []
    for name in names:
        named = gpus_named(name, gpus)
        if not named:
            known = ", ".join(f"{gpu.index} ({gpu.id})" for gpu in gpus) or "none"
            raise ConfigError(
                f"`slots.gpus` names {name!r}, which is no GPU of this machine that {variable} lets the agent use. "
                f"There are: {known}."
            )
        if again := [gpu for gpu in named if gpu in listed]:
            raise ConfigError(f"`slots.gpus` names {again[0].id} twice, the second time as {name!r}. Name it once.")
        listed += named
    return sorted(listed, key=gpus.index)


def _taken_at_their_word(names: Sequence[str]) -> list[Gpu]:
    """Return GPUs of which we know nothing but the names in the configuration."""
    for place, name in enumerate(names):
        if not GPU_ID.fullmatch(name):
            raise ConfigError(
                f"`slots.gpus` names {name!r}; it must be an index, as 0, or a UUID, as GPU-... or MIG-..."
            )
        if name in names[:place]:
            raise ConfigError(f"`slots.gpus` names {name} twice. Name it once.")
    indices = [name for name in names if name.isdecimal()]
    if indices and len(indices) < len(names):
        # CUDA does not take such a list, and the same GPU could be in it twice.
        raise ConfigError("`slots.gpus` has indices and UUIDs. Use one or the other.")
    gpus = [Gpu(name, int(name) if indices else place) for place, name in enumerate(names)]
    return sorted(gpus, key=lambda gpu: gpu.index)


@contextmanager
def _nvml_session(load_nvml: LoadNvml) -> Generator[Nvml | None]:
    """Talk to the NVIDIA driver while the block runs; None where there is none."""
    nvml = load_nvml()
    try:
        is_there = _open(nvml)
        try:
            yield nvml if is_there else None
        finally:
            if is_there:
                nvml.nvmlShutdown()
    except nvml.NVMLError as error:
        # Not "no GPUs": that would end every launch that asks for one.
        raise ConfigError(
            f"The NVIDIA driver is out of order: {error}. Repair it (`nvidia-smi` should say the same), or set "
            "`slots.gpus` to none in the agent's configuration."
        ) from error


def _open(nvml: Nvml) -> bool:
    try:
        nvml.nvmlInit()
    except (nvml.NVMLError_LibraryNotFound, nvml.NVMLError_DriverNotLoaded):
        return False
    return True


def _nvidia_gpus(nvml: Nvml) -> list[Gpu]:
    gpus: list[Gpu] = []
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            device = nvml.nvmlDeviceGetHandleByIndex(index)
            gpus += [_nvidia_gpu(nvml, index, handle) for handle in _instances(nvml, device)]
        except nvml.NVMLError as error:  # a broken GPU does not take its neighbors with it
            log.warning("left out a GPU that does not answer", index=index, error=str(error))
    return gpus


def _instances(nvml: Nvml, device: Any) -> list[Any]:
    """Return the GPU itself, or its instances if it is in MIG mode: then it cannot be used as a whole."""
    try:
        is_cut, _ = nvml.nvmlDeviceGetMigMode(device)
    except nvml.NVMLError:
        is_cut = 0  # it cannot be cut
    if not is_cut:
        return [device]
    instances: list[Any] = []
    for place in range(nvml.nvmlDeviceGetMaxMigDeviceCount(device)):
        try:
            instances.append(nvml.nvmlDeviceGetMigDeviceHandleByIndex(device, place))
        except nvml.NVMLError:
            continue  # this place is empty
    return instances


def _nvidia_gpu(nvml: Nvml, index: int, handle: Any) -> Gpu:
    try:
        memory = int(nvml.nvmlDeviceGetMemoryInfo(handle).total)
    except nvml.NVMLError:
        memory = 0  # some share the machine's
    return Gpu(nvml.nvmlDeviceGetUUID(handle), index, nvml.nvmlDeviceGetName(handle), memory)


def _is_in_use(nvml: Nvml, gpu: Gpu) -> bool:
    try:
        if gpu.id.isdecimal():
            handle = nvml.nvmlDeviceGetHandleByIndex(int(gpu.id))
        else:
            handle = nvml.nvmlDeviceGetHandleByUUID(gpu.id)
        return bool(nvml.nvmlDeviceGetComputeRunningProcesses(handle))
    except nvml.NVMLError as error:
        log.warning("a GPU does not answer, and is not given away", gpu=gpu.id, error=str(error))
        return True


def _amd_gpus(root: Path) -> list[Gpu]:
    gpus: list[Gpu] = []
    nodes = (root / "sys/class/kfd/kfd/topology/nodes").glob("[0-9]*")
    for node in sorted(nodes, key=lambda node: int(node.name)):
        if _text(node / "gpu_id") in {"", "0"}:
            continue  # a CPU, or a GPU that our control group may not use
        unique = int(_properties(node / "properties").get("unique_id", 0))
        banks = [_properties(bank) for bank in node.glob("mem_banks/*/properties")]
        gpus.append(
            Gpu(
                id=f"GPU-{unique:016x}" if unique else str(len(gpus)),
                index=len(gpus),
                name=f"AMD {_text(node / 'name')}".strip(),
                memory=sum(int(bank.get("size_in_bytes", 0)) for bank in banks),
            )
        )
    return gpus


def _properties(path: Path) -> dict[str, str]:
    """Return what the kernel says in lines of a name and a number."""
    return dict(line.split(maxsplit=1) for line in _text(path).splitlines() if " " in line.strip())


def _cpus(root: Path) -> float:
    limits = [float(len(os.sched_getaffinity(0)))]
    for line in _control_group(root, "cpu.max"):
        quota, _, period = line.partition(" ")
        if quota != "max":
            limits.append(int(quota) / int(period))
    return min(limits)


def _memory(configured: str, root: Path) -> int:
    if configured == "auto":
        total = next(line for line in _text(root / "proc/meminfo").splitlines() if line.startswith("MemTotal:"))
        limits = [int(line) for line in _control_group(root, "memory.max") if line != "max"]
        return min([int(total.split()[1]) * 1024, *limits])
    return parse_size(configured)


def _control_group(root: Path, name: str) -> Iterator[str]:
    """Yield what a file says in the agent's own control group and in those around it, as version 2 has them."""
    top = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        if line.startswith("0::"):
            own = top / line.removeprefix("0::").lstrip("/")
            texts = (_text(folder / name) for folder in (own, *own.parents) if folder.is_relative_to(top))
            yield from filter(None, texts)


def _text(path: Path) -> str:
    """Return what a small file says; nothing if it is not there or not for us."""
    try:
        return path.read_text("utf-8").strip()
    except OSError:
        return ""
