"""The kubernetes backend keeps the contract, on a real cluster."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from backends.base import Handle, StartRequest
from backends.kubernetes.addresses import Address
from backends.testing.contract import BackendContract
from backends.testing.shell import ShellHarness
from tests.clusters import BUSYBOX, Cluster


class KubernetesHarness(ShellHarness):
    """Launches in a namespace of their own."""

    exact_environment: ClassVar[bool] = False
    code_folder: ClassVar[str | None] = "/mnt/wandb"
    many: ClassVar[int] = 5
    lag: ClassVar[float] = 5.0

    def __init__(self, cluster: Cluster, namespace: str, state_dir: Path) -> None:
        super().__init__("kubernetes", state_dir, {"config_file": str(cluster.kubeconfig), "namespace": namespace})
        self.cluster = cluster
        self.namespace = namespace

    def complete(self, request: StartRequest) -> StartRequest:
        return replace(request, image=BUSYBOX, resource_args={"spec": {}})

    def handle(self, name: str) -> Handle:
        return Address("", self.namespace, "batch/v1", "Job", name).handle

    def in_plain_sight(self) -> bytes:
        shown = self.cluster.kubectl(
            *("get", "jobs,pods,events,configmaps", "--output", "json", "--namespace", self.namespace)
        )
        return super().in_plain_sight() + shown.encode()


@pytest.fixture
def harness(kube_cluster: Cluster, tmp_path: Path) -> Iterator[KubernetesHarness]:
    with kube_cluster.namespace() as namespace:
        yield KubernetesHarness(kube_cluster, namespace, tmp_path / "state")


class TestOnKubernetes(BackendContract, runs_locally=False):
    """Uses the module's fixture `harness`."""
