"""Launches whose code is built into an image: real server, engine and plugin; the platform is fake, and told of it."""

import asyncio
import gc
import json
import os
import shutil
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from agent.caches.artifacts import ArtifactCache, ArtifactVersion
from agent.daemon import Daemon
from agent.resolve import JOB_FILE
from backends.base import BackendUnavailable, Capabilities
from backends.fake import Behavior, FakeBackend, FakePlatform
from backends.local_container.engine import DockerEngine
from backends.registry import load
from protocol.names import ArtifactName
from tests.agent.building import parts
from tests.agent.building.conftest import run_in
from tests.agent.world import World, until, world

pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # of the docker package
IMAGES = Capabilities(runs_locally=True, runs_images=True, needs_image=True)
CONTAINERS = "local-container"
LAUNCH: dict[str, Any] = {"job": "admin/p/Train_it:v1", "overrides": {}}


class OnEngine(FakeBackend):
    """A fake platform that has the images of a real engine."""

    def __init__(self, platform: FakePlatform, capabilities: Capabilities, url: str) -> None:
        super().__init__(platform, capabilities)
        self._url = url

    async def has_image(self, image: str) -> bool:
        client = DockerEngine(self._url)
        try:
            return await client.image(image) is not None
        finally:
            await client.close()


@dataclass
class Job:
    """A job, in the place of the cache of artifacts."""

    folder: Path

    def describe(self, **source: Any) -> None:
        """Write its job file."""
        source = {"artifact": "wandb-artifact://_id/code", "entrypoint": ["sh", "train.sh"], **source}
        (self.folder / "job").mkdir(exist_ok=True)
        (self.folder / "job" / JOB_FILE).write_text(json.dumps({"source_type": "artifact", "source": source}))

    async def find(self, name: ArtifactName) -> ArtifactVersion:
        return ArtifactVersion("job", "")

    async def by_id(self, artifact_id: str) -> ArtifactVersion:
        return ArtifactVersion(artifact_id, "")

    async def fetch(self, version: ArtifactVersion, *_: object) -> Path:
        return self.folder / version.id


@pytest.fixture(name="made")
async def _made(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path / "world") as made:
        yield made


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """A job whose code is a script, with a Dockerfile beside it."""
    code = tmp_path / "code"
    code.mkdir()
    (code / "train.sh").write_text(f"echo trained {tmp_path}")
    write(code, "COPY train.sh /work/")
    made = Job(tmp_path)
    made.describe()
    return made


def write(code: Path, *steps: str) -> None:
    """Write a Dockerfile."""
    (code / "Dockerfile.wandb").write_text("\n".join([f"FROM {parts.SHELL}", *steps, "WORKDIR /work", ""]))


@asynccontextmanager
async def agent(
    made: World, engine: parts.Engine, job: Job, capabilities: Capabilities = IMAGES, **config: Any
) -> AsyncGenerator[Daemon]:
    """Run an agent that builds images."""
    given: dict[str, Any] = {"builder": {"type": "docker"}, "max_jobs": 4, **config}
    async with made.agent(**given) as daemon:
        context = daemon._context
        context.artifacts = cast(ArtifactCache, job)
        context.backends = {"local-process": OnEngine(made.platform, capabilities, engine.url)}
        context.process_environment = engine.environment
        yield daemon


async def test_launches_of_one_job_share_one_build_whose_output_is_on_the_first_item(
    made: World, engine: parts.Engine, job: Job, tmp_path: Path
) -> None:
    made.behave("p", Behavior(seconds=0.05, output=b"the job itself\n"))
    write(job.folder / "code", "COPY train.sh /work/", "RUN echo a step of $((6 * 7)); sleep 1")
    async with agent(made, engine, job):
        items = [await made.push(**LAUNCH) for _ in range(3)]
        for item in items:
            await made.in_state(item, "FAILED", "FINISHED")
        changed: dict[str, Any] = {**LAUNCH, "overrides": {"entry_point": ["sh"], "args": ["-c"]}}
        later = await made.push(**changed)
        await made.in_state(later, "FAILED", "FINISHED")
    images = {request.image for request in made.platform.started}
    assert len(images) == 1
    (image,) = images
    assert image
    assert image.startswith("launchbay/train-it:")
    assert await run_in(engine, image, "sh", "train.sh") == f"trained {tmp_path}\n"
    assert {tuple(request.command) for request in made.platform.started} == {("sh", "train.sh"), ("sh", "-c")}
    assert all(request.working_dir is None for request in made.platform.started)
    assert all("WANDB_DOCKER" not in request.environment for request in made.platform.started)
    logs = [await made.output(item) for item in (*items, later)]
    assert sum(b"a step of 42" in log for log in logs) == 1
    assert all(log.endswith(b"the job itself\n") for log in logs)
    assert nothing_left(made)


