"""Artifacts: created, uploaded, committed, found again, used, changed, deleted."""

import base64
import hashlib
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from sqlalchemy import Connection

from protocol.names import run_storage_id
from server.arrivals import record_run_file
from server.artifact_manifest import Entry, digest
from server.context import Services
from server.object_keys import is_of_run_file
from server.object_store import ObjectInfo
from server.storage import users
from tests.server.conftest import Client, Clock, make_client
from tests.server.run_steps import start

VERSION = """id state digest commitHash versionIndex description metadata size fileCount
  ttlDurationSeconds ttlIsInherited createdAt updatedAt aliases { alias } tags { name } artifactType { name }
  artifactSequence { id name latestArtifact { id state } }"""
CREATE = f"mutation($input: CreateArtifactInput!) {{ createArtifact(input: $input) {{ artifact {{ {VERSION} }} }} }}"
MANIFEST = """mutation($input: CreateArtifactManifestInput!) {
  createArtifactManifest(input: $input) { artifactManifest { id digest file { id name uploadUrl uploadHeaders } } }
}"""
FILES = """mutation($files: [CreateArtifactFileSpecInput!]!) {
  createArtifactFiles(input: {artifactFiles: $files}) { files { edges { node {
    id name displayName sizeBytes storagePath uploadUrl uploadHeaders uploadMultipartUrls { uploadID } artifact { id }
  } } } }
}"""
COMMIT = f"mutation($id: ID!) {{ commitArtifact(input: {{artifactID: $id}}) {{ artifact {{ {VERSION} }} }} }}"
READ = f"query($id: ID!) {{ artifact(id: $id) {{ {VERSION} }} }}"
BY_NAME = f"""query($name: String!) {{
  project(name: "p", entityName: "admin") {{ artifact(name: $name) {{ {VERSION} }} }}
}}"""
COLLECTION = f"""query($name: String!, $first: Int, $after: String, $order: String) {{
  project(name: "p", entityName: "admin") {{ artifactCollection(name: $name) {{
    id name description state defaultArtifactType {{ name }} aliases {{ edges {{ node {{ alias }} }} }}
    artifacts(first: $first, after: $after, order: $order) {{
      totalCount edges {{ version cursor node {{ {VERSION} }} }} pageInfo {{ hasNextPage endCursor }}
    }}
  }} }}
}}"""
LIST_FILES = """query($id: ID!, $names: [String!], $first: Int, $after: String) {
  artifact(id: $id) { files(names: $names, first: $first, after: $after) {
    totalCount edges { cursor node { name sizeBytes md5 digest directUrl mimetype storagePath } }
    pageInfo { endCursor hasNextPage }
  } }
}"""
CURRENT_MANIFEST = "query($id: ID!) { artifact(id: $id) { currentManifest { digest file { name directUrl } } } }"
USE = f"""mutation($id: ID!, $entity: String!, $run: String!) {{
  useArtifact(input: {{artifactID: $id, entityName: $entity, projectName: "p", runName: $run}}) {{
    artifact {{ {VERSION} usedBy {{ edges {{ node {{ name }} }} }} createdBy {{ ... on Run {{ name }} }} }}
  }}
}}"""
UPDATE = f"mutation($input: UpdateArtifactInput!) {{ updateArtifact(input: $input) {{ artifact {{ {VERSION} }} }} }}"
DELETE = """mutation($id: ID!, $aliases: Boolean) {
  deleteArtifact(input: {artifactID: $id, deleteAliases: $aliases}) { artifact { id state aliases { alias } } }
}"""
ADD_ALIASES = """mutation($id: ID!, $aliases: [ArtifactCollectionAliasInput!]!) {
  addAliases(input: {artifactID: $id, aliases: $aliases}) { success }
}"""
DELETE_ALIASES = """mutation($id: ID!, $aliases: [ArtifactCollectionAliasInput!]!) {
  deleteAliases(input: {artifactID: $id, aliases: $aliases}) { success }
}"""
DELETE_SEQUENCE = """mutation($id: ID!) {
  deleteArtifactSequence(input: {artifactSequenceID: $id}) { artifactCollection { id state } }
}"""
UPDATE_SEQUENCE = """mutation($input: UpdateArtifactSequenceInput!) {
  updateArtifactSequence(input: $input) { artifactCollection { id name description } }
}"""
DELETE_RUN = "mutation($id: ID!) { deleteRun(input: {id: $id}) { clientMutationId } }"
CLIENT_ID = "query($id: ID!) { clientIDMapping(clientID: $id) { serverID } }"
OF_RUN = """query {
  project(name: "p", entityName: "admin") { run(name: "r") {
    outputArtifacts { totalCount edges { node { id } } } inputArtifacts { totalCount edges { node { id } } }
  } }
}"""
GONE = base64.b64encode(b"Artifact:999").decode()


def md5(content: bytes) -> str:
    """Return an MD5 as manifests write it."""
    return base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()


@dataclass(frozen=True)
class Content:
    """The files of an artifact, and what is announced of them."""

    files: dict[str, bytes]
    references: dict[str, str]

    @property
    def manifest(self) -> bytes:
        """The manifest's bytes."""
        entries: dict[str, Any] = {
            path: {"digest": md5(content), "size": len(content)} for path, content in self.files.items()
        }
        for path, ref in self.references.items():
            entries[path] = {"digest": "etag", "ref": ref, "size": 7}
        return json.dumps({"version": 1, "contents": entries}).encode()

    @property
    def digest(self) -> str:
        """The digest of the whole."""
        entries = [Entry(path, md5(content), len(content), None) for path, content in self.files.items()]
        return digest(entries + [Entry(path, "etag", 7, ref) for path, ref in self.references.items()])


