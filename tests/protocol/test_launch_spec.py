"""Launch specs: read strictly, and cut before they are logged."""

from dataclasses import replace
from typing import Any

import pytest

from protocol.errors import SpecError
from protocol.json_types import Json, JsonObject
from protocol.launch_spec import (
    MAX_DEPTH,
    ImageSource,
    JobSource,
    Overrides,
    PlaceholderSource,
    is_scheduler,
    parse_launch_spec,
    without_stray_quotes,
)
from protocol.names import ArtifactName

JOB = "team/jobs/train:v3"
SECRET = "s3cret-value"
SECRET_KEYS = (
    "_wandb_api_key",
    "WANDB_API_KEY",
    "apikey",
    "hf_token",
    "TOKEN",
    "password",
    "db_passwd",
    "clientSecret",
)


def spec(**keys: Json) -> dict[str, Json]:
    """Return a spec of a job."""
    return {"entity": "team", "project": "Proj", "job": JOB, **keys}


def refused(raw: JsonObject) -> str:
    """Return why a spec is refused."""
    with pytest.raises(SpecError) as caught:
        parse_launch_spec(raw)
    return str(caught.value)


def nested(depth: int) -> Json:
    """Return a text inside so many lists and objects, in turn."""
    leaf: Json = "leaf"
    for level in range(depth):
        leaf = [leaf] if level % 2 else {"key": leaf}
    return leaf


# --- reading ----------------------------------------------------------------------------------------------------------


def test_a_full_spec() -> None:
    block: Json = {"spec": {"template": {}}}
    raw = spec(
        name="exp1",
        docker={},
        git={},
        resource="kubernetes",
        resource_args={"kubernetes": block, "vertex": {"no": 1}},
        overrides={
            "args": ["--fast", ""],
            "run_config": {"lr": 0.1},
            "entry_point": ["python", "train.py"],
            "dockerfile": "Dockerfile.gpu",
            "artifacts": {"data": {"_version": "v0"}},
            "files": {"config.yaml": {"a": 1}},
            "working_dir": "src",
        },
        run_id="ab12cd34",
        sweep_id="sweep1",
        author="alice",
        python_version="3.11",
        _resume_count=2,
        _wandb_api_key=SECRET,
        queue="leaked",
        priority=[1],
    )
    read = parse_launch_spec(raw)
    assert (read.entity, read.project, read.name) == ("team", "Proj", "exp1"), "the project's spelling must stay"
    assert read.source == JobSource(ArtifactName("team", "jobs", "train", "v3"))
    assert (read.resource, read.resource_args) == ("kubernetes", block)
    assert read.overrides == Overrides(
        args=("--fast", ""),
        run_config={"lr": 0.1},
        entry_point=("python", "train.py"),
        dockerfile="Dockerfile.gpu",
        artifacts={"data": {"_version": "v0"}},
        files={"config.yaml": {"a": 1}},
        working_dir="src",
    )
    assert (read.run_id, read.sweep_id, read.author) == ("ab12cd34", "sweep1", "alice")
    assert (read.python_version, read.resume_count, read.job) == ("3.11", 2, JOB)
    assert read.api_key == SECRET
    assert read.raw is raw, "unknown keys must be kept"


@pytest.mark.parametrize("key", ["working_dir", "dockerfile"])
@pytest.mark.parametrize("path", ["/etc", "..", "a/../../b", "../a", "a\0b", 7])
def test_a_path_that_leaves_the_code_is_refused(key: str, path: Any) -> None:
    with pytest.raises(SpecError, match=rf"`overrides\.{key}` is .*; it must be a "):
        parse_launch_spec(spec(overrides={key: path}))


def test_a_bare_spec_has_defaults() -> None:
    read = parse_launch_spec({"entity": "team", "project": "", "job": JOB})
    assert (read.project, read.resource, read.resource_args, read.overrides) == ("", "local-container", {}, Overrides())
    assert (read.name, read.run_id, read.sweep_id, read.author, read.python_version) == (None,) * 5
    assert (read.api_key, read.resume_count) == (None, 0)


@pytest.mark.parametrize(
    "key", ["name", "resource", "run_id", "author", "docker", "overrides", "resource_args", "_resume_count"]
)
def test_null_is_as_good_as_absent(key: str) -> None:
    read = parse_launch_spec(spec(**{key: None}))
    assert replace(read, raw={}) == replace(parse_launch_spec(spec()), raw={})


