"""A backend in memory, for tests: it does what a script says, and what the test tells it.

The platform and the backend are two objects, as they are in life: several backends can be opened on one platform, one
after the other as an agent restarts, and find the same launches. Time is the event loop's, so it can be virtual.
"""

import asyncio
import signal
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field, replace
from typing import Any

from backends.base import (
    BackendError,
    BackendUnavailable,
    Capabilities,
    Handle,
    LogChunk,
    Observation,
    Phase,
    Snapshot,
    StartRequest,
)
from backends.hints import Hints

CHUNK_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Behavior:
    """What a launch does by itself."""

    seconds: float | None = None
    """How long it runs; None: until the test or `stop` ends it."""
    output: bytes = b""
    """Written at its start."""
    last_output: bytes = b""
    """Written at its end."""
    exit_code: int = 0
    reason: str = ""
    message: str = ""
    ignores_term: bool = False
    waits_for: str = ""
    """What it says while it is starting, until the test lets it `begin`."""


@dataclass(slots=True, eq=False)
class _Launch:
    behavior: Behavior
    observation: Observation
    output: bytearray = field(default_factory=bytearray)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once at the next change, and then replaced."""
    stop_requested: bool = False
    timers: list[asyncio.TimerHandle] = field(default_factory=list[asyncio.TimerHandle])


class FakePlatform:
    """Where fake launches run. `script` says what each does; without one they run until they are ended."""

    def __init__(
        self,
        script: Callable[[StartRequest], Behavior] = lambda request: Behavior(),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.started: list[StartRequest] = []
        """Every launch that was really started, in order."""
        self.error: BackendError | BackendUnavailable | None = None
        """Raised by every call while it is set."""
        self.hints = Hints()
        self._script = script
        self._clock = clock
        self._launches: dict[Handle, _Launch] = {}

    def write(self, handle: Handle, data: bytes) -> None:
        """Add to a launch's output."""
        launch = self._launches[handle]
        launch.output += data
        _wake(launch)

    def begin(self, handle: Handle) -> None:
        """Let a launch run that waits."""
        launch = self._launches[handle]
        launch.observation = replace(launch.observation, phase=Phase.RUNNING, message="", started_at=self._clock())
        _wake(launch)
        self.hints.publish(handle)

    def say(self, handle: Handle, **said: Any) -> None:
        """Say something else of a launch: fields of its observation."""
        launch = self._launches[handle]
        launch.observation = replace(launch.observation, **said)
        self.hints.publish(handle)

    def end(self, handle: Handle, exit_code: int = 0, *, reason: str = "", message: str = "") -> None:
        """End a launch by itself; one that was asked to stop ends as stopped."""
        launch = self._launches[handle]
        phase = Phase.STOPPED if launch.stop_requested else Phase.FAILED if exit_code else Phase.FINISHED
        self._move(handle, phase, exit_code, reason, message)

    def preempt(self, handle: Handle) -> None:
        """Take a launch away."""
        self._move(handle, Phase.PREEMPTED, None, "preempted", "The platform took it away.")

    def lose(self, handle: Handle) -> None:
        """Let a launch end without a trace."""
        self._move(handle, Phase.LOST, None, "", "It is gone.")

    def remove(self, handle: Handle) -> None:
        """Remove a launch as a stranger would, whatever its phase; unknown ones are fine."""
        if launch := self._launches.pop(handle, None):
            _cancel_timers(launch)
            _wake(launch)
            self.hints.publish(handle)

    def start(self, request: StartRequest) -> Handle:
        """Start a launch unless its name is taken."""
        handle = Handle(request.name)
        if handle in self._launches:
            return handle
        self.started.append(request)
        behavior = self._script(request)
        observation = Observation(Phase.RUNNING, started_at=self._clock(), labels=dict(request.labels))
        if behavior.waits_for:
            observation = replace(observation, phase=Phase.STARTING, started_at=None, message=behavior.waits_for)
        launch = self._launches[handle] = _Launch(behavior, observation, bytearray(behavior.output))
        if behavior.seconds is not None:
            loop = asyncio.get_running_loop()
            launch.timers.append(loop.call_later(behavior.seconds, self._end_by_itself, handle))
        self.hints.publish(handle)
        return handle

    def stop(self, handle: Handle, grace_seconds: float) -> None:
        """Send TERM, and KILL after the grace period."""
        launch = self.find(handle)
        if launch is None or launch.observation.phase.is_terminal or launch.stop_requested:
            return
        launch.stop_requested = True
        number = signal.SIGKILL if launch.behavior.ignores_term else signal.SIGTERM
        delay = grace_seconds if launch.behavior.ignores_term else 0.0
        loop = asyncio.get_running_loop()
        launch.timers.append(loop.call_later(delay, self._die, handle, number))

    def find(self, handle: Handle) -> _Launch | None:
        """Return a launch, or None."""
        return self._launches.get(handle)

    def snapshot(self) -> Snapshot:
        """Return what every launch looks like."""
        return {handle: launch.observation for handle, launch in self._launches.items()}

    def _end_by_itself(self, handle: Handle) -> None:
        behavior = self._launches[handle].behavior
        self._launches[handle].output += behavior.last_output
        self.end(handle, behavior.exit_code, reason=behavior.reason, message=behavior.message)

    def _die(self, handle: Handle, number: signal.Signals) -> None:
        self.end(handle, 128 + number, reason=f"signal:{number.name}")

    def _move(self, handle: Handle, phase: Phase, exit_code: int | None, reason: str, message: str) -> None:
        launch = self._launches[handle]
        if launch.observation.phase.is_terminal:
            raise AssertionError(f"{handle} has ended already, as {launch.observation.phase}")
        launch.observation = replace(
            launch.observation,
            phase=phase,
            exit_code=exit_code,
            reason=reason,
            message=message,
            ended_at=self._clock(),
        )
        _cancel_timers(launch)
        _wake(launch)
        self.hints.publish(handle)


