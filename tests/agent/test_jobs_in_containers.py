"""Jobs of code in real containers: mounted, with what they require, and quick the second time."""

import io
import re
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from uv import find_uv_bin

from agent.caches.artifacts import ArtifactCache
from agent.caches.image_environments import ENVIRONMENT_LABEL
from agent.daemon import Daemon
from backends.base import StartRequest
from backends.registry import load
from tests import engines
from tests.agent.test_environments import make_package
from tests.agent.test_in_containers import RESOURCE
from tests.agent.test_resolve import CODE_JOB, JOB, Fetched
from tests.agent.world import World, until, world
from tests.engines import Engine

pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
PYTHON = Path(sys.executable).resolve()
IMAGE = "localhost/python:latest"
SCRIPT = "import local_thing, os, sys; print('value', local_thing.VALUE, os.getcwd(), *sys.argv[1:])"


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    if why := engines.missing(["dockerd", "containerd", "docker-init"]):
        pytest.skip(f"no Docker Engine here: {why}; on Debian, apt-get install docker.io busybox-static")
    with engines.running_docker() as engine:
        client = engine.client()
        changes = [f"ENV PATH={PYTHON.parent}:/bin"]
        client.import_image_from_data(_python_image(), repository="localhost/python", tag="latest", changes=changes)
        client.close()
        yield engine


def _python_image() -> bytes:
    """Return a root file system with this machine's Python, the libraries that it and uv need, and a shell."""
    library = Path(sysconfig.get_path("stdlib"))
    programs = [PYTHON, Path(find_uv_bin()), *library.glob("lib-dynload/*.so")]
    told = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=False).stdout
    libraries = {Path(path) for path in re.findall(r"(/\S+)\s+\(0x", told)}

    def wanted(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        name = Path(entry.name).name
        return None if name in {"site-packages", "test", "__pycache__", "idlelib", "ensurepip"} else entry

    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add("/bin/busybox", "bin/busybox")
        for path in {PYTHON, library, *libraries}:
            tar.add(path.resolve() if path in libraries else path, str(path).lstrip("/"), filter=wanted)
        for name, target in (("bin/sh", "/bin/busybox"), (str(PYTHON.with_name("python")).lstrip("/"), str(PYTHON))):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            tar.addfile(link)
        temporary = tarfile.TarInfo("tmp")
        temporary.type, temporary.mode = tarfile.DIRTYPE, 0o1777
        tar.addfile(temporary)
    return archive.getvalue()


@pytest.fixture(name="made")
async def _made(tmp_path: Path) -> AsyncIterator[World]:
    code = tmp_path / "code"
    make_package(code / "package")
    (code / "requirements.txt").write_text("./package\n")
    (code / "src").mkdir()
    (code / "src" / "train.py").write_text(SCRIPT)
    async with world(tmp_path, RESOURCE) as made:
        yield made


@asynccontextmanager
async def agent(made: World, engine: Engine, **config: Any) -> AsyncGenerator[Daemon]:
    """Run an agent on a real engine."""
    backend = load(RESOURCE)(made.folder / "state" / RESOURCE, "test", {"engine": engine.url})
    given: dict[str, Any] = {"builder": {"type": "noop", "base_image": IMAGE}, **config}
    try:
        async with made.agent(resources=[RESOURCE], backends={RESOURCE: backend}, **given) as daemon:
            daemon._context.artifacts = cast(ArtifactCache, Fetched(made.folder, CODE_JOB))
            yield daemon
            await nothing_left(daemon)
    finally:
        await backend.close()


async def ended(made: World, args: dict[str, str] | None = None) -> tuple[dict[str, Any], str]:
    """Run a job to its end; returns its item and its output."""
    overrides = {"working_dir": "src", "args": ["--fast"]}
    item_id = await made.push(**JOB, resource=RESOURCE, resource_args={RESOURCE: args or {}}, overrides=overrides)
    item = await made.in_state(item_id, "FINISHED", "FAILED")
    return item, (await made.output(item_id)).decode()


async def nothing_left(daemon: Daemon) -> None:
    """Wait until no container of the agent's is there any more."""

    async def look() -> bool:
        return not await daemon._context.backends[RESOURCE].observe()

    await until(look, "every container is removed")


async def test_code_runs_in_a_container_with_what_it_requires(made: World, engine: Engine) -> None:
    async with agent(made, engine):
        for _ in range(2):
            item, output = await ended(made)
            assert "value 42 /mnt/wandb/src --fast" in output, item
            assert item["exitCode"] == 0
        environments = list((made.folder / "state" / "environments").glob("*.ready"))
        assert len(environments) == 1


async def test_what_has_no_libc_for_uv_is_told_so(made: World, engine: Engine) -> None:
    async with agent(made, engine, builder={"type": "noop", "base_image": engines.IMAGE}):
        item, _ = await ended(made)
    assert item["state"] == "FAILED"
    assert (
        f"could not be installed in {engines.IMAGE}: uv, which this agent brings, does not run"
        in item["error"]["message"]
    )
    with engine.client() as client:
        assert not client.containers(all=True), "nothing is left"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({}, "The image localhost:1/none could not be pulled. The registry cannot be reached"),
        ({"pull": "never"}, "The image localhost:1/none is not on this machine, and `pull` is never."),
    ],
)
async def test_a_base_image_that_cannot_be_had_is_one_clear_error(
    made: World, engine: Engine, args: dict[str, str], said: str
) -> None:
    async with agent(made, engine, builder={"type": "noop", "base_image": "localhost:1/none"}):
        item, _ = await ended(made, args)
    assert said in item["error"]["message"]


async def test_an_installation_that_a_crash_has_left_is_put_down(made: World, engine: Engine) -> None:
    """Also one that still runs: nobody waits for it any more."""
    backend = load(RESOURCE)(made.folder / "state" / RESOURCE, "test", {"engine": engine.url})
    labels = {"owner": "owner", ENVIRONMENT_LABEL: "environment-dead"}
    request = StartRequest(
        "environment-dead", ["/bin/sh", "-c", "while :; do :; done"], {}, image=engines.IMAGE, labels=labels
    )
    await backend.start(request)
    await backend.close()
    async with agent(made, engine, stopped_run_timeout=0):
        await ended(made)
