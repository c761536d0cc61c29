"""Where bytes live: files of runs, contents and manifests of artifacts.

Clients upload and download by URL, without credentials, so every URL signs itself: method, key, expiry and, for
uploads whose content is known beforehand, its MD5. The local store keeps each object as a file; a half-received upload
is never visible under its key.
"""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar
from urllib.parse import quote, urlencode

import structlog

from server.errors import Conflict, Forbidden, RequestError

T = TypeVar("T")

log = structlog.get_logger(__name__)

URL_LIFETIME_SECONDS = 24 * 3600
"""Long enough for a client that retries an upload through an outage."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What is stored under a key."""

    size_bytes: int
    md5: str
    """Base64, as artifact manifests write it. Empty where the store does not know it."""


@dataclass(frozen=True, slots=True)
class Parts:
    """An upload in parts that has begun."""

    upload_id: str
    urls: Mapping[int, str]
    """Where to PUT each part."""


class ObjectStore(Protocol):
    """Objects by key. Keys are made by the server and contain only safe path parts."""

    tells_arrivals: bool
    """Whether uploads come through this server, which so knows what has arrived. Else it has to look (`info`)."""

    def upload_url(self, base_url: str, key: str, *, md5: str = "") -> str:
        """Return an absolute URL that accepts one PUT of the object; with `md5` (base64), only of that content."""
        ...

    def upload_headers(self, md5: str) -> list[str]:
        """Return the headers, as `Name:value`, that a PUT to such a URL must have."""
        ...

    async def begin_parts(self, key: str, part_numbers: Sequence[int]) -> Parts | None:
        """Prepare an upload of an object in parts; None if the store takes it only as a whole."""
        ...

    async def complete_parts(self, key: str, upload_id: str, etags: Mapping[int, str]) -> None:
        """Put the parts of an upload together; what the store said of each one is told by number."""
        ...

    def download_url(self, base_url: str, key: str) -> str:
        """Return an absolute URL that answers GET, with ranges."""
        ...

    async def infos(self, keys: Sequence[str]) -> Mapping[str, ObjectInfo]:
        """Return what is stored under those of the keys under which there is something."""
        ...

    async def read(self, key: str) -> bytes | None:
        """Return the whole object, or None if there is none."""
        ...

    async def write(self, key: str, content: bytes) -> None:
        """Store a small object."""
        ...

    async def delete(self, keys: Sequence[str]) -> Collection[str]:
        """Remove objects; removing what is not there is fine. Returns the keys of those that could not be removed."""
        ...

    async def remove_unfinished(self, before: float) -> int:
        """Remove what is left of uploads that broke off before a time; returns of how many."""
        ...


