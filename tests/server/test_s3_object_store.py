"""Objects in a bucket: what its URLs let through, and what the server makes of uploads that it does not see."""

import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace

import pytest

from server.context import Services
from server.errors import Conflict
from server.filestream import receive, understand
from server.garbage import Freed, collect
from server.object_keys import of_content
from server.object_store import ObjectInfo
from server.s3_object_store import BucketUnusable, S3ObjectStore
from tests import buckets
from tests.server.conftest import Client, make_client
from tests.server.run_steps import start
from tests.server.test_artifacts import COMMIT, DELETE, FILES, MANIFEST, commit, content, create, manifest_input, md5

pytestmark = pytest.mark.skipif(buckets.missing() is not None, reason=str(buckets.missing()))

PART_BYTES = 5 * 1024 * 1024
"""The smallest part but for the last."""
PARTS = """mutation($input: CompleteMultipartUploadArtifactInput!) {
  completeMultipartUploadArtifact(input: $input) { digest }
}"""
ANNOUNCE = """mutation($names: [String!]!) { createRunFiles(input: {
  entityName: "admin", projectName: "p", runName: "r", files: $names
}) { files { name uploadUrl } } }"""
LISTED = """query { project(name: "p", entityName: "admin") { run(name: "r") {
  fileCount files { edges { node { name sizeBytes md5 directUrl } } }
} } }"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Where boto3 finds the bucket `bucket`."""
    with buckets.serving(tmp_path_factory.mktemp("buckets"), "bucket") as environment:
        yield environment


