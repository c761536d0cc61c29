"""A launch spec is completed from its queue."""

from typing import Any

import pytest

from protocol.errors import SpecError, TemplateError
from server.errors import RequestError
from server.pushing import QueueRules, check_priority, complete, read_object

SPEC = {"entity": "e", "project": "p", "job": "e/p/j:v1"}
CPU = {"cpu": {"schema": {"type": "integer", "default": 2, "maximum": 8}}}
KUBERNETES = {"kubernetes": {"spec": {"limits": {"cpu": "{{cpu}}", "gpu": 1}}, "note": "x{{cpu}}"}}


def _queue(**changes: Any) -> QueueRules:
    given: dict[str, Any] = {
        "name": "q",
        "resource": "kubernetes",
        "resource_args": {"kubernetes": {"spec": {"limits": {"cpu": 1, "gpu": 1}}}},
        "variables": {},
        "prioritized": False,
        **changes,
    }
    return QueueRules(**given)


def _complete(queue: QueueRules, values: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    return dict(complete({**SPEC, **spec}, queue, values or {}, "alice"))


def test_resource_and_args_come_from_the_queue() -> None:
    done = _complete(_queue(), resource=None)
    assert done["resource"] == "kubernetes"
    assert done["resource_args"] == {"kubernetes": {"spec": {"limits": {"cpu": 1, "gpu": 1}}}}


def test_the_submitters_args_win_and_the_rest_stays() -> None:
    done = _complete(_queue(), resource_args={"kubernetes": {"spec": {"limits": {"cpu": 4}}, "ttl": 5}})
    assert done["resource_args"] == {"kubernetes": {"spec": {"limits": {"cpu": 4, "gpu": 1}}, "ttl": 5}}


def test_unknown_keys_stay_and_the_author_is_added() -> None:
    done = _complete(_queue(), settings=None, priority=2, odd={"a": [1]})
    assert (done["settings"], done["priority"], done["odd"], done["author"]) == (None, 2, {"a": [1]}, "alice")
    assert _complete(_queue(), author="bob")["author"] == "bob"


def test_another_resource_is_refused_and_both_are_named() -> None:
    with pytest.raises(RequestError, match=r"'kubernetes'.*'local-process'"):
        _complete(_queue(), resource="local-process")


def test_args_that_would_have_no_effect_are_refused() -> None:
    with pytest.raises(
        RequestError, match=r"resource_args have 'memory', which .* as \{'kubernetes': \{'memory': ...\}\}"
    ):
        _complete(_queue(), resource_args={"memory": "8g", "kubernetes": {}})


def test_args_for_other_resources_too_are_taken() -> None:
    _complete(_queue(), resource_args={"kubernetes": {}, "sagemaker": {"RoleArn": "a"}, "vertex": {}})
    _complete(_queue(resource=None), resource_args={"one-of-our-own": {"memory": "8g"}}, resource="one-of-our-own")


def test_values_are_filled_in_with_their_types() -> None:
    queue = _queue(resource_args=KUBERNETES, variables=CPU)
    expected = {"kubernetes": {"spec": {"limits": {"cpu": 4, "gpu": 1}}, "note": "x4"}}
    assert _complete(queue, {"cpu": 4})["resource_args"] == expected
    assert _complete(queue)["resource_args"]["kubernetes"]["spec"]["limits"]["cpu"] == 2


def test_values_in_the_spec_count_less_than_those_beside_it_and_do_not_stay() -> None:
    queue = _queue(resource_args=KUBERNETES, variables=CPU)
    done = _complete(queue, {"cpu": 4}, template_variables={"cpu": 3})
    assert done["resource_args"]["kubernetes"]["note"] == "x4"
    assert "template_variables" not in done


@pytest.mark.parametrize("value", [9, "4", 1.5])
def test_a_value_that_breaks_the_schema_is_refused(value: object) -> None:
    with pytest.raises(TemplateError, match="'cpu'"):
        _complete(_queue(resource_args=KUBERNETES, variables=CPU), {"cpu": value})


@pytest.mark.parametrize("resource", ["kubernetes", None])
def test_a_value_for_no_variable_is_refused(resource: str | None) -> None:
    with pytest.raises(TemplateError, match="no template variable 'mem'"):
        _complete(_queue(resource=resource), {"mem": 1})


def test_a_queue_with_variables_takes_no_resource_args() -> None:
    with pytest.raises(RequestError, match="has template variables"):
        _complete(_queue(resource_args=KUBERNETES, variables=CPU), resource_args={"kubernetes": {}})


def test_but_a_preempted_launch_comes_back_with_the_args_that_it_had() -> None:
    had = {"kubernetes": {"spec": {"limits": {"cpu": 7}}}}
    own = {"kubernetes": {"spec": {"limits": {"cpu": 70}}}}
    queue = _queue(resource_args=KUBERNETES, variables=CPU)
    spec = {**SPEC, "resource_args": own, "_resume_count": 1}
    assert complete(spec, queue, {}, "alice", earlier={"resource_args": had})["resource_args"] == had
    with pytest.raises(RequestError, match="has template variables"):
        complete(spec, queue, {}, "alice")


def test_a_queue_without_a_config_leaves_the_spec_as_it_is() -> None:
    done = _complete(_queue(resource=None), resource="local-process")
    assert done == {**SPEC, "resource": "local-process", "author": "alice"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"docker": {"docker_image": "i"}}, "Exactly one of job or docker_image"),
        ({"job": None}, "nothing to run"),
        ({"entity": None}, "no `entity`"),
        ({"project": None}, "no `project`"),
        ({"docker": "i"}, "must be an object"),
        ({"resource_args": []}, "must be an object"),
    ],
)
def test_a_spec_that_cannot_run_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        _complete(_queue(), **changes)