async def test_a_built_image_runs_in_a_container_where_the_code_is(
    engine: parts.Engine, job: Job, tmp_path: Path
) -> None:
    async with world(tmp_path / "containers", CONTAINERS) as made:
        backend = load(CONTAINERS)(tmp_path / "state", "test", {"engine": engine.url})
        made.config["backends"] = {CONTAINERS: {"engine": engine.url}}
        nowhere = {"PATH": os.environ["PATH"], "DOCKER_CONFIG": str(tmp_path)}
        given: dict[str, Any] = {"resources": [CONTAINERS], "builder": {"type": "docker"}}
        try:
            async with made.agent(**given, backends={CONTAINERS: backend}) as daemon:
                context = daemon._context
                context.artifacts = cast(ArtifactCache, job)
                context.process_environment = nowhere  # only the block says where the engine is
                item = await made.push(**LAUNCH, resource=CONTAINERS)
                ended = await made.in_state(item, "FAILED", "FINISHED")
                assert ended["exitCode"] == 0
                assert (await made.output(item)).endswith(f"trained {tmp_path}\n".encode())
        finally:
            await backend.close()
            gc.collect()  # the docker package leaves sockets to it, which it would find in a test of something else


async def test_what_is_built_is_seen_while_it_is_built_and_a_stop_ends_it(
    made: World, engine: parts.Engine, job: Job
) -> None:
    write(job.folder / "code", "RUN echo a first word; sleep 600")
    async with agent(made, engine, job):
        item = await made.push(**LAUNCH)

        async def said() -> bool:
            return b"a first word" in await made.output(item)

        await until(said, "the build is heard")
        assert "building the image launchbay/train-it:" in (await made.item(item))["waitingReason"]
        await made.stop(item)
        await made.in_state(item, "STOPPED")
    assert made.platform.started == []
    assert nothing_left(made)


async def test_a_failing_build_fails_the_item_with_its_step_and_its_log(
    made: World, engine: parts.Engine, job: Job
) -> None:
    write(job.folder / "code", "RUN echo out of coffee; exit 3")
    async with agent(made, engine, job):
        item = await made.push(**LAUNCH)
        error = (await made.in_state(item, "FAILED"))["error"]
        log = await made.output(item)
    assert "failed at step '[2/3] RUN echo out of coffee; exit 3'" in error["message"]
    assert log.count(b"#0 building with") == 1
    assert b"out of coffee\n" in log
    assert made.platform.started == []
    assert nothing_left(made)


async def test_a_build_that_was_cut_short_is_made_again_and_no_output_is_lost(
    made: World, engine: parts.Engine, job: Job
) -> None:
    made.behave("p", Behavior(seconds=0.05, output=b"the job itself\n"))
    write(job.folder / "code", "RUN echo a first word; sleep 1")
    async with agent(made, engine, job):
        item = await made.push(**LAUNCH)

        async def said() -> bool:
            return b"a first word" in await made.output(item)

        await until(said, "the build is heard")
        made.left.cancel()
        await asyncio.wait([made.left])
    before = await made.output(item)
    async with agent(made, engine, job):
        await made.in_state(item, "FAILED", "FINISHED")
    after = await made.output(item)
    assert after.startswith(before)
    assert after[len(before) :].startswith(b"#0 building with")
    assert after.endswith(b"the job itself\n")
    assert nothing_left(made)


