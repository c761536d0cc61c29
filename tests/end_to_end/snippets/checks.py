"""What a module of snippets consists of: checks, which `test_snippets.py` does in a process and a folder for each.

Each is a few lines as users write them, and names the public methods that it shows. `docs/compatibility.md` is made of
these names, so that nothing stands there that no test shows.

What a check changes, it has made itself. What several only read is made `once`.
"""

import os
import traceback
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

Test = TypeVar("Test", bound=Callable[..., Any])

SHOWS, DIFFERS = "shows", "differs"
MADE = "LAUNCHBAY_SNIPPETS_MADE"
"""The variable that names the folder which tells what has been made on a server."""


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


def once(make: Callable[[], None]) -> Callable[[], None]:
    """Make something on the server in the first process that wants it; the others find it there.

    If that fails, it fails all who want it, and in the same way.
    """

    @wraps(make)
    def made() -> None:
        outcome = Path(os.environ[MADE], f"{make.__module__}.{make.__name__}")
        if not outcome.exists():
            try:
                make()
            except BaseException:
                outcome.write_text(traceback.format_exc())
                raise
            outcome.touch()
        problem = outcome.read_text()
        assert not problem, f"another process could not make it:\n{problem}"

    return made


def refusal(ask: Callable[[], object], error: type[Exception]) -> str:
    """Return what an attempt says that must fail."""
    try:
        ask()
    except error as problem:
        return str(problem)
    raise AssertionError(f"no {error.__name__} was raised")
