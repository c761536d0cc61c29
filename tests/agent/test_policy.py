"""Policy: what is refused, by which rule, and that no trick of spelling gets around it."""

from collections.abc import Mapping
from typing import Any

import pytest

from agent.config.model import AgentConfig, Policy
from agent.policy import Refused, check, check_git_remote
from protocol.job_file import JobFile, parse_job_file
from protocol.launch_spec import parse_launch_spec

Json = Mapping[str, Any]
DIGEST = "sha256:" + "0123456789abcdef" * 4
BASE = {"entity": "e", "project": "p"}
JOB = {**BASE, "job": "e/p/train:latest", "resource": "kubernetes"}
IMAGE = {**BASE, "docker": {"docker_image": "registry.test/team/train:v1"}, "resource": "kubernetes"}
SCHEDULER = {
    **BASE,
    "uri": "placeholder-uri-scheduler",
    "resource": "local-process",
    "overrides": {"entry_point": ["wandb", "scheduler", "sweep-1"], "args": ["--queue", "q"]},
}
GIT_JOB: dict[str, Any] = {
    "git": {"remote": "https://git.test/team/code.git", "commit": "abc"},
    "entrypoint": ["python", "main.py"],
}


def config(**values: Any) -> AgentConfig:
    """Return the configuration of an agent that serves containers."""
    return AgentConfig.model_validate({"queues": ["q"], "resources": ["kubernetes"], **values})


def checked(
    spec: Json = JOB,
    *,
    job: JobFile | None = None,
    args: Json | None = None,
    image: str | None = None,
    queue: str | None = "kubernetes",
    **values: Any,
) -> Refused | None:
    """Check a launch on an agent so configured; returns the refusal."""
    try:
        check(config(**values), parse_launch_spec(spec), job, args or {}, image, queue, spec.get("additional_services"))
    except Refused as refused:
        return refused
    return None


def rule_of(refused: Refused | None) -> str | None:
    """Return which rule refused."""
    return refused and refused.rule


def job_file(kind: str = "repo", **source: Any) -> JobFile:
    """Return a job file; of code in git unless another source is given."""
    return parse_job_file({"source_type": kind, "source": source or GIT_JOB})


class TestEveryRefusal:
    """Says which rule it was, what was asked for, what is allowed, and who can change it."""

    @pytest.mark.parametrize(
        ("wish", "rule", "asked", "allowed"),
        [
            pytest.param(
                {"queue": "local-container"}, "queue.resource", "resource 'kubernetes'", "local-container", id="queue"
            ),
            pytest.param(
                {"resources": ["local-container", "gcp-vertex"]},
                "resources",
                "resource 'kubernetes'",
                "gcp-vertex, local-container",
                id="resources",
            ),
            pytest.param(
                {"spec": {**JOB, "overrides": {"entry_point": ["sh"]}}, "secure_mode": True},
                "secure_mode",
                "'overrides.entry_point'",
                "the job as it was made",
                id="secure mode",
            ),
            pytest.param(
                {"image": "evil/x", "policy": {"images": ["registry.test/team/*"]}},
                "policy.images",
                "image 'evil/x'",
                "registry.test/team/*",
                id="images",
            ),
            pytest.param(
                {"job": job_file(), "policy": {"git_hosts": ["other.test"]}},
                "policy.git_hosts",
                "git host 'git.test'",
                "other.test",
                id="git hosts",
            ),
            pytest.param(
                {"args": {"volume": "/:/host"}, "policy": {"resource_args": {"kubernetes": ["cpus", "gpus"]}}},
                "policy.resource_args",
                "resource arg 'volume' of 'kubernetes'",
                "cpus, gpus",
                id="resource args",
            ),
        ],
    )
    def test_names_its_rule(self, wish: dict[str, Any], rule: str, asked: str, allowed: str) -> None:
        refused = checked(**wish)
        assert refused is not None
        assert refused.rule == rule
        assert refused.reason == f"policy:{rule.removeprefix('policy.')}"
        message = str(refused)
        assert message.startswith(f"Refused by `{rule}`: ")
        assert asked in message
        assert f"Allowed: {allowed}. " in message
        who = "owner" if rule == "queue.resource" else "Who runs the agent can change that"
        assert who in message

    def test_shows_no_value_of_a_resource_arg_and_no_password(self) -> None:
        refused = checked(args={"env": "TOKEN=s3cret"}, policy={"resource_args": {}})
        assert "s3cret" not in str(refused)
        for remote in ("https://user:s3cret@git.test/x", "http://user:s3cret@git.test/x", "weird://s3cret@git.test"):
            with pytest.raises(Refused) as hit:
                check_git_remote(Policy(git_hosts=("other.test",)), remote)
            assert "s3cret" not in str(hit.value)
            assert "git.test" in str(hit.value)

    def test_is_short_however_long_the_wish(self) -> None:
        assert len(str(checked(image="x" * 100_000, policy={"images": ["a/b"]}))) < 500