async def test_an_image_goes_to_its_registry_and_comes_back_from_there(
    made: World, engine: parts.Engine, job: Job, private_registry: str, tmp_path: Path
) -> None:
    (job.folder / "code" / "Dockerfile.wandb").unlink()
    (job.folder / "code" / "own").write_text("FROM scratch\nCOPY . /\n")
    job.describe(dockerfile="own")
    (tmp_path / "password").write_text(parts.PASSWORD)
    builder: dict[str, Any] = {"type": "docker", "destination": f"{private_registry}/team/jobs", "user": parts.USER}
    builder["password_file"] = str(tmp_path / "password")
    for state in ("one", "another"):
        async with agent(made, engine, job, builder=builder, state=state) as daemon:
            await made.in_state(await made.push(**LAUNCH), "FAILED", "FINISHED")
            await made.goodbye(daemon)
        await asyncio.to_thread(forget_images, engine, f"{private_registry}/team/jobs")
    first, second = (request.image for request in made.platform.started)
    assert first == second
    assert first
    assert first.startswith(f"{private_registry}/team/jobs:")
    assert "@sha256:" in first
    logs = [await made.output(request.labels["item"]) for request in made.platform.started]
    assert [b"COPY" in log for log in logs] == [True, False]
    assert not any(parts.PASSWORD.encode() in log for log in logs)
    with pytest.raises(Exception, match=r"no basic auth|unauthorized"):
        await asyncio.to_thread(pull, engine, first)


@pytest.mark.skipif(shutil.which("buildkitd") is None, reason="not installed: buildkitd")
async def test_steps_that_were_kept_in_the_registry_are_not_run_by_a_builder_that_is_new(
    made: World, engine: parts.Engine, job: Job, private_registry: str, tmp_path: Path
) -> None:
    repository = f"{private_registry}/team/jobs"
    base = f"{private_registry}/team/base:1"
    await asyncio.to_thread(push, engine, parts.SHELL, base)
    (tmp_path / "password").write_text(parts.PASSWORD)
    builder = {"type": "docker", "destination": repository, "user": parts.USER, "cache": "registry"}
    builder["password_file"] = str(tmp_path / "password")
    slow = "RUN cat /proc/sys/kernel/random/uuid > /stamp"
    stamps: list[str] = []
    for name, last in (("one", "WORKDIR /one"), ("another", "COPY train.sh /another/")):
        (job.folder / "code" / "Dockerfile.wandb").write_text(f"FROM {base}\n{slow}\n{last}\n")
        with parts.buildkit(name, engine.environment):
            given = {**builder, "buildx_instance": name}
            async with agent(made, engine, job, builder=given, state=name) as daemon:
                await made.in_state(await made.push(**LAUNCH), "FAILED", "FINISHED")
                await made.goodbye(daemon)
        image = made.platform.started[-1].image or ""
        assert image.startswith(f"{repository}:")
        await asyncio.to_thread(pull, engine, image, {"username": parts.USER, "password": parts.PASSWORD})
        stamps.append(await run_in(engine, image, "cat", "/stamp"))
    assert stamps[0] == stamps[1]
    first, second = (request.image for request in made.platform.started)
    assert first != second


@pytest.mark.parametrize(
    ("builder", "words"),
    [
        ({}, "has no block `builder`"),
        ({"type": "noop"}, "Attempted build with noop builder"),
    ],
)
async def test_a_dockerfile_where_nobody_builds_is_a_clear_failure(
    made: World, job: Job, builder: dict[str, Any], words: str, tmp_path: Path
) -> None:
    nowhere = parts.Engine("unix:///nowhere", tmp_path)
    async with agent(made, nowhere, job, builder=builder):
        changed: dict[str, Any] = {**LAUNCH, "overrides": {"dockerfile": "Dockerfile.wandb"}}
        item = await made.push(**changed)
        error = (await made.in_state(item, "FAILED"))["error"]
    assert words in error["message"]


@pytest.mark.parametrize(
    ("builder", "words"),
    [
        pytest.param({}, "has no block `builder`", id="nobody builds"),
        pytest.param({"type": "docker"}, "`builder.destination`", id="the image would stay here"),
    ],
)
@pytest.mark.parametrize("base_image", [None, parts.SHELL])
async def test_code_that_can_only_come_in_an_image_is_not_left_behind(
    made: World, job: Job, builder: dict[str, Any], words: str, base_image: str | None, tmp_path: Path
) -> None:
    nowhere, far = parts.Engine("unix:///nowhere", tmp_path), Capabilities(runs_images=True, needs_image=True)
    job.describe(**({"base_image": base_image} if base_image else {}))
    async with agent(made, nowhere, job, far, builder=builder):
        error = (await made.in_state(await made.push(**LAUNCH), "FAILED"))["error"]
    assert words in error["message"]
    assert not made.platform.started


