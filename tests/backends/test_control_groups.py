"""Launches are held by the kernel to what they were given, on whichever version of control groups this machine has."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from backends.base import Backend, Handle, Phase, StartRequest
from backends.local_process import control_groups
from backends.local_process.control_groups import ControlGroups, NoControlGroups
from backends.local_process.keeper import files, groups
from backends.local_process.keeper.files import start_ticks
from backends.testing.contract import LIMIT_SECONDS, end_of, output_of
from backends.testing.shell import ShellHarness, sh

MEBIBYTE = 2**20
GREEDY = f"""{sys.executable} -I -S -c 'b"x" * (128 << 20)'"""
"""A command that needs 128 MiB of memory, and no more even if nothing holds it."""
DAEMON = "setsid sh -c 'trap \"\" TERM; echo $$; : >up; while :; do sleep 1; done' & : <up"
"""A step of a job that leaves a process behind, out of its process group and deaf to a polite stop, and says which."""


@pytest.fixture
def harness(tmp_path: Path) -> ShellHarness:
    return ShellHarness("local-process", tmp_path / "state")


@pytest.fixture
def here(harness: ShellHarness) -> Iterator[ControlGroups]:
    """Where the launches of the harness get their groups; afterwards nothing of it may be left."""
    try:
        found = control_groups.find(harness.state_dir / "launches")
    except NoControlGroups as error:
        pytest.skip(f"{error}: run the tests in such a group, or as root where control groups are of version 1")
    yield found
    left = dict(found.all())
    for folders in left.values():
        while not groups.remove(folders):
            pass
    found.close()
    assert not left


@pytest.fixture
async def backend(harness: ShellHarness, here: ControlGroups) -> AsyncGenerator[Backend]:
    backend = harness.open()
    yield backend
    async with asyncio.timeout(LIMIT_SECONDS):
        while live := [handle for handle, seen in (await backend.observe()).items() if not seen.phase.is_terminal]:
            await asyncio.gather(*(backend.stop(handle, 0) for handle in live))
            await asyncio.sleep(0.01)
    await backend.close()


async def launch(
    backend: Backend, *steps: str, name: str = "launch-1", cpus: float = 0, memory: int = 0, gpus: tuple[str, ...] = ()
) -> Handle:
    request = StartRequest(name, sh(*steps), {"PATH": "/usr/bin:/bin"}, cpus=cpus, memory=memory, gpus=gpus)
    return await backend.start(request)


async def until(condition: Callable[[], object]) -> None:
    """Wait for something that cannot tell by itself."""
    async with asyncio.timeout(LIMIT_SECONDS):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def folders_of(here: ControlGroups, name: str = "launch-1") -> list[Path]:
    return [Path(folder) for folder in dict(here.all()).get(name, [])]


def processes_in(here: ControlGroups, name: str = "launch-1") -> set[int]:
    files = [folder / "cgroup.procs" for folder in folders_of(here, name)]
    return {int(line) for file in files for line in file.read_text().split()}


def record_of(harness: ShellHarness, name: str = "launch-1") -> dict[str, Any]:
    return dict(files.read_status(str(harness.state_dir / "launches" / name)))


async def first_number(backend: Backend, handle: Handle) -> int:
    """Return the number in the first line that a job prints."""
    async with asyncio.timeout(LIMIT_SECONDS):
        output = b""
        async for chunk in backend.logs(handle, follow=True):
            output += chunk.data
            if b"\n" in output:
                break
    return int(output.split()[0])


# --- what a launch gets ----------------------------------------------------------------------------------------------


async def test_a_job_is_in_its_groups_from_its_first_instruction(backend: Backend, here: ControlGroups) -> None:
    handle = await launch(backend, "cat /proc/self/cgroup", cpus=1, memory=64 * MEBIBYTE)
    await end_of(backend, handle)
    lines = (await output_of(backend, handle)).decode().splitlines()
    expected = {""} if here.is_unified else {"cpu", "memory"}
    inside = {name for line in lines if line.endswith("/launch-1") for name in line.split(":")[1].split(",")}
    assert inside >= expected


async def test_who_was_given_nothing_gets_no_group(backend: Backend, here: ControlGroups) -> None:
    handle = await launch(backend, "cat /proc/self/cgroup")
    await end_of(backend, handle)
    assert b"launch-1" not in await output_of(backend, handle)
    assert "groups" not in files.read_status(str(here.parents["memory"] / "launch-1"))


async def test_more_memory_than_asked_for_is_the_end_and_told_as_that(backend: Backend, here: ControlGroups) -> None:
    seen = await end_of(backend, await launch(backend, f"exec {GREEDY}", memory=32 * MEBIBYTE))
    assert (seen.phase, seen.exit_code, seen.reason) == (Phase.FAILED, 137, "oom_killed")
    assert seen.message == (
        "It was killed because it needed more than the 32 MiB of memory that it asked for. Ask for more (`memory` in "
        "its resource args)."
    )


async def test_memory_for_no_program_at_all(backend: Backend, here: ControlGroups) -> None:
    seen = await end_of(backend, await launch(backend, "echo ran", memory=8192))
    assert (seen.phase, seen.reason) == (Phase.FAILED, "oom_killed")


async def test_a_process_of_a_job_that_is_killed_for_memory(backend: Backend, here: ControlGroups) -> None:
    """The job may cope; if it does not, that is why."""
    fails = await launch(backend, f"{GREEDY} || exit 3", name="fails", memory=32 * MEBIBYTE)
    copes = await launch(backend, f"{GREEDY} || exit 0", name="copes", memory=32 * MEBIBYTE)
    seen = await end_of(backend, fails)
    assert (seen.phase, seen.exit_code, seen.reason) == (Phase.FAILED, 3, "oom_killed")
    assert seen.message.startswith("One of its processes was killed because it needed more than the 32 MiB")
    seen = await end_of(backend, copes)
    assert (seen.phase, seen.exit_code, seen.reason, seen.message) == (Phase.FINISHED, 0, "", "")


async def test_a_failure_of_its_own_stays_that(backend: Backend, here: ControlGroups) -> None:
    seen = await end_of(backend, await launch(backend, "kill -9 $$", memory=64 * MEBIBYTE))
    assert (seen.exit_code, seen.reason, seen.message) == (137, "signal:SIGKILL", "")


async def test_no_more_processor_time_than_asked_for(backend: Backend, here: ControlGroups) -> None:
    handle = await launch(backend, "while :; do :; done", cpus=0.25)
    (folder,) = [folder for folder in folders_of(here) if (folder / "cpu.stat").exists()]
    names = ("cpu.max",) if here.is_unified else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    assert " ".join((folder / name).read_text().strip() for name in names) == "25000 100000"

    def throttled() -> int:
        lines = (folder / "cpu.stat").read_text().splitlines()
        return {name: int(number) for name, number in (line.split() for line in lines)}["nr_throttled"]

    await until(throttled)
    await backend.stop(handle, 0)
    await end_of(backend, handle)


async def test_the_least_of_a_processor_is_what_the_kernel_can_do(backend: Backend, here: ControlGroups) -> None:
    seen = await end_of(backend, await launch(backend, "exit 0", cpus=0.001))
    assert seen.phase is Phase.FINISHED


async def test_swap_is_no_way_out(backend: Backend, here: ControlGroups) -> None:
    handle = await launch(backend, "exec sleep 1000", memory=64 * MEBIBYTE)
    limits = {
        name: (folder / name).read_text().strip()
        for folder in folders_of(here)
        for name in ("memory.max", "memory.swap.max", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
        if (folder / name).exists()
    }
    size = str(64 * MEBIBYTE)
    assert limits in (
        {"memory.max": size, "memory.swap.max": "0"},
        {"memory.limit_in_bytes": size, "memory.memsw.limit_in_bytes": size},
        {"memory.max": size},
        {"memory.limit_in_bytes": size},
    )
    await backend.stop(handle, 0)
    await end_of(backend, handle)


async def test_many_start_together(backend: Backend, here: ControlGroups) -> None:
    handles = await asyncio.gather(
        *(launch(backend, "exit 0", name=f"launch-{number}", gpus=("0",), memory=MEBIBYTE * 64) for number in range(20))
    )
    for handle in handles:
        assert (await end_of(backend, handle)).phase is Phase.FINISHED
    assert dict(here.all()) == {}


# --- nothing stays ---------------------------------------------------------------------------------------------------


async def test_a_stop_reaches_what_has_left_the_process_group(backend: Backend, here: ControlGroups) -> None:
    handle = await launch(backend, "mkfifo up", DAEMON, "exec sleep 1000", gpus=("0",))
    daemon = await first_number(backend, handle)
    await backend.stop(handle, 30)
    assert (await end_of(backend, handle)).phase is Phase.STOPPED
    assert not start_ticks(daemon)
    assert folders_of(here) == []


async def test_what_a_job_leaves_behind_ends_before_its_end_is_told(backend: Backend, here: ControlGroups) -> None:
    handle = await launch(backend, "mkfifo up", DAEMON, "exit 2", memory=64 * MEBIBYTE)
    assert (await end_of(backend, handle)).exit_code == 2
    assert not start_ticks(int(await output_of(backend, handle)))
    assert folders_of(here) == []


async def test_who_forks_on_and_on_ends_too(backend: Backend, here: ControlGroups) -> None:
    runner = """setsid sh -c 'eval "$RUN"' & """
    environment = {"PATH": "/usr/bin:/bin", "RUN": f"{runner} exit"}
    command = sh(runner * 4, "sleep 0.2", "exit 0")
    handle = await backend.start(StartRequest("launch-1", command, environment, gpus=("0",)))
    assert (await end_of(backend, handle)).phase is Phase.FINISHED
    assert folders_of(here) == []


async def test_groups_that_a_job_makes_in_its_own_go_with_it(
    harness: ShellHarness, backend: Backend, here: ControlGroups
) -> None:
    handle = await launch(backend, "exec sleep 1000", memory=64 * MEBIBYTE)
    for folder in folders_of(here):
        (folder / "inner" / "most").mkdir(parents=True)
        (folder / "inner" / "most" / "cgroup.procs").write_text(str(record_of(harness)["pid"]))
    await backend.stop(handle, 0)
    await end_of(backend, handle)
    assert folders_of(here) == []


# --- whatever is killed ----------------------------------------------------------------------------------------------


async def test_a_restarted_agent_adopts_a_launch_with_its_groups(harness: ShellHarness, here: ControlGroups) -> None:
    first = harness.open()
    handle = await launch(first, "mkfifo up", DAEMON, "exec sleep 1000", memory=64 * MEBIBYTE)
    await first_number(first, handle)
    await first.close()
    again = harness.open()
    assert (await again.observe())[handle].phase is Phase.RUNNING
    assert processes_in(here)
    await again.stop(handle, 0)
    assert (await end_of(again, handle)).phase is Phase.STOPPED
    await until(lambda: folders_of(here) == [])
    await again.close()


async def test_without_its_keeper_a_launch_is_over_when_nothing_of_it_is_left(
    harness: ShellHarness, backend: Backend, here: ControlGroups
) -> None:
    handle = await launch(backend, "mkfifo up", DAEMON, "exec sleep 1000", memory=64 * MEBIBYTE)
    daemon = await first_number(backend, handle)
    os.kill(record_of(harness)["keeper"], signal.SIGKILL)
    os.kill(record_of(harness)["pid"], signal.SIGKILL)
    assert (await end_of(backend, handle)).phase is Phase.LOST
    assert not start_ticks(daemon)
    assert folders_of(here) == []


async def test_groups_of_launches_that_nobody_knows_are_removed_at_the_start(
    harness: ShellHarness, here: ControlGroups
) -> None:
    first = harness.open()
    handle = await launch(first, "exec sleep 1000", memory=64 * MEBIBYTE)
    here.make()
    stray = await asyncio.create_subprocess_exec("sleep", "1000")
    unknown = here.of("unknown", 1, MEBIBYTE)
    groups.make(unknown)
    for group in unknown:
        Path(group["folder"], "cgroup.procs").write_text(str(stray.pid))
    await first.close()

    again = harness.open()
    with capture_logs() as lines:
        assert (await again.observe())[handle].phase is Phase.RUNNING
    assert [line["launch"] for line in lines if line["log_level"] == "warning"] == ["unknown"]
    assert await stray.wait() == -signal.SIGKILL
    await until(lambda: list(dict(here.all())) == ["launch-1"] or groups.remove([g["folder"] for g in unknown]))
    await again.stop(handle, 0)
    await end_of(again, handle)
    await again.close()


async def test_a_group_of_a_start_that_was_cut_short_is_used(backend: Backend, here: ControlGroups) -> None:
    here.make()
    groups.make(here.of("launch-1", 0.5, 32 * MEBIBYTE))
    seen = await end_of(backend, await launch(backend, f"exec {GREEDY}", cpus=0.5, memory=32 * MEBIBYTE))
    assert seen.reason == "oom_killed"


async def test_the_folder_around_the_groups_is_made_again(backend: Backend, here: ControlGroups) -> None:
    await end_of(backend, await launch(backend, "exit 0", name="first", cpus=1))
    here.close()
    assert (await end_of(backend, await launch(backend, "exit 5", cpus=1))).exit_code == 5


async def test_who_cannot_join_does_not_run(
    backend: Backend, here: ControlGroups, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(tmp_path / "no group of the kernel's")
    monkeypatch.setattr(ControlGroups, "of", lambda *_: [{"folder": folder, "settings": {}}])
    handle = await launch(backend, "echo ran", cpus=1)
    seen = await end_of(backend, handle)
    assert (seen.phase, seen.exit_code, seen.reason) == (Phase.FAILED, 126, "bad_control_group")
    assert seen.message.startswith("The job could not be started: the control group")
    assert folder in seen.message
    assert b"ran" not in (await output_of(backend, handle)).splitlines()


def test_who_finds_that_folder_gone_asks_for_the_start_again(here: ControlGroups) -> None:
    """A keeper that leaves may remove it in the moment between the agent's look and its own keeper's."""
    with pytest.raises(BlockingIOError):
        groups.make(here.of("launch-1", 1, 0))


async def test_a_limit_that_the_kernel_refuses_is_an_error_and_starts_nothing(
    backend: Backend, here: ControlGroups, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ControlGroups, "_cpu", lambda *_: {"no.such.limit": "1"})
    with pytest.raises(Exception, match=r"could not be started.*no\.such\.limit"):
        await launch(backend, "echo ran", cpus=1)
    assert folders_of(here) == []
    assert await output_of(backend, Handle("launch-1")) == b""


async def test_an_agent_that_starts_nothing_makes_nothing(harness: ShellHarness, here: ControlGroups) -> None:
    backend = harness.open()
    await backend.observe()
    assert not any(parent.exists() for parent in here.parents.values())
    await backend.close()


async def test_nothing_is_left_once_agent_and_keeper_are_gone(harness: ShellHarness, here: ControlGroups) -> None:
    backend = harness.open()
    await launch(backend, "sleep 0.2", cpus=1)
    await backend.close()
    keeper = record_of(harness)["keeper"]
    await until(lambda: not start_ticks(keeper))
    assert not any(parent.exists() for parent in here.parents.values())
