"""What the agent's policy lets through is what a cluster's own Pod Security admission lets through."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Any

import pytest

from agent.config.model import AgentConfig
from agent.policy import Refused, check
from backends.kubernetes.manifest.kinds import SHAPES
from protocol.kubernetes_kinds import LAUNCH_KINDS, kind_name
from protocol.kubernetes_rules import PROFILES
from protocol.launch_spec import parse_launch_spec
from tests.backends.kubernetes.manifest_cases import planned, request
from tests.cluster.control_plane import ControlPlane, missing, running
from tests.protocol.pod_security_cases import CASES, Manifest, pod

SPEC = {"entity": "e", "project": "p", "docker": {"docker_image": "x"}, "resource": "kubernetes"}
ACCOUNT = 1000


@pytest.fixture(scope="module")
def api_server() -> Iterator[ControlPlane]:
    """An API server with a namespace for each profile."""
    if why := missing():
        pytest.skip(f"no API server here: {why}")
    with running() as control_plane:
        made: list[Manifest] = []
        for profile in PROFILES:
            labels = {"pod-security.kubernetes.io/enforce": profile}
            made.append({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": profile, "labels": labels}})
            account = {"name": "default", "namespace": profile}
            made.append({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account})
        control_plane.kubectl(
            "apply", "--filename=-", given=json.dumps({"kind": "List", "apiVersion": "v1", "items": made})
        )
        yield control_plane


def listed(objects: Sequence[Manifest]) -> str:
    """Return objects as `kubectl` reads them."""
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})


def is_allowed(args: Mapping[str, Any], profile: str = "restricted") -> bool:
    """Whether an agent with this policy takes the launch."""
    policy = {"kubernetes": {"pod_security": profile}}
    config = AgentConfig.model_validate({"queues": ["q"], "resources": ["kubernetes"], "policy": policy})
    try:
        check(config, parse_launch_spec(SPEC), None, args, "x", None)
    except Refused:
        return False
    return True


def refused(api_server: ControlPlane, pods: Mapping[str, Manifest], profile: str) -> dict[str, str]:
    """Have the pods completed as those of launches, and offer them to a namespace; return those refused, and why."""
    objects: list[Any] = []
    for name, each in pods.items():
        args = {**each, "metadata": {**each["metadata"], "namespace": profile}}
        made: Any = planned(
            request(image="i", resource_args=args), namespaces=list(PROFILES), run_as_user=ACCOUNT
        ).object
        objects.append({**made, "metadata": {**made["metadata"], "name": name}})
    command = ["create", "--dry-run=server", "--validate=strict", "--filename=-"]
    try:
        told = api_server.kubectl(*command, given=listed(objects))
    except AssertionError as error:
        told = str(error)
    found = dict(re.findall(r'pods "([^"]+)" is forbidden: (.*)', told))
    taken = re.findall(r"pod/(\S+) created", told)
    assert {*found, *taken} == set(pods), told
    return found


@pytest.mark.parametrize("profile", PROFILES)
def test_each_pod_is_refused_by_the_profile_that_the_policy_says(api_server: ControlPlane, profile: str) -> None:
    pods = {name: of for name, (of, _) in CASES.items()}
    found = refused(api_server, pods, profile)
    assert {name: name not in found for name in pods} == {name: is_allowed(of, profile) for name, of in pods.items()}


def test_pods_that_the_policy_lets_through_are_shut_in(api_server: ControlPlane) -> None:
    """With an account for all, what passes goes where pods are restricted: whatever the queue has written."""
    random = Random(6)
    pods = {f"pod-{place}": a_pod(random) for place in range(400)}
    passed = {name: of for name, of in pods.items() if is_allowed(of)}
    assert 100 < len(passed) < 300
    assert refused(api_server, passed, "restricted") == {}


def a_pod(random: Random) -> Manifest:
    """Return a pod with some fields about its security, good and bad ones."""

    def some(fields: Mapping[str, list[Any]]) -> Manifest:
        # What comes first is harmless, and is taken often enough for most pods to pass.
        return {
            name: values[0] if random.random() < 0.85 else random.choice(values)
            for name, values in fields.items()
            if random.random() < 0.4
        }

    both: dict[str, list[Any]] = {
        "runAsNonRoot": [True, False, None],
        "seccompProfile": [{"type": "RuntimeDefault"}, None, {"type": "Unconfined"}],
        "appArmorProfile": [{"type": "RuntimeDefault"}, None, {"type": "Unconfined"}],
        "seLinuxOptions": [{"level": "s0:c1,c2"}, {"type": "container_t"}, {"type": "spc_t"}, {"user": "u"}, {}],
    }
    alone: dict[str, list[Any]] = {
        **both,
        "runAsUser": [2000, 0, None],
        "allowPrivilegeEscalation": [False, None],
        "privileged": [False, None],
        "capabilities": [{"add": ["NET_BIND_SERVICE"]}, None, {"drop": ["ALL"]}, {"drop": []}, {"add": ["CHOWN"]}],
        "readOnlyRootFilesystem": [True],
    }
    whole: dict[str, list[Any]] = {
        "hostNetwork": [False, None, True],
        "hostPID": [False, None, True],
        "hostUsers": [None, False, True],
        "volumes": [
            [{"name": "a", "emptyDir": {}}],
            [{"name": "a", "configMap": {"name": "a"}}, {"name": "b", "downwardAPI": {"items": []}}],
            [{"name": "a", "image": {"reference": "i"}}],
            [{"name": "a", "nfs": {"server": "s", "path": "/"}}],
        ],
    }
    contexts = [some(alone) for _ in range(3)]
    first, main, side = (
        {"name": f"c{place}", "image": "i", "securityContext": each} for place, each in enumerate(contexts)
    )
    mine = some({**both, "runAsUser": [2000, 0]})
    fields = {"initContainers": [first], "containers": [main, side], "securityContext": mine, **some(whole)}
    return pod(fields)


def test_every_kind_that_is_known_needs_no_policy() -> None:
    assert {kind_name(f"{group}/v1", kind) if group else kind for group, kind in SHAPES} == LAUNCH_KINDS
