"""`launchbay doctor`: each check finds what is there, and says what to do about what is not."""

import asyncio
import base64
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
from aiohttp import web

from agent.config.model import AgentConfig
from agent.control_plane import ControlPlane
from agent.held import Launches
from agent.observability.health import Health
from agent.observability.metrics import Metrics
from agent.observability.status_app import serving
from backends.local_process.control_groups import ControlGroups, NoControlGroups
from launchbay.commands.doctor import CHECKS
from launchbay.doctor import machine_checks, platform_checks, server_checks
from launchbay.doctor.checks import Check, Finding, Surroundings, Verdict, absent, broken, ok, run_checks
from protocol.names import QUEUE_PROJECT
from server.start import ServerSettings, running
from tests.git_servers import make_certificate

BIN = Path(sys.executable).parent
NOWHERE = "http://127.0.0.1:1"


def around(home: Path, server: ControlPlane | None = None, *, key_problem: str = "", **given: Any) -> Surroundings:
    """Return surroundings with these variables (in `environment`) and this configuration."""
    environment = given.pop("environment", {})
    return Surroundings(
        config=AgentConfig.model_validate(given),
        config_finding=ok("valid"),
        server=server or ControlPlane(NOWHERE, "key", random=Random(1)),
        key_problem=key_problem,
        environment=environment,
        home=home,
    )


def verdicts(findings: dict[str, Finding]) -> dict[str, Verdict]:
    """Return how each check came out."""
    return {name: finding.verdict for name, finding in findings.items()}


# --- checks in general ------------------------------------------------------------------------------------------------


def check(name: str, look: Callable[[], Awaitable[Finding]] | Finding, *, needed: bool = True) -> Check:
    """Return a check that finds this."""

    async def run(_: Surroundings) -> Finding:
        return look if isinstance(look, Finding) else await look()

    return Check(name, run, lambda _: needed)


async def test_only_what_the_configuration_needs_is_a_problem(tmp_path: Path) -> None:
    findings = await run_checks(
        [
            check("good", ok("there")),
            check("broken", broken("crooked", "mend it")),
            check("absent", absent("not there", "get it")),
            check("broken, not needed", broken("crooked", "mend it"), needed=False),
            check("absent, not needed", absent("not there", "get it"), needed=False),
        ],
        around(tmp_path),
    )
    assert verdicts(findings) == {
        "good": Verdict.OK,
        "broken": Verdict.PROBLEM,
        "absent": Verdict.PROBLEM,
        "broken, not needed": Verdict.WARNING,
        "absent, not needed": Verdict.SKIPPED,
    }
    assert findings["broken, not needed"].todo == "mend it"
    assert findings["absent, not needed"].found == "not there; this configuration does not need it"


async def test_checks_run_at_once_and_not_for_ever(tmp_path: Path) -> None:
    met = asyncio.Barrier(2)

    async def meet() -> Finding:
        await met.wait()
        return ok("met")

    async def hang() -> Finding:
        await asyncio.sleep(3600)
        return ok("never")

    findings = await run_checks(
        [check("one", meet), check("hangs", hang), check("other", meet)], around(tmp_path), seconds=0.2
    )
    assert list(findings) == ["one", "hangs", "other"]
    assert [finding.found for finding in findings.values()] == ["met", "no answer within 0.2 s", "met"]
    assert findings["hangs"].verdict is Verdict.PROBLEM


async def test_a_bug_in_one_check_does_not_hide_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    class Log:
        def exception(self, event: str, **_: object) -> None:
            told.append(event)

    async def fail() -> Finding:
        raise ZeroDivisionError

    monkeypatch.setattr("launchbay.doctor.checks.log", Log())
    findings = await run_checks([check("bug", fail), check("fine", ok("there"))], around(tmp_path))
    assert verdicts(findings) == {"bug": Verdict.PROBLEM, "fine": Verdict.OK}
    assert told == ["a check failed"]


