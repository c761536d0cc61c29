"""The snippets of the guides, unmodified, with the stock client: a test and a process for each."""

import ast
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.end_to_end.conftest import LiveServer
from tests.end_to_end.snippets.checks import DIFFERS, MADE, SHOWS

pytestmark = [pytest.mark.end_to_end, pytest.mark.newest_client("they are its guides")]

ROOT = Path(__file__).parents[2]
SNIPPETS = Path(__file__).parent / "snippets"
PACKAGE = "tests.end_to_end.snippets"


def checks() -> Iterator[tuple[str, str]]:
    """Find each check and its module. They are not imported: what some of them import takes seconds."""
    for path in sorted(SNIPPETS.glob("[a-z]*.py")):
        for statement in ast.parse(path.read_text()).body:
            if isinstance(statement, ast.FunctionDef) and any(map(_is_mark, statement.decorator_list)):
                yield path.stem, statement.name


def _is_mark(decorator: ast.expr) -> bool:
    return isinstance(decorator, ast.Call) and ast.unparse(decorator.func) in (SHOWS, DIFFERS)


@pytest.mark.parametrize(("module", "check"), [pytest.param(*each, id="-".join(each)) for each in checks()])
def test_snippet(server: LiveServer, tmp_path: Path, module: str, check: str) -> None:
    source = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from {PACKAGE} import {module}; {module}.{check}()"
    result = replace(server, folder=tmp_path).run_script(source, WANDB_SILENT="true", **{MADE: str(server.folder)})
    assert result.returncode == 0, f"stdout:\n{result.stdout}\nstderr:\n{result.stderr}"
