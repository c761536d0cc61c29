"""The local-container backend keeps the contract, on Docker and on Podman, and what only containers can do wrong."""

import asyncio
import gc
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest

from backends.base import Backend, BackendError, BackendUnavailable, Handle, Observation, Phase, StartRequest
from backends.local_container.backend import LocalContainerBackend
from backends.local_container.engine import DockerEngine
from backends.local_container.options import Machine, plan
from backends.testing.contract import (
    LIMIT_SECONDS,
    BackendContract,
    Harness,
    end_of,
    listen,
    observed,
    output_of,
    printed,
)
from backends.testing.shell import ShellHarness, sh
from tests import engines
from tests.engines import IMAGE, Engine, Registry

# The docker package leaves the sockets of failed connections to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@pytest.fixture(scope="module", autouse=True)
def collected() -> Iterator[None]:
    """Have them collected here, and not in the midst of somebody else's test."""
    yield
    gc.collect()


@pytest.fixture(scope="session")
def docker_engine() -> Iterator[Engine]:
    if why := engines.missing(["dockerd", "containerd", "docker-init"]):
        pytest.skip(f"no Docker Engine here: {why}; on Debian, apt-get install docker.io busybox-static")
    with engines.running_docker() as engine:
        yield engine


@pytest.fixture(scope="session")
def podman_engine() -> Iterator[Engine]:
    if why := engines.missing(["podman", "catatonit"]):
        pytest.skip(f"no Podman here: {why}; on Debian, apt-get install podman catatonit busybox-static")
    with engines.running_podman() as engine:
        yield engine


class ContainerHarness(ShellHarness):
    """Launches in an engine of the tests' own."""

    exact_environment: ClassVar[bool] = False
    code_folder: ClassVar[str | None] = "/mnt/wandb"
    many: ClassVar[int] = 8

    def __init__(self, engine: Engine, state_dir: Path) -> None:
        super().__init__("local-container", state_dir, {"engine": engine.url})
        self.engine = engine

    def complete(self, request: StartRequest) -> StartRequest:
        # Podman would give more than this machine's own limits, which takes a right that root need not have.
        limits = {"ulimit": ["nofile=1024", "nproc=1024"]} if self.engine.is_podman else {}
        return replace(request, image=IMAGE, resource_args={"network": "none", **limits})

    def in_plain_sight(self) -> bytes:
        with self.engine.client() as client:
            return super().in_plain_sight() + repr(client.containers(all=True)).encode()


@pytest.fixture
def harness(docker_engine: Engine, tmp_path: Path) -> ContainerHarness:
    return ContainerHarness(docker_engine, tmp_path / "state")


@pytest.fixture
async def backend(harness: ContainerHarness) -> AsyncGenerator[Backend]:
    backend = harness.open()
    yield backend
    await backend.close()
    rest = harness.open()
    for handle in await rest.observe():
        await rest.stop(handle, 0)
        await end_of(rest, handle)
        await rest.cleanup(handle)
    await rest.close()


class TestOnDocker(BackendContract):
    """Uses the module's fixture `harness`."""


class TestOnPodman(BackendContract):
    @pytest.fixture
    def harness(self, podman_engine: Engine, tmp_path: Path) -> ContainerHarness:
        return ContainerHarness(podman_engine, tmp_path / "state")

    async def test_missing_program_is_a_failed_launch(self, harness: Harness, backend: Backend) -> None:
        """Podman's init ends with 1, and its words are in the output alone."""
        handle = await backend.start(harness.complete(StartRequest("launch-1", harness.missing_program(), {})))
        seen = await end_of(backend, handle)
        assert (seen.phase, seen.exit_code) == (Phase.FAILED, 1)
        assert b"failed to exec" in await output_of(backend, handle)


