"""What is made of a launch is such as an API server takes."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.backends.kubernetes.manifest_cases import CASES, FOLDER, planned, request
from tests.cluster.control_plane import ControlPlane, missing, running

NAMESPACES = ("launches", "research", "strict")


def namespaces() -> Iterator[dict[str, Any]]:
    for name in NAMESPACES:
        strict = {"pod-security.kubernetes.io/enforce": "restricted"} if name == "strict" else {}
        yield {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": strict}}
        yield {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": name}}


def definition(api_version: str, kind: str) -> dict[str, Any]:
    """Return the definition of a kind that takes anything in its `spec`."""
    group, _, version = api_version.partition("/")
    plural = f"{kind.lower()}s"
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    schema = {"openAPIV3Schema": {**anything, "properties": {"spec": anything}}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"plural": plural, "kind": kind},
            "versions": [{"name": version, "served": True, "storage": True, "schema": schema}],
        },
    }


def applied(control_plane: ControlPlane, *objects: dict[str, Any], dry: bool = True) -> str:
    """Apply objects with nothing overlooked: a field that the server does not know is an error."""
    command = ["apply", "--server-side", "--field-manager=launchbay", "--validate=strict", "--filename=-"]
    given = "\n---\n".join(map(json.dumps, objects))
    return control_plane.kubectl(*command, *["--dry-run=server"] * dry, given=given)


@pytest.fixture(scope="module")
def api_server() -> Iterator[ControlPlane]:
    """An API server that knows every kind of the cases."""
    if why := missing():
        pytest.skip(f"no API server here: {why}")
    with running() as control_plane:
        prepare(control_plane)
        yield control_plane


def prepare(control_plane: ControlPlane) -> None:
    """Make the namespaces and kinds of the cases."""
    asked = [yaml.safe_load((FOLDER / f"{name}.yaml").read_text("utf-8")).get("resource_args", {}) for name in CASES]
    kinds = {(args.get("apiVersion", "batch/v1"), args.get("kind", "Job")) for args in asked}
    own = sorted(each for each in kinds if "." in each[0])
    applied(control_plane, *namespaces(), *(definition(*each) for each in own), dry=False)
    names = [f"crd/{kind.lower()}s.{api_version.partition('/')[0]}" for api_version, kind in own]
    control_plane.kubectl("wait", "--for=condition=established", "--timeout=60s", *names)


def test_every_object_is_taken_by_an_api_server_as_it_is(api_server: ControlPlane) -> None:
    files = [f"--filename={FOLDER / f'{name}.expected.yaml'}" for name in CASES]
    command = ["apply", "--server-side", "--field-manager=launchbay", "--validate=strict", "--dry-run=server"]
    told = api_server.kubectl(*command, *files)
    assert told.count("serverside-applied (server dry run)") == len(told.splitlines()) >= 2 * len(CASES)


def test_with_an_account_for_all_launches_go_where_pods_are_restricted(api_server: ControlPlane) -> None:
    fields: dict[str, Any] = {"image": "i", "command": ["a"], "code": {"source": {}, "has_requirements": True}}
    asked = request(**fields, resource_args={"apiVersion": "v1", "kind": "Pod", "namespace": "strict"})
    assert "pod/launch-" in applied(api_server, planned(asked, namespaces=["strict"], run_as_user=1000).object)
    with pytest.raises(AssertionError, match="runAsNonRoot != true") as refused:
        applied(api_server, planned(asked, namespaces=["strict"]).object)
    assert "seccompProfile" not in str(refused.value)  # that is the only thing that they lack
