"""What a job wants installed: where that is looked for, and what is left alone."""

from pathlib import Path

import pytest

from agent.errors import LaunchFailed
from agent.requirements import Requirements, find_requirements

DEPENDENCIES = '[project]\nname = "x"\nversion = "1"\ndependencies = ["numpy"]\n'


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """The job's code."""
    (tmp_path / "code" / "part").mkdir(parents=True)
    return tmp_path / "code"


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """The job artifact's own files."""
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "requirements.frozen.txt").write_text("numpy==2\n")
    return tmp_path / "job"


def test_the_codes_own_come_first_then_its_project_then_the_frozen_ones(code: Path, job: Path) -> None:
    def found() -> Requirements | None:
        return find_requirements(code, None, job, "3.11")

    assert found() == Requirements(job / "requirements.frozen.txt", "3.11", is_frozen=True)
    (code / "pyproject.toml").write_text(DEPENDENCIES)
    assert found() == Requirements(code / "pyproject.toml", "3.11", code)
    (code / "requirements.txt").write_text("numpy\n")
    assert found() == Requirements(code / "requirements.txt", "3.11", code)


def test_the_part_of_the_code_that_the_job_names_comes_before_the_whole(code: Path, job: Path) -> None:
    (code / "requirements.txt").write_text("numpy\n")
    (code / "part" / "pyproject.toml").write_text(DEPENDENCIES)
    assert find_requirements(code, "part", job, None) == Requirements(code / "part" / "pyproject.toml", None, code)
    assert find_requirements(code, "gone", job, None) == Requirements(code / "requirements.txt", None, code)


def test_without_any_nothing_is_installed(code: Path, tmp_path: Path) -> None:
    (code / "requirements.txt").write_text(" \n")
    assert find_requirements(code, None, tmp_path, None) is None
    assert find_requirements(None, None, None, None) is None


@pytest.mark.parametrize("text", ["[tool.ruff]\n", "[project]\nname = 'x'\n", "project = 1\n"])
def test_a_project_that_asks_for_nothing_is_left_alone(code: Path, job: Path, text: str) -> None:
    (code / "pyproject.toml").write_text(text)
    found = find_requirements(code, None, job, None)
    assert found is not None
    assert found.is_frozen


def test_a_project_that_cannot_be_read_is_told(code: Path) -> None:
    (code / "pyproject.toml").write_text("[project\n")
    with pytest.raises(LaunchFailed, match=r"pyproject\.toml of the job's code cannot be read"):
        find_requirements(code, None, None, None)


def test_a_link_out_of_the_code_is_not_followed(code: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("password\n")
    (code / "requirements.txt").symlink_to(tmp_path / "secret")
    assert find_requirements(code, None, None, None) is None