def content(files: dict[str, bytes] | None = None, **references: str) -> Content:
    """Return what an artifact consists of."""
    return Content({"a.txt": b"hello"} if files is None else files, references)


def version_input(wanted: Content | str, name: str = "data", **more: Any) -> dict[str, Any]:
    """Return what is said of a version when it is announced."""
    return {
        "entityName": "admin",
        "projectName": "p",
        "artifactTypeName": "dataset",
        "artifactCollectionName": name,
        "digest": wanted if isinstance(wanted, str) else wanted.digest,
        "digestAlgorithm": "MANIFEST_MD5",
        "enableDigestDeduplication": True,
        "aliases": [{"alias": "latest", "artifactCollectionName": name}],
        **more,
    }


async def create(client: Client, wanted: Content | str, name: str = "data", **more: Any) -> dict[str, Any]:
    """Announce a version."""
    return (await client.ask(CREATE, input=version_input(wanted, name, **more)))["createArtifact"]["artifact"]


def manifest_input(artifact_id: str, manifest: bytes, **more: Any) -> dict[str, Any]:
    """Return what is said of a manifest."""
    return {
        "artifactID": artifact_id,
        "name": "wandb_manifest.json",
        "digest": md5(manifest),
        "entityName": "admin",
        "projectName": "p",
        "runName": "r",
        **more,
    }


async def put(services: Services, key: str, stored: bytes) -> None:
    """Store an object as the upload route does."""
    await services.objects.write(key, stored)
    if is_of_run_file(key):
        info = ObjectInfo(len(stored), md5(stored))
        await services.database.write(record_run_file, key, info, services.clock())


def key_of(url: str) -> str:
    """Return the object that a URL is of."""
    assert url.startswith("http://server.test/storage/"), "URLs must be absolute"
    return urlsplit(url).path.removeprefix("/storage/")


async def upload_manifest(client: Client, artifact_id: str, manifest: bytes) -> None:
    """Announce a manifest and store it."""
    answer = await client.ask(MANIFEST, input=manifest_input(artifact_id, manifest))
    url = answer["createArtifactManifest"]["artifactManifest"]["file"]["uploadUrl"]
    await put(client.context.services, key_of(url), manifest)


async def announce(client: Client, artifact_id: str, files: dict[str, bytes]) -> list[dict[str, Any]]:
    """Announce files; returns their nodes."""
    specs = [{"artifactID": artifact_id, "name": name, "md5": md5(stored)} for name, stored in files.items()]
    return [edge["node"] for edge in (await client.ask(FILES, files=specs))["createArtifactFiles"]["files"]["edges"]]


async def upload(client: Client, artifact_id: str, wanted: Content) -> None:
    """Announce and store a version's manifest and those of its files that the server lacks."""
    await upload_manifest(client, artifact_id, wanted.manifest)
    await upload_files(client, artifact_id, wanted.files)


async def upload_files(client: Client, artifact_id: str, files: dict[str, bytes]) -> None:
    """Announce files and store those that the server lacks."""
    for node in await announce(client, artifact_id, files):
        if node["uploadUrl"]:
            await put(client.context.services, key_of(node["uploadUrl"]), files[node["name"]])


async def commit(client: Client, artifact_id: str) -> dict[str, Any]:
    """Make a version final."""
    return (await client.ask(COMMIT, id=artifact_id))["commitArtifact"]["artifact"]


async def log(client: Client, wanted: Content, name: str = "data", **more: Any) -> dict[str, Any]:
    """Log a whole version as a client does."""
    made = await create(client, wanted, name, **more)
    if made["state"] == "COMMITTED":
        return made
    await upload(client, made["id"], wanted)
    return await commit(client, made["id"])


async def read(client: Client, artifact_id: str) -> dict[str, Any] | None:
    """Return a version by id."""
    return (await client.ask(READ, id=artifact_id))["artifact"]


async def by_name(client: Client, name: str) -> dict[str, Any] | None:
    """Return a version by `collection:alias`."""
    return (await client.ask(BY_NAME, name=name))["project"]["artifact"]


def aliases(version: dict[str, Any] | None) -> set[str]:
    """Return a version's aliases."""
    assert version is not None
    return {alias["alias"] for alias in version["aliases"]}


def wanted_aliases(*names: str, collection: str = "data") -> list[dict[str, str]]:
    """Return aliases as inputs want them."""
    return [{"alias": name, "artifactCollectionName": collection} for name in names]


@pytest.fixture
async def eve(services: Services) -> Client:
    """A client of a user who is a member of nothing but his own entity."""
    return await make_client(services, "eve")


# --- logging ----------------------------------------------------------------------------------------------------------


async def test_a_version_from_first_to_last(client: Client, services: Services) -> None:
    wanted = content({"a.txt": b"hello", "sub/b.json": b"{}"}, model="s3://bucket/model")
    made = await create(client, wanted, description="d", metadata='{"rows": 2}')
    assert (made["state"], made["versionIndex"], made["aliases"]) == ("PENDING", None, [])
    assert (made["description"], made["metadata"], made["digest"]) == ("d", '{"rows": 2}', wanted.digest)
    assert made["artifactType"]["name"] == "dataset"
    assert made["artifactSequence"]["latestArtifact"] is None, "the stock client takes this for `Created`"

    await upload(client, made["id"], wanted)
    done = await commit(client, made["id"])
    assert (done["id"], done["state"], done["versionIndex"]) == (made["id"], "COMMITTED", 0)
    assert (done["size"], done["fileCount"]) == (5 + 2 + 7, 3)
    assert aliases(done) == {"latest"}
    assert done["artifactSequence"]["latestArtifact"] == {"id": made["id"], "state": "COMMITTED"}

    current = (await client.ask(CURRENT_MANIFEST, id=made["id"]))["artifact"]["currentManifest"]
    assert current["digest"] == md5(wanted.manifest)
    assert await services.objects.read(key_of(current["file"]["directUrl"])) == wanted.manifest