def test_a_printed_spec_shows_no_secret() -> None:
    assert SECRET not in repr(parse_launch_spec(spec(_wandb_api_key=SECRET)))


@pytest.mark.parametrize(
    ("keys", "source"),
    [
        pytest.param({"job": JOB}, JobSource(ArtifactName("team", "jobs", "train", "v3")), id="job"),
        pytest.param({"docker": {"docker_image": "img:1"}}, ImageSource("img:1"), id="docker image"),
        pytest.param({"image_uri": "img:1"}, ImageSource("img:1"), id="image uri"),
        pytest.param(
            {"docker": {"docker_image": "a"}, "image_uri": "b"}, ImageSource("a"), id="docker image before image uri"
        ),
        pytest.param({"docker": {"docker_image": "a"}, "job": JOB}, ImageSource("a"), id="image before job"),
        pytest.param(
            {"docker": {"docker_image": ""}, "job": JOB},
            JobSource(ArtifactName("team", "jobs", "train", "v3")),
            id="empty image",
        ),
        pytest.param(
            {"job": JOB, "uri": "placeholder-x"},
            JobSource(ArtifactName("team", "jobs", "train", "v3")),
            id="job before uri",
        ),
        pytest.param(
            {"uri": "placeholder-uri-scheduler"}, PlaceholderSource("placeholder-uri-scheduler"), id="placeholder"
        ),
    ],
)
def test_sources(keys: dict[str, Json], source: object) -> None:
    assert parse_launch_spec({"entity": "team", "project": "p", **keys}).source == source


def test_an_image_keeps_the_name_of_its_job() -> None:
    assert parse_launch_spec(spec(docker={"docker_image": "img"})).job == JOB


@pytest.mark.parametrize(
    ("resource", "args", "block"),
    [
        pytest.param("kubernetes", {"kubernetes": {"a": 1}}, {"a": 1}, id="own block"),
        pytest.param("kubernetes", {"sagemaker": {"a": 1}}, {}, id="another's block"),
        pytest.param("kubernetes", {"kubernetes": None}, {}, id="null block"),
        pytest.param("gcp-vertex", {"vertex": {"a": 1}}, {"a": 1}, id="vertex by its short name"),
        pytest.param("gcp-vertex", {"gcp-vertex": {"a": 1}}, {"a": 1}, id="vertex by its long name"),
        pytest.param("vertex", {"gcp-vertex": {"b": 2}, "vertex": {"a": 1}}, {"a": 1}, id="short name first"),
        pytest.param(
            "gcp-vertex", {"gcp-vertex": {"b": 2}, "vertex": {"a": 1}}, {"a": 1}, id="short name first here too"
        ),
        pytest.param(None, {"local-container": {"a": 1}}, {"a": 1}, id="default resource"),
        pytest.param("", {"local-container": {"a": 1}}, {"a": 1}, id="empty resource"),
    ],
)
def test_the_block_of_the_resource_alone(resource: str | None, args: Json, block: Json) -> None:
    assert parse_launch_spec(spec(resource=resource, resource_args=args)).resource_args == block


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        pytest.param({"entity": None}, "`entity` is missing; it must be a string.", id="no entity"),
        pytest.param({"entity": 1}, "`entity` is 1; it must be a string.", id="entity not text"),
        pytest.param({"project": None}, "`project` is missing; it must be a string.", id="no project"),
        pytest.param({"name": 5}, "`name` is 5; it must be a string.", id="name not text"),
        pytest.param({"job": 5}, "`job` is 5; it must be a string.", id="job not text"),
        pytest.param({"docker": "img"}, "`docker` is 'img'; it must be an object.", id="docker not an object"),
        pytest.param(
            {"docker": {"docker_image": 1}}, "`docker.docker_image` is 1; it must be a string.", id="image not text"
        ),
        pytest.param({"resource": ["k"]}, "`resource` is ['k']; it must be a string.", id="resource not text"),
        pytest.param({"resource_args": []}, "`resource_args` is []; it must be an object.", id="args not an object"),
        pytest.param(
            {"resource": "kubernetes", "resource_args": {"kubernetes": "x"}},
            "`resource_args.kubernetes` is 'x'; it must be an object.",
            id="block not an object",
        ),
        pytest.param({"overrides": 1}, "`overrides` is 1; it must be an object.", id="overrides not an object"),
        pytest.param(
            {"overrides": {"args": "--fast"}},
            "`overrides.args` is '--fast'; it must be a list of strings.",
            id="args as one text",
        ),
        pytest.param(
            {"overrides": {"args": ["a", 1]}},
            "`overrides.args` is ['a', 1]; it must be a list of strings.",
            id="an arg not text",
        ),
        pytest.param(
            {"overrides": {"entry_point": "python x.py"}},
            "`overrides.entry_point` is 'python x.py'; it must be a list of strings.",
            id="entry point as one text",
        ),
        pytest.param(
            {"overrides": {"run_config": []}},
            "`overrides.run_config` is []; it must be an object.",
            id="run config list",
        ),
        pytest.param({"overrides": {"files": "x"}}, "`overrides.files` is 'x'; it must be an object.", id="files text"),
        pytest.param(
            {"overrides": {"artifacts": 1}}, "`overrides.artifacts` is 1; it must be an object.", id="artifacts number"
        ),
        pytest.param({"_resume_count": "1"}, "`_resume_count` is '1'; it must be an integer.", id="resume count text"),
        pytest.param(
            {"_resume_count": True}, "`_resume_count` is True; it must be an integer.", id="resume count true"
        ),
        pytest.param(
            {"job": None}, "Exactly one of job or docker_image must be specified in the launch spec.", id="no source"
        ),
        pytest.param(
            {"job": None, "uri": "https://example.com/x.git"},
            "Exactly one of job or docker_image must be specified in the launch spec.",
            id="uri that is no placeholder",
        ),
        pytest.param(
            {"docker": {"docker_image": "img"}, "resource": "local-process"},
            "Cannot specify docker image with local-process resource runner",
            id="image as a process",
        ),
    ],
)
def test_a_wrong_key_is_named(keys: dict[str, Json], message: str) -> None:
    assert refused(spec(**keys)) == message


