"""The resource keeps the contract, and its jobs are as nice as configured."""

import os
from pathlib import Path

import pytest
from launchbay_nice import create

from backends.base import BackendError, StartRequest
from backends.testing.contract import BackendContract, end_of, output_of
from backends.testing.shell import ShellHarness
from protocol.json_types import JsonObject


class TestNiceProcess(BackendContract):
    @pytest.fixture
    def harness(self, tmp_path: Path) -> ShellHarness:
        return ShellHarness("nice-process", tmp_path, {"niceness": 5})


@pytest.mark.asyncio
async def test_jobs_are_as_nice_as_configured(tmp_path: Path) -> None:
    backend = create(tmp_path, "test", {"niceness": 7})
    request = StartRequest("launch-1", ["/usr/bin/nice"], {})  # prints what it runs at
    handle = await backend.start(request)
    await end_of(backend, handle)
    assert await output_of(backend, handle) == b"%d\n" % min(os.nice(0) + 7, 19)
    await backend.close()


@pytest.mark.parametrize("config", [{"niceness": 20}, {"niceness": True}, {"nicenes": 1}])
def test_a_configuration_that_means_nothing_is_refused(tmp_path: Path, config: JsonObject) -> None:
    with pytest.raises(BackendError, match="from 0 to 19"):
        create(tmp_path, "test", config)