@pytest.mark.parametrize(("given", "stored"), [(None, 2), (2, 2)])
def test_the_default_priority_is_good_everywhere(given: int | None, stored: int) -> None:
    assert check_priority(given, _queue()) == stored
    assert check_priority(given, _queue(prioritized=True)) == stored


def test_other_priorities_need_a_queue_that_has_them() -> None:
    assert [check_priority(number, _queue(prioritized=True)) for number in range(4)] == [0, 1, 2, 3]
    with pytest.raises(RequestError, match="V0"):
        check_priority(0, _queue())
    with pytest.raises(RequestError, match="not known"):
        check_priority(4, _queue(prioritized=True))


@pytest.mark.parametrize("text", [None, "", "null", "{}"])
def test_nothing_is_an_empty_object(text: str | None) -> None:
    assert read_object(text, "it") == {}


@pytest.mark.parametrize("text", ["[", "[]", "3"])
def test_what_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match=r"^it "):
        read_object(text, "it")


SCHEDULER = {
    "entity": "e",
    "project": "p",
    "uri": "placeholder-uri-scheduler",
    "resource": "local-process",
    "overrides": {"entry_point": ["wandb", "scheduler", "s1"], "args": ["--queue", "q"]},
}


@pytest.mark.parametrize("resource", ["kubernetes", "local-process", None])
def test_a_scheduler_goes_to_any_queue_and_keeps_its_own_resource(resource: str | None) -> None:
    queue = _queue(resource=resource, resource_args=KUBERNETES, variables={"cpu": {"schema": {"type": "integer"}}})
    assert dict(complete(SCHEDULER, queue, {}, "alice")) == {**SCHEDULER, "author": "alice"}


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"job": "e/p/j:v1"}, id="somebody's code"),
        pytest.param({"overrides": {"entry_point": ["python", "-c", "evil"]}}, id="another command"),
        pytest.param({"overrides": {}}, id="no command"),
        pytest.param({"uri": "placeholder-other"}, id="another placeholder"),
        pytest.param({"resource": "local-container"}, id="another resource"),
    ],
)
def test_what_only_looks_like_a_scheduler_is_held_to_the_queues_resource(changes: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=r"'kubernetes'.*'local-"):
        complete({**SCHEDULER, **changes}, _queue(), {}, "alice")


def test_a_scheduler_with_an_image_is_refused_on_the_agents_own_machine() -> None:
    with pytest.raises(SpecError, match="docker image"):
        complete({**SCHEDULER, "docker": {"docker_image": "i"}}, _queue(), {}, "alice")