async def launch(
    backend: Backend, harness: ContainerHarness, *steps: str, name: str = "launch-1", **more: Any
) -> Handle:
    """Start a launch that does these steps of a shell; `more` are fields of its request, and resource args."""
    named = StartRequest.__dataclass_fields__.keys() - {"cpus", "memory"}  # which are for processes
    fields = {key: more.pop(key) for key in tuple(more) if key in named}
    request = harness.complete(StartRequest(name, sh(*steps), {}))
    return await backend.start(replace(request, resource_args={**request.resource_args, **more}, **fields))


async def ended(backend: Backend, handle: Handle) -> tuple[Observation, str]:
    """Return how a launch ended, and what it printed."""
    return await end_of(backend, handle), (await output_of(backend, handle)).decode()


def inspected(harness: ContainerHarness, name: str = "launch-1") -> Any:
    with harness.engine.client() as client:
        return client.inspect_container(name)


# --- what a container is given ---------------------------------------------------------------------------------------


async def test_folders_are_where_they_should_be(harness: ContainerHarness, backend: Backend, tmp_path: Path) -> None:
    code, shared = tmp_path / "code: of a job", tmp_path / "environment"
    (code / "src").mkdir(parents=True)
    shared.mkdir()
    (shared / "there").write_text("shared")
    handle = await launch(
        backend,
        harness,
        "pwd; echo made > made",
        f"cat '{shared}/there'",
        f"(echo no > '{shared}/there') 2>&1 | grep -c Read-only",
        working_dir=code,
        subfolder="src",
        folders=[shared],
    )
    seen, output = await ended(backend, handle)
    assert seen.phase is Phase.FINISHED
    assert output == "/mnt/wandb/src\nshared1\n"
    assert (code / "src" / "made").read_text() == "made\n"
    assert (shared / "there").read_text() == "shared"


async def test_image_without_command_runs_its_own_program(harness: ContainerHarness, backend: Backend) -> None:
    with harness.engine.client() as client:
        engines.import_image(client, "localhost/own:latest", ['ENTRYPOINT ["/bin/echo", "own"]', 'CMD ["default"]'])
    for name, args, words in (("launch-1", (), "own default\n"), ("launch-2", ("--x", "1"), "own --x 1\n")):
        handle = await launch(backend, harness, name=name, command=(), args=args, image="localhost/own:latest")
        assert (await ended(backend, handle))[1] == words
    handle = await launch(
        backend, harness, name="launch-3", command=["/bin/echo", "mine"], image="localhost/own:latest"
    )
    assert (await ended(backend, handle))[1] == "mine\n"


async def test_options_take_effect(harness: ContainerHarness, backend: Backend) -> None:
    handle = await launch(
        backend,
        harness,
        "id -u; env | grep QUEUES; hostname; grep -cE '/(scratch|anonymous)' /proc/mounts",
        "touch /x 2>&1 | grep -c Read-only",
        environment={"WANDB_RUN_ID": "real"},
        e=["QUEUES=1", "WANDB_RUN_ID=posing"],
        hostname="h1",
        tmpfs="/scratch",
        volume="/anonymous",
        read_only=True,
        m="64m",
        cpus=0.5,
        rm=True,
        **{"-u": "1234", "shm-size": "1g", "pids-limit": "50"},
    )
    assert (await ended(backend, handle))[1] == "1234\nQUEUES=1\nh1\n2\n1\n"
    found = inspected(harness)
    host = found["HostConfig"]
    assert (host["Memory"], host["NanoCpus"], host["ShmSize"]) == (64 * 2**20, 500_000_000, 2**30)
    assert "WANDB_RUN_ID=real" in found["Config"]["Env"]
    assert "WANDB_RUN_ID=posing" not in found["Config"]["Env"]


async def test_launch_reaches_a_server_on_this_machine(harness: ContainerHarness, backend: Backend) -> None:
    for name, url, network in (
        ("launch-1", "http://localhost:8080", "host"),
        ("launch-2", "https://api.example", "default"),
    ):
        handle = await launch(backend, harness, name=name, environment={"WANDB_BASE_URL": url}, network=None)
        assert inspected(harness, handle)["HostConfig"]["NetworkMode"] == network
        await ended(backend, handle)