def test_without_rules_nothing_but_the_resource_is_looked_at() -> None:
    args = {"image": "any/thing", "command": ["sh"], "volumes": [{"emptyDir": {}}]}
    spec = {**JOB, "overrides": {"entry_point": ["sh"], "dockerfile": "Other"}}
    assert checked(spec, job=job_file(), args=args, image="NOT AN IMAGE") is None


class TestTheResource:
    def test_is_not_looked_up_where_the_server_does_not_tell_the_queues(self) -> None:
        assert checked(queue=None) is None
        assert rule_of(checked(queue=None, resources=["local-process"])) == "resources"

    def test_of_a_sweeps_scheduler_is_this_machine_whatever_queue_and_agent_serve(self) -> None:
        assert checked(SCHEDULER) is None

    @pytest.mark.parametrize(
        "spec",
        [
            pytest.param({**SCHEDULER, "job": "e/p/evil:latest"}, id="brings a job"),
            pytest.param({**SCHEDULER, "uri": "placeholder-other"}, id="another placeholder"),
            pytest.param({**SCHEDULER, "overrides": {"entry_point": ["sh", "-c", "id"]}}, id="another command"),
            pytest.param({**SCHEDULER, "overrides": {"entry_point": ["wandb", "launch", "x"]}}, id="other words"),
            pytest.param({**SCHEDULER, "overrides": {}}, id="no command"),
        ],
    )
    def test_of_what_only_looks_like_a_scheduler_is_refused(self, spec: Json) -> None:
        assert rule_of(checked(spec)) == "queue.resource"
        assert rule_of(checked(spec, queue=None)) == "resources"

    def test_of_a_scheduler_elsewhere_is_as_that_of_any_job(self) -> None:
        elsewhere = {**SCHEDULER, "resource": "local-container"}
        assert rule_of(checked(elsewhere, queue="local-container")) == "resources"
        assert checked(elsewhere, queue="local-container", resources=["local-container"]) is None


class TestSecureMode:
    @pytest.mark.parametrize(
        "overrides",
        [
            pytest.param({"entry_point": ["python", "other.py"]}, id="entry point"),
            pytest.param({"dockerfile": "Dockerfile.other"}, id="dockerfile"),
        ],
    )
    def test_locks_overrides_of_what_runs(self, overrides: Json) -> None:
        assert rule_of(checked({**JOB, "overrides": overrides}, secure_mode=True)) == "secure_mode"

    def test_leaves_config_arguments_and_files_free(self) -> None:
        free = {"args": ["--fast"], "run_config": {"command": "x"}, "files": {"command": {}}, "entry_point": []}
        assert checked({**JOB, "overrides": free}, args={"cpus": 2}, secure_mode=True) is None

    def test_locks_an_image_in_place_of_the_job_and_not_an_image_by_itself(self) -> None:
        image = "registry.test/team/train:v1"
        assert rule_of(checked({**IMAGE, "job": "e/p/j:v1"}, image=image, secure_mode=True)) == "secure_mode"
        assert checked(IMAGE, image=image, secure_mode=True) is None

    @pytest.mark.parametrize(
        "key",
        [
            *("hostPID", "hostIPC", "hostNetwork", "initContainers", "command", "args", "entrypoint", "base_image"),
            *("ContainerEntrypoint", "ContainerArguments", "COMMAND", "host_network", "init-containers"),
        ],
    )
    def test_locks_keys_wherever_they_stand(self, key: str) -> None:
        """A pod, a custom resource, a list of lists, another service: it is all the same."""
        for args in (
            {key: "x"},
            {"spec": {"template": {"spec": {key: True}}}},
            {"spec": {"replicatedJobs": [{"template": {"containers": [{"name": "main", key: []}]}}]}},
            {"spec": [[{key: None}]]},
        ):
            refused = checked(args=args, secure_mode=True)
            assert rule_of(refused) == "secure_mode", args
            assert key in str(refused)
        services = {**JOB, "additional_services": [{"config": {"spec": {key: ["x"]}}}]}
        assert rule_of(checked(services, secure_mode=True)) == "secure_mode"

    def test_takes_no_scheduler_either(self) -> None:
        """As with the stock agent: its command is an override."""
        assert rule_of(checked(SCHEDULER, secure_mode=True)) == "secure_mode"


