"""Uploads and downloads by signed URL, small ones and large ones alike."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import ClientConnectionError, ClientSession
from aiohttp.test_utils import TestClient, TestServer

from server.app import build_app
from server.context import Services
from server.object_store import LocalObjectStore
from server.storage_routes import SMALL_BYTES
from tests.server.test_artifacts import md5

SIZES = pytest.mark.parametrize("size", [0, 1, SMALL_BYTES, SMALL_BYTES + 1, 3 * SMALL_BYTES])


@pytest.fixture
def database_url() -> None:
    """One engine is enough: nothing here is about it."""


@pytest.fixture
async def http(services: Services) -> AsyncIterator[ClientSession]:
    """A client of the server's HTTP."""
    async with TestClient(TestServer(build_app(services))) as client:
        yield client  # type: ignore[misc] -- it has the methods of a session


def text_of(size: int) -> bytes:
    """Return some content of that size."""
    return bytes(number % 251 for number in range(size))


def stored(tmp_path: Path) -> list[bytes]:
    """Return all that the store has, and what is left of uploads."""
    return [path.read_bytes() for path in (tmp_path / "data" / "objects").rglob("*") if path.is_file()]


@SIZES
async def test_what_goes_in_comes_out(services: Services, http: ClientSession, size: int) -> None:
    objects, sent = services.objects, text_of(size)
    async with http.put(objects.upload_url("", "contents/k", md5=md5(sent)), data=sent) as answer:
        assert answer.status == 200
    async with http.get(objects.download_url("", "contents/k")) as answer:
        assert (answer.status, answer.content_length, await answer.read()) == (200, size, sent)
    async with http.head(objects.download_url("", "contents/k")) as answer:
        assert (answer.status, answer.content_length or 0, await answer.read()) == (200, size, b"")
    if size:
        async with http.get(objects.download_url("", "contents/k"), headers={"Range": "bytes=0-0"}) as answer:
            assert (answer.status, await answer.read()) == (206, sent[:1])
        past = {"Range": f"bytes={size}-"}
        async with http.get(objects.download_url("", "contents/k"), headers=past) as answer:
            assert answer.status == 416


@SIZES
async def test_another_content_than_the_announced_one_is_refused(
    services: Services, http: ClientSession, tmp_path: Path, size: int
) -> None:
    async with http.put(services.objects.upload_url("", "k", md5=md5(b"announced")), data=text_of(size)) as answer:
        assert answer.status == 400
        assert "was announced. Upload it again" in await answer.text()
    assert stored(tmp_path) == []


@pytest.mark.parametrize("size", [100, 3 * SMALL_BYTES])
async def test_an_upload_that_is_cut_short_leaves_nothing(
    services: Services, http: ClientSession, tmp_path: Path, size: int
) -> None:
    async def half() -> AsyncIterator[bytes]:
        yield text_of(size // 2)
        await asyncio.sleep(0)
        raise ConnectionResetError

    with pytest.raises(ClientConnectionError):
        await http.put(services.objects.upload_url("", "k"), data=half(), headers={"Content-Length": str(size)})
    async with asyncio.timeout(60):
        while stored(tmp_path):  # noqa: ASYNC110 -- nothing else tells that the server has seen it
            await asyncio.sleep(0.01)
    async with http.get(services.objects.download_url("", "k")) as answer:
        assert (answer.status, "never arrived" in await answer.text()) == (404, True)


async def test_an_upload_replaces_what_was_there_as_a_whole(services: Services, http: ClientSession) -> None:
    for sent in (text_of(10), text_of(SMALL_BYTES + 1), b""):
        async with http.put(services.objects.upload_url("", "k"), data=sent) as answer:
            assert answer.status == 200
        assert await services.objects.read("k") == sent


async def test_the_file_of_a_url_that_ran_out_is_refused(services: Services, tmp_path: Path) -> None:
    assert isinstance(services.objects, LocalObjectStore)
    late = LocalObjectStore(tmp_path / "data" / "objects", b"secret", clock=lambda: 0)
    url = late.download_url("", "k")
    async with TestClient(TestServer(build_app(services))) as http, http.get(url) as answer:
        assert answer.status == 403


@pytest.mark.parametrize("key", ["", "/etc/passwd", "a/../b", ".arriving/x", "a//b", "a/."])
async def test_a_key_stays_inside_of_the_store(services: Services, http: ClientSession, key: str) -> None:
    async with http.put(services.objects.upload_url("", key), data=b"x") as answer:
        assert answer.status in {400, 403, 404}