NEEDED: dict[str, dict[str, Any]] = {
    "Docker": {"resources": ["local-container"]},
    "Kubernetes": {"resources": ["kubernetes"]},
    "AWS": {"resources": ["sagemaker"]},
    "Google Cloud": {"resources": ["gcp-vertex"]},
}
BY_BLOCK: dict[str, dict[str, Any]] = {
    "Docker": {"builder": {"type": "docker"}},
    "Kubernetes": {"builder": {"type": "kaniko"}},
    "AWS": {"environment": {"type": "aws"}},
    "Google Cloud": {"environment": {"type": "gcp"}},
    "Azure": {"environment": {"type": "azure"}},
}


@pytest.mark.parametrize("name", sorted(BY_BLOCK))
def test_a_platform_is_needed_by_its_resource_and_by_blocks_that_mean_something(name: str) -> None:
    is_needed = {check.name: check.is_needed for check in CHECKS}[name]
    assert not is_needed(AgentConfig())
    assert name not in NEEDED or is_needed(AgentConfig.model_validate(NEEDED[name]))
    assert not is_needed(AgentConfig.model_validate(BY_BLOCK[name]))
    elsewhere = {"resources": ["some-plugin"], **BY_BLOCK[name]}
    assert is_needed(AgentConfig.model_validate(elsewhere))


@pytest.mark.parametrize(
    ("url", "given", "verdict"),
    [
        pytest.param("http://127.0.0.1:8080", {"resources": ["kubernetes"]}, Verdict.PROBLEM, id="loopback"),
        pytest.param("http://[::1]:8080", {"resources": ["kubernetes"]}, Verdict.PROBLEM, id="loopback of IPv6"),
        pytest.param("http://localhost", {"resources": ["kubernetes"]}, Verdict.PROBLEM, id="by its name"),
        pytest.param("https://server.test", {"resources": ["kubernetes"]}, Verdict.OK, id="the agent's"),
        pytest.param(
            "http://127.0.0.1:8080",
            {"resources": ["kubernetes"], "job_base_url": "http://server.test"},
            Verdict.OK,
            id="another",
        ),
        pytest.param("http://127.0.0.1:8080", {"resources": ["gcp-vertex"]}, Verdict.PROBLEM, id="from a cloud"),
        pytest.param("http://127.0.0.1:8080", {}, Verdict.SKIPPED, id="no pods"),
    ],
)
async def test_pods_must_be_able_to_find_the_server(
    tmp_path: Path, url: str, given: dict[str, Any], verdict: Verdict
) -> None:
    server = ControlPlane(url, "key", random=Random(1))
    finding = await server_checks.from_jobs(around(tmp_path, server, **given))
    assert finding.verdict is verdict


# --- server -----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def live_server(tmp_path: Path, key: str = "") -> AsyncGenerator[ControlPlane]:
    """A server with one queue, reached with the first user's key or another."""
    async with running(ServerSettings(tmp_path / "data", "127.0.0.1", 0)) as url:
        admin_key = (tmp_path / "data" / "admin-api-key").read_text().strip()
        async with ControlPlane(url, admin_key, random=Random(1)) as admin:
            await admin.ask(
                "mutation M($input: UpsertRunQueueInput!) { upsertRunQueue(input: $input) { success } }",
                input={
                    "entityName": "admin",
                    "projectName": QUEUE_PROJECT,
                    "queueName": "gpu",
                    "resourceType": "local-process",
                    "resourceConfig": '{"resource_args": {"local-process": {}}}',
                },
            )
        async with ControlPlane(url, key or admin_key, random=Random(1)) as server:
            yield server


async def test_a_server_with_our_key_and_our_queue_is_fine(tmp_path: Path) -> None:
    async with live_server(tmp_path) as server:
        here = around(tmp_path, server, queues=["gpu"])
        assert (await server_checks.server(here)).found.startswith(f"{server.base_url} answers: a Launchbay server")
        assert await server_checks.api_key(here) == ok("of admin, whose entity is admin")
        assert await server_checks.queues(here) == ok("gpu of entity admin")
        missing = await server_checks.queues(around(tmp_path, server, queues=["gpu", "cpu"]))
    assert missing == broken(
        "entity admin has no queue cpu; it has: gpu", "Make it with: launchbay queue create cpu -e admin"
    )


