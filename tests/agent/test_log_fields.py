"""A line that names a launch only as its platform does says which item it is about."""

from typing import Any

from agent.launch import Launch
from agent.log_fields import LaunchNames
from protocol.names import launch_name


def told(names: LaunchNames, **event: Any) -> dict[str, Any]:
    """Return what a line becomes."""
    return dict(names(None, "info", event))


def test_a_launch_is_found_by_its_name_whatever_its_attempt() -> None:
    names = LaunchNames()
    names.keep(Launch("item-1", 3, "gpus", {}, "run-1"))
    name = launch_name("item-1", 2)
    assert told(names, event="x", launch=name) == {
        "event": "x",
        "launch": name,
        "item": "item-1",
        "attempt": 2,
        "queue": "gpus",
    }


def test_what_a_line_says_itself_stays() -> None:
    names = LaunchNames()
    names.keep(Launch("item-1", 1, "gpus", {}, "run-1"))
    assert told(names, launch=launch_name("item-1", 1), item="other")["item"] == "other"


def test_lines_about_anything_else_are_left_alone() -> None:
    names = LaunchNames()
    launch = Launch("item-1", 1, "gpus", {}, "run-1")
    names.keep(launch)
    for event in ({"event": "x"}, {"launch": "Job team/train-1"}, {"launch": 7}, {"launch": launch_name("other", 1)}):
        assert told(names, **event) == event
    names.drop(launch)
    names.drop(launch)
    assert told(names, launch=launch.name) == {"launch": launch.name}
