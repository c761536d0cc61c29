"""Variables, and words that a cluster must not read anything into."""

from collections.abc import Iterable, Mapping

from backends.base import StartRequest
from backends.kubernetes.manifest.fields import Fields, default, entries, text
from backends.kubernetes.manifest.secrets import references
from protocol.errors import SpecError

RUN_ID = "WANDB_RUN_ID"
API_KEY = "WANDB_API_KEY"
CONFIG = "WANDB_CONFIG"
_UNNEEDED_FOR_CODE = (CONFIG, "WANDB_LAUNCH_FILE_OVERRIDES", "WANDB_ARTIFACTS")
"""How the names of variables begin that may be long, and that only the job itself reads."""


def literal(word: str) -> str:
    """Return a word so that a cluster leaves it as it is: it would fill in `$(NAME)`, and read `$$` as one dollar."""
    return word.replace("$", "$$") if "$(" in word or "$$" in word else word


def plain(variables: Mapping[str, str]) -> list[Fields]:
    """Return entries of `env` with these values."""
    for name in variables:
        if not name or "=" in name or "\0" in name + variables[name]:
            raise SpecError(f"The launch has a variable {name!r} that cannot be set.")
    return [{"name": name, "value": literal(value)} for name, value in variables.items()]


def of_launch(request: StartRequest, *, is_leader: bool) -> list[Fields]:
    """Return what the job itself is given.

    Of the parts of a distributed job only one is the run: as with the stock agent, the others get no id.
    """
    given = {name: value for name, value in request.environment.items() if is_leader or name != RUN_ID}
    return [
        *plain({name: value for name, value in given.items() if name not in request.secrets}),
        *references(request.name, request.secrets),
    ]


def of_code(request: StartRequest) -> Mapping[str, str]:
    """Return those of the launch's variables that help to fetch its code."""
    return {name: value for name, value in request.environment.items() if not name.startswith(_UNNEEDED_FOR_CODE)}


def of_service(request: StartRequest) -> list[Fields]:
    """Return what is given to everything that a launch has beside itself."""
    config = {name: value for name, value in request.environment.items() if name.startswith(CONFIG)}
    key = {name: value for name, value in request.secrets.items() if name == API_KEY}
    return [*plain(config), *references(request.name, key)]


def give(container: Fields, variables: Iterable[Fields], where: str) -> None:
    """Give a container variables, in place of those that it has under the same names.

    They come first, so that what a queue has written can refer to them. What it has written twice counts as it stands
    last: a cluster would not take both.
    """
    own: dict[str, Fields] = {}
    for place, each in enumerate(entries(container, "env", where)):
        name = text(each, "name", f"{where}.env[{place}]")
        own.pop(name, None)
        own[name] = each
    given = list(variables)
    container["env"] = [*given, *(own[name] for name in own if all(name != each["name"] for each in given))]


def give_default(container: Fields, name: str, value: str, where: str) -> None:
    """Give a container a variable, if it does not have it."""
    default(container, "env", [])
    if not any(each.get("name") == name for each in entries(container, "env", where)):
        container["env"].append({"name": name, "value": value})