async def test_an_announced_manifest_has_a_url_for_its_content_alone(client: Client) -> None:
    made = await create(client, content())
    answer = await client.ask(MANIFEST, input=manifest_input(made["id"], b"{}"))
    manifest = answer["createArtifactManifest"]["artifactManifest"]
    assert (manifest["digest"], manifest["file"]["name"]) == (md5(b"{}"), "wandb_manifest.json")
    assert manifest["file"]["id"] == manifest["id"]
    assert parse_qs(urlsplit(manifest["file"]["uploadUrl"]).query)["md5"] == [md5(b"{}")]


async def test_announced_files_come_back_in_order_with_urls(client: Client) -> None:
    made = await create(client, content())
    nodes = await announce(client, made["id"], {"z": b"1", "a": b"2", "same as z": b"1"})
    assert [node["name"] for node in nodes] == ["z", "a", "same as z"]
    assert nodes[0]["storagePath"] == nodes[2]["storagePath"] != nodes[1]["storagePath"]
    for node, stored in zip(nodes, (b"1", b"2", b"1"), strict=True):
        assert key_of(node["uploadUrl"]) == node["storagePath"]
        assert parse_qs(urlsplit(node["uploadUrl"]).query)["md5"] == [md5(stored)]
        assert (node["uploadMultipartUrls"], node["artifact"]) == (None, {"id": made["id"]})


async def test_content_that_is_here_already_is_not_uploaded_again(client: Client) -> None:
    first = await log(client, content({"a.txt": b"hello"}))
    second = await create(client, content({"b.txt": b"hello", "c.txt": b"new"}))
    old, new = await announce(client, second["id"], {"b.txt": b"hello", "c.txt": b"new"})
    assert (old["uploadUrl"], old["sizeBytes"], old["artifact"]) == (None, 5, {"id": first["id"]})
    assert (new["sizeBytes"], new["artifact"]) == (0, {"id": second["id"]})
    assert new["uploadUrl"] is not None


async def test_content_is_shared_inside_one_entity_only(client: Client, eve: Client) -> None:
    await log(client, content({"a.txt": b"hello"}))
    hers = await create(eve, content(), entityName="eve")
    (node,) = await announce(eve, hers["id"], {"a.txt": b"hello"})
    assert node["uploadUrl"] is not None, "having the digest alone must not open another entity's content"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        pytest.param({}, "The file 'x' has no MD5; other digests are not supported yet.", id="no md5"),
        pytest.param({"md5": "no base64!"}, "'no base64!' is not an MD5 in base64.", id="not base64"),
    ],
)
async def test_files_need_an_md5(client: Client, spec: dict[str, str], message: str) -> None:
    made = await create(client, content())
    assert await client.fail(FILES, files=[{"artifactID": made["id"], "name": "x", **spec}]) == (400, message)


async def test_a_collection_keeps_its_type(client: Client) -> None:
    await create(client, content())
    status, message = await client.fail(
        CREATE,
        input={
            "entityName": "admin",
            "projectName": "p",
            "artifactTypeName": "model",
            "artifactCollectionName": "data",
            "digest": "x",
            "digestAlgorithm": "MANIFEST_MD5",
        },
    )
    assert (status, message) == (400, "Artifact 'data' has type 'dataset'; it cannot be logged as 'model'.")


async def test_the_collection_may_be_the_first_of_several_names(client: Client) -> None:
    made = await create(client, content(), artifactCollectionName=None, artifactCollectionNames=["one", "two"])
    assert made["artifactSequence"]["name"] == "one"


# --- the same again ---------------------------------------------------------------------------------------------------


async def test_the_same_content_is_the_same_version_and_gets_the_aliases(client: Client) -> None:
    first = await log(client, content())
    other = await log(client, content({"a.txt": b"other"}))
    again = await create(client, content(), aliases=wanted_aliases("latest", "best"))
    assert (again["id"], again["state"], again["versionIndex"]) == (first["id"], "COMMITTED", 0)
    assert aliases(again) == {"latest", "best"}
    assert aliases(await read(client, other["id"])) == set(), "an alias is on one version only"


@pytest.mark.parametrize(
    "more", [{"enableDigestDeduplication": False}, {"artifactCollectionName": "more"}], ids=["off", "other name"]
)
async def test_no_version_is_shared_beyond_that(client: Client, more: dict[str, Any]) -> None:
    first = await log(client, content())
    again = await create(client, content(), **more)
    assert again["id"] != first["id"]
    assert again["state"] == "PENDING"


async def test_a_version_that_waits_or_is_deleted_is_not_found_by_its_digest(client: Client) -> None:
    waiting = await create(client, content())
    done = await log(client, content())
    assert done["id"] != waiting["id"]
    await client.ask(DELETE, id=done["id"], aliases=True)
    assert (await create(client, content()))["state"] == "PENDING"


async def test_a_client_id_makes_one_version_even_under_another_name_and_without_metadata(client: Client) -> None:
    wanted = content()
    first = await create(
        client,
        wanted,
        "job-x",
        clientID="c1",
        metadata='{"_partial": true}',
        description="d",
        aliases=wanted_aliases("v-one"),
    )
    second = await create(client, wanted, "job-code-x", clientID="c1", aliases=[])
    assert (second["id"], second["state"]) == (first["id"], "PENDING")
    await upload(client, first["id"], wanted)
    done = await commit(client, first["id"])
    assert (done["metadata"], done["description"], aliases(done)) == ('{"_partial": true}', "d", {"v-one"})
    assert done["artifactSequence"]["name"] == "job-code-x"
    third = await create(client, wanted, "job-x", clientID="c1")
    assert (third["id"], third["state"]) == (first["id"], "COMMITTED")
    assert (await client.ask(CLIENT_ID, id="c1"))["clientIDMapping"] == {"serverID": first["id"]}