async def test_a_key_that_the_server_does_not_know_is_a_problem_of_the_key(tmp_path: Path) -> None:
    async with live_server(tmp_path, key="x" * 40) as server:
        here = around(tmp_path, server, queues=["gpu"])
        assert await server_checks.server(here) == ok(f"{server.base_url} answers")
        found = await server_checks.api_key(here)
        assert found.verdict is Verdict.PROBLEM
        assert "does not accept the API key" in found.found
        assert (await server_checks.queues(here)).verdict is Verdict.SKIPPED


async def test_a_server_that_is_not_there_is_one_problem(tmp_path: Path) -> None:
    async with ControlPlane(NOWHERE, "key", random=Random(1)) as server:
        here = around(tmp_path, server, queues=["gpu"])
        found = await server_checks.server(here)
        assert found.verdict is Verdict.PROBLEM
        assert "cannot be reached" in found.found
        assert "WANDB_BASE_URL" in found.todo
        assert (await server_checks.api_key(here)).verdict is Verdict.SKIPPED
        assert (await server_checks.queues(here)).verdict is Verdict.SKIPPED
        assert (await machine_checks.state_folder(here)).verdict is Verdict.SKIPPED


async def test_without_a_key_it_says_where_to_put_one(tmp_path: Path) -> None:
    found = await server_checks.api_key(around(tmp_path, key_problem="No API key. Set WANDB_API_KEY."))
    assert (found.verdict, found.found) == (Verdict.PROBLEM, "No API key. Set WANDB_API_KEY.")


# --- this machine -----------------------------------------------------------------------------------------------------


async def test_a_state_folder_need_not_be_there_yet_and_is_not_made(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    assert await machine_checks.state_folder(around(tmp_path, state_dir=folder)) == ok(
        f"{folder} is writable and not in use"
    )
    assert not (tmp_path / "a").exists()


async def test_the_default_state_folder_is_that_of_server_entity_and_queues(tmp_path: Path) -> None:
    async with live_server(tmp_path) as server:
        by_server = await machine_checks.state_folder(around(tmp_path, server, queues=["gpu"]))
        by_name = await machine_checks.state_folder(around(tmp_path, server, queues=["gpu"], entity="admin"))
        other = await machine_checks.state_folder(around(tmp_path, server, queues=["gpu"], entity="team"))
    assert by_server == by_name
    assert by_name != other


async def test_a_state_folder_that_cannot_be_written_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = await machine_checks.state_folder(around(tmp_path, state_dir=tmp_path / "file" / "state"))
    assert found.verdict is Verdict.PROBLEM
    assert "--state-dir" in found.todo


async def test_a_state_folder_in_use_is_told(tmp_path: Path) -> None:
    launches = Launches()
    metrics = Metrics(launches)
    health = Health(launches, AgentConfig, metrics, clock=lambda: 0.0)
    async with serving(metrics, health, lambda: {"name": "agent-1"}, tmp_path, None):
        found = await machine_checks.state_folder(around(tmp_path, state_dir=tmp_path))
    assert found.verdict is Verdict.WARNING
    assert "is in use by a running agent" in found.found
    assert (await machine_checks.state_folder(around(tmp_path, state_dir=tmp_path))).verdict is Verdict.OK


async def test_processes_start_here(tmp_path: Path) -> None:
    assert (await machine_checks.local_process(around(tmp_path))).verdict is Verdict.OK


async def test_missing_pidfds_are_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "pidfd_open", refuse)
    found = await machine_checks.local_process(around(tmp_path))
    assert found.verdict is Verdict.WARNING
    assert "Operation not permitted" in found.found


