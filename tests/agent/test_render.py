"""Resource args: macros are the agent's, variables the server's."""

from typing import Any

import pytest

from agent.errors import LaunchFailed
from agent.render import macro_environment, render_resource_args
from protocol.launch_spec import LaunchSpec, parse_launch_spec


def spec(args: dict[str, Any]) -> LaunchSpec:
    """Return a launch spec with these resource args."""
    raw: dict[str, Any] = {"entity": "e", "project": "p", "uri": "placeholder", "resource": "local-process"}
    return parse_launch_spec({**raw, "resource_args": {"local-process": args}})


def test_macros_are_filled_in() -> None:
    args = {"name": "run-${run_id}", "n": [1, "${nope}"]}
    rendered = render_resource_args(spec(args), "r1", None, is_rendered=True, environment={})
    assert rendered == {"name": "run-r1", "n": [1, "${nope}"]}


def test_a_variable_that_a_foreign_server_left_is_named() -> None:
    with pytest.raises(LaunchFailed, match="These template variables of the queue have no value: gpus"):
        render_resource_args(spec({"gpus": "{{gpus}}"}), "r1", None, is_rendered=False, environment={})


def test_what_our_server_rendered_is_not_looked_at_again() -> None:
    args = {"note": "somebody's own {{text}}"}
    assert render_resource_args(spec(args), "r1", None, is_rendered=True, environment={}) == args


def test_of_the_agents_variables_macros_read_those_that_are_listed() -> None:
    own = {"SITE": "north", "WANDB_API_KEY": "s3cret", "HOME": "/root"}
    environment = macro_environment(own, ("SITE", "NOT_SET"))
    args = {"a": "${SITE}", "b": "${WANDB_API_KEY}", "c": "${HOME}", "d": "${NOT_SET}"}
    rendered = render_resource_args(spec(args), "r1", None, is_rendered=True, environment=environment)
    assert rendered == {**args, "a": "north"}
