"""The local-process backend keeps the contract, and what only processes can do wrong."""

import asyncio
import fcntl
import json
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from backends.base import Backend, BackendError, BackendUnavailable, Handle, Phase, StartRequest
from backends.local_process import keeping, records
from backends.local_process.keeper import files
from backends.local_process.keeper.files import start_ticks
from backends.registry import load
from backends.testing.contract import (
    LIMIT_SECONDS,
    BackendContract,
    end_of,
    listen,
    output_of,
    printed,
    within,
    within_each,
)
from backends.testing.shell import ShellHarness, sh


class ProcessHarness(ShellHarness):
    """Knows what a launch's folder looks like."""

    def __init__(self, state_dir: Path) -> None:
        super().__init__("local-process", state_dir)

    def folder(self, name: str = "launch-1") -> Path:
        return self.state_dir / "launches" / name

    def status(self, name: str = "launch-1") -> dict[str, Any]:
        return dict(files.read_status(str(self.folder(name))))

    def record(self, name: str = "launch-1") -> Path:
        return self.folder(name) / files.RECORD

    def kill_everything(self) -> None:
        for file in self.state_dir.rglob(files.RECORD):
            status = files.read_status(str(file.parent))
            if job := records.from_status(status).job:
                job.signal_group(signal.SIGKILL)