def test_a_wrong_api_key_is_not_shown() -> None:
    message = refused(spec(_wandb_api_key=[SECRET]))
    assert message.startswith("`_wandb_api_key` must be a string.")
    assert SECRET not in message


def test_a_spec_must_be_an_object() -> None:
    wrong: Any = ["x"]
    assert refused(wrong) == "it must be an object, not ['x']."


def test_depth_is_limited() -> None:
    parse_launch_spec(spec(overrides={"run_config": {"deep": nested(MAX_DEPTH - 4)}}))
    assert refused(spec(anything=nested(MAX_DEPTH))) == f"The launch spec is nested deeper than {MAX_DEPTH} levels."
    assert "nested deeper" in refused(spec(anything=nested(100_000)))


# --- schedulers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "scheduler"),
    [
        pytest.param({"resource": "kubernetes", "uri": "placeholder-uri-scheduler"}, True, id="elsewhere"),
        pytest.param({"resource": "kubernetes", "uri": "placeholder-uri-scheduler", "job": JOB}, True, id="with a job"),
        pytest.param(
            {"resource": "local-process", "uri": "placeholder-uri-scheduler", "job": JOB}, True, id="process, job"
        ),
        pytest.param(
            {
                "resource": "local-process",
                "uri": "placeholder-uri-scheduler",
                "overrides": {"entry_point": ["wandb", "scheduler", "s1"]},
            },
            True,
            id="process with the scheduler's command",
        ),
        pytest.param(
            {
                "resource": "local-process",
                "uri": "placeholder-uri-scheduler",
                "overrides": {"entry_point": ["wandb", "scheduler"]},
            },
            False,
            id="process with half of the command",
        ),
        pytest.param(
            {
                "resource": "local-process",
                "uri": "placeholder-uri-scheduler",
                "overrides": {"entry_point": ["rm", "-rf", "x"]},
            },
            False,
            id="process with another command",
        ),
        pytest.param({"resource": "kubernetes", "uri": "placeholder-uri"}, False, id="another placeholder"),
        pytest.param({"job": JOB}, False, id="a plain job"),
    ],
)
def test_what_a_scheduler_is(keys: dict[str, Json], scheduler: bool) -> None:
    assert is_scheduler(parse_launch_spec({"entity": "team", "project": "p", **keys})) is scheduler


@pytest.mark.parametrize(
    ("word", "stripped"),
    [
        ("'q1'", "q1"),
        ("''q1''", "'q1'"),
        ("''", ""),
        ("'", "'"),
        ("'q1", "'q1"),
        ('"q1"', '"q1"'),
        ("", ""),
        ("q", "q"),
    ],
)
def test_one_pair_of_quotes_is_stripped(word: str, stripped: str) -> None:
    assert without_stray_quotes([word, "--queue"]) == (stripped, "--queue")
