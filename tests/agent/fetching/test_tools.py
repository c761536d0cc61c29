"""What installs requirements in the image of a job, and what the job runs through: real programs.

What stands for an image is a folder of programs in the PATH, as in `test_image_environments.py`.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.fetching.tools import lay_out
from agent.requirements import Requirements
from tests.agent.test_environments import make_package, make_wheel

PYTHON = Path(sys.executable).resolve()
SCRATCH = ".scratch-"


@dataclass
class Room:
    """A job's image and what was laid out for it."""

    root: Path

    def __post_init__(self) -> None:
        for name in ("code", "tools", "image", "wheels"):
            (self.root / name).mkdir()
        (self.root / "image" / "python3").symlink_to(PYTHON)
        self.log = self.root / "termination-log"
        self.log.touch()
        settings = self.root / "uv.toml"
        settings.write_text(f'no-index = true\nfind-links = ["{self.root / "wheels"}"]')
        self.variables = {"UV_CONFIG_FILE": str(settings)}

    @property
    def tools(self) -> Path:
        return self.root / "tools"

    def want(self, text: str, *, frozen: bool = False) -> None:
        file = self.root / "code" / "requirements.txt"
        file.write_text(text)
        wanted = Requirements(file, code=None if frozen else self.root / "code", is_frozen=frozen)
        lay_out(self.tools, wanted, SCRATCH)

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            env={"PATH": str(self.root / "image"), "LAUNCHBAY_TERMINATION_LOG": str(self.log), **variables},
            cwd="/",
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    def install(self, **variables: str) -> subprocess.CompletedProcess[str]:
        return self.run(str(self.tools / "bin" / "install"), **{**self.variables, **variables})

    def job(self, *command: str) -> subprocess.CompletedProcess[str]:
        return self.run(str(self.tools / "bin" / "run"), *command)


@pytest.fixture(name="room")
def _room(tmp_path: Path) -> Room:
    return Room(tmp_path)


def test_a_job_finds_what_was_installed_for_it(room: Room) -> None:
    make_wheel(room.root / "wheels", "thing", "1.0")
    room.want("thing\n")
    assert room.install().returncode == 0
    ran = room.job("python", "-c", "import importlib.metadata as m, os; print(m.version('thing'), os.getcwd())")
    assert (ran.stdout, ran.stderr) == ("1.0 /\n", "")
    assert not (room.tools / ".cache").exists()


def test_the_code_itself_may_be_what_is_installed(room: Room) -> None:
    make_package(room.root / "code")
    (room.root / "code" / f"{SCRATCH}abc").mkdir()
    before = sorted(path.name for path in (room.root / "code").iterdir())
    room.want(".\n")
    assert room.install().returncode == 0
    assert room.job("python", "-c", "import local_thing").returncode == 0
    assert sorted(path.name for path in (room.root / "code").iterdir()) == sorted([*before, "requirements.txt"])
    assert not list((room.tools / "code").glob(f"{SCRATCH}*"))


def test_without_requirements_nothing_is_needed_of_the_image(room: Room) -> None:
    """Code from git may be of any language: whether it wants packages is known only when it is there."""
    lay_out(room.tools, None, SCRATCH)
    (room.root / "image" / "python3").unlink()
    assert room.install().returncode == 0
    ran = room.job("/bin/echo", "a b", "$(c)", "")
    assert ran.stdout == "a b $(c) \n"
    assert room.job("/bin/sh", "-c", "exit 3").returncode == 3


def test_a_job_begins_where_its_code_says(room: Room) -> None:
    lay_out(room.tools, None, SCRATCH, "usr")
    assert room.job("/bin/sh", "-c", "pwd").stdout == "/usr\n"
    lay_out(room.tools, None, SCRATCH, "no such")
    assert room.job("/bin/echo", "began").stdout == ""
    lay_out(room.tools, None, SCRATCH)
    assert room.job("/bin/sh", "-c", "pwd").stdout == "/\n"


def test_an_image_that_has_it_all_is_used_as_it_is(room: Room) -> None:
    room.want("\n# nothing\n")
    assert room.install().returncode == 0
    assert not (room.tools / "environment").exists()
    assert room.job("/bin/sh", "-c", "echo $VIRTUAL_ENV$PATH").stdout == f"{room.root / 'image'}\n"


def test_why_it_failed_is_left_where_the_platform_looks(room: Room) -> None:
    room.log.write_text("x" * 5000)
    room.want("no-such-thing\n")
    ended = room.install()
    assert ended.returncode != 0
    assert "no-such-thing" in ended.stdout
    assert room.log.read_text().startswith("The job's requirements could not be installed: ")
    assert len(room.log.read_text().splitlines()) == 1


def test_frozen_requirements_may_be_missing_and_that_is_said(room: Room) -> None:
    make_wheel(room.root / "wheels", "thing", "1.0")
    room.want("thing==1.0\ngone==2.0\n", frozen=True)
    ended = room.install()
    assert ended.returncode == 0, ended
    assert "1 of its frozen requirements cannot be installed: gone==2.0" in ended.stdout
    assert room.job("python", "-c", "import importlib.metadata as m; m.version('thing')").returncode == 0


def test_an_image_without_python_is_told(room: Room) -> None:
    room.want("thing\n")
    (room.root / "image" / "python3").unlink()
    ended = room.install()
    assert ended.returncode == 1
    assert "there is no Python in its PATH" in ended.stderr
    assert "there is no Python in its PATH" in room.log.read_text()


def test_an_image_in_which_uv_does_not_run_is_told(room: Room) -> None:
    room.want("thing\n")
    (room.tools / "uv").write_bytes(b"\x7fELF")
    ended = room.install()
    assert ended.returncode == 1
    assert "It needs glibc" in ended.stderr


def test_packages_are_kept_for_the_next_launch_of_the_same_account(room: Room) -> None:
    make_wheel(room.root / "wheels", "thing", "1.0")
    room.want("thing\n")
    cache = room.root / "cache"
    assert room.install(LAUNCHBAY_CACHE=str(cache)).returncode == 0
    assert [path.name for path in cache.iterdir()] == [f"uv-{os.getuid()}"]
    assert room.job("python", "-c", "import importlib.metadata as m; m.version('thing')").returncode == 0


def test_a_container_that_is_started_again_installs_again(room: Room) -> None:
    make_wheel(room.root / "wheels", "thing", "1.0")
    room.want("thing\n")
    room.install()
    room.want("thing\n")
    assert room.install().returncode == 0
    assert json.loads((room.tools / "told.json").read_text())["is_needed"]
