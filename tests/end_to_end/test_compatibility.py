"""The table of what works with the stock client says what tests show, and nothing else."""

import re

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
            assert re.search(rf"\.{name}\b", proof.path.read_text("utf-8")), f"{proof.name} does not use {method}"
