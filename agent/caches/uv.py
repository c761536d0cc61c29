"""Runs `uv`, in a process group of its own that ends with who asked for it.

Also where the agent is killed: its successor would make the same environment beside it.
"""

import asyncio
import errno
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from uv import find_uv_bin

TIMEOUT_SECONDS = 1800
UNOBTAINABLE = 1
"""uv's exit code where the packages cannot be had as asked for. Another means that something else went wrong."""


NOWHERE = Path("/")
"""A folder where uv finds no settings."""
LAUNCHER = Path(__file__).with_name("dies_with_agent.py")


@dataclass(frozen=True, slots=True)
class Result:
    """How a run of uv ended."""

    code: int
    output: bytes


@dataclass(frozen=True, slots=True)
class Uv:
    """uv, with the variables that it and what it builds may see."""

    environment: Mapping[str, str]

    async def run(self, *arguments: str, cwd: Path = NOWHERE, stdin: bytes = b"") -> Result:
        """Run a command of uv, which reads `stdin`. Raises `OSError` if it fails for want of room on the disk."""
        process = await asyncio.create_subprocess_exec(
            *_dying_with_us(find_uv_bin()),
            *arguments,
            cwd=cwd,
            env=dict(self.environment),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                output, _ = await process.communicate(stdin)
        except TimeoutError:
            return Result(-1, f"No end after {TIMEOUT_SECONDS} seconds.".encode())
        finally:
            # Also when the launch is stopped in the middle: uv and what it started must not go on.
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        code = process.returncode or 0
        for number in (errno.ENOSPC, errno.EDQUOT):
            if code and f"(os error {number})".encode() in output:
                raise OSError(number, os.strerror(number))
        return Result(code, output)


def _dying_with_us(program: str) -> list[str]:
    if sys.platform != "linux":
        return [program]
    return [sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), program]