@pytest.fixture
def store(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> S3ObjectStore:
    """A store of the test's own."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return S3ObjectStore.open(f"s3://bucket/{request.node.name.partition('[')[0]}/")


@pytest.fixture
def database_url() -> None:
    """One engine is enough: nothing here is about it."""


@pytest.fixture
async def client(services: Services, store: S3ObjectStore) -> Client:
    """A client of a server that keeps its objects in the bucket."""
    return await make_client(replace(services, objects=store))


def put(url: str, stored: bytes, **headers: str) -> str:
    """Send bytes to a URL as clients do, without a word on their type; returns the answer's ETag."""
    request = urllib.request.Request(url, stored, {"Content-Type": "", **headers}, method="PUT")
    with urllib.request.urlopen(request) as answer:
        return answer.headers["ETag"]


def send(url: str, stored: bytes, headers: list[str]) -> str:
    """Send bytes with the headers that the server asks for."""
    return put(url, stored, **dict(header.split(":", 1) for header in headers))


def get(url: str, **headers: str) -> tuple[int, bytes]:
    """Fetch a URL."""
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
        return answer.status, answer.read()


async def test_an_object_goes_in_and_out_by_url(store: S3ObjectStore) -> None:
    assert (await store.infos(["a b/c"]), await store.read("a b/c")) == ({}, None)
    send(store.upload_url("", "a b/c"), b"0123456789", store.upload_headers(""))
    assert await store.infos(["a b/c"]) == {"a b/c": ObjectInfo(10, md5(b"0123456789"))}
    assert get(store.download_url("", "a b/c")) == (200, b"0123456789")
    assert get(store.download_url("", "a b/c"), Range="bytes=2-4") == (206, b"234")
    await store.write("a b/c", b"other")
    assert await store.read("a b/c") == b"other"
    for _ in range(2):
        assert not await store.delete(["a b/c", "never was"])
        assert await store.infos(["a b/c"]) == {}


async def test_a_url_is_for_its_object_method_and_content_alone(store: S3ObjectStore) -> None:
    url, headers = store.upload_url("", "k", md5=md5(b"right")), store.upload_headers(md5(b"right"))
    for refused in (
        lambda: send(url, b"wrong", headers),
        lambda: put(url, b"wrong", **{"Content-MD5": md5(b"wrong")}),
        lambda: put(url, b"right"),
        lambda: send(url.replace("/k?", "/other?"), b"right", headers),
        lambda: get(url),
        lambda: get(store.download_url("", "k").partition("?")[0]),
    ):
        with pytest.raises(urllib.error.HTTPError, match=r"40[03]"):
            refused()
    assert await store.infos(["k"]) == {}
    send(url, b"right", headers)
    assert await store.read("k") == b"right"


@pytest.mark.parametrize("url", ["/folder", "s3:///x", "s3://missing"])
def test_a_bucket_that_cannot_be_used_is_told_at_the_start(store: S3ObjectStore, url: str) -> None:
    with pytest.raises(BucketUnusable, match=r"no object store|cannot be used"):
        store.open(url)


async def test_what_an_artifact_names_is_looked_for_at_its_commit(client: Client) -> None:
    wanted = content({"here": b"1", "missing": b"2"})
    made = await create(client, wanted)
    answer = await client.ask(MANIFEST, input=manifest_input(made["id"], wanted.manifest))
    file = answer["createArtifactManifest"]["artifactManifest"]["file"]
    send(file["uploadUrl"], wanted.manifest, file["uploadHeaders"])
    specs = [{"artifactID": made["id"], "name": name, "md5": md5(text)} for name, text in wanted.files.items()]
    nodes = [edge["node"] for edge in (await client.ask(FILES, files=specs))["createArtifactFiles"]["files"]["edges"]]
    assert [node["uploadMultipartUrls"] for node in nodes] == [None, None]
    send(nodes[0]["uploadUrl"], b"1", nodes[0]["uploadHeaders"])
    _, told = await client.fail(COMMIT, id=made["id"])
    assert "'missing' was never uploaded" in told
    send(nodes[1]["uploadUrl"], b"2", nodes[1]["uploadHeaders"])
    assert (await commit(client, made["id"]))["state"] == "COMMITTED"


async def test_a_large_file_comes_in_parts(client: Client, store: S3ObjectStore) -> None:
    parts = {1: b"a" * PART_BYTES, 2: b"the end"}
    wanted = content({"large": b"".join(parts.values())})
    made = await create(client, wanted)
    offered = [{"partNumber": number, "hexMD5": ""} for number in parts]
    spec = {"artifactID": made["id"], "name": "large", "md5": md5(wanted.files["large"]), "uploadPartsInput": offered}
    document = FILES.replace("{ uploadID }", "{ uploadID uploadUrlParts { partNumber uploadUrl } }")
    (edge,) = (await client.ask(document, files=[spec]))["createArtifactFiles"]["files"]["edges"]
    asked = edge["node"]["uploadMultipartUrls"]
    with pytest.raises(urllib.error.HTTPError, match="400"):
        put(asked["uploadUrlParts"][0]["uploadUrl"], parts[1], **{"Content-MD5": md5(b"other")})
    etags = [
        {"partNumber": part["partNumber"], "hexMD5": put(part["uploadUrl"], parts[part["partNumber"]])}
        for part in asked["uploadUrlParts"]
    ]
    done = {"artifactID": made["id"], "storagePath": edge["node"]["storagePath"], "uploadID": asked["uploadID"]}
    complete = {**done, "completeMultipartAction": "Complete", "completedParts": etags}
    for _ in range(2):  # the first answer may get lost
        answer = await client.ask(PARTS, input=complete)
        assert answer["completeMultipartUploadArtifact"]["digest"] == spec["md5"]
    assert await store.read(edge["node"]["storagePath"]) == wanted.files["large"]
    (again,) = (await client.ask(document, files=[spec]))["createArtifactFiles"]["files"]["edges"]
    assert (again["node"]["uploadUrl"], again["node"]["uploadMultipartUrls"]) == (None, None), "it has arrived"


async def test_parts_that_are_not_there_are_not_put_together(store: S3ObjectStore) -> None:
    begun = await store.begin_parts("k", [1])
    assert begun is not None
    with pytest.raises(Conflict, match="cannot be put together"):
        await store.complete_parts("k", begun.upload_id, {1: '"00000000000000000000000000000000"'})


async def test_files_of_runs_are_looked_for_when_somebody_tells_or_asks(client: Client) -> None:
    await start(client)
    announced = (await client.ask(ANNOUNCE, names=["a", "b"]))["createRunFiles"]["files"]
    urls = {file["name"]: file["uploadUrl"] for file in announced}
    assert (await client.ask(LISTED))["project"]["run"] == {"fileCount": 0, "files": {"edges": []}}
    put(urls["a"], b"1")
    listed = (await client.ask(LISTED))["project"]["run"]
    assert (listed["fileCount"], listed["files"]["edges"][0]["node"]["md5"]) == (1, md5(b"1"))
    put(urls["a"], b"longer")
    await receive(client.context, "admin", "p", "r", understand({"uploaded": ["a", "never announced"]}))
    (edge,) = (await client.ask(LISTED))["project"]["run"]["files"]["edges"]
    assert edge["node"]["sizeBytes"] == 6
    assert get(edge["node"]["directUrl"]) == (200, b"longer")


async def test_what_is_deleted_goes_from_the_bucket(client: Client, store: S3ObjectStore) -> None:
    wanted = content({"a": b"1", "b": b"2"})
    made = await create(client, wanted)
    answer = await client.ask(MANIFEST, input=manifest_input(made["id"], wanted.manifest))
    file = answer["createArtifactManifest"]["artifactManifest"]["file"]
    send(file["uploadUrl"], wanted.manifest, file["uploadHeaders"])
    specs = [{"artifactID": made["id"], "name": name, "md5": md5(text)} for name, text in wanted.files.items()]
    nodes = [edge["node"] for edge in (await client.ask(FILES, files=specs))["createArtifactFiles"]["files"]["edges"]]
    for node in nodes:
        send(node["uploadUrl"], wanted.files[node["name"]], node["uploadHeaders"])
    await commit(client, made["id"])
    keys = [node["storagePath"] for node in nodes]
    assert set(await store.infos(keys)) == set(keys)
    await client.ask(DELETE, id=made["id"], aliases=True)
    assert await collect(client.context.services, 0) == Freed(objects=3, size_bytes=2)
    assert await store.infos(keys) == {}


async def test_parts_of_an_upload_that_broke_off_are_removed(store: S3ObjectStore) -> None:
    key = of_content(1, "d41d8cd98f00b204e9800998ecf8427e")
    begun, of_others = await store.begin_parts(key, [1]), await store.begin_parts("others", [1])
    assert begun is not None
    assert of_others is not None
    etag = put(begun.urls[1], b"the only one")
    assert await store.remove_unfinished(time.time() - 3600) == 0
    assert await store.remove_unfinished(time.time() + 3600) == 1
    assert await store.remove_unfinished(time.time() + 3600) == 0
    with pytest.raises(Conflict, match="cannot be put together"):
        await store.complete_parts(key, begun.upload_id, {1: etag})
    await store.complete_parts("others", of_others.upload_id, {1: put(of_others.urls[1], b"stays")})
