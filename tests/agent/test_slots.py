"""What launches are given of a machine: in turn, never twice, and back when they are over."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.admission.inventory import AMD_VARIABLE, NVIDIA_VARIABLE, Gpu, Inventory
from agent.admission.slots import (
    BUSY_SECONDS,
    Request,
    SlotTable,
    environment_of,
    parse_container_request,
    parse_request,
)
from agent.errors import LaunchFailed
from agent.held import Launches
from agent.journal import Journal
from agent.launch import Assigned, Launch, Stage
from protocol.errors import SpecError

GIB = 2**30
FOUR = tuple(f"GPU-{letter}" for letter in "abcd")
BOX = Inventory(tuple(Gpu(name, index) for index, name in enumerate(FOUR)), 16, 64 * GIB, NVIDIA_VARIABLE)
BARE = Inventory(cpus=2, memory=8 * GIB)
ONE_GPU, TWO_GPUS = Request(gpus=1), Request(gpus=2)


class Box:
    """A machine and those who want some of it."""

    def __init__(self, inventory: Inventory = BOX, in_use: Any = None) -> None:
        self.held: dict[str, Assigned] = {}
        self.order: list[str] = []
        self.table = SlotTable(inventory, self.held.values, in_use)

    async def take(self, name: str, request: Request) -> None:
        """Wait for a request, under a name."""

        def give(assigned: Assigned) -> None:
            assert name not in self.held
            self.held[name] = assigned
            self.order.append(name)

        await self.table.take(request, give)
        assert name in self.held, "whoever goes on has been given it"

    def ask(self, name: str, request: Request) -> asyncio.Task[None]:
        """Wait for a request in a task of its own."""
        return asyncio.create_task(self.take(name, request), name=name)

    def give_back(self, *names: str) -> None:
        """End launches."""
        for name in names:
            del self.held[name]
        self.table.changed()


async def settled() -> None:
    """Let every task that can run do so."""
    for _ in range(10):
        await asyncio.sleep(0)


@asynccontextmanager
async def ended(*tasks: asyncio.Task[None]) -> AsyncGenerator[None]:
    """End these tasks after the block, whatever became of them."""
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize(
    ("resource_args", "expected"),
    [
        ({}, Request()),
        ({"gpus": None, "image": "x"}, Request()),
        ({"gpus": 2, "cpus": 0.5, "memory": "8GiB"}, Request(2, 0.5, 8 * GIB)),
        ({"gpus": "2", "cpus": "4", "memory": 1024}, Request(2, 4, 1024)),
        ({"gpus": 0, "cpus": 0, "memory": 0}, Request()),
        ({"gpus": 4, "cpus": 16, "memory": "64GiB"}, Request(4, 16, 64 * GIB)),
        ({"gpus": "all"}, Request(4)),
        ({"gpus": "device=1,GPU-d"}, Request(2, among=("GPU-b", "GPU-d"))),
    ],
)
def test_requests_are_read(resource_args: dict[str, Any], expected: Request) -> None:
    assert parse_request(resource_args, BOX) == expected


@pytest.mark.parametrize(
    ("resource_args", "expected"),
    [
        ({}, Request()),
        ({"volume": "/x", "env": "A=1", "gpus": None}, Request()),
        ({"cpus": "0.5", "memory": "8g", "gpus": "2"}, Request(2, 0.5, 8 * GIB)),
        ({"--cpus": 2, "m": "512m", "GPUS": "all"}, Request(4, 2, GIB // 2)),
        ({"cpu": 1.5, "--Memory": "8GiB"}, Request(0, 1.5, 8 * GIB)),
        ({"memory": "8GB", "-m": None}, Request(memory=8 * GIB)),  # the engine's units are powers of 1024
        ({"memory": "1024", "gpus": "count=3"}, Request(3, memory=1024)),
        ({"gpus": "device=0"}, Request(1, among=("GPU-a",))),
        ({"gpus": '"device=0,2"'}, Request(2, among=("GPU-a", "GPU-c"))),
        ({"gpus": "device=GPU-c,2"}, Request(1, among=("GPU-c",))),
    ],
)
def test_requests_of_containers_are_read_as_docker_spells_them(
    resource_args: dict[str, Any], expected: Request
) -> None:
    assert parse_container_request(resource_args, BOX) == expected


@pytest.mark.parametrize(
    "resource_args",
    [
        *({"gpus": value} for value in ("", "some", "device=", "device=0,count=1", "all,all", -1, True, ["0"], "0,1")),
        *({"cpus": value} for value in ("many", "nan", "inf", -1, True, "", [2])),
        *({"memory": value} for value in ("12 parrots", "-1g", "8gg", True, 0.5, "")),
        *({"m": "1g", "memory": "2g"}, {"cpus": 1, "--cpus": 1}),
    ],
)
def test_a_containers_request_that_makes_no_sense_is_refused(resource_args: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=r"The resource arg '(gpus|cpus|memory)' is"):
        parse_container_request(resource_args, BOX)


def test_a_containers_gpus_are_the_engines_where_the_agent_gives_none() -> None:
    for gpus in ("all", 2, "device=7"):
        assert parse_container_request({"gpus": gpus}, BARE) == Request()


async def test_gpus_that_are_named_are_given_and_no_others() -> None:
    box = Box()
    named = parse_request({"gpus": "device=0,1"}, box.table.inventory)
    await box.take("first", Request(1))
    async with ended(task := box.ask("named", named)):
        await settled()
        assert box.table.why_waiting(named) == "waiting for 2 GPUs: 1 of 2 is free"
        assert not task.done()
        box.give_back("first")
        await task
    assert box.held["named"].gpus == ("GPU-a", "GPU-b")


@pytest.mark.parametrize(
    ("resource_args", "message"),
    [
        ({"cpus": "many"}, "`cpus` in the launch's resource args is 'many'; it must be a number, as 4 or 0.5."),
        ({"cpus": "nan"}, "`cpus` in the launch's resource args is 'nan'; it must be a number, as 4 or 0.5."),
        ({"cpus": -0.5}, "`cpus` in the launch's resource args is -0.5; it must be a number, as 4 or 0.5."),
        (
            {"memory": "64GBB"},
            "`memory` in the launch's resource args is '64GBB'; it must be a number of bytes, or a size as 8GiB or "
            "500MB.",
        ),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(resource_args: dict[str, Any], message: str) -> None:
    with pytest.raises(LaunchFailed) as caught:
        parse_request(resource_args, BOX)
    assert (str(caught.value), caught.value.reason) == (message, "bad_resource_args")


@pytest.mark.parametrize("value", ["some", -1, 1.5, True, ["0"]])
def test_a_number_of_gpus_that_makes_no_sense_is_refused(value: Any) -> None:
    with pytest.raises(LaunchFailed) as caught:
        parse_request({"gpus": value}, BOX)
    wanted = "it must be a whole number, as 2, or all, or as device=0,1."
    assert str(caught.value) == f"`gpus` in the launch's resource args is {value!r}; {wanted}"


def test_a_number_too_large_for_words_is_refused() -> None:
    with pytest.raises(LaunchFailed, match="`cpus` in the launch's resource args is 1000"):
        parse_request({"cpus": 10**400}, BOX)


@pytest.mark.parametrize(
    ("resource_args", "inventory", "message"),
    [
        ({"gpus": 5}, BOX, "asks for 5 GPUs (`gpus` in its resource args), and this agent has 4 to give in all"),
        ({"gpus": "all"}, BARE, "asks for 1 GPU (`gpus` in its resource args), and this agent has 0 to give in all"),
        ({"gpus": "device=7"}, BOX, "asks for the GPU '7' (`gpus` in its resource args), which this agent does not"),
        ({"gpus": 1}, BARE, "asks for 1 GPU (`gpus` in its resource args), and this agent has 0 to give in all"),
        ({"cpus": 2.5}, BARE, "asks for 2.5 CPUs (`cpus` in its resource args), and this agent has 2 to give in all"),
        (
            {"memory": "9GiB"},
            BARE,
            "asks for 9 GiB of memory (`memory` in its resource args), and this agent has 8 GiB to give in all",
        ),
    ],
)
def test_what_can_never_be_had_is_refused_at_once(
    resource_args: dict[str, Any], inventory: Inventory, message: str
) -> None:
    with pytest.raises(LaunchFailed) as caught:
        parse_request(resource_args, inventory)
    assert message in str(caught.value)
    assert caught.value.reason == "more_than_there_is"


@pytest.mark.parametrize(
    ("assigned", "inventory", "expected"),
    [
        (Assigned(("GPU-a", "GPU-c")), BOX, {"CUDA_VISIBLE_DEVICES": "GPU-a,GPU-c"}),
        (Assigned(), BOX, {"CUDA_VISIBLE_DEVICES": ""}),
        (Assigned(), Inventory(gpu_variable=AMD_VARIABLE), {"ROCR_VISIBLE_DEVICES": ""}),
        (Assigned(("1",)), BOX, {"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}),
        (Assigned(("1",)), Inventory(gpu_variable=AMD_VARIABLE), {"ROCR_VISIBLE_DEVICES": "1"}),
        (Assigned(), BARE, {}),
        (Assigned(cpus=3.5, memory=GIB), BARE, {"OMP_NUM_THREADS": "3"}),
        (Assigned(cpus=0.5), BARE, {"OMP_NUM_THREADS": "1"}),
    ],
)
def test_a_job_is_told_what_it_has(assigned: Assigned, inventory: Inventory, expected: dict[str, str]) -> None:
    assert environment_of(assigned, inventory) == expected


@pytest.mark.parametrize(
    ("assigned", "inventory", "expected"),
    [
        (Assigned(("1",), 2), BOX, {"OMP_NUM_THREADS": "2"}),  # what is 1 on the machine is 0 in there
        (Assigned(), BOX, {"NVIDIA_VISIBLE_DEVICES": "void"}),
        (Assigned(("GPU-a",)), Inventory(gpu_variable=AMD_VARIABLE), {"ROCR_VISIBLE_DEVICES": "GPU-a"}),
        (Assigned(), BARE, {}),
    ],
)
def test_in_a_container_the_engine_shows_nvidias_gpus(
    assigned: Assigned, inventory: Inventory, expected: dict[str, str]
) -> None:
    assert environment_of(assigned, inventory, in_container=True) == expected


async def test_gpus_are_given_by_identity_lowest_first() -> None:
    box = Box()
    await box.take("first", TWO_GPUS)
    await box.take("second", ONE_GPU)
    box.give_back("first")
    await box.take("third", Request(1, 2, GIB))
    assert box.held == {"second": Assigned(("GPU-c",)), "third": Assigned(("GPU-a",), 2, GIB)}


@pytest.mark.parametrize("all_of_it", [Request(gpus=4), Request(cpus=16), Request(memory=64 * GIB)])
async def test_a_launch_waits_until_what_it_asks_for_is_free(all_of_it: Request) -> None:
    box = Box()
    await box.take("first", all_of_it)
    second = box.ask("second", all_of_it)
    async with ended(second):
        await settled()
        assert box.order == ["first"]
        box.give_back("first")
        await second
        assert box.order == ["first", "second"]


async def test_a_small_request_does_not_overtake_a_large_one() -> None:
    box = Box()
    await box.take("first", ONE_GPU)
    tasks = [box.ask("large", Request(gpus=4)), box.ask("small", ONE_GPU), box.ask("cpus", Request(cpus=1))]
    async with ended(*tasks):
        await settled()
        assert box.order == ["first"]
        box.give_back("first")
        await settled()
        assert box.order == ["first", "large"]
        box.give_back("large")
        await settled()
        assert box.order == ["first", "large", "small", "cpus"]


async def test_who_asks_for_nothing_never_waits() -> None:
    box = Box()
    await box.take("first", Request(gpus=4))
    waiting = box.ask("waiting", ONE_GPU)
    async with ended(waiting):
        await settled()
        await box.take("nothing", Request())
        assert box.held["nothing"] == Assigned()
        assert not waiting.done()


async def test_shares_of_cpus_add_up_to_the_whole() -> None:
    box = Box(Inventory(cpus=0.3))
    for name in "abc":
        await asyncio.wait_for(box.take(name, Request(cpus=0.1)), 60)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(box.take("d", Request(cpus=0.1)), 0.01)


async def test_who_stops_waiting_lets_the_next_one_go() -> None:
    box = Box()
    await box.take("first", Request(gpus=3))
    large, small = box.ask("large", TWO_GPUS), box.ask("small", ONE_GPU)
    async with ended(large, small):
        await settled()
        large.cancel()
        await asyncio.wait_for(small, 60)
    assert large.cancelled()
    assert box.order == ["first", "small"]


async def test_who_is_cancelled_in_the_moment_of_its_turn_is_given_nothing() -> None:
    box = Box()
    await box.take("first", Request(gpus=4))
    chosen, other = box.ask("chosen", Request(gpus=4)), box.ask("other", Request(gpus=4))
    async with ended(chosen, other):
        await settled()
        box.give_back("first")  # it is the turn of `chosen`, which is cancelled before it can look
        chosen.cancel()
        await asyncio.wait_for(other, 60)
    assert box.order == ["first", "other"]


async def test_a_giving_that_fails_gives_nothing_and_lets_the_next_one_go() -> None:
    box = Box()

    def fail(_: Assigned) -> None:
        raise RuntimeError("cannot")

    with pytest.raises(RuntimeError, match="cannot"):
        await box.table.take(Request(gpus=4), fail)
    await asyncio.wait_for(box.take("next", Request(gpus=4)), 60)


async def test_what_was_given_before_a_restart_is_not_given_again(tmp_path: Path) -> None:
    """Through the journal and the launches that it brings back."""
    before = Launches()
    launch = before.add(Launch("item-1", 1, "q", {}, "run-1", Stage.PREPARING)).launch

    def give(assigned: Assigned) -> None:
        launch.assigned = assigned

    await SlotTable(BOX, before.assigned).take(Request(gpus=2, cpus=13), give)
    journal = await Journal.open(tmp_path)
    await journal.record(launch)
    await journal.close()

    journal, after = await Journal.open(tmp_path), Launches()
    for found in await journal.launches():
        after.add(found)
    await journal.close()
    table = SlotTable(BOX, after.assigned)
    given: list[Assigned] = []
    await table.take(ONE_GPU, given.append)
    assert (launch.assigned, given) == (Assigned(FOUR[:2], 13), [Assigned(FOUR[2:3])])
    assert table.why_waiting(Request(cpus=4)) == "waiting for 4 CPUs: 3 of 16 are free"


@pytest.mark.parametrize(
    ("held", "request_", "why"),
    [
        (Assigned(FOUR[:3]), TWO_GPUS, "waiting for 2 GPUs: 1 of 4 is free"),
        (Assigned(FOUR), ONE_GPU, "waiting for 1 GPU: 0 of 4 are free"),
        (Assigned(cpus=12.5), Request(cpus=4), "waiting for 4 CPUs: 3.5 of 16 are free"),
        (
            Assigned(FOUR[:2], 1, 60 * GIB),
            Request(3, 1, 8 * GIB),
            "waiting for 3 GPUs: 2 of 4 are free; 8 GiB of memory: 4 GiB of 64 GiB are free",
        ),
        (Assigned(cpus=99, memory=99 * GIB), Request(cpus=1), "waiting for 1 CPU: 0 of 16 are free"),
        (Assigned(), ONE_GPU, "waiting for its turn: launches before it wait for more"),
    ],
)
def test_a_waiting_launch_is_told_why(held: Assigned, request_: Request, why: str) -> None:
    assert SlotTable(BOX, lambda: [held]).why_waiting(request_) == why


class Others:
    """Somebody else's processes, and a look at them that takes a while."""

    def __init__(self, *used: str) -> None:
        self.used = set(used)
        self.looks: list[list[str]] = []
        self.times: list[float] = []
        self.during: Callable[[], None] = lambda: None

    async def in_use(self, gpus: Sequence[Gpu]) -> frozenset[str]:
        """Look."""
        self.looks.append([gpu.id for gpu in gpus])
        self.times.append(asyncio.get_running_loop().time())
        seen = frozenset(self.used)
        await asyncio.sleep(0.01)
        self.during()
        return seen & {gpu.id for gpu in gpus}


