"""Environments of jobs: made once per content, never half-made, with the installer's words when they fail."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import psutil
import pytest

from agent.caches.bounded import BoundedCache
from agent.caches.environments import Environments, installer_environment
from agent.errors import LaunchFailed
from agent.held import Launches
from agent.launch import Launch
from agent.requirements import Requirements

PYPROJECT = """
[project]
name = "{name}"
version = "1.0"
{more}
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""
BACKEND = """
import os
import zipfile
{more}
def build_wheel(folder, settings=None, metadata=None):
    name = "local_thing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(f"{{folder}}/{{name}}", "w") as wheel:
        wheel.writestr("local_thing.py", "VALUE = {value}")
        info = "local_thing-1.0.dist-info/"
        wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\\nName: local-thing\\nVersion: 1.0\\n")
        wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(info + "RECORD", "")
    return name
def build_editable(folder, settings=None, metadata=None):
    name = "local_thing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(f"{{folder}}/{{name}}", "w") as wheel:
        wheel.writestr("local_thing.pth", os.getcwd())
        info = "local_thing-1.0.dist-info/"
        wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\\nName: local-thing\\nVersion: 1.0\\n")
        wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(info + "RECORD", "")
    return name
"""
LAUNCH = Launch("item", 1, "q", {}, "run")


def make_package(folder: Path, value: int = 42, *, more: str = "", first: str = "") -> None:
    """Make a package whose build needs nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pyproject.toml").write_text(PYPROJECT.format(name="local-thing", more=more))
    (folder / "backend.py").write_text(BACKEND.format(value=value, more=first))


def waiting(begun: Path, may_end: Path) -> str:
    """Return what a build begins with that makes one file and waits for the other, and must not see the agent's key."""
    return "\n".join(
        (
            "import os, time",
            "assert 'WANDB_API_KEY' not in os.environ",
            f"open({str(begun)!r}, 'w').close()",
            f"while not os.path.exists({str(may_end)!r}): time.sleep(0.01)",
        )
    )