class FakeBackend:
    """See `backends.base.Backend`. What it can do is what the test says."""

    def __init__(self, platform: FakePlatform, capabilities: Capabilities | None = None) -> None:
        self._platform = platform
        self._capabilities = capabilities or Capabilities(runs_locally=True)

    @property
    def capabilities(self) -> Capabilities:
        """See `Backend.capabilities`."""
        return self._capabilities

    async def start(self, request: StartRequest) -> Handle:
        """See `Backend.start`."""
        self._reach()
        return self._platform.start(request)

    async def observe(self) -> Snapshot:
        """See `Backend.observe`."""
        self._reach()
        return self._platform.snapshot()

    def changes(self) -> AsyncGenerator[frozenset[Handle]]:
        """See `Backend.changes`. Yields once at once."""
        return self._platform.hints.listen(frozenset(self._platform.snapshot()))

    async def stop(self, handle: Handle, grace_seconds: float) -> None:
        """See `Backend.stop`."""
        self._reach()
        self._platform.stop(handle, grace_seconds)

    async def logs(self, handle: Handle, since: int = 0, *, follow: bool = False) -> AsyncGenerator[LogChunk]:
        """See `Backend.logs`."""
        while launch := self._platform.find(handle):
            self._reach()
            changed, ended = launch.changed, launch.observation.phase.is_terminal
            data = bytes(launch.output[since : since + CHUNK_BYTES])
            if data:
                yield LogChunk(since, data)
                since += len(data)
            elif ended or not follow:
                return
            else:
                await changed.wait()

    async def cleanup(self, handle: Handle) -> None:
        """See `Backend.cleanup`. Raises `BackendError` if the launch has not ended."""
        self._reach()
        launch = self._platform.find(handle)
        if launch and not launch.observation.phase.is_terminal:
            raise BackendError(f"The launch {handle} has not ended; stop it before it is cleaned up.")
        self._platform.remove(handle)

    async def close(self) -> None:
        """See `Backend.close`."""

    def _reach(self) -> None:
        if self._platform.error:
            raise self._platform.error


def _wake(launch: _Launch) -> None:
    launch.changed.set()
    launch.changed = asyncio.Event()


def _cancel_timers(launch: _Launch) -> None:
    for timer in launch.timers:
        timer.cancel()
