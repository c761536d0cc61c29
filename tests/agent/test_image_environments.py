"""Environments for images: made in there, once per content, and nothing left of an installation that did not end well.

What stands for an image is a folder of programs, and for a container a process that has nothing else in its PATH. Real
containers are in `test_jobs_in_containers.py`.
"""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from uv import find_uv_bin

from agent.caches.bounded import READY, BoundedCache
from agent.caches.image_environments import ENVIRONMENT_LABEL, ImageEnvironment, ImageEnvironments, Place
from agent.errors import LaunchFailed
from agent.launch import Launch
from agent.requirements import Requirements
from backends.base import BackendUnavailable, Capabilities, Handle, StartRequest
from backends.local_process.backend import LocalProcessBackend
from protocol.json_types import JsonObject
from tests.agent.test_environments import make_package

PYTHON = Path(sys.executable).resolve()


class Rooms(LocalProcessBackend):
    """Launches as processes that see the programs of their image."""

    def __init__(self, root: Path) -> None:
        super().__init__(root / "launches")
        self.images: dict[str, Path] = {}
        self.started: list[StartRequest] = []
        self.away = 0
        """How many calls find the platform away."""

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(runs_locally=True, runs_images=True, needs_image=True)

    async def fetch_image(self, image: str, resource_args: JsonObject, tell: Callable[[str], None]) -> str:
        self._is_there()
        tell(f"pulling {image}")
        return str(self.images[image])

    async def has_image(self, image: str) -> bool:
        return image in self.images

    async def start(self, request: StartRequest) -> Handle:
        self._is_there()
        self.started.append(request)
        assert request.image
        variables = {"PATH": str(self.images[request.image]), **request.environment}
        return await super().start(replace(request, environment=variables))

    async def observe(self) -> Any:
        self._is_there()
        return await super().observe()

    def _is_there(self) -> None:
        if self.away:
            self.away -= 1
            raise BackendUnavailable("away")


@dataclass
class Scene:
    """A job with a requirement, images, and the cache."""

    folder: Path
    rooms: Rooms
    environments: ImageEnvironments
    told: list[str] = field(default_factory=list[str])

    @property
    def file(self) -> Path:
        return self.folder / "job" / "requirements.txt"

    def image(self, name: str, *programs: Path) -> None:
        folder = self.folder / "images" / name
        folder.mkdir(parents=True)
        for program in programs:
            (folder / ("python3" if program == PYTHON else program.name)).symlink_to(program)
        self.rooms.images[name] = folder

    async def ensure(self, image: str = "slim", frozen: Path | None = None, **options: Any) -> ImageEnvironment:
        place = Place(self.rooms, image, options, "http://127.0.0.1:1", "owner")
        wanted = Requirements(frozen or self.file, code=None if frozen else self.file.parent, is_frozen=bool(frozen))
        return await self.environments.ensure(place, wanted, Launch("item", 1, "q", {}, "run"), self.tell)

    async def tell(self, what: str) -> None:
        self.told.append(what)

    def left(self) -> list[str]:
        """Return what is in the cache."""
        root = self.folder / "environments"
        return sorted(path.name for path in root.iterdir() if path.suffix != READY) if root.exists() else []


def cache(folder: Path, own: dict[str, str]) -> ImageEnvironments:
    """Return the cache of an agent with these variables."""
    return ImageEnvironments(BoundedCache(folder / "environments", None, tuple), folder / "uv", own, Random(1))


@pytest.fixture(name="scene")
async def _scene(tmp_path: Path) -> AsyncIterator[Scene]:
    make_package(tmp_path / "job" / "package")
    (tmp_path / "job" / "requirements.txt").write_text("./package\n")
    rooms = Rooms(tmp_path / "platform")
    scene = Scene(tmp_path, rooms, cache(tmp_path, {"UV_OFFLINE": "1"}))
    scene.image("slim", PYTHON)
    yield scene
    assert not await rooms.observe(), "nothing is left on the platform"
    await rooms.close()


