"""Who the agent is at a registry: by its configuration, by docker's, or by what a cloud answers, on the wire."""

import asyncio
import base64
import json
import stat
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from agent.building.credentials import (
    ACR_USER,
    LEFT_SECONDS,
    Credential,
    Tokens,
    acr_credential,
    artifact_registry_credential,
    ecr_credential,
    logged_in,
)
from agent.building.credentials import find as find_with
from agent.config.builder import DockerBuilder
from agent.errors import LaunchFailed
from agent.redaction import SECRETS

PASSWORD = "a-password-to-be-kept"
ECR_HOST = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"


def builder(**settings: Any) -> DockerBuilder:
    """Return the settings of a builder."""
    return DockerBuilder.model_validate({"type": "docker", **settings})


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """An environment with a docker configuration of its own."""
    (tmp_path / "home").mkdir()
    return {"DOCKER_CONFIG": str(tmp_path / "home")}


def find(
    repository: str, settings: DockerBuilder, home: dict[str, str], tokens: Tokens | None = None, now: float = 0
) -> Credential | None:
    """Return what is found, by default by an agent that has not asked any cloud yet."""
    return find_with(repository, settings, home, tokens or Tokens(), now)


def configure(home: dict[str, str], config: Any) -> None:
    """Write docker's configuration."""
    Path(home["DOCKER_CONFIG"], "config.json").write_text(json.dumps(config))


# --- which one -------------------------------------------------------------------------------------------------------


def test_the_builder_s_own_user_comes_first(tmp_path: Path, home: dict[str, str]) -> None:
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    configure(home, {"auths": {ECR_HOST: {}}})
    settings = builder(user="me", password_file=tmp_path / "password")
    assert find(f"{ECR_HOST}/jobs", settings, home) == Credential("me", PASSWORD)
    with pytest.raises(LaunchFailed, match=r"`builder\.password_file` \(.*\) cannot be read: No such file"):
        find("registry.test/x", builder(user="me", password_file=tmp_path / "nowhere"), home)


@pytest.mark.parametrize("config", [{"auths": {ECR_HOST: {}}}, {"credHelpers": {ECR_HOST: "ecr-login"}}])
def test_docker_is_left_alone_where_it_knows_the_registry(home: dict[str, str], config: Any) -> None:
    configure(home, config)
    assert find(f"{ECR_HOST}/jobs", builder(), home) is None


@pytest.mark.parametrize("repository", ["registry.test/x", "127.0.0.1:5000/x", "team/x", "x.amazonaws.com/x"])
def test_other_registries_get_what_docker_has(home: dict[str, str], repository: str) -> None:
    assert find(repository, builder(), home) is None
    configure(home, ["not an object"])
    assert find(repository, builder(), home) is None