async def test_other_client_ids_make_other_versions(client: Client) -> None:
    first = await create(client, content(), clientID="c1")
    assert (await create(client, content(), clientID="c2"))["id"] != first["id"]
    assert (await client.ask(CLIENT_ID, id="c3"))["clientIDMapping"] is None


# --- commit -----------------------------------------------------------------------------------------------------------


async def test_aliases_move_at_the_commit_and_not_before(client: Client) -> None:
    first = await log(client, content())
    wanted = content({"a.txt": b"second"})
    second = await create(client, wanted)
    await upload(client, second["id"], wanted)
    latest = await by_name(client, "data:latest")
    assert latest is not None
    assert latest["id"] == first["id"]
    assert (await commit(client, second["id"]))["versionIndex"] == 1
    latest = await by_name(client, "data")
    assert latest is not None
    assert (latest["id"], aliases(latest)) == (second["id"], {"latest"})
    assert aliases(await by_name(client, "data:v0")) == set()


async def test_versions_are_numbered_by_commit(client: Client) -> None:
    early, late = content({"a": b"1"}), content({"a": b"2"})
    started = await create(client, early)
    assert (await log(client, late))["versionIndex"] == 0
    await upload(client, started["id"], early)
    assert (await commit(client, started["id"]))["versionIndex"] == 1


async def test_a_commit_has_a_hash_even_if_its_content_is_not_new(client: Client) -> None:
    made = await create(client, content())
    assert made["commitHash"] is None
    await upload(client, made["id"], content())
    done = await commit(client, made["id"])
    assert done["commitHash"] == (await read(client, made["id"]) or {})["commitHash"]
    other = await log(client, content(), artifactCollectionName="more")
    assert other["digest"] == done["digest"]
    assert len({done["commitHash"], other["commitHash"], None}) == 3


async def test_a_second_commit_changes_nothing(client: Client) -> None:
    first = await log(client, content())
    await log(client, content({"a.txt": b"second"}))
    again = await commit(client, first["id"])
    assert (again["versionIndex"], aliases(again)) == (0, set()), "the alias must not move back"


async def test_a_commit_without_manifest_is_refused(client: Client) -> None:
    made = await create(client, content())
    never_uploaded = (400, "The artifact cannot be committed: its manifest was never uploaded. Log it again.")
    assert await client.fail(COMMIT, id=made["id"]) == never_uploaded
    await client.ask(MANIFEST, input=manifest_input(made["id"], b"{}"))
    assert await client.fail(COMMIT, id=made["id"]) == never_uploaded, "announced only"


async def test_a_commit_is_refused_while_a_file_is_missing(client: Client, services: Services) -> None:
    wanted = content({"a.txt": b"hello", "b.txt": b"missing"})
    made = await create(client, wanted)
    missing = (400, "The artifact cannot be committed: 'b.txt' was never uploaded. Log it again.")
    await upload_manifest(client, made["id"], wanted.manifest)
    first, second = await announce(client, made["id"], wanted.files)
    await put(services, key_of(first["uploadUrl"]), b"hello")
    assert await client.fail(COMMIT, id=made["id"]) == missing
    refused = await read(client, made["id"])
    assert refused is not None
    assert (refused["state"], refused["versionIndex"], refused["aliases"]) == ("PENDING", None, [])
    await put(services, key_of(second["uploadUrl"]), b"missing")
    assert (await commit(client, made["id"]))["state"] == "COMMITTED"


async def test_a_file_that_was_never_even_announced_is_missing_too(client: Client) -> None:
    wanted = content()
    made = await create(client, wanted)
    await upload_manifest(client, made["id"], wanted.manifest)
    status, message = await client.fail(COMMIT, id=made["id"])
    assert (status, message) == (400, "The artifact cannot be committed: 'a.txt' was never uploaded. Log it again.")


async def test_references_need_no_upload(client: Client) -> None:
    done = await log(client, content({}, model="s3://bucket/model"))
    assert (done["state"], done["fileCount"]) == ("COMMITTED", 1)


async def test_an_artifact_may_be_empty(client: Client) -> None:
    done = await log(client, content({}))
    assert (done["state"], done["fileCount"], done["size"]) == ("COMMITTED", 0, 0)


async def test_a_commit_with_another_digest_is_refused(client: Client) -> None:
    wanted = content()
    made = await create(client, "0" * 32)
    await upload(client, made["id"], wanted)
    assert await client.fail(COMMIT, id=made["id"]) == (
        400,
        "The artifact's manifest does not have the digest that was announced. Log it again.",
    )


@pytest.mark.parametrize("path", ["../escape", "a/../../escape", "/etc/passwd"])
async def test_a_commit_with_a_path_outside_is_refused(client: Client, path: str) -> None:
    wanted = content({path: b"x"})
    made = await create(client, wanted)
    await upload(client, made["id"], wanted)
    assert await client.fail(COMMIT, id=made["id"]) == (
        400,
        f"The artifact names a file {path!r}, which would lie outside of it.",
    )


async def test_a_commit_with_an_unreadable_manifest_is_refused(client: Client) -> None:
    made = await create(client, content())
    await upload_manifest(client, made["id"], b"no json")
    status, message = await client.fail(COMMIT, id=made["id"])
    assert status == 400
    assert message.startswith("The artifact's manifest cannot be read: Expecting value")


# --- files ------------------------------------------------------------------------------------------------------------


