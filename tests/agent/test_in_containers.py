"""What a container is given: an image, code, an environment, GPUs, and every override; and no more than that."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from agent.admission.inventory import NVIDIA_VARIABLE, Gpu, Inventory
from agent.caches.artifacts import ArtifactCache
from agent.caches.image_environments import ENVIRONMENT_LABEL, ImageEnvironment, ImageEnvironments, Place
from agent.launch import Launch
from agent.requirements import Requirements
from backends.base import Capabilities, Handle, Phase, StartRequest
from backends.fake import Behavior, FakeBackend
from protocol.json_types import JsonObject
from tests.agent.test_resolve import CODE_JOB, IMAGE_JOB, JOB, Fetched
from tests.agent.world import World, until, world

RESOURCE = "local-container"
CONTAINERS = Capabilities(runs_locally=True, runs_images=True, needs_image=True)
BOX = Inventory(cpus=8, memory=2**33)
IMAGE = {"uri": None, "docker": {"docker_image": "registry.test/train:v1"}, "overrides": {}}


class FakeContainers(FakeBackend):
    """Containers on the fake platform."""

    async def fetch_image(self, image: str, resource_args: JsonObject, tell: Callable[[str], None]) -> str:
        return f"sha256:{image}"


@dataclass
class Installed:
    """In the cache's place: notes what is wanted, and has it."""

    wanted: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    making: set[str] = field(default_factory=set[str])

    async def ensure(self, place: Place, requirements: Requirements, launch: Launch, tell: Any) -> ImageEnvironment:
        self.wanted.append((place.image, requirements.file.read_text()))
        return ImageEnvironment((Path("/state/environment"),), {"PATH": "/state/environment/bin:/image/bin"})

    def is_making(self, name: str) -> bool:
        return name in self.making


@dataclass
class Ended:
    """How a launch went."""

    request: StartRequest | None
    said: str
    installed: list[tuple[str, str]]

    @property
    def started(self) -> StartRequest:
        assert self.request, self.said
        return self.request


@pytest.fixture(name="made")
async def _made(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path, RESOURCE) as made:
        yield made


async def launched(
    made: World,
    changes: Mapping[str, Any] | None = None,
    *,
    job: Mapping[str, Any] | None = None,
    files: Mapping[str, str] | None = None,
    args: Mapping[str, Any] | None = None,
    inventory: Inventory | None = None,
    own: Mapping[str, str] | None = None,
    **config: Any,
) -> Ended:
    """Run a launch in a container, and say what the container was given."""
    installed = Installed()
    backends = {RESOURCE: FakeContainers(made.platform, CONTAINERS)}
    serving = made.agent(resources=[RESOURCE], backends=backends, inventory=inventory or BOX, **config)
    async with serving as daemon:
        context = daemon._context
        context.image_environments = cast(ImageEnvironments, installed)
        context.process_environment = own or {}
        if job is not None:
            code = made.folder / "code"
            for name, text in (files or {}).items():
                await asyncio.to_thread(code.joinpath(name).parent.mkdir, parents=True, exist_ok=True)
                await asyncio.to_thread(code.joinpath(name).write_text, text)
            context.artifacts = cast(ArtifactCache, Fetched(made.folder, dict(job)))
        spec = dict[str, Any](resource=RESOURCE, resource_args={RESOURCE: dict(args or {})})
        if job is not None:
            spec.update(JOB, overrides={})
        before = len(made.platform.started)
        spec.update(changes or {})
        item = await made.in_state(await made.push(**spec), "FAILED", "FINISHED")
        started = made.platform.started[before:]
        return Ended(started[0] if started else None, (item["error"] or {}).get("message", ""), installed.wanted)


