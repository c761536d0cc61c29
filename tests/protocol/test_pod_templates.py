"""Where pods are described, in the objects of several kinds."""

from typing import Any

import pytest

from protocol.pod_templates import pod_templates

POD: dict[str, Any] = {"spec": {"containers": [{"name": "main"}]}}


@pytest.mark.parametrize(
    ("manifest", "paths"),
    [
        pytest.param({"kind": "Pod", **POD}, [""], id="a pod"),
        pytest.param({"kind": "Job", "spec": {"template": POD}}, ["spec.template"], id="a Job"),
        pytest.param(
            {"kind": "JobSet", "spec": {"replicatedJobs": [{"template": {"spec": {"template": POD}}}]}},
            ["spec.replicatedJobs.0.template.spec.template"],
            id="a JobSet",
        ),
        pytest.param(
            {"kind": "Job", "apiVersion": "batch.volcano.sh/v1alpha1", "spec": {"tasks": [{"template": POD}] * 2}},
            ["spec.tasks.0.template", "spec.tasks.1.template"],
            id="a Volcano Job",
        ),
        pytest.param(
            {"spec": {"pytorchReplicaSpecs": {"Master": {"template": POD}, "Worker": {"template": POD}}}},
            ["spec.pytorchReplicaSpecs.Master.template", "spec.pytorchReplicaSpecs.Worker.template"],
            id="a PyTorchJob",
        ),
        pytest.param({"kind": "Service", "spec": {"ports": []}}, [], id="a Service has none"),
        pytest.param({"spec": None, "containers": "many"}, [], id="nonsense has none"),
    ],
)
def test_templates_are_found_whatever_the_kind(manifest: dict[str, Any], paths: list[str]) -> None:
    assert [".".join(path) for path, _ in pod_templates(manifest)] == paths


def test_who_changes_a_template_changes_the_manifest() -> None:
    manifest = {"spec": {"template": {"spec": {"containers": []}}}}
    for _, template in pod_templates(manifest):
        template["spec"]["restartPolicy"] = "Never"
    assert manifest["spec"]["template"]["spec"] == {"containers": [], "restartPolicy": "Never"}