class TestResourceArgs:
    @pytest.mark.parametrize(
        ("args", "allowed", "refused"),
        [
            pytest.param({"cpus": 2, "gpus": 1}, ["cpus", "gpus"], None, id="listed"),
            pytest.param({"cpus": 2, "privileged": True}, ["cpus"], "privileged", id="one is not"),
            pytest.param({"Cpus": 2}, ["cpus"], "Cpus", id="another spelling"),
            pytest.param({"cpus": {"deep": {"er": 1}}}, ["cpus"], None, id="what is below is covered"),
            pytest.param({"spec": {"a": 1, "b": 2}}, ["spec.a"], "spec.b", id="one path is listed, another is not"),
            pytest.param({"spec": {"a": 1}}, ["spec.a"], None, id="a path"),
            pytest.param({"spec": 1}, ["spec.a"], "spec", id="what is above a path is not covered"),
            pytest.param({"spec": {}}, ["spec.a"], "spec", id="nor is it when empty"),
            pytest.param({"spec.a": 1}, ["spec.a"], "spec.a", id="a key with a dot is no path"),
            pytest.param({"spec": [{"a": 1}, {"b": 2}]}, ["spec.a"], "spec.b", id="entries of a list are stepped into"),
            pytest.param({"spec": [[{"a": 1}]]}, ["spec.a"], None, id="lists of lists too"),
            pytest.param({"spec": [1, {"a": 1}]}, ["spec.a"], "spec", id="a plain entry beside is not covered"),
            pytest.param({"spec": []}, ["spec.a"], "spec", id="an empty list is something"),
            pytest.param({"spec": {"x": {"limits": 1}}}, ["spec.*.limits"], None, id="a pattern for a key"),
            pytest.param({"spec": {"x": {"y": {"limits": 1}}}}, ["spec.*.limits"], "spec.x.y.limits", id="for one key"),
            pytest.param({"anything": 1}, ["*"], None, id="all"),
            pytest.param({"cpus": 1}, [], "cpus", id="none"),
            pytest.param({}, [], None, id="nothing asked"),
        ],
    )
    def test_are_those_listed(self, args: Json, allowed: list[str], refused: str | None) -> None:
        hit = checked(args=args, policy={"resource_args": {"kubernetes": allowed}})
        assert rule_of(hit) == (refused and "policy.resource_args")
        assert refused is None or f"resource arg {refused!r}" in str(hit)

    @pytest.mark.parametrize(
        ("wish", "refused"),
        [
            pytest.param({"env": [{"valueFrom": {"secretKeyRef": {"name": "s"}}}]}, "containers.env", id="a secret"),
            pytest.param({"envFrom": [{"secretRef": {"name": "s"}}]}, "containers.envFrom", id="all of a secret"),
            pytest.param({"securityContext": {"privileged": True}}, "containers.securityContext", id="the host"),
            pytest.param({"volumeMounts": [{"name": "s"}]}, "containers.volumeMounts", id="a volume"),
            pytest.param({"resources": {"limits": {"cpu": 1}}}, None, id="what is listed"),
        ],
    )
    def test_of_a_cluster_are_those_listed_whatever_else_its_manifests_know(
        self, wish: Json, refused: str | None
    ) -> None:
        allowed = ["spec.template.spec.containers.resources", "spec.template.spec.containers.name"]
        args = {"spec": {"template": {"spec": {"containers": [{"name": "main"}, wish]}}}}
        hit = checked(args=args, policy={"resource_args": {"kubernetes": allowed}})
        assert rule_of(hit) == (refused and "policy.resource_args")
        assert refused is None or f"spec.template.spec.{refused}" in str(hit)
        elsewhere = {"metadata": {"namespace": "kube-system"}}
        assert "metadata.namespace" in str(checked(args=elsewhere, policy={"resource_args": {"kubernetes": allowed}}))

    def test_cover_what_else_a_platform_is_to_make(self) -> None:
        """A role binding, say, which it would make with the agent's rights."""
        services = {**JOB, "additional_services": [{"config": {"kind": "Service"}, "name": "x"}]}
        refused = checked(services, policy={"resource_args": {"kubernetes": ["cpus"]}})
        assert "the resource arg 'additional_services.config.kind'" in str(refused)
        allowed = {"resource_args": {"kubernetes": ["additional_services"]}}
        assert checked(services, policy=allowed) is None
        assert checked({**JOB, "additional_services": []}, policy={"resource_args": {}}) is None

    def test_of_a_resource_that_is_not_listed_are_none(self) -> None:
        policy = {"resource_args": {"local-container": ["spec"]}}
        refused = checked(args={"cpus": 1}, policy=policy)
        assert "Allowed: nothing." in str(refused)
        assert checked(args={}, policy=policy) is None


