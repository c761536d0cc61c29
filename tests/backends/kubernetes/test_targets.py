"""Where launches go, as queues may say and operators let them."""

from pathlib import Path
from typing import Any

import pytest

from backends.base import BackendError
from backends.kubernetes.manifest import Target, namespace_of, target
from backends.kubernetes.settings import Settings, read_settings
from protocol.errors import SpecError
from protocol.json_types import Json

OPERATOR = Settings(
    config_file=Path("/etc/kube.yaml"),
    context="main",
    contexts=("west",),
    namespace="launches",
    namespaces=("research",),
)


@pytest.mark.parametrize(
    ("asked", "goes"),
    [
        ({}, Target("batch/v1", "Job", "", "")),
        ({"apiVersion": "batch/v1beta1", "kind": "Job"}, Target("batch/v1", "Job", "", "")),
        ({"apiVersion": "batch/v1"}, Target("batch/v1", "Job", "", "")),
        ({"kind": "Job", "context": "west"}, Target("batch/v1", "Job", "west", "")),
        ({"context": "main", "configFile": "/etc/kube.yaml"}, Target("batch/v1", "Job", "", "")),
        ({"namespace": "a"}, Target("batch/v1", "Job", "", "a")),
        ({"namespace": "a", "metadata": {"namespace": "b"}}, Target("batch/v1", "Job", "", "b")),
        ({"apiVersion": "v1", "kind": "Pod"}, Target("v1", "Pod", "", "")),
        ({"apiVersion": "ray.io/v1", "kind": "RayJob"}, Target("ray.io/v1", "RayJob", "", "")),
        (
            {"apiVersion": "ray.io/v1", "kind": "RayJob", "group": "x.io", "version": "v2"},
            Target("x.io/v2", "RayJob", "", ""),
        ),
        ({"apiVersion": "batch/v1", "kind": "CronJob"}, Target("batch/v1", "CronJob", "", "")),
    ],
)
def test_where_a_launch_goes(asked: dict[str, Json], goes: Target) -> None:
    assert target(asked, OPERATOR) == goes


def test_queues_name_no_cluster_that_the_operator_has_not_listed() -> None:
    with pytest.raises(SpecError, match=r"context is 'east', .* may name: west\. .* `backends.kubernetes.contexts`"):
        target({"context": "east"}, OPERATOR)
    with pytest.raises(SpecError, match=r"`configFile` cannot be used: .*`backends.kubernetes.config_file`"):
        target({"configFile": "/home/me/.kube/config"}, OPERATOR)
    with pytest.raises(SpecError, match="`context` is a list; it must be a text"):
        target({"context": ["west"]}, OPERATOR)


def test_queues_name_no_namespace_that_the_operator_has_not_listed() -> None:
    def goes(asked: dict[str, Json], settings: Settings = OPERATOR) -> str:
        return namespace_of(target(asked, settings), settings, "contexts-own")

    assert goes({}) == goes({"namespace": "launches"}) == "launches"
    assert goes({}, Settings()) == goes({"namespace": "contexts-own"}, Settings()) == "contexts-own"
    assert goes({"metadata": {"namespace": "research"}}) == "research"
    for asked in ("kube-system", "contexts-own"):
        with pytest.raises(SpecError, match=rf"namespace is '{asked}', .*: launches, research\. .*\.namespaces`"):
            goes({"namespace": asked})


def test_the_operators_block_is_read() -> None:
    block: dict[str, Any] = {
        "config_file": "~/kube.yaml",
        "context": "main",
        "contexts": ["west"],
        "namespace": "launches",
        "namespaces": ["research"],
        "kinds": [{"api_version": "example.test/v1", "kind": "Experiment"}],
        "fetch_image": "registry.test/agent:1",
        "cache_claim": "packages",
        "code_claim": "code",
        "code_claim_days": 7,
        "image_pull_secrets": ["login"],
        "run_as_user": 1000,
    }
    assert read_settings(block) == Settings(
        config_file=Path.home() / "kube.yaml",
        context="main",
        contexts=("west",),
        namespace="launches",
        namespaces=("research",),
        kinds=(("example.test/v1", "Experiment"),),
        fetch_image="registry.test/agent:1",
        cache_claim="packages",
        code_claim="code",
        code_claim_days=7,
        image_pull_secrets=("login",),
        run_as_user=1000,
    )
    assert read_settings({}) == read_settings(dict.fromkeys(block)) == Settings()


@pytest.mark.parametrize(
    ("block", "words"),
    [
        (
            {"namspace": "x"},
            r"`backends.kubernetes.namspace` is not known. Did you mean `backends.kubernetes.namespace`",
        ),
        ({"namespace": "Big One"}, "namespace` names 'Big One'"),
        ({"namespaces": ["a", "-"]}, "namespaces` names '-'"),
        ({"namespaces": "a"}, "namespaces` cannot be read; it must be a list"),
        ({"contexts": [1]}, "contexts` cannot be read; it must be a list of texts"),
        ({"config_file": 1}, "config_file` cannot be read; it must be a text"),
        ({"kinds": ["Job"]}, r"kinds\[0\]` cannot be read"),
        ({"kinds": [{"api_version": "v1", "kind": ""}]}, r"kinds\[0\]` cannot be read"),
        ({"kinds": [{"kind": "Job"}]}, r"kinds\[0\]` cannot be read"),
        ({"cache_claim": "a/b"}, "cache_claim` names 'a/b'"),
        ({"image_pull_secrets": ["A"]}, "image_pull_secrets` names 'A'"),
        ({"run_as_user": 0}, "run_as_user` cannot be read; it must be the number of an account that is not root's"),
        ({"code_claim_days": 0}, "code_claim_days` cannot be read; it must be a number of days"),
        ({"run_as_user": True}, "run_as_user` cannot be read"),
    ],
)
def test_what_is_wrong_with_the_operators_block_is_named(block: dict[str, Json], words: str) -> None:
    with pytest.raises(BackendError, match=words):
        read_settings(block)
