"""Has the requirements of a job installed in its image. Runs in there, by the Python of the image, beside
`install_in_image.py`: standard library only, and nothing newer than Python 3.8.

Says on the way what happens, and leaves why it failed where the platform looks for that.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import deque
from pathlib import Path

WANTED = "install.json"
TOLD = "told.json"
TERMINATION_LOG = "LAUNCHBAY_TERMINATION_LOG"
PROGRAM = "install_in_image.py"
ENVIRONMENT = "environment"
QUOTED_CHARS = 600


def main() -> None:
    """Install what is wanted in this folder."""
    wanted = json.loads(Path(WANTED).read_text("utf-8"))
    environment = dict(os.environ)
    if "LAUNCHBAY_CACHE" in environment:
        # Files of one account are not for another to write.
        environment["UV_CACHE_DIR"] = str(Path(environment["LAUNCHBAY_CACHE"], f"uv-{os.getuid()}"))
        environment["UV_LINK_MODE"] = "copy"  # it is another disk
    frozen = ["frozen"] if wanted["is_frozen"] else []
    command = [sys.executable, PROGRAM, wanted["file"], *frozen]
    shutil.rmtree(ENVIRONMENT, ignore_errors=True)  # of a try before
    code, said = run(command, environment)
    shutil.rmtree(".cache", ignore_errors=True)
    if code != 0:
        fail(f"The job's requirements could not be installed: {quoted(said) or f'it ended with code {code}'}")
    missing = json.loads(Path(TOLD).read_text("utf-8"))["missing"]
    if missing:
        sys.stdout.write(f"{len(missing)} of its frozen requirements cannot be installed: {', '.join(missing)}\n")


def run(command: list[str], environment: dict[str, str]) -> tuple[int, list[str]]:
    """Run a command, passing on what it says; returns its code and its last lines."""
    said: deque[str] = deque(maxlen=100)
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace"
    ) as process:
        for line in process.stdout or ():
            sys.stdout.write(line)
            sys.stdout.flush()
            said.append(line)
    return process.returncode, list(said)


def quoted(said: list[str]) -> str:
    """Return what uv says of an error: from where that begins, or else the last line."""
    begins = [place for place, line in enumerate(said) if line.lstrip().startswith(("error:", "\u00d7"))]
    words = " ".join("".join(said[begins[-1] if begins else -1 :]).split())
    return words if len(words) <= QUOTED_CHARS else words[:QUOTED_CHARS] + "..."


def fail(why: str) -> None:
    """End with a sentence for people."""
    try:
        # Nothing but what the platform has put there.
        with Path(os.environ.get(TERMINATION_LOG) or "/dev/termination-log").open("r+") as file:
            file.write(why[:4000] + "\n")
            file.truncate()
    except OSError:
        pass
    sys.exit(why)


if __name__ == "__main__":
    main()