async def test_the_base_images_of_a_dockerfile_are_under_the_policy(made: World, job: Job, tmp_path: Path) -> None:
    nowhere = parts.Engine("unix:///nowhere", tmp_path)
    (job.folder / "code" / "Dockerfile.wandb").write_text("FROM registry.test/ok\nCOPY --from=evil.test/x / /\n")
    async with agent(made, nowhere, job, policy={"images": ["registry.test/*"]}):
        message = (await made.in_state(await made.push(**LAUNCH), "FAILED"))["error"]["message"]
    assert "Refused by `policy.images`" in message
    assert "'evil.test/x'" in message


async def test_an_engine_that_is_away_is_waited_for(
    made: World, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.building.engine.AGAIN_SECONDS", 0.05)
    is_away = True

    async def has_image(_: object, image: str) -> bool:
        if is_away:
            raise BackendUnavailable("The container engine cannot be reached.")
        return bool(image)

    monkeypatch.setattr(OnEngine, "has_image", has_image)
    async with agent(made, parts.Engine("unix:///nowhere", tmp_path), job):
        item = await made.push(**LAUNCH)

        async def waits() -> bool:
            return "waiting: The container engine" in ((await made.item(item))["waitingReason"] or "")

        await until(waits, "it is told what the launch waits for")
        is_away = False
        await made.in_state(item, "FAILED", "FINISHED")
    assert len(made.platform.started) == 1


async def test_a_queue_that_names_what_runs_needs_no_image_for_the_code(made: World, job: Job, tmp_path: Path) -> None:
    """But one that names the launch's own image, by its macro, does."""
    nowhere = parts.Engine("unix:///nowhere", tmp_path)
    elsewhere = Capabilities(runs_images=True, needs_image=True, image_args=[("Algorithm", "TrainingImage")])
    own = {"algorithm": {"training_image": "registry.test/own:1"}}
    async with agent(made, nowhere, job, elsewhere, builder={}):
        await made.in_state(await made.push(**LAUNCH, resource_args={"local-process": own}), "FAILED", "FINISHED")
        (request,) = made.platform.started
        assert (request.image, request.resource_args) == (None, own)
        macro = {"algorithm": {"training_image": "${image_uri}"}}
        item = await made.in_state(await made.push(**LAUNCH, resource_args={"local-process": macro}), "FAILED")
    assert "which has to be in an image" in item["error"]["message"]
    assert len(made.platform.started) == 1


async def test_backends_that_need_no_image_build_none(made: World, job: Job, tmp_path: Path) -> None:
    nowhere = parts.Engine("unix:///nowhere", tmp_path)
    async with agent(made, nowhere, job, Capabilities(runs_locally=True)):
        await made.in_state(await made.push(**LAUNCH), "FAILED", "FINISHED")
    assert [request.image for request in made.platform.started] == [None]


# --- helpers ---------------------------------------------------------------------------------------------------------


def nothing_left(made: World) -> bool:
    """Whether no folder of any launch is left."""
    return not list((made.folder / "state" / "work").glob("*"))


def push(engine: parts.Engine, image: str, name: str) -> None:
    """Push an image of an engine to the private registry, under another name."""
    client = engine.client()
    try:
        repository, _, tag = name.rpartition(":")
        client.api.tag(image, repository, tag)
        said = client.api.push(name, auth_config={"username": parts.USER, "password": parts.PASSWORD})
        assert '"error"' not in said, said
    finally:
        client.close()


def pull(engine: parts.Engine, image: str, login: dict[str, str] | None = None) -> None:
    """Pull an image, without a login unless one is given."""
    client = engine.client()
    try:
        client.images.pull(image, auth_config=login)
    finally:
        client.close()


def forget_images(engine: parts.Engine, repository: str) -> None:
    """Remove the images of a repository from an engine."""
    client = engine.client()
    try:
        for image in client.images.list(repository):
            client.images.remove(image.id, force=True)
    finally:
        client.close()