async def test_what_the_engine_cannot_give_is_a_failed_launch(harness: ContainerHarness, backend: Backend) -> None:
    handle = await launch(backend, harness, gpus=["GPU-1"])
    seen, _ = await ended(backend, handle)
    assert (seen.phase, seen.reason) == (Phase.FAILED, "start_failed")
    assert "gpu" in seen.message
    assert inspected(harness)["HostConfig"]["DeviceRequests"][0]["DeviceIDs"] == ["GPU-1"]
    again = harness.open()
    assert (await again.observe())[handle].phase is Phase.FAILED
    await again.close()


# --- how it ends -----------------------------------------------------------------------------------------------------


async def test_job_that_needs_too_much_memory(harness: ContainerHarness, backend: Backend) -> None:
    handle = await launch(backend, harness, "exec tail /dev/zero", memory="24m", **{"memory-swap": "24m"})
    seen, _ = await ended(backend, handle)
    assert (seen.phase, seen.exit_code, seen.reason) == (Phase.FAILED, 137, "oom_killed")
    assert "24 MiB" in seen.message


async def test_container_that_somebody_removes_is_gone(harness: ContainerHarness, backend: Backend) -> None:
    handle = await launch(backend, harness, "sleep 1000")
    assert (await backend.observe())[handle].phase is Phase.RUNNING
    async with aclosing(listen(backend)) as hints:
        with harness.engine.client() as client:
            client.remove_container(handle, force=True)
        async with asyncio.timeout(LIMIT_SECONDS):
            async for _ in hints:
                if handle not in await backend.observe():
                    break


async def test_stop_of_a_paused_container(harness: ContainerHarness, backend: Backend) -> None:
    handle = await launch(backend, harness, "sleep 1000")
    with harness.engine.client() as client:
        client.pause(handle)
    seen = await observed(backend, handle, lambda seen: "paused" in seen.message)
    assert seen.phase is Phase.RUNNING
    await backend.stop(handle, 60)
    seen, _ = await ended(backend, handle)
    assert (seen.phase, seen.exit_code) == (Phase.STOPPED, 143)


async def test_created_by_an_agent_that_died_is_started(harness: ContainerHarness, backend: Backend) -> None:
    await _create_only(harness, "launch-1")
    seen, output = await ended(backend, Handle("launch-1"))
    assert (seen.phase, output) == (Phase.FINISHED, "ran\n")
    assert seen.labels == {"item": "i"}


async def test_stop_of_what_was_only_created(harness: ContainerHarness) -> None:
    await _create_only(harness, "launch-1")
    backend = harness.open()
    await backend.stop(Handle("launch-1"), 60)
    seen, output = await ended(backend, Handle("launch-1"))
    assert (seen.phase, output) == (Phase.STOPPED, "")
    await backend.cleanup(Handle("launch-1"))
    await backend.close()


async def _create_only(harness: ContainerHarness, name: str) -> None:
    request = harness.complete(StartRequest(name, sh("echo ran"), {}, labels={"item": "i"}))
    planned = plan(request, Machine(str(harness.state_dir), is_podman=harness.engine.is_podman))
    engine = DockerEngine(harness.engine.url)
    await engine.create(name, planned.config, None)
    await engine.close()


async def test_stop_is_told_after_a_restart_of_the_agent(harness: ContainerHarness, backend: Backend) -> None:
    handle = await launch(backend, harness, "sleep 1000")
    await backend.stop(handle, 60)
    await end_of(backend, handle)
    again = harness.open()
    assert (await again.observe())[handle].phase is Phase.STOPPED
    await again.cleanup(handle)
    await again.close()
    assert list(harness.state_dir.rglob("*.json")) == []


