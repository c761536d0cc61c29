"""The fake backend keeps the contract, and does what a test tells it."""

from collections.abc import Sequence
from pathlib import Path
from signal import Signals
from typing import ClassVar

import pytest

from backends.base import Backend, BackendUnavailable, Handle, Phase, StartRequest
from backends.fake import Behavior, FakeBackend, FakePlatform
from backends.testing.contract import BackendContract, Harness, Program, output_of


class FakeHarness:
    """A command is the number of the program it stands for."""

    exact_environment: ClassVar[bool] = True
    code_folder: ClassVar[str | None] = None
    many: ClassVar[int] = 50
    lag: ClassVar[float] = 0.0
    tells_how_stopped: ClassVar[bool] = True
    output_is_text: ClassVar[bool] = False

    def __init__(self) -> None:
        self._programs: list[Program] = []
        self._platform = FakePlatform(self._behavior)

    def open(self) -> Backend:
        return FakeBackend(self._platform)

    def complete(self, request: StartRequest) -> StartRequest:
        return request

    def command(self, program: Program) -> Sequence[str]:
        self._programs.append(program)
        return [str(len(self._programs) - 1)]

    def missing_program(self) -> Sequence[str]:
        return ["no-such-program"]

    def handle(self, name: str) -> Handle:
        return Handle(name)

    async def start_and_crash(self, request: StartRequest) -> None:
        await self.open().start(request)

    def in_plain_sight(self) -> bytes:
        return repr((self._platform.started, self._platform.snapshot())).encode()

    def _behavior(self, request: StartRequest) -> Behavior:
        command = request.command[0]
        if command == "no-such-program":
            return Behavior(0, command.encode(), exit_code=127, message=f"{command}: not found")
        program = self._programs[int(command)]
        number = program.dies_by
        return Behavior(
            program.seconds,
            _shown(program, request),
            program.last_words,
            exit_code=128 + number if number else program.exit_code,
            reason=f"signal:{Signals(number).name}" if number else "",
            ignores_term=program.ignores_term,
        )


def _shown(program: Program, request: StartRequest) -> bytes:
    match program.shows:
        case "environment":
            variables = {**request.environment, **request.secrets}
            return b"".join(f"{key}={value}\0".encode() for key, value in variables.items())
        case "working_dir":
            return str((request.working_dir or Path()) / request.subfolder).encode()
        case None:
            return program.prints


class TestFakeBackend(BackendContract):
    @pytest.fixture
    def harness(self) -> Harness:
        return FakeHarness()


@pytest.fixture
def platform() -> FakePlatform:
    return FakePlatform()


async def test_a_test_drives_a_launch(platform: FakePlatform) -> None:
    backend = FakeBackend(platform)
    handle = await backend.start(StartRequest("a", ["train"], {}))
    platform.write(handle, b"epoch 1\n")
    platform.end(handle, 9, reason="oom_killed", message="Out of memory.")
    seen = (await backend.observe())[handle]
    assert (seen.phase, seen.exit_code, seen.reason) == (Phase.FAILED, 9, "oom_killed")
    assert await output_of(backend, handle) == b"epoch 1\n"
    assert [request.name for request in platform.started] == ["a"]


async def test_a_platform_takes_away_loses_and_forgets(platform: FakePlatform) -> None:
    backend = FakeBackend(platform)
    handles = [await backend.start(StartRequest(name, ["train"], {})) for name in "abc"]
    platform.preempt(handles[0])
    platform.lose(handles[1])
    platform.remove(handles[2])
    phases = {handle: seen.phase for handle, seen in (await backend.observe()).items()}
    assert phases == {"a": Phase.PREEMPTED, "b": Phase.LOST}


async def test_a_platform_that_cannot_be_reached(platform: FakePlatform) -> None:
    backend = FakeBackend(platform)
    platform.error = BackendUnavailable("down")
    with pytest.raises(BackendUnavailable, match="down"):
        await backend.start(StartRequest("a", ["train"], {}))
    with pytest.raises(BackendUnavailable, match="down"):
        await backend.observe()
    platform.error = None
    assert await backend.observe() == {}
    await backend.stop(Handle("a"), 0)
