"""What a launch is in a cluster, kind by kind."""

import base64
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import backends.kubernetes.names as names
from backends.kubernetes.api import Kind
from backends.kubernetes.manifest import Plan, plan
from backends.kubernetes.manifest.variables import literal
from backends.kubernetes.settings import Settings
from protocol.errors import SpecError
from protocol.json_types import dig
from protocol.pod_templates import pod_templates
from tests.backends.kubernetes.manifest_cases import CASES, FOLDER, OWNER, case, planned, request, written

VOLCANO = {"apiVersion": "batch.volcano.sh/v1alpha1", "kind": "Job"}
POD: dict[str, Any] = {"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [{"image": "s:1"}]}}
CODE: dict[str, Any] = {"source": {"type": "git"}, "has_requirements": True}


def containers(made: Plan, key: str = "containers") -> Iterator[dict[str, Any]]:
    for _, template in pod_templates(made.object):
        yield from template["spec"].get(key, ())


def container(made: Plan, name: str) -> dict[str, Any]:
    """Return the only container of that name."""
    (found,) = [
        each for key in ("containers", "initContainers") for each in containers(made, key) if each["name"] == name
    ]
    return found


def job(**fields: Any) -> dict[str, Any]:
    """Return the resource args of a Job with one pod."""
    return {"spec": {"template": {"spec": fields}}}


def variables(of: dict[str, Any]) -> list[str]:
    return [each["name"] for each in of.get("env", ())]


@pytest.mark.parametrize("name", CASES)
def test_a_request_becomes_these_objects_byte_for_byte(name: str) -> None:
    """After a wanted change, write the expectations anew: `python -m tests.backends.kubernetes.manifest_cases`."""
    assert written(case(name)) == (FOLDER / f"{name}.expected.yaml").read_text("utf-8")


def test_a_plan_leaves_its_request_as_it_was() -> None:
    asked = request(image="i", resource_args=job(containers=[{"env": []}]), services=[{"config": POD}], command=["a"])
    first, second = (written(planned(asked)) for _ in range(2))
    assert first == second
    assert asked.resource_args == job(containers=[{"env": []}])


@pytest.mark.parametrize("name", CASES)
def test_the_values_of_secrets_stand_in_the_secret_alone(name: str) -> None:
    """Also in custom resources, and in what a launch has beside itself."""
    made = case(name)
    shown = json.dumps([made.object, made.services])
    assert made.secret is not None
    hidden = [base64.b64decode(value).decode() for value in made.secret["data"].values()]
    assert "hidden-api-key" in hidden
    for value in hidden:
        assert value not in shown
        assert base64.b64encode(value.encode()).decode() not in shown
        assert value not in repr(made)


@pytest.mark.parametrize("name", CASES)
def test_everything_of_a_launch_is_found_by_its_labels(name: str) -> None:
    made = case(name)
    assert made.secret is not None
    templates = [template for path, template in pod_templates(made.object) if path]
    served = [template for each in made.services for path, template in pod_templates(each) if path]
    for found in (made.object, made.secret, *templates, *made.services, *served):
        metadata = found["metadata"]
        assert metadata["labels"]["launchbay.dev/owner"] == names.owner_of(OWNER)
        assert metadata["labels"]["launchbay.dev/launch"] == "launch-0123456789abcdef-1"
        assert metadata["labels"]["wandb.ai/run-id"] == "run12345"
        assert names.read_labels(metadata["annotations"])["item"] == "UnVuUXVldWVJdGVtOjE="
    for found in (made.object, made.secret, *made.services):
        assert found["metadata"]["namespace"] == made.namespace
    for found in (*made.services, *served):
        assert found["metadata"]["labels"]["launchbay.dev/service"]  # no launch, and none of its pods
    for found in (made.object, *templates):
        assert "launchbay.dev/service" not in found["metadata"]["labels"]


@pytest.mark.parametrize("name", [each for each in CASES if each != "job-indexed"])
def test_no_container_may_gain_privileges(name: str) -> None:
    made = case(name)
    for each in (*containers(made), *containers(made, "initContainers")):
        assert each["securityContext"]["allowPrivilegeEscalation"] is False
        assert each["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    for _, template in pod_templates(made.object):
        assert template["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert template["spec"]["automountServiceAccountToken"] is False


def test_what_the_queue_says_about_privileges_stands() -> None:
    """Whether it may is for the policy to say."""
    asked = job(
        securityContext={"seccompProfile": {"type": "Unconfined"}},
        automountServiceAccountToken=True,
        containers=[
            {"name": "a", "securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}}},
            {"name": "b", "securityContext": {"allowPrivilegeEscalation": True}},
            {"name": "c", "securityContext": {"privileged": True}},
        ],
    )
    made = planned(request(image="i", resource_args=asked))
    pod = made.object["spec"]["template"]["spec"]
    assert pod["securityContext"] == {"seccompProfile": {"type": "Unconfined"}}
    assert pod["automountServiceAccountToken"] is True
    # The API server takes no container that is privileged and may not gain privileges.
    assert container(made, "a")["securityContext"] == {"capabilities": {"add": ["SYS_ADMIN"], "drop": ["ALL"]}}
    assert container(made, "b")["securityContext"]["allowPrivilegeEscalation"] is True
    assert container(made, "c")["securityContext"] == {"privileged": True}


def test_sidecars_keep_their_command_their_arguments_and_their_variables() -> None:
    sidecar = {"name": "proxy", "image": "proxy:1", "command": ["proxy"], "args": ["-v"], "env": [{"name": "A"}]}
    for place in (0, 1):
        both = [{"name": "train"}, sidecar] if place else [sidecar, {"name": "train"}]
        marked = {"metadata": {"annotations": {"kubectl.kubernetes.io/default-container": "train"}}}
        asked = {"spec": {"template": {**marked, "spec": {"containers": both}}}}
        made = planned(request(image="i", command=["other", "x"], args=["x"], code=CODE, resource_args=asked))
        assert {key: container(made, "proxy")[key] for key in sidecar} == sidecar
        assert "volumeMounts" not in container(made, "proxy")
        assert container(made, "train")["args"] == ["x"]


@pytest.mark.parametrize(
    ("asked", "queue", "runs"),
    [
        pytest.param({}, {}, (None, None), id="nobody says anything: the image's own"),
        pytest.param({"args": ["-x"]}, {}, (None, ["-x"]), id="the image's own, with the launch's arguments"),
        pytest.param({"args": ["-x"]}, {"command": ["q"], "args": ["y"]}, (["q"], ["-x"]), id="queue's program"),
        pytest.param({}, {"command": ["q"], "args": ["y"]}, (["q"], ["y"]), id="the queue's alone"),
        pytest.param(
            {"command": ["job"], "command_yields": True},
            {"args": ["y"]},
            (["job"], ["y"]),
            id="job's, queue's arguments",
        ),
        pytest.param(
            {"command": ["job", "-x"], "args": ["-x"], "command_yields": True},
            {"command": ["q"], "args": ["y"]},
            (["q"], ["-x"]),
            id="the queue's goes before what only the job has",
        ),
        pytest.param(
            {"command": ["other", "-x"], "args": ["-x"]},
            {"command": ["q"], "args": ["y"]},
            (["other"], ["-x"]),
            id="the launch's goes before the queue's",
        ),
    ],
)
@pytest.mark.parametrize("kind", [{}, VOLCANO], ids=["Job", "custom"])
def test_who_names_the_program(
    kind: dict[str, Any], asked: dict[str, Any], queue: dict[str, Any], runs: tuple[list[str] | None, list[str] | None]
) -> None:
    made = planned(request(image="i", resource_args={**kind, **job(containers=[{"name": "c", **queue}])}, **asked))
    assert (container(made, "c").get("command"), container(made, "c").get("args")) == runs


@pytest.mark.parametrize(
    ("entry_point", "asked", "runs"),
    [
        ("python old.py", {"command": ["python", "new.py"], "command_yields": True}, "python old.py"),
        ("python old.py", {"command": ["new", "-x"], "args": ["-x"], "command_yields": True}, "python old.py -x"),
        ("python old.py", {"command": ["new", "a b"], "args": ["a b"]}, "new 'a b'"),
        (None, {"command": ["new", "; rm -rf ~"], "command_yields": True}, "new '; rm -rf ~'"),
        ("python old.py", {"args": ["$(x)"]}, "python old.py '$(x)'"),
        (None, {"command": ["new"], "code": CODE}, "/mnt/launchbay/bin/run new"),
    ],
)
def test_the_command_of_a_ray_job_is_one_text_whose_words_stay_apart(
    entry_point: str | None, asked: dict[str, Any], runs: str
) -> None:
    pods = {"headGroupSpec": {"template": {"spec": {"containers": [{"name": "head"}]}}}}
    spec = {"entrypoint": entry_point, "rayClusterSpec": pods}
    made = planned(
        request(image="i", resource_args={"apiVersion": "ray.io/v1", "kind": "RayJob", "spec": spec}, **asked)
    )
    assert made.object["spec"]["entrypoint"] == runs
    assert "command" not in container(made, "head")
    assert [each["name"] for each in containers(made)] == ["head", "ray-job-submitter"]
    assert "env" not in container(made, "ray-job-submitter")


def test_a_ray_cluster_that_grows_keeps_its_account() -> None:
    pods = {"headGroupSpec": {"template": {"spec": {"containers": [{}]}}}, "enableInTreeAutoscaling": True}
    asked = {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "spec": {"rayClusterSpec": pods, "submissionMode": "HTTPMode"},
    }
    made = planned(request(image="i", resource_args=asked))
    assert [template["spec"]["automountServiceAccountToken"] for _, template in pod_templates(made.object)] == [True]


@pytest.mark.parametrize("kind", [{}, VOLCANO], ids=["Job", "custom"])
def test_an_image_runs_and_code_runs_in_the_image_that_the_queue_names(kind: dict[str, Any]) -> None:
    """Of a kind of its own the queue's owner says where the launch's image goes."""

    def image(own: str | None, **fields: Any) -> str:
        asked = {**kind, **job(containers=[{"name": "c", "image": own}, {"name": "sidecar", "image": "s:1"}])}
        made = planned(request(image="launch:1", resource_args=asked, **fields))
        assert container(made, "sidecar")["image"] == "s:1"
        return container(made, "c")["image"]

    assert image(None) == image(None, code=CODE) == "launch:1"
    assert image("queue:1", code=CODE) == "queue:1"
    assert image("queue:1") == ("queue:1" if kind else "launch:1")


def test_variables_are_not_given_twice_and_those_of_the_queue_may_refer_to_ours() -> None:
    own = [
        {"name": "WANDB_PROJECT", "value": "another"},
        {"name": "WANDB_API_KEY", "value": "another"},
        {"name": "OUT", "value": "/out/$(WANDB_RUN_ID)"},
        {"name": "PYTHONUNBUFFERED", "value": ""},
        {"name": "TWICE", "value": "1"},
        {"name": "TWICE", "value": "2"},
    ]
    made = planned(request(image="i", resource_args=job(containers=[{"name": "c", "env": own}])))
    env = container(made, "c")["env"]
    assert len({each["name"] for each in env}) == len(env)
    assert [each.get("value") for each in env if each["name"] == "WANDB_PROJECT"] == ["mnist"]
    assert [each.get("value") for each in env if each["name"] == "WANDB_API_KEY"] == [None]
    assert env.index(own[2]) > variables(container(made, "c")).index("WANDB_RUN_ID")
    assert env[-2:] == [own[3], own[5]]


def test_what_is_both_plain_and_secret_is_secret() -> None:
    made = planned(request(image="i", environment={"TOKEN": "plain"}, secrets={"TOKEN": "hidden"}))
    assert container(made, "launch0")["env"][0] == {
        "name": "TOKEN",
        "valueFrom": {"secretKeyRef": {"name": "launch-0123456789abcdef-1", "key": "TOKEN"}},
    }


def expanded(text: str) -> str:
    """Read a value as the kubelet does, none of whose variables is known."""
    return re.sub(r"\$(\$|\([^)]*\)|.|$)", lambda match: "$" if match[1] == "$" else match[0], text, flags=re.DOTALL)


@given(st.text("$()A{} ", max_size=12))
def test_no_word_of_a_launch_is_filled_in_by_the_cluster(word: str) -> None:
    assert expanded(literal(word)) == word
    assert "$(" not in literal(word).replace("$$", "")


def test_a_launch_without_secrets_has_no_secret() -> None:
    assert planned(request(image="i", secrets={})).secret is None


def test_every_launch_has_a_secret_of_its_own() -> None:
    """One that several share would give one launch the identity of another."""
    secrets = [planned(request(image="i", name=f"launch-0123456789abcdef-{n}")).secret for n in (1, 2)]
    assert len({dig(each, "metadata", "name") for each in secrets}) == 2


def test_words_about_the_launch_do_not_reach_the_object() -> None:
    about = {
        "configFile": "/etc/kube.yaml",
        "context": "other",
        "namespace": "research",
        "wait_for_ready": False,
        "wait_timeout": 5,
        "builder": {"base_image": "python:3.12"},
        "name": "x",
    }
    for kind, extra in (({}, {}), ({**VOLCANO, "group": "batch.volcano.sh", "version": "v1beta1"}, {"own": 1})):
        asked = {**about, **kind, **extra, **job(containers=[{}])}
        made = planned(request(image="i", resource_args=asked), config_file="/etc/kube.yaml", contexts=["other"])
        assert set(made.object) == {"apiVersion", "kind", "metadata", "spec", *extra}
        assert (made.context, made.namespace) == ("other", "research")
        assert (made.waiting.for_ready, made.waiting.seconds) == (False, 5)
    assert made.object["apiVersion"] == "batch.volcano.sh/v1beta1"


def test_a_queue_that_ends_pods_sooner_or_keeps_jobs_shorter_may() -> None:
    pod = {"terminationGracePeriodSeconds": 7, "restartPolicy": "OnFailure", "containers": [{}]}
    asked = {"spec": {"ttlSecondsAfterFinished": 60, "backoffLimit": 3, "template": {"spec": pod}}}
    spec = planned(request(image="i", grace_seconds=90, resource_args=asked)).object["spec"]
    assert (spec["ttlSecondsAfterFinished"], spec["backoffLimit"]) == (60, 3)
    assert (dig(spec, "template", "spec", "terminationGracePeriodSeconds")) == 7
    assert (dig(spec, "template", "spec", "restartPolicy")) == "OnFailure"
    spec = planned(request(image="i", grace_seconds=0.4)).object["spec"]
    assert (dig(spec, "template", "spec", "terminationGracePeriodSeconds")) == 1


def test_an_ended_job_is_there_long_enough_for_an_agent_that_was_away() -> None:
    assert planned(request(image="i")).object["spec"]["ttlSecondsAfterFinished"] >= 24 * 3600


def test_failures_by_index_are_not_cut_short_by_a_limit_for_all() -> None:
    asked = {"spec": {"completionMode": "Indexed", "completions": 2, "backoffLimitPerIndex": 1}}
    assert "backoffLimit" not in planned(request(image="i", resource_args=asked)).object["spec"]


def test_no_shell_stands_between_the_fetch_of_the_code_and_the_job() -> None:
    """A fetch that fails ends its container with its own exit code, so the job does not start without its code."""
    made = planned(request(image="i", command=["a"], code={**CODE, "source": {"remote": "; true"}}))
    for each in (*containers(made), *containers(made, "initContainers")):
        assert not {"sh", "bash", "/bin/sh", "/bin/bash", "-c"} & {*each["command"], *each.get("args", ())}
    assert "; true" not in str(container(made, "wandb-source-code-init")["command"])


def test_what_builds_the_requirements_does_not_see_the_keys_to_the_code() -> None:
    secrets = {"GIT_TOKEN": "hidden", "UV_INDEX_X_PASSWORD": "hidden"}
    made = planned(request(image="i", command=["a"], code={**CODE, "secrets": secrets}))
    assert "UV_INDEX_X_PASSWORD" in variables(container(made, "wandb-requirements-init"))
    assert not {"GIT_TOKEN", "WANDB_API_KEY"} & set(variables(container(made, "wandb-requirements-init")))
    assert {"GIT_TOKEN", "WANDB_API_KEY"} <= set(variables(container(made, "wandb-source-code-init")))
    assert not {"GIT_TOKEN", "UV_INDEX_X_PASSWORD"} & set(variables(container(made, "launch0")))


def test_code_on_a_claim_lies_by_its_content_and_jobs_only_read_it() -> None:
    """So that a second launch of the job does not write over the code that the first one runs."""

    def mounted(source: dict[str, Any]) -> dict[str, Any]:
        made = planned(request(image="i", command=["a"], code={"source": source}), code_claim="code")
        (mount,) = container(made, "launch0")["volumeMounts"]
        assert container(made, "wandb-source-code-init")["command"][2].endswith(f"/{mount['subPath']}")
        return mount

    assert mounted({"a": 1, "b": 2}) == mounted({"b": 2, "a": 1})
    assert mounted({"a": 1})["subPath"] != mounted({"a": 2})["subPath"]
    assert mounted({"a": 1})["readOnly"] is True


def test_what_brings_the_code_has_the_account_of_the_job() -> None:
    context = {"runAsUser": 2000, "runAsNonRoot": True, "readOnlyRootFilesystem": True}
    asked = job(containers=[{"name": "c", "securityContext": context}])
    made = planned(request(image="i", command=["a"], code=CODE, resource_args=asked))
    for each in containers(made, "initContainers"):
        assert each["securityContext"]["runAsUser"] == 2000
        assert each["securityContext"]["runAsNonRoot"] is True
        assert "readOnlyRootFilesystem" not in each["securityContext"]


def test_an_account_for_all_yields_to_that_of_a_queue() -> None:
    def context(**own: Any) -> dict[str, Any]:
        made = planned(request(image="i", resource_args=job(securityContext=own)), run_as_user=1000)
        pod = made.object["spec"]["template"]["spec"]
        assert ("HOME" in variables(pod["containers"][0])) == (pod["securityContext"].get("runAsUser") == 1000)
        return {key: value for key, value in pod["securityContext"].items() if key != "seccompProfile"}

    assert context() == {"runAsNonRoot": True, "runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 1000}
    assert context(runAsUser=0) == {"runAsUser": 0, "runAsNonRoot": False}
    assert context(runAsNonRoot=False) == {"runAsNonRoot": False}


def test_an_account_that_is_named_is_told_to_be_roots_or_not() -> None:
    """Else namespaces with the profile `restricted` refuse it though it is not, or a kubelet though it may be."""
    names = {"root": 0, "somebody": 2000}
    asked = job(
        securityContext={"runAsUser": 1000},
        containers=[{"name": name, "securityContext": {"runAsUser": user}} for name, user in names.items()],
    )
    made = planned(request(image="i", resource_args=asked))
    assert made.object["spec"]["template"]["spec"]["securityContext"]["runAsNonRoot"] is True
    told = {each["name"]: each["securityContext"]["runAsNonRoot"] for each in containers(made)}
    assert told == {"root": False, "somebody": True}


@pytest.mark.parametrize(
    ("is_shared", "command", "pod"),
    [
        (True, ["python"], {}),
        (True, ["python"], {"initContainers": [{"name": "before"}]}),
        (None, [], {}),
        (None, ["python"], {"containers": [{}, {"name": "beside"}]}),
        (None, ["python"], {"initContainers": [{"name": "beside", "restartPolicy": "Always"}]}),
        (None, ["python"], {"hostPID": True}),
        (None, ["python"], {"os": {"name": "windows"}}),
        (False, ["python"], {"shareProcessNamespace": False}),
    ],
)
def test_a_job_that_is_alone_is_not_process_1_so_that_it_can_be_stopped(
    is_shared: bool | None, command: list[str], pod: dict[str, Any]
) -> None:
    made = planned(request(image="i", command=command, resource_args=job(**pod)))
    assert made.object["spec"]["template"]["spec"].get("shareProcessNamespace") is is_shared


@pytest.mark.parametrize(
    ("taken", "words"),
    [
        (
            {"containers": [{"volumeMounts": [{"name": "v", "mountPath": "/mnt/wandb/"}]}]},
            "mount a volume at /mnt/wandb",
        ),
        ({"volumes": [{"name": "wandb-source-code-volume"}]}, r"template.spec.volumes\[0\]` is called"),
        ({"initContainers": [{"name": "wandb-source-code-init"}]}, r"template.spec.initContainers\[0\]` is called"),
    ],
)
def test_nothing_else_may_be_where_the_code_goes(taken: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        planned(request(image="i", command=["a"], code=CODE, resource_args=job(**taken)))
    assert planned(request(image="i", resource_args=job(**taken)))


def test_only_one_part_of_a_distributed_job_is_the_run() -> None:
    """As with the stock agent; but it is the leader, wherever that is written."""
    for name in ("volcano", "pytorchjob", "mpijob", "jobset", "rayjob", "unknown"):
        ids = [each for each in containers(case(name)) if "WANDB_RUN_ID" in variables(each)]
        assert len(ids) == 1, name
    assert "WANDB_RUN_ID" in variables(
        case("pytorchjob").object["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]["containers"][0]
    )


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"spec": 5}, "`spec` is a number; it must be a mapping"),
        ({"spec": {"template": ["x"]}}, "`spec.template` is a list"),
        (job(containers="x"), "`spec.template.spec.containers` is a text; it must be a list"),
        (job(containers=[None]), r"`spec.template.spec.containers\[0\]` is missing"),
        (job(containers=[{"env": {"A": "1"}}]), r"`spec.template.spec.containers\[0\].env` is a mapping"),
        (job(containers=[{"env": ["A=1"]}]), r"`spec.template.spec.containers\[0\].env\[0\]` is a text"),
        (job(containers=[{"command": "python x"}]), r"containers\[0\].command` is a text; it must be a list of texts"),
        (job(containers=[{"image": 1}]), r"containers\[0\].image` is a number"),
        (job(initContainers={}), "`spec.template.spec.initContainers` is a mapping"),
        (job(containers=[{"securityContext": {"capabilities": []}}]), "securityContext.capabilities` is a list"),
        ({"metadata": "x"}, "`metadata` is a text"),
        ({"metadata": {"labels": ["x"]}}, "`metadata.labels` is a list"),
        ({"metadata": {"name": 3}}, "`metadata.name` is a number"),
        ({"spec": {"template": {"metadata": {"annotations": 1}}}}, "`spec.template.metadata.annotations` is a number"),
        (
            {"spec": {"template": {"metadata": {"annotations": {"kubectl.kubernetes.io/default-container": "x"}}}}},
            "names 'x', and there is no such container; there are: none with a name",
        ),
        ({**VOLCANO, "spec": None}, "describe no pods"),
        ({**VOLCANO, "spec": {"tasks": [{"template": {}}]}}, "describe no pods: a Job has `containers`"),
        ({"apiVersion": "a.test/v1", "kind": "Thing", "spec": None}, "`spec` is missing"),
        ({**VOLCANO, "spec": {"containers": []}}, "describe no pods|is empty"),
        (
            {"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet", "spec": {"replicatedJobs": 1}},
            "replicatedJobs` is",
        ),
        ({"kind": "PyTorchJob"}, "`kind` is 'PyTorchJob', and `apiVersion` is missing"),
        ({"apiVersion": "batch.volcano.sh/v1alpha1"}, "`kind` is missing beside"),
        ({"apiVersion": "v1", "kind": "../secrets"}, "a word with a capital"),
        ({"apiVersion": "a/b/v1", "kind": "Job"}, "`apiVersion` is 'a/b/v1'"),
        ({"wait_for_ready": "yes"}, "`wait_for_ready` is a text; it must be true or false"),
        ({"wait_timeout": -1}, "`wait_timeout` is a number; it must be a number of seconds"),
    ],
)
def test_what_is_written_wrongly_is_named(asked: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        planned(request(image="i", resource_args=asked))


def test_what_is_null_counts_as_not_written() -> None:
    asked: dict[str, Any] = {"apiVersion": None, "kind": None, "metadata": None, "spec": {"template": None}}
    assert planned(request(image="i", resource_args=asked)).object == planned(request(image="i")).object
    nulls = dict.fromkeys(("name", "image", "command", "args", "env", "securityContext", "resources"))
    assert planned(request(image="i", resource_args=job(containers=[nulls]), code=CODE, command=["a"]))


def test_nothing_that_a_queue_has_written_poses_as_ours() -> None:
    """Neither a mark, nor what stands in manifests that were copied from objects."""
    posing = {"launchbay.dev/service": "x", "launchbay.dev/stop": "now", "launchbay.dev/owner": "x", "team": "vision"}
    copied = {"uid": "1", "resourceVersion": "2", "ownerReferences": [{}], "creationTimestamp": None}
    metadata = {"labels": posing, "annotations": posing, **copied}
    made = planned(
        request(image="i", resource_args={"metadata": metadata, "spec": {"template": {"metadata": metadata}}})
    )
    for found in (made.object["metadata"], made.object["spec"]["template"]["metadata"]):
        assert {"uid", "resourceVersion", "ownerReferences", "creationTimestamp"}.isdisjoint(found)
        for marks in (found["labels"], found["annotations"]):
            assert {"launchbay.dev/service", "launchbay.dev/stop"}.isdisjoint(marks)
            assert marks["team"] == "vision"
        assert found["labels"]["launchbay.dev/owner"] == names.owner_of(OWNER)


def test_a_launch_needs_an_image() -> None:
    with pytest.raises(
        SpecError, match=r"no image, and neither has the resource arg `spec.template.spec.containers\[0\]"
    ):
        planned(request())
    assert planned(request(resource_args=job(containers=[{"image": "own"}])))


def test_code_needs_pods_that_the_queue_describes() -> None:
    asked = {"apiVersion": "trainer.kubeflow.org/v1alpha1", "kind": "TrainJob", "spec": {}}
    with pytest.raises(SpecError, match=r"a TrainJob of trainer.kubeflow.org/v1alpha1 need not"):
        planned(request(image="i", command=["a"], code=CODE, resource_args=asked))


def test_what_belongs_to_no_namespace_is_no_launch() -> None:
    asked = request(image="i", resource_args={"apiVersion": "a.test/v1", "kind": "Thing"})
    with pytest.raises(SpecError, match=r"a.test/v1 belongs to no namespace"):
        plan(asked, Settings(), Kind("a.test", "v1", "Thing", "things", is_namespaced=False), "n", OWNER)


def test_what_a_launch_has_beside_itself_stays_in_its_namespace_and_says_what_it_is() -> None:
    def service(**config: Any) -> Plan:
        return planned(request(image="i", services=[{"config": {"apiVersion": "v1", "kind": "Pod", **config}}]))

    with pytest.raises(SpecError, match=r"`additional_services\[0\].config.metadata.namespace` is 'kube-system'"):
        service(metadata={"namespace": "kube-system"})
    with pytest.raises(SpecError, match=r"additional_services\[0\].config.kind` is missing"):
        service(kind=None)
    with pytest.raises(SpecError, match=r"additional_services\[0\].config` is a list"):
        planned(request(image="i", services=[{"config": ["x"]}]))
    made = service(metadata={"namespace": "launches", "generateName": "x-"}, spec={"containers": [{"image": "s"}]})
    assert made.services[0]["metadata"]["name"] == "launch-0123456789abcdef-1-service-0"
    assert "generateName" not in made.services[0]["metadata"]
    given = made.services[0]["spec"]["containers"][0]
    assert variables(given) == ["WANDB_CONFIG", "WANDB_API_KEY"]
    assert given["securityContext"]["allowPrivilegeEscalation"] is False


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text("a$.-_/ A1\0", max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=2),
    max_leaves=4,
)


@given(st.data())
def test_whatever_stands_in_a_manifest_nothing_but_a_spec_error_comes_of_it(data: st.DataObject) -> None:
    """Any value of any of the manifests, replaced by any other."""
    asked: dict[str, Any] = yaml.safe_load((FOLDER / f"{data.draw(st.sampled_from(CASES))}.yaml").read_text("utf-8"))
    asked.pop("settings", None)
    asked.setdefault("resource_args", {})
    asked["services"] = asked.get("services") or []
    for _ in range(data.draw(st.integers(1, 2))):
        places = [*_places(asked["resource_args"]), *_places(asked["services"])]
        if places:
            parent, key = data.draw(st.sampled_from(places))
            parent[key] = data.draw(JSON)
    try:
        made = planned(request(**asked))
    except SpecError:
        return
    json.dumps([made.object, made.secret, made.services])
    assert made.object["metadata"]["name"].endswith("launch-0123456789abcdef-1")


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in [*entries]:
        yield value, key
        yield from _places(inner)
