"""Which command a launch runs."""

from typing import cast

import pytest

from protocol.command import keeps_entry_point, launch_args, launch_command, notebook_of
from protocol.errors import SpecError
from protocol.job_file import JobFile, parse_job_file
from protocol.json_types import Json
from protocol.launch_spec import parse_launch_spec

JOB_SOURCE: dict[str, Json] = {"job": "team/jobs/train:v3"}
IMAGE_SOURCE: dict[str, Json] = {"image_uri": "img"}
SCHEDULER_SOURCE: dict[str, Json] = {"uri": "placeholder-uri-scheduler", "resource": "kubernetes"}
CODE = parse_job_file({"source_type": "repo", "source": {"git": {"remote": "r"}, "entrypoint": ["python", "a.py"]}})
CODE_WITHOUT_ENTRY = parse_job_file({"source_type": "repo", "source": {"git": {"remote": "r"}}})
NOTEBOOK = parse_job_file(
    {"source_type": "repo", "source": {"git": {"remote": "r"}, "entrypoint": ["python", "s/a.ipynb"], "notebook": True}}
)
IMAGE = parse_job_file({"source_type": "image", "source": {"image": "i"}})
IMAGE_WITH_ENTRY = parse_job_file({"source_type": "image", "source": {"image": "i", "entrypoint": ["run"]}})
IMAGE_WITH_ARGS = parse_job_file({"source_type": "image", "source": {"image": "i", "args": ["--old"]}})


def command(source: dict[str, Json], job: JobFile | None, **overrides: Json) -> tuple[str, ...]:
    """Return the command of a launch."""
    return launch_command(parse_launch_spec({"entity": "e", "project": "p", **source, "overrides": overrides}), job)


@pytest.mark.parametrize(
    ("source", "job", "overrides", "words"),
    [
        pytest.param(JOB_SOURCE, CODE, {}, ("python", "a.py"), id="job"),
        pytest.param(JOB_SOURCE, CODE, {"args": ["--x", "1"]}, ("python", "a.py", "--x", "1"), id="job with args"),
        pytest.param(JOB_SOURCE, CODE, {"entry_point": ["sh", "b"]}, ("sh", "b"), id="override"),
        pytest.param(JOB_SOURCE, CODE, {"entry_point": ["sh"], "args": ["c"]}, ("sh", "c"), id="override with args"),
        pytest.param(
            JOB_SOURCE, CODE_WITHOUT_ENTRY, {"entry_point": ["sh"]}, ("sh",), id="job without entry, override"
        ),
        pytest.param(JOB_SOURCE, NOTEBOOK, {"args": ["c"]}, ("python", "s/a.py", "c"), id="notebook: its script"),
        pytest.param(JOB_SOURCE, NOTEBOOK, {"entry_point": ["sh"]}, ("sh",), id="notebook, override"),
        pytest.param(JOB_SOURCE, IMAGE, {}, (), id="image job: image's default"),
        pytest.param(JOB_SOURCE, IMAGE, {"args": ["c"]}, ("c",), id="image job with args"),
        pytest.param(JOB_SOURCE, IMAGE_WITH_ENTRY, {"args": ["c"]}, ("run", "c"), id="image job with entry"),
        pytest.param(JOB_SOURCE, IMAGE_WITH_ARGS, {}, ("--old",), id="legacy image job"),
        pytest.param(JOB_SOURCE, IMAGE_WITH_ARGS, {"args": ["c"]}, ("c",), id="legacy image job, other args"),
        pytest.param(IMAGE_SOURCE, None, {}, (), id="image"),
        pytest.param(IMAGE_SOURCE, None, {"entry_point": ["sh"], "args": ["c"]}, ("sh", "c"), id="image with command"),
        pytest.param(JOB_SOURCE, CODE, {"args": ["'q1'"]}, ("python", "a.py", "'q1'"), id="quotes of a job stay"),
        pytest.param(JOB_SOURCE, CODE, {"args": ["$(rm)", "a b"]}, ("python", "a.py", "$(rm)", "a b"), id="no shell"),
        pytest.param(
            SCHEDULER_SOURCE,
            None,
            {"entry_point": ["wandb", "scheduler", "s1"], "args": ["--queue", "'q1'"]},
            ("wandb", "scheduler", "s1", "--queue", "q1"),
            id="scheduler without stray quotes",
        ),
    ],
)
def test_command(
    source: dict[str, Json], job: JobFile | None, overrides: dict[str, Json], words: tuple[str, ...]
) -> None:
    assert command(source, job, **overrides) == words
    spec = parse_launch_spec({"entity": "e", "project": "p", **source, "overrides": overrides})
    args = launch_args(spec, job)
    assert args == words[len(words) - len(args) :]  # they are the last words
    given = cast("list[str]", overrides.get("args") or ["--old"] * (job is IMAGE_WITH_ARGS))
    assert len(args) == len(given)


@pytest.mark.parametrize(
    ("source", "job"),
    [
        pytest.param(JOB_SOURCE, CODE_WITHOUT_ENTRY, id="job without entry point"),
        pytest.param(JOB_SOURCE, None, id="job unread"),
        pytest.param(SCHEDULER_SOURCE, None, id="placeholder"),
    ],
)
def test_nothing_to_run(source: dict[str, Json], job: JobFile | None) -> None:
    with pytest.raises(SpecError) as caught:
        command(source, job, args=["--x"])
    assert str(caught.value) == ("There is no command to run: the job has no entry point. Give one with --entry-point.")


@pytest.mark.parametrize(
    ("source", "job", "overrides", "keeps"),
    [
        pytest.param(IMAGE_SOURCE, None, {"args": ["c"]}, True, id="image with args"),
        pytest.param(JOB_SOURCE, IMAGE_WITH_ARGS, {}, True, id="legacy image job"),
        pytest.param(IMAGE_SOURCE, None, {"entry_point": ["sh"]}, False, id="override"),
        pytest.param(JOB_SOURCE, IMAGE_WITH_ENTRY, {"args": ["c"]}, False, id="image job with entry"),
        pytest.param(JOB_SOURCE, CODE, {}, False, id="job"),
    ],
)
def test_images_own_program_runs_unless_another_is_named(
    source: dict[str, Json], job: JobFile | None, overrides: dict[str, Json], keeps: bool
) -> None:
    spec = parse_launch_spec({"entity": "e", "project": "p", **source, "overrides": overrides})
    assert keeps_entry_point(spec, job) is keeps


def test_a_notebook_is_what_the_job_or_python_itself_would_run_as_one() -> None:
    assert notebook_of(NOTEBOOK) == "s/a.ipynb"
    for words, found in (
        (["python3.11", "s/a.ipynb"], "s/a.ipynb"),
        (["papermill", "s/a.ipynb"], None),
        (["python", "-m", "papermill", "s/a.ipynb"], None),
    ):
        source: dict[str, Json] = {"git": {"remote": "r"}, "entrypoint": words}
        assert notebook_of(parse_job_file({"source_type": "repo", "source": source})) == found
    assert notebook_of(CODE) is None
    assert notebook_of(CODE_WITHOUT_ENTRY) is None
