"""What a machine has to give: NVIDIA's and AMD's GPUs, configured lists, CPUs and memory."""

# ruff: noqa: N802 -- NVML's functions have the names that NVIDIA gave them
import importlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from inspect import getmembers, isfunction
from pathlib import Path
from typing import Any

import pytest

from agent.admission.inventory import (
    AMD_VARIABLE,
    NVIDIA_VARIABLE,
    Gpu,
    Inventory,
    Nvml,
    gpus_in_use,
    load_nvml,
    read_inventory,
)
from agent.config.model import Slots
from agent.errors import ConfigError


@dataclass
class Device:
    """A GPU as the fake driver has it."""

    uuid: str
    name: str = "H200"
    memory: int | None = 141 * 2**30
    processes: Sequence[int] = ()
    instances: Sequence["Device | None"] | None = None
    """Of a GPU in MIG mode, by place; None where a place is empty."""
    is_broken: bool = False


class NvmlError(Exception):
    """The driver says no."""


class LibraryNotFound(NvmlError):
    """There is no driver."""


class DriverNotLoaded(NvmlError):
    """There is a driver, and it does not run."""


@dataclass
class FakeNvml:
    """Speaks like the module `pynvml`, of these devices."""

    devices: Sequence[Device] = ()
    out_of_order: Exception | None = None
    sessions: list[str] = field(default_factory=list[str])

    NVMLError = NvmlError
    NVMLError_LibraryNotFound = LibraryNotFound
    NVMLError_DriverNotLoaded = DriverNotLoaded

    def nvmlInit(self) -> None:
        """Begin."""
        if self.out_of_order:
            raise self.out_of_order
        self.sessions.append("begin")

    def nvmlShutdown(self) -> None:
        """End."""
        self.sessions.append("end")

    def nvmlDeviceGetCount(self) -> int:
        """Return how many GPUs there are, instances not counted."""
        return len(self.devices)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Device:
        """Return a GPU."""
        if self.devices[index].is_broken:
            raise NvmlError("GPU is lost")
        return self.devices[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Device:
        """Return a GPU or an instance."""
        every = [each for device in self.devices for each in (device, *(device.instances or ())) if each]
        found = [device for device in every if device.uuid == uuid and not device.is_broken]
        if not found:
            raise NvmlError("Not Found")
        return found[0]

    def nvmlDeviceGetUUID(self, handle: Device) -> str:
        """Return the UUID."""
        return handle.uuid

    def nvmlDeviceGetName(self, handle: Device) -> str:
        """Return the name."""
        return handle.name

    def nvmlDeviceGetMemoryInfo(self, handle: Device) -> Any:
        """Return something that has a `total`."""

        class Memory:
            total = handle.memory

        if handle.memory is None:
            raise NvmlError("Not Supported")
        return Memory

    def nvmlDeviceGetMigMode(self, device: Device) -> list[int]:
        """Return the current and the next mode."""
        if device.name == "T4":
            raise NvmlError("Not Supported")
        return [int(device.instances is not None), 0]

    def nvmlDeviceGetMaxMigDeviceCount(self, device: Device) -> int:
        """Return how many places for instances there are."""
        return len(device.instances or ())

    def nvmlDeviceGetMigDeviceHandleByIndex(self, device: Device, index: int) -> Device:
        """Return an instance."""
        instance = (device.instances or ())[index]
        if instance is None:
            raise NvmlError("Not Found")
        return instance

    def nvmlDeviceGetComputeRunningProcesses(self, handle: Device) -> Sequence[int]:
        """Return the processes."""
        return handle.processes


NO_DRIVER = FakeNvml(out_of_order=LibraryNotFound("NVML Shared Library Not Found"))
TWO = FakeNvml([Device("GPU-aa"), Device("GPU-bb")])


async def read(
    nvml: FakeNvml = NO_DRIVER,
    environment: Mapping[str, str] | None = None,
    root: Path = Path("/nowhere"),
    **config: Any,
) -> Inventory:
    """Return the inventory of a machine of which only the GPUs matter."""
    slots = Slots.model_validate({"cpus": 1, "memory": "1GiB", **config})
    return await read_inventory(slots, environment or {}, load_nvml=lambda: nvml, root=root)


def ids(inventory: Inventory) -> list[str]:
    """Return the GPUs' ids."""
    return [gpu.id for gpu in inventory.gpus]


async def test_nvidias_gpus_are_found_by_identity() -> None:
    nvml = FakeNvml([Device("GPU-aa", memory=10), Device("GPU-bb", "T4", 20)])
    inventory = await read(nvml)
    assert inventory.gpus == (Gpu("GPU-aa", 0, "H200", 10), Gpu("GPU-bb", 1, "T4", 20))
    assert (inventory.gpu_variable, inventory.manages_gpus) == (NVIDIA_VARIABLE, True)
    assert nvml.sessions == ["begin", "end"]


async def test_a_gpu_in_mig_mode_is_replaced_by_its_instances() -> None:
    cut = Device("GPU-aa", instances=[Device("MIG-1", "1g", 5), None, Device("MIG-2", "1g", 5)])
    inventory = await read(FakeNvml([cut, Device("GPU-bb", memory=20)]))
    assert inventory.gpus == (Gpu("MIG-1", 0, "1g", 5), Gpu("MIG-2", 0, "1g", 5), Gpu("GPU-bb", 1, "H200", 20))


async def test_a_gpu_in_mig_mode_without_instances_gives_nothing() -> None:
    assert ids(await read(FakeNvml([Device("GPU-aa", instances=[None, None]), Device("GPU-bb")]))) == ["GPU-bb"]


async def test_a_broken_gpu_does_not_take_its_neighbors_with_it() -> None:
    assert ids(await read(FakeNvml([Device("GPU-aa", is_broken=True), Device("GPU-bb")]))) == ["GPU-bb"]


async def test_a_gpu_that_shares_the_machines_memory_counts_too() -> None:
    assert (await read(FakeNvml([Device("GPU-aa", memory=None)]))).gpus == (Gpu("GPU-aa", 0, "H200", 0),)


@pytest.mark.parametrize("error", [LibraryNotFound(), DriverNotLoaded()])
async def test_without_a_driver_there_are_no_gpus_and_none_are_managed(error: Exception) -> None:
    inventory = await read(FakeNvml(out_of_order=error))
    assert (inventory.gpus, inventory.gpu_variable, inventory.manages_gpus) == ((), "", False)


async def test_a_driver_that_is_out_of_order_stops_the_agent_and_not_every_launch() -> None:
    with pytest.raises(ConfigError, match=r"out of order: Driver/library version mismatch.*`slots\.gpus` to none"):
        await read(FakeNvml(out_of_order=NvmlError("Driver/library version mismatch")))


async def test_with_gpus_none_nobody_looks() -> None:
    def never() -> Nvml:
        raise AssertionError

    inventory = await read_inventory(Slots(gpus="none"), {NVIDIA_VARIABLE: "0"}, load_nvml=never)
    assert (inventory.gpus, inventory.manages_gpus) == ((), False)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1", ["GPU-bb"]),
        ("2, 0", ["GPU-aa", "MIG-1", "MIG-2"]),
        ("GPU-bb", ["GPU-bb"]),
        ("GPU-b,MIG-2", ["GPU-bb", "MIG-2"]),
        ("0,-1,1", ["GPU-aa"]),
        ("GPU-,1", []),
        ("7", []),
        ("", []),
    ],
)
async def test_what_the_agents_environment_hides_is_not_given(value: str, expected: list[str]) -> None:
    cut = Device("GPU-cc", instances=[Device("MIG-1"), Device("MIG-2")])
    inventory = await read(FakeNvml([Device("GPU-aa"), Device("GPU-bb"), cut]), {NVIDIA_VARIABLE: value})
    assert ids(inventory) == expected
    assert inventory.manages_gpus == bool(expected)


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        (["1"], ["GPU-bb"]),
        (["GPU-bb", "0"], ["GPU-aa", "GPU-bb"]),
        (["GPU-aa"], ["GPU-aa"]),
        ([], []),
    ],
)
async def test_a_list_chooses_among_the_gpus_that_are_there(listed: list[str], expected: list[str]) -> None:
    inventory = await read(TWO, gpus=listed)
    assert (ids(inventory), inventory.gpu_variable) == (expected, NVIDIA_VARIABLE)


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        (["0", "GPU-aa"], "names GPU-aa twice, the second time as 'GPU-aa'"),
        (["2"], r"names '2', which is no GPU .* There are: 0 \(GPU-aa\)\."),
        (["1"], "names '1', which is no GPU of this machine that CUDA_VISIBLE_DEVICES lets the agent use"),
    ],
)
async def test_a_list_that_does_not_fit_the_machine_is_refused(listed: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        await read(TWO, {NVIDIA_VARIABLE: "0"}, gpus=listed)


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        (["10", "2"], [Gpu("2", 2), Gpu("10", 10)]),
        (["GPU-bb", "MIG-GPU-aa/1/0"], [Gpu("GPU-bb", 0), Gpu("MIG-GPU-aa/1/0", 1)]),
        ([], []),
    ],
)
async def test_where_nothing_is_found_a_list_is_taken_at_its_word(listed: list[str], expected: list[Gpu]) -> None:
    inventory = await read(NO_DRIVER, gpus=listed)
    assert (list(inventory.gpus), inventory.gpu_variable) == (expected, NVIDIA_VARIABLE)


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        (["0", "1", "0"], "names 0 twice"),
        (["0", "GPU-aa"], "has indices and UUIDs"),
        (["0,1"], "names '0,1'; it must be an index"),
        (["-1"], "names '-1'; it must be an index"),
        ([""], "names ''; it must be an index"),
    ],
)
async def test_a_list_that_makes_no_sense_is_refused(listed: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        await read(NO_DRIVER, gpus=listed)


def kfd(root: Path, nodes: Mapping[str, Mapping[str, str]]) -> Path:
    """Write AMD's topology as the kernel shows it: by node, what its files say."""
    for number, files in nodes.items():
        for name, text in files.items():
            path = root / "sys/class/kfd/kfd/topology/nodes" / number / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n")
    return root


def amd(unique_id: int, gpu_id: str = "4711") -> dict[str, str]:
    """Return the files of one of AMD's GPUs."""
    properties = f"cpu_cores_count 0\nsimd_count 304\nunique_id {unique_id}"
    banks = {f"mem_banks/{bank}/properties": "heap_type 1\nsize_in_bytes 1000" for bank in "01"}
    return {"gpu_id": gpu_id, "name": "aqua_vanjaram", "properties": properties, **banks}


CPU_NODE = {"gpu_id": "0", "name": "", "properties": "cpu_cores_count 96"}


async def test_amds_gpus_are_found_in_the_kernels_topology(tmp_path: Path) -> None:
    not_for_us = {"properties": "simd_count 304\nunique_id 7"}
    nodes = {"0": CPU_NODE, "1": not_for_us, "10": amd(0), "2": amd(0x1A2B)}
    inventory = await read(root=kfd(tmp_path, nodes))
    assert inventory.gpus == (
        Gpu("GPU-0000000000001a2b", 0, "AMD aqua_vanjaram", 2000),
        Gpu("1", 1, "AMD aqua_vanjaram", 2000),
    )
    assert inventory.gpu_variable == AMD_VARIABLE


async def test_amds_gpus_are_limited_by_their_own_variable_and_chosen_by_index(tmp_path: Path) -> None:
    root = kfd(tmp_path, {"1": amd(1), "2": amd(2), "3": amd(3)})
    environment = {AMD_VARIABLE: "1,2", NVIDIA_VARIABLE: "0"}
    assert ids(await read(environment=environment, root=root)) == ["GPU-0000000000000002", "GPU-0000000000000003"]
    assert ids(await read(environment=environment, root=root, gpus=["2"])) == ["GPU-0000000000000003"]


async def test_where_both_are_nvidias_are_given(tmp_path: Path) -> None:
    """The other is most often a laptop's own graphics."""
    inventory = await read(TWO, root=kfd(tmp_path, {"1": amd(1)}))
    assert (ids(inventory), inventory.gpu_variable) == (["GPU-aa", "GPU-bb"], NVIDIA_VARIABLE)


@pytest.mark.parametrize("nvml", [NO_DRIVER, FakeNvml()])
@pytest.mark.parametrize("gpus", ["auto", ["GPU-0000000000000001"]])
async def test_busy_gpus_can_be_skipped_only_where_the_driver_can_tell(
    tmp_path: Path, nvml: FakeNvml, gpus: Any
) -> None:
    with pytest.raises(ConfigError, match=r"`slots\.skip_busy_gpus` is set, and only the NVIDIA driver"):
        await read(nvml, root=kfd(tmp_path, {"1": amd(1)}), gpus=gpus, skip_busy_gpus=True)
    assert len((await read(TWO, skip_busy_gpus=True)).gpus) == 2
    assert (await read(NO_DRIVER, skip_busy_gpus=True)).gpus == ()


async def test_a_gpu_with_a_process_on_it_or_without_an_answer_is_in_use() -> None:
    cut = Device("GPU-cc", instances=[Device("MIG-1", processes=[9]), Device("MIG-2")])
    nvml = FakeNvml([Device("GPU-aa", processes=[7]), Device("GPU-bb"), cut, Device("GPU-dd", is_broken=True)])
    names = ["GPU-aa", "GPU-bb", "MIG-1", "MIG-2", "GPU-dd"]
    in_use = await gpus_in_use([Gpu(name, 0) for name in names], lambda: nvml)
    assert in_use == {"GPU-aa", "MIG-1", "GPU-dd"}
    assert await gpus_in_use([Gpu("0", 0), Gpu("1", 1), Gpu("3", 3)], lambda: nvml) == {"0", "3"}
    assert nvml.sessions == ["begin", "end"] * 2


@pytest.mark.parametrize("error", [LibraryNotFound(), NvmlError("Unknown Error")])
async def test_without_an_answer_of_the_driver_every_gpu_is_in_use(error: Exception) -> None:
    assert await gpus_in_use([Gpu("GPU-aa", 0)], lambda: FakeNvml(out_of_order=error)) == {"GPU-aa"}


def test_the_real_module_has_all_that_we_use() -> None:
    real = load_nvml()
    assert real is importlib.import_module("pynvml")
    names = [name for name, _ in getmembers(Nvml, isfunction) if name.startswith("nvml")]
    assert len(names) == 12
    assert [name for name in names if not callable(getattr(real, name, None))] == []
    assert issubclass(real.NVMLError_LibraryNotFound, real.NVMLError)
    assert issubclass(real.NVMLError_DriverNotLoaded, real.NVMLError)


async def test_this_machine_can_be_read() -> None:
    inventory = await read_inventory(Slots(gpus="none"), {})
    assert 0 < inventory.cpus <= (os.cpu_count() or 1)
    assert 2**20 < inventory.memory <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def machine(root: Path, files: Mapping[str, str]) -> Path:
    """Write what `/proc` and `/sys` say."""
    for name, text in {"proc/meminfo": "MemTotal:     8388608 kB\nMemFree: 1 kB", **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


@pytest.mark.parametrize(
    ("files", "cpus", "memory"),
    [
        pytest.param({}, None, 8 * 2**30, id="no control groups"),
        pytest.param({"proc/self/cgroup": "0::/"}, None, 8 * 2**30, id="no limits"),
        pytest.param(
            {
                "proc/self/cgroup": "0::/a/b",
                "sys/fs/cgroup/a/b/cpu.max": "max 100000",
                "sys/fs/cgroup/a/b/memory.max": "max",
                "sys/fs/cgroup/a/cpu.max": "25000 100000",
                "sys/fs/cgroup/a/memory.max": "1048576",
            },
            0.25,
            2**20,
            id="limits of the group around ours",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "4:memory:/old\n0::/",
                "sys/fs/cgroup/cpu.max": "50000 100000",
                "sys/fs/cgroup/memory.max": str(2**40),
            },
            0.5,
            8 * 2**30,
            id="in a container, with more memory allowed than there is",
        ),
    ],
)
async def test_cpus_and_memory_are_what_the_control_group_leaves(
    tmp_path: Path, files: Mapping[str, str], cpus: float | None, memory: int
) -> None:
    inventory = await read(root=machine(tmp_path, files), cpus="auto", memory="auto")
    assert inventory.cpus == (len(os.sched_getaffinity(0)) if cpus is None else cpus)
    assert inventory.memory == memory


async def test_configured_cpus_and_memory_are_taken_as_they_are() -> None:
    inventory = await read(cpus=2.5, memory="64GiB")
    assert (inventory.cpus, inventory.memory) == (2.5, 64 * 2**30)