def ran(environment: ImageEnvironment, code: str) -> str:
    """Run some Python as a job with this environment would."""
    program = subprocess.run(
        ["python", "-c", code], env=dict(environment.variables), capture_output=True, text=True, check=True
    )
    return program.stdout.strip()


async def test_requirements_are_installed_for_the_images_python(scene: Scene) -> None:
    environment = await scene.ensure()
    shown = ran(environment, "import local_thing, sys; print(local_thing.VALUE, sys.prefix, sys.base_prefix)")
    (folder,) = environment.folders
    assert shown == f"42 {folder}/environment {PYTHON.parent.parent}"
    assert environment.variables["PATH"] == f"{folder}/environment/bin:{scene.rooms.images['slim']}"
    assert environment.variables["VIRTUAL_ENV"] == f"{folder}/environment"
    assert scene.left() == [folder.name]
    assert not (folder / ".cache").exists()
    assert "making its environment in slim" in scene.told


async def test_an_installation_reaches_what_its_launch_may_and_sees_no_key(scene: Scene) -> None:
    own = {"UV_OFFLINE": "1", "UV_INDEX_X_PASSWORD": "p"}
    secret = dict.fromkeys(("WANDB_API_KEY", "AWS_SECRET", "UV_PUBLISH_TOKEN"), "s3cret")
    scene.environments = cache(scene.folder, own | secret)
    await scene.ensure(network="none", platform="linux/amd64", env="A=1", privileged=True, cpus=2)
    (request,) = scene.rooms.started
    assert request.resource_args == {"network": "none", "platform": "linux/amd64"}
    assert request.secrets == own
    assert "s3cret" not in request.environment.values()
    assert request.labels == {"owner": "owner", ENVIRONMENT_LABEL: request.name}
    assert Path(find_uv_bin()).parent not in request.folders, (
        "what is beside uv may be in the image under the same path"
    )


async def test_many_who_ask_at_once_get_one_environment(scene: Scene) -> None:
    found = await asyncio.gather(*(scene.ensure() for _ in range(4)))
    assert len({environment.folders[0] for environment in found}) == 1
    assert len(scene.rooms.started) == 1
    await scene.ensure()
    assert len(scene.rooms.started) == 1


async def test_image_platform_and_requirements_are_what_counts(scene: Scene) -> None:
    first = await scene.ensure()
    scene.image("other", PYTHON)
    assert (await scene.ensure("other")).folders != first.folders
    assert (await scene.ensure(platform="linux/arm64")).folders != first.folders
    scene.file.write_text("# more\n./package\n")
    assert (await scene.ensure()).folders != first.folders
    assert len(scene.left()) == 4


async def test_where_the_image_has_it_all_nothing_is_installed(scene: Scene) -> None:
    uv = find_uv_bin()
    rich = scene.folder / "rich"
    subprocess.run([uv, "venv", "--quiet", "--python", PYTHON, rich], check=True)
    command = [uv, "pip", "install", "--quiet", "--python", rich / "bin" / "python", scene.folder / "job" / "package"]
    subprocess.run(command, check=True)
    scene.rooms.images["rich"] = rich / "bin"
    scene.file.write_text("local-thing>=1\n")
    environment = await scene.ensure("rich")
    assert environment == ImageEnvironment()
    await scene.ensure("rich")
    assert len(scene.rooms.started) == 1, "which is remembered, too"


async def test_a_failing_installation_quotes_uv_and_leaves_nothing(scene: Scene) -> None:
    scene.file.write_text("./no-such-folder\n")
    for _ in range(2):
        with pytest.raises(LaunchFailed, match=r"could not be installed in slim: .*no-such-folder") as error:
            await scene.ensure()
        assert (error.value.stage, error.value.reason) == ("build", "requirements")
        assert b"no-such-folder" in error.value.log
        assert scene.left() == []
    assert len(scene.rooms.started) == 2, "it is tried again"


