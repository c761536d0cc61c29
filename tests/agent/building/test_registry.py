"""A registry is asked for images as it wants to be: a real one with and without a login, and one that has tokens."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from agent.building.credentials import HUB_KEY, Credential, written_down
from agent.building.registry import pushed_digest
from agent.errors import LaunchFailed
from agent.launch import Cause
from tests.agent.building import parts

LOGIN = Credential(parts.USER, parts.PASSWORD)


@pytest.fixture(autouse=True)
def _is_there() -> None:
    if why := parts.missing():
        pytest.skip(why)


async def test_an_image_that_is_not_there_is_told_apart_from_a_login_that_is_refused(tmp_path: Path) -> None:
    with parts.registry(tmp_path, is_private=True) as host:
        assert await pushed_digest(f"{host}/team/x:1", LOGIN, is_insecure=True) is None
        for wrong in (None, Credential("agent", "another-password")):
            with pytest.raises(LaunchFailed, match="does not let this agent look") as error:
                await pushed_digest(f"{host}/team/x:1", wrong, is_insecure=True)
            assert error.value.cause is Cause.INFRASTRUCTURE
        with pytest.raises(LaunchFailed, match="insecure_registry"):
            await pushed_digest(f"{host}/team/x:1", LOGIN)


async def test_a_token_is_asked_for_where_the_registry_wants_one() -> None:
    asked: list[dict[str, str]] = []
    pair = base64.b64encode(b"me:a-password").decode()

    async def token(request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == f"Basic {pair}"
        asked.append(dict(request.query))
        return web.json_response({"token": "a-token"})

    async def manifest(request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != "Bearer a-token":
            scope = 'service="r",scope="repository:team/x:pull"'
            challenge = f'Bearer realm="http://{request.host}/token",{scope}'
            return web.Response(status=401, headers={"WWW-Authenticate": challenge})
        return web.Response(headers={"Docker-Content-Digest": "sha256:abc"})

    app = web.Application()
    app.router.add_get("/token", token)
    app.router.add_get("/v2/team/x/manifests/1", manifest)
    async with TestServer(app) as server:
        found = await pushed_digest(
            f"127.0.0.1:{server.port}/team/x:1", Credential("me", "a-password"), is_insecure=True
        )
    assert found == "sha256:abc"
    assert asked == [{"service": "r", "scope": "repository:team/x:pull"}]


@pytest.mark.parametrize(
    ("entry", "found"),
    [
        ({"auth": base64.b64encode(b"me:a:b").decode()}, Credential("me", "a:b")),
        ({"username": "me", "password": "p"}, Credential("me", "p")),
        ({"auth": "?"}, None),
        ({}, None),
    ],
)
def test_a_login_that_is_written_down_is_found(entry: dict[str, Any], found: Credential | None) -> None:
    for key, repository in (
        ("registry.test", "registry.test/team/x"),
        ("https://registry.test", "registry.test/team/x"),
        (HUB_KEY, "team/x"),
    ):
        text = json.dumps({"auths": {key: entry, "other.test": {"auth": "b3RoZXI6eA=="}}})
        assert written_down(repository, text) == found
    assert written_down("registry.test/x", "no JSON") is None
