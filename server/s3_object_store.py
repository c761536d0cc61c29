"""Objects in a bucket of Amazon S3, or of anything that speaks its protocol. The one module that knows boto3.

Clients upload to the bucket and download from it, by URLs that we sign. So bytes do not pass through this server, which
has to look whether they have arrived. Credentials, region and endpoint come from where boto3 looks for them:
environment (`AWS_ACCESS_KEY_ID`, `AWS_REGION`, `AWS_ENDPOINT_URL_S3`, ...), files, the machine's role.
"""

import asyncio
import base64
import contextlib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import boto3  # type: ignore[import-untyped]
import structlog
from botocore.config import Config  # type: ignore[import-untyped]
from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]

from protocol.errors import LaunchbayError
from server import object_keys
from server.errors import Conflict
from server.object_store import URL_LIFETIME_SECONDS, ObjectInfo, Parts

T = TypeVar("T")

log = structlog.get_logger(__name__)

CONNECTIONS = 32
"""Looking whether the thousands of files of an artifact have arrived takes one request each."""
_PLAIN_ETAG = re.compile(r'"?([0-9a-f]{32})"?')
"""The MD5 of an object that came in one piece and is not encrypted with a key of one's own."""
_MISSING = {"404", "NoSuchKey"}


class BucketUnusable(LaunchbayError):
    """The object store cannot be used as it was given."""

    code = "object_store_unusable"


