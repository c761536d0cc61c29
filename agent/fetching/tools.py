"""What a job with requirements finds beside its code: a folder with all that installs them, in the job's own image.

    bin/install         installs them; does nothing where there are none
    bin/run CMD...      runs a command in the environment that was made, if one was needed
    uv                  the agent's own
    install.json        what to install, and with it the programs and files that this takes
    environment/        is made by `bin/install`
    begins_in           in which folder of the code `bin/run` runs the command, where only the code itself tells

The two programs are fixed texts for any shell, and all that they do with words is to pass them on: nothing of a launch
is in them. They are of a shell because an image of jobs has one, and perhaps nothing else that is known.
"""

import json
import shutil
from pathlib import Path

from uv import find_uv_bin

from agent.caches import install_in_image
from agent.caches.environments import needs_code
from agent.copying import copy_code
from agent.fetching import install_there
from agent.fetching.modes import for_all_in, open_up
from agent.requirement_sources import read_sources
from agent.requirements import Requirements, settings_files

RUN = """#!/bin/sh
# Runs a job in the environment that was made for it. Made by `launchbay fetch-code`.
tools="${0%/bin/run}"
if [ -e "$tools/begins_in" ]; then
  IFS= read -r folder < "$tools/begins_in" && cd "./$folder" || exit 1
fi
if [ -d "$tools/environment" ]; then
  export VIRTUAL_ENV="$tools/environment" PATH="$tools/environment/bin:$PATH"
fi
exec "$@"
"""

INSTALL = """#!/bin/sh
# Installs the requirements of a job, in the image of the job. Made by `launchbay fetch-code`.
tools="${0%/bin/install}"

fail() {
  echo "$1" >&2
  [ -w "${LAUNCHBAY_TERMINATION_LOG:=/dev/termination-log}" ] && echo "$1" > "$LAUNCHBAY_TERMINATION_LOG"
  exit 1
}

[ -e "$tools/install.json" ] || exit 0
cd "$tools" || fail "There is nothing at $tools."
export UV_CACHE_DIR="$tools/.cache" UV_NO_EDITABLE=1 UV_NO_PROGRESS=1
export UV_PYTHON_DOWNLOADS=never UV_PYTHON_PREFERENCE=only-system
cannot="The job's requirements cannot be installed in its image:"
"$tools/uv" --version > /dev/null 2>&1 || fail "$cannot uv, which the agent brings, does not run in there. It needs \
glibc and libgcc, and images of Alpine, or without a system, do not have them. Use an image of Debian's kind, or a job \
that is an image."
"$tools/uv" python find --no-project > /dev/null 2>&1 || fail "$cannot there is no Python in its PATH. Use an image \
with one, or a job that is an image."
exec "$tools/uv" run --quiet --no-project install_there.py
"""

CODE = "code"
"""Folder with what of the code is needed for installing."""


def lay_out(tools: Path, requirements: Requirements | None, scratch: str, begins_in: str = "") -> None:
    """Fill the folder. What begins with `scratch` in the folder of the code is not of the code.

    Raises `LaunchFailed` for requirements that reach out of their code. Blocks.
    """
    (tools / "bin").mkdir(parents=True, exist_ok=True)
    for name, text in (("install", INSTALL), ("run", RUN)):
        file = tools / "bin" / name
        file.write_text(text)
        file.chmod(0o755)
    (tools / "begins_in").unlink(missing_ok=True)
    if begins_in:
        (tools / "begins_in").write_text(f"{begins_in}\n")
    wanted = tools / install_there.WANTED
    wanted.unlink(missing_ok=True)
    if requirements is None:
        return
    shutil.rmtree(tools / CODE, ignore_errors=True)
    file = _copy(tools / CODE, requirements, scratch)
    open_up(tools / CODE, for_all_in(tools))
    for program in (install_in_image, install_there):
        file_of = Path(str(program.__file__))
        _bring(file_of, tools / file_of.name, 0o644)
    _bring(Path(find_uv_bin()), tools / "uv", 0o755)
    wanted.write_text(json.dumps({"file": str(file.relative_to(tools)), "is_frozen": requirements.is_frozen}))
    wanted.chmod(0o644)


def _copy(place: Path, requirements: Requirements, scratch: str) -> Path:
    """Copy what is needed; returns the requirements' own file there."""
    code = requirements.code
    if code is None:
        place.mkdir()
        return _bring(requirements.file, place / requirements.file.name, 0o644)
    file = place / requirements.file.relative_to(code)
    if needs_code(requirements):
        # A build may write beside its source.
        copy_code(code, place, ignore=lambda _, names: [name for name in names if name.startswith(scratch)])
        return file
    for each in (*read_sources(requirements).files, *settings_files(requirements)):
        target = place / each.relative_to(code)
        target.parent.mkdir(parents=True, exist_ok=True)
        _bring(each, target, 0o644)
    return file


def _bring(file: Path, target: Path, mode: int) -> Path:
    shutil.copyfile(file, target)
    target.chmod(mode)
    return target