async def test_code_is_put_into_a_base_image_with_its_environment(made: World) -> None:
    job = {**CODE_JOB, "runtime": "3.11.7"}
    ended = await launched(made, job=job, files={"train.py": "", "requirements.txt": "numpy\n"})
    request = ended.started
    assert request.image == "python:3.11-slim"
    assert (request.command, request.args) == (("python", "train.py"), ())
    assert request.command_yields
    assert request.working_dir == made.folder / "state" / "work" / request.name
    assert request.folders == (Path("/state/environment"),)
    assert request.environment["PATH"] == "/state/environment/bin:/image/bin"
    assert ended.installed == [("python:3.11-slim", "numpy\n")]
    assert "WANDB_DOCKER" not in request.environment, "which is for jobs that are images"


async def test_the_image_is_the_jobs_own_or_the_queues_or_the_agents(made: World) -> None:
    agents: dict[str, Any] = {"builder": {"type": "noop", "base_image": "of/agent"}}
    queues = {"builder": {"base_image": "of/queue", "accelerator": {"base_image": "of/gpus"}}}
    own = {**CODE_JOB, "source": {**CODE_JOB["source"], "base_image": "of/job"}}
    for job, args, config, image in (
        (own, queues, agents, "of/job"),
        (CODE_JOB, queues, agents, "of/queue"),
        (CODE_JOB, {"builder": {"accelerator": {"base_image": "of/gpus"}}}, agents, "of/gpus"),
        (CODE_JOB, {"builder": {"cuda": {"base_image": "of/cuda"}}}, agents, "of/cuda"),
        (CODE_JOB, {"builder": {}, "cpus": 0}, agents, "of/agent"),
        (CODE_JOB, {}, {}, "python:3.12-slim"),
    ):
        request = (await launched(made, job=job, args={**args, "label": "image=${image_uri}"}, **config)).started
        assert request.image == image
        assert request.resource_args["label"] == f"image={image}"
        assert "builder" not in request.resource_args
    for builder, said in (
        ({"base_image": ["x"]}, "The resource arg `builder.base_image` is ['x']; it must be the name of an image."),
        ({"cuda": "x"}, "The resource arg `builder.cuda` is 'x'; it must be an object."),
        ("x", "The resource arg `builder` is 'x'; it must be an object."),
    ):
        assert said in (await launched(made, job=CODE_JOB, args={"builder": builder})).said


async def test_a_base_image_must_be_allowed_like_any_other(made: World) -> None:
    ended = await launched(made, job=CODE_JOB, policy={"images": ["good.test/*"]})
    assert "Refused by `policy.images`: the launch asks for the image 'python:3.12-slim'" in ended.said
    ended = await launched(
        made, job=CODE_JOB, builder={"base_image": "good.test/x"}, policy={"images": ["good.test/*"]}
    )
    assert ended.started.image == "good.test/x"


async def test_an_image_runs_as_it_is(made: World) -> None:
    request = (await launched(made, {**IMAGE, "overrides": {"args": ["--fast"]}})).started
    assert (request.image, request.command, request.args) == ("registry.test/train:v1", (), ("--fast",))
    assert (request.working_dir, request.folders) == (None, ())
    assert request.environment["WANDB_DOCKER"] == "registry.test/train:v1"
    own = {**IMAGE_JOB, "source": {**IMAGE_JOB["source"], "entrypoint": ["run"]}}
    request = (await launched(made, {"overrides": {"args": ["-x"]}}, job=own)).started
    assert (request.image, request.command, request.args) == ("evil.test/x", ("run", "-x"), ("-x",))


@pytest.mark.parametrize(
    ("program", "overrides", "begins_in"),
    [
        ("train.py", {}, "src/deep"),
        ("src/deep/train.py", {}, ""),
        ("train.py", {"entry_point": ["python3", "src/deep/train.py"]}, ""),
        ("train.py", {"working_dir": "src"}, "src"),
        ("pkg.train", {}, "src/deep"),
    ],
)
async def test_the_entry_point_counts_from_the_build_context(
    made: World, program: str, overrides: dict[str, Any], begins_in: str
) -> None:
    job = {**CODE_JOB, "source": {**CODE_JOB["source"], "build_context": "src/deep", "entrypoint": ["python", program]}}
    files = {"src/deep/train.py": "", "train.py": ""}
    request = (await launched(made, {"overrides": overrides}, job=job, files=files)).started
    assert request.subfolder == begins_in