@pytest.mark.looptime
async def test_a_gpu_that_somebody_else_uses_is_left_alone_until_it_is_free() -> None:
    others = Others("GPU-a", "GPU-c", "GPU-d")
    box = Box(in_use=others.in_use)
    await box.take("first", ONE_GPU)
    assert box.held["first"] == Assigned(("GPU-b",))
    second = box.ask("second", TWO_GPUS)
    async with ended(second):
        await asyncio.sleep(2.5 * BUSY_SECONDS)
        assert box.table.why_waiting(TWO_GPUS) == "waiting for 2 GPUs: 0 of 4 are free, 3 in use by somebody else"
        others.used -= {"GPU-a", "GPU-d"}
        await asyncio.wait_for(second, BUSY_SECONDS)
    assert box.held["second"] == Assigned(("GPU-a", "GPU-d"))
    assert others.looks[1:] == [["GPU-a", "GPU-c", "GPU-d"]] * 4, "GPUs of ours are not looked at"
    pauses = [after - before for before, after in zip(others.times[1:], others.times[2:], strict=False)]
    assert pauses == pytest.approx([BUSY_SECONDS + 0.01] * 3)


@pytest.mark.looptime
async def test_nobody_looks_when_no_gpu_is_asked_for_or_too_few_are_left_anyway() -> None:
    others = Others()
    box = Box(in_use=others.in_use)
    await box.take("first", Request(gpus=3))
    await box.take("cpus", Request(cpus=16))
    tasks = [box.ask("gpus", TWO_GPUS), box.ask("behind", ONE_GPU)]
    async with ended(*tasks):
        await asyncio.sleep(3 * BUSY_SECONDS)
        assert len(others.looks) == 1
        box.give_back("first")
        await asyncio.sleep(0.05)
        assert box.order == ["first", "cpus", "gpus", "behind"], "without waiting for the next look"


