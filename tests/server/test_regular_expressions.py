"""What is told of a regular expression before it is looked for."""

from random import Random

import pytest

from server.errors import RequestError
from server.regular_expressions import certain_parts, check, is_found


@pytest.mark.parametrize(
    ("pattern", "parts"),
    [
        ("^run-1.*7$", [["run-1", "7"]]),
        ("ab?c+d{2}", [["a"]]),
        ("foo|^bar[0-9]baz", [["foo"], ["bar", "baz"]]),
        (r"a\.b\d\Qx{2}\E", [["a.b", "x{2}"]]),
        ("x(y|z)w(?P<name>v)", [["x", "w"]]),
        ("x{,2}", [["x{,2}"]]),
        ("foo|[ab]", []),
        ("foo|", []),
        ("(foo)", []),
        ("(?i)RUN-Ökos7|Ask", [["run-", "o", "7"], ["a"]]),
        ("(?s)a.b", [["a", "b"]]),
        ("a(?i)b", []),
        (r"\pNx", []),
        (r"\101x", []),
        ("a.b." * 20, []),
    ],
)
def test_what_a_text_has_in_any_case(pattern: str, parts: list[list[str]]) -> None:
    found, in_small_letters = certain_parts(pattern)
    assert (found, in_small_letters) == (parts, "(?i)" in pattern[:4])


ATOMS = [
    *(
        "a",
        "B",
        "k",
        "S",
        "\u0130",
        "7",
        "-",
        "_",
        " ",
        "ü",
        "{",
        "}",
        "]",
        ",",
        ".",
        "^",
        "$",
        "a{2}",
        "b{0,1}",
        "a{,2}",
        "{2}",
    ),
    *("[ab]", "[^a]", "[]a]", "[a\\]]", "[[a]", "[a[:]", "[(]", "[|]", "[[:alpha:]]", "[^[:^alpha:]x]", "[\\pL]"),
    *(r"\d", r"\W", r"\s", r"\b", r"\B", r"\A", r"\z", r"\n", r"\.", r"\(", r"\)", r"\|", r"\[", r"\\", r"\_", r"\-"),
    *(r"\x61", r"\x{fc}", r"\141", r"\07", r"\C", r"\pL", r"\p{Lu}", r"\PN", r"\Qa.b\E", r"\Q\E", r"\Q(\E", r"\Qab"),
    *("(?i)", "(?s)", "(?U)", "(?m)", "(?i:a)", "(?-i)"),
]
TEXTS = [
    "",
    "a",
    "ab",
    "aab",
    "K",
    "\u212a",
    "\u017f",
    "\u0130",
    "a.b",
    "ü7",
    "AB",
    "a-b",
    "{2}",
    "a{,2}",
    "(a)",
    "[a]",
    "x]a",
    "\\",
    "|",
]


def test_whatever_is_found_has_one_of_the_lists_of_parts() -> None:
    random = Random(8)
    told = 0
    while told < 400:
        pattern = random.choice(["", "(?i)"]) + _expression(random)
        try:
            check(pattern)
        except RequestError:
            continue
        parts, in_small_letters = certain_parts(pattern)
        told += bool(parts)
        spelled = ["".join(random.choices(pattern, k=random.randint(1, 8))) for _ in range(5 if parts else 0)]
        for text in [*TEXTS, *spelled] if parts else []:
            if is_found(pattern, text):
                searched = _small(text) if in_small_letters else text
                assert any(all(part in searched for part in each) for each in parts), (pattern, parts, text)


def _small(text: str) -> str:
    """Return what SQLite makes of a text."""
    return "".join(char.lower() if char.isascii() else char for char in text)


def _expression(random: Random, depth: int = 0) -> str:
    pattern = ""
    for _ in range(random.randint(0, 4)):
        kind = random.random()
        if kind < 0.15 and depth < 2:
            name = f"(?P<n{random.randint(0, 999)}>"
            pattern += random.choice(["(", "(?:", name]) + _expression(random, depth + 1) + ")"
        else:
            pattern += "|" if kind < 0.25 else random.choice(ATOMS)
        if random.random() < 0.25:
            pattern += random.choice(["*", "+", "?", "*?", "{0}", "{0,2}", "{2,}?"])
    return pattern
