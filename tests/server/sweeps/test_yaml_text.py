"""Whatever YAML is sent, the answer is JSON or an error that says why not; and it comes soon."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import RequestError
from server.sweeps.yaml_text import load


def _doublings(levels: int) -> str:
    """Return aliases that stand for two to the power of `levels` values."""
    lines = ["x0: &x0 [1, 1]"]
    lines += [f"x{level}: &x{level} [*x{level - 1}, *x{level - 1}]" for level in range(1, levels)]
    return "\n".join(lines)


def test_dates_become_text_and_so_do_keys() -> None:
    assert load("{1: [2024-01-31, 2024-01-31T10:00:00], null: 1.5}") == {
        "1": ["2024-01-31", "2024-01-31T10:00:00"],
        "None": 1.5,
    }


def test_an_alias_is_followed() -> None:
    assert load("{a: &a {min: 0, max: 1}, b: *a}") == {"a": {"min": 0, "max": 1}, "b": {"min": 0, "max": 1}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is not YAML"),
        ("a: 2024-13-01", "is not YAML: month must be in 1..12"),
        ("a: " + "9" * 5000, "is not YAML"),
        ("a: 0x" + "f" * 5000, "whole number of over 300 digits. Write a smaller one"),
        ("a: !!python/object:os.system {}", "is not YAML"),
        ("[" * 70 + "]" * 70, "deeper than 64 levels, or contains itself. Flatten it"),
        ("[" * 3000, "deeper than 64 levels, or contains itself. Flatten it"),
        ("&a {parameters: *a}", "deeper than 64 levels, or contains itself. Flatten it"),
        (_doublings(30), "over 100,000 values, its aliases followed. Make it smaller"),
        ("a: !!set {b}", "value of type set, which is no JSON. Use text, numbers"),
        ("a: !!binary aGk=", "value of type bytes, which is no JSON. Use text, numbers"),
    ],
    ids=lambda given: given[:24],
)
def test_what_cannot_be_json_is_told(text: str, message: str) -> None:
    with pytest.raises(RequestError) as raised:
        load(text)
    assert message in str(raised.value)


@given(st.text(alphabet="{}[]:,-&*!#|> \n\"'ab01.~<", max_size=40))
def test_any_text_is_json_or_an_error_of_the_request(text: str) -> None:
    try:
        value = load(text)
    except RequestError:
        return
    assert json.loads(json.dumps(value, allow_nan=True)) == value
