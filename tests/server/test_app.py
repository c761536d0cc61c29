"""What arrives over HTTP is read, whatever odd text a program has printed."""

from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, TestServer

from server.app import build_app
from server.context import Services
from tests.server.conftest import Client
from tests.server.launching import make_queue, push, start_run

CONSOLE = """query { project(name: "p", entityName: "admin") { run(name: "run1") {
  displayName logLines(first: 10) { edges { node { line } } } } } }"""


@pytest.mark.parametrize(
    ("printed", "kept"),
    [
        ("nul \\u0000 in it", "nul \ufffd in it"),
        ("half \\ud83d a pair", "half \ufffd a pair"),
        ("both \\ud83d\\ude00 halves", "both \U0001f600 halves"),
    ],
)
async def test_a_line_that_no_database_could_hold_is_kept_nearly_as_it_is(
    services: Services, client: Client, tmp_path: Path, printed: str, kept: str
) -> None:
    await start_run(client)
    key = (tmp_path / "data" / "admin-api-key").read_text().strip()
    headers = {"Authorization": aiohttp.encode_basic_auth("api", key), "Content-Type": "application/json"}
    body = '{"files": {"output.log": {"offset": 0, "content": ["%s"]}}, "odd": NaN}' % printed  # noqa: UP031
    async with (
        TestClient(TestServer(build_app(services))) as http,
        http.post("/files/admin/p/run1/file_stream", data=body.encode(), headers=headers) as answer,
    ):
        assert answer.status == 200, await answer.text()
    data: Any = await client.ask(CONSOLE)
    assert [edge["node"]["line"] for edge in data["project"]["run"]["logLines"]["edges"]] == [kept]


async def test_a_name_with_a_nul_is_refused_where_it_cannot_be_stored(services: Services, client: Client) -> None:
    make = """mutation ($name: String) { upsertBucket(input: {entityName: "admin", modelName: "p", name: "r",
      displayName: $name}) { bucket { displayName } } }"""
    if "Sqlite" in type(services.database).__name__:
        assert (await client.ask(make, name="a\0b"))["upsertBucket"]["bucket"]["displayName"] == "a\0b"
    else:
        status, message = await client.fail(make, name="a\0b")
        assert (status, message[:21]) == (400, "This cannot be stored")


@pytest.mark.parametrize("offset", ["abc", "-1", "1" * 16, "\u0661x"])
async def test_an_offset_that_is_none_is_refused(
    services: Services, client: Client, tmp_path: Path, offset: str
) -> None:
    await make_queue(client)
    item = await push(client)
    key = (tmp_path / "data" / "admin-api-key").read_text().strip()
    headers = {"Authorization": aiohttp.encode_basic_auth("api", key)}
    where = {"item": item, "since": offset}
    async with (
        TestClient(TestServer(build_app(services))) as http,
        http.get("/launchbay/item-log", params=where, headers=headers) as answer,
    ):
        assert answer.status == 400
        assert "it counts bytes from 0 on" in await answer.text()


async def test_the_members_of_a_projects_entity_are_listed(client: Client) -> None:
    await start_run(client)
    query = '{ project(entityName: "admin", name: "p") { entity { members { username } } } }'
    assert (await client.ask(query))["project"]["entity"]["members"] == [{"username": "admin"}]
