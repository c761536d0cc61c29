"""The resource `nice-process`: processes of this machine that run when nobody else wants the CPUs.

Its block of the agent's configuration may hold `niceness`, from 0 to 19 (the least wanted).
"""

import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

from backends import registry
from backends.base import Backend, BackendError, Capabilities, Handle, LogChunk, Snapshot, StartRequest
from protocol.json_types import JsonObject

DEFAULT_NICENESS = 10
NICENESS = range(20)


def create(state_dir: Path, owner: str, config: JsonObject) -> Backend:
    """Return the backend whose launches are kept under `state_dir`. The entry point names this function."""
    niceness = config.get("niceness", DEFAULT_NICENESS)
    if config.keys() - {"niceness"} or type(niceness) is not int or niceness not in NICENESS:
        raise BackendError(f"nice-process takes `niceness`, an integer from 0 to 19; its configuration is {config}.")
    return NiceProcessBackend(registry.load("local-process")(state_dir, owner, {}), niceness)


class NiceProcessBackend:
    """See `backends.base.Backend`. Another backend does the work; this one changes what is started."""

    def __init__(self, processes: Backend, niceness: int) -> None:
        self._processes = processes
        self._niceness = niceness

    @property
    def capabilities(self) -> Capabilities:
        """See `Backend.capabilities`."""
        return self._processes.capabilities

    async def start(self, request: StartRequest) -> Handle:
        """See `Backend.start`."""
        # A program that is not there is started as it is: so the failure is told of the program, not of `nice`. Nothing
        # is awaited before the start is under way, or a stop that comes right after it would find nothing to stop.
        if _is_there(request):
            command = ["/usr/bin/nice", "-n", str(self._niceness), "--", *request.command]
            request = replace(request, command=command)
        return await self._processes.start(request)

    async def observe(self) -> Snapshot:
        """See `Backend.observe`."""
        return await self._processes.observe()

    def changes(self) -> AsyncIterator[frozenset[Handle]]:
        """See `Backend.changes`."""
        return self._processes.changes()

    async def stop(self, handle: Handle, grace_seconds: float) -> None:
        """See `Backend.stop`. The command takes the place of `nice`, so signals reach it."""
        await self._processes.stop(handle, grace_seconds)

    def logs(self, handle: Handle, since: int = 0, *, follow: bool = False) -> AsyncIterator[LogChunk]:
        """See `Backend.logs`."""
        return self._processes.logs(handle, since, follow=follow)

    async def cleanup(self, handle: Handle) -> None:
        """See `Backend.cleanup`."""
        await self._processes.cleanup(handle)

    async def close(self) -> None:
        """See `Backend.close`."""
        await self._processes.close()


def _is_there(request: StartRequest) -> bool:
    """Whether the command's program can be found as the job will look for it."""
    program = request.command[0] if request.command else ""
    if "/" in program:
        return os.access((request.working_dir or Path("/")) / program, os.X_OK)
    return shutil.which(program, path=request.environment.get("PATH", os.defpath)) is not None
