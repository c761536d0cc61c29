"""Slots: which launch has what of this machine. Derived from the launches held, never counted.

Launches are served in the order in which they ask: were small ones let past, a large one might wait for ever. A GPU is
shown to its launch alone. CPUs and memory are what launches agree on; holding them to it is their backend's part.
"""

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from agent.admission.inventory import NVIDIA_VARIABLE, Gpu, Inventory, gpus_named
from agent.config.forms import SIZE_FORM, parse_size, size_text
from agent.errors import LaunchFailed
from agent.launch import Assigned
from protocol.container_options import Gpus, parse_bytes, parse_gpus, parse_number, read_options
from protocol.errors import SpecError
from protocol.json_types import Json, JsonObject
from protocol.words import counted

T = TypeVar("T")

BUSY_SECONDS = 5.0
"""How often GPUs that somebody else may be using are looked at again, while a launch waits for one."""
NO_GPUS = Gpus(0)
ROUNDING = 1e-6
"""Shares of CPUs that differ by less are the same."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a launch asks for."""

    gpus: int = 0
    cpus: float = 0
    memory: int = 0
    """Bytes."""
    among: tuple[str, ...] = ()
    """The GPUs that will do, by id; empty: any."""

    @property
    def is_nothing(self) -> bool:
        """Whether it can be had at any time."""
        return not (self.gpus or self.cpus or self.memory)


def parse_request(resource_args: JsonObject, inventory: Inventory) -> Request:
    """Read `gpus`, `cpus` and `memory` of a launch's rendered resource args; what is missing is 0.

    Raises `LaunchFailed` if one makes no sense, or is more than the machine has.
    """
    gpus = _read(resource_args, "gpus", parse_gpus, "a whole number, as 2, or all, or as device=0,1", NO_GPUS)
    cpus = _read(resource_args, "cpus", lambda value: parse_number("cpus", value), "a number, as 4 or 0.5", 0.0)
    memory = _read(resource_args, "memory", parse_size, SIZE_FORM, 0)
    return _possible(gpus, cpus, memory, inventory)


def parse_container_request(resource_args: JsonObject, inventory: Inventory) -> Request:
    """Read what a container's options ask for, however they are spelled. Raises `LaunchFailed` or `SpecError`.

    Where this agent gives no GPUs, the engine does.
    """
    options = read_options(resource_args)
    gpus = parse_gpus(options.get("gpus", 0))
    cpus = parse_number("cpus", options.get("cpus", 0))
    memory = parse_bytes("memory", options.get("memory", 0))
    return _possible(gpus if inventory.manages_gpus else NO_GPUS, cpus, memory, inventory)


def _possible(gpus: Gpus, cpus: float, memory: int, inventory: Inventory) -> Request:
    """Return the request if the machine has as much."""
    among = tuple(dict.fromkeys(gpu.id for name in gpus.named for gpu in _gpus_named(name, inventory)))
    # All of none would be a launch that asks for GPUs and runs without.
    count = max(1, len(inventory.gpus)) if gpus.count is None else gpus.count or len(among)
    request = Request(count, cpus, memory, among)
    asked = (
        ("gpus", request.gpus > len(inventory.gpus), counted(request.gpus, "GPU"), f"{len(inventory.gpus)}"),
        ("cpus", request.cpus > inventory.cpus, counted(request.cpus, "CPU"), f"{inventory.cpus:g}"),
        ("memory", request.memory > inventory.memory, _memory(request.memory), size_text(inventory.memory)),
    )
    for key, is_too_much, wanted, there in asked:
        if is_too_much:
            raise LaunchFailed(
                f"The launch asks for {wanted} (`{key}` in its resource args), and this agent has {there} to give in "
                f"all (`slots.{key}` of its configuration). Ask for less, or push it to another queue.",
                reason="more_than_there_is",
            )
    return request


def _gpus_named(name: str, inventory: Inventory) -> list[Gpu]:
    if found := gpus_named(name, inventory.gpus):
        return found
    known = ", ".join(f"{gpu.index} ({gpu.id})" for gpu in inventory.gpus) or "none"
    raise LaunchFailed(
        f"The launch asks for the GPU {name!r} (`gpus` in its resource args), which this agent does not give. It has: "
        f"{known}. Ask for a number of GPUs, as `gpus: 1`, to get those that are free.",
        reason="more_than_there_is",
    )


