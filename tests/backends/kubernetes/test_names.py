"""Names of launches in a cluster: such as it takes, and one for each."""

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import backends.kubernetes.names as names
from protocol.names import launch_name

DNS_LABEL = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?)?")
TEXTS = st.text(max_size=80) | st.text("aA1-_. /", max_size=80)


def test_a_launch_is_called_as_it_is_everywhere() -> None:
    name = launch_name("UnVuUXVldWVJdGVtOjE=", 12)
    assert names.object_name(name) == names.launch_of(name) == name


@pytest.mark.parametrize(
    ("prefix", "begins"),
    [
        ("mnist", "mnist-launch-"),
        ("My_Run.", "my-run-launch-"),
        ("sweep-", "sweep-launch-"),
        ("a-very-long-name-that-somebody-chose", "a-very-long-na-launch-"),
        ("2024", "launch-"),
        ("日本", "launch-"),
    ],
)
def test_what_the_queue_calls_an_object_is_how_its_name_begins(prefix: str, begins: str) -> None:
    name = names.object_name("launch-0123456789abcdef-1", prefix)
    assert name == f"{begins}0123456789abcdef-1"
    assert len(name) <= names.MAX_NAME


@given(TEXTS, TEXTS, TEXTS)
def test_names_are_such_as_a_cluster_takes_and_different_launches_never_share_one(a: str, b: str, prefix: str) -> None:
    assume(a != b)
    made = [names.object_name(each, prefix) for each in (a, b)]
    assert made[0] != made[1]
    assert names.launch_of(a) != names.launch_of(b)
    for each in (*made, names.launch_of(a), names.service_name(a, 10)):
        assert len(each) <= 63
        assert DNS_LABEL.fullmatch(each)


@given(TEXTS, TEXTS)
def test_values_of_labels_are_such_as_a_cluster_takes_and_different_ones_stay_different(a: str, b: str) -> None:
    for each in (names.label_value(a), names.stock_label(a), names.owner_of(a)):
        assert len(each) <= 63
        assert LABEL_VALUE.fullmatch(each)
    assert a == b or names.label_value(a) != names.label_value(b)


def test_values_that_labels_can_have_stay_as_they_are() -> None:
    assert names.label_value("Run_1.a-B") == "Run_1.a-B"
    assert names.label_value("") == ""


@given(st.dictionaries(TEXTS, TEXTS, max_size=4))
def test_all_of_a_launchs_labels_are_read_again(labels: dict[str, str]) -> None:
    annotations = names.annotations_of(labels)
    assert names.read_labels(annotations) == labels
    assert annotations == names.annotations_of(dict(sorted(labels.items(), reverse=True)))


@pytest.mark.parametrize("written", ["", "{", "[1]", "null", "5"])
def test_what_somebody_else_wrote_is_no_label_of_ours(written: str) -> None:
    assert names.read_labels({names.LABELS: written}) == {}
    assert names.read_labels({}) == {}


def test_two_agents_select_different_objects() -> None:
    assert names.selector_of("a") != names.selector_of("b")
    assert names.launches_of("a").startswith(names.selector_of("a"))
    assert names.selector_of("a") == f"{names.OWNER}={names.labels_of('a', 'x', {})[names.OWNER]}"