async def test_files_are_listed_page_by_page(client: Client) -> None:
    names = [f"f{number}.txt" for number in range(5)]
    done = await log(client, content({name: name.encode() for name in reversed(names)}))
    found: list[str] = []
    pages: list[int] = []
    after: str | None = None
    for _ in range(5):
        page = (await client.ask(LIST_FILES, id=done["id"], first=2, after=after))["artifact"]["files"]
        assert page["totalCount"] == 5
        found += [edge["node"]["name"] for edge in page["edges"]]
        pages.append(len(page["edges"]))
        after = page["pageInfo"]["endCursor"]
        if not page["pageInfo"]["hasNextPage"]:
            break
    assert (found, pages) == (names, [2, 2, 1])


async def test_a_last_page_that_is_full_says_that_it_is_the_last(client: Client) -> None:
    done = await log(client, content({"a": b"1", "b": b"2"}))
    page = (await client.ask(LIST_FILES, id=done["id"], first=2))["artifact"]["files"]
    assert (len(page["edges"]), page["pageInfo"]["hasNextPage"]) == (2, False)
    page = (await client.ask(LIST_FILES, id=done["id"], after=page["pageInfo"]["endCursor"]))["artifact"]["files"]
    assert (page["edges"], page["pageInfo"]) == ([], {"endCursor": None, "hasNextPage": False})


async def test_a_file_says_what_it_is_and_where(client: Client, services: Services) -> None:
    done = await log(client, content({"sub/a.json": b"{}"}, model="s3://bucket/model"))
    reference, file = [edge["node"] for edge in await _edges(client, done["id"])]
    assert (file["name"], file["sizeBytes"], file["md5"], file["digest"]) == ("sub/a.json", 2, md5(b"{}"), md5(b"{}"))
    assert file["mimetype"] == "application/json"
    assert await services.objects.read(key_of(file["directUrl"])) == b"{}"
    assert (reference["name"], reference["directUrl"]) == ("model", "s3://bucket/model")
    assert (reference["digest"], reference["storagePath"]) == ("etag", None)


async def _edges(client: Client, artifact_id: str, **variables: Any) -> list[dict[str, Any]]:
    return (await client.ask(LIST_FILES, id=artifact_id, **variables))["artifact"]["files"]["edges"]


@pytest.mark.parametrize(("names", "found"), [(["b", "zzz"], ["b"]), ([], []), (None, ["a", "b"])], ids=repr)
async def test_files_by_name(client: Client, names: list[str] | None, found: list[str]) -> None:
    done = await log(client, content({"a": b"1", "b": b"2"}))
    assert [edge["node"]["name"] for edge in await _edges(client, done["id"], names=names)] == found


# --- collections ------------------------------------------------------------------------------------------------------


async def test_a_collection_lists_its_versions_newest_first(client: Client) -> None:
    for number in range(3):
        await log(client, content({"a": bytes([number])}))
    await create(client, content({"a": b"waits"}))
    found = (await client.ask(COLLECTION, name="data"))["project"]["artifactCollection"]
    assert [edge["version"] for edge in found["artifacts"]["edges"]] == ["v2", "v1", "v0"]
    assert found["artifacts"]["totalCount"] == 3
    assert (found["state"], found["defaultArtifactType"]) == ("READY", {"name": "dataset"})
    assert [edge["node"]["alias"] for edge in found["aliases"]["edges"]] == ["latest"]
    first = (await client.ask(COLLECTION, name="data", first=2, order="+createdAt"))["project"]["artifactCollection"]
    page = first["artifacts"]["pageInfo"]
    assert page["hasNextPage"]
    rest = await client.ask(COLLECTION, name="data", first=2, order="+createdAt", after=page["endCursor"])
    edges = first["artifacts"]["edges"] + rest["project"]["artifactCollection"]["artifacts"]["edges"]
    assert [edge["version"] for edge in edges] == ["v0", "v1", "v2"]


@pytest.mark.parametrize("name", ["data:v7", "data:best", "data:", "other:latest", "other"])
async def test_a_version_that_is_not_there_is_null(client: Client, name: str) -> None:
    await create(client, content())  # waits: not even `latest` is there
    assert await by_name(client, name) is None


async def test_a_deleted_collection_is_gone_and_its_name_free(client: Client) -> None:
    first = await log(client, content())
    answer = await client.ask(DELETE_SEQUENCE, id=first["artifactSequence"]["id"])
    assert answer["deleteArtifactSequence"]["artifactCollection"]["state"] == "DELETED"
    assert await by_name(client, "data") is None
    gone = await read(client, first["id"])
    assert gone is None or gone["state"] == "DELETED"
    again = await log(client, content())
    assert (again["versionIndex"], again["artifactSequence"]["id"] == first["artifactSequence"]["id"]) == (0, False)


@pytest.mark.parametrize("order", ["+created_at", "-name"])
async def test_who_deletes_each_collection_that_he_meets_misses_none(client: Client, order: str) -> None:
    list_page = """query($order: String, $after: String) { project(name: "p", entityName: "admin") {
      artifactType(name: "dataset") { artifactCollections(order: $order, first: 2, after: $after) {
        edges { node { id name } } pageInfo { hasNextPage endCursor } } } } }"""
    for name in "abcde":
        await create(client, name, name)
    seen: list[str] = []
    after, more = None, True
    while more:
        found = (await client.ask(list_page, order=order, after=after))["project"]["artifactType"][
            "artifactCollections"
        ]
        for edge in found["edges"]:
            seen.append(edge["node"]["name"])
            await client.ask(DELETE_SEQUENCE, id=edge["node"]["id"])
        after, more = found["pageInfo"]["endCursor"], found["pageInfo"]["hasNextPage"]
    assert seen == (list("edcba") if order == "-name" else list("abcde"))


