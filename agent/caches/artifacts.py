"""Contents of artifacts as local folders, by artifact version: fetched once, verified, then only read.

Files go to the disk as they arrive, several at a time. What the manifest says is checked before anything is fetched
(`agent/caches/manifest.py`), and what arrives is held against it.
"""

import asyncio
import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.caches.bounded import BoundedCache
from agent.caches.manifest import File, Limits, read_manifest
from agent.config.forms import size_text
from agent.control_plane import ControlPlane
from agent.errors import ControlPlaneRefused, LaunchFailed
from agent.launch import Launch
from protocol.json_types import dig
from protocol.names import ArtifactName

MANIFEST = "manifest.json"
PARALLEL_DOWNLOADS = 8
FILES_PER_PAGE = 1000
LARGEST_MANIFEST = 128 * 1024 * 1024
"""Bytes; half a million files or so."""


@dataclass(frozen=True, slots=True)
class ArtifactVersion:
    """One committed version of an artifact."""

    id: str
    digest: str


class ArtifactCache:
    """Folders of artifact contents."""

    def __init__(self, folders: BoundedCache, server: ControlPlane, limits: Limits) -> None:
        self._folders = folders
        self._server = server
        self._limits = limits
        self._slots = asyncio.Semaphore(PARALLEL_DOWNLOADS)

    async def find(self, name: ArtifactName) -> ArtifactVersion:
        """Return the version that a reference points at now; `LaunchFailed` if there is none."""
        data = await self._server.ask(
            """query ArtifactMembershipByName($entity: String!, $project: String!, $name: String!) {
                 project(name: $project, entityName: $entity) {
                   artifactCollectionMembership(name: $name) { artifact { id digest state } }
                 }
               }""",
            entity=name.entity,
            project=name.project,
            name=f"{name.collection}:{name.version}",
        )
        return _version(dig(data, "project", "artifactCollectionMembership", "artifact"), str(name))

    async def by_id(self, artifact_id: str) -> ArtifactVersion:
        """Return a version by its id; `LaunchFailed` if it is gone."""
        data = await self._server.ask(
            "query ArtifactByID($id: ID!) { artifact(id: $id) { id digest state } }", id=artifact_id
        )
        return _version(data["artifact"], f"with id {artifact_id}")

    async def fetch(self, version: ArtifactVersion, launch: Launch) -> Path:
        """Return a folder with the version's files, downloading them if they are not here yet. Only for reading."""
        return await self._folders.get(_key(version), launch, lambda folder: self._download(version, folder))

    async def files(self, version: ArtifactVersion, launch: Launch) -> Sequence[File]:
        """Return what the version's files are; nothing but its manifest is downloaded."""

        async def make(folder: Path) -> None:
            content = await self._manifest(version)
            await asyncio.to_thread(folder.mkdir)
            await asyncio.to_thread((folder / MANIFEST).write_bytes, content)

        folder = await self._folders.get(_key(version, MANIFEST), launch, make)
        return read_manifest(await asyncio.to_thread((folder / MANIFEST).read_bytes), self._limits)

    async def _download(self, version: ArtifactVersion, folder: Path) -> None:
        files = read_manifest(await self._manifest(version), self._limits)
        urls = await self._urls(version)
        await asyncio.to_thread(_make_tree, folder, files)
        waiting = iter(files)
        try:
            async with asyncio.TaskGroup() as downloads:
                for _ in range(PARALLEL_DOWNLOADS):
                    downloads.create_task(self._download_files(folder, waiting, urls))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from errors  # one is enough to know, and callers look for its class

    async def _download_files(self, folder: Path, waiting: Iterator[File], urls: Mapping[str, str | None]) -> None:
        for file in waiting:
            url = urls.get(file.name)
            if url is None:
                raise LaunchFailed(f"The server has no content for {file.name!r} of the code artifact. Log it again.")
            async with self._slots:
                await self._download_file(file, url, folder / file.path)

    async def _download_file(self, file: File, url: str, path: Path) -> None:
        arriving = _Arriving(file, path)

        async def download() -> None:
            async with aclosing(self._server.stream(url, arriving.size)) as pieces:
                async for offset, data in pieces:
                    await asyncio.to_thread(arriving.write, offset, data)

        try:
            await self._server.persist(download, doing=f"downloading {file.name}")
        except ControlPlaneRefused as error:
            raise LaunchFailed(f"{file.name!r} of the code artifact cannot be downloaded: {error}") from error
        arriving.check()

    async def _manifest(self, version: ArtifactVersion) -> bytes:
        data = await self._server.ask(
            """query FetchArtifactManifest($id: ID!) {
                 artifact(id: $id) { currentManifest { file { directUrl } } }
               }""",
            id=version.id,
        )
        if not data["artifact"] or not data["artifact"]["currentManifest"]:
            raise LaunchFailed(f"Artifact {version.id} has no manifest: its upload was never finished. Log it again.")
        url: str = data["artifact"]["currentManifest"]["file"]["directUrl"]
        content = bytearray()
        async with aclosing(self._server.stream(url)) as pieces:
            async for _, data in pieces:
                content += data
                if len(content) > LARGEST_MANIFEST:
                    raise LaunchFailed(
                        f"The artifact's manifest has more than {size_text(LARGEST_MANIFEST)}: too many files for a "
                        "launch's code. Log data as an artifact of its own, which the job fetches."
                    )
        return bytes(content)

    async def _urls(self, version: ArtifactVersion) -> dict[str, str | None]:
        found: dict[str, str | None] = {}
        cursor: str | None = None
        while True:
            data = await self._server.ask(
                """query GetArtifactFileUrls($id: ID!, $cursor: String, $perPage: Int) {
                     artifact(id: $id) {
                       files(after: $cursor, first: $perPage) {
                         edges { node { name directUrl } } pageInfo { endCursor hasNextPage }
                       }
                     }
                   }""",
                id=version.id,
                cursor=cursor,
                perPage=FILES_PER_PAGE,
            )
            page = data["artifact"]["files"]
            found.update({edge["node"]["name"]: edge["node"]["directUrl"] for edge in page["edges"]})
            if not page["pageInfo"]["hasNextPage"]:
                return found
            cursor = page["pageInfo"]["endCursor"]