def environment_of(assigned: Assigned, inventory: Inventory, *, in_container: bool = False) -> dict[str, str]:
    """Return the variables that tell a job what it has been given. They go over what it inherits."""
    variables: dict[str, str] = {}
    if in_container and inventory.gpu_variable == NVIDIA_VARIABLE:
        # Its engine shows it these GPUs alone, numbered from 0. To one without any, an engine whose runtime is
        # NVIDIA's would show what the image asks for, which is all of them.
        if not assigned.gpus:
            variables["NVIDIA_VISIBLE_DEVICES"] = "void"
    elif inventory.manages_gpus:
        variables[inventory.gpu_variable] = ",".join(assigned.gpus)  # empty: it sees none
        if inventory.gpu_variable == NVIDIA_VARIABLE and any(gpu.isdecimal() for gpu in assigned.gpus):
            variables["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # so that an index means what nvidia-smi means by it
    if assigned.cpus:
        # Numeric libraries start a thread for each core that they see, which is every core of the machine. NumPy's,
        # PyTorch's and MKL's all go by this one.
        variables["OMP_NUM_THREADS"] = str(max(1, int(assigned.cpus)))
    return variables


class SlotTable:
    """What of an inventory is free.

    `given` tells what launches have right now. `in_use` tells which GPUs processes compute on, and is asked about those
    that no launch has; without it they are taken to be free.
    """

    def __init__(
        self,
        inventory: Inventory,
        given: Callable[[], Iterable[Assigned]],
        in_use: Callable[[Sequence[Gpu]], Awaitable[frozenset[str]]] | None = None,
    ) -> None:
        self.inventory = inventory
        self._given = given
        self._in_use = in_use
        self._busy: frozenset[str] = frozenset()
        """GPUs that somebody else was using at the last look."""
        self._line: deque[asyncio.Event] = deque()
        """Those who wait, in the order in which they came. An event is set when its owner should look."""

    async def take(self, request: Request, give: Callable[[Assigned], None]) -> None:
        """Wait until it is this request's turn and what it asks for is free, and give it away.

        `give` must make `given` tell of it before it returns. It is called unless this raises, and then it was not: who
        is cancelled has nothing to give back.
        """
        if request.is_nothing:
            give(Assigned())
            return
        # Nobody tells us when somebody else's process has ended.
        pause = BUSY_SECONDS if request.gpus and self._in_use else None
        look = asyncio.Event()
        self._line.append(look)
        try:
            while not await self._has_turn(look, request):
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await look.wait()
            give(self._choose(request))
        finally:
            self._line.remove(look)
            self.changed()

    def changed(self) -> None:
        """Call whenever something was given back: lets the first in line look."""
        if self._line:
            self._line[0].set()

    def why_waiting(self, request: Request) -> str:
        """Return for people what a request is waiting for."""
        return "waiting for " + ("; ".join(self._missing(request)) or "its turn: launches before it wait for more")

    async def _has_turn(self, look: asyncio.Event, request: Request) -> bool:
        look.clear()  # before looking: what happens meanwhile is a reason to look again
        if self._line[0] is not look:
            return False
        candidates = self._not_given(request)
        if self._in_use and 0 < request.gpus <= len(candidates):
            self._busy = await self._in_use(candidates)
        return not self._missing(request)

    def _choose(self, request: Request) -> Assigned:
        return Assigned(tuple(gpu.id for gpu in self._free(request)[: request.gpus]), request.cpus, request.memory)

    def _missing(self, request: Request) -> list[str]:
        """Return what is not free, for people."""
        given = list(self._given())
        missing: list[str] = []
        if request.gpus > (free := len(self._free(request))):
            busy = len(self._not_given(request)) - free
            candidates = len(request.among or self.inventory.gpus)
            others = f", {busy} in use by somebody else" if busy else ""
            missing.append(f"{counted(request.gpus, 'GPU')}: {_free_of(free, candidates)}{others}")
        cpus = self.inventory.cpus - math.fsum(each.cpus for each in given)
        if request.cpus and request.cpus > cpus + ROUNDING:
            missing.append(f"{counted(request.cpus, 'CPU')}: {_free_of(max(0.0, cpus), self.inventory.cpus)}")
        memory = self.inventory.memory - sum(each.memory for each in given)
        if request.memory and request.memory > memory:
            total = size_text(self.inventory.memory)
            missing.append(f"{_memory(request.memory)}: {size_text(max(0, memory))} of {total} are free")
        return missing

    def _not_given(self, request: Request) -> list[Gpu]:
        """Return what no launch has of the GPUs that will do."""
        given = {gpu for each in self._given() for gpu in each.gpus}
        will_do = [gpu for gpu in self.inventory.gpus if not request.among or gpu.id in request.among]
        return [gpu for gpu in will_do if gpu.id not in given]

    def _free(self, request: Request) -> list[Gpu]:
        return [gpu for gpu in self._not_given(request) if gpu.id not in self._busy]


def _read(resource_args: JsonObject, key: str, parse: Callable[[Json], T], allowed: str, nothing: T) -> T:
    value = resource_args.get(key)
    if value is None:
        return nothing
    try:
        return parse(value)
    except (ValueError, SpecError) as error:
        raise LaunchFailed(
            f"`{key}` in the launch's resource args is {value!r}; it must be {allowed}.", reason="bad_resource_args"
        ) from error


def _memory(size: int) -> str:
    return f"{size_text(size)} of memory"


def _free_of(free: float, total: float) -> str:
    return f"{free:g} of {total:g} {'is' if free == 1 else 'are'} free"