async def test_engine_that_goes_away_and_comes_back(harness: ContainerHarness, backend: Backend) -> None:
    handle = await launch(backend, harness, "echo up; sleep 1000")
    await printed(backend, handle, b"up\n")
    elsewhere = harness.engine.folder / "docker.sock"
    hidden = elsewhere.with_name("hidden")
    elsewhere.rename(hidden)  # a new connection finds nobody
    other = ContainerHarness(harness.engine, harness.state_dir).open()
    try:
        with pytest.raises(BackendUnavailable, match=r"at unix://.*sock cannot be reached: No such file or directory$"):
            await other.observe()
        with pytest.raises(BackendUnavailable, match="cannot be reached"):
            await other.start(harness.complete(StartRequest("launch-2", sh(), {})))
    finally:
        hidden.rename(elsewhere)
    assert (await other.observe())[handle].phase is Phase.RUNNING
    await other.close()


async def test_looking_costs_no_inspects_while_nothing_happens(harness: ContainerHarness, backend: Backend) -> None:
    for number in range(3):
        await launch(backend, harness, "sleep 1000", name=f"launch-{number}")
    await backend.observe()
    calls: list[str] = []
    assert isinstance(backend, LocalContainerBackend)
    engine = backend._engine

    class Counting:
        def __getattr__(self, name: str) -> Any:
            calls.append(name)
            return getattr(engine, name)

    backend._engine = cast("Any", Counting())
    for _ in range(20):
        assert len(await backend.observe()) == 3
    backend._next_listing = 0.0
    assert len(await backend.observe()) == 3
    assert calls == ["containers"]


async def test_name_of_somebody_elses_container_is_refused(harness: ContainerHarness, backend: Backend) -> None:
    with harness.engine.client() as client:
        client.create_container_from_config({"Image": IMAGE, "Cmd": ["sh"]}, "launch-1")
        try:
            with pytest.raises(BackendError, match="not this agent's"):
                await launch(backend, harness)
            assert await backend.observe() == {}
            await backend.stop(Handle("launch-1"), 0)
            assert client.inspect_container("launch-1")["State"]["Status"] == "created"
        finally:
            client.remove_container("launch-1")


# --- images ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def registry() -> Iterator[Registry]:
    if why := engines.missing(["docker-registry"]):
        pytest.skip(f"no registry here: {why}; on Debian, apt-get install docker-registry")
    with engines.running_registry() as registry:
        yield registry


@pytest.fixture(scope="session")
def private_registry(registry: Registry) -> Iterator[Registry]:
    with engines.running_registry(is_private=True) as private:
        yield private


async def test_image_is_pulled_and_its_digest_told(
    harness: ContainerHarness, backend: Backend, registry: Registry
) -> None:
    image = registry.offer(harness.engine, "team/train:v1")
    handle = await launch(backend, harness, "cat /etc/name", image=image)
    assert (await backend.observe())[handle].phase in {Phase.STARTING, Phase.RUNNING}
    seen, output = await ended(backend, handle)
    assert (seen.phase, output) == (Phase.FINISHED, "team/train:v1")
    assert seen.image.startswith(f"{registry.address}/team/train@sha256:")
    again = await launch(
        backend, harness, 'echo "$WANDB_DOCKER"', image=image, name="launch-2", environment={"WANDB_DOCKER": image}
    )
    assert (await ended(backend, again))[1] == f"{seen.image}\n", "and the run is told"
    assert list(harness.state_dir.rglob("*.json")) == []  # its request had secrets in it


@pytest.mark.parametrize(
    ("image", "options", "reason", "words"),
    [
        ("{registry}/nobody/nothing:v1", {}, "image:not_found", "Look at its name and tag"),
        ("{registry}/team/there:v9", {}, "image:not_found", "Look at its name and tag"),
        ("127.0.0.1:{closed}/x:v1", {}, "image:unreachable", "cannot be reached"),
        ("{private}/team/secret:v1", {}, "image:denied", "needs a login"),
        ("{registry}/team/there:v1", {"platform": "linux/arm64"}, "image:wrong_platform", "not built for"),
    ],
)
async def test_pull_that_fails_has_one_cause(
    harness: ContainerHarness,
    backend: Backend,
    registry: Registry,
    private_registry: Registry,
    image: str,
    options: dict[str, str],
    reason: str,
    words: str,
) -> None:
    registry.offer(harness.engine, "team/there:v1")
    private_registry.offer(harness.engine, "team/secret:v1")
    name = image.format(registry=registry.address, private=private_registry.address, closed=engines.free_port())
    handle = await launch(backend, harness, image=name, **options)
    seen, _ = await ended(backend, handle)
    assert (seen.phase, seen.reason) == (Phase.FAILED, reason)
    assert seen.is_platforms_fault == (reason == "image:unreachable")
    assert name in seen.message
    assert words in seen.message
    again = harness.open()
    assert (await again.observe())[handle] == seen
    await again.cleanup(handle)
    assert await again.observe() == {}
    await again.close()


