"""The variables of a launched run."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.json_types import Json
from protocol.launch_spec import parse_launch_spec
from protocol.run_environment import MAX_VALUE_CHARS, run_environment, split_variable

JOB = "team/jobs/train:v3"
SECRET = "s3cret-value"
ALWAYS = {
    "WANDB_BASE_URL": "http://server.test",
    "WANDB_PROJECT": "Proj",
    "WANDB_ENTITY": "team",
    "WANDB_LAUNCH": "True",
    "WANDB_RUN_ID": "ab12cd34",
    "WANDB_ARTIFACTS": json.dumps({"_wandb_job": JOB}),
    "WANDB_CONFIG": "{}",
    "WANDB_LAUNCH_FILE_OVERRIDES": "{}",
}


def environment(keys: dict[str, Json] | None = None, /, **arguments: Any) -> dict[str, str]:
    """Return the variables of a launch that did not come from a queue, unless the arguments say so."""
    spec = parse_launch_spec({"entity": "team", "project": "Proj", "job": JOB, **(keys or {})})
    where: dict[str, Any] = {
        "base_url": "http://server.test",
        "queue": None,
        "queue_entity": None,
        "item_id": None,
        "image": None,
    }
    return run_environment(spec, run_id="ab12cd34", **{**where, **arguments})


def test_what_every_run_gets() -> None:
    assert environment() == ALWAYS


@pytest.mark.parametrize(
    ("keys", "arguments", "more"),
    [
        pytest.param({"name": "exp1"}, {}, {"WANDB_NAME": "exp1"}, id="name"),
        pytest.param({"author": "alice"}, {}, {"WANDB_USERNAME": "alice"}, id="author"),
        pytest.param({"author": "alice", "_wandb_api_key": SECRET}, {}, {}, id="author with a key of his own"),
        pytest.param({"sweep_id": "s1"}, {}, {"WANDB_SWEEP_ID": "s1"}, id="sweep"),
        pytest.param({"_resume_count": 1}, {}, {"WANDB_RESUME": "allow"}, id="resumed"),
        pytest.param({"_resume_count": 0}, {}, {}, id="not resumed"),
        pytest.param({}, {"image": "img:1"}, {"WANDB_DOCKER": "img:1"}, id="image"),
        pytest.param(
            {},
            {"queue": "q", "queue_entity": "team2", "item_id": "i1"},
            {"WANDB_LAUNCH_QUEUE_NAME": "q", "WANDB_LAUNCH_QUEUE_ENTITY": "team2", "WANDB_LAUNCH_TRACE_ID": "i1"},
            id="queue",
        ),
        pytest.param({}, {"queue_entity": "team2"}, {}, id="no queue, no entity of it"),
        pytest.param(
            {"overrides": {"run_config": {"lr": 0.1, "é": None}, "files": {"a.yaml": {"b": 1}}}},
            {},
            {"WANDB_CONFIG": '{"lr": 0.1, "\\u00e9": null}', "WANDB_LAUNCH_FILE_OVERRIDES": '{"a.yaml": {"b": 1}}'},
            id="config and files",
        ),
        pytest.param(
            {"overrides": {"artifacts": {"data": {"id": "x"}}}},
            {},
            {"WANDB_ARTIFACTS": json.dumps({"_wandb_job": JOB, "data": {"id": "x"}})},
            id="artifacts beside the job",
        ),
        pytest.param(
            {"overrides": {"artifacts": {"_wandb_job": "other"}}},
            {},
            {"WANDB_ARTIFACTS": '{"_wandb_job": "other"}'},
            id="artifacts win",
        ),
        pytest.param({"job": None, "image_uri": "img"}, {}, {"WANDB_ARTIFACTS": "{}"}, id="no job"),
    ],
)
def test_what_some_runs_get(keys: dict[str, Json], arguments: dict[str, str], more: dict[str, str]) -> None:
    assert environment(keys, **arguments) == {**ALWAYS, **more}


def test_an_empty_project_is_left_out() -> None:
    assert "WANDB_PROJECT" not in environment({"project": ""})


def test_no_variable_holds_the_key() -> None:
    found = environment({"_wandb_api_key": SECRET, "author": "alice"})
    assert SECRET not in "".join(found.values())
    assert "WANDB_API_KEY" not in found


def test_long_config_and_files_are_cut_but_artifacts_are_not() -> None:
    long: Json = {"k": "x" * 100}
    found = environment({"overrides": {"run_config": long, "files": long, "artifacts": long}}, max_value_chars=60)
    text = json.dumps(long)
    pieces = [text[:60], text[60:]]
    assert [found.get(f"WANDB_CONFIG_{number}") for number in range(3)] == [*pieces, None]
    assert [found.get(f"WANDB_LAUNCH_FILE_OVERRIDES_{number}") for number in range(3)] == [*pieces, None]
    assert "WANDB_CONFIG" not in found
    assert "WANDB_LAUNCH_FILE_OVERRIDES" not in found
    assert json.loads(found["WANDB_ARTIFACTS"]) == {"_wandb_job": JOB, **long}


def test_the_limit_that_clients_know() -> None:
    assert MAX_VALUE_CHARS == 32670
    room = MAX_VALUE_CHARS - len('{"k": ""}')
    assert "WANDB_CONFIG" in environment({"overrides": {"run_config": {"k": "x" * room}}})
    cut = environment({"overrides": {"run_config": {"k": "x" * (room + 1)}}})
    assert (len(cut["WANDB_CONFIG_0"]), cut["WANDB_CONFIG_1"]) == (MAX_VALUE_CHARS, "}")


@given(st.text(max_size=60), st.integers(1, 20))
def test_pieces_make_up_the_text(text: str, limit: int) -> None:
    pieces = split_variable("N", text, limit)
    assert "".join(pieces.values()) == text
    assert all(len(piece) <= limit for piece in pieces.values())
    wanted = ["N"] if len(text) <= limit else [f"N_{number}" for number in range(-(-len(text) // limit))]
    assert list(pieces) == wanted