async def test_a_collection_is_renamed_unless_the_name_is_taken(client: Client) -> None:
    sequence = (await log(client, content()))["artifactSequence"]["id"]
    await log(client, content(), "taken")
    assert await client.fail(UPDATE_SEQUENCE, input={"artifactSequenceID": sequence, "name": "taken"}) == (
        400,
        "The project has an artifact 'taken' already.",
    )
    values = {"artifactSequenceID": sequence, "name": "fresh", "description": "d"}
    changed = (await client.ask(UPDATE_SEQUENCE, input=values))["updateArtifactSequence"]["artifactCollection"]
    assert changed == {"id": sequence, "name": "fresh", "description": "d"}
    assert await by_name(client, "fresh:v0") is not None
    assert await by_name(client, "data:v0") is None


# --- changes ----------------------------------------------------------------------------------------------------------


async def test_an_update_replaces_what_is_given_and_keeps_the_rest(client: Client, clock: Clock) -> None:
    made = await create(client, content(), metadata='{"a": 1, "b": 2}', description="d")
    clock.now += 60
    update = {"artifactID": made["id"], "metadata": '{"a": 3}', "ttlDurationSeconds": 3600}
    changed = (await client.ask(UPDATE, input=update))["updateArtifact"]["artifact"]
    assert (changed["metadata"], changed["description"]) == ('{"a": 3}', "d")
    assert (made["ttlDurationSeconds"], made["ttlIsInherited"]) == (-1, True)
    assert (changed["ttlDurationSeconds"], changed["ttlIsInherited"]) == (3600, False)
    assert changed["createdAt"] == made["createdAt"]
    assert changed["updatedAt"] > made["updatedAt"]


async def test_versions_are_tagged(client: Client) -> None:
    made = await create(client, content(), tags=[{"tagName": "raw"}, {"tagName": "two words"}])
    assert made["tags"] == [{"name": "raw"}, {"name": "two words"}]
    change = {"tagsToAdd": [{"tagName": "x"}, {"tagName": "raw"}], "tagsToDelete": [{"tagName": "two words"}]}
    changed = (await client.ask(UPDATE, input={"artifactID": made["id"], **change}))["updateArtifact"]["artifact"]
    assert changed["tags"] == [{"name": "raw"}, {"name": "x"}]
    again = await create(client, content(), clientID="other", tags=[{"tagName": "again"}])
    assert [tag["name"] for tag in again["tags"]] == ["again"]


@pytest.mark.parametrize("name", ["", " x", "a/b", "a\nb", "x" * 129])
async def test_what_can_be_no_tag_is_refused(client: Client, name: str) -> None:
    status, message = await client.fail(CREATE, input=version_input("d", tags=[{"tagName": name}]))
    assert (status, "cannot be a tag" in message) == (400, True)


async def test_aliases_are_added_moved_and_taken_away(client: Client) -> None:
    first = await log(client, content())
    second = await log(client, content({"a.txt": b"second"}))
    assert await client.ask(ADD_ALIASES, id=first["id"], aliases=wanted_aliases("best", "prod")) == {
        "addAliases": {"success": True}
    }
    await client.ask(ADD_ALIASES, id=second["id"], aliases=wanted_aliases("best"))
    assert aliases(await by_name(client, "data:v0")) == {"prod"}
    assert aliases(await by_name(client, "data:best")) == {"latest", "best"}
    await client.ask(DELETE_ALIASES, id=first["id"], aliases=wanted_aliases("prod", "never was"))
    assert await by_name(client, "data:prod") is None


@pytest.mark.parametrize("alias", ["", "a/b", "a:b", "v1", "v01", "x" * 129], ids=lambda alias: alias[:8] or "empty")
async def test_an_alias_must_be_plain(client: Client, alias: str) -> None:
    done = await log(client, content())
    status, message = await client.fail(ADD_ALIASES, id=done["id"], aliases=wanted_aliases(alias))
    assert (status, message) == (
        400,
        f"{alias!r} cannot be an alias: use 1 to 128 characters without / and :, and not vN.",
    )


@pytest.mark.parametrize("alias", ["v", "vx", "v1.2", "x" * 128], ids=lambda alias: alias[:8])
async def test_an_alias_may_look_almost_like_a_version(client: Client, alias: str) -> None:
    done = await log(client, content())
    await client.ask(ADD_ALIASES, id=done["id"], aliases=wanted_aliases(alias))
    assert aliases(await by_name(client, f"data:{alias}")) == {"latest", alias}


@pytest.mark.parametrize("flag", [{}, {"aliases": False}], ids=["unsaid", "false"])
async def test_a_version_with_aliases_is_not_deleted(client: Client, flag: dict[str, bool]) -> None:
    done = await log(client, content(), aliases=wanted_aliases("latest", "best"))
    assert await client.fail(DELETE, id=done["id"], **flag) == (
        400,
        "The artifact has the aliases latest, best. Delete it with delete_aliases=True.",
    )
    assert await read(client, done["id"]) == done


async def test_a_deleted_version_is_gone_by_every_name(client: Client) -> None:
    first = await log(client, content())
    second = await log(client, content({"a.txt": b"second"}))
    answer = await client.ask(DELETE, id=second["id"], aliases=True)
    assert answer["deleteArtifact"]["artifact"] == {"id": second["id"], "state": "DELETED", "aliases": []}
    assert await by_name(client, "data:v1") is None
    newest = await by_name(client, "data:latest")
    assert newest is not None
    assert newest["id"] == first["id"], "`latest` means the newest that is left"
    collection = (await client.ask(COLLECTION, name="data"))["project"]["artifactCollection"]
    assert [edge["version"] for edge in collection["artifacts"]["edges"]] == ["v0"]
    kept = await read(client, first["id"])
    assert kept is not None
    assert kept["artifactSequence"]["latestArtifact"]["id"] == first["id"]
    assert (await log(client, content({"a.txt": b"third"})))["versionIndex"] == 2, "numbers are not given out again"


