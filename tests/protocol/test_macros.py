"""Macros: one literal pass."""

from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.json_types import Json
from protocol.launch_spec import parse_launch_spec
from protocol.macros import expand, launch_macros

QUICK = settings(max_examples=15, deadline=None, database=None, derandomize=True)


def test_string_values_are_expanded_and_keys_are_not() -> None:
    value: Json = {"${run_id}": ["${run_id}", 1, None, True, {"a": "x-${run_id}-${image_uri}"}]}
    expected: Json = {"${run_id}": ["r1", 1, None, True, {"a": "x-r1-img"}]}
    assert expand(value, {"run_id": "r1", "image_uri": "img"}) == expected


def test_unknown_macros_and_other_dollars_stay() -> None:
    text = "${HOME} $run_id ${run-id} ${} {{run_id}} $${"
    assert expand(text, {"run_id": "r1"}) == text


@QUICK
@given(text=st.text(alphabet="${}ab\\1", max_size=12))
def test_what_a_macro_gives_is_never_expanded_again(text: str) -> None:
    assert expand("<${a}>", {"a": text, "b": "B", "ab": "AB"}) == f"<{text}>"


def test_macros_of_a_launch_keep_the_projects_spelling_and_leave_out_what_is_not_known() -> None:
    raw: dict[str, Json] = {"entity": "team", "project": "Proj", "image_uri": "img"}
    assert launch_macros(parse_launch_spec(raw), "r1", None) == {
        "project_name": "Proj",
        "entity_name": "team",
        "run_id": "r1",
    }
    full = launch_macros(parse_launch_spec({**raw, "name": "exp", "author": "alice"}), "r1", "img")
    assert (full["run_name"], full["author"], full["image_uri"]) == ("exp", "alice", "img")
