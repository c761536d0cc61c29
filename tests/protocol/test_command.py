"""Which command a launch runs."""

from typing import Any

import pytest

from protocol.command import launch_command
from protocol.errors import SpecError
from protocol.job_file import JobFile, parse_job_file
from protocol.json_types import Json
from protocol.launch_spec import LaunchSpec, parse_launch_spec


def spec_of(overrides: dict[str, Json] | None = None, **keys: Any) -> LaunchSpec:
    """Read a spec of a job with these overrides."""
    base: dict[str, Json] = {"entity": "e", "project": "p", "job": "e/p/j:v1", "overrides": overrides or {}}
    return parse_launch_spec({**base, **keys})


def code_job(*entry_point: str) -> JobFile:
    """Return a job of a code artifact."""
    source: dict[str, Json] = {"artifact": "wandb-artifact://_id/1", "entrypoint": list(entry_point)}
    return parse_job_file({"source_type": "artifact", "source": source})


def image_job(**source: Json) -> JobFile:
    """Return a job of an image."""
    return parse_job_file({"source_type": "image", "source": {"image": "img", **source}})


def test_the_jobs_entry_point_and_then_the_arguments() -> None:
    assert launch_command(spec_of({"args": ["--lr", "1"]}), code_job("python", "t.py")) == (
        "python",
        "t.py",
        "--lr",
        "1",
    )


def test_an_override_replaces_the_jobs_entry_point() -> None:
    spec = spec_of({"entry_point": ["bash", "run.sh"], "args": ["a"]})
    assert launch_command(spec, code_job("python", "t.py")) == ("bash", "run.sh", "a")


def test_without_any_entry_point_the_error_says_what_to_do() -> None:
    with pytest.raises(SpecError, match="--entry-point"):
        launch_command(spec_of(), code_job())
    with pytest.raises(SpecError, match="--entry-point"):
        launch_command(spec_of(job=None, uri="placeholder-uri-scheduler"), None)


def test_an_image_may_run_its_own_default_with_arguments() -> None:
    assert launch_command(spec_of({"args": ["a"]}, image_uri="img"), None) == ("a",)
    assert launch_command(spec_of(), image_job()) == ()
    assert launch_command(spec_of({"args": ["a"]}), image_job()) == ("a",)


def test_arguments_of_a_legacy_image_job_give_way_to_the_launchs_own() -> None:
    job = image_job(args=["old"], entrypoint=["run"])
    assert launch_command(spec_of(), job) == ("run", "old")
    assert launch_command(spec_of({"args": ["new"]}), job) == ("run", "new")


def test_only_schedulers_lose_stray_quotes() -> None:
    overrides: dict[str, Json] = {"entry_point": ["wandb", "scheduler", "s"], "args": ["--queue", "'my queue'"]}
    scheduler = spec_of(overrides, uri="placeholder-uri-scheduler", job=None, resource="local-process")
    assert launch_command(scheduler, None) == ("wandb", "scheduler", "s", "--queue", "my queue")
    assert launch_command(spec_of(overrides), None)[-1] == "'my queue'"
