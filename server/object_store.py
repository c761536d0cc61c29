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
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import quote, urlencode

from server.errors import Conflict, Forbidden, RequestError

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

    async def info(self, key: str) -> ObjectInfo | None:
        """Return what is stored under a key, or None if there is nothing."""
        ...

    async def read(self, key: str) -> bytes | None:
        """Return the whole object, or None if there is none."""
        ...

    async def write(self, key: str, content: bytes) -> None:
        """Store a small object."""
        ...

    async def delete(self, key: str) -> None:
        """Remove the object; removing what is not there is fine."""
        ...


class LocalObjectStore:
    """A folder of files, served by this server itself under `/storage/`."""

    tells_arrivals = True

    def __init__(self, root: Path, secret: bytes, clock: Callable[[], float] = time.time) -> None:
        self._root = root
        self._secret = secret
        self._clock = clock

    @classmethod
    def open(cls, root: Path, secret_file: Path) -> "LocalObjectStore":
        """Use `root` as the store and the secret in `secret_file`, made at the first use, to sign URLs."""
        root.mkdir(parents=True, exist_ok=True)
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
        path = (self._root / key).resolve()
        if not path.is_relative_to(self._root.resolve()):
            raise RequestError(f"{key!r} is not a valid object key.")
        return path

    async def receive(self, key: str, chunks: AsyncIterator[bytes], md5: str) -> ObjectInfo:
        """Store an upload as it comes in. Refuses content whose MD5 is not the signed one."""
        path = self.path_of(key)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")
        await asyncio.to_thread(path.parent.mkdir, parents=True, exist_ok=True)
        digest = hashlib.md5(usedforsecurity=False)
        size = 0
        file = await asyncio.to_thread(temporary.open, "wb")
        try:
            async for chunk in chunks:
                digest.update(chunk)
                size += len(chunk)
                await asyncio.to_thread(file.write, chunk)
            await asyncio.to_thread(file.close)
            received = base64.b64encode(digest.digest()).decode()
            if md5 and md5 != received:
                raise Conflict(f"The upload's MD5 is {received}, but {md5} was announced. Upload it again.")
            await asyncio.to_thread(temporary.replace, path)
        finally:
            file.close()
            await asyncio.to_thread(temporary.unlink, missing_ok=True)
        return ObjectInfo(size, received)

    async def info(self, key: str) -> ObjectInfo | None:
        """See `ObjectStore.info`."""
        try:
            return ObjectInfo((await asyncio.to_thread(self.path_of(key).stat)).st_size, "")
        except FileNotFoundError:
            return None

    async def read(self, key: str) -> bytes | None:
        """See `ObjectStore.read`."""
        try:
            return await asyncio.to_thread(self.path_of(key).read_bytes)
        except FileNotFoundError:
            return None

    async def write(self, key: str, content: bytes) -> None:
        """See `ObjectStore.write`."""

        async def once() -> AsyncIterator[bytes]:
            yield content

        await self.receive(key, once(), md5="")

    async def delete(self, key: str) -> None:
        """See `ObjectStore.delete`."""
        await asyncio.to_thread(self.path_of(key).unlink, missing_ok=True)

    def _url(self, method: str, base_url: str, key: str, md5: str) -> str:
        expires = str(int(self._clock()) + URL_LIFETIME_SECONDS)
        query = {"expires": expires, "signature": self._signature(method, key, expires, md5)}
        if md5:
            query["md5"] = md5
        return f"{base_url}/storage/{quote(key)}?{urlencode(query)}"

    def _signature(self, method: str, key: str, expires: str, md5: str) -> str:
        text = "\n".join((method, key, expires, md5))
        return hmac.new(self._secret, text.encode(), hashlib.sha256).hexdigest()


def _make_secret(path: Path) -> None:
    """Write a new secret, unless another server process is faster: then all use that one."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(secrets.token_bytes(32))
    with contextlib.suppress(FileExistsError):
        os.link(temporary, path)
    temporary.unlink()
