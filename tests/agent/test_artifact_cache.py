"""Artifacts as local folders: verified, checked, fetched once."""

import asyncio
import base64
import errno
import hashlib
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from agent.caches.artifacts import ArtifactCache
from agent.caches.bounded import BoundedCache
from agent.caches.manifest import Limits, read_manifest
from agent.control_plane import ControlPlane
from agent.errors import ControlPlaneRefused, LaunchFailed
from agent.held import Launches
from agent.launch import Launch
from protocol.names import ArtifactName


class FakeServer:
    """Answers for one artifact, at the wire."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {"main.py": b"print('hi')", "package/module.py": b"x = 1"}
        self.artifact: dict[str, Any] | None = {"id": "QQ==", "digest": "d1", "state": "COMMITTED"}
        self.damaged = ""
        self.entries: dict[str, dict[str, Any]] | None = None
        self.downloads: list[str] = []
        self.cuts = 0
        """How many downloads are cut after a quarter of the largest file."""
        self.can_resume = True
        self.ranges: list[str | None] = []

    def app(self) -> web.Application:
        """Return the application."""
        app = web.Application()
        app.router.add_post("/graphql", self.graphql)
        app.router.add_get("/manifest", self.manifest)
        app.router.add_get("/file/{name:.+}", self.file)
        return app

    async def graphql(self, request: web.Request) -> web.Response:
        """Answer any of the three questions of the cache."""
        query = (await request.json())["query"]
        base = f"{request.scheme}://{request.host}"
        if "artifactCollectionMembership" in query:
            return self._data(
                {"project": {"artifactCollectionMembership": self.artifact and {"artifact": self.artifact}}}
            )
        if "currentManifest" in query:
            return self._data({"artifact": {"currentManifest": {"file": {"directUrl": f"{base}/manifest"}}}})
        if "files(" in query:
            edges = [{"node": {"name": name, "directUrl": f"{base}/file/{name}"}} for name in self.files]
            page = {"edges": edges, "pageInfo": {"endCursor": None, "hasNextPage": False}}
            return self._data({"artifact": {"files": page}})
        return self._data({"artifact": self.artifact})

    async def manifest(self, _: web.Request) -> web.Response:
        """Return the manifest."""
        entries = self.entries or {
            name: {"digest": md5(content), "size": len(content)} for name, content in self.files.items()
        }
        return web.Response(text=json.dumps({"contents": entries}))

    async def file(self, request: web.Request) -> web.StreamResponse:
        """Return a file's content."""
        name = request.match_info["name"]
        self.downloads.append(name)
        self.ranges.append(request.headers.get("Range"))
        content = b"damaged" if name == self.damaged else self.files[name]
        since = request.http_range.start or 0 if self.can_resume else 0
        content = content[since:]
        if not self.cuts:
            return web.Response(body=content, status=206 if since else 200)
        self.cuts -= 1
        response = web.StreamResponse(status=206 if since else 200, headers={"Content-Length": str(len(content))})
        await response.prepare(request)
        await response.write(content[: LARGEST // 4])
        await asyncio.sleep(0.05)  # what was written arrives before the end does
        assert request.transport
        request.transport.abort()
        return response

    def _data(self, data: Any) -> web.Response:
        return web.json_response({"data": data})


def md5(content: bytes) -> str:
    """Return a digest as manifests write it."""
    return base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()


@pytest.fixture
def fake() -> FakeServer:
    """A server for one artifact."""
    return FakeServer()


@pytest.fixture
async def cache(fake: FakeServer, tmp_path: Path) -> AsyncIterator[ArtifactCache]:
    """A cache that talks to it."""
    async with TestServer(fake.app()) as server:
        url = str(server.make_url("")).rstrip("/")
        async with ControlPlane(url, "key", random=Random(1)) as control:
            folders = BoundedCache(tmp_path / "artifacts", None, Launches().in_use)
            yield ArtifactCache(folders, control, Limits(file=LARGEST, total=2 * LARGEST))


LARGEST = 4 * 1024 * 1024
LAUNCH = Launch("item", 1, "q", {}, "run")
NAME = ArtifactName("e", "p", "code", "latest")


async def test_files_are_fetched_once(cache: ArtifactCache, fake: FakeServer) -> None:
    version = await cache.find(NAME)
    folder = await cache.fetch(version, LAUNCH)
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert found == fake.files
    assert await cache.fetch(version, LAUNCH) == folder
    assert sorted(fake.downloads) == sorted(fake.files)


async def test_a_damaged_file_is_refused_and_nothing_is_kept(
    cache: ArtifactCache, fake: FakeServer, tmp_path: Path
) -> None:
    fake.damaged = "main.py"
    with pytest.raises(LaunchFailed, match=r"'main\.py' of the code artifact arrived damaged"):
        await cache.fetch(await cache.find(NAME), LAUNCH)
    assert not left(tmp_path)
    fake.damaged = ""
    assert (await cache.fetch(await cache.find(NAME), LAUNCH)).is_dir()


def left(folder: Path) -> list[Path]:
    """Return what is in the cache."""
    return list((folder / "artifacts").iterdir())


async def test_a_file_that_is_larger_than_allowed_is_refused_before_anything_is_fetched(
    cache: ArtifactCache, fake: FakeServer, tmp_path: Path
) -> None:
    fake.entries = {"main.py": {"digest": md5(b"x"), "size": 1}, "model.bin": {"digest": "", "size": 10 * 1024**3}}
    with pytest.raises(LaunchFailed, match=r"'model\.bin' of the artifact has 10 GiB, .* at most 4 MiB \(limits\.file"):
        await cache.fetch(await cache.find(NAME), LAUNCH)
    assert not fake.downloads
    assert not left(tmp_path)


async def test_a_manifest_without_end_is_refused(
    cache: ArtifactCache, fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.caches.artifacts.LARGEST_MANIFEST", 100_000)
    fake.entries = {str(number): {"digest": "", "size": 1} for number in range(10_000)}
    with pytest.raises(LaunchFailed, match="too many files"):
        await cache.fetch(await cache.find(NAME), LAUNCH)
    assert not fake.downloads


async def test_all_files_together_are_limited(cache: ArtifactCache, fake: FakeServer) -> None:
    fake.entries = {str(number): {"digest": "", "size": LARGEST} for number in range(3)}
    with pytest.raises(LaunchFailed, match=r"The artifact has 12 MiB, .* at most 8 MiB \(limits\.total"):
        await cache.fetch(await cache.find(NAME), LAUNCH)
    assert not fake.downloads


async def test_a_file_that_is_larger_than_its_manifest_says_is_cut_off(
    cache: ArtifactCache, fake: FakeServer, tmp_path: Path
) -> None:
    fake.files = {"main.py": os.urandom(3 * LARGEST)}
    fake.entries = {"main.py": {"digest": md5(fake.files["main.py"]), "size": 1}}
    with pytest.raises(LaunchFailed, match=r"'main\.py' of the code artifact has more bytes than its manifest says"):
        await cache.fetch(await cache.find(NAME), LAUNCH)
    assert not left(tmp_path)


@pytest.mark.parametrize("can_resume", [True, False])
async def test_a_download_that_is_cut_goes_on_where_it_was(
    cache: ArtifactCache, fake: FakeServer, can_resume: bool
) -> None:
    content = os.urandom(LARGEST)
    fake.files, fake.cuts, fake.can_resume = {"model.bin": content}, 2, can_resume
    folder = await cache.fetch(await cache.find(NAME), LAUNCH)
    assert (folder / "model.bin").read_bytes() == content
    quarters = [0, 1, 2] if can_resume else [0, 1, 1]
    assert fake.ranges == [f"bytes={LARGEST // 4 * quarter}-" if quarter else None for quarter in quarters]


async def test_a_full_disk_leaves_nothing(
    cache: ArtifactCache, fake: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("agent.caches.artifacts._Arriving.write", full)
    with pytest.raises(OSError, match="No space left on device"):
        await cache.fetch(await cache.find(NAME), LAUNCH)
    assert not left(tmp_path)
    monkeypatch.undo()
    assert (await cache.fetch(await cache.find(NAME), LAUNCH)).is_dir()


async def test_a_file_that_the_server_has_lost_is_told(cache: ArtifactCache, fake: FakeServer) -> None:
    fake.entries = {name: {"digest": "", "size": 1} for name in fake.files}
    fake.files = {"main.py": b"x"}
    with pytest.raises(LaunchFailed, match=r"no content for 'package/module\.py'"):
        await cache.fetch(await cache.find(NAME), LAUNCH)


async def test_many_small_files_are_fetched(cache: ArtifactCache, fake: FakeServer) -> None:
    fake.files = {f"folder{number % 7}/{number}": bytes([number]) * number for number in range(100)}
    folder = await cache.fetch(await cache.find(NAME), LAUNCH)
    assert {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()} == (
        fake.files
    )
    assert len(fake.downloads) == 100


# --- what a manifest may say ------------------------------------------------------------------------------------------


def manifest(*names: str, **entry: Any) -> bytes:
    """Return a manifest of files with these names."""
    return json.dumps({"contents": {name: {"digest": md5(b"x"), "size": 1, **entry} for name in names}}).encode()


@pytest.mark.parametrize(
    "path",
    ["../outside", "/etc/passwd", "a/../../b", "..", "", ".", "//x", "a\\..\\..\\b", "C:/x", "C:x", "\\\\host\\x"],
)
def test_paths_out_of_the_folder_are_refused(path: str) -> None:
    with pytest.raises(LaunchFailed, match="outside of its folder"):
        read_manifest(manifest("main.py", path), Limits())


@pytest.mark.parametrize("path", ["a\0b", "n" * 256, "ö" * 128, "folder/" * 300 + "x", "\ud800"])
def test_paths_that_no_file_can_have_are_refused(path: str) -> None:
    with pytest.raises(LaunchFailed, match="cannot be a file's name here"):
        read_manifest(manifest("main.py", path), Limits())


@pytest.mark.parametrize(
    ("one", "other"), [("a", "a/b"), ("a/b/c", "a"), ("a/b", "a//b"), ("a/b", "./a/b"), ("a/b/c/d", "a/b")]
)
def test_paths_that_cannot_be_together_are_refused(one: str, other: str) -> None:
    with pytest.raises(LaunchFailed, match="The artifact names"):
        read_manifest(manifest(one, other), Limits())


def test_references_are_refused() -> None:
    with pytest.raises(LaunchFailed, match=r"'data' in the code artifact is a reference \(s3://bucket/data\)"):
        read_manifest(manifest("data", ref="s3://bucket/data"), Limits())


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b'{"contents": []}', b'{"contents": {"a": 1}}', b'{"contents": {"a": {"digest": "x"}}}']
    + [manifest("a", size=size) for size in (-1, "1", None, 1.5)]
    + [manifest("a", digest=None), b"\xff"],
)
def test_a_manifest_that_is_none_is_told(content: bytes) -> None:
    with pytest.raises(ControlPlaneRefused, match="manifest cannot be read"):
        read_manifest(content, Limits())


def test_names_of_other_tongues_and_dots_are_fine() -> None:
    names = ["данные/ä.py", "..hidden", "a..b/c", "with space", "ab:c"]
    assert [str(file.path) for file in read_manifest(manifest(*names), Limits())] == names


@pytest.mark.parametrize(
    ("artifact", "message"),
    [
        (None, "There is no artifact e/p/code:latest"),
        ({"id": "QQ==", "digest": "d1", "state": "DELETED"}, "was deleted"),
        ({"id": "QQ==", "digest": "d1", "state": "PENDING"}, "still being uploaded"),
    ],
)
async def test_a_version_that_is_not_there_is_told(
    cache: ArtifactCache, fake: FakeServer, artifact: dict[str, str] | None, message: str
) -> None:
    fake.artifact = artifact
    with pytest.raises(LaunchFailed, match=message):
        await cache.find(NAME)


async def test_what_a_version_has_is_known_without_its_files(fake: FakeServer, cache: ArtifactCache) -> None:
    version = await cache.find(NAME)
    files = await cache.files(version, LAUNCH)
    assert {str(file.path): file.size for file in files} == {"main.py": 11, "package/module.py": 5}
    assert fake.downloads == []
    fake.entries = {"other.py": {"digest": "", "size": 1}}
    assert await cache.files(version, LAUNCH) == files, "its manifest is fetched once"
    fake.entries = None
    folder = await cache.fetch(version, LAUNCH)
    assert {path.name for path in folder.iterdir()} == {"main.py", "package"}, "and is another thing than its contents"
