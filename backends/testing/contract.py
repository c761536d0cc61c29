"""What every backend must do. A backend's tests subclass `BackendContract` and give it a `Harness`.

The suite describes jobs by what they do (`Program`); a harness turns that into a command of its platform. What does not
apply to a platform is told by the harness's flags. `backends.testing.shell` has a harness for processes.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from typing import ClassVar, Literal, Protocol

import pytest
import pytest_asyncio

from backends.base import Backend, BackendError, Handle, Observation, Phase, StartRequest

LIMIT_SECONDS = 60.0
"""Cap on every wait. Reached only by a failure."""
PROMPT_SECONDS = 4.0
"""Less than a backend takes that only looks now and then, and enough for a busy machine."""
FOREVER = None


@dataclass(frozen=True)
class Program:
    """What a job does, in this order: prints, waits, prints its last words, and dies or exits."""

    prints: bytes = b""
    seconds: float | None = 0.0
    last_words: bytes = b""
    exit_code: int = 0
    dies_by: Signals | None = None
    ignores_term: bool = False
    shows: Literal["environment", "working_dir"] | None = None
    """Print that instead: the environment as NUL-terminated assignments."""


class Harness(Protocol):
    """One platform, and how the suite gets at it."""

    exact_environment: ClassVar[bool]
    """Whether a job sees the variables it was given and no other."""
    code_folder: ClassVar[str | None]
    """Where a job finds its working folder; None for the same path as here."""
    many: ClassVar[int]
    """How many launches to start at the same time."""
    lag: ClassVar[float]
    """How much longer than with processes it may take until what happens to a launch can be seen, in seconds; 0 if a
    launch runs as soon as it is started."""

    tells_how_stopped: ClassVar[bool]
    """Whether the platform tells how a launch ended that was stopped: its exit status, and by which signal."""
    output_is_text: ClassVar[bool]
    """Whether output is kept as lines of text: what is no text is replaced, and a last line has an end."""

    def complete(self, request: StartRequest) -> StartRequest:
        """Return the request with what every launch needs there, as an image."""
        ...

    def open(self) -> Backend:
        """Return a new backend on the platform, as a restarted agent would have."""
        ...

    def command(self, program: Program) -> Sequence[str]:
        """Return the command that does this."""
        ...

    def missing_program(self) -> Sequence[str]:
        """Return a command that does not exist there."""
        ...

    def handle(self, name: str) -> Handle:
        """Return the handle that a launch of this name has, whether or not there is one."""
        ...

    async def start_and_crash(self, request: StartRequest) -> None:
        """Start the launch from an agent that dies at once, without closing anything."""
        ...

    def in_plain_sight(self) -> bytes:
        """Return everything that others could read about the launches, their output excepted."""
        ...


@pytest.mark.asyncio(loop_scope="function")  # said aloud: sites have other defaults
class BackendContract:
    """The suite. Subclasses define the fixture `harness`.

    Where launches do not run on this machine, the class says `runs_locally=False`.
    """

    def __init_subclass__(cls, *, runs_locally: bool = True) -> None:
        """Leave out what is about folders of this machine, where launches do not see them."""
        super().__init_subclass__()
        if not runs_locally:
            cls.test_job_runs_in_its_working_folder = None  # type: ignore[assignment]

    @pytest_asyncio.fixture(loop_scope="function")
    async def backend(self, harness: Harness) -> AsyncGenerator[Backend]:
        """A backend with nothing on it; what runs there after the test is stopped."""
        backend = harness.open()
        yield backend
        await backend.close()
        await _put_down(harness.open())

    # --- start -------------------------------------------------------------------------------------------------------

    async def test_job_gets_the_environment_and_the_secrets(self, harness: Harness, backend: Backend) -> None:
        request = StartRequest(
            "launch-1",
            harness.command(Program(shows="environment")),
            environment={"PLAIN": "one two", "EMPTY": "", "LINES": "a\nb", "ACCENT": "é"},
            secrets={"TOKEN": "s3cret"},
        )
        handle = await backend.start(harness.complete(request))
        await end_of(backend, handle)
        shown = set((await output_of(backend, handle)).split(b"\0")) - {b""}
        given = {b"PLAIN=one two", b"EMPTY=", b"LINES=a\nb", "ACCENT=é".encode(), b"TOKEN=s3cret"}
        assert shown == given if harness.exact_environment else shown >= given

    @pytest.mark.parametrize("subfolder", ["", "src/train"])
    async def test_job_runs_in_its_working_folder(
        self, harness: Harness, backend: Backend, tmp_path: Path, subfolder: str
    ) -> None:
        if not backend.capabilities.runs_locally:
            pytest.fail("It is not on this machine: say so, with `class TestIt(BackendContract, runs_locally=False)`.")
        folder = tmp_path / "code of the job"
        (folder / subfolder).mkdir(parents=True)
        command = harness.command(Program(shows="working_dir"))
        request = StartRequest("launch-1", command, {}, working_dir=folder, subfolder=subfolder)
        handle = await backend.start(harness.complete(request))
        await end_of(backend, handle)
        place = Path(harness.code_folder or folder, subfolder)
        assert (await output_of(backend, handle)).strip().decode() == str(place)

    async def test_starting_twice_starts_once(self, harness: Harness, backend: Backend) -> None:
        request = make_request(harness, Program(prints=b"once\n", seconds=FOREVER))
        first = await backend.start(request)
        await printed(backend, first, b"once\n")
        assert await backend.start(request) == first
        await backend.stop(first, 5)
        await end_of(backend, first)
        assert await backend.start(request) == first
        assert await output_of(backend, first) == b"once\n"
        assert list(await backend.observe()) == [first]

    async def test_starting_at_the_same_time_starts_once(self, harness: Harness, backend: Backend) -> None:
        other = harness.open()
        request = make_request(harness, Program(prints=b"once\n"))
        handles = set(await asyncio.gather(*(each.start(request) for each in [backend, other] * 5)))
        await other.close()
        (handle,) = handles
        await end_of(backend, handle)
        assert await output_of(backend, handle) == b"once\n"

    async def test_many_launches_start_together(self, harness: Harness, backend: Backend) -> None:
        requests = [make_request(harness, Program(b"%d" % n), name=f"launch-{n}") for n in range(harness.many)]
        handles = await asyncio.gather(*(backend.start(request) for request in requests))
        assert len(set(handles)) == harness.many
        for number, handle in enumerate(handles):
            assert (await end_of(backend, handle)).phase is Phase.FINISHED
            assert await output_of(backend, handle) == kept(harness, b"%d" % number)

    async def test_secrets_stand_nowhere(self, harness: Harness, backend: Backend) -> None:
        command = harness.command(Program(prints=b"up\n", seconds=FOREVER))
        hidden = "do-not-show-this"
        request = StartRequest("launch-1", command, {"A": "b"}, secrets={"TOKEN": hidden})
        handle = await backend.start(harness.complete(request))
        await printed(backend, handle, b"up\n")
        assert b"launch-1" in harness.in_plain_sight()
        assert hidden.encode() not in harness.in_plain_sight()
        await backend.stop(handle, 5)
        await end_of(backend, handle)
        assert hidden.encode() not in harness.in_plain_sight()

    # --- the end -----------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize(("code", "phase"), [(0, Phase.FINISHED), (1, Phase.FAILED), (77, Phase.FAILED)])
    async def test_exit_code_is_told(self, harness: Harness, backend: Backend, code: int, phase: Phase) -> None:
        before = time.time()
        handle = await backend.start(make_request(harness, Program(exit_code=code)))
        seen = await end_of(backend, handle)
        assert (seen.phase, seen.exit_code) == (phase, code)
        assert seen.started_at is not None
        assert seen.ended_at is not None
        assert before - 1 <= seen.started_at <= seen.ended_at <= time.time() + 1

    async def test_death_by_signal_is_told(self, harness: Harness, backend: Backend) -> None:
        handle = await backend.start(make_request(harness, Program(dies_by=Signals.SIGKILL)))
        seen = await end_of(backend, handle)
        assert (seen.phase, seen.exit_code, seen.reason) == (Phase.FAILED, 137, "signal:SIGKILL")

    async def test_missing_program_is_a_failed_launch(self, harness: Harness, backend: Backend) -> None:
        handle = await backend.start(harness.complete(StartRequest("launch-1", harness.missing_program(), {})))
        seen = await end_of(backend, handle)
        assert (seen.phase, seen.exit_code) == (Phase.FAILED, 127)
        assert harness.missing_program()[0] in seen.message
        assert harness.missing_program()[0].encode() in await output_of(backend, handle)

    async def test_labels_come_back(self, harness: Harness, backend: Backend) -> None:
        labels = {"item": "aXRlbQ==", "attempt": "2", "agent": "box"}
        command = harness.command(Program(seconds=FOREVER))
        handle = await backend.start(harness.complete(StartRequest("launch-1", command, {}, labels=labels)))
        assert (await backend.observe())[handle].labels == labels
        again = harness.open()
        assert (await again.observe())[handle].labels == labels
        await again.stop(handle, 5)
        assert (await end_of(again, handle)).labels == labels
        await again.close()

    # --- changes -----------------------------------------------------------------------------------------------------

    async def test_changes_come_promptly(self, harness: Harness, backend: Backend) -> None:
        async with aclosing(listen(backend)) as hints:
            await within(LIMIT_SECONDS, anext(hints))
            handle = await backend.start(make_request(harness, Program(seconds=3.0 + harness.lag)))
            assert handle in await within(PROMPT_SECONDS + harness.lag, anext(hints))
            assert_runs(harness, (await backend.observe())[handle])
            phases = [Phase.STARTING] if harness.lag else [Phase.RUNNING]
            while True:
                assert handle in await within(LIMIT_SECONDS, anext(hints))
                told = time.time()
                seen = (await backend.observe())[handle]
                if seen.phase is not phases[-1] or not harness.lag:
                    phases.append(seen.phase)
                if seen.phase.is_terminal:
                    break
        assert phases == [*([Phase.STARTING] if harness.lag else []), Phase.RUNNING, Phase.FINISHED]
        assert seen.ended_at is not None
        assert told - seen.ended_at < (LIMIT_SECONDS if harness.lag else PROMPT_SECONDS)

    async def test_two_listeners_hear_the_same(self, harness: Harness, backend: Backend) -> None:
        async with aclosing(listen(backend)) as one, aclosing(listen(backend)) as two:
            await anext(one)
            await anext(two)
            handle = await backend.start(make_request(harness, Program(seconds=FOREVER)))
            for hints in (one, two):
                assert handle in await within(PROMPT_SECONDS + harness.lag, anext(hints))

    # --- output ------------------------------------------------------------------------------------------------------

    async def test_output_is_read_from_any_offset(self, harness: Harness, backend: Backend) -> None:
        prints = b"caf\xe9 \xff\xfe\x00 end"
        handle = await backend.start(make_request(harness, Program(prints=prints)))
        await end_of(backend, handle)
        data = kept(harness, prints)
        for since in (0, 3, len(data) - 1, len(data), len(data) + 10):
            chunks = [chunk async for chunk in backend.logs(handle, since)]
            assert b"".join(chunk.data for chunk in chunks) == data[since:]
            assert [chunk.offset for chunk in chunks[:1]] == [since] * bool(data[since:])
            assert [chunk.end for chunk in chunks[-1:]] == [len(data)] * bool(data[since:])

    async def test_output_comes_in_chunks_that_join(self, harness: Harness, backend: Backend) -> None:
        data = b"0123456789abcdef" * 12_000
        handle = await backend.start(make_request(harness, Program(prints=data[:16_000], seconds=0)))
        length = len(kept(harness, data[:16_000]))
        await end_of(backend, handle)
        position = 0
        async for chunk in backend.logs(handle, follow=True):
            assert chunk.offset == position
            assert 0 < len(chunk.data) <= 64 * 1024
            position = chunk.end
        assert position == length

    async def test_output_is_followed_to_the_end(self, harness: Harness, backend: Backend) -> None:
        handle = await backend.start(make_request(harness, Program(b"first\n", 1.5 + harness.lag, b"last")))
        chunks = [chunk async for chunk in within_each(backend, handle)]
        assert b"".join(chunk for chunk in chunks) == kept(harness, b"first\nlast")
        # Where output comes by way of others, all of it may come at once.
        assert chunks[0] == b"first\n" or (harness.lag and chunks[0].startswith(b"first\n"))
        assert (await end_of(backend, handle)).phase is Phase.FINISHED

    async def test_unknown_launch_has_no_output(self, harness: Harness, backend: Backend) -> None:
        for handle in (harness.handle("launch-unknown"), Handle("unknown")):
            assert await output_of(backend, handle) == b""
            assert [chunk async for chunk in within_each(backend, handle)] == []

    # --- stop --------------------------------------------------------------------------------------------------------

    async def test_stop_is_polite(self, harness: Harness, backend: Backend) -> None:
        handle = await backend.start(make_request(harness, Program(prints=b"up\n", seconds=FOREVER)))
        await printed(backend, handle, b"up\n")
        await backend.stop(handle, 60)
        seen = await end_of(backend, handle)
        assert_stopped(harness, seen, 143, "signal:SIGTERM")

    async def test_stop_kills_what_does_not_listen(self, harness: Harness, backend: Backend) -> None:
        program = Program(prints=b"deaf\n", seconds=FOREVER, ignores_term=True)
        handle = await backend.start(make_request(harness, program))
        await printed(backend, handle, b"deaf\n")
        asked = time.monotonic()
        await backend.stop(handle, 0.3)
        seen = (await backend.observe())[handle]
        if not harness.lag and time.monotonic() - asked < 0.3:  # else its end may be told by then
            assert seen.phase is Phase.RUNNING
        seen = await end_of(backend, handle)
        assert 0.3 <= time.monotonic() - asked < (LIMIT_SECONDS if harness.lag else PROMPT_SECONDS)
        assert_stopped(harness, seen, 137, "signal:SIGKILL")

    async def test_stop_asked_again_does_not_prolong_the_grace(self, harness: Harness, backend: Backend) -> None:
        program = Program(prints=b"deaf\n", seconds=FOREVER, ignores_term=True)
        handle = await backend.start(make_request(harness, program))
        await printed(backend, handle, b"deaf\n")
        await backend.stop(handle, 0.2)
        await backend.stop(handle, 600)
        assert (await end_of(backend, handle)).phase is Phase.STOPPED

    async def test_stop_right_after_the_request_to_start(self, harness: Harness, backend: Backend) -> None:
        request = make_request(harness, Program(seconds=FOREVER))
        starting = asyncio.create_task(backend.start(request))
        await asyncio.sleep(0)
        await backend.stop(harness.handle(request.name), 5)
        assert (await end_of(backend, await starting)).phase is Phase.STOPPED

    async def test_stop_of_what_is_over_or_unknown_does_nothing(self, harness: Harness, backend: Backend) -> None:
        handle = await backend.start(make_request(harness, Program(exit_code=4)))
        before = await end_of(backend, handle)
        await backend.stop(handle, 0)
        await backend.stop(harness.handle("launch-unknown"), 0)
        again = harness.open()
        assert await again.observe() == await backend.observe() == {handle: before}
        await again.close()

    # --- restarts ----------------------------------------------------------------------------------------------------

    async def test_restarted_agent_finds_what_runs_and_its_end(self, harness: Harness, backend: Backend) -> None:
        handle = await backend.start(make_request(harness, Program(b"a", 3.0, b"b", exit_code=3)))
        await backend.close()
        again = harness.open()
        found = (await again.observe())[handle]
        if not harness.lag:  # else it may be over before the agent is back
            assert_runs(harness, found)
        seen = await end_of(again, handle)
        assert (seen.phase, seen.exit_code) == (Phase.FAILED, 3)
        assert await output_of(again, handle) == kept(harness, b"ab")
        await again.close()

    async def test_launch_survives_the_death_of_its_agent(self, harness: Harness, backend: Backend) -> None:
        request = make_request(harness, Program(b"a", 0.5, b"b", exit_code=3))
        await harness.start_and_crash(request)
        handle = await backend.start(request)  # as an agent does that died before it wrote the handle down
        seen = await end_of(backend, handle)
        assert (seen.phase, seen.exit_code) == (Phase.FAILED, 3)
        assert await output_of(backend, handle) == kept(harness, b"ab")

    async def test_restarted_agent_stops_what_it_finds(self, harness: Harness, backend: Backend) -> None:
        program = Program(prints=b"deaf\n", seconds=FOREVER, ignores_term=True)
        handle = await backend.start(make_request(harness, program))
        await printed(backend, handle, b"deaf\n")
        await backend.stop(handle, 0.3)
        await backend.close()
        again = harness.open()
        await again.stop(handle, 0.3)
        assert (await end_of(again, handle)).phase is Phase.STOPPED
        await again.close()

    # --- cleanup -----------------------------------------------------------------------------------------------------

    async def test_cleanup_forgets_what_has_ended(self, harness: Harness, backend: Backend) -> None:
        handle = await backend.start(make_request(harness, Program(b"words")))
        await end_of(backend, handle)
        await backend.cleanup(handle)
        await backend.cleanup(handle)
        assert await backend.observe() == {}
        assert await output_of(backend, handle) == b""
        again = harness.open()
        assert await again.observe() == {}
        await again.close()

    async def test_cleanup_of_what_runs_is_refused(self, harness: Harness, backend: Backend) -> None:
        handle = await backend.start(make_request(harness, Program(seconds=FOREVER)))
        with pytest.raises(BackendError, match="has not ended"):
            await backend.cleanup(handle)
        assert_runs(harness, (await backend.observe())[handle])


async def _put_down(backend: Backend) -> None:
    for handle in await backend.observe():
        await backend.stop(handle, 0)
        await end_of(backend, handle)
        await backend.cleanup(handle)
    await backend.close()


def make_request(harness: Harness, program: Program, name: str = "launch-1") -> StartRequest:
    """Return a request that does this and needs nothing."""
    return harness.complete(StartRequest(name, harness.command(program), {}))


def assert_runs(harness: Harness, seen: Observation) -> None:
    """Assert that a launch runs that was just started, or gets there."""
    assert seen.phase in ({Phase.STARTING, Phase.RUNNING} if harness.lag else {Phase.RUNNING})


def assert_stopped(harness: Harness, seen: Observation, code: int, reason: str) -> None:
    """Assert that a launch was stopped, and ended so as far as its platform tells."""
    assert seen.phase is Phase.STOPPED
    if harness.tells_how_stopped:
        assert (seen.exit_code, seen.reason) == (code, reason)


def kept(harness: Harness, output: bytes) -> bytes:
    """Return output as it is kept there."""
    if not harness.output_is_text or not output:
        return output
    return output.decode(errors="replace").encode() + (b"" if output.endswith(b"\n") else b"\n")


async def observed(backend: Backend, handle: Handle, accept: Callable[[Observation], bool]) -> Observation:
    """Wait until the launch looks so. Listens first and looks then, so that nothing is missed."""
    async with asyncio.timeout(LIMIT_SECONDS), aclosing(listen(backend)) as hints:
        async for _ in hints:
            seen = (await backend.observe()).get(handle)
            if seen and accept(seen):
                return seen
    raise AssertionError("the hints have ended")


async def end_of(backend: Backend, handle: Handle) -> Observation:
    """Wait until the launch has ended."""
    return await observed(backend, handle, lambda seen: seen.phase.is_terminal)


async def printed(backend: Backend, handle: Handle, data: bytes) -> None:
    """Wait until the launch has printed so much."""
    seen = b""
    async with asyncio.timeout(LIMIT_SECONDS):
        async for chunk in backend.logs(handle, follow=True):
            seen += chunk.data
            if len(seen) >= len(data):
                break
    assert seen == data


async def output_of(backend: Backend, handle: Handle) -> bytes:
    """Return what the launch has printed so far."""
    return b"".join([chunk.data async for chunk in backend.logs(handle)])


async def within_each(backend: Backend, handle: Handle) -> AsyncGenerator[bytes]:
    """Follow the launch's output to its end."""
    async with asyncio.timeout(LIMIT_SECONDS):
        async for chunk in backend.logs(handle, follow=True):
            yield chunk.data


async def listen(backend: Backend) -> AsyncGenerator[frozenset[Handle]]:
    """Return the backend's hints as something that can be closed."""
    async for handles in backend.changes():
        yield handles


async def within(seconds: float, work: Awaitable[frozenset[Handle]]) -> frozenset[Handle]:
    """Await, but not for ever."""
    async with asyncio.timeout(seconds):
        return await work