async def test_every_override_is_honored(made: World) -> None:
    overrides = {
        "entry_point": ["python3", "other.py"],
        "args": ["--lr", "0.1 or so"],
        "run_config": {"lr": 0.1},
        "artifacts": {"data": {"_version": "v0"}},
        "files": {"cfg.yaml": {"layers": 4}},
        "working_dir": "src/deep",
    }
    files = {"src/deep/other.py": ""}
    request = (await launched(made, {"overrides": overrides}, job=CODE_JOB, files=files)).started
    assert request.command == ("python3", "other.py", "--lr", "0.1 or so")
    assert request.args == ("--lr", "0.1 or so")
    assert not request.command_yields
    assert request.subfolder == "src/deep"
    shown = {name: json.loads(request.environment[name]) for name in ("WANDB_CONFIG", "WANDB_LAUNCH_FILE_OVERRIDES")}
    assert shown == {"WANDB_CONFIG": {"lr": 0.1}, "WANDB_LAUNCH_FILE_OVERRIDES": {"cfg.yaml": {"layers": 4}}}
    artifacts = json.loads(request.environment["WANDB_ARTIFACTS"])
    assert artifacts == {"_wandb_job": JOB["job"], "data": {"_version": "v0"}}


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"working_dir": "../other"}, "`overrides.working_dir` is '../other'; it must be a path inside the job's code"),
        ({"working_dir": "/etc"}, "`overrides.working_dir` is '/etc'; it must be a path inside the job's code"),
        ({"working_dir": "nowhere"}, "`overrides.working_dir` is 'nowhere', and the job's code has no such folder"),
        ({"working_dir": "train.py"}, "`overrides.working_dir` is 'train.py', and the job's code has no such folder"),
        ({"dockerfile": "../Dockerfile"}, "`overrides.dockerfile` is '../Dockerfile'; it must be a path inside"),
        ({"args": "--fast"}, "`overrides.args` is '--fast'; it must be a list of strings"),
        ({"args": ["--n", 1]}, "`overrides.args` is ['--n', 1]; it must be a list of strings"),
        ({"entry_point": "python x"}, "`overrides.entry_point` is 'python x'; it must be a list of strings"),
        ({"files": ["cfg.yaml"]}, "`overrides.files` is ['cfg.yaml']; it must be an object"),
        ({"run_config": "lr: 1"}, "`overrides.run_config` is 'lr: 1'; it must be an object"),
    ],
)
async def test_an_override_that_makes_no_sense_is_one_clear_error(
    made: World, overrides: dict[str, Any], said: str
) -> None:
    ended = await launched(made, {"overrides": overrides}, job=CODE_JOB, files={"train.py": ""})
    assert said in ended.said
    assert ended.request is None
    assert not list((made.folder / "state" / "work").glob("*")), "nothing is left"


async def test_a_link_is_no_way_out_of_the_code(made: World) -> None:
    (made.folder / "code").mkdir()
    (made.folder / "code" / "out").symlink_to("/")
    ended = await launched(made, {"overrides": {"working_dir": "out"}}, job=CODE_JOB)
    assert ended.request is None


async def test_of_the_agents_variables_a_container_sees_those_that_are_listed(made: World) -> None:
    own = {"HOME": "/root", "PATH": "/agent/bin", "AWS_SECRET": "s", "PROXY": "p", "LC_ALL": "C"}
    request = (await launched(made, IMAGE, own=own, job_environment=["PROXY"])).started
    assert {name for name in request.environment if name in own} == {"PROXY"}
    assert request.environment["PYTHONUNBUFFERED"] == "1"