@pytest.mark.looptime
async def test_what_is_given_back_during_a_look_is_a_reason_to_look_again() -> None:
    others = Others("GPU-d")
    box = Box(in_use=others.in_use)
    box.held["old"] = Assigned(("GPU-a",))

    def once() -> None:
        others.during = lambda: None
        box.give_back("old")

    others.during = once
    started = asyncio.get_running_loop().time()
    await box.take("new", Request(gpus=3))
    assert box.held["new"] == Assigned(("GPU-a", "GPU-b", "GPU-c"))
    assert asyncio.get_running_loop().time() - started < 1


@pytest.mark.looptime
async def test_who_is_cancelled_during_a_look_is_given_nothing() -> None:
    others = Others()
    box = Box(in_use=others.in_use)
    first, second = box.ask("first", Request(gpus=4)), box.ask("second", Request(gpus=4))
    async with ended(first, second):
        await settled()
        assert len(others.looks) == 1
        first.cancel()
        await asyncio.wait_for(second, 60)
    assert box.order == ["second"]


REQUESTS = st.builds(
    Request,
    gpus=st.integers(0, 4),
    cpus=st.sampled_from([0, 0.1, 0.2, 0.7, 1, 2.5, 16]),
    memory=st.sampled_from([0, 1, GIB, 48 * GIB, 64 * GIB]),
)
STEPS = st.one_of(
    st.tuples(st.just("ask"), REQUESTS),
    st.tuples(st.sampled_from(["cancel", "end", "let others go on"]), st.integers(0, 5)),
)


