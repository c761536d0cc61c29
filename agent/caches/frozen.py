"""Installs frozen requirements: as many of them as there are.

They list what happened to be installed where the job was made: packages of that machine alone, builds for its GPU,
things that the job never imports. So what cannot be had does not fail the launch, as it does not with the stock
builder. The launch is told what is missing; if the job needs it, its own error will say so. As the list is complete,
each requirement is installed without its dependencies, and so each by itself or together with others.
"""

import re
from collections.abc import Sequence

from agent.caches.uv import UNOBTAINABLE, Result, Uv
from agent.errors import LaunchFailed
from protocol.masking import without_passwords

MOST_MISSING = 25
"""With more missing than that, something is wrong with the list or the index."""
_LOCAL_VERSION = re.compile(r"(?P<public>[^\s+]+==[^\s+]+)\+\S+")


async def install_frozen(uv: Uv, python: str, text: str) -> list[str]:
    """Install what can be had; returns what cannot, and what there is instead. Raises `LaunchFailed` if uv fails."""
    lines = [line.removeprefix("-e ") for line in map(str.strip, text.splitlines())]
    lines = [line for line in lines if line and not line.startswith(("#", "-"))]
    installation = _Installation(uv, python)
    missing = await installation.install([line for line in lines if "://" not in line])
    for line in lines:
        if "://" in line and not await installation.is_had(line):
            missing.append(without_passwords(line))
    return missing


class _Installation:
    def __init__(self, uv: Uv, python: str) -> None:
        self._uv = uv
        self._python = python
        self._missing = 0

    async def install(self, lines: Sequence[str]) -> list[str]:
        """Install these lines together, or else each half of them so; returns what cannot be had."""
        if not lines:
            return []
        result = await self._try(lines)
        if result.code == 0:
            return []
        if result.code != UNOBTAINABLE:
            raise _failed("uv failed", result)
        if len(lines) > 1:
            half = len(lines) // 2
            return await self.install(lines[:half]) + await self.install(lines[half:])
        self._missing += 1
        if self._missing > MOST_MISSING:
            raise _failed(f"more than {MOST_MISSING} of them are not to be had", result)
        # torch==2.1.0+cu118 is of an index of its own; what the usual index has is the same release.
        build = _LOCAL_VERSION.match(lines[0])
        if build and (await self._try([build["public"]])).code == 0:
            return [f"{lines[0]} (instead: {build['public']})"]
        return [lines[0]]

    async def is_had(self, line: str) -> bool:
        """Install what a line has a URL of, which may well be of the other machine alone; returns whether it worked."""
        return "file:" not in line and (await self._try([line])).code == 0

    async def _try(self, lines: Sequence[str]) -> Result:
        return await self._uv.run(
            *("pip", "install", "--quiet", "--no-deps", "--python", self._python, "--requirements", "-"),
            stdin="\n".join(lines).encode(),
        )


def _failed(why: str, result: Result) -> LaunchFailed:
    words = " ".join(result.output.decode(errors="replace").split())
    return LaunchFailed(
        f"The job's frozen requirements could not be installed ({why}): {words[:600]} The whole output is attached. "
        "A requirements.txt in the job's code is installed instead of them.",
        log=result.output,
        stage="build",
    )