class TestImages:
    @pytest.mark.parametrize(
        ("pattern", "image", "allowed"),
        [
            pytest.param("registry.test/team/*", "registry.test/team/train:v1", True, id="below"),
            pytest.param("registry.test/team/*", "registry.test/team/deep/train", True, id="deep below"),
            pytest.param("registry.test/team/*", "registry.test/team", False, id="the folder itself"),
            pytest.param("registry.test/team/*", "registry.test/other/train", False, id="beside"),
            pytest.param("registry.test/team/*", "registry.test/teams/train", False, id="a longer name"),
            pytest.param("registry.test/team/*", "registry.test/team/../other/x", False, id="dots go up"),
            pytest.param("registry.test/team/*", "registry.test/team/%2e%2e/x", False, id="escaped dots"),
            pytest.param("registry.test/team/*", "registry.test/team/./x", False, id="one dot"),
            pytest.param("registry.test/team/*", "registry.test/team//x", False, id="two slashes"),
            pytest.param("registry.test/team/*", "registry.test/team/", False, id="nothing below"),
            pytest.param("registry.test/team/*", "registry.test/team/x\n", False, id="a new line"),
            pytest.param("registry.test/team/*", "registry.test/team/x y", False, id="a space"),
            pytest.param("registry.test/team/*", "registry.test/team/x:", False, id="an empty tag"),
            pytest.param("registry.test/team/*", "registry.test/team/x@", False, id="an empty digest"),
            pytest.param("registry.test/team/*", "registry.test/team/x@sha256:12", False, id="half a digest"),
            pytest.param("registry.test/team/*", "registry.test/team/İ", False, id="a letter of elsewhere"),
            pytest.param("registry.test/team/*", "REGISTRY.test/team/x", True, id="hosts have no case"),
            pytest.param("Registry.Test/team/*", "registry.test/team/x", True, id="nor in a pattern"),
            pytest.param("registry.test/team/*", "registry.test/Team/x", False, id="names do, and are lower case"),
            pytest.param("registry.test/team/*", "registry.test.evil.test/team/x", False, id="a longer host"),
            pytest.param("registry.test/team/*", "evil.test/registry.test/team/x", False, id="the host as a folder"),
            pytest.param("registry.test/team/*", "registry.test:5000/team/x", False, id="another port"),
            pytest.param("registry.test:5000/team/*", "registry.test:5000/team/x", True, id="a port"),
            pytest.param("registry.test/team/*", "registry.test./team/x", False, id="a host with a dot behind"),
            pytest.param("registry.test/team/*", "user@registry.test/team/x", False, id="a user"),
            pytest.param("registry.test/team/*", "https://registry.test/team/x", False, id="a URL"),
            pytest.param("registry.test/team/*", "docker://registry.test/team/x", False, id="another URL"),
            pytest.param("registry.test/team/*", "registry.test/team/*", False, id="the pattern itself"),
            pytest.param("*.example.test/team/*", "eu.example.test/team/x", True, id="a pattern of hosts"),
            pytest.param("*.example.test/team/*", "evil.test/a.example.test/team/x", False, id="does not reach names"),
            pytest.param("*/team/*", "evil.test/team/x", True, id="any host"),
            pytest.param("*", "evil.test/x@" + DIGEST, True, id="anything"),
            pytest.param("*", "not an image", False, id="anything that is an image"),
            # Without a registry it is Docker Hub's, and names of one part are in its library.
            pytest.param("python", "python:3.11", True, id="hub"),
            pytest.param("python", "docker.io/library/python", True, id="hub in full"),
            pytest.param("docker.io/library/*", "python", True, id="the pattern in full"),
            pytest.param("docker.io/python", "python", True, id="the pattern half in full"),
            pytest.param("index.docker.io/library/python", "python", True, id="hub's other name"),
            pytest.param("docker.io/*", "someone/python", True, id="all of hub"),
            pytest.param("docker.io/*", "evil.test/python", False, id="and nothing else"),
            pytest.param("python", "someone/python", False, id="somebody's on hub"),
            pytest.param("python", "evil.test/python", False, id="another registry's"),
            pytest.param("python", "localhost/python", False, id="a local registry's"),
            pytest.param("python", "localhost:5000/library/python", False, id="a local registry's with a port"),
            pytest.param("team/*", "team/train", True, id="a team on hub"),
            pytest.param("team/*", "TEAM/train", False, id="in upper case it is a host"),
            pytest.param("team/*", "evil.test/team/train", False, id="a team elsewhere"),
            pytest.param("te*/train", "team.evil.test/train", False, id="a pattern for hub is for hub"),
            pytest.param("registry.test/library/*", "python", False, id="hub's is not another's"),
            # An engine takes an id for what has it, whatever it is called.
            pytest.param("*", "0123456789abcdef" * 4, False, id="an id"),
            # Tags and digests.
            pytest.param("python:3.*", "python:3.11", True, id="tag"),
            pytest.param("python:3.*", "python:2.7", False, id="another tag"),
            pytest.param("python:3.*", "python", False, id="no tag is latest"),
            pytest.param("python:latest", "python", True, id="no tag is latest, which may be allowed"),
            pytest.param("python:latest", "python:LATEST", False, id="tags have case"),
            pytest.param("python:3.*", "python:3.11@" + DIGEST, False, id="a digest makes the tag a lie"),
            pytest.param("python@" + DIGEST, "python@" + DIGEST, True, id="digest"),
            pytest.param("python@" + DIGEST, "python:3.11@" + DIGEST, True, id="digest with a tag"),
            pytest.param("python@" + DIGEST, "python@" + DIGEST[:-1] + "0", False, id="another digest"),
            pytest.param("python@" + DIGEST, "python:3.11", False, id="digest wanted"),
            pytest.param("registry.test/*@sha256:*", "registry.test/x@" + DIGEST, True, id="any digest"),
            pytest.param("registry.test/*@sha256:*", "registry.test/x:v1", False, id="any digest, and no tag"),
            pytest.param("python", "python@" + DIGEST, True, id="a name alone covers them all"),
        ],
    )
    def test_match_as_a_whole(self, pattern: str, image: str, allowed: bool) -> None:
        assert rule_of(checked(image=image, policy={"images": [pattern]})) == (None if allowed else "policy.images")

    def test_may_be_covered_by_any_pattern(self) -> None:
        policy = {"images": ["a.test/*", "b.test/*"]}
        assert checked(image="b.test/x", policy=policy) is None
        assert rule_of(checked(image="c.test/x", policy=policy)) == "policy.images"
        assert rule_of(checked(image="c.test/x", policy={"images": []})) == "policy.images"

    @pytest.mark.parametrize(
        "args",
        [
            pytest.param({"spec": {"containers": [{"image": "good.test/x"}, {"image": "evil.test/x"}]}}, id="sidecar"),
            pytest.param({"spec": {"initContainers": [{"image": "evil.test/x"}]}}, id="before it"),
            pytest.param({"spec": {"volumes": [{"image": {"reference": "evil.test/x"}}]}}, id="image volume"),
            pytest.param({"AlgorithmSpecification": {"TrainingImage": "evil.test/x"}}, id="sagemaker"),
            pytest.param({"worker_pool_specs": [{"container_spec": {"image_uri": "evil.test/x"}}]}, id="vertex"),
            pytest.param({"builder": {"accelerator": {"base_image": "evil.test/x"}}}, id="base image"),
            pytest.param({"spec": {"image": "${unknown}"}}, id="a macro that nobody fills"),
        ],
    )
    def test_are_found_in_resource_args(self, args: Json) -> None:
        policy = {"images": ["good.test/*"]}
        assert rule_of(checked(args=args, image="good.test/x", policy=policy)) == "policy.images"
        everything = {"images": ["good.test/*", "evil.test/*"]}
        if "${" not in str(args):
            assert checked(args=args, image="good.test/x", policy=everything) is None

    def test_are_found_in_services_and_as_a_jobs_base(self) -> None:
        policy = {"images": ["good.test/*"]}
        services = {
            **JOB,
            "additional_services": [{"config": {"apiVersion": "v1", "kind": "Pod", "spec": {"image": "evil.test/x"}}}],
        }
        assert rule_of(checked(services, policy=policy)) == "policy.images"
        based = job_file("repo", **GIT_JOB, base_image="evil.test/x")
        assert rule_of(checked(job=based, policy=policy)) == "policy.images"


