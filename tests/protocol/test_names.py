"""Names of launches, runs and artifacts."""

import re
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wandb.util import make_artifact_name_safe

from protocol.errors import SpecError
from protocol.names import (
    ArtifactName,
    first_name_of_job,
    launch_name,
    parse_job_reference,
    run_id,
    same_project,
)


def test_a_launch_name_never_changes() -> None:
    # Agents find what an earlier process of theirs started by this name.
    assert launch_name("UnVuUXVldWVJdGVtOjE=", 1) == "launch-787f18552653058f-1"


@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers(0, 10**9))
def test_a_launch_name_is_a_dns_label(item_id: str, attempt: int) -> None:
    name = launch_name(item_id, attempt)
    assert re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", name)
    assert len(name) <= 63


def test_a_launch_name_tells_items_and_attempts_apart() -> None:
    assert len({launch_name(item, attempt) for item in ("a", "b", "A") for attempt in (1, 2, 11)}) == 9


@given(st.randoms(use_true_random=False))
def test_a_run_id_is_eight_small_letters_and_digits(random: Random) -> None:
    assert re.fullmatch(r"[a-z0-9]{8}", run_id(random))


def test_run_ids_depend_on_chance_alone() -> None:
    assert run_id(Random(1)) == run_id(Random(1)) != run_id(Random(2))


@given(st.lists(st.sampled_from(["code", "job", "-", "/", ".", " ", "x"]), max_size=15).map("".join))
def test_the_first_name_of_an_unnamed_job_is_the_stock_clients(path: str) -> None:
    """The client names the code by its path, and asks for the job under that name with `code` replaced."""
    code = f"code-{make_artifact_name_safe(path)}"
    assert first_name_of_job(make_artifact_name_safe(f"job-{code}")) == code.replace("code", "job")


def test_other_jobs_have_one_name() -> None:
    assert [first_name_of_job(name) for name in ("train", "job-source-p-code.py", "code-x", "job-code")] == [None] * 4


@pytest.mark.parametrize(
    ("a", "b", "same"), [("Proj", "proj", True), ("p", "p", True), ("p", "q", False), ("p", "p ", False)]
)
def test_same_project(a: str, b: str, same: bool) -> None:
    assert same_project(a, b) is same


@pytest.mark.parametrize("text", ["team/proj/job-x:v3", "Team/My Proj/job.x_1-2:latest"])
def test_a_job_reference_is_read_and_written(text: str) -> None:
    assert str(parse_job_reference(text)) == text


def test_the_parts_of_a_job_reference() -> None:
    assert parse_job_reference("team/proj/job-x:v3") == ArtifactName("team", "proj", "job-x", "v3")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "job:v1",
        "proj/job:v1",
        "team/proj/job",
        "team/proj/job:",
        "team//job:v1",
        "a/b/c/d:v1",
        "a/b/c:d:e",
        "/p/j:v",
    ],
)
def test_a_job_reference_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_job_reference(text)
    assert str(caught.value) == (
        f"Invalid job specification {text!r}. A job must be of the form: "
        "<entity>/<project>/<job-name>:<alias-or-version>"
    )