async def test_a_version_without_aliases_is_deleted_at_once(client: Client) -> None:
    done = await log(client, content(), aliases=[])
    assert (await client.ask(DELETE, id=done["id"]))["deleteArtifact"]["artifact"]["state"] == "DELETED"


# --- lineage ----------------------------------------------------------------------------------------------------------


async def test_runs_log_and_use_versions(client: Client) -> None:
    await start(client, "maker")
    await start(client, "r")
    done = await log(client, content(), runName="maker")
    await client.ask(USE, id=done["id"], entity="admin", run="r")
    used = (await client.ask(USE, id=done["id"], entity="admin", run="r"))["useArtifact"]["artifact"]
    assert used["usedBy"]["edges"] == [{"node": {"name": "r"}}]
    assert used["createdBy"] == {"name": "maker"}
    run = (await client.ask(OF_RUN))["project"]["run"]
    assert run["inputArtifacts"] == {"totalCount": 1, "edges": [{"node": {"id": done["id"]}}]}
    assert run["outputArtifacts"] == {"totalCount": 0, "edges": []}


async def test_the_user_who_made_a_version_is_known_without_a_run(client: Client) -> None:
    """Jobs come outside of runs, or from one that `wandb job create` deletes."""
    made_by = "query($id: ID!) { artifact(id: $id) { creator { username } createdBy { ... on Run { name } } } }"
    for run in ("kept", "hidden"):
        await start(client, run)
    made = [(None, None), ("hidden", None), ("kept", {"name": "kept"})]
    versions = [await log(client, content({"a": str(run).encode()}), runName=run) for run, _ in made]
    await client.ask(DELETE_RUN, id=run_storage_id("admin", "p", "hidden"))
    for version, (_, by_run) in zip(versions, made, strict=True):
        found = (await client.ask(made_by, id=version["id"]))["artifact"]
        assert found == {"creator": {"username": "admin"}, "createdBy": by_run}


async def test_what_a_stranger_may_not_see_he_does_not_see_through_a_run_either(
    client: Client, eve: Client, services: Services
) -> None:
    """Adam is in both entities, and uses in a run of one what belongs to the other."""

    def join(connection: Connection) -> None:
        adam = users.create_user(connection, "adam", now=0)
        for name in ("admin", "eve"):
            users.add_member(connection, users.entity_id(connection, name), adam, "member")

    await services.database.write(join)
    adam = await make_client(services, "adam")
    his = await log(client, content())
    await start(adam, "theirs", modelName="p", entityName="eve")
    await start(adam, "ours", modelName="p", entityName="admin")
    use = {"id": his["id"]}
    await adam.ask(USE, **use, entity="eve", run="theirs")
    await adam.ask(USE, **use, entity="admin", run="ours")
    inputs = """query { project(name: "p", entityName: "eve") { run(name: "theirs") {
      inputArtifacts { totalCount edges { node { id } } }
    } } }"""
    seen = {
        who.context.viewer.username: (await who.ask(inputs))["project"]["run"]["inputArtifacts"] for who in (adam, eve)
    }
    assert seen == {
        "adam": {"totalCount": 1, "edges": [{"node": {"id": his["id"]}}]},
        "eve": {"totalCount": 0, "edges": []},
    }
    used_by = "query($id: ID!) { artifact(id: $id) { usedBy { edges { node { name } } } } }"
    ben = await make_client(services, "ben")
    await services.database.write(
        lambda c: users.add_member(c, users.entity_id(c, "admin"), ben.context.viewer.id, "member")
    )
    ben = await make_client(services, "ben")
    for who, names in ((adam, {"theirs", "ours"}), (ben, {"ours"})):
        edges = (await who.ask(used_by, **use))["artifact"]["usedBy"]["edges"]
        assert {edge["node"]["name"] for edge in edges} == names


async def test_a_run_lists_what_it_logged_once_that_is_committed(client: Client) -> None:
    await start(client, "r")
    made = await create(client, content(), runName="r")
    assert (await client.ask(OF_RUN))["project"]["run"]["outputArtifacts"]["edges"] == []
    await upload(client, made["id"], content())
    await commit(client, made["id"])
    output = (await client.ask(OF_RUN))["project"]["run"]["outputArtifacts"]
    assert output == {"totalCount": 1, "edges": [{"node": {"id": made["id"]}}]}


async def test_only_a_run_that_is_there_can_use_a_version(client: Client) -> None:
    done = await log(client, content())
    status, message = await client.fail(USE, id=done["id"], entity="admin", run="nobody")
    assert (status, message) == (404, "There is no run admin/p/nobody.")


# --- strangers --------------------------------------------------------------------------------------------------------


async def test_a_stranger_sees_nothing(client: Client, eve: Client) -> None:
    done = await log(client, content(), clientID="c1")
    assert await read(eve, done["id"]) is None
    assert (await eve.ask(BY_NAME, name="data:v0"))["project"] is None
    assert (await eve.ask(CLIENT_ID, id="c1"))["clientIDMapping"] is None
    by_id = "query($id: ID!) { artifactCollection(id: $id) { name } }"
    assert (await eve.ask(by_id, id=done["artifactSequence"]["id"]))["artifactCollection"] is None
    assert (await client.ask(by_id, id=done["artifactSequence"]["id"]))["artifactCollection"] == {"name": "data"}


