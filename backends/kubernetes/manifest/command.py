"""The command of a launch, in the container that is the job: the launch's own, or the one that the queue names."""

import shlex
from collections.abc import Sequence

from backends.base import StartRequest
from backends.kubernetes.manifest.fields import Fields, text, texts
from backends.kubernetes.manifest.variables import literal


def give_command(container: Fields, request: StartRequest, through: Sequence[str], where: str) -> None:
    """Set what a container runs, by way of the program `through`, if there is one.

    What the launch itself asks for goes before what the queue names, and that before what only the job has.
    """
    own = texts(container, "command", where)
    texts(container, "args", where)
    command = list(map(literal, _program(request)))
    if own and (request.command_yields or not command):
        command = own
    if command:
        container["command"] = [*through, *command]
    if request.args:
        container["args"] = list(map(literal, request.args))


def give_text(parent: Fields, key: str, request: StartRequest, through: Sequence[str], where: str) -> None:
    """Set what runs where that is one text, which a shell may read."""
    own = text(parent, key, where)
    program = shlex.join(_program(request))
    if own and (request.command_yields or not program):
        program = own
    if program:
        parent[key] = " ".join(filter(None, [shlex.join(through), program, shlex.join(request.args)]))


def _program(request: StartRequest) -> Sequence[str]:
    return request.command[: len(request.command) - len(request.args)]
