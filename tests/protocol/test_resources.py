"""Which names are resources."""

import pytest

from protocol.errors import SpecError
from protocol.resources import RESOURCES, check_resource


@pytest.mark.parametrize("name", [*RESOURCES, "nice-process", "slurm", "7"])
def test_resources(name: str) -> None:
    assert check_resource(name) == name


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("local_process", "local-process"), ("Kubernetes", "kubernetes"), ("vertex-gcp", None), ("sagemakr", "sagemaker")],
)
def test_a_slip_of_the_pen_is_told_from_a_name_of_its_own(name: str, nearest: str | None) -> None:
    if nearest is None:
        assert check_resource(name) == name
    else:
        with pytest.raises(SpecError, match=f"Did you mean '{nearest}'?"):
            check_resource(name)


@pytest.mark.parametrize("name", ["", "mainframe!", "-x", "a b", "x" * 64, "X11"])
def test_what_cannot_be_a_name(name: str) -> None:
    with pytest.raises(SpecError, match="use one of: local-process, "):
        check_resource(name)
