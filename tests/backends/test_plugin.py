"""A site's own backend: found by its entry point, named by an agent's configuration, and held to the contract."""

import os
import shutil
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from xml.etree import ElementTree

import pytest
from uv import find_uv_bin

from agent.config.file import load as load_config
from agent.opening import _open_backends
from backends.base import StartRequest
from backends.testing.contract import BackendContract, end_of, output_of

EXAMPLE = Path(__file__).parents[2] / "examples" / "backend-plugin"

# As a site would write it, and wrong: what a launch was labelled with does not come back.
FORGETFUL = """
from dataclasses import replace

import pytest

from backends.fake import FakeBackend, FakePlatform
from backends.testing.contract import BackendContract


class Forgetful(FakeBackend):
    async def observe(self):
        return {handle: replace(seen, labels={}) for handle, seen in (await super().observe()).items()}


class Harness:
    def __init__(self):
        self.platform = FakePlatform()

    def open(self):
        return Forgetful(self.platform)

    def complete(self, request):
        return request

    def command(self, program):
        return ["train"]

    def handle(self, name):
        return name


class TestForgetful(BackendContract):
    @pytest.fixture
    def harness(self):
        return Harness()


class TestElsewhere(TestForgetful, runs_locally=False):
    pass
"""


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the example, installed into its folder `installed` as pip would, without a network."""
    folder = tmp_path_factory.mktemp("plugin")
    shutil.copytree(EXAMPLE, folder, dirs_exist_ok=True)
    options = ["--quiet", "--offline", "--no-cache", "--no-deps", "--no-build-isolation", "--python", sys.executable]
    subprocess.run([find_uv_bin(), "pip", "install", *options, "--target", "installed", "."], cwd=folder, check=True)
    shutil.rmtree(folder / "launchbay_nice")  # what the tests find is what was installed
    return folder


def run_tests(folder: Path, *arguments: str) -> tuple[str, dict[str, str]]:
    """Run a site's tests as the site does; returns what pytest prints, and how each test ended."""
    report = folder / "report.xml"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--junit-xml={report}", *arguments],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(folder / "installed")},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}, done.stdout + done.stderr
    cases = ElementTree.parse(report).getroot().iter("testcase")  # noqa: S314 -- written by pytest
    return done.stdout, {case.attrib["name"]: (case[0].tag if len(case) else "passed") for case in cases}


def test_the_example_keeps_the_contract(plugin: Path) -> None:
    printed, outcomes = run_tests(plugin, "tests")
    assert set(outcomes.values()) == {"passed"}, printed
    contract = {name for name in vars(BackendContract) if name.startswith("test_")}
    assert contract < {name.partition("[")[0] for name in outcomes}


def test_who_breaks_the_contract_is_told_how(tmp_path: Path) -> None:
    (tmp_path / "test_forgetful.py").write_text(FORGETFUL)
    printed, outcomes = run_tests(tmp_path, "-k", "not Elsewhere and (labels_come_back or unknown_launch)")
    assert outcomes == {"test_labels_come_back": "failure", "test_unknown_launch_has_no_output": "passed"}
    assert "{'agent': 'box'" in printed  # the values, not only the line


def test_what_is_about_folders_here_is_left_out_where_launches_run_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "test_forgetful.py").write_text(FORGETFUL)
    printed, _ = run_tests(tmp_path, "--collect-only", "--quiet")
    tests = {tuple(line.split("::")[1:]) for line in printed.splitlines() if "::" in line}
    here, elsewhere = ({name for whose, name in tests if whose == each} for each in ("TestForgetful", "TestElsewhere"))
    assert {name.partition("[")[0] for name in here - elsewhere} == {"test_job_runs_in_its_working_folder"}
    assert elsewhere < here


async def test_an_agents_configuration_names_and_tells_it(
    plugin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(plugin / "installed")
    monkeypatch.setattr("backends.registry.entry_points", entry_points)  # tests before this one knew of fewer
    file = tmp_path / "launch-config.yaml"
    file.write_text("queues: [q]\nresources: [nice-process]\nbackends: {nice-process: {niceness: 3}}\n")
    backends = _open_backends(load_config(file, {}, {}), tmp_path, "agent")
    nice = backends["nice-process"]
    handle = await nice.start(StartRequest("launch-1", ["/usr/bin/nice"], {}))  # prints what it runs at
    await end_of(nice, handle)
    assert await output_of(nice, handle) == b"%d\n" % min(os.nice(0) + 3, 19)
    for backend in backends.values():
        await backend.close()


def test_running_backends_need_no_pytest() -> None:
    run = "import sys, agent.run, backends.local_process, launchbay.cli"
    code = f"{run}; print({{'pytest', 'backends.testing'}} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
