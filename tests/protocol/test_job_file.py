"""Job files: every kind of code, and what the stock client writes wrongly."""

from collections.abc import Mapping

import pytest

from protocol.errors import JobFileError
from protocol.job_file import CodeArtifactSource, GitSource, ImageJobSource, JobFile, parse_job_file
from protocol.json_types import Json
from protocol.names import ArtifactName

GIT: dict[str, Json] = {"remote": "https://example.com/r.git", "commit": "abc"}


def git_job(job: Mapping[str, Json] | None = None, /, **source: Json) -> dict[str, Json]:
    """Return a job file with code in git."""
    return {"source_type": "repo", "source": {"git": GIT, "entrypoint": ["python", "a.py"], **source}, **(job or {})}


def refused(raw: dict[str, Json]) -> str:
    """Return why a job file is refused."""
    with pytest.raises(JobFileError) as caught:
        parse_job_file(raw)
    return str(caught.value)


def test_a_full_job_file() -> None:
    types: dict[str, Json] = {"wb_type": "typedDict", "params": {"type_map": {}}}
    more: dict[str, Json] = {
        "_version": "0.17.0",
        "runtime": "3.11",
        "input_types": types,
        "output_types": {"wb_type": "any"},
        "_partial": True,
        "services": {"foundation_model": "always"},
    }
    raw = git_job(more, notebook=True, base_image="python:3.11", build_context="src", dockerfile="docker/Dockerfile")
    assert parse_job_file(raw) == JobFile(
        source=GitSource("https://example.com/r.git", "abc"),
        entry_point=("python", "a.py"),
        runtime="3.11",
        input_types=types,
        output_types={"wb_type": "any"},
        partial=True,
        notebook=True,
        base_image="python:3.11",
        build_context="src",
        dockerfile="docker/Dockerfile",
    )


def test_a_bare_job_file_has_defaults() -> None:
    read = parse_job_file({"source_type": "image", "source": {"image": "img"}})
    assert read == JobFile(ImageJobSource("img"), (), None, {}, {}, False, False, None, None, None)


@pytest.mark.parametrize(
    ("kind", "source", "code"),
    [
        pytest.param("repo", {"git": GIT}, GitSource("https://example.com/r.git", "abc"), id="git"),
        pytest.param("repo", {"git": {"remote": "r"}}, GitSource("r", None), id="git without commit"),
        pytest.param(
            "artifact",
            {"artifact": "wandb-artifact://_id/QXJ0OjE="},
            CodeArtifactSource("QXJ0OjE=", None),
            id="artifact by id",
        ),
        pytest.param(
            "artifact",
            {"artifact": "wandb-artifact://team/jobs/code-x:v0"},
            CodeArtifactSource(None, ArtifactName("team", "jobs", "code-x", "v0")),
            id="artifact by name",
        ),
        pytest.param("image", {"image": "reg/img@sha256:1"}, ImageJobSource("reg/img@sha256:1"), id="image"),
        pytest.param(
            "image", {"image": "i", "args": ["a", "b"]}, ImageJobSource("i", ("a", "b")), id="image with arguments"
        ),
    ],
)
def test_code(kind: str, source: dict[str, Json], code: object) -> None:
    assert parse_job_file({"source_type": kind, "source": source}).source == code


@pytest.mark.parametrize(
    ("words", "entry_point"),
    [
        pytest.param(["python", "train.py"], ("python", "train.py"), id="as is"),
        pytest.param(["pythonCPython 3.11", "train.py"], ("python3.11", "train.py"), id="implementation's name"),
        pytest.param(["pythonCPython 3.11.7", "a.py"], ("python3.11", "a.py"), id="with patch number"),
        pytest.param(["pythonPyPy 3.10"], ("python3.10",), id="another implementation"),
        pytest.param(
            ["python3.11", "pythonCPython 3.11"], ("python3.11", "pythonCPython 3.11"), id="only the first word"
        ),
        pytest.param(["pythonista 3"], ("pythonista 3",), id="no dotted number"),
        pytest.param([], (), id="empty"),
        pytest.param(None, (), id="absent"),
    ],
)
def test_the_entry_point_of_captured_jobs_is_repaired(words: Json, entry_point: tuple[str, ...]) -> None:
    assert parse_job_file(git_job(entrypoint=words)).entry_point == entry_point


