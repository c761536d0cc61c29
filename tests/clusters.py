"""Kubernetes clusters for tests: the one that `KUBECONFIG` names, else one of the tests' own."""

import json
import os
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from tests.cluster import control_plane, images, keeper, node, programs

BUSYBOX, PYTHON = images.BUSYBOX, images.PYTHON
HOW = "set KUBECONFIG, or see CONTRIBUTING.md for a cluster of the tests' own"


@dataclass(frozen=True)
class Cluster:
    """A cluster with a node, which others use at the same time. Each test has namespaces of its own in it."""

    kubeconfig: Path
    """Of somebody who may do anything."""
    machine: str | None = None
    """The address of this machine that pods reach; None for a cluster that is not of the tests' own."""
    folder: Path | None = None
    """Of the cluster's own files, logs among them; None likewise."""

    def kubectl(self, *arguments: str, given: str | None = None) -> str:
        """Run kubectl to its end; returns what it prints."""
        return control_plane.kubectl(self.kubeconfig, *arguments, given=given)

    def helm(self, *arguments: str) -> str:
        """Run Helm to its end; returns what it prints."""
        return control_plane.run_client("helm", self.kubeconfig, *arguments)

    @contextmanager
    def namespace(self, labels: Mapping[str, str] = {}) -> Generator[str]:
        """Have a namespace while the block runs. What is in it goes, and nobody waits for that."""
        name = f"test-{uuid4().hex[:12]}"
        metadata = {"name": name, "labels": dict(labels)}
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}
        self.kubectl("create", "--filename", "-", given=json.dumps(namespace))
        try:
            # Pods are refused until the controllers have given it the account that they have by default.
            self.kubectl("wait", "serviceaccount/default", "--for=create", "--timeout=60s", "--namespace", name)
            yield name
        finally:
            self.kubectl("delete", "namespace", name, "--wait=false")

    def import_image(self, archive: Path) -> None:
        """Give the node of the tests' own cluster an image; `tests.cluster.images.write` makes archives."""
        assert self.folder, "images are imported into the tests' own cluster alone"
        node.import_images(self.folder / node.SOCKET, [archive])


def missing() -> str | None:
    """Return why there is no cluster for tests here; None if there can be one."""
    if os.environ.get("KUBECONFIG"):
        return None if shutil.which(programs.path("kubectl")) else "KUBECONFIG is set, and there is no kubectl"
    why = control_plane.missing() or node.missing()
    return f"no Kubernetes here: {why}; {HOW}" if why else None


def missing_control_plane() -> str | None:
    """Return why there is no control plane for tests here; None if there can be one."""
    why = control_plane.missing()
    return f"no API server here: {why}" if why else None


running_control_plane = control_plane.running


@contextmanager
def running() -> Generator[Cluster]:
    """Use the cluster of this test run while the block runs."""
    if given := os.environ.get("KUBECONFIG"):
        yield Cluster(Path(given))
        return
    with keeper.shared(os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))) as about:
        yield Cluster(Path(about["kubeconfig"]), about["machine"], Path(about["folder"]))
