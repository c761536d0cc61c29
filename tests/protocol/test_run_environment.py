"""The variables of a launched run."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.launch_spec import parse_launch_spec
from protocol.run_environment import run_environment, split_variable

QUICK = settings(max_examples=15, deadline=None, database=None, derandomize=True)


def environment(max_value_chars: int = 32670, **keys: Any) -> dict[str, str]:
    """Return the environment of a job that came from a queue."""
    spec = parse_launch_spec({"entity": "team", "project": "proj", "job": "team/jobs/train:v3", **keys})
    return run_environment(
        spec,
        run_id="ab12cd34",
        base_url="http://localhost:8080",
        queue="gpus",
        queue_entity="owners",
        item_id="item1",
        image=None,
        max_value_chars=max_value_chars,
    )


def test_a_plain_job_gets_exactly_these() -> None:
    assert environment() == {
        "WANDB_BASE_URL": "http://localhost:8080",
        "WANDB_PROJECT": "proj",
        "WANDB_ENTITY": "team",
        "WANDB_LAUNCH": "True",
        "WANDB_RUN_ID": "ab12cd34",
        "WANDB_LAUNCH_QUEUE_NAME": "gpus",
        "WANDB_LAUNCH_QUEUE_ENTITY": "owners",
        "WANDB_LAUNCH_TRACE_ID": "item1",
        "WANDB_CONFIG": "{}",
        "WANDB_LAUNCH_FILE_OVERRIDES": "{}",
        "WANDB_ARTIFACTS": '{"_wandb_job": "team/jobs/train:v3"}',
    }


def test_an_image_that_came_from_no_queue() -> None:
    spec = parse_launch_spec({"entity": "team", "project": "", "image_uri": "img:1"})
    variables = run_environment(
        spec, run_id="r", base_url="http://h", queue=None, queue_entity="owners", item_id=None, image="img:1"
    )
    assert variables["WANDB_DOCKER"] == "img:1"
    assert variables["WANDB_ARTIFACTS"] == "{}"
    assert "WANDB_PROJECT" not in variables
    assert not any(name.startswith("WANDB_LAUNCH_QUEUE") or "TRACE" in name for name in variables)


@pytest.mark.parametrize(
    ("keys", "name", "value"),
    [
        ({"name": "exp1"}, "WANDB_NAME", "exp1"),
        ({"author": "alice"}, "WANDB_USERNAME", "alice"),
        ({"author": "alice", "_wandb_api_key": "hunter2"}, "WANDB_USERNAME", None),
        ({"sweep_id": "s1"}, "WANDB_SWEEP_ID", "s1"),
        ({"_resume_count": 1}, "WANDB_RESUME", "allow"),
        ({"_resume_count": 0}, "WANDB_RESUME", None),
    ],
)
def test_variables_that_are_there_under_a_condition(keys: dict[str, Any], name: str, value: str | None) -> None:
    assert environment(**keys).get(name) == value


def test_the_api_key_is_not_among_them() -> None:
    variables = environment(_wandb_api_key="hunter2")
    assert "WANDB_API_KEY" not in variables
    assert "hunter2" not in variables.values()


def test_overrides_travel_as_json() -> None:
    overrides = {"run_config": {"lr": 0.1}, "files": {"a.yaml": {"b": 1}}, "artifacts": {"data": "e/p/d:v1"}}
    variables = environment(overrides=overrides)
    assert json.loads(variables["WANDB_CONFIG"]) == {"lr": 0.1}
    assert json.loads(variables["WANDB_LAUNCH_FILE_OVERRIDES"]) == {"a.yaml": {"b": 1}}
    assert json.loads(variables["WANDB_ARTIFACTS"]) == {"_wandb_job": "team/jobs/train:v3", "data": "e/p/d:v1"}


def test_long_values_are_cut_but_artifacts_never() -> None:
    overrides = {"run_config": {"text": "x" * 1000}, "artifacts": {"data": "y" * 1000}}
    variables = environment(max_value_chars=512, overrides=overrides)
    assert "WANDB_CONFIG" not in variables
    assert sorted(name for name in variables if name.startswith("WANDB_CONFIG_")) == [
        "WANDB_CONFIG_0",
        "WANDB_CONFIG_1",
    ]
    assert len(variables["WANDB_ARTIFACTS"]) > 1000


@QUICK
@given(text=st.text(alphabet='aé"\\', max_size=60), max_chars=st.integers(1, 20))
def test_the_pieces_of_a_value_make_it_up_again(text: str, max_chars: int) -> None:
    pieces = split_variable("X", text, max_chars)
    assert all(len(piece) <= max_chars for piece in pieces.values())
    assert "".join(pieces.values()) == text
    assert list(pieces) == (["X"] if len(text) <= max_chars else [f"X_{number}" for number in range(len(pieces))])
