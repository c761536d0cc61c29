"""Installs a job's requirements for the Python of its image. Runs in there, by that Python: standard library only, and
nothing newer than Python 3.8.

    uv run --no-project install_in_image.py REQUIREMENTS [frozen]

Leaves in its working folder the environment, unless the image has all of it already, and a file that tells of it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ENVIRONMENT = "environment"
TOLD = "told.json"
UNOBTAINABLE = 1
"""uv's exit code where packages cannot be had as asked for. Another means that something else went wrong."""
MOST_MISSING = 25
"""With more of a frozen list missing than that, something is wrong with the list or the index."""


def main() -> None:
    """Install what the command line asks for."""
    requirements, is_frozen = Path(sys.argv[1]).absolute(), "frozen" in sys.argv[2:]
    uv = os.environ["UV"]  # uv says where it is to what it runs
    os.environ["UV_CACHE_DIR"] = str(Path(os.environ["UV_CACHE_DIR"]).absolute())
    is_needed, missing = not has_all(uv, requirements), []
    if is_needed:
        python = str(Path(ENVIRONMENT, "bin", "python").absolute())
        # It is used under another path than the one under which it is made.
        run(uv, "venv", "--relocatable", "--system-site-packages", "--python", sys.executable, ENVIRONMENT)
        if is_frozen:
            missing = install_frozen(uv, python, requirements)
        else:
            command = (uv, "pip", "install", "--python", python, "--requirements", requirements.name)
            run(*command, cwd=requirements.parent)
    path = os.environ.get("PATH", "").split(":")[1:]  # uv puts the folder of this Python before what it was given
    told = {"is_needed": is_needed, "missing": missing, "path": ":".join(path)}
    Path(TOLD).write_text(json.dumps(told), "utf-8")


def has_all(uv: str, requirements: Path) -> bool:
    """Whether the image's own packages will do: uv itself looks at none of them once there is an environment."""
    command = [uv, "pip", "install", "--dry-run", "--offline", "--break-system-packages", "--python", sys.executable]
    looked = subprocess.run(
        [*command, "--requirements", str(requirements)],
        cwd=requirements.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return looked.returncode == 0 and b"Would make no changes" in looked.stdout


def install_frozen(uv: str, python: str, requirements: Path) -> list[str]:
    """Install what there is of a complete list of packages; returns what there is not."""
    command = (uv, "pip", "install", "--no-deps", "--python", python)
    if subprocess.run([*command, "--requirements", str(requirements)], check=False).returncode == 0:
        return []
    missing: list[str] = []
    for line in map(str.strip, requirements.read_text("utf-8").splitlines()):
        if line and line[0] not in "#-":
            code = subprocess.run([*command, "--", line], check=False).returncode
            if code not in (0, UNOBTAINABLE) or len(missing) >= MOST_MISSING:
                sys.exit(code or UNOBTAINABLE)
            if code:
                missing.append(line)
    return missing


def run(*command: str, cwd: Path | None = None) -> None:
    """Run a command; if it fails, so does this program."""
    code = subprocess.run(command, cwd=cwd, check=False).returncode
    if code != 0:
        sys.exit(code)


if __name__ == "__main__":
    main()
