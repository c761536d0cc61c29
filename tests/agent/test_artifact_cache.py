"""Artifacts as local folders: verified, checked, fetched once."""

import base64
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from agent.caches.artifacts import ArtifactCache, ArtifactVersion
from agent.control_plane import ControlPlane
from agent.errors import LaunchFailed
from protocol.names import ArtifactName


class FakeServer:
    """Answers for one artifact, at the wire."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {"main.py": b"print('hi')", "package/module.py": b"x = 1"}
        self.artifact: dict[str, Any] | None = {"id": "QQ==", "digest": "d1", "state": "COMMITTED"}
        self.damaged = ""
        self.entries: dict[str, dict[str, Any]] | None = None
        self.downloads: list[str] = []

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
        entries = self.entries or {name: {"digest": md5(content), "size": 1} for name, content in self.files.items()}
        return web.Response(text=json.dumps({"contents": entries}))

    async def file(self, request: web.Request) -> web.Response:
        """Return a file's content."""
        name = request.match_info["name"]
        self.downloads.append(name)
        return web.Response(body=b"damaged" if name == self.damaged else self.files[name])

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
            yield ArtifactCache(tmp_path / "artifacts", control)


NAME = ArtifactName("e", "p", "code", "latest")


async def test_files_are_fetched_once(cache: ArtifactCache, fake: FakeServer) -> None:
    version = await cache.find(NAME)
    folder = await cache.fetch(version)
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert found == fake.files
    assert await cache.fetch(version) == folder
    assert sorted(fake.downloads) == sorted(fake.files)


async def test_a_damaged_file_is_refused_and_nothing_is_kept(
    cache: ArtifactCache, fake: FakeServer, tmp_path: Path
) -> None:
    fake.damaged = "main.py"
    with pytest.raises(LaunchFailed, match=r"'main\.py' of the code artifact arrived damaged"):
        await cache.fetch(await cache.find(NAME))
    assert [path.suffix for path in (tmp_path / "artifacts").iterdir()] == [".part"]
    fake.damaged = ""
    assert (await cache.fetch(await cache.find(NAME))).is_dir()


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "a/../../b"])
async def test_paths_out_of_the_folder_are_refused(cache: ArtifactCache, fake: FakeServer, path: str) -> None:
    fake.entries = {path: {"digest": md5(b"x"), "size": 1}}
    with pytest.raises(LaunchFailed, match="outside of its folder"):
        await cache.fetch(ArtifactVersion("QQ==", "d1"))


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