def make_wheel(folder: Path, name: str, version: str) -> None:
    """Make a wheel."""
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", f"VERSION = {version!r}")
        info = f"{name}-{version}.dist-info/"
        wheel.writestr(info + "METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(info + "RECORD", "")


class Maker:
    """A cache of environments, whose index is a folder of wheels, and what it tells."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self.index = folder / "index"
        self.index.mkdir(exist_ok=True)
        self.root = folder / "environments"
        settings = folder / "settings.toml"
        settings.write_text(f'no-index = true\nfind-links = ["{self.index}"]')
        own = {"UV_CONFIG_FILE": str(settings), "UV_CACHE_DIR": str(folder / "uv"), **variables}
        own = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ} | own
        self.environments = Environments(BoundedCache(self.root, None, Launches().in_use), own)
        self.told: list[str] = []

    async def ensure(self, requirements: Requirements) -> Path:
        """Return an environment."""

        async def tell(what: str) -> None:
            self.told.append(what)

        return await self.environments.ensure(requirements, LAUNCH, tell)


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A job's code, whose requirement is a package beside it, so that nothing is downloaded."""
    make_package(tmp_path / "code-1" / "tree" / "package")
    (tmp_path / "code-1" / "tree" / "requirements.txt").write_text("./package\n")
    return tmp_path / "code-1" / "tree"


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    """A cache of environments."""
    return Maker(tmp_path)


def python(folder: Path, program: str) -> str:
    """Run a program in an environment, and return what it prints."""
    command = [folder / "bin" / "python", "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd="/").stdout.strip()


def wanted(code: Path, name: str = "requirements.txt") -> Requirements:
    """Return requirements of some code."""
    return Requirements(code / name, None, code)


async def test_requirements_are_installed(code: Path, maker: Maker) -> None:
    folder = await maker.ensure(wanted(code))
    assert python(folder, "import local_thing; print(local_thing.VALUE)") == "42"
    assert maker.told == ["making its environment"]


async def test_many_who_ask_at_once_get_one_environment(code: Path, maker: Maker) -> None:
    folders = await asyncio.gather(*(maker.ensure(wanted(code)) for _ in range(5)))
    assert len(set(folders)) == 1
    made = (folders[0] / "pyvenv.cfg").stat().st_mtime_ns
    maker.told.clear()
    assert await maker.ensure(wanted(code)) == folders[0]
    assert (folders[0] / "pyvenv.cfg").stat().st_mtime_ns == made
    assert not maker.told


async def test_included_files_count(code: Path, maker: Maker) -> None:
    make_wheel(maker.index, "have", "1.0")
    (code / "requirements.txt").write_text("-r more.txt\n")
    (code / "more.txt").write_text("have\n")
    first = await maker.ensure(wanted(code))
    (code / "more.txt").write_text("have\n# changed\n")
    assert await maker.ensure(wanted(code)) != first


async def test_a_file_outside_of_the_code_is_not_included(code: Path, maker: Maker, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("password\n")
    (code / "link").symlink_to(tmp_path / "secret")
    for name in ("/etc/passwd", "../secret", "link"):
        (code / "requirements.txt").write_text(f"-r {name}\n")
        with pytest.raises(LaunchFailed, match="which is no file of the job's code"):
            await maker.ensure(wanted(code))


async def test_a_failing_install_quotes_the_installer_and_leaves_nothing(code: Path, maker: Maker) -> None:
    (code / "requirements.txt").write_text("no-such-thing>=3\n")
    with pytest.raises(LaunchFailed, match=r"could not be installed: .*no-such-thing was not found") as error:
        await maker.ensure(wanted(code))
    assert error.value.stage == "build"
    assert b"no-such-thing" in error.value.log
    assert not list(maker.root.iterdir())


async def test_the_dependencies_of_a_project_are_installed_and_the_project_is_not(code: Path, maker: Maker) -> None:
    make_wheel(maker.index, "have", "1.0")
    make_package(code, more='dependencies = ["have"]')
    folder = await maker.ensure(wanted(code, "pyproject.toml"))
    assert python(folder, "import have; print(have.VERSION)") == "1.0"
    with pytest.raises(subprocess.CalledProcessError):
        python(folder, "import local_thing")


async def test_a_full_disk_is_not_the_jobs_fault(
    code: Path, maker: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "uv-on-a-full-disk"
    program.write_text("#!/bin/sh\necho 'error: failed to write: No space left on device (os error 28)'\nexit 2\n")
    program.chmod(0o700)
    monkeypatch.setattr("agent.caches.uv.find_uv_bin", lambda: str(program))
    with pytest.raises(OSError, match="No space left on device"):
        await maker.ensure(wanted(code))
    assert not list(maker.root.iterdir())


# --- what decides the content -----------------------------------------------------------------------------------------


async def test_requirements_that_name_files_go_with_the_code_and_others_do_not(
    code: Path, maker: Maker, tmp_path: Path
) -> None:
    make_wheel(maker.index, "have", "1.0")
    make_package(tmp_path / "code-2" / "tree" / "package", value=43)
    for number, text in enumerate(("./package\n", "have  # ./not-a-file\n", "have; python_version > '3'\n")):
        for version in (1, 2):
            (tmp_path / f"code-{version}" / "tree" / "requirements.txt").write_text(text)
        folders = [await maker.ensure(wanted(tmp_path / f"code-{version}" / "tree")) for version in (1, 2)]
        assert (folders[0] == folders[1]) == (number > 0), text
        if number == 0:
            values = [python(folder, "import local_thing; print(local_thing.VALUE)") for folder in folders]
            assert values == ["42", "43"]


async def test_an_editable_package_outlives_the_launch_that_brought_it(code: Path, maker: Maker) -> None:
    (code / "requirements.txt").write_text("-e ./package\n")
    (code / "package" / "local_thing.py").write_text("VALUE = 7")
    before = {path: path.stat().st_mtime_ns for path in code.rglob("*")}
    folder = await maker.ensure(wanted(code))
    assert {path: path.stat().st_mtime_ns for path in code.rglob("*")} == before
    code.rename(code.with_name("gone"))
    assert python(folder, "import local_thing; print(local_thing.VALUE)") == "7"


async def test_settings_of_uv_count_and_those_that_decide_nothing_do_not(code: Path, tmp_path: Path) -> None:
    (code / "requirements.txt").write_text("# nothing\n")

    async def made(**variables: str) -> Path:
        return await Maker(tmp_path, **variables).ensure(wanted(code))

    plain = await made()
    assert await made(UV_LINK_MODE="copy", UV_INDEX_MINE_PASSWORD="x", UV_CONCURRENT_BUILDS="1") == plain
    assert await made(UV_PRERELEASE="allow") != plain
    with_key = await made(UV_DEFAULT_INDEX="https://me:monday@index.test/")
    assert with_key != plain
    assert await made(UV_DEFAULT_INDEX="https://me:tuesday@index.test/") == with_key
    (code / "uv.toml").write_text('[pip]\nprerelease = "allow"\n')
    assert await made() != plain


async def test_another_python_makes_another_environment_and_a_missing_one_is_told(
    code: Path, maker: Maker, tmp_path: Path
) -> None:
    (code / "requirements.txt").write_text("# nothing\n")
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    plain = await maker.ensure(wanted(code))
    assert await maker.ensure(Requirements(code / "requirements.txt", f"{own}.99", code)) == plain
    maker.told.clear()
    for _ in range(2):
        assert await maker.ensure(Requirements(code / "requirements.txt", "3.1", code)) == plain
    assert len(maker.told) == 2
    assert all(f"Python {own}" in told and "Python 3.1 is not on this machine" in told for told in maker.told)


def test_builds_see_no_secret_of_the_agent() -> None:
    own = {"WANDB_API_KEY": "secret", "UV_INDEX_URL": "i", "HTTPS_PROXY": "p", "AWS_SECRET_ACCESS_KEY": "s"}
    seen = installer_environment(own, {"PATH": "/bin", "LISTED": "by the operator"})
    assert seen == {"PATH": "/bin", "LISTED": "by the operator", "UV_INDEX_URL": "i", "HTTPS_PROXY": "p"}


# --- frozen requirements ----------------------------------------------------------------------------------------------


def frozen(folder: Path, *lines: str) -> Requirements:
    """Return requirements that were frozen elsewhere."""
    (folder / "requirements.frozen.txt").write_text("".join(f"{line}\n" for line in lines))
    return Requirements(folder / "requirements.frozen.txt", is_frozen=True)


async def test_frozen_requirements_that_are_not_to_be_had_are_told_and_the_others_installed(
    maker: Maker, tmp_path: Path
) -> None:
    make_wheel(maker.index, "have", "1.0")
    make_wheel(maker.index, "built", "2.0")
    make_wheel(maker.index, "more", "3.0")
    lines = ("gone==1", "have==1.0", "# a comment", "built==2.0+cu118", "more==3.0", "other @ file:///home/me/other")
    folder = await maker.ensure(frozen(tmp_path, *lines))
    for attempt in range(2):
        missing = "3 of its frozen requirements cannot be installed: gone==1, built==2.0+cu118 (instead: built==2.0), "
        assert maker.told[1 - attempt :] == [f"{missing}other @ file:///home/me/other"]
        maker.told.clear()
        assert await maker.ensure(frozen(tmp_path, *lines)) == folder
    assert python(folder, "import have, built, more; print(have.VERSION, built.VERSION, more.VERSION)") == "1.0 2.0 3.0"


async def test_too_many_missing_frozen_requirements_are_an_error(maker: Maker, tmp_path: Path) -> None:
    with pytest.raises(LaunchFailed, match=r"more than 25 of them are not to be had.*gone") as error:
        await maker.ensure(frozen(tmp_path, *(f"gone{number}==1" for number in range(40))))
    assert error.value.stage == "build"
    assert not list(maker.root.iterdir())


async def test_an_index_that_cannot_be_reached_is_not_taken_for_missing_packages(tmp_path: Path) -> None:
    nowhere = {"UV_DEFAULT_INDEX": "http://127.0.0.1:9/simple", "UV_HTTP_RETRIES": "0"}
    maker = Maker(tmp_path, UV_CONFIG_FILE=os.devnull, **nowhere)
    with pytest.raises(LaunchFailed, match="uv failed"):
        await maker.ensure(frozen(tmp_path, "have==1.0", "more==1.0"))
    assert not list(maker.root.iterdir())


# --- crashes ----------------------------------------------------------------------------------------------------------

PROGRAM = """
    import asyncio, os, sys
    from pathlib import Path
    from agent.caches.bounded import BoundedCache
    from agent.caches.environments import Environments
    from agent.held import Launches
    from agent.launch import Launch
    from agent.requirements import Requirements

    async def tell(what): pass

    code, root = Path(sys.argv[1]), Path(sys.argv[2])
    environments = Environments(BoundedCache(root, None, Launches().in_use), dict(os.environ))
    wanted = Requirements(code / "requirements.txt", None, code)
    asyncio.run(environments.ensure(wanted, Launch("item", 1, "q", {}, "run"), tell))
"""


async def test_killed_in_the_middle_of_an_installation_it_is_made_again(
    code: Path, maker: Maker, tmp_path: Path
) -> None:
    """The build waits for ever in the first life, and not in the second."""
    begun, may_end = tmp_path / "begun", tmp_path / "go"
    hang = waiting(begun, may_end)
    make_package(code / "package", first=hang)
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), str(code), str(maker.root)],
        env={name: value for name, value in os.environ.items() if name != "WANDB_API_KEY"},
    ) as process:
        while not begun.exists():
            assert process.poll() is None
            await asyncio.sleep(0.01)
        (installer,) = (child for child in psutil.Process(process.pid).children() if "uv" in child.name())
        process.send_signal(signal.SIGKILL)
    assert not psutil.wait_procs([installer], timeout=120)[1], "uv goes on without the agent"
    assert list(maker.root.glob("*/bin/python"))
    may_end.touch()
    folder = await maker.ensure(wanted(code))
    assert python(folder, "import local_thing; print(local_thing.VALUE)") == "42"
