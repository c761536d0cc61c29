"""What automations ask of metrics: of single values, of windows, of changes, of what is usual."""

from typing import Any

import pytest

from server.automations.metrics import Seen, look, read


def found(choice: dict[str, Any], *values: Any) -> float | None:
    """Return the value at which a condition holds first, logged one after the other."""
    seen, value = Seen(), None
    for each in values:
        seen, value = look(read(choice), seen, [{"m": each, "other": 1}])
        if value is not None:
            assert seen.is_told
            break
    assert look(read(choice), Seen(), [{"m": each} for each in values])[1] == value, "all at once"
    return value


def threshold(comparison: str, amount: float, aggregate: str | None = None, window: int = 1) -> dict[str, Any]:
    asked = {"name": "m", "agg_op": aggregate, "window_size": window, "cmp_op": comparison, "threshold": amount}
    return {"threshold_filter": asked}


def change(kind: str, direction: str, amount: float, aggregate: str | None = None, *windows: int) -> dict[str, Any]:
    newest, before = windows or (1, 1)
    asked = {"name": "m", "agg_op": aggregate, "current_window_size": newest, "prior_window_size": before}
    return {"change_filter": {**asked, "change_type": kind, "change_dir": direction, "change_amount": amount}}


@pytest.mark.parametrize(
    ("choice", "values", "expected"),
    [
        (threshold("$gt", 5), [1, 5, 6, 7], 6),
        (threshold("$gte", 5), [1, 5, 6], 5),
        (threshold("$lt", 5), [6, 5, 4], 4),
        (threshold("$lte", 5), [6, 5], 5),
        (threshold("$gt", 5), [1, "high", None, True, float("nan"), 7], 7),
        (threshold("$gt", 5, "AVERAGE", 3), [9, 9, 1, 4, 11], 1),
        (threshold("$gt", 5, "MAX", 2), [9], None),
        (threshold("$lt", 5, "MAX", 2), [9, 1, 2], 2),
        (threshold("$gt", 5, "MIN", 2), [9, 1, 8, 9], 9),
        (change("ABSOLUTE", "INCREASE", 3), [5, 1, 3, 6], 6),
        (change("ABSOLUTE", "DECREASE", 3), [1, 6, 4, 1], 1),
        (change("ABSOLUTE", "ANY", 3), [1, 3, 0], 0),
        (change("RELATIVE", "INCREASE", 0.5), [0, 4, 5, 8], 8),
        (change("RELATIVE", "ANY", 0.5), [-4, -5, -2], -2),
        (change("ABSOLUTE", "INCREASE", 3, "AVERAGE", 2, 2), [1, 1, 3, 3, 7], 7),
        (change("ABSOLUTE", "INCREASE", 3, "MAX", 1, 3), [1, 9, 1, 5, 12], 12),
        ({"zscore_filter": {"name": "m", "window_size": 4, "change_dir": "ANY", "threshold": 3}}, [1, 2, 1, 2, 9], 9),
        (
            {"zscore_filter": {"name": "m", "window_size": 4, "change_dir": "INCREASE", "threshold": 3}},
            [1, 2, 1, 2, -9],
            None,
        ),
        ({"zscore_filter": {"name": "m", "window_size": 2, "change_dir": "ANY", "threshold": 3}}, [1, 1, 9], None),
        (
            {"zscore_filter": {"name": "m", "window_size": 3, "change_dir": "ANY", "threshold": 3}},
            [0.1, 0.1, 0.1, 9],
            None,
        ),
        (threshold("$gt", 5), [10**400, 1e400, 7], 7),
        (threshold("$gt", 5, "AVERAGE", 2), [1.7e308, 1.7e308], 1.7e308),
        (change("ABSOLUTE", "ANY", 3, "AVERAGE", 2, 2), [1e308, 1e308, -1e308, -1.7e308], -1.7e308),
        (change("RELATIVE", "ANY", 3), [5e-324, 1e308], 1e308),
        (
            {"zscore_filter": {"name": "m", "window_size": 2, "change_dir": "ANY", "threshold": 0.5}},
            [-1e308, 1e308, 1e308],
            1e308,
        ),
        (
            {"zscore_filter": {"name": "m", "window_size": 5, "change_dir": "ANY", "threshold": 3}},
            [0, 0, 0, 0, 5e-324, 1],
            None,
        ),
    ],
)
def test_the_value_at_which_a_condition_holds(
    choice: dict[str, Any], values: list[Any], expected: float | None
) -> None:
    assert found(choice, *values) == expected


def test_a_nested_metric_is_found_by_its_path() -> None:
    choice = read({"threshold_filter": {"name": "a.b", "cmp_op": "$gt", "threshold": 1}})
    assert look(choice, Seen(), [{"a": {"b": 2}}])[1] == 2
    assert look(choice, Seen(), [{"a.b": 3}])[1] == 3


def test_it_holds_once() -> None:
    choice = read(threshold("$gt", 1))
    seen, value = look(choice, Seen(), [{"m": 2}])
    assert value == 2
    assert look(choice, seen, [{"m": 3}]) == (seen, None)


def test_no_more_values_are_kept_than_are_looked_at() -> None:
    seen, _ = look(read(threshold("$gt", 1e9, "MAX", 3)), Seen(), [{"m": each} for each in range(100)])
    assert seen.values == [98, 99]