async def test_whether_jobs_are_held_is_said_and_never_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parents = {"memory": tmp_path, "cpu": tmp_path}
    monkeypatch.setattr(machine_checks, "find", lambda _: ControlGroups(parents, is_unified=True))
    found = await machine_checks.limits(around(tmp_path))
    assert (found.verdict, found.found.endswith("to what they ask for: memory, cpu")) == (Verdict.OK, True)

    def find_none(_: Path) -> ControlGroups:
        raise NoControlGroups("there are none")

    monkeypatch.setattr(machine_checks, "find", find_none)
    found = await machine_checks.limits(around(tmp_path))
    assert (found.verdict, found.found.endswith("to what they ask for: there are none")) == (Verdict.SKIPPED, True)


async def test_uv_is_found(tmp_path: Path) -> None:
    found = await machine_checks.uv(around(tmp_path))
    assert found.verdict is Verdict.OK
    assert found.found.startswith("uv ")


async def test_git_is_looked_for_with_what_it_needs(tmp_path: Path) -> None:
    there = {"PATH": os.environ["PATH"], "TOKEN": "t"}
    found = await machine_checks.git(around(tmp_path, environment=there))
    assert found.verdict is Verdict.OK
    assert found.found.startswith("git version ")
    key = tmp_path / "key"
    hosts = {"a.test": {"token_env": "TOKEN"}, "b.test": {"key_file": str(key)}, "c.test": {"token_env": "NONE"}}
    found = await machine_checks.git(around(tmp_path, environment=there, git={"hosts": hosts}))
    assert found.verdict is Verdict.PROBLEM
    assert found.found == f"cannot be read: `git.hosts.c.test.token_env` (NONE), `git.hosts.b.test.key_file` ({key})"
    key.touch()
    del hosts["c.test"]
    found = await machine_checks.git(around(tmp_path, environment=there, git={"hosts": hosts}))
    assert found.verdict is Verdict.OK
    assert (await machine_checks.git(around(tmp_path, environment={"PATH": str(tmp_path)}))).is_absent


async def test_an_old_git_is_none(tmp_path: Path) -> None:
    (tmp_path / "git").write_text("#!/bin/sh\necho git version 2.31.9")
    (tmp_path / "git").chmod(0o755)
    found = await machine_checks.git(around(tmp_path, environment={"PATH": str(tmp_path)}))
    assert (found.verdict, found.todo) == (Verdict.PROBLEM, "Install git 2.32 or newer.")


async def test_gpus_are_those_of_the_inventory(tmp_path: Path) -> None:
    assert (await machine_checks.gpus(around(tmp_path, slots={"gpus": "none"}))).verdict is Verdict.SKIPPED
    bad = await run_checks(
        [Check("GPUs", machine_checks.gpus, lambda _: True)], around(tmp_path, slots={"gpus": ["no-such-gpu"]})
    )
    assert bad["GPUs"].verdict is Verdict.PROBLEM
    assert "`slots.gpus` names 'no-such-gpu'" in bad["GPUs"].found


# --- Docker -----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def docker_socket(folder: Path) -> AsyncGenerator[Path]:
    """A socket on which something answers as a Docker engine does."""

    async def version(_: web.Request) -> web.Response:
        return web.json_response({"Version": "27.1.0", "ApiVersion": "1.46"})

    app = web.Application()
    app.router.add_get("/version", version)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, str(folder / "docker.sock")).start()
    yield folder / "docker.sock"
    await runner.cleanup()


