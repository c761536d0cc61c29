"""The Dockerfile of a job that brings none, and the images that a Dockerfile names. Pure.

Two stages: requirements are installed in the first, and the second has them and the code. Code comes last, so that a
change of it changes one layer. The entry point is not in the image: it comes with each launch, so that one image does
for all of them.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from agent.errors import LaunchFailed

HOME = "/home/launch"
"""Where the code is in the image, and where a job runs."""
SOURCE = "src"
"""Where the code is in the build context."""
UV = "uv"
"""The agent's own installer in the build context. It serves the build and is in no layer: the image needs no other."""
_PREFIX = "/opt/launchbay"
_PYTHON = f"{_PREFIX}/env/bin/python"
_FRONTEND = re.compile(r'^\s*(?:#|//)\s*syntax\s*=\s*(\S+)|"syntax"\s*:\s*"([^"]*)"', re.MULTILINE | re.IGNORECASE)
"""BuildKit finds the frontend in comments of two kinds, and in JSON."""
_TAKEN = re.compile(r"\bfrom=([^,\s]+)", re.IGNORECASE)
_ARGUMENT = re.compile(r"[$`'\"\\]")


@dataclass(frozen=True, slots=True)
class Installation:
    """A file of requirements in the build context."""

    file: str
    """Path from the context's root."""
    needs_code: bool = False
    """Whether it names files beside it: then it is installed anew whenever the code changes."""
    is_tolerant: bool = False
    """Whether what cannot be installed is announced and left out: frozen requirements are of another machine."""


def generate(
    *, python: str, base_image: str | None, user_id: int, installation: Installation | None, beginning: str = ""
) -> str:
    """Return a Dockerfile. `python` is a version as `3.11`; the base image must have a Debian-like system.

    `beginning` is the folder of the code in which its commands run; empty for its top.
    """
    # The first has compilers, the second is small, and both are of one release of Debian: what was compiled runs there.
    build = base_image or f"python:{python}-bookworm"
    base = base_image or f"python:{python}-slim-bookworm"
    lines = [
        f"FROM {build} AS build",
        # A base without such a Python gets one beside it, which is copied with the environment.
        f"ENV UV_LINK_MODE=copy UV_NO_PROGRESS=1 UV_PYTHON_INSTALL_DIR={_PREFIX}/python",
        f"RUN {_mount(UV, '/usr/local/bin/uv')} \\",
        f"    uv venv --python {python} {_PREFIX}/env",
        *(_install(installation) if installation else ()),
        "",
        f"FROM {base}",
        f"COPY --from=build {_PREFIX} {_PREFIX}",
        *_user(user_id),
        f"ENV PATH={_PREFIX}/env/bin:$PATH VIRTUAL_ENV={_PREFIX}/env PYTHONUNBUFFERED=1 HOME={HOME}",
        f"COPY --chown={user_id}:0 {SOURCE}/ {HOME}/",
        f"WORKDIR {HOME}/{beginning}".rstrip("/"),
        f"USER {user_id}:0",
    ]
    return "\n".join(lines) + "\n"


def _install(wanted: Installation) -> Iterator[str]:
    folder, _, name = wanted.file.rpartition("/")
    if wanted.needs_code:
        # At the place that it will have in the image: an editable installation points to it.
        where = HOME + folder.removeprefix(SOURCE)
        mount = f"{_mount(SOURCE, HOME)},rw"
    else:
        where, mount = "/tmp/requirements", _mount(wanted.file, f"/tmp/requirements/{name}")  # noqa: S108 -- not here
    command = f"uv pip install --python {_PYTHON} --requirements"
    yield f"RUN {_mount(UV, '/usr/local/bin/uv')} \\"
    yield f"    {mount} \\"
    yield "    --mount=type=cache,target=/root/.cache/uv \\"
    if not wanted.is_tolerant:
        yield f"    cd {where} && {command} {name}"
        return
    yield f"    cd {where} && {command} {name} || \\"
    yield '    while read -r line || [ -n "$line" ]; do \\'
    yield "      printf '%s\\n' \"$line\" > /tmp/one.txt; \\"
    yield f"      {command} /tmp/one.txt || \\"
    yield "        printf 'ERROR: Failed to install: %s. During automated build process.\\n' \"$line\"; \\"
    yield f"    done < {name}"


def _mount(source: str, target: str) -> str:
    return f"--mount=type=bind,source={source},target={target}"


def _user(user_id: int) -> Iterator[str]:
    """Programs want a name and a home for the user; a base image may have one of that number already."""
    if user_id:
        entry = f"launch:x:{user_id}:0:launch:{HOME}:/bin/sh"
        yield f"RUN grep -q '^[^:]*:[^:]*:{user_id}:' /etc/passwd || echo '{entry}' >> /etc/passwd"


def images_of(dockerfile: str) -> list[str]:
    """Return every image that a Dockerfile builds on or takes files from, the frontend that reads it among them.

    `LaunchFailed` if that cannot be told from its text. Says too much rather than too little: what looks like an
    instruction in the middle of a script counts.
    """
    text = dockerfile.replace("\r", "").removeprefix("\ufeff")
    if re.search(r"^\s*#\s*escape\s*=", text, re.MULTILINE | re.IGNORECASE):
        raise _unclear("a Dockerfile may not change its escape character")
    images = [word for pair in _FRONTEND.findall(text) for word in pair if word]
    stages = {"scratch"}
    for words in _instructions(text):
        is_from = words[0].upper() == "FROM"
        rest = [word for word in words[1:] if not (is_from and word.startswith("--"))]
        named = rest[:1] if is_from else _TAKEN.findall(" ".join(rest))
        # A stage may be called as an image is, but is one only from its own line on.
        images += [name for name in named if name.lower() not in stages and not name.isdecimal()]
        if is_from and len(rest) >= 3 and rest[1].upper() == "AS":
            stages.add(rest[2].lower())
    for image in images:
        if _ARGUMENT.search(image):
            raise _unclear(f"a Dockerfile must name them literally, and this one says {image!r}")
    return list(dict.fromkeys(images))


def _unclear(what: str) -> LaunchFailed:
    return LaunchFailed(f"Where images are limited (policy.images of the agent), {what}.", stage="build")


def _instructions(text: str) -> Iterator[list[str]]:
    """Yield the words of every line that may be an instruction, its continuation lines joined."""
    # Comments between continuation lines are left out, as the real parser does.
    lines = [line for line in text.split("\n") if not re.match(r"\s*#", line)]
    for line in re.sub(r"\\[ \t]*\n", "", "\n".join(lines)).split("\n"):
        if words := line.split():
            yield words
