"""The agent's configuration: layers, and errors that say what to do."""

from pathlib import Path
from typing import Any

import pytest

from agent.config import AgentConfig
from agent.config import load as load_config
from agent.errors import ConfigError


def load(tmp_path: Path, text: str = "", environment: dict[str, str] | None = None, **flags: Any) -> AgentConfig:
    """Load a configuration from a file of this text."""
    path = tmp_path / "launch-config.yaml"
    path.write_text(text)
    return load_config(path, environment or {}, flags)


def test_flags_go_over_environment_and_that_over_the_file(tmp_path: Path) -> None:
    text = "queues: [a]\nmax_jobs: 2\nentity: from-file\n"
    assert load(tmp_path, text).max_jobs == 2
    assert load(tmp_path, text, {"WANDB_LAUNCH_MAX_JOBS": "3", "WANDB_ENTITY": "env"}).max_jobs == 3
    loaded = load(tmp_path, text, {"WANDB_LAUNCH_MAX_JOBS": "3"}, max_jobs=4, queues=("b",), entity=None)
    assert (loaded.max_jobs, loaded.queues, loaded.entity) == (4, ("b",), "from-file")


def test_every_key_of_the_stock_agents_file_is_accepted(tmp_path: Path) -> None:
    text = """
    entity: e
    queues: [q]
    max_jobs: -1
    max_schedulers: 8
    secure_mode: true
    verbosity: 1
    stopped_run_timeout: 30
    environment: {type: aws, region: us-east-1}
    registry: {type: ecr, uri: x}
    builder: {type: noop}
    """
    assert load(tmp_path, text).max_jobs == -1


def test_one_queue_may_be_named_in_the_singular(tmp_path: Path) -> None:
    assert load(tmp_path, "queue: only").queues == ("only",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("queues: [q]\nmax_job: 2", "`max_job` is not a known key. Did you mean `max_jobs`?"),
        ("queues: [q]\nxyzzy: 2", "`xyzzy` is not a known key. Known keys: entity, queues"),
        ("queues: [q]\nmax_jobs: -2", "`max_jobs` is -2: Value error, must be 1 or more, or -1 for no limit."),
        ("queues: [q]\nmax_jobs: many", "`max_jobs` is 'many'"),
        ("max_jobs: 1", "No queue to serve. Name one with -q QUEUE"),
        ("- a\n- b", "must hold a mapping"),
        ("a: [", "is not YAML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, text)
    assert message in str(error.value)


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, "queues: [q]\nmax_jobs: -2\nverbosity: 7\nnonsense: 1")
    assert all(key in str(error.value) for key in ("max_jobs", "verbosity", "nonsense"))


def test_a_missing_file_is_an_error_only_if_it_was_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "none.yaml", {}, {"queues": ("q",)})
    assert load_config(None, {}, {"queues": ("q",)}, default_path=tmp_path / "none.yaml").queues == ("q",)