@pytest.mark.parametrize(
    ("document", "variables"),
    [
        pytest.param(COMMIT, {}, id="commit"),
        pytest.param(DELETE, {"aliases": True}, id="delete"),
        pytest.param(ADD_ALIASES, {"aliases": wanted_aliases("x")}, id="add alias"),
        pytest.param(DELETE_ALIASES, {"aliases": wanted_aliases("latest")}, id="delete alias"),
        pytest.param(USE, {"entity": "eve", "run": "r"}, id="use"),
    ],
)
async def test_a_stranger_is_told_that_there_is_no_such_artifact(
    client: Client, eve: Client, document: str, variables: dict[str, Any]
) -> None:
    done = await log(client, content())
    await start(eve, "r", modelName="p", entityName="eve")
    for artifact_id in (done["id"], GONE):
        assert await eve.fail(document, id=artifact_id, **variables) == (404, "There is no such artifact.")
    assert await read(client, done["id"]) == done


async def test_a_stranger_cannot_change_upload_or_create(client: Client, eve: Client) -> None:
    done = await log(client, content())
    no_artifact = (404, "There is no such artifact.")
    assert await eve.fail(UPDATE, input={"artifactID": done["id"], "description": "x"}) == no_artifact
    assert await eve.fail(MANIFEST, input=manifest_input(done["id"], b"{}")) == no_artifact
    spec = {"artifactID": done["id"], "name": "x", "md5": md5(b"x")}
    assert await eve.fail(FILES, files=[spec]) == no_artifact
    sequence = done["artifactSequence"]["id"]
    no_collection = (404, "There is no such artifact collection.")
    assert await eve.fail(DELETE_SEQUENCE, id=sequence) == no_collection
    assert await eve.fail(UPDATE_SEQUENCE, input={"artifactSequenceID": sequence, "name": "x"}) == no_collection
    given = {"entityName": "admin", "projectName": "p", "artifactTypeName": "t", "artifactCollectionName": "c"}
    status, _ = await eve.fail(CREATE, input={**given, "digest": "x", "digestAlgorithm": "MANIFEST_MD5"})
    assert status == 403
    assert (await eve.fail(USE, id=done["id"], entity="admin", run="r"))[0] == 403
    assert await read(client, done["id"]) == done


async def test_a_client_id_does_not_open_anothers_version(client: Client, eve: Client) -> None:
    his = await create(client, content(), clientID="c1", metadata='{"secret": 1}')
    hers = await create(eve, content(), clientID="c1", entityName="eve")
    assert hers["id"] != his["id"]
    assert hers["metadata"] is None


@pytest.mark.parametrize("wire_id", ["", "nonsense", GONE, base64.b64encode(b"Run:1").decode()])
async def test_an_id_of_nothing_reads_as_null(client: Client, wire_id: str) -> None:
    assert await read(client, wire_id) is None


async def test_alias_on_pending(client: Client) -> None:
    made = await create(client, content())
    status, _ = await client.fail(ADD_ALIASES, id=made["id"], aliases=wanted_aliases("best"))
    assert status == 400


async def deleted(client: Client) -> Any:
    done = await log(client, content(), clientID="c1")
    await client.ask(DELETE, id=done["id"], aliases=True)
    return done


async def test_alias_on_deleted(client: Client) -> None:
    done = await deleted(client)
    await client.fail(ADD_ALIASES, id=done["id"], aliases=wanted_aliases("best"))


async def test_commit_of_deleted(client: Client) -> None:
    done = await deleted(client)
    await client.fail(COMMIT, id=done["id"])


async def test_use_of_deleted(client: Client) -> None:
    done = await deleted(client)
    await start(client, "r")
    await client.fail(USE, id=done["id"], entity="admin", run="r")


async def test_client_id_of_deleted_makes_a_new_version(client: Client) -> None:
    await deleted(client)
    assert (await create(client, content(), clientID="c1"))["state"] == "PENDING"


async def test_total_count_leaves_out_the_deleted(client: Client) -> None:
    await deleted(client)
    found = (await client.ask(COLLECTION, name="data"))["project"]["artifactCollection"]["artifacts"]
    assert found["totalCount"] == len(found["edges"]) == 0


@pytest.mark.parametrize("alias", ["a/b", "", "x" * 129])
async def test_aliases_at_creation_are_checked(client: Client, alias: str) -> None:
    given = {"entityName": "admin", "projectName": "p", "artifactTypeName": "t", "artifactCollectionName": "c"}
    given |= {"digest": "x", "digestAlgorithm": "MANIFEST_MD5", "aliases": wanted_aliases(alias)}
    await client.fail(CREATE, input=given)


@pytest.mark.parametrize("digest", ["AAAA", "é"])
async def test_md5_form(client: Client, digest: str) -> None:
    made = await create(client, content())
    status, _ = await client.fail(FILES, files=[{"artifactID": made["id"], "name": "a", "md5": digest}])
    assert status == 400


async def test_a_digest_has_one_spelling(client: Client) -> None:
    """Base64 leaves bits unused: a digest in which they are set would pass for another content."""
    made = await create(client, content())
    digest = md5(b"hello")
    twin = digest[:-3] + chr(ord(digest[-3]) + 1) + "=="
    spec = [{"artifactID": made["id"], "name": "a", "md5": each} for each in (digest, twin)]
    status, _ = await client.fail(FILES, files=spec)
    assert status == 400


async def test_a_bad_cursor_is_refused(client: Client) -> None:
    done = await log(client, content())
    status, message = await client.fail(LIST_FILES, id=done["id"], after="###")
    assert (status, "is not a cursor" in message) == (400, True)


async def test_nothing_is_uploaded_into_a_deleted_collection(client: Client) -> None:
    made = await create(client, content())
    await client.ask(DELETE_SEQUENCE, id=made["artifactSequence"]["id"])
    status, message = await client.fail(COMMIT, id=made["id"])
    assert (status, "was deleted" in message) == (404, True)
