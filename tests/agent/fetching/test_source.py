"""What a platform is told to fetch: read as it was written, and nothing else is understood."""

import json
from typing import Any

import pytest

from agent.config.model import AgentConfig
from agent.fetching.source import CodeSource, GitCode, SourceError, Version, config_block, read, written

SOURCES = [
    CodeSource(code=Version("QQ==", "d1")),
    CodeSource(code=Version("QQ==", "d1"), job=Version("Qg==", "d2"), notebook="a/b.ipynb", build_context="a"),
    CodeSource(code=GitCode("https://git.test/a", "1" * 40), subfolder="src", config={"git": {"submodules": True}}),
    CodeSource(code=GitCode("git@git.test:a", "1" * 40, {"git.test": "LAUNCHBAY_GIT_KEY_0"})),
    CodeSource(packages="wandb[launch]\n"),
]


@pytest.mark.parametrize("source", SOURCES, ids=repr)
def test_what_is_written_is_read(source: CodeSource) -> None:
    assert read(json.loads(json.dumps(written(source)))) == source


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ([], "must be an object"),
        ({}, "of the agent's own version"),
        ({"form": 2}, "in form 2, and this version reads 1"),
        ({"form": 1, "artifact": {"id": "x"}}, "`artifact.digest` is missing"),
        ({"form": 1, "git": {"remote": 1, "commit": "x"}}, "`git.remote` is 1"),
        ({"form": 1, "subfolder": "../x"}, "`subfolder` is '../x'; it must be a path inside the job's code"),
        ({"form": 1, "notebook": "/etc/x.ipynb"}, "`notebook`"),
        ({"form": 1, "config": []}, "`config`"),
    ],
)
def test_what_cannot_be_is_refused(raw: Any, said: str) -> None:
    with pytest.raises(SourceError) as refused:
        read(raw)
    assert said in str(refused.value)


def test_of_the_configuration_only_what_is_about_fetching_is_told() -> None:
    config = AgentConfig.model_validate(
        {
            "entity": "team",
            "limits": {"file": "1MiB"},
            "git": {"submodules": True, "hosts": {"git.test": {"token_file": "/run/token"}}, "known_hosts": "/x"},
            "policy": {"git_hosts": ["git.test"], "images": ["x"]},
        }
    )
    everywhere = {"limits": {"file": "1MiB"}, "policy": {"git_hosts": ["git.test"]}}
    assert config_block(config) == everywhere
    hosts = {"git.test": {"user": "git", "token_env": "LAUNCHBAY_GIT_TOKEN_0"}}
    block = config_block(config, hosts)
    assert block == {**everywhere, "git": {"submodules": True, "hosts": hosts}}
    AgentConfig.model_validate(block)