class TestGitHosts:
    @pytest.mark.parametrize(
        "remote",
        [
            "https://good.test/team/code.git",
            "https://GOOD.test/team/code.git",
            "https://good.test:8443/team/code",
            "https://good.test",
            "https://token@good.test/team/code",
            "https://user:p%40ss@good.test/team/code",
            "ssh://git@good.test/team/code.git",
            "ssh://good.test:2222/team/code.git",
            "git@good.test:team/code.git",
            "good.test:team/code.git",
            "git@Good.Test:evil.test/code.git",
        ],
    )
    def test_that_are_listed_are_allowed(self, remote: str) -> None:
        check_git_remote(Policy(git_hosts=("good.test",)), remote)
        check_git_remote(Policy(git_hosts=("other.test", "GOOD.Test")), remote)
        with pytest.raises(Refused, match=r"the job's code is on the git host 'good\.test'"):
            check_git_remote(Policy(git_hosts=("other.test",)), remote)

    @pytest.mark.parametrize(
        "remote",
        [
            "https://good.test.evil.test/x",
            "https://evilgood.test/x",
            "https://good.test@evil.test/x",
            "https://good.test:443@evil.test/x",
            "https://good.test%2f@evil.test/x",
            "https://a@good.test@evil.test/x",
            "https://evil.test/@good.test/x",
            "https://evil.test#@good.test/x",
            "https://evil.test?@good.test/x",
            "https://evil.test\\@good.test/x",
            "https://good.test\\@evil.test/x",
            "https://good.test\n@evil.test/x",
            "https://good.test\n.evil.test/x",
            "https://good.test/x\nhttps://evil.test/x",
            "https://good.test./x",
            "https://gооd.test/x",  # noqa: RUF001 -- letters of another alphabet are the trick
            "https://good%2etest/x",
            "https:good.test/x",
            "https:///good.test/x",
            "git://good.test/x",
            "file://good.test/x",
            "HTTPS://good.test/x",
            "ext::sh -c id good.test:x",
            "good.test::x",
            "/srv/good.test/x",
            "./good.test:x",
            "ssh://git@good.test.evil.test/x",
            "ssh://good.test@evil.test/x",
            "ssh://-oProxyCommand=id@good.test/x",
            "ssh://a@b@good.test/x",
            "-oProxyCommand=id@good.test:x",
            "git@good.test@evil.test:x",
            "good.test@evil.test:x",
            "evil.test:good.test/x",
            "git@[good.test]:x",
            " https://good.test/x",
            "good.test",
            "",
        ],
    )
    def test_are_not_mistaken_for_another(self, remote: str) -> None:
        with pytest.raises(Refused) as refused:
            check_git_remote(Policy(git_hosts=("good.test",)), remote)
        assert refused.value.rule == "policy.git_hosts"

    def test_are_asked_of_a_job_of_git_and_of_no_other(self) -> None:
        policy = {"git_hosts": []}
        assert rule_of(checked(job=job_file(), policy=policy)) == "policy.git_hosts"
        assert checked(job=job_file("artifact", artifact="wandb-artifact://_id/1"), policy=policy) is None
        assert checked(job=job_file(), policy={"git_hosts": ["git.test"]}) is None

    def test_without_a_list_are_all(self) -> None:
        assert check_git_remote(Policy(), "https://anywhere.test/x").host == "anywhere.test"

    def test_are_none_where_it_is_no_remote(self) -> None:
        with pytest.raises(Refused, match=r"'ext::id' is no git remote that it understands \(https://, ssh://"):
            check_git_remote(Policy(), "ext::id")

    def test_over_plain_http_are_listed_apart(self) -> None:
        for hosts in (None, ("good.test",)):
            with pytest.raises(Refused, match=r"Refused by `policy\.git_http_hosts`: .* is not encrypted"):
                check_git_remote(Policy(git_hosts=hosts), "http://good.test/x")
            check_git_remote(Policy(git_hosts=hosts, git_http_hosts=("Good.test",)), "http://good.test/x")
        with pytest.raises(Refused, match=r"Refused by `policy\.git_hosts`"):
            check_git_remote(Policy(git_hosts=(), git_http_hosts=("good.test",)), "http://good.test/x")
