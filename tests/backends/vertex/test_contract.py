"""The gcp-vertex backend keeps the contract, with jobs that really run."""

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from backends.base import Handle, StartRequest
from backends.testing.contract import BackendContract
from backends.testing.shell import ShellHarness
from backends.vertex.names import handle_of
from tests.backends.vertex.google import Google

POOL = {"machine_spec": {"machine_type": "n1-standard-4"}, "replica_count": 1, "container_spec": {"image_uri": "i:1"}}
ARGS = {"spec": {"worker_pool_specs": [POOL], "staging_bucket": "gs://bucket"}}


class VertexHarness(ShellHarness):
    """Jobs that are given their secrets by Secret Manager."""

    exact_environment: ClassVar[bool] = False
    many: ClassVar[int] = 5
    lag: ClassVar[float] = 2.0
    tells_how_stopped: ClassVar[bool] = False
    output_is_text: ClassVar[bool] = True

    def __init__(self, google: Google, state_dir: Path) -> None:
        super().__init__("gcp-vertex", state_dir, {**google.config, "secrets": {"prefix": "launchbay-"}})
        self.google = google

    def complete(self, request: StartRequest) -> StartRequest:
        return replace(request, image="registry.test/image:v1", resource_args=ARGS)

    def handle(self, name: str) -> Handle:
        return handle_of(name)

    def in_plain_sight(self) -> bytes:
        return super().in_plain_sight() + "\n".join(map(str, self.google.messages)).encode()


@pytest.fixture
def harness(google: Google, tmp_path: Path) -> VertexHarness:
    return VertexHarness(google, tmp_path / "state")


class TestOnVertex(BackendContract, runs_locally=False):
    """Uses the module's fixture `harness`."""