def check(box: Box) -> None:
    """Never a GPU twice, and never more than there is."""
    gpus = [gpu for each in box.held.values() for gpu in each.gpus]
    assert len(gpus) == len(set(gpus))
    assert set(gpus) <= set(FOUR)
    assert sum(each.cpus for each in box.held.values()) <= BOX.cpus + 0.001
    assert sum(each.memory for each in box.held.values()) <= BOX.memory


@given(st.lists(STEPS, max_size=40), st.booleans())
@settings(max_examples=300)
def test_whatever_happens_slots_are_given_in_turn_never_twice_and_never_lost(
    steps: list[tuple[str, Any]], with_looks: bool
) -> None:
    asyncio.run(_whatever_happens(steps, with_looks))


async def _whatever_happens(steps: list[tuple[str, Any]], with_looks: bool) -> None:
    async def nobody(_: Sequence[Gpu]) -> frozenset[str]:
        await asyncio.sleep(0)
        return frozenset()

    box = Box(in_use=nobody if with_looks else None)
    asked: dict[str, Request] = {}
    tasks: dict[str, asyncio.Task[None]] = {}
    for number, (what, detail) in enumerate(steps):
        if what == "ask":
            name = str(number)
            asked[name], tasks[name] = detail, box.ask(name, detail)
        elif what == "cancel" and (waiting := [task for task in tasks.values() if not task.done()]):
            waiting[detail % len(waiting)].cancel()
        elif what == "end" and box.held:
            box.give_back(list(box.held)[detail % len(box.held)])
        elif what == "let others go on":
            for _ in range(detail):
                await asyncio.sleep(0)
        check(box)
    while True:  # everything that is given comes back, until nobody waits
        await settled()
        check(box)
        if not box.held:
            break
        box.give_back(next(iter(box.held)))
    assert all(task.done() for task in tasks.values()), "nobody is forgotten in the line"
    for name, task in tasks.items():
        assert task.cancelled() == (name not in box.order), "given or cancelled, never both or neither"
    took_something = [name for name in box.order if not asked[name].is_nothing]
    assert took_something == sorted(took_something, key=int), "first come, first served"
    await box.take("all of it", Request(4, BOX.cpus, BOX.memory))