class LocalObjectStore:
    """A folder of files, served by this server itself under `/storage/`."""

    tells_arrivals = True

    def __init__(self, root: Path, secret: bytes, clock: Callable[[], float] = time.time) -> None:
        self._root = root
        self._arriving = root / ".arriving"
        self._secret = secret
        self._clock = clock

    @classmethod
    def open(cls, root: Path, secret_file: Path) -> "LocalObjectStore":
        """Use `root` as the store and the secret in `secret_file`, made at the first use, to sign URLs."""
        (root / ".arriving").mkdir(parents=True, exist_ok=True)
        if not secret_file.exists():
            _make_secret(secret_file)
        return cls(root, secret_file.read_bytes())

    def upload_url(self, base_url: str, key: str, *, md5: str = "") -> str:
        """See `ObjectStore.upload_url`."""
        return self._url("PUT", base_url, key, md5)

    def download_url(self, base_url: str, key: str) -> str:
        """See `ObjectStore.download_url`."""
        return self._url("GET", base_url, key, "")

    def upload_headers(self, md5: str) -> list[str]:
        """See `ObjectStore.upload_headers`: the URL says it all."""
        return []

    async def begin_parts(self, key: str, part_numbers: Sequence[int]) -> Parts | None:
        """See `ObjectStore.begin_parts`: one request may bring as much as there is."""
        return None

    async def complete_parts(self, key: str, upload_id: str, etags: Mapping[int, str]) -> None:
        """See `ObjectStore.complete_parts`."""
        raise RequestError("Nothing is uploaded in parts here.")

    def check(self, method: str, key: str, expires: str, md5: str, signature: str) -> None:
        """Raise `Forbidden` unless the signature is ours and still valid."""
        wanted = self._signature(method, key, expires, md5)
        if not hmac.compare_digest(wanted, signature):
            raise Forbidden("The signature of this URL is wrong. Ask the server for a fresh URL.")
        if float(expires) < self._clock():
            raise Forbidden("This URL has expired. Ask the server for a fresh one.")

    def path_of(self, key: str) -> Path:
        """Return the file behind a key; refuses keys that would leave the store."""
        if not all(part and not part.startswith(".") for part in key.split("/")):
            raise RequestError(f"{key!r} is not a valid object key.")
        return self._root / key

    async def receive(self, key: str, chunks: AsyncIterator[bytes], md5: str) -> ObjectInfo:
        """Store an upload as it comes in. Refuses content whose MD5 is not the signed one."""
        path, temporary = self.path_of(key), self._temporary()
        digest = hashlib.md5(usedforsecurity=False)
        size = 0
        with contextlib.ExitStack() as leaving:
            leaving.callback(temporary.unlink, missing_ok=True)
            file = await _in_thread(lambda: leaving.enter_context(temporary.open("wb")))
            async for chunk in chunks:
                size += len(chunk)
                summed = _in_thread(lambda chunk=chunk: digest.update(chunk))
                written = _in_thread(lambda chunk=chunk: file.write(chunk))
                await asyncio.gather(summed, written)  # each takes about as long
            await _in_thread(file.close)
            info = _checked(size, digest.digest(), md5)
            await _in_thread(lambda: _move(temporary, path))
        return info

    async def infos(self, keys: Sequence[str]) -> Mapping[str, ObjectInfo]:
        """See `ObjectStore.infos`."""

        def work() -> Mapping[str, ObjectInfo]:
            found: dict[str, ObjectInfo] = {}
            for key in keys:
                with contextlib.suppress(FileNotFoundError):
                    found[key] = ObjectInfo(self.path_of(key).stat().st_size, "")
            return found

        return await asyncio.to_thread(work)

    async def read(self, key: str) -> bytes | None:
        """See `ObjectStore.read`."""
        try:
            return await asyncio.to_thread(self.path_of(key).read_bytes)
        except FileNotFoundError:
            return None

    async def write(self, key: str, content: bytes) -> None:
        """See `ObjectStore.write`."""
        await self.keep(key, content, md5="")

    async def keep(self, key: str, content: bytes, md5: str) -> ObjectInfo:
        """Store a small upload, which is all here. Refuses content whose MD5 is not the signed one."""
        path = self.path_of(key)

        def work() -> ObjectInfo:
            info = _checked(len(content), hashlib.md5(content, usedforsecurity=False).digest(), md5)
            temporary = self._temporary()
            try:
                temporary.write_bytes(content)
                _move(temporary, path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
            return info

        return await asyncio.to_thread(work)

    async def delete(self, keys: Sequence[str]) -> Collection[str]:
        """See `ObjectStore.delete`."""
        return await asyncio.to_thread(lambda: [key for key in keys if not _remove(self.path_of(key), self._root)])

    async def remove_unfinished(self, before: float) -> int:
        """See `ObjectStore.remove_unfinished`."""

        def work() -> int:
            removed = 0
            for path in self._arriving.iterdir():
                with contextlib.suppress(FileNotFoundError):  # it has arrived
                    if path.stat().st_mtime < before:
                        path.unlink()
                        removed += 1
            return removed

        return await asyncio.to_thread(work)

    def _temporary(self) -> Path:
        """Return a new file for what is on its way. It is on the same file system as what it will be."""
        return self._arriving / secrets.token_hex(8)

    def _url(self, method: str, base_url: str, key: str, md5: str) -> str:
        expires = str(int(self._clock()) + URL_LIFETIME_SECONDS)
        query = {"expires": expires, "signature": self._signature(method, key, expires, md5)}
        if md5:
            query["md5"] = md5
        return f"{base_url}/storage/{quote(key)}?{urlencode(query)}"

    def _signature(self, method: str, key: str, expires: str, md5: str) -> str:
        text = "\n".join((method, key, expires, md5))
        return hmac.new(self._secret, text.encode(), hashlib.sha256).hexdigest()


async def _in_thread(work: Callable[[], T]) -> T:
    """Work in a thread. A cancellation waits for it, so that nothing is made when all has been cleaned up."""
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


def _checked(size: int, digest: bytes, md5: str) -> ObjectInfo:
    """Return what was received; `Conflict` unless it has the MD5 that was announced, if one was."""
    received = base64.b64encode(digest).decode()
    if md5 and md5 != received:
        raise Conflict(f"The upload's MD5 is {received}, but {md5} was announced. Upload it again.")
    return ObjectInfo(size, received)


def _move(temporary: Path, path: Path) -> None:
    """Put a whole upload where it belongs. The folder may be missing, and others may remove it while it is empty."""
    while True:
        try:
            temporary.replace(path)
        except FileNotFoundError:
            if not temporary.exists():
                raise
            path.parent.mkdir(parents=True, exist_ok=True)
        else:
            return


def _remove(path: Path, root: Path) -> bool:
    """Remove a file, and the folders that are empty without it; returns whether it is gone."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("an object could not be removed; tried again later", path=str(path), error=str(error))
        return False
    for folder in path.relative_to(root).parents[:-1]:
        with contextlib.suppress(OSError):  # it is not empty, or is gone
            (root / folder).rmdir()
    return True


def _make_secret(path: Path) -> None:
    """Write a new secret, unless another server process is faster: then all use that one."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(secrets.token_bytes(32))
    with contextlib.suppress(FileExistsError):
        os.link(temporary, path)
    temporary.unlink()