@pytest.mark.parametrize(
    ("runtime", "version"),
    [
        ("3.11", "3.11"),
        ("3.11.7", "3.11.7"),
        ("CPython 3.11.7", "3.11.7"),
        ("Python 3.12", "3.12"),
        ("3", None),
        ("CPython", None),
        ("", None),
        (None, None),
    ],
)
def test_the_runtime_is_the_dotted_number(runtime: Json, version: str | None) -> None:
    assert parse_job_file(git_job({"runtime": runtime})).runtime == version


@pytest.mark.parametrize("key", ["build_context", "dockerfile"])
@pytest.mark.parametrize("path", ["../x", "a/../../x", "..", "/etc/passwd", "a/.."])
def test_a_path_must_stay_inside_the_code(key: str, path: str) -> None:
    assert refused(git_job(**{key: path})) == f"`source.{key}` is {path!r}; it must be a path inside the job's code."


@pytest.mark.parametrize("key", ["build_context", "dockerfile"])
@pytest.mark.parametrize("path", [".", "a/b", "..a", "a..b/c"])
def test_a_path_inside_the_code_is_kept(key: str, path: str) -> None:
    assert getattr(parse_job_file(git_job(**{key: path})), key) == path


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        pytest.param({}, "`source_type` is missing; it must be a string.", id="no kind"),
        pytest.param({"source_type": 1}, "`source_type` is 1; it must be a string.", id="kind not text"),
        pytest.param(
            {"source_type": "job"}, "`source_type` is 'job'; it must be repo, artifact or image.", id="unknown kind"
        ),
        pytest.param(
            {"source_type": "repo", "source": []}, "`source` is []; it must be an object.", id="source a list"
        ),
        pytest.param({"source_type": "repo"}, "`source.git.remote` is missing; it must be a string.", id="no remote"),
        pytest.param(
            {"source_type": "repo", "source": {"git": {"remote": "r", "commit": 1}}},
            "`source.git.commit` is 1; it must be a string.",
            id="commit not text",
        ),
        pytest.param(
            {"source_type": "artifact"}, "`source.artifact` is missing; it must be a string.", id="no artifact"
        ),
        pytest.param({"source_type": "image"}, "`source.image` is missing; it must be a string.", id="no image"),
        pytest.param(
            {"source_type": "image", "source": {"image": "i", "entrypoint": "python a.py"}},
            "`source.entrypoint` is 'python a.py'; it must be a list of strings.",
            id="entry point as one text",
        ),
        pytest.param(
            {"source_type": "image", "source": {"image": "i", "args": [1]}},
            "`source.args` is [1]; it must be a list of strings.",
            id="argument not text",
        ),
        pytest.param(
            {"source_type": "image", "source": {"image": "i"}, "runtime": 3.11},
            "`runtime` is 3.11; it must be a string.",
            id="runtime as number",
        ),
        pytest.param(
            {"source_type": "image", "source": {"image": "i"}, "input_types": "x"},
            "`input_types` is 'x'; it must be an object.",
            id="types as text",
        ),
    ],
)
def test_a_wrong_key_is_named(raw: dict[str, Json], message: str) -> None:
    assert refused(raw) == message


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "team/jobs/code:v0",
        "wandb-artifact://",
        "wandb-artifact://_id/",
        "wandb-artifact://a/b:v0",
        "https://x/y/z:v0",
    ],
)
def test_a_wrong_artifact_uri_is_told_both_forms(uri: str) -> None:
    assert refused({"source_type": "artifact", "source": {"artifact": uri}}) == (
        f"`source.artifact` is {uri!r}; it must be wandb-artifact://_id/ID or wandb-artifact://E/P/NAME:ALIAS."
    )
