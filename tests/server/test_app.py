"""What arrives over HTTP is read, whatever odd text a program has printed; what does not arrive breaks nothing."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from sqlalchemy import Connection, update
from structlog.testing import capture_logs

from server.app import build_app
from server.context import Services
from server.ids import decode
from server.storage.tables import run_queue_items
from tests.server.conftest import Client
from tests.server.launching import POP, SPEC, make_queue, push, start_run

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


async def test_half_a_pair_in_a_launch_spec_blocks_no_queue(services: Services, client: Client, tmp_path: Path) -> None:
    """Neither in what is pushed, nor in an item that is there already."""
    await make_queue(client)
    odd = {**SPEC, "name": "half \ud83d a pair"}
    stored, pushed = await push(client, odd), await push(client, odd)

    def spoil(connection: Connection) -> None:
        old = update(run_queue_items).where(run_queue_items.c.id == decode("RunQueueItem", stored))
        connection.execute(old.values(launch_spec=json.dumps(odd)))

    await services.database.write(spoil)
    key = (tmp_path / "data" / "admin-api-key").read_text().strip()
    headers = {"Authorization": aiohttp.encode_basic_auth("api", key)}
    variables = {"input": {"entityName": "admin", "projectName": "model-registry", "queueName": "q"}}
    async with TestClient(TestServer(build_app(services))) as http:
        for item in (stored, pushed):
            async with http.post("/graphql", json={"query": POP, "variables": variables}, headers=headers) as answer:
                assert answer.status == 200, await answer.text()
                popped = (await answer.json())["data"]["popFromRunQueue"]
            assert (popped["runQueueItemId"], popped["runSpec"]["name"]) == (item, "half \ufffd a pair")


async def test_a_name_with_a_nul_is_refused_where_it_cannot_be_stored(services: Services, client: Client) -> None:
    make = """mutation ($name: String) { upsertBucket(input: {entityName: "admin", modelName: "p", name: "r",
      displayName: $name}) { bucket { displayName } } }"""
    if "Sqlite" in type(services.database).__name__:
        assert (await client.ask(make, name="a\0b"))["upsertBucket"]["bucket"]["displayName"] == "a\0b"
    else:
        status, message = await client.fail(make, name="a\0b")
        assert (status, message[:21]) == (400, "This cannot be stored")


async def _item_log(client: Client) -> str:
    await make_queue(client)
    return f"POST /launchbay/item-log?item={await push(client)}&offset=0"


async def _file_stream(client: Client) -> str:
    await start_run(client)
    return "POST /files/admin/p/run1/file_stream"


async def _graphql(_: Client) -> str:
    return "POST /graphql"


async def _upload(client: Client) -> str:
    url = client.context.services.objects.upload_url("", "files/a.txt")
    return f"PUT {url}"


@asynccontextmanager
async def _serving(services: Services) -> AsyncGenerator[int]:
    """Serve as a real server does: a test's own cancels a request whose client has gone. Gives the port."""
    runner = web.AppRunner(build_app(services), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def _hang_up(port: int, head: str, body: bytes) -> None:
    """Send a head and, once the server is at work on it, a part of the body that it announces; then hang up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{head}\r\nExpect: 100-continue\r\n\r\n".encode())
    assert await reader.readline() == b"HTTP/1.1 100 Continue\r\n"
    writer.write(body)
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("framing", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("where", [_item_log, _file_stream, _graphql, _upload])
async def test_a_client_that_hangs_up_is_no_error_of_the_server(
    services: Services,
    client: Client,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    where: Callable[[Client], Awaitable[str]],
    framing: str,
) -> None:
    key = (tmp_path / "data" / "admin-api-key").read_text().strip()
    head = f"{await where(client)} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {key}\r\n{framing}"
    with capture_logs() as logged, caplog.at_level(logging.WARNING):
        async with _serving(services) as port:
            await _hang_up(port, head, b'3e8\r\n{"query')
            async with asyncio.timeout(120):
                while not logged:  # noqa: ASYNC110 -- nothing else tells that the server has seen it
                    await asyncio.sleep(0.01)
    (line,) = logged
    assert (line["event"], line["log_level"]) == ("the body of a request did not arrive", "info")
    assert line["path"] in head
    assert "exc_info" not in line
    assert caplog.records == []
    assert not [path for path in (tmp_path / "data" / "objects").rglob("*") if path.is_file()]


async def test_an_error_in_the_server_is_still_one(
    services: Services, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if it looks like a connection that was lost: it may have been the one to the database."""

    async def lose(*_: object) -> None:
        raise ConnectionResetError("Connection lost")

    monkeypatch.setattr("server.filestream.receive", lose)
    key = (tmp_path / "data" / "admin-api-key").read_text().strip()
    headers = {"Authorization": f"Bearer {key}"}
    with capture_logs() as logged:
        async with (
            TestClient(TestServer(build_app(services))) as http,
            http.post("/files/admin/p/run1/file_stream", data=b"{}", headers=headers) as answer,
        ):
            assert answer.status == 500
    assert [(line["event"], line["exc_info"]) for line in logged] == [("request failed", True)]


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
