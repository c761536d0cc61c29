"""What builds an image is shut in as far as it can be, and no secret stands in plain sight."""

import base64
import json
from typing import Any

import pytest

from backends.kubernetes.builds import Registry
from backends.kubernetes.builds.manifest import job_of, secret_of
from backends.kubernetes.names import BUILD, MAX_NAME
from protocol.errors import SpecError
from tests.backends.kubernetes.build_orders import SECRETS, order


def containers(job: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the container that fetches and the one that builds."""
    pod = job["spec"]["template"]["spec"]
    (fetching,), (building,) = pod["initContainers"], pod["containers"]
    return fetching, building


def volume(job: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a volume."""
    return next(each for each in job["spec"]["template"]["spec"]["volumes"] if each["name"] == name)


def test_its_name_is_a_function_of_the_image_alone() -> None:
    job = job_of(order())
    assert job["metadata"]["name"] == job_of(order(dockerfile="another", cache="c", namespace="n"))["metadata"]["name"]
    assert job["metadata"]["name"] != job_of(order(image="registry.test/team/jobs:1"))["metadata"]["name"]
    long = job_of(order(prefix="wandb-launch-container-build"))["metadata"]["name"]
    assert long.startswith("wandb-launch-c")
    assert len(long) <= MAX_NAME


def test_it_is_no_launch_of_any_agent() -> None:
    job = job_of(order())
    for metadata in (job["metadata"], job["spec"]["template"]["metadata"], secret_of(order())["metadata"]):
        assert set(metadata["labels"]) == {BUILD}


def test_no_secret_stands_in_the_job_and_the_builder_sees_none_but_its_login() -> None:
    job = job_of(order())
    text = json.dumps(job)
    for secret in SECRETS:
        assert secret not in text
    values = {name: base64.b64decode(value).decode() for name, value in secret_of(order())["data"].items()}
    assert values["variable.WANDB_API_KEY"] == SECRETS[0]
    assert SECRETS[2] in values["config.json"]
    fetching, building = containers(job)
    hidden = {each["name"] for each in fetching["env"] if "valueFrom" in each}
    assert hidden == {"WANDB_API_KEY", "LAUNCHBAY_GIT_TOKEN_0"}
    assert not [each for each in building["env"] if "valueFrom" in each]
    given = {each["key"] for each in volume(job, "given")["secret"]["items"]}
    assert given == {"Dockerfile", "buildkitd.toml"}, "steps share their processes with the builder: it has no more"


def test_it_is_shut_in_but_for_what_it_takes_to_be_without_root() -> None:
    job = job_of(order())
    pod = job["spec"]["template"]["spec"]
    fetching, building = containers(job)
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert fetching["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert building["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["SETUID", "SETGID"]}
    assert "privileged" not in building["securityContext"]
    assert all(each["resources"]["limits"] for each in (fetching, building))
    assert job["spec"]["activeDeadlineSeconds"] == 3600
    assert job["spec"]["backoffLimit"] == 0


def test_steps_are_kept_where_that_is_asked_for() -> None:
    _, building = containers(job_of(order(cache="registry.test/team/jobs:buildcache", platform="linux/arm64")))
    words = " ".join(building["args"])
    assert "--import-cache=type=registry,ref=registry.test/team/jobs:buildcache" in words
    assert "--export-cache=type=registry,ref=registry.test/team/jobs:buildcache,mode=max" in words
    assert "--opt=platform=linux/arm64" in words
    assert "--output=type=image,name=registry.test/team/jobs:0123456789abcdef,push=true" in words
    assert "cache" not in " ".join(containers(job_of(order()))[1]["args"])


def test_a_login_may_be_a_secret_of_the_operators() -> None:
    asked = order(registry=Registry("registry.test", secret=("logins", ".dockerconfigjson")))
    login = volume(job_of(asked), "login")["secret"]
    assert login == {"secretName": "logins", "items": [{"key": ".dockerconfigjson", "path": "config.json"}]}
    assert "config.json" not in secret_of(asked)["data"]


def test_a_registry_may_speak_http() -> None:
    def settings(is_insecure: bool) -> str:
        made = secret_of(order(registry=Registry("registry.test:5000", is_insecure)))
        return base64.b64decode(made["data"]["buildkitd.toml"]).decode()

    assert settings(True) == '[registry."registry.test:5000"]\nhttp = true\n'
    assert settings(False) == ""


def test_what_the_operator_bases_it_on_stands_but_for_what_makes_it_a_build() -> None:
    base = {
        "metadata": {"name": "mine", "labels": {"team": "a"}, "annotations": {"b": "c"}},
        "spec": {
            "activeDeadlineSeconds": 60,
            "backoffLimit": 6,
            "template": {
                "spec": {
                    "nodeSelector": {"pool": "builds"},
                    "serviceAccountName": "builder",
                    "containers": [{"resources": {"limits": {"memory": "1Gi"}}, "args": ["--x"], "image": "kaniko"}],
                }
            },
        },
    }
    job = job_of(order(base=base))
    pod = job["spec"]["template"]["spec"]
    _, building = containers(job)
    assert job["metadata"]["labels"]["team"] == "a"
    assert job["metadata"]["name"].startswith("launchbay-build-")
    assert (job["spec"]["activeDeadlineSeconds"], job["spec"]["backoffLimit"]) == (60, 0)
    assert pod["nodeSelector"] == {"pool": "builds"}
    assert "automountServiceAccountToken" not in pod
    assert building["resources"] == {"limits": {"memory": "1Gi"}}
    assert building["image"] == "moby/buildkit:rootless"
    assert "--x" not in building["args"]
    assert base["metadata"]["name"] == "mine", "what was given is left as it is"


@pytest.mark.parametrize(
    ("base", "words"),
    [
        ({"spec": []}, "builder.job-config.spec"),
        ({"spec": {"template": {"spec": {"containers": [{}, {}]}}}}, "more than one"),
        ({"spec": {"template": {"spec": {"containers": [{"resources": "much"}]}}}}, "resources"),
    ],
)
def test_a_base_of_another_form_is_told(base: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        job_of(order(base=base))
