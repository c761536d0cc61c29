"""Environments of jobs: made once per content, never half-made, with the installer's words when they fail."""

import asyncio
import os
import subprocess
from pathlib import Path

import pytest

from agent.caches.environments import MARKER, Environments, Requirements
from agent.errors import LaunchFailed

PYPROJECT = '[project]\nname = "local-thing"\nversion = "{version}"\n'
BUILD = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
BACKEND = """
import zipfile
def build_wheel(folder, settings=None, metadata=None):
    name = "local_thing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(f"{folder}/{name}", "w") as wheel:
        wheel.writestr("local_thing.py", "VALUE = 42")
        info = "local_thing-1.0.dist-info/"
        wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\\nName: local-thing\\nVersion: 1.0\\n")
        wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(info + "RECORD", "")
    return name
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A job's folder whose requirement is a package beside it, so that nothing is downloaded."""
    folder = tmp_path / "job"
    package = folder / "package"
    package.mkdir(parents=True)
    (package / "pyproject.toml").write_text(PYPROJECT.format(version="1.0") + BUILD)
    (package / "backend.py").write_text(BACKEND)
    (folder / "requirements.txt").write_text("./package\n")
    return folder


@pytest.fixture
def environments(tmp_path: Path) -> Environments:
    """A cache of environments."""
    return Environments(tmp_path / "environments", dict(os.environ))


async def test_requirements_are_installed(project: Path, environments: Environments) -> None:
    folder = await environments.ensure(Requirements(project / "requirements.txt", None))
    python = folder / "bin" / "python"
    command = [python, "-c", "import local_thing; print(local_thing.VALUE)"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "42\n"


async def test_many_who_ask_at_once_get_one_environment(project: Path, environments: Environments) -> None:
    wanted = Requirements(project / "requirements.txt", None)
    folders = await asyncio.gather(*(environments.ensure(wanted) for _ in range(5)))
    assert len(set(folders)) == 1
    made = (folders[0] / MARKER).stat().st_mtime_ns
    assert await environments.ensure(wanted) == folders[0]
    assert (folders[0] / MARKER).stat().st_mtime_ns == made


async def test_what_a_crash_left_half_made_is_made_again(project: Path, environments: Environments) -> None:
    wanted = Requirements(project / "requirements.txt", None)
    folder = await environments.ensure(wanted)
    (folder / MARKER).unlink()
    (folder / "bin" / "python").unlink()
    assert await environments.ensure(wanted) == folder
    assert (folder / "bin" / "python").exists()


async def test_included_files_count(project: Path, environments: Environments, tmp_path: Path) -> None:
    (project / "requirements.txt").write_text("-r more.txt\n")
    (project / "more.txt").write_text("./package\n")
    first = await environments.ensure(Requirements(project / "requirements.txt", None))
    (project / "more.txt").write_text("./package\n# changed\n")
    assert await environments.ensure(Requirements(project / "requirements.txt", None)) != first


async def test_a_failing_install_quotes_the_installer_and_leaves_nothing(
    project: Path, environments: Environments, tmp_path: Path
) -> None:
    (project / "requirements.txt").write_text("./no-such-folder\n")
    with pytest.raises(LaunchFailed, match="requirements could not be installed") as error:
        await environments.ensure(Requirements(project / "requirements.txt", None))
    assert error.value.stage == "build"
    assert b"no-such-folder" in error.value.log
    assert not list((tmp_path / "environments").glob(f"*/{MARKER}"))