class S3ObjectStore:
    """A bucket, or what is in it below a prefix."""

    tells_arrivals = False

    def __init__(self, client: Any, bucket: str, prefix: str) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = prefix
        self._threads = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="s3")

    @classmethod
    def open(cls, url: str) -> "S3ObjectStore":
        """Use `s3://bucket/prefix`; `BucketUnusable` says what is wrong with it."""
        parts = urlsplit(url)
        if parts.scheme != "s3" or not parts.netloc:
            raise BucketUnusable(f"{url!r} is no object store. Use s3://BUCKET or s3://BUCKET/PREFIX.")
        prefix = parts.path.strip("/")
        try:
            client = _client()
            client.head_bucket(Bucket=parts.netloc)
        except (BotoCoreError, ClientError) as error:
            raise BucketUnusable(f"The bucket {parts.netloc!r} cannot be used: {error}") from error
        return cls(client, parts.netloc, f"{prefix}/" if prefix else "")

    def upload_url(self, base_url: str, key: str, *, md5: str = "") -> str:
        """See `ObjectStore.upload_url`. The store itself refuses other content than that of the MD5."""
        return self._url("put_object", key, **({"ContentMD5": md5} if md5 else {}))

    def upload_headers(self, md5: str) -> list[str]:
        """See `ObjectStore.upload_headers`: what was signed has to be sent."""
        return [f"Content-MD5:{md5}"] if md5 else []

    def download_url(self, base_url: str, key: str) -> str:
        """See `ObjectStore.download_url`."""
        return self._url("get_object", key)

    async def begin_parts(self, key: str, part_numbers: Sequence[int]) -> Parts | None:
        """See `ObjectStore.begin_parts`."""
        begun = await self._call(self._client.create_multipart_upload, key)
        upload_id: str = begun["UploadId"]
        urls = {number: self._url("upload_part", key, UploadId=upload_id, PartNumber=number) for number in part_numbers}
        return Parts(upload_id, urls)

    async def complete_parts(self, key: str, upload_id: str, etags: Mapping[int, str]) -> None:
        """See `ObjectStore.complete_parts`."""
        parts = [{"PartNumber": number, "ETag": etag} for number, etag in sorted(etags.items())]
        try:
            await self._call(
                self._client.complete_multipart_upload, key, UploadId=upload_id, MultipartUpload={"Parts": parts}
            )
        except ClientError as error:
            # A second word of the same upload comes when the first answer was lost.
            if not await self.infos([key]):
                raise Conflict(f"The parts of the upload cannot be put together: {error}. Log it again.") from error

    async def infos(self, keys: Sequence[str]) -> Mapping[str, ObjectInfo]:
        """See `ObjectStore.infos`."""
        found = await asyncio.gather(*(self._if_there(self._client.head_object, key) for key in keys))
        return {key: _info(head) for key, head in zip(keys, found, strict=True) if head is not None}

    async def read(self, key: str) -> bytes | None:
        """See `ObjectStore.read`."""
        found = await self._if_there(self._client.get_object, key)
        return None if found is None else await self._in_thread(found["Body"].read)

    async def write(self, key: str, content: bytes) -> None:
        """See `ObjectStore.write`."""
        await self._call(self._client.put_object, key, Body=content)

    async def delete(self, keys: Sequence[str]) -> Collection[str]:
        """See `ObjectStore.delete`."""
        objects = [{"Key": self._prefix + key} for key in keys]
        asked = {"Bucket": self._bucket, "Delete": {"Objects": objects, "Quiet": True}}
        answer = await self._in_thread(lambda: self._client.delete_objects(**asked))
        failures: list[dict[str, str]] = answer.get("Errors", [])
        for failure in failures:
            log.warning(
                "an object could not be removed; tried again later", key=failure["Key"], error=failure["Message"]
            )
        return {failure["Key"].removeprefix(self._prefix) for failure in failures}

    async def remove_unfinished(self, before: float) -> int:
        """See `ObjectStore.remove_unfinished`. What came in one piece is whole, or not there.

        Others may have uploads in the bucket, too: only those of keys like ours are aborted.
        """

        def work() -> int:
            pages = self._client.get_paginator("list_multipart_uploads")
            begun = pages.paginate(Bucket=self._bucket, Prefix=self._prefix + object_keys.CONTENTS)
            uploads = [upload for page in begun for upload in page.get("Uploads", [])]
            old = [upload for upload in uploads if upload["Initiated"].timestamp() < before]
            for upload in old:
                with contextlib.suppress(self._client.exceptions.NoSuchUpload):
                    named = {"Key": upload["Key"], "UploadId": upload["UploadId"]}
                    self._client.abort_multipart_upload(Bucket=self._bucket, **named)
            return len(old)

        return await self._in_thread(work)

    async def _if_there(self, method: Callable[..., dict[str, Any]], key: str) -> dict[str, Any] | None:
        try:
            return await self._call(method, key)
        except ClientError as error:
            if error.response["Error"]["Code"] in _MISSING:
                return None
            raise

    async def _call(self, method: Callable[..., dict[str, Any]], key: str, **arguments: Any) -> dict[str, Any]:
        return await self._in_thread(lambda: method(Bucket=self._bucket, Key=self._prefix + key, **arguments))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _url(self, method: str, key: str, **arguments: Any) -> str:
        given = {"Bucket": self._bucket, "Key": self._prefix + key, **arguments}
        return self._client.generate_presigned_url(method, Params=given, ExpiresIn=URL_LIFETIME_SECONDS)


def _info(head: dict[str, Any]) -> ObjectInfo:
    plain = _PLAIN_ETAG.fullmatch(head["ETag"])
    return ObjectInfo(head["ContentLength"], base64.b64encode(bytes.fromhex(plain[1])).decode() if plain else "")


def _client() -> Any:
    """Return a client. Other stores than Amazon's have their buckets in paths, and may not know newer checksums."""
    session = cast("Any", boto3).session.Session()
    plain: dict[str, Any] = {
        "signature_version": "s3v4",
        "max_pool_connections": CONNECTIONS,
        "retries": {"mode": "standard", "max_attempts": 5},
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
    }
    region: str = session.region_name or "us-east-1"
    client = session.client("s3", region_name=region, config=Config(**plain))
    endpoint: str = client.meta.endpoint_url
    if urlsplit(endpoint).netloc.endswith("amazonaws.com"):
        return client
    return session.client("s3", region_name=region, config=Config(**plain, s3={"addressing_style": "path"}))
