"""What a forked process does until it is the job. It runs in a copy of the keeper, where every touched page costs."""

from __future__ import annotations

import json
import os
import resource
import signal

import groups
from files import WORK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from wire import Request

READY = b"ready"
TEXT_LIMIT = 500
LIMIT = resource.getrlimit(resource.RLIMIT_NOFILE)
"""How many files a job may open: as many as the agent. Read before the keeper raises its own limit."""


def become(request: Request, record: int, output: int, report: int, go: int, top: int) -> NoReturn:
    """Prepare everything, say so through `report`, wait for the word from `go`, and become the job.

    What goes wrong is said through `report`, too; that pipe ends empty when the job's program runs. `top` is the
    highest open file.
    """
    code, doing, program, folder = 126, "bad_working_dir", "", ""
    try:
        program, folder = request["command"][0], request["working_dir"] or f"{request['folder']}/{WORK}"
        signal.set_wakeup_fd(-1)
        os.setsid()
        os.dup2(output, 1)
        os.dup2(output, 2)
        # Nothing of other launches, however long this one takes: neither their locks nor the pipes on which they wait.
        low = 3
        for kept in sorted((record, report, go)):
            os.closerange(low, kept)
            low = kept + 1
        os.closerange(low, top + 1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a stop counts from now on; the others change with the program
        resource.setrlimit(resource.RLIMIT_NOFILE, LIMIT)
        if not request["working_dir"] and not os.path.isdir(folder):
            os.mkdir(folder)
        os.chdir(folder)
        doing = "bad_control_group"
        groups.join(request["groups"])
        doing = "not_executable"
        os.write(report, READY)
        if not os.read(go, 1):
            os._exit(128 + signal.SIGTERM)
        _execute(request["command"], request["environment"])
    except (OSError, ValueError) as error:
        if doing == "not_executable" and isinstance(error, (FileNotFoundError, NotADirectoryError)):
            code, doing = 127, "not_found"
        what = repr(program)
        if doing == "bad_working_dir":
            what = f"the folder {folder!r}"
        elif doing == "bad_control_group":
            what = f"the control group {getattr(error, 'filename', '')!r}"
        text = f"The job could not be started: {what}: {getattr(error, 'strerror', None) or error}."[:TEXT_LIMIT]
        os.write(2, text.encode(errors="replace") + b"\n")
        os.write(report, json.dumps({"reason": doing, "message": text}, ensure_ascii=False).encode(errors="replace"))
    finally:
        os._exit(code)


def _execute(command: list[str], environment: dict[str, str]) -> NoReturn:
    """Become a program, looked for in the job's own PATH. `os.execvpe` would import a module first, in every job."""
    folders = [""] if "/" in command[0] else environment.get("PATH", os.defpath).split(":")
    missing = OSError()
    refused: OSError | None = None
    for folder in folders:
        try:
            os.execve(os.path.join(folder, command[0]), command, environment)
        except (FileNotFoundError, NotADirectoryError) as error:
            missing = error
        except OSError as error:
            refused = refused or error
    raise refused or missing