def _contents(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[ProcessHarness]:
    harness = ProcessHarness(tmp_path / "state")
    yield harness
    harness.kill_everything()


@pytest.fixture
async def backend(harness: ProcessHarness) -> AsyncGenerator[Backend]:
    backend = harness.open()
    yield backend
    await backend.close()


class TestLocalProcessBackend(BackendContract):
    """Uses the module's fixture `harness`."""


async def launch(backend: Backend, *steps: str, name: str = "launch-1") -> Handle:
    return await backend.start(StartRequest(name, sh(*steps), {"PATH": "/usr/bin:/bin"}))


async def until(condition: Callable[[], object]) -> None:
    """Wait for something in /proc or in a folder, which cannot tell by itself."""
    async with asyncio.timeout(LIMIT_SECONDS):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


# --- what a job is given ---------------------------------------------------------------------------------------------


async def test_job_inherits_nothing_from_the_agent(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_SERVICE", "the agent's own")
    read_end, write_end = os.pipe()
    os.set_inheritable(write_end, True)
    old = signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        handle = await launch(
            backend, "ls -l /proc/$$/fd", "grep -E 'Sig(Ign|Blk)' /proc/self/status", "env", "readlink /proc/self/fd/0"
        )
    finally:
        signal.signal(signal.SIGPIPE, old)
        os.close(read_end)
        os.close(write_end)
    await end_of(backend, handle)
    output = (await output_of(backend, handle)).decode()
    handles = {line.split(" -> ")[0].split()[-1] for line in output.splitlines() if " -> " in line}
    assert handles == {"0", "1", "2"}
    assert "WANDB" not in output
    masks = [int(line.split()[1], 16) for line in output.splitlines() if line.startswith("Sig")]
    # Signals 32 and 33 belong to the C library, which lets nobody reset them; some ancestor may have ignored them.
    assert [mask & ~(0b11 << 31) for mask in masks] == [0, 0]
    assert output.endswith("/dev/null\n")


async def test_job_leads_its_own_session(harness: ProcessHarness, backend: Backend) -> None:
    handle = await launch(backend, "exec sleep 1000")
    pid = harness.status()["pid"]
    assert os.getsid(pid) == os.getpgid(pid) == pid
    (keeper,) = _keepers()
    assert keeper == harness.status()["keeper"]
    assert len({pid, keeper, os.getsid(0)}) == 3
    assert os.getsid(keeper) == keeper
    await backend.stop(handle, 5)
    await end_of(backend, handle)


async def test_job_without_a_working_folder_runs_in_an_empty_one(backend: Backend) -> None:
    handle = await launch(backend, "ls -A")
    await end_of(backend, handle)
    assert await output_of(backend, handle) == b""


async def test_job_may_open_as_many_files_as_the_agent(backend: Backend) -> None:
    handle = await launch(backend, "ulimit -Sn", "ulimit -Hn")
    await end_of(backend, handle)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert [int(line) for line in (await output_of(backend, handle)).split()] == list(limits)


async def test_large_environment_arrives(backend: Backend) -> None:
    environment = {f"BIG_{n}": "x" * 100_000 for n in range(6)}
    request = StartRequest("launch-1", ["/bin/sh", "-c", "echo ${#BIG_0} ${#BIG_5}"], environment)
    handle = await backend.start(request)
    await end_of(backend, handle)
    assert await output_of(backend, handle) == b"100000 100000\n"


@pytest.mark.parametrize("name", ["", "..", "../up", "a/b", "/etc", ".hidden", "a\0b", "a\n", "x" * 300])
async def test_names_cannot_leave_the_folder(backend: Backend, name: str) -> None:
    with pytest.raises(BackendError, match="cannot be a launch's name"):
        await backend.start(StartRequest(name, ["/bin/true"], {}))
    with pytest.raises(BackendError, match="cannot be a launch's name"):
        await backend.cleanup(Handle(name))


@pytest.mark.parametrize("environment", [{"A=B": "c"}, {"": "c"}, {"A": "b\0c"}])
async def test_impossible_environment_is_refused(backend: Backend, environment: dict[str, str]) -> None:
    with pytest.raises(BackendError, match="environment variable"):
        await backend.start(StartRequest("launch-1", ["/bin/true"], environment))


# --- programs that cannot run ----------------------------------------------------------------------------------------


async def test_program_that_may_not_be_executed(backend: Backend, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n")
    handle = await backend.start(StartRequest("launch-1", [str(script)], {}))
    seen = await end_of(backend, handle)
    assert (seen.exit_code, seen.reason) == (126, "not_executable")
    assert str(script) in seen.message


async def test_working_folder_that_is_missing(backend: Backend, tmp_path: Path) -> None:
    request = StartRequest("launch-1", ["/bin/true"], {}, working_dir=tmp_path / "gone")
    seen = await end_of(backend, await backend.start(request))
    assert (seen.phase, seen.exit_code, seen.reason) == (Phase.FAILED, 126, "bad_working_dir")
    assert str(tmp_path / "gone") in seen.message


async def test_folder_that_cannot_be_used_is_an_error(harness: ProcessHarness, backend: Backend) -> None:
    harness.state_dir.mkdir()
    (harness.state_dir / "launches").write_text("a file in the way")
    with pytest.raises(BackendError, match="could not be started"):
        await launch(backend, "true")


# --- groups ----------------------------------------------------------------------------------------------------------


async def test_stop_reaches_the_whole_group(harness: ProcessHarness, backend: Backend) -> None:
    handle = await launch(backend, "(trap '' TERM; echo up; exec sleep 1000) &", "wait")
    await printed(backend, handle, b"up\n")
    group = harness.status()["pid"]
    await backend.stop(handle, 30)
    await end_of(backend, handle)
    await until(lambda: group not in _groups())


async def test_kill_reaches_the_whole_group(harness: ProcessHarness, backend: Backend) -> None:
    handle = await launch(backend, "trap '' TERM", "sleep 1000 &", "echo up", "wait")
    await printed(backend, handle, b"up\n")
    group = harness.status()["pid"]
    await backend.stop(handle, 0.1)
    assert (await end_of(backend, handle)).exit_code == 137
    await until(lambda: group not in _groups())


async def test_what_a_job_leaves_in_its_group_ends_with_it(harness: ProcessHarness, backend: Backend) -> None:
    handle = await launch(backend, "(trap '' TERM; exec sleep 1000) &", "echo up", "exec sleep 0.3")
    await printed(backend, handle, b"up\n")
    group = harness.status()["pid"]
    assert (await end_of(backend, handle)).exit_code == 0
    await until(lambda: group not in _groups())


async def test_daemon_of_a_job_does_not_hold_the_launch(harness: ProcessHarness, backend: Backend) -> None:
    handle = await launch(backend, "mkfifo up", "setsid sh -c 'echo $$; : >up; exec sleep 1000' &", ": <up", "exit 2")
    assert (await end_of(backend, handle)).exit_code == 2
    output = b"".join([data async for data in within_each(backend, handle)])
    os.kill(int(output), 0)
    await backend.cleanup(handle)
    os.kill(int(output), signal.SIGKILL)
    assert not harness.folder().exists()


def _groups() -> set[int]:
    """The process groups that have a live member."""
    groups: set[int] = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        fields = _contents(path).rpartition(b")")[2].split()
        if fields and fields[0] != b"Z":
            groups.add(int(fields[2]))
    return groups


# --- exactly one start, whatever is killed ---------------------------------------------------------------------------


async def test_keeper_killed_before_the_record_leaves_no_job(
    harness: ProcessHarness, backend: Backend, slow_keeper: "SlowKeeper"
) -> None:
    starting = asyncio.create_task(launch(backend, "echo ran"))
    await until(slow_keeper.is_waiting)
    await until(lambda: _processes_in(harness.folder() / files.WORK))
    (keeper,) = _keepers()
    os.kill(keeper, signal.SIGKILL)
    await until(lambda: not _processes_in(harness.folder() / files.WORK))
    starting.cancel()
    await asyncio.wait([starting])
    assert await backend.observe() == {}

    slow_keeper.go_on()
    again = harness.open()
    handle = await launch(again, "echo ran")
    assert (await end_of(again, handle)).phase is Phase.FINISHED
    assert await output_of(again, handle) == b"ran\n"
    await again.close()


async def test_record_that_cannot_be_written_leaves_no_job(harness: ProcessHarness, backend: Backend) -> None:
    await end_of(backend, await launch(backend, "true", name="first"))
    (keeper,) = _keepers()
    with _room_for(keeper, 30):  # enough for the labels, and for a part of what comes next
        with pytest.raises(BackendUnavailable, match=r"could not be started.*No space left"):
            await launch(backend, "echo ran")
        await until(lambda: not _processes_in(harness.folder() / files.WORK))
        assert (await backend.observe()).keys() == {"first"}
        assert await asyncio.to_thread(harness.record().read_bytes) == b'{"labels": {}}\n'
    handle = await launch(backend, "echo ran")
    await end_of(backend, handle)
    assert await output_of(backend, handle) == b"ran\n"


async def test_reason_that_is_long_is_told_in_part(backend: Backend) -> None:
    handle = await backend.start(StartRequest("launch-1", ["\N{ROCKET}" * 1000], {}))
    seen = await end_of(backend, handle)
    assert seen.exit_code == 126
    assert "\N{ROCKET}" * 100 in seen.message


async def test_stop_before_the_job_runs_keeps_it_from_running(
    harness: ProcessHarness, backend: Backend, slow_keeper: "SlowKeeper"
) -> None:
    starting = asyncio.create_task(launch(backend, "echo ran"))
    await until(slow_keeper.is_waiting)
    restarted = harness.open()
    handle = Handle("launch-1")
    assert (await restarted.observe())[handle].phase is Phase.STARTING
    await restarted.stop(handle, 5)
    slow_keeper.go_on()
    assert await starting == handle
    assert (await end_of(restarted, handle)).phase is Phase.STOPPED
    assert await output_of(restarted, handle) == b""
    await restarted.close()


@pytest.mark.parametrize("content", ["", '{"labels": {"a": "b"}}\n', '{"labels": {}}\n{"state": "run'])
async def test_record_without_a_state_was_never_started(
    harness: ProcessHarness, backend: Backend, content: str
) -> None:
    harness.folder().mkdir(parents=True)
    harness.record().write_text(content)
    assert await backend.observe() == {}
    await backend.stop(Handle("launch-1"), 0)
    handle = await launch(backend, "echo ran")
    assert (await end_of(backend, handle)).phase is Phase.FINISHED


async def test_a_removal_that_was_cut_short_leaves_nothing(harness: ProcessHarness, backend: Backend) -> None:
    """Whatever of the folder was gone by then: without its labels nobody could tell whose the rest is."""
    handle = await launch(backend, "true")
    await end_of(backend, handle)
    rest = harness.folder(f"{records.REST}{handle}")
    harness.folder().rename(rest)
    (rest / files.RECORD).unlink()
    again = harness.open()
    assert await again.observe() == {}
    assert not rest.exists()
    rest.mkdir()
    await launch(again, "true")
    await end_of(again, handle)
    await again.cleanup(handle)
    assert list(rest.parent.iterdir()) == []
    await again.close()


@pytest.mark.parametrize("content", ["", "\0" * 20 + "\n"])
async def test_record_lost_with_the_power_counts_as_started(
    harness: ProcessHarness, backend: Backend, content: str
) -> None:
    harness.folder().mkdir(parents=True)
    harness.record().write_text(content)
    (harness.folder() / files.OUTPUT).touch()
    handle = await launch(backend, "echo ran twice")
    seen = await end_of(backend, handle)
    assert seen.phase is Phase.LOST
    assert await output_of(backend, handle) == b""


async def test_cancelled_start_starts_all_the_same(harness: ProcessHarness, backend: Backend) -> None:
    starting = asyncio.create_task(launch(backend, "echo ran"))
    await asyncio.sleep(0)
    starting.cancel()
    await asyncio.wait([starting])
    assert (await end_of(backend, Handle("launch-1"))).phase is Phase.FINISHED


async def test_keeper_killed_while_asked_is_unavailable(harness: ProcessHarness, backend: Backend) -> None:
    await launch(backend, "true", name="first")
    (pid,) = _keepers()
    os.kill(pid, signal.SIGSTOP)
    starting = asyncio.create_task(launch(backend, "echo ran"))
    await asyncio.sleep(0)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(BackendUnavailable, match="died"):
        await starting
    handle = await launch(backend, "echo ran")
    await end_of(backend, handle)
    assert await output_of(backend, handle) == b"ran\n"


async def test_a_locked_folder_waits_and_holds_up_nobody(harness: ProcessHarness, backend: Backend) -> None:
    harness.folder().mkdir(parents=True)
    lock = os.open(harness.record(), os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    starting = asyncio.create_task(launch(backend, "echo ran"))
    await end_of(backend, await launch(backend, "true", name="another"))
    assert not starting.done()
    assert not (harness.folder() / files.OUTPUT).exists()
    os.close(lock)
    await end_of(backend, await starting)
    assert await output_of(backend, Handle("launch-1")) == b"ran\n"


async def test_keeper_goes_on_with_what_came_and_ends_with_its_last_job(harness: ProcessHarness) -> None:
    backend = harness.open()
    await launch(backend, "true", name="first")
    await launch(backend, "sleep 0.3", "exit 3")
    await backend.close()
    keeper = harness.status()["keeper"]
    assert start_ticks(keeper)
    await until(lambda: harness.status()["state"] == "ended")
    await until(lambda: not start_ticks(keeper))
    assert harness.status()["exit_code"] == 3


async def test_keeper_without_jobs_ends_with_its_agent(harness: ProcessHarness) -> None:
    backend = harness.open()
    await end_of(backend, await launch(backend, "true"))
    (keeper,) = _keepers()
    await backend.close()
    await until(lambda: not start_ticks(keeper))


SLOW_KEEPER = """
import pathlib, runpy, sys, time
program, gate = {program!r}, pathlib.Path({gate!r})
sys.path[0] = str(pathlib.Path(program).parent)
import launch
add_line = launch.add_line
def add_slowly(record, line):
    if "pid" in line and gate.exists():
        gate.write_text("waiting")
        while gate.exists():
            time.sleep(0.005)
    add_line(record, line)
launch.add_line = add_slowly
runpy.run_path(program, run_name="__main__")
"""


class SlowKeeper:
    """A keeper that forks a job and then waits for `go_on` before it records that."""

    def __init__(self, folder: Path) -> None:
        self._gate = folder / "gate"
        self._gate.touch()
        self.program = folder / "slow_keeper.py"
        self.program.write_text(SLOW_KEEPER.format(program=str(keeping.PROGRAM), gate=str(self._gate)))

    def is_waiting(self) -> bool:
        return self._gate.read_text() == "waiting"

    def go_on(self) -> None:
        self._gate.unlink()


@pytest.fixture
def slow_keeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SlowKeeper:
    slow = SlowKeeper(tmp_path)
    monkeypatch.setattr(keeping, "PROGRAM", slow.program)
    return slow


@contextmanager
def _room_for(pid: int, size: int) -> Generator[None]:
    """Have a process find the disk full once its file has that many bytes."""
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, before[1]))
    yield
    resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


def _processes_in(folder: Path) -> list[int]:
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if path.readlink() == folder:
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def _keepers() -> list[int]:
    """This process's own keepers."""
    pids = [int(pid) for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()]
    return [pid for pid in pids if str(keeping.PROGRAM).encode() in _contents(Path(f"/proc/{pid}/cmdline"))]


# --- ends without a witness ------------------------------------------------------------------------------------------


async def test_job_outlives_its_keeper_and_is_lost_in_the_end(harness: ProcessHarness, backend: Backend) -> None:
    handle = await launch(backend, "exec sleep 1000")
    status = harness.status()
    async with aclosing(listen(backend)) as hints:
        await anext(hints)
        os.kill(status["keeper"], signal.SIGKILL)
        assert handle in await within(LIMIT_SECONDS, anext(hints))
        await until(lambda: start_ticks(status["keeper"]) == 0)
        assert (await backend.observe())[handle].phase is Phase.RUNNING
        with pytest.raises(TimeoutError):  # the job is watched now: no looking again and again
            await within(0.1, anext(hints))
    os.kill(status["pid"], signal.SIGKILL)
    seen = await end_of(backend, handle)
    assert (seen.phase, seen.exit_code) == (Phase.LOST, None)
    assert "no exit status" in seen.message


async def test_stop_works_without_the_keeper(harness: ProcessHarness, backend: Backend) -> None:
    handle = await launch(backend, "trap '' TERM", "echo up", "exec sleep 1000")
    await printed(backend, handle, b"up\n")
    os.kill(harness.status()["keeper"], signal.SIGKILL)
    await backend.stop(handle, 0.1)
    assert (await end_of(backend, handle)).phase is Phase.STOPPED


async def test_keeper_ignores_the_signals_of_a_shutdown(harness: ProcessHarness, backend: Backend) -> None:
    handle = await launch(backend, "sleep 0.3", "exit 5")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(harness.status()["keeper"], number)
    assert (await end_of(backend, handle)).exit_code == 5


async def test_end_that_cannot_be_written_is_written_later(harness: ProcessHarness, backend: Backend) -> None:
    handle = await launch(backend, "exec sleep 1000")
    with _room_for(harness.status()["keeper"], harness.record().stat().st_size + 10):
        os.kill(harness.status()["pid"], signal.SIGKILL)
        await until(lambda: not start_ticks(harness.status()["pid"]))
        restarted = harness.open()
        assert (await restarted.observe())[handle].phase is Phase.RUNNING
    assert (await end_of(backend, await launch(backend, "exit 5", name="another"))).exit_code == 5
    assert (await end_of(backend, handle)).exit_code == 137
    assert (await end_of(restarted, handle)).exit_code == 137
    await restarted.close()


async def test_folder_removed_under_a_job_does_not_keep_the_keeper(harness: ProcessHarness) -> None:
    backend = harness.open()
    await launch(backend, "exec sleep 1000")
    status = harness.status()
    shutil.rmtree(harness.folder())
    await backend.close()
    os.kill(status["pid"], signal.SIGKILL)
    await until(lambda: not start_ticks(status["keeper"]))


async def test_jobs_are_found_where_the_state_folder_is_lost(harness: ProcessHarness) -> None:
    """By the next agent, with labels and output; their ends are told, also of one that ended meanwhile."""
    backend = harness.open()
    labels = {"item": "item-1"}
    for name, code in (("on", 3), ("over", 4)):
        wait = f"until test -e {harness.state_dir}-{name}; do sleep 0.01; done"
        command = sh("echo before", wait, "echo after", f"exit {code}")
        await backend.start(StartRequest(name, command, {"PATH": "/usr/bin:/bin"}, labels=labels))
    keeper = harness.status("on")["keeper"]
    for name in ("on", "over"):
        await until(lambda name=name: (harness.folder(name) / files.OUTPUT).read_bytes() == b"before\n")
    await backend.close()
    shutil.rmtree(harness.state_dir)
    Path(f"{harness.state_dir}-over").touch()
    await until(lambda: harness.status("over").get("state") == "ended")
    again = harness.open()
    seen = await again.observe()
    assert (seen[Handle("on")].phase, seen[Handle("on")].labels) == (Phase.RUNNING, labels)
    assert (seen[Handle("over")].exit_code, seen[Handle("over")].labels) == (4, labels)
    assert await output_of(again, Handle("on")) == b"before\n"
    Path(f"{harness.state_dir}-on").touch()
    assert (await end_of(again, Handle("on"))).exit_code == 3
    assert await output_of(again, Handle("on")) == b"before\nafter\n"
    await until(lambda: not start_ticks(keeper))
    assert await output_of(again, Handle("on")) == b"before\nafter\n"
    await again.close()


async def test_a_folder_that_is_removed_under_a_running_agent_comes_back(
    harness: ProcessHarness, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backends.local_process.backend.LISTING_SECONDS", 0.0)
    handle = await launch(backend, "exec sleep 1000")
    shutil.rmtree(harness.folder())
    assert (await backend.observe())[handle].phase is Phase.RUNNING
    await backend.stop(handle, 10)
    assert (await end_of(backend, handle)).phase is Phase.STOPPED
    assert not start_ticks(harness.status()["pid"])


async def test_a_keeper_that_does_not_bring_a_folder_back_is_not_waited_for_long(
    harness: ProcessHarness, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backends.local_process.backend.LISTING_SECONDS", 0.0)
    monkeypatch.setattr("backends.local_process.restoring.LIMIT_SECONDS", 0.1)
    handle = await launch(backend, "exec sleep 1000")
    keeper = harness.status()["keeper"]
    os.kill(keeper, signal.SIGSTOP)
    shutil.rmtree(harness.state_dir)
    again = harness.open()
    assert await again.observe() == {}
    os.kill(keeper, signal.SIGCONT)
    await until(harness.status)
    assert set(await again.observe()) == {handle}
    await again.close()


async def test_end_that_is_written_a_moment_late_is_waited_for(harness: ProcessHarness, backend: Backend) -> None:
    job, keeper = (subprocess.Popen(["sleep", "1000"], process_group=0) for _ in range(2))
    status: dict[str, Any] = {"state": "running", "pid": job.pid, "pid_started": start_ticks(job.pid)}
    status |= {"keeper": keeper.pid, "keeper_started": start_ticks(keeper.pid), "started_at": 1.0}
    _write_record(harness, status)
    handle = Handle("launch-1")
    assert (await backend.observe())[handle].phase is Phase.RUNNING
    job.kill()
    job.wait()
    assert (await backend.observe())[handle].phase is Phase.RUNNING
    _write_record(harness, {"state": "ended", "exit_code": 9, "signal": None, "stopped": False, "ended_at": 2.0})
    assert (await end_of(backend, handle)).exit_code == 9
    keeper.kill()
    keeper.wait()


async def test_launch_of_an_earlier_version_is_adopted(harness: ProcessHarness, backend: Backend) -> None:
    job, shim = (subprocess.Popen(["sleep", "1000"], process_group=0) for _ in range(2))
    status: dict[str, Any] = {"state": "running", "pid": job.pid, "pid_started": start_ticks(job.pid)}
    status |= {"shim": shim.pid, "shim_started": start_ticks(shim.pid), "started_at": 1.0}
    harness.folder().mkdir(parents=True)
    (harness.folder() / "status.json").write_text(json.dumps(status))
    (harness.folder() / "launch.json").write_text('{"item": "i"}')
    (harness.folder() / files.OUTPUT).touch()
    handle = Handle("launch-1")
    seen = (await backend.observe())[handle]
    assert (seen.phase, seen.labels) == (Phase.RUNNING, {"item": "i"})
    assert await launch(backend, "echo ran twice") == handle
    assert (await backend.observe())[handle].phase is Phase.RUNNING
    job.kill()
    job.wait()
    assert (await backend.observe())[handle].phase is Phase.RUNNING, "its end is about to be written"
    status |= {"state": "ended", "exit_code": 9, "signal": None, "stopped": False, "ended_at": 2.0}
    (harness.folder() / "status.json").write_text(json.dumps(status))
    shim.kill()
    shim.wait()
    assert (await end_of(backend, handle)).exit_code == 9
    assert await output_of(backend, handle) == b""


def _write_record(harness: ProcessHarness, line: dict[str, Any]) -> None:
    record = files.open_record(str(harness.folder()))
    files.add_line(record, line)
    os.close(record)


async def test_launch_of_before_a_reboot_is_lost(harness: ProcessHarness, backend: Backend) -> None:
    # The pids exist again, as somebody else's.
    status = {"state": "running", "pid": os.getpid(), "pid_started": 1, "keeper": os.getpid(), "keeper_started": 1}
    _write_record(harness, status)
    handle = Handle("launch-1")
    assert (await backend.observe())[handle].phase is Phase.LOST
    await backend.stop(handle, 0)  # must not kill us
    assert await launch(backend, "echo ran") == handle
    assert (await backend.observe())[handle].phase is Phase.LOST


async def test_removed_folder_is_noticed(harness: ProcessHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backends.local_process.backend.LISTING_SECONDS", 0.0)
    backend = harness.open()
    handle = await launch(backend, "true")
    await end_of(backend, handle)
    harness.folder().rename(harness.state_dir / "elsewhere")
    assert await backend.observe() == {}
    await backend.close()


async def test_watching_without_pidfds(harness: ProcessHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(pid: int) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "pidfd_open", unsupported)
    monkeypatch.setattr("backends.local_process.watching.POLL_SECONDS", 0.05)
    backend = harness.open()
    handle = await launch(backend, "sleep 0.2", "exit 6")
    assert (await end_of(backend, handle)).exit_code == 6
    await backend.close()


# --- the backend itself ----------------------------------------------------------------------------------------------


async def test_close_leaves_nothing_but_the_job_and_its_keeper(harness: ProcessHarness) -> None:
    before = _open_files()
    backend = harness.open()
    await launch(backend, "exec sleep 1000")
    await backend.observe()
    await backend.close()
    await backend.close()
    assert _open_files() == before
    assert _keepers() == [harness.status()["keeper"]]
    assert len(asyncio.all_tasks()) == 1
    assert start_ticks(harness.status()["pid"])
    with pytest.raises(BackendUnavailable, match="closed"):
        await launch(backend, "true", name="late")


def _open_files() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


async def test_what_runs_costs_no_reading(
    harness: ProcessHarness, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = await launch(backend, "exec sleep 1000")
    first = await backend.observe()

    def fail(*_: object) -> None:
        raise AssertionError("read")

    monkeypatch.setattr("backends.local_process.records.read", fail)
    assert await backend.observe() == first
    assert first[handle].phase is Phase.RUNNING


def test_backend_is_found_by_its_entry_point(tmp_path: Path) -> None:
    backend = load("local-process")(tmp_path, "agent", {})
    assert backend.capabilities.runs_locally


def test_unknown_backend_names_the_known_ones() -> None:
    with pytest.raises(BackendError, match=r"'local-proces'.*local-process"):
        load("local-proces")