async def test_gpus_are_given_by_identity_and_counted_as_docker_spells_them(made: World) -> None:
    box = Inventory((Gpu("GPU-a", 0), Gpu("GPU-b", 1)), 8, 2**33, NVIDIA_VARIABLE)
    for gpus, given in (("all", ("GPU-a", "GPU-b")), ("device=1", ("GPU-b",)), (1, ("GPU-a",)), (None, ())):
        args = {} if gpus is None else {"--gpus": gpus, "m": "1g"}
        request = (await launched(made, IMAGE, args=args, inventory=box)).started
        assert (request.gpus, request.cpus, request.memory) == (given, 0, 0 if gpus is None else 2**30)
        assert NVIDIA_VARIABLE not in request.environment, "its engine shows it these alone"
        assert request.environment.get("NVIDIA_VISIBLE_DEVICES") == (None if given else "void")
        assert request.labels["gpus"] == ",".join(given)
    ended = await launched(made, IMAGE, args={"memory": "9g"}, inventory=box)
    assert "asks for 9 GiB of memory" in ended.said
    request = (await launched(made, IMAGE, args={"gpus": "all"}, slots={"gpus": "none"})).started
    assert request.resource_args["gpus"] == "all", "where the agent gives none, the engine does"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"volume": "/etc:/x"}, "Refused by `policy.host_paths`"),
        ({"privileged": True}, "Refused by `policy.privileged`"),
        ({"volum": "/etc:/x"}, "The resource arg 'volum' is not known. Did you mean 'volume'?"),
        ({"memory": "12 parrots"}, "The resource arg 'memory' is '12 parrots'; it must be a size"),
    ],
)
async def test_what_a_container_may_not_have_reaches_no_platform(made: World, args: dict[str, Any], said: str) -> None:
    ended = await launched(made, IMAGE, args=args)
    assert said in ended.said
    assert ended.request is None


async def test_a_scheduler_in_a_container_gets_the_client(made: World) -> None:
    scheduler = {"uri": "placeholder-uri-scheduler", "overrides": {"entry_point": ["wandb", "scheduler", "s"]}}
    ended = await launched(made, scheduler)
    assert ended.installed == [("python:3.12-slim", "wandb[launch]\n")]


async def test_an_installation_that_somebody_waits_for_is_not_put_down(made: World) -> None:
    """One that nobody waits for is what a crash has left, and goes."""
    made.behave("", Behavior())
    for name in ("awaited", "left"):
        labels = {"owner": "owner", "project": "", ENVIRONMENT_LABEL: name}
        made.platform.start(StartRequest(name, [], {}, labels=labels))
    backends = {RESOURCE: FakeContainers(made.platform, CONTAINERS)}
    async with made.agent(resources=[RESOURCE], backends=backends) as daemon:
        daemon._context.image_environments = cast(ImageEnvironments, Installed(making={"awaited"}))

        async def is_gone() -> bool:
            return Handle("left") not in made.platform.snapshot()

        await until(is_gone, "the one that is left is removed")
    assert made.platform.snapshot()[Handle("awaited")].phase is Phase.RUNNING


async def test_a_process_gets_its_overrides_too(tmp_path: Path) -> None:
    overrides = {
        "working_dir": "src",
        "entry_point": ["python3", "x.py"],
        "args": ["-v"],
        "files": {"a.yaml": {"b": 1}},
    }
    async with world(tmp_path) as made, made.agent() as daemon:
        (tmp_path / "code" / "src").mkdir(parents=True)
        daemon._context.artifacts = cast(ArtifactCache, Fetched(tmp_path, CODE_JOB))
        await made.in_state(await made.push(**JOB, overrides=overrides), "FAILED")
        (request,) = made.platform.started
        assert (request.subfolder, request.command) == ("src", ("python3", "x.py", "-v"))
        assert json.loads(request.environment["WANDB_LAUNCH_FILE_OVERRIDES"]) == {"a.yaml": {"b": 1}}
        assert request.image is None
        for path in ("..", "nowhere"):
            item_id = await made.push(**JOB, overrides={**overrides, "working_dir": path})
            item = await made.in_state(item_id, "FAILED")
            assert f"`overrides.working_dir` is '{path}'" in item["error"]["message"]
    assert len(made.platform.started) == 1
