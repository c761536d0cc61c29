"""Files of runs: announced, uploaded, listed, deleted."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import ClientConnectionError, ClientSession
from aiohttp.test_utils import TestServer

from server.app import build_app
from server.context import Services
from tests.server.conftest import Client, make_client
from tests.server.run_steps import read, send, start

CREATE = """mutation($names: [String!]!) {
  createRunFiles(input: {entityName: "admin", projectName: "p", runName: "r", files: $names}) {
    runID uploadHeaders files { id name uploadUrl }
  }
}"""
LIST = """query($names: [String], $pattern: String, $first: Int, $after: String) {
  project(name: "p", entityName: "admin") { run(name: "r") {
    fileCount files(names: $names, pattern: $pattern, first: $first, after: $after) {
      edges { cursor node { id name url directUrl sizeBytes mimetype md5 updatedAt } } pageInfo { hasNextPage }
    }
  } }
}"""
DELETE = "mutation($ids: [ID!]!) { deleteFiles(input: {files: $ids, projectId: 1}) { success } }"
MARK = """mutation {
  markRunFilesUploaded(input: {entityName: "admin", projectName: "p", runName: "r", files: ["a.txt"]}) { success }
}"""


@pytest.fixture
async def http(services: Services) -> AsyncIterator[ClientSession]:
    """A session without credentials on the served application."""
    async with TestServer(build_app(services)) as server, ClientSession(base_url=server.make_url("/")) as session:
        yield session


async def announce(client: Client, *names: str) -> list[dict[str, Any]]:
    """Return the announced files."""
    return (await client.ask(CREATE, names=list(names)))["createRunFiles"]["files"]


async def upload(client: Client, http: ClientSession, name: str, content: bytes) -> int:
    """Announce and upload a file; returns the HTTP status."""
    (file,) = await announce(client, name)
    async with http.put(path_of(file["uploadUrl"]), data=content) as answer:
        return answer.status


async def files(client: Client, **variables: Any) -> list[dict[str, Any]]:
    """Return the files that are listed."""
    run = (await client.ask(LIST, **variables))["project"]["run"]
    return [edge["node"] for edge in run["files"]["edges"]]


def path_of(url: str) -> str:
    """Return a URL of the client's server without the host: the test's server has another one."""
    assert url.startswith("http://server.test/"), "upload URLs must be absolute"
    return url.removeprefix("http://server.test")


async def test_each_name_gets_one_absolute_url(client: Client) -> None:
    await start(client)
    names = ["a.txt", "b/ü 1.txt", "a.txt", "media/x.png"]
    answer = (await client.ask(CREATE, names=names))["createRunFiles"]
    assert sorted(file["name"] for file in answer["files"]) == sorted(set(names))
    assert len({path_of(file["uploadUrl"]) for file in answer["files"]}) == 3
    assert len({file["id"] for file in answer["files"]}) == 3
    assert answer["runID"]
    assert answer["uploadHeaders"] == []


async def test_thousands_of_names_at_once(client: Client) -> None:
    await start(client)
    names = [f"{number}.txt" for number in range(1200)]
    assert [file["name"] for file in await announce(client, *names)] == names


async def test_an_uploaded_file_is_listed_and_served(client: Client, http: ClientSession) -> None:
    await start(client)
    assert await upload(client, http, "b/ü 1.txt", b"hello") == 200
    (file,) = await files(client)
    assert (file["name"], file["sizeBytes"], file["mimetype"]) == ("b/ü 1.txt", 5, "text/plain")
    assert file["md5"] == "XUFAKrxLKna5cZ2REBfFkg=="
    async with http.get(path_of(file["url"]), headers={"Range": "bytes=1-3"}) as answer:
        assert (answer.status, await answer.read()) == (206, b"ell")


async def test_an_empty_file_is_a_file(client: Client, http: ClientSession) -> None:
    await start(client)
    assert await upload(client, http, "empty", b"") == 200
    assert [file["sizeBytes"] for file in await files(client)] == [0]


async def test_a_file_that_never_arrived_is_not_listed(client: Client) -> None:
    await start(client)
    await announce(client, "a.txt")
    assert await files(client) == []
    assert (await client.ask(LIST))["project"]["run"]["fileCount"] == 0


async def test_the_last_upload_of_a_name_wins(client: Client, http: ClientSession) -> None:
    await start(client)
    await upload(client, http, "a.txt", b"first")
    await upload(client, http, "a.txt", b"second!")
    (file,) = await files(client)
    assert file["sizeBytes"] == 7
    async with http.get(path_of(file["url"])) as answer:
        assert await answer.read() == b"second!"


async def test_files_are_chosen_by_name_or_pattern_and_paged(client: Client, http: ClientSession) -> None:
    await start(client)
    names = [f"media/{number}.png" for number in range(5)] + ["a.txt"]
    for name in names:
        await upload(client, http, name, name.encode())
    assert [file["name"] for file in await files(client, names=["a.txt", "none"])] == ["a.txt"]
    for pattern, found in {"media/%": names[:5], "MEDIA/_.png": names[:5], r"media/\_.png": []}.items():
        assert [file["name"] for file in await files(client, pattern=pattern)] == found
    assert len(await files(client, names=[])) == 6
    seen: list[str] = []
    after = None
    while True:
        page = (await client.ask(LIST, first=4, after=after))["project"]["run"]["files"]
        seen += [edge["node"]["name"] for edge in page["edges"]]
        after = page["edges"][-1]["cursor"]
        if not page["pageInfo"]["hasNextPage"]:
            break
    assert seen == names


async def test_a_deleted_file_is_gone(client: Client, http: ClientSession) -> None:
    await start(client)
    await upload(client, http, "a.txt", b"x")
    (file,) = await files(client)
    assert (await client.ask(DELETE, ids=[file["id"]]))["deleteFiles"]["success"] is True
    assert await files(client) == []
    async with http.get(path_of(file["url"])) as answer:
        assert answer.status == 404
    assert (await client.fail(DELETE, ids=[file["id"]]))[0] == 404


async def test_marking_files_does_not_revive_a_finished_run(client: Client) -> None:
    await start(client)
    await send(client, complete=True, exitcode=0)
    assert (await client.ask(MARK))["markRunFilesUploaded"]["success"] is True
    assert (await read(client))["state"] == "finished"


@pytest.mark.parametrize(
    "name", ["", "../a", "a/../../b", "/etc/passwd", "x" * 1025, "名" * 683], ids=lambda name: name[:9]
)
async def test_a_name_that_leads_elsewhere_is_refused(client: Client, name: str) -> None:
    await start(client)
    assert (await client.fail(CREATE, names=["good.txt", name]))[0] == 400


async def test_names_are_no_part_of_object_keys(client: Client) -> None:
    await start(client)
    (file,) = await announce(client, "secret name;.txt")
    assert "secret" not in file["uploadUrl"]


async def test_a_url_is_good_for_its_own_use_only(client: Client, http: ClientSession) -> None:
    await start(client)
    (file,) = await announce(client, "a.txt")
    path, query = path_of(file["uploadUrl"]).split("?")
    async with http.get(f"{path}?{query}") as reading, http.put(f"{path}0?{query}", data=b"x") as elsewhere:
        assert (reading.status, elsewhere.status) == (403, 403)
    async with http.put(path, data=b"x") as unsigned:
        assert unsigned.status == 403


async def test_a_missing_run_is_an_error_and_not_null(client: Client) -> None:
    """The client's service crashes on `createRunFiles: null` without errors."""
    assert (await client.fail(CREATE, names=["a.txt"]))[0] == 404


async def test_a_stranger_reaches_no_file(client: Client, services: Services, http: ClientSession) -> None:
    await start(client)
    await upload(client, http, "a.txt", b"x")
    (file,) = await files(client)
    stranger = await make_client(services, "stranger")
    assert (await stranger.fail(CREATE, names=["a.txt"]))[0] == 403
    assert await stranger.fail(DELETE, ids=[file["id"]]) == (404, "One of these files does not exist.")
    assert (await stranger.fail(MARK))[0] == 403
    assert len(await files(client)) == 1


async def test_an_upload_that_breaks_off_changes_nothing(client: Client, http: ClientSession) -> None:
    await start(client)
    await upload(client, http, "a.txt", b"whole")
    (file,) = await announce(client, "a.txt")

    async def broken() -> AsyncIterator[bytes]:
        yield b"half"
        raise ConnectionResetError

    with pytest.raises(ClientConnectionError):
        await http.put(path_of(file["uploadUrl"]), data=broken())
    (listed,) = await files(client)
    assert listed["sizeBytes"] == 5
    async with http.get(path_of(listed["url"])) as answer:
        assert await answer.read() == b"whole"
