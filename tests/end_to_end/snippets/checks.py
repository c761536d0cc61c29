"""What a module of snippets consists of: checks that a process of the stock client does one after the other.

Each is a few lines as users write them, and names the public methods that it shows. `docs/compatibility.md` is made of
these names, so that nothing stands there that no test shows.
"""

import importlib
import json
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeVar

Test = TypeVar("Test", bound=Callable[..., Any])

SHOWS, DIFFERS = "shows", "differs"
MARK = "CHECKED "


def shows(*methods: str) -> Callable[[Test], Test]:
    """Mark a check, or a test, with the public methods whose working it shows: `Api.runs`, `wandb.Run.log`."""
    return _noted(SHOWS, dict.fromkeys(methods, ""))


def differs(method: str, how: str) -> Callable[[Test], Test]:
    """Mark a check that shows how a public method does something else than one would expect of it, or nothing."""
    return _noted(DIFFERS, {method: how})


def _noted(attribute: str, methods: dict[str, str]) -> Callable[[Test], Test]:
    def note(test: Test) -> Test:
        setattr(test, attribute, {**methods, **getattr(test, attribute, {})})
        return test

    return note


def refusal(ask: Callable[[], object], error: type[Exception]) -> str:
    """Return what an attempt says that must fail."""
    try:
        ask()
    except error as problem:
        return str(problem)
    raise AssertionError(f"no {error.__name__} was raised")


def checks_of(module: ModuleType) -> list[Callable[[], Any]]:
    """Return a module's checks in their order: its functions that say what they show."""
    return [value for value in vars(module).values() if hasattr(value, SHOWS) or hasattr(value, DIFFERS)]


def run(name: str) -> None:
    """Do the checks of a module of this package, and print what came of each: nothing, or a traceback."""
    module = importlib.import_module(f"tests.end_to_end.snippets.{name}")
    outcomes: dict[str, str] = {}
    for check in checks_of(module):
        try:
            check()
        except Exception:  # noqa: BLE001 -- whatever it is, the other checks go on
            outcomes[check.__name__] = traceback.format_exc()
        else:
            outcomes[check.__name__] = ""
    print(MARK + json.dumps(outcomes))