def test_a_cloud_that_cannot_be_asked_fails_with_what_to_do(
    home: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(account: str, region: str, _: object) -> Credential:
        raise ImportError(name="boto3") if region == "eu-west-1" else ValueError("no credentials")

    monkeypatch.setattr("agent.building.credentials.ecr_credential", refuse)
    with pytest.raises(LaunchFailed, match=r"'boto3' is not installed.*docker login"):
        find(f"{ECR_HOST}/jobs", builder(), home)
    with pytest.raises(LaunchFailed, match="ValueError: no credentials"):
        find(f"{ECR_HOST.replace('west', 'north')}/jobs", builder(), home)


@pytest.mark.parametrize(
    ("host", "function"),
    [
        (ECR_HOST, "ecr_credential"),
        ("europe-docker.pkg.dev", "artifact_registry_credential"),
        ("eu.gcr.io", "artifact_registry_credential"),
        ("team.azurecr.io", "acr_credential"),
    ],
)
def test_clouds_are_known_by_their_hosts(
    home: dict[str, str], monkeypatch: pytest.MonkeyPatch, host: str, function: str
) -> None:
    asked: list[tuple[object, ...]] = []

    def answer(*what: object) -> Credential:
        asked.append(what)
        return Credential("u", PASSWORD)

    monkeypatch.setattr(f"agent.building.credentials.{function}", answer)
    assert find(f"{host}/jobs", builder(), home) == Credential("u", PASSWORD)
    assert asked in ([("123456789012", "eu-west-1", {})], [()], [("https://team.azurecr.io",)])


def test_a_token_is_used_again_until_shortly_before_it_expires(
    home: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def answer(account: str, region: str, _: object) -> Credential:
        asked.append(region)
        return Credential("AWS", f"{PASSWORD}-{len(asked)}", expires_at=10_000 * len(asked))

    monkeypatch.setattr("agent.building.credentials.ecr_credential", answer)
    tokens = Tokens()

    def found(now: float, host: str = ECR_HOST) -> str:
        credential = find(f"{host}/jobs", builder(), home, tokens, now)
        assert credential
        return credential.password[len(PASSWORD) :]

    assert [found(now) for now in (0, 5_000, 10_000 - LEFT_SECONDS)] == ["-1"] * 3
    assert [found(now) for now in (10_001 - LEFT_SECONDS, 10_000)] == ["-2"] * 2
    assert found(10_000, ECR_HOST.replace("eu-", "us-")) == "-3", "another registry's is not its"
    tokens.forget(f"{ECR_HOST}/jobs")
    assert found(10_000) == "-4"
    assert asked == ["eu-west-1", "eu-west-1", "us-west-1", "eu-west-1"]


def test_a_token_that_does_not_say_when_it_expires_is_used_once(
    home: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = iter(("1", "2"))
    monkeypatch.setattr("agent.building.credentials.acr_credential", lambda _: Credential("u", next(given)))
    tokens = Tokens()
    assert [find("team.azurecr.io/x", builder(), home, tokens) for _ in range(2)] == [
        Credential("u", "1"),
        Credential("u", "2"),
    ]


# --- how docker gets it ----------------------------------------------------------------------------------------------


def test_docker_s_configuration_is_kept_with_the_login_in_it(home: dict[str, str]) -> None:
    configure(home, {"credsStore": "desktop", "auths": {"other": {"auth": "x"}}, "currentContext": "far"})
    (Path(home["DOCKER_CONFIG"]) / "contexts").mkdir()
    with logged_in("host:5000/x", Credential("me", PASSWORD), home) as inside:
        folder = Path(inside["DOCKER_CONFIG"])
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((folder / "config.json").stat().st_mode) == 0o600
        config = json.loads((folder / "config.json").read_text())
        pair = base64.b64encode(f"me:{PASSWORD}".encode()).decode()
        assert config["auths"] == {"other": {"auth": "x"}, "host:5000": {"auth": pair}}
        assert (config["credHelpers"], config["currentContext"]) == ({"host:5000": ""}, "far")
        assert (folder / "contexts").is_dir()
        assert inside["BUILDX_CONFIG"] == f"{home['DOCKER_CONFIG']}/buildx"
        assert PASSWORD not in SECRETS.text(f"{PASSWORD} {pair}")
        assert pair not in SECRETS.text(f"{PASSWORD} {pair}")
        assert PASSWORD not in str(inside)
    assert not folder.exists()
    assert PASSWORD in SECRETS.text(PASSWORD)


def test_without_a_login_docker_has_its_own_configuration(home: dict[str, str]) -> None:
    with logged_in("host/x", None, home) as inside:
        assert inside == home


# --- what clouds answer ----------------------------------------------------------------------------------------------


@asynccontextmanager
async def cloud(answer: Callable[[web.Request, str], Any]) -> AsyncGenerator[str]:
    """Run a cloud's endpoint on loopback; gives its URL."""

    async def handle(request: web.Request) -> web.Response:
        return web.json_response(answer(request, await request.text()))

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_ecr_gives_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(request: web.Request, body: str) -> Any:
        assert request.headers["X-Amz-Target"].endswith(".GetAuthorizationToken")
        assert "/eu-west-1/ecr/" in request.headers["Authorization"]
        assert json.loads(body) == {"registryIds": ["123456789012"]}
        token = base64.b64encode(f"AWS:{PASSWORD}".encode()).decode()
        return {"authorizationData": [{"authorizationToken": token, "expiresAt": 2_000_000_000}]}

    async with cloud(answer) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL_ECR", url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        found = await asyncio.to_thread(ecr_credential, "123456789012", "eu-west-1", {})
    assert (found, found.expires_at) == (Credential("AWS", PASSWORD), 2_000_000_000)


async def test_google_gives_an_access_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )

    def answer(request: web.Request, body: str) -> Any:
        assert "assertion=" in body
        return {"access_token": PASSWORD, "expires_in": 3600, "token_type": "Bearer"}

    async with cloud(answer) as url:
        account = {
            "type": "service_account",
            "project_id": "p",
            "client_email": "agent@p.example",
            "private_key": key.decode(),
            "token_uri": f"{url}/token",
        }
        (tmp_path / "account.json").write_text(json.dumps(account))
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "account.json"))
        before = time.time()
        found = await asyncio.to_thread(artifact_registry_credential)
    assert found == Credential("oauth2accesstoken", PASSWORD)
    assert before + 3500 < found.expires_at < time.time() + 3700


@pytest.mark.parametrize(
    ("token", "expires_at"),
    [
        ("head.eyJleHAiOiAyMDAwMDAwMDAwfQ.signature", 2_000_000_000),
        ("head.W10.signature", 0),
        (PASSWORD, 0),
    ],
)
async def test_azure_exchanges_the_identity_for_a_token_of_the_registry(
    monkeypatch: pytest.MonkeyPatch, token: str, expires_at: float
) -> None:
    def answer(request: web.Request, body: str) -> Any:
        if request.path == "/identity":
            assert request.headers["X-IDENTITY-HEADER"] == "secret"
            assert request.query["resource"] == "https://containerregistry.azure.net"
            return {"access_token": "of-the-machine", "expires_on": "4102444800", "token_type": "Bearer"}
        assert request.path == "/oauth2/exchange"
        assert "access_token=of-the-machine" in body
        assert f"service=127.0.0.1%3A{request.url.port}" in body
        return {"refresh_token": token}

    for variable in ("AZURE_CLIENT_ID", "AZURE_TENANT_ID", "AZURE_CLIENT_SECRET"):
        monkeypatch.delenv(variable, raising=False)
    async with cloud(answer) as url:
        monkeypatch.setenv("IDENTITY_ENDPOINT", f"{url}/identity")
        monkeypatch.setenv("IDENTITY_HEADER", "secret")
        found = await asyncio.to_thread(acr_credential, url)
    assert (found, found.expires_at) == (Credential(ACR_USER, token), expires_at)
