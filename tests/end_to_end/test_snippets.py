"""The snippets of the guides, unmodified, with the stock client: a process per module of `snippets`."""

import json
from importlib import import_module
from pathlib import Path

import pytest

from tests.end_to_end.conftest import LiveServer
from tests.end_to_end.snippets.checks import MARK, checks_of

pytestmark = [pytest.mark.end_to_end, pytest.mark.newest_client("they are its guides")]

ROOT = Path(__file__).parents[2]
CHECKS = "tests.end_to_end.snippets.checks"
MODULES = sorted(path.stem for path in (Path(__file__).parent / "snippets").glob("[a-z]*.py") if path.stem != "checks")


@pytest.mark.parametrize("name", MODULES)
def test_snippets(server: LiveServer, name: str) -> None:
    module = f"tests.end_to_end.snippets.{name}"
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from {CHECKS} import run; run({name!r})"
    result = server.run_script(code, WANDB_SILENT="true")
    assert result.returncode == 0, result.stdout + result.stderr
    told = next(line for line in result.stdout.splitlines() if line.startswith(MARK))
    outcomes: dict[str, str] = json.loads(told.removeprefix(MARK))
    assert list(outcomes) == [check.__name__ for check in checks_of(import_module(module))]
    failed = "\n".join(f"{check}: {error}" for check, error in outcomes.items() if error)
    assert not failed, failed
