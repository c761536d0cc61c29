"""The table of what works with the stock client says what tests show, and nothing else."""

import ast
import re
from functools import cache
from pathlib import Path

from tests import compatibility
from tests.compatibility import PAGE, proofs, public_methods


def test_the_table_is_up_to_date() -> None:
    assert PAGE.read_text("utf-8") == compatibility.page(), "run `python -m tests.compatibility`"


def test_what_a_test_claims_to_show_exists_and_is_used_there() -> None:
    shown = proofs()
    assert sorted(shown.keys() - set(public_methods())) == []
    for method, found in shown.items():
        for proof in found:
            name = method.rpartition(".")[2]
            assert re.search(rf"\.{name}\b", _code(proof.path, proof.name)), f"{proof.name} does not use {method}"


@cache
def _parts(module: Path) -> dict[str, str]:
    """Return the code of each function, without its marks, and of each constant of a module."""
    parts: dict[str, str] = {}
    for node in ast.parse(module.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.decorator_list.clear()
            parts[node.name] = ast.unparse(node)
        elif isinstance(node, ast.Assign):
            parts.update((target.id, ast.unparse(node)) for target in node.targets if isinstance(target, ast.Name))
    return parts


def _code(module: Path, name: str) -> str:
    """Return the code of a test, with that of the helpers and the scripts in its module which it uses."""
    parts, used, waiting = _parts(module), dict[str, str](), {name}
    while waiting:
        part = waiting.pop()
        used[part] = parts[part]
        waiting |= parts.keys() & set(re.findall(r"\w+", parts[part])) - used.keys()
    return "\n".join(used.values())
