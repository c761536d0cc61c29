"""Macros in resource args."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.json_types import Json
from protocol.launch_spec import parse_launch_spec
from protocol.macros import expand, launch_macros

MACROS = {"run_id": "r1", "author": "${run_id}", "empty": ""}
SPEC: dict[str, Json] = {"entity": "team", "project": "Proj", "job": "team/jobs/train:v3"}


@pytest.mark.parametrize(
    ("value", "expanded"),
    [
        pytest.param("${run_id}", "r1", id="whole"),
        pytest.param("a-${run_id}-${run_id}", "a-r1-r1", id="twice in a text"),
        pytest.param("x${empty}y", "xy", id="empty value"),
        pytest.param("${author}", "${run_id}", id="one pass only"),
        pytest.param("${unknown} ${run_id}", "${unknown} r1", id="unknown stays"),
        pytest.param("${${run_id}}", "${r1}", id="inner one of two"),
        pytest.param(
            "$run_id {run_id} ${run-id} ${ run_id } ${}",
            "$run_id {run_id} ${run-id} ${ run_id } ${}",
            id="other forms stay",
        ),
        pytest.param("$${run_id}", "$r1", id="dollar before"),
        pytest.param({"${run_id}": "${run_id}"}, {"${run_id}": "r1"}, id="keys stay"),
        pytest.param([["${run_id}"], {"a": ("${run_id}",)}], [["r1"], {"a": ["r1"]}], id="nested"),
        pytest.param([1, 2.5, True, None], [1, 2.5, True, None], id="other values"),
    ],
)
def test_expand(value: Json, expanded: Json) -> None:
    assert expand(value, MACROS) == expanded


@given(st.text(max_size=20), st.text("${}run_id\\1", max_size=20))
def test_a_value_is_taken_literally(before: str, value: str) -> None:
    kept = before.replace("$", "")
    assert expand(kept + "${run_id}", {"run_id": value}) == kept + value


@given(st.text(max_size=40) | st.text("${}ab", max_size=40))
def test_without_macros_nothing_changes(text: str) -> None:
    assert expand({"k": [text]}, {}) == {"k": [text]}


def test_the_macros_of_a_launch() -> None:
    spec = parse_launch_spec({**SPEC, "name": "exp1", "author": "alice"})
    assert launch_macros(spec, "ab12cd34", "img:1", {}) == {
        "project_name": "Proj",
        "entity_name": "team",
        "run_id": "ab12cd34",
        "run_name": "exp1",
        "author": "alice",
        "image_uri": "img:1",
    }


def test_what_is_not_known_stays_visible() -> None:
    macros = launch_macros(parse_launch_spec(SPEC), "ab12cd34", None, {})
    assert set(macros) == {"project_name", "entity_name", "run_id"}
    assert expand("${run_name} ${image_uri} ${author}", macros) == "${run_name} ${image_uri} ${author}"


def test_variables_of_the_agent_never_stand_in_for_macros() -> None:
    """Not for a known one, and not for one that is not known either."""
    environment = {"run_id": "mine", "image_uri": "mine", "SITE": "north"}
    macros = launch_macros(parse_launch_spec(SPEC), "ab12cd34", None, environment)
    assert expand("${run_id} ${image_uri} ${SITE}", macros) == "ab12cd34 ${image_uri} north"