@pytest.fixture
def no_docker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever this machine has, the usual socket is not there."""
    monkeypatch.setattr("launchbay.doctor.platform_checks.DOCKER_SOCKET", tmp_path / "none.sock")


@pytest.mark.usefixtures("no_docker")
async def test_a_docker_engine_is_found_at_its_socket(tmp_path: Path) -> None:
    async with docker_socket(tmp_path) as path:
        for environment in ({"DOCKER_HOST": f"unix://{path}"}, {"XDG_RUNTIME_DIR": str(tmp_path)}):
            found = await platform_checks.docker(around(tmp_path, environment=environment))
            assert found == ok(f"{path} answers: version 27.1.0, API 1.46")
        named = {"local-container": {"engine": f"unix://{path}"}}
        found = await platform_checks.docker(around(tmp_path, backends=named))
        assert found == ok(f"{path} answers: version 27.1.0, API 1.46")


@pytest.mark.usefixtures("no_docker")
async def test_docker_may_be_absent_broken_or_out_of_sight(tmp_path: Path) -> None:
    found = await platform_checks.docker(around(tmp_path))
    assert found == absent(f"no socket at {tmp_path / 'none.sock'}", "Start Docker, or set DOCKER_HOST.")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead.sock"))
    for host in (f"unix://{tmp_path / 'dead.sock'}", "tcp://127.0.0.1:1"):
        found = await platform_checks.docker(around(tmp_path, environment={"DOCKER_HOST": host}))
        assert (found.verdict, found.is_absent) == (Verdict.PROBLEM, False)
    for environment in (
        {"DOCKER_HOST": "ssh://me:hunter2@host"},
        {"DOCKER_HOST": "tcp://host:2376", "DOCKER_TLS_VERIFY": "1"},
    ):
        found = await platform_checks.docker(around(tmp_path, environment=environment))
        assert found.verdict is Verdict.SKIPPED
        assert "hunter2" not in found.found


# --- Kubernetes -------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def api_server(tls: ssl.SSLContext | None = None, status: int = 200) -> AsyncGenerator[str]:
    """Something that answers as a Kubernetes API server does."""

    async def version(_: web.Request) -> web.Response:
        return web.json_response({"gitVersion": "v1.33.0"} if status == 200 else {"kind": "Status"}, status=status)

    app = web.Application()
    app.router.add_get("/version", version)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    yield f"{'https' if tls else 'http'}://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


def kubeconfig(path: Path, url: str, **cluster: Any) -> Path:
    """Write a kubeconfig with one context of use and one of none."""
    content = {
        "current-context": "here",
        "contexts": [
            {"name": "elsewhere", "context": {"cluster": "far"}},
            {"name": "here", "context": {"cluster": "near", "user": "me"}},
        ],
        "clusters": [
            {"name": "far", "cluster": {"server": NOWHERE}},
            {"name": "near", "cluster": {"server": url, **cluster}},
        ],
        "users": [{"name": "me", "user": {"token": "hunter2"}}],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


async def kubernetes(home: Path, **environment: str) -> Finding:
    """Look for Kubernetes."""
    return await platform_checks.kubernetes(around(home, environment=environment))


async def test_the_api_server_of_the_current_context_is_asked(tmp_path: Path) -> None:
    async with api_server() as url:
        kubeconfig(tmp_path / ".kube" / "config", url)
        assert await kubernetes(tmp_path) == ok(f"context 'here': {url} answers, version v1.33.0")
        # Of several files the first word counts, and a missing one is nothing.
        other = kubeconfig(tmp_path / "other", NOWHERE)
        paths = f"{tmp_path / 'none'}:{tmp_path / '.kube' / 'config'}:{other}"
        assert (await kubernetes(tmp_path / "elsewhere", KUBECONFIG=paths)).verdict is Verdict.OK
    async with api_server(status=403) as url:
        kubeconfig(tmp_path / ".kube" / "config", url)
        assert await kubernetes(tmp_path) == ok(f"context 'here': {url} answers, version not told to strangers")


async def test_kubernetes_may_be_absent_or_broken(tmp_path: Path) -> None:
    assert (await kubernetes(tmp_path)).is_absent
    kubeconfig(tmp_path / "config", NOWHERE)
    found = await kubernetes(tmp_path, KUBECONFIG=str(tmp_path / "config"))
    assert (found.verdict, found.is_absent) == (Verdict.PROBLEM, False)
    assert f"context 'here': {NOWHERE} does not answer" in found.found
    for text in ("- a", "a: [", "contexts: [hunter2]", "clusters: [{cluster: hunter2}]", "\0"):
        (tmp_path / "config").write_text(text)
        found = await kubernetes(tmp_path, KUBECONFIG=str(tmp_path / "config"))
        assert "the kubeconfig cannot be used" in found.found, text
        assert "hunter2" not in found.found
    (tmp_path / "config").write_text("current-context: gone")
    assert "names no API server" in (await kubernetes(tmp_path, KUBECONFIG=str(tmp_path / "config"))).found


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate with the program openssl")
async def test_the_api_servers_certificate_is_checked_by_the_kubeconfig(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    certificate = certificate.rename(tmp_path / "ca.pem")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)
    path = tmp_path / ".kube" / "config"
    async with api_server(tls) as url:
        for trust in (
            {"certificate-authority-data": base64.b64encode(certificate.read_bytes()).decode()},
            {"certificate-authority": str(certificate)},
            {"certificate-authority": "../ca.pem"},
            {"insecure-skip-tls-verify": True},
        ):
            kubeconfig(path, url, **trust)
            assert (await kubernetes(tmp_path)).verdict is Verdict.OK, trust
        kubeconfig(path, url)
        assert "does not answer" in (await kubernetes(tmp_path)).found, "nobody has signed it"
    kubeconfig(path, NOWHERE, **{"certificate-authority-data": "hunter2"})
    assert "the kubeconfig cannot be used" in (await kubernetes(tmp_path)).found


# --- clouds -----------------------------------------------------------------------------------------------------------


async def aws(home: Path, **environment: str) -> Finding:
    """Look for AWS."""
    found = await platform_checks.aws(around(home, environment=environment))
    assert "hunter2" not in str(found)
    return found


async def test_credentials_of_aws_are_found_where_they_may_be(tmp_path: Path) -> None:
    assert (await aws(tmp_path)).is_absent
    assert "web identity" in (await aws(tmp_path, AWS_WEB_IDENTITY_TOKEN_FILE="/t", AWS_ROLE_ARN="arn")).found
    assert "container's role" in (await aws(tmp_path, AWS_CONTAINER_CREDENTIALS_RELATIVE_URI="/x")).found
    keys = {"AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": "hunter2"}
    assert (await aws(tmp_path, **keys)).verdict is Verdict.OK
    assert "only one of" in (await aws(tmp_path, AWS_ACCESS_KEY_ID="hunter2")).found

    folder = tmp_path / ".aws"
    folder.mkdir()
    (folder / "credentials").write_text("[default]\naws_access_key_id = AKIA\naws_secret_access_key = hunter2%\n")
    (folder / "config").write_text(
        "[default]\nregion = eu\n[profile work]\nsso_session = corp\n[profile bare]\nregion=x\n"
    )
    assert await aws(tmp_path) == ok(f"profile 'default' in {folder / 'credentials'}")
    assert await aws(tmp_path, AWS_PROFILE="work") == ok(f"profile 'work' in {folder / 'config'}")
    assert (await aws(tmp_path, AWS_CONFIG_FILE=str(folder / "config"), AWS_PROFILE="work")).verdict is Verdict.OK
    for name in ("bare", "none"):
        found = await aws(tmp_path, AWS_PROFILE=name, **keys)
        assert (found.verdict, found.is_absent) == (Verdict.PROBLEM, False), "a named profile goes over keys"
    (folder / "credentials").write_text("hunter2")
    assert "cannot be read" in (await aws(tmp_path)).found


async def google(home: Path, **environment: str) -> Finding:
    """Look for Google Cloud."""
    found = await platform_checks.google(around(home, environment=environment))
    assert "hunter2" not in str(found)
    return found


async def test_credentials_of_google_are_found_where_they_may_be(tmp_path: Path) -> None:
    assert (await google(tmp_path)).is_absent
    path = tmp_path / ".config" / "gcloud" / "application_default_credentials.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"type": "authorized_user", "refresh_token": "hunter2"}')
    assert await google(tmp_path) == ok(f"authorized_user in {path}")
    assert await google(tmp_path / "none", CLOUDSDK_CONFIG=str(path.parent)) == ok(f"authorized_user in {path}")
    named = tmp_path / "key.json"
    found = await google(tmp_path, GOOGLE_APPLICATION_CREDENTIALS=str(named))
    assert (found.verdict, found.is_absent) == (Verdict.PROBLEM, False), "a named file goes over the usual one"
    for text in ("hunter2", "[]", "\0"):
        named.write_text(text)
        assert "cannot be read" in (await google(tmp_path, GOOGLE_APPLICATION_CREDENTIALS=str(named))).found


async def azure(home: Path, **environment: str) -> Finding:
    """Look for Azure."""
    found = await platform_checks.azure(around(home, environment=environment))
    assert "hunter2" not in str(found)
    return found


async def test_credentials_of_azure_are_found_where_they_may_be(tmp_path: Path) -> None:
    assert (await azure(tmp_path)).is_absent
    who = {"AZURE_TENANT_ID": "t", "AZURE_CLIENT_ID": "c"}
    assert (await azure(tmp_path, AZURE_CLIENT_SECRET="hunter2")).verdict is Verdict.PROBLEM
    assert (await azure(tmp_path, **who, AZURE_CLIENT_SECRET="hunter2")).verdict is Verdict.OK
    token = tmp_path / "token"
    assert (await azure(tmp_path, **who, AZURE_FEDERATED_TOKEN_FILE=str(token))).verdict is Verdict.PROBLEM
    token.write_text("hunter2")
    assert (await azure(tmp_path, **who, AZURE_FEDERATED_TOKEN_FILE=str(token))).verdict is Verdict.OK
    login = tmp_path / ".azure" / "msal_token_cache.json"
    login.parent.mkdir()
    login.write_text("hunter2")
    assert await azure(tmp_path) == ok(f"a login of `az`, in {login}")
    assert (await azure(tmp_path / "none", AZURE_CONFIG_DIR=str(login.parent))).verdict is Verdict.OK


# --- the command ------------------------------------------------------------------------------------------------------


def doctor(home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command on a machine where nothing is set up."""
    return subprocess.run(
        [str(BIN / "launchbay"), "doctor", *arguments],
        env={"PATH": os.environ["PATH"], "HOME": str(home), "WANDB_BASE_URL": NOWHERE, **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


async def test_the_command_is_content_with_what_works(tmp_path: Path) -> None:
    async with live_server(tmp_path) as server:
        words = ("-q", "gpu", "--state-dir", str(tmp_path / "state"), "--json")
        there = {"WANDB_BASE_URL": server.base_url, "WANDB_API_KEY": server.api_key}
        done = await asyncio.to_thread(doctor, tmp_path, *words, **there)
    assert (done.returncode, done.stderr) == (0, "")
    found = {entry["check"]: entry["verdict"] for entry in json.loads(done.stdout)}
    assert list(found) == [check.name for check in CHECKS]
    assert all(found[name] == "ok" for name in ("server", "API key", "configuration", "queues", "state folder", "uv"))
    assert server.api_key not in done.stdout


def test_the_command_tells_every_problem_and_ends_with_1(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("queues: [q]\nmax_job: 2\n")
    done = doctor(tmp_path, "-c", str(tmp_path / "config.yaml"))
    assert (done.returncode, done.stderr) == (1, "")
    lines = {line.split("  ")[0]: line for line in done.stdout.splitlines()}
    assert "problem" in lines["server"]
    assert "No API key for" in lines["API key"]
    assert "problem" in lines["configuration"]
    assert "Did you mean `max_jobs`?" in done.stdout
    assert "skipped" in lines["AWS"]