@pytest.mark.parametrize(
    ("programs", "why"),
    [
        pytest.param([], "there is no Python in its PATH", id="no Python"),
        pytest.param(None, "uv, which this agent brings, does not run in there", id="no glibc"),
    ],
)
async def test_an_image_in_which_nothing_can_be_installed_is_named(
    scene: Scene, programs: list[Path] | None, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.image("bare")
    if programs is None:  # what the kernel says where the program's loader is missing
        uv = scene.folder / "uv" / "test" / "uv"
        uv.parent.mkdir(parents=True)
        monkeypatch.setattr("agent.caches.image_environments._bring_uv", lambda _: uv)
        uv.write_text("#!/no/such/loader\n")
        uv.chmod(0o755)
    with pytest.raises(LaunchFailed, match=f"could not be installed in bare: {why}"):
        await scene.ensure("bare")
    assert scene.left() == []


async def test_what_is_frozen_is_installed_as_far_as_it_can_be_had(scene: Scene) -> None:
    frozen = scene.folder / "job" / "requirements.frozen.txt"
    frozen.write_text(f"# made elsewhere\nnothing-like-it==1.0\n{scene.folder}/job/package\n")
    environment = await scene.ensure(frozen=frozen)
    assert ran(environment, "import local_thing; print(local_thing.VALUE)") == "42"
    assert scene.told[-1] == "1 of its frozen requirements cannot be installed: nothing-like-it==1.0"


async def test_a_launch_that_is_stopped_takes_its_installation_with_it(scene: Scene) -> None:
    marker = scene.folder / "began"
    slow = f"import time, pathlib\npathlib.Path({str(marker)!r}).touch()\ntime.sleep(60)\n"
    make_package(scene.folder / "job" / "package", first=slow)
    waiting = asyncio.create_task(scene.ensure())
    async with asyncio.timeout(120):
        while not marker.exists():  # noqa: ASYNC110 -- what is awaited happens in another program
            await asyncio.sleep(0.05)
    (request,) = scene.rooms.started
    assert scene.environments.is_making(request.name)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    assert not scene.environments.is_making(request.name)
    assert scene.left() == []
    assert not await scene.rooms.observe()


async def test_a_platform_that_is_away_for_a_moment_fails_nothing(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.caches.image_environments.AGAIN_SECONDS", 0.01)
    scene.rooms.away = 2
    making = asyncio.create_task(scene.ensure())
    while not scene.rooms.started:  # noqa: ASYNC110 -- likewise
        await asyncio.sleep(0.01)
    scene.rooms.away = 2
    await making
    assert len(scene.rooms.started) == 1


async def test_an_editable_requirement_is_where_the_job_finds_it(scene: Scene) -> None:
    """The job has its code elsewhere than the installation had it."""
    scene.file.write_text("-e ./package\n")
    environment = await scene.ensure()
    (folder,) = environment.folders
    shutil.rmtree(folder / "src")
    assert ran(environment, "import local_thing; print(local_thing.VALUE)") == "42"


async def test_uv_is_brought_once_and_an_earlier_one_removed(scene: Scene) -> None:
    old = scene.folder / "uv" / "1-2"
    old.mkdir(parents=True)
    await scene.ensure()
    (new,) = (scene.folder / "uv").iterdir()
    assert [path.name for path in new.iterdir()] == ["uv"]
    assert new != old


@pytest.mark.parametrize("kind", ["link", "pipe", "nonsense"])
async def test_what_an_installation_tells_is_read_with_care(scene: Scene, kind: str) -> None:
    """The build of a package may have written it, to have the agent read another file of this machine or wait."""
    (folder,) = (await scene.ensure()).folders
    told = folder / "told.json"
    text = told.read_text()
    told.unlink()
    if kind == "link":
        (scene.folder / "elsewhere.json").write_text(text)
        told.symlink_to(scene.folder / "elsewhere.json")
    elif kind == "pipe":
        os.mkfifo(told)
    else:
        told.write_text('{"is_needed": []}')
    with pytest.raises(LaunchFailed, match=r"was changed\. Remove it"):
        await scene.ensure()