async def test_private_registry_gets_the_operators_password(
    docker_engine: Engine, private_registry: Registry, tmp_path: Path
) -> None:
    password = tmp_path / "password"
    password.write_text(f"{engines.PASSWORD}\n")
    harness = ContainerHarness(docker_engine, tmp_path / "state")
    harness._config = {
        **harness._config,
        "registries": {private_registry.address: {"user": engines.USER, "password_file": str(password)}},
    }
    image = private_registry.offer(docker_engine, "team/secret:v2")
    backend = harness.open()
    handle = await launch(backend, harness, "cat /etc/name", image=image)
    assert (await ended(backend, handle))[1] == "team/secret:v2"
    await backend.cleanup(handle)
    await backend.close()


async def test_stop_while_the_image_is_pulled(harness: ContainerHarness, backend: Backend, registry: Registry) -> None:
    image = registry.offer(harness.engine, "team/slow:v1")
    registry.hang()
    try:
        handles = [await launch(backend, harness, name=f"launch-{n}", image=image) for n in (1, 2)]
        seen = (await backend.observe())[handles[0]]
        assert (seen.phase, seen.message) == (Phase.STARTING, f"pulling {image}")
        await backend.stop(handles[0], 60)
        assert (await backend.observe())[handles[0]].phase is Phase.STOPPED
    finally:
        registry.go_on()
    assert (await end_of(backend, handles[1])).phase is Phase.FINISHED
    assert await backend.start(harness.complete(StartRequest("launch-1", sh(), {}))) == handles[0]
    assert (await backend.observe())[handles[0]].phase is Phase.STOPPED


async def test_restarted_agent_goes_on_pulling(harness: ContainerHarness, backend: Backend, registry: Registry) -> None:
    image = registry.offer(harness.engine, "team/slow:v2")
    registry.hang()
    try:
        handle = await launch(
            backend, harness, "echo $TOKEN", image=image, secrets={"TOKEN": "t"}, labels={"item": "i"}
        )
        (record,) = harness.state_dir.rglob("*.json")
        assert record.stat().st_mode & 0o777 == 0o600
        await backend.close()
        again = harness.open()
        seen = (await again.observe())[handle]
        assert (seen.phase, seen.labels) == (Phase.STARTING, {"item": "i"})
    finally:
        registry.go_on()
    seen, output = await ended(again, handle)
    assert (seen.phase, output, seen.labels) == (Phase.FINISHED, "t\n", {"item": "i"})
    await again.close()


async def test_image_that_is_here_needs_no_registry(harness: ContainerHarness, backend: Backend) -> None:
    image = f"127.0.0.1:{engines.free_port()}/here:v1"
    with harness.engine.client() as client:
        client.tag(IMAGE, image.rpartition(":")[0], "v1")
    handle = await launch(backend, harness, "echo ran", image=image)
    assert (await ended(backend, handle))[1] == "ran\n"
    handle = await launch(backend, harness, "echo ran", image=image, name="launch-2", pull="always")
    assert (await ended(backend, handle))[0].reason == "image:unreachable"


async def test_image_that_may_not_be_pulled_is_refused(harness: ContainerHarness, backend: Backend) -> None:
    with pytest.raises(BackendError, match="not on this machine"):
        await launch(backend, harness, image="localhost/absent:v1", pull="never")
    assert await backend.observe() == {}