def _key(version: ArtifactVersion, *what: str) -> str:
    # The digest is the server's word; only its hash becomes a path.
    return hashlib.sha256(":".join((version.id, version.digest, *what)).encode()).hexdigest()[:32]


def _version(raw: Mapping[str, Any] | None, what: str) -> ArtifactVersion:
    if raw is None:
        raise LaunchFailed(f"There is no artifact {what}, or this agent's API key may not see it.")
    if raw["state"] == "DELETED":
        raise LaunchFailed(f"The artifact {what} was deleted. Make the job again from code that still exists.")
    if raw["state"] != "COMMITTED":
        raise LaunchFailed(f"The artifact {what} is still being uploaded. Push the job again when that is done.")
    return ArtifactVersion(raw["id"], raw["digest"])


class _Arriving:
    """A file on its way to the disk, where it is already, empty."""

    def __init__(self, file: File, path: Path) -> None:
        self._file = file
        self._path = path
        self._md5 = hashlib.md5(usedforsecurity=False)
        self.size = 0
        """How much of it is here, in bytes."""

    def write(self, offset: int, data: bytes) -> None:
        """Take a piece, which is the next or the first again. Blocks."""
        goes_on = offset == self.size
        if not goes_on:
            self._md5, self.size = hashlib.md5(usedforsecurity=False), 0
        if self.size + len(data) > self._file.size:
            raise LaunchFailed(
                f"{self._file.name!r} of the code artifact has more bytes than its manifest says. Log it again."
            )
        # Not kept open: a thread that is left to itself when the launch is stopped leaves no file open.
        with self._path.open("ab" if goes_on else "wb") as content:
            content.write(data)
        self._md5.update(data)
        self.size += len(data)

    def check(self) -> None:
        """Raise `LaunchFailed` unless it is what the manifest says."""
        found = base64.b64encode(self._md5.digest()).decode()
        if found != self._file.md5:
            raise LaunchFailed(
                f"{self._file.name!r} of the code artifact arrived damaged: {self.size} bytes with MD5 {found}, not "
                f"{self._file.size} with {self._file.md5}."
            )


def _make_tree(folder: Path, files: Sequence[File]) -> None:
    for each in {folder, *(folder / file.path.parent for file in files)}:
        each.mkdir(parents=True, exist_ok=True)
    for file in files:
        (folder / file.path).touch(exist_ok=False)
