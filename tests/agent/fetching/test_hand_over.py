"""What a whole agent hands over to a platform that fetches code: no more than it takes, and enough."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from random import Random
from typing import Any, cast

import pytest

from agent.caches.artifacts import ArtifactCache, ArtifactVersion
from agent.caches.manifest import File
from agent.fetching.fetch import fetch, read_order
from agent.launch import Launch
from backends.base import Capabilities, Code, StartRequest
from backends.fake import FakeBackend
from tests.agent.test_resolve import CODE_JOB, JOB, Fetched
from tests.agent.world import World, world
from tests.git_servers import SSHD, Repository, http_server, make_repository, ssh_server

RESOURCE = "kubernetes"
CLUSTER = Capabilities(runs_images=True, needs_image=True, fetches_code=True, makes_services=True)
TOKEN = "a-token-that-nobody-may-see"
POLICY = {"git_http_hosts": ["127.0.0.1"]}


@dataclass
class Listed(Fetched):
    """Gives the manifest of the code, and never the code."""

    sizes: dict[str, int] = field(default_factory=lambda: {"train.py": 1})
    job_files: dict[str, str] = field(default_factory=dict[str, str])

    async def files(self, version: ArtifactVersion, launch: Launch) -> list[File]:
        return [File(name, PurePosixPath(name), size, "") for name, size in self.sizes.items()]

    async def fetch(self, version: ArtifactVersion, launch: Launch) -> Path:
        assert version.id == "job", "the code is not for the agent"
        folder = await super().fetch(version, launch)
        for name, text in self.job_files.items():
            (folder / name).write_text(text)
        return folder


@pytest.fixture(name="made")
async def _made(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path, RESOURCE) as made:
        yield made


async def launched(
    made: World,
    job: Mapping[str, Any],
    changes: Mapping[str, Any] | None = None,
    *,
    own: Mapping[str, str] | None = None,
    sizes: dict[str, int] | None = None,
    job_files: dict[str, str] | None = None,
    capabilities: Capabilities = CLUSTER,
    **config: Any,
) -> StartRequest:
    """Run a launch, and return what the platform was asked for."""
    backends = {RESOURCE: FakeBackend(made.platform, capabilities)}
    async with made.agent(resources=[RESOURCE], backends=backends, **config) as daemon:
        context = daemon._context
        context.process_environment = own or {}
        fetched = Listed(made.folder, dict(job), sizes=sizes or {"train.py": 1}, job_files=job_files or {})
        context.artifacts = cast(ArtifactCache, fetched)
        spec: dict[str, Any] = {
            **JOB,
            "overrides": {},
            "resource": RESOURCE,
            "resource_args": {RESOURCE: {}},
            **(changes or {}),
        }
        before = len(made.platform.started)
        item = await made.in_state(await made.push(**spec), "FAILED", "FINISHED")
        started = made.platform.started[before:]
        assert started, item["error"]["message"]
        return started[0]


def code_of(request: StartRequest) -> Code:
    """Return the code that a platform is asked to fetch."""
    assert request.code
    return request.code


async def test_the_platform_is_told_of_the_artifact_and_the_job_begins_in_its_folder(made: World) -> None:
    job = {**CODE_JOB, "runtime": "3.11.7"}
    request = await launched(made, job, {"overrides": {"working_dir": "src"}}, limits={"file": "1MiB"})
    assert code_of(request).source == {
        "form": 1,
        "artifact": {"id": "code", "digest": ""},
        "subfolder": "src",
        "config": {"limits": {"file": "1MiB"}},
    }
    assert (request.image, request.subfolder, request.working_dir) == ("python:3.11-slim", "src", None)
    assert not code_of(request).has_requirements
    assert (code_of(request).secrets, code_of(request).environment) == ({}, {}), "it has the launch's own key"
    assert request.secrets["WANDB_API_KEY"]


@pytest.mark.parametrize(
    ("sizes", "frozen", "expected"),
    [
        pytest.param({"train.py": 1, "requirements.txt": 1}, "", True, id="requirements"),
        pytest.param({"train.py": 1, "requirements.txt": 0}, "", False, id="empty ones"),
        pytest.param({"train.py": 1, "sub/pyproject.toml": 1}, "", True, id="of the build context"),
        pytest.param({"train.py": 1, "other/requirements.txt": 1}, "", False, id="somewhere else"),
        pytest.param({"train.py": 1}, "a==1\n", True, id="frozen"),
    ],
)
async def test_whether_packages_are_wanted_is_seen_by_the_files_alone(
    made: World, sizes: dict[str, int], frozen: str, *, expected: bool
) -> None:
    job = {**CODE_JOB, "source": {**CODE_JOB["source"], "build_context": "sub"}}
    request = await launched(made, job, sizes=sizes, job_files={"requirements.frozen.txt": frozen})
    assert code_of(request).has_requirements is expected
    assert ("job" in code_of(request).source) is bool(frozen)


@pytest.mark.parametrize(
    ("files", "overrides", "begins_in"),
    [
        pytest.param(["sub/train.py"], {}, "sub", id="its build context"),
        pytest.param(["sub/x.py", "train.py"], {}, "", id="its program is at the top alone"),
        pytest.param(["train.py"], {}, "", id="there is no such folder"),
        pytest.param(["sub/train.py", "src/x"], {"working_dir": "src"}, "src", id="the launch says so"),
    ],
)
async def test_where_a_job_begins_is_seen_by_the_files_alone(
    made: World, files: list[str], overrides: dict[str, Any], begins_in: str
) -> None:
    job = {**CODE_JOB, "source": {**CODE_JOB["source"], "build_context": "sub"}}
    request = await launched(made, job, {"overrides": overrides}, sizes=dict.fromkeys(files, 1))
    assert request.subfolder == begins_in


async def test_nothing_is_fetched_for_what_is_an_image_or_a_command(made: World) -> None:
    image = {"job": None, "docker": {"docker_image": "registry.test/x"}}
    assert (await launched(made, {}, image)).code is None
    command = {"job": None, "uri": "placeholder", "overrides": {"entry_point": ["true"]}}
    assert (await launched(made, {}, command)).code is None


async def test_a_sweeps_scheduler_has_the_client_installed(made: World) -> None:
    command = {
        "job": None,
        "uri": "placeholder-uri-scheduler",
        "overrides": {"entry_point": ["wandb", "scheduler", "x"]},
    }
    code = code_of(await launched(made, {}, command))
    assert code.source == {"form": 1, "packages": "wandb[launch]\n"}
    assert code.has_requirements


async def test_where_packages_come_from_is_handed_over_and_hidden(made: World) -> None:
    own = {
        "UV_INDEX_URL": "https://me:s3cret@index.test",
        "HTTPS_PROXY": "http://proxy.test:3128",
        "HTTP_PROXY": "http://me:s3cret@proxy.test:3128",
        "ALL_PROXY": "http://127.0.0.1:3128",
        "SSL_CERT_FILE": "/etc/own.pem",
        "UV_CACHE_DIR": "/home/agent",
        "AWS_SECRET_ACCESS_KEY": "s3cret",
    }
    code = code_of(await launched(made, CODE_JOB, own=own))
    assert code.environment == {"HTTPS_PROXY": "http://proxy.test:3128"}
    assert code.secrets == {
        "UV_INDEX_URL": "https://me:s3cret@index.test",
        "HTTP_PROXY": "http://me:s3cret@proxy.test:3128",
    }


async def test_what_the_operator_lists_for_jobs_is_hidden_where_they_run(made: World) -> None:
    own = {"HF_TOKEN": "s3cret", "WANDB_PROJECT": "mine", "OTHER": "x"}
    request = await launched(made, CODE_JOB, own=own, job_environment=["HF_TOKEN", "WANDB_PROJECT"])
    assert (request.secrets["HF_TOKEN"], "OTHER" in request.secrets) == ("s3cret", False)
    assert (request.environment["WANDB_PROJECT"], "WANDB_PROJECT" in request.secrets) == ("p", False)


async def test_the_servers_address_is_the_one_for_jobs_and_the_grace_is_the_agents(made: World) -> None:
    request = await launched(made, CODE_JOB, job_base_url="http://server.test", stopped_run_timeout=7)
    assert request.environment["WANDB_BASE_URL"] == "http://server.test"
    assert request.grace_seconds == 7


async def test_services_have_the_launchs_own_values(made: World) -> None:
    services = [{"name": "db", "config": {"kind": "Pod", "metadata": {"name": "db-${run_id}", "x": ["${nobody}"]}}}]
    request = await launched(made, CODE_JOB, {"additional_services": services})
    [service] = request.services
    config = cast("dict[str, Any]", service["config"])
    assert config["metadata"] == {"name": f"db-{request.environment['WANDB_RUN_ID']}", "x": ["${nobody}"]}


async def test_services_of_a_wrong_form_are_told(made: World) -> None:
    with pytest.raises(AssertionError, match="must be a list of objects"):
        await launched(made, CODE_JOB, {"additional_services": {"config": {}}})


async def test_code_that_is_built_into_an_image_must_have_somewhere_to_go(made: World, tmp_path: Path) -> None:
    class Here(Listed):
        async def fetch(self, version: ArtifactVersion, launch: Launch) -> Path:
            return await Fetched.fetch(self, version, launch)

    backends = {RESOURCE: FakeBackend(made.platform, CLUSTER)}
    async with made.agent(resources=[RESOURCE], backends=backends, builder={"type": "docker"}) as daemon:
        daemon._context.artifacts = cast(ArtifactCache, Here(tmp_path, dict(CODE_JOB)))
        spec: dict[str, Any] = {**JOB, "overrides": {}, "resource": RESOURCE, "resource_args": {RESOURCE: {}}}
        item = await made.in_state(await made.push(**spec), "FAILED", "FINISHED")
    assert "can set `builder.destination`" in item["error"]["message"]


# --- git --------------------------------------------------------------------------------------------------------------


def git_job(remote: str, commit: str | None) -> dict[str, Any]:
    """Return a job from git."""
    source = {"git": {"remote": remote, "commit": commit}, "entrypoint": ["python", "train.py"]}
    return {"source_type": "repo", "source": source}


async def fetched_by(request: StartRequest, folder: Path) -> dict[str, str]:
    """Do as the platform does, with what it was given; returns the files."""
    code, home = code_of(request), folder / "home"
    folder.mkdir()
    home.mkdir()
    environment = {
        **request.environment,
        **request.secrets,
        **code.environment,
        **code.secrets,
        "LAUNCHBAY_CODE": json.dumps(code.source),
        "PATH": os.environ["PATH"],
    }
    await fetch(read_order(folder, home, environment, Random(1)))
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


@pytest.fixture(name="repository")
async def _repository(tmp_path: Path) -> AsyncIterator[tuple[Repository, str]]:
    async with http_server(tmp_path / "served") as server:
        server.password = TOKEN
        yield make_repository(tmp_path / "served", "code"), f"{server.url}/code"


async def test_a_branch_is_looked_up_here_and_fetched_there_with_the_hosts_token(
    made: World, repository: tuple[Repository, str], tmp_path: Path
) -> None:
    place, remote = repository
    commit = place.commit({"train.py": "1"})
    (tmp_path / "token").write_text(TOKEN)
    hosts = {"127.0.0.1": {"token_file": str(tmp_path / "token")}, "other.test": {"token_env": "NOT_SET"}}
    request = await launched(made, git_job(remote, "main"), git={"hosts": hosts}, policy=POLICY)
    code = code_of(request)
    assert code.source["git"] == {"remote": remote, "commit": commit}
    assert code.has_requirements, "only the commit itself tells"
    assert code.secrets == {"LAUNCHBAY_GIT_TOKEN_0": TOKEN}
    assert TOKEN not in json.dumps(code.source)
    assert (request.environment["WANDB_GIT_COMMIT"], request.environment["WANDB_GIT_REMOTE_URL"]) == (commit, remote)
    assert TOKEN not in str((request.environment, request.secrets)), "the job itself has no business with it"
    place.commit({"train.py": "2"})
    assert await fetched_by(request, tmp_path / "code") == {"train.py": "1"}


async def test_a_commit_by_its_full_hash_needs_no_network_here(
    made: World, repository: tuple[Repository, str], tmp_path: Path
) -> None:
    place, remote = repository
    commit = place.commit({"train.py": "1"})
    whole = remote.replace("http://", f"http://git:{TOKEN}@")
    place.served.rename(tmp_path / "away")
    request = await launched(made, git_job(whole, commit), policy=POLICY)
    (tmp_path / "away").rename(place.served)
    code = code_of(request)
    assert code.secrets == {"LAUNCHBAY_GIT_REMOTE": whole}
    assert TOKEN not in json.dumps(code.source)
    assert await fetched_by(request, tmp_path / "code") == {"train.py": "1"}


@pytest.mark.skipif(SSHD is None, reason="there is no sshd")
async def test_an_ssh_key_and_the_keys_of_hosts_are_handed_over(made: World, tmp_path: Path) -> None:
    (tmp_path / "ssh").mkdir()
    with ssh_server(tmp_path / "ssh") as server:
        place = make_repository(tmp_path / "ssh" / "served", "code")
        commit = place.commit({"train.py": "1"})
        hosts = {"127.0.0.1": {"key_file": str(server.key_file)}}
        git = {"hosts": hosts, "known_hosts": str(server.known_hosts)}
        request = await launched(made, git_job(f"{server.url}{place.served}", commit), git=git)
        code = code_of(request)
        assert set(code.secrets) == {"LAUNCHBAY_GIT_KEY_0"}
        for file in (server.key_file, server.known_hosts):
            await asyncio.to_thread(file.rename, file.with_suffix(".away"))
        assert await fetched_by(request, tmp_path / "code") == {"train.py": "1"}


@pytest.mark.parametrize(
    ("remote", "spoil", "said"),
    [
        pytest.param("git@git.test:a", "key", "private key {}/key cannot be read", id="key"),
        pytest.param("git@git.test:a", "known_hosts", "more ssh keys than can be handed over", id="hosts"),
        pytest.param("https://git.test/a", "token", "cannot be read from {}/token", id="token"),
    ],
)
async def test_what_cannot_be_handed_over_is_told_before_anything_starts(
    made: World, tmp_path: Path, remote: str, spoil: str, said: str
) -> None:
    for name in ("key", "known_hosts", "token"):
        (tmp_path / name).write_text("x" * (70_000 if spoil == name else 1))
    if spoil != "known_hosts":
        (tmp_path / spoil).unlink()
    host = {"key_file": str(tmp_path / "key"), "token_file": str(tmp_path / "token")}
    git = {"hosts": {"git.test": host}, "known_hosts": str(tmp_path / "known_hosts")}
    with pytest.raises(AssertionError, match=said.format(tmp_path)):
        await launched(made, git_job(remote, "1" * 40), git=git)


async def test_with_submodules_every_hosts_token_may_be_needed(
    made: World, repository: tuple[Repository, str], tmp_path: Path
) -> None:
    place, remote = repository
    commit = place.commit({"train.py": "1"})
    hosts = {name: {"token_env": "GIT_TOKEN"} for name in ("127.0.0.1", "other.test")}
    own = {"GIT_TOKEN": TOKEN}
    alone = await launched(made, git_job(remote, commit), git={"hosts": hosts}, policy=POLICY, own=own)
    assert len(code_of(alone).secrets) == 1
    git = {"hosts": hosts, "submodules": True}
    both = await launched(made, git_job(remote, commit), git=git, policy=POLICY, own=own)
    assert len(code_of(both).secrets) == 2
    assert await fetched_by(both, tmp_path / "code") == {"train.py": "1"}


async def test_a_patch_and_what_was_frozen_are_of_the_job(made: World, repository: tuple[Repository, str]) -> None:
    place, remote = repository
    commit = place.commit({"train.py": "1"})
    for name in ("diff.patch", "requirements.frozen.txt"):
        request = await launched(made, git_job(remote, commit), policy=POLICY, job_files={name: "x"})
        assert code_of(request).source["job"] == {"id": "job", "digest": ""}
        (made.folder / "job" / name).unlink()
