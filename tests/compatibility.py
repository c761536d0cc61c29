"""Makes `docs/compatibility.md` of the tests' marks: `python -m tests.compatibility`."""

import inspect
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import wandb
from wandb.apis import public
from wandb.apis.public import registries, sweeps

from tests.end_to_end.snippets.checks import DIFFERS, SHOWS

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "compatibility.md"
TESTS = ROOT / "tests" / "end_to_end"

HEAD = f"""\
# What works with the stock client

Every public method of `wandb` {wandb.__version__}, as the tests show it with the stock client against this server: it
*works*, it *differs* and how, or *not yet*: no test shows it. This page is made of the tests by
`python -m tests.compatibility`; a test keeps it up to date. The links lead to the files that show it.
"""
CLASSES: dict[str, tuple[str, type]] = {
    "Api": ("The public API", wandb.Api),
    "Runs": ("Lists of runs", public.Runs),
    "Run": ("A run of the public API", public.Run),
    "File": ("A file of a run", public.File),
    "wandb.Run": ("A run while it runs", wandb.Run),
    "Artifact": ("Artifacts", wandb.Artifact),
    "ArtifactType": ("Types of artifacts", public.ArtifactType),
    "ArtifactCollection": ("Collections of artifacts", public.ArtifactCollection),
    "Registry": ("Registries", registries.Registry),
    "Registries": ("Lists of registries", registries.Registries),
    "Project": ("Projects", public.Project),
    "Sweep": ("Sweeps", public.Sweep),
    "Agent": ("Agents of sweeps", sweeps.Agent),
    "Job": ("Jobs", public.Job),
    "RunQueue": ("Launch queues", public.RunQueue),
    "QueuedRun": ("Queued launches", public.QueuedRun),
    "BetaReport": ("Reports", public.BetaReport),
    "User": ("Users", public.User),
    "Team": ("Teams", public.Team),
    "Member": ("Members of teams", public.Member),
}
"""How rows name a class -> its heading, and the class itself."""
FUNCTIONS = ("init", "finish", "login", "log", "save", "restore", "sweep", "agent", "controller", "setup")
"""Of the module `wandb` itself; the others are methods of the run that goes on, under a shorter name."""

NO_TEST = {
    "wandb.Run.watch": "no test, as torch is too large for the tests",
    "wandb.Run.unwatch": "no test, as torch is too large for the tests",
}
"""Why no test shows a method."""


@dataclass(frozen=True, slots=True)
class Proof:
    """A test that shows something of a method."""

    path: Path
    name: str
    how: str
    """In what the method differs; empty if it works."""

    @property
    def link(self) -> str:
        """Return a link from the page to it."""
        words = self.name.removeprefix("test_").replace("_", " ")
        return f"[{words}](../{self.path.relative_to(ROOT)})"


def public_methods() -> list[str]:
    """Return the public methods and properties, as rows name them."""
    found = [f"wandb.{name}" for name in FUNCTIONS]
    for name, (_, of_class) in CLASSES.items():
        found += [f"{name}.{member}" for member in sorted(_members(of_class))]
    return found


def _members(of_class: type) -> Iterator[str]:
    for member, value in inspect.getmembers_static(of_class):
        defined_in = next(parent for parent in of_class.__mro__ if member in vars(parent))
        is_method = (
            callable(value) or isinstance(value, property | classmethod | staticmethod) or hasattr(value, "func")
        )
        if is_method and not member.startswith("_") and defined_in is of_class and not inspect.isclass(value):
            yield member


def proofs() -> dict[str, list[Proof]]:
    """Return what the tests show of each method that they name."""
    found: dict[str, list[Proof]] = defaultdict(list)
    for path in sorted([*TESTS.glob("test_*.py"), *TESTS.glob("snippets/[a-z]*.py")]):
        module = import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
        for test in vars(module).values():
            if getattr(test, "__module__", None) == module.__name__:
                told: dict[str, str] = {**getattr(test, SHOWS, {}), **getattr(test, DIFFERS, {})}
                for method, how in told.items():
                    found[method].append(Proof(path, test.__name__, how))
    return found


def page() -> str:
    """Return the page's text."""
    shown = proofs()
    parts = [HEAD]
    groups: dict[str, list[str]] = defaultdict(list)
    for method in public_methods():
        groups[method.rpartition(".")[0]].append(method)
    for group, methods in groups.items():
        title = CLASSES[group][0] if group in CLASSES else "The module"
        rows = [f"| `{method}` | {_verdict(method, shown.get(method, []))} |" for method in methods]
        parts.append("\n".join([f"## {title}", "", "| method | | shown by |", "| --- | --- | --- |", *rows, ""]))
    return "\n".join(parts)


def _verdict(method: str, found: list[Proof]) -> str:
    if not found:
        return f"not yet: {NO_TEST[method]} |" if method in NO_TEST else "not yet |"
    hows = "; ".join(proof.how for proof in found if proof.how)
    links = ", ".join(proof.link for proof in found)
    return f"{f'differs: {hows}' if hows else 'works'} | {links}"


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), "utf-8")


if __name__ == "__main__":
    main()
