"""Contents of artifacts as local folders, by artifact version: fetched once, verified, then only read.

A folder appears under its final name when it is complete; a crash leaves nothing but a temporary folder, which the next
start of the agent removes. Paths in an artifact are checked before they are joined.
"""

import asyncio
import base64
import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from agent.caches.single_flight import SingleFlight
from agent.control_plane import ControlPlane
from agent.errors import ControlPlaneRefused, LaunchFailed
from protocol.json_types import dig
from protocol.names import ArtifactName

PARALLEL_DOWNLOADS = 8
FILES_PER_PAGE = 1000


@dataclass(frozen=True, slots=True)
class ArtifactVersion:
    """One committed version of an artifact."""

    id: str
    digest: str


class ArtifactCache:
    """Folders of artifact contents under one root."""

    def __init__(self, root: Path, server: ControlPlane) -> None:
        self._root = root
        self._server = server
        self._making = SingleFlight()
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

    async def fetch(self, version: ArtifactVersion) -> Path:
        """Return a folder with the version's files, downloading them if they are not here yet. Only for reading."""
        # The digest is the server's word; only its hash becomes a path.
        folder = self._root / hashlib.sha256(f"{version.id}:{version.digest}".encode()).hexdigest()[:32]
        async with self._making.alone(folder):
            if not await asyncio.to_thread(folder.is_dir):
                await self._download(version, folder)
        return folder

    async def _download(self, version: ArtifactVersion, folder: Path) -> None:
        temporary = folder.with_suffix(".part")
        await asyncio.to_thread(shutil.rmtree, temporary, ignore_errors=True)
        await asyncio.to_thread(temporary.mkdir, parents=True)
        manifest = await self._manifest(version)
        urls = await self._urls(version)
        try:
            async with asyncio.TaskGroup() as downloads:
                for path, entry in manifest.items():
                    downloads.create_task(self._download_file(temporary, path, entry, urls))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from errors  # one is enough to know, and callers look for its class
        await asyncio.to_thread(temporary.rename, folder)

    async def _download_file(
        self, folder: Path, path: str, entry: Mapping[str, Any], urls: Mapping[str, str | None]
    ) -> None:
        target = _safe_join(folder, path)
        if entry.get("ref"):
            raise LaunchFailed(f"{path!r} in the code artifact is a reference ({entry['ref']}); log the file itself.")
        url = urls.get(path)
        if url is None:
            raise LaunchFailed(f"The server has no content for {path!r} of the code artifact. Log it again.")
        async with self._slots:
            content = await self._server.persist(lambda: self._server.download(url), doing=f"downloading {path}")
        found = base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()
        if found != entry["digest"]:
            raise LaunchFailed(f"{path!r} of the code artifact arrived damaged: MD5 {found}, not {entry['digest']}.")
        await asyncio.to_thread(_write, target, content)

    async def _manifest(self, version: ArtifactVersion) -> Mapping[str, Mapping[str, Any]]:
        data = await self._server.ask(
            """query FetchArtifactManifest($id: ID!) {
                 artifact(id: $id) { currentManifest { file { directUrl } } }
               }""",
            id=version.id,
        )
        if not data["artifact"] or not data["artifact"]["currentManifest"]:
            raise LaunchFailed(f"Artifact {version.id} has no manifest: its upload was never finished. Log it again.")
        url: str = data["artifact"]["currentManifest"]["file"]["directUrl"]
        content = await self._server.download(url)
        return _manifest_entries(content)

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


def _version(raw: Mapping[str, Any] | None, what: str) -> ArtifactVersion:
    if raw is None:
        raise LaunchFailed(f"There is no artifact {what}, or this agent's API key may not see it.")
    if raw["state"] == "DELETED":
        raise LaunchFailed(f"The artifact {what} was deleted. Make the job again from code that still exists.")
    if raw["state"] != "COMMITTED":
        raise LaunchFailed(f"The artifact {what} is still being uploaded. Push the job again when that is done.")
    return ArtifactVersion(raw["id"], raw["digest"])


def _manifest_entries(content: bytes) -> Mapping[str, Mapping[str, Any]]:
    try:
        return json.loads(content)["contents"]
    except (ValueError, KeyError, TypeError) as error:
        raise ControlPlaneRefused("The artifact's manifest cannot be read.") from error


def _safe_join(folder: Path, path: str) -> Path:
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts or not parts.parts:
        raise LaunchFailed(f"The artifact names a file {path!r}, which would lie outside of its folder.")
    return folder.joinpath(*parts.parts)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
