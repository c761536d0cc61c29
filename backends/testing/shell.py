"""A harness for backends whose jobs are processes of this machine: what jobs do is written as small shell scripts."""

import asyncio
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from backends import registry
from backends.base import Backend, Handle, StartRequest
from backends.testing.contract import Program
from protocol.json_types import JsonObject

OWNER = "test"
AGENT = """
import asyncio, json, sys
from pathlib import Path
from backends import registry
from backends.base import StartRequest

async def main():
    order = json.loads(sys.stdin.readline())
    backend = registry.load(order["resource"])(Path(order["state_dir"]), order["owner"], order["config"])
    await backend.start(StartRequest(**order["request"], environment={}))
    print("started", flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


class ShellHarness:
    """See `backends.testing.contract.Harness`. Every backend that it opens is found by its entry point."""

    exact_environment: ClassVar[bool] = True
    code_folder: ClassVar[str | None] = None
    many: ClassVar[int] = 50
    lag: ClassVar[float] = 0.0
    tells_how_stopped: ClassVar[bool] = True
    output_is_text: ClassVar[bool] = False

    def __init__(self, resource: str, state_dir: Path, config: JsonObject | None = None) -> None:
        self.state_dir = state_dir
        self._resource = resource
        self._config = config or {}

    def open(self) -> Backend:
        """See `Harness.open`."""
        return registry.load(self._resource)(self.state_dir, OWNER, self._config)

    def complete(self, request: StartRequest) -> StartRequest:
        """See `Harness.complete`."""
        return request

    def command(self, program: Program) -> Sequence[str]:
        """See `Harness.command`."""
        return shell_command(program)

    def missing_program(self) -> Sequence[str]:
        """See `Harness.missing_program`."""
        return ["no-such-program", "--flag"]

    def handle(self, name: str) -> Handle:
        """See `Harness.handle`."""
        return Handle(name)

    async def start_and_crash(self, request: StartRequest) -> None:
        """See `Harness.start_and_crash`. The agent is a process of its own, and killed."""
        order = {
            "resource": self._resource,
            "config": self._config,
            "state_dir": str(self.state_dir),
            "owner": OWNER,
            "request": {
                "name": request.name,
                "command": list(request.command),
                "image": request.image,
                "resource_args": dict(request.resource_args),
            },
        }
        agent = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", AGENT), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        assert agent.stdin
        assert agent.stdout
        agent.stdin.write(json.dumps(order).encode() + b"\n")
        assert await agent.stdout.readline() == b"started\n"
        agent.kill()
        await agent.wait()

    def in_plain_sight(self) -> bytes:
        """See `Harness.in_plain_sight`. Everything in the state folder, and every command line of the machine."""
        files = [path for path in self.state_dir.rglob("*") if path.is_file()]
        return b"\n".join(
            [
                *(bytes(path) + _contents(path) for path in files),
                *(_contents(path) for path in Path("/proc").glob("[0-9]*/cmdline")),
            ]
        )


def shell_command(program: Program) -> list[str]:
    """Return a command that does this wherever there is a POSIX shell, `env` and `sleep`."""
    if program.shows == "environment":
        return ["/usr/bin/env", "-0"]
    if program.shows == "working_dir":
        return ["/bin/pwd"]
    return sh(
        "trap '' TERM" if program.ignores_term else ":",
        _print(program.prints),
        "exec sleep 1000" if program.seconds is None else f"sleep {program.seconds}" if program.seconds else ":",
        _print(program.last_words),
        f"kill -{int(program.dies_by)} $$" if program.dies_by else f"exit {program.exit_code}",
    )


def sh(*steps: str) -> list[str]:
    """Return the command of a shell script of these steps."""
    return ["/bin/sh", "-c", "\n".join(steps)]


def _print(data: bytes) -> str:
    octal = "".join(f"\\{byte:03o}" for byte in data)
    return f"printf {shlex.quote(octal)}" if data else ":"


def _contents(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has gone in between
        return b""
