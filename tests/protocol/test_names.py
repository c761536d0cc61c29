"""Names of launches, runs, artifacts and projects."""

import re
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import SpecError
from protocol.names import ArtifactName, artifact_name, launch_name, parse_job_reference, run_id, same_project

QUICK = settings(max_examples=15, deadline=None, database=None, derandomize=True)


@QUICK
@given(item_id=st.text(alphabet="aZ0:=/-é", max_size=40), attempt=st.integers(0, 10**9))
def test_a_launch_is_called_by_a_dns_label(item_id: str, attempt: int) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9-]{0,50}[a-z0-9]", launch_name(item_id, attempt))


def test_a_launchs_name_depends_on_item_and_attempt_alone() -> None:
    assert launch_name("item", 1) == launch_name("item", 1)
    assert len({launch_name(item, attempt) for item in ("a", "b", "A") for attempt in range(3)}) == 9


def test_attempts_of_an_item_share_a_prefix() -> None:
    assert launch_name("item", 1).rpartition("-")[0] == launch_name("item", 27).rpartition("-")[0]


def test_a_run_id_is_eight_lower_case_alphanumerics_and_comes_from_the_given_chance() -> None:
    assert re.fullmatch(r"[a-z0-9]{8}", run_id(Random(7)))
    assert run_id(Random(7)) == run_id(Random(7)) != run_id(Random(8))


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        ("job-https://github.com/a/b.git_train.py", "job-https___github.com_a_b.git_train.py"),
        ("größe ok-1_2.3", "gr__e_ok-1_2.3"),
        ("x" * 128, "x" * 128),
        ("a" * 70 + "b" * 70, "a" * 63 + ".." + "b" * 63),
    ],
)
def test_an_artifacts_name_is_made_safe_and_short(raw: str, name: str) -> None:
    assert artifact_name(raw) == name


def test_a_job_reference_is_read_and_written_back() -> None:
    name = parse_job_reference("team/jobs/train.v2:latest")
    assert name == ArtifactName("team", "jobs", "train.v2", "latest")
    assert str(name) == "team/jobs/train.v2:latest"


@pytest.mark.parametrize("text", ["", "train:v1", "jobs/train:v1", "e/p/train", "e/p/train:", "e//t:v1", "a/b/c/d:v1"])
def test_another_form_of_job_reference_is_refused_with_the_right_one(text: str) -> None:
    with pytest.raises(SpecError, match="<entity>/<project>/<job-name>:<alias-or-version>") as caught:
        parse_job_reference(text)
    assert repr(text) in str(caught.value)


def test_projects_are_compared_without_regard_to_case() -> None:
    assert same_project("Vision", "vision")
    assert not same_project("vision", "vision2")
