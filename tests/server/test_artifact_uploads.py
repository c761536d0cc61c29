"""Artifacts that are asked for twice, tried again, or asked for wrongly; and how collections are listed."""

import asyncio
import base64
import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from server.app import build_app
from server.context import Services
from tests.server.conftest import Client
from tests.server.run_steps import start
from tests.server.test_artifacts import (
    ADD_ALIASES,
    CLIENT_ID,
    COLLECTION,
    CREATE,
    CURRENT_MANIFEST,
    DELETE,
    DELETE_ALIASES,
    LIST_FILES,
    MANIFEST,
    UPDATE,
    aliases,
    by_name,
    commit,
    content,
    create,
    key_of,
    log,
    manifest_input,
    upload,
    wanted_aliases,
)

JOBS = """query { project(name: "p", entityName: "admin") { artifactType(name: "job") {
  artifactCollections { totalCount edges { node { name artifacts { edges { node {
    id state aliases { alias } artifactSequence { name }
  } } } } } }
} } }"""
LINEAGE = """query($id: ID!) { artifact(id: $id) {
  createdBy { ... on Run { name } } artifactMemberships { edges { node {
    versionIndex aliases { alias } artifactCollection { __typename name project { name createdAt } }
  } } }
} }"""
OUTPUTS = """query($run: String!) { project(name: "p", entityName: "admin") { run(name: $run) {
  outputArtifacts { edges { node { id } } }
} } }"""
MAPPINGS = ("c1", "c2")


# --- asked for twice --------------------------------------------------------------------------------------------------


async def test_every_client_id_of_a_version_stands_for_it(client: Client) -> None:
    """References inside of one process go by client id, also to a version that was there already."""
    first = await log(client, content(), clientID="c1")
    again = await create(client, content(), clientID="c2")
    assert (again["id"], again["state"]) == (first["id"], "COMMITTED")
    for client_id in MAPPINGS:
        found = (await client.ask(CLIENT_ID, id=client_id))["clientIDMapping"]
        assert found == {"serverID": first["id"]}


async def make_unnamed_job(client: Client, path: str, files: bytes, client_id: str) -> tuple[str, dict[str, Any]]:
    """Ask for a job of unnamed code as `wandb job create` does: twice, under two names.

    Returns what the command says of it, and the version.
    """
    wanted, code = content({"wandb-job.json": files}), f"code-{path}"
    first = await create(client, wanted, code.replace("code", "job"), clientID=client_id, artifactTypeName="job")
    latest = first["artifactSequence"]["latestArtifact"]
    said = "Created" if latest is None else "Updated" if first["state"] == "PENDING" else "No changes"
    return said, await log(client, wanted, f"job-{code}", clientID=client_id, artifactTypeName="job")


async def job_names(client: Client) -> list[str]:
    """Return the names of all jobs."""
    edges = (await client.ask(JOBS))["project"]["artifactType"]["artifactCollections"]["edges"]
    return [edge["node"]["name"] for edge in edges]


async def test_a_job_of_unnamed_code_has_the_name_that_people_are_shown(client: Client) -> None:
    steps = [("c1", b"1", "Created", 0), ("c2", b"1", "No changes", 0), ("c3", b"2", "Updated", 1)]
    for client_id, files, said, number in steps:
        found = await make_unnamed_job(client, "my_code_train.py", files, client_id)
        assert (found[0], found[1]["versionIndex"]) == (said, number)
    assert await job_names(client) == ["job-code-my_code_train.py"]
    latest = await by_name(client, "job-code-my_code_train.py:latest")
    assert latest is not None
    assert latest["versionIndex"] == 1


async def test_two_jobs_of_unnamed_code_that_share_the_first_name_stay_two(client: Client) -> None:
    for round_ in ("first", "again"):
        for path in ("code_a.py", "job_a.py"):
            said, version = await make_unnamed_job(client, path, path.encode(), f"{round_} {path}")
            assert version["versionIndex"] == 0
            assert round_ == "first" or said != "Created"
    assert await job_names(client) == ["job-code-code_a.py", "job-code-job_a.py"]


async def test_a_collection_with_versions_stays_where_it_is_when_one_leaves_it(client: Client) -> None:
    """Somebody has given a job the very name that the client first asks for."""
    own = await log(client, content({"own": b""}), "job-a.py", artifactTypeName="job")
    said, version = await make_unnamed_job(client, "a.py", b"1", "c1")
    assert (said, version["artifactSequence"]["name"], version["versionIndex"]) == ("Updated", "job-code-a.py", 0)
    assert await by_name(client, "job-a.py:latest") == own
    assert await job_names(client) == ["job-a.py", "job-code-a.py"]


async def test_a_version_that_is_asked_for_under_the_name_of_another_type_is_refused(client: Client) -> None:
    await log(client, content({"own": b""}), "data")
    await create(client, content(), "job-x", clientID="c1", artifactTypeName="job")
    asked = {"entityName": "admin", "projectName": "p", "artifactTypeName": "job", "artifactCollectionName": "data"}
    asked |= {"digest": content().digest, "digestAlgorithm": "MANIFEST_MD5", "clientID": "c1"}
    status, message = await client.fail(CREATE, input=asked)
    assert (status, message) == (400, "Artifact 'data' has type 'dataset'; it cannot be logged as 'job'.")


async def test_asking_again_adds_and_erases_nothing(client: Client) -> None:
    given: dict[str, Any] = {
        "clientID": "c1",
        "description": "d",
        "metadata": '{"a": 1}',
        "aliases": wanted_aliases("latest", "tag"),
    }
    made = await create(client, content(), **given)
    again = await create(client, content(), "other", clientID="c1", aliases=wanted_aliases("more"))
    assert (again["id"], again["state"], again["description"]) == (made["id"], "PENDING", "d")
    await upload(client, made["id"], content())
    done = await commit(client, made["id"])
    assert (done["metadata"], aliases(done)) == ('{"a": 1}', {"latest", "tag", "more"})


async def test_the_run_that_asks_first_is_the_maker_and_every_one_has_the_version(client: Client) -> None:
    for run in ("first", "second"):
        await start(client, run)
    done = await log(client, content(), clientID="c1")
    for run, client_id in (("first", "c1"), ("second", "c2")):
        await create(client, content(), runName=run, clientID=client_id)
        outputs = (await client.ask(OUTPUTS, run=run))["project"]["run"]["outputArtifacts"]["edges"]
        assert outputs == [{"node": {"id": done["id"]}}]
    found = (await client.ask(LINEAGE, id=done["id"]))["artifact"]
    assert found["createdBy"] == {"name": "first"}


async def test_a_client_id_with_new_content_stands_for_a_new_version(client: Client) -> None:
    first = await log(client, content(), clientID="c1")
    second = await log(client, content({"a.txt": b"changed"}), clientID="c1")
    assert (first["versionIndex"], second["versionIndex"]) == (0, 1)
    assert (await client.ask(CLIENT_ID, id="c1"))["clientIDMapping"] == {"serverID": second["id"]}


async def test_the_tag_of_an_image_that_looks_like_a_version_is_no_alias(client: Client) -> None:
    """The job is made all the same: `v7` can only mean the version of that number."""
    done = await log(client, content(), aliases=wanted_aliases("latest", "v7"))
    assert aliases(done) == {"latest"}
    assert await by_name(client, "data:v7") is None


async def test_a_manifest_that_is_announced_again_is_the_same(client: Client, services: Services) -> None:
    made, wanted = await create(client, content()), content()
    asked = manifest_input(made["id"], wanted.manifest)
    once, twice = [
        (await client.ask(MANIFEST, input=asked))["createArtifactManifest"]["artifactManifest"] for _ in range(2)
    ]
    assert once["id"] == twice["id"]
    assert key_of(once["file"]["uploadUrl"]) == key_of(twice["file"]["uploadUrl"])


async def test_a_manifest_without_digest_has_no_url(client: Client) -> None:
    made = await create(client, content())
    answer = await client.ask(MANIFEST, input=manifest_input(made["id"], b"", digest=""))
    assert answer["createArtifactManifest"]["artifactManifest"]["file"]["uploadUrl"] is None


async def test_the_manifest_of_a_final_version_stays(client: Client) -> None:
    done = await log(client, content())
    before = (await client.ask(CURRENT_MANIFEST, id=done["id"]))["artifact"]["currentManifest"]["file"]["directUrl"]
    assert await client.fail(MANIFEST, input=manifest_input(done["id"], b"{}")) == (
        400,
        "The artifact is committed, so its manifest cannot change. Log a new version.",
    )
    after = (await client.ask(CURRENT_MANIFEST, id=done["id"]))["artifact"]["currentManifest"]["file"]["directUrl"]
    assert key_of(after) == key_of(before)


async def test_versions_that_are_committed_at_once_get_numbers_and_aliases_of_their_own(client: Client) -> None:
    wanted = [content({"a": str(number).encode()}) for number in range(8)]
    both = wanted_aliases("latest", "best")
    versions = await asyncio.gather(*(log(client, each, aliases=both) for each in wanted))
    assert sorted(version["versionIndex"] for version in versions) == list(range(8))
    for alias in ("latest", "best"):
        found = await by_name(client, f"data:{alias}")
        assert found is not None
        assert found["versionIndex"] == 7
    await asyncio.gather(*(client.ask(ADD_ALIASES, id=each["id"], aliases=wanted_aliases("x")) for each in versions))
    listed = (await client.ask(COLLECTION, name="data"))["project"]["artifactCollection"]["artifacts"]["edges"]
    assert [alias for edge in listed for alias in aliases(edge["node"])].count("x") == 1


async def test_one_version_that_is_committed_twice_at_once_is_one(client: Client) -> None:
    made = await create(client, content())
    await upload(client, made["id"], content())
    done = await asyncio.gather(*(commit(client, made["id"]) for _ in range(4)))
    assert {version["versionIndex"] for version in done} == {0}
    assert (await log(client, content({"b": b""})))["versionIndex"] == 1


@pytest.mark.parametrize("path", ["".join(map(chr, range(0x4E00, 0x4E00 + 682))), "x" * 1024], ids=len)
async def test_a_long_path_is_stored(client: Client, path: str) -> None:
    done = await log(client, content({path: b"1"}))
    listed = (await client.ask(LIST_FILES, id=done["id"], names=[path]))["artifact"]["files"]["edges"]
    assert [edge["node"]["name"] for edge in listed] == [path]


# --- asked for wrongly ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "words"),
    [
        pytest.param({"digestAlgorithm": "MANIFEST_XXH128"}, "MD5", id="digest algorithm"),
        pytest.param({"metadata": "{"}, "metadata is not JSON", id="metadata"),
        pytest.param({"artifactCollectionName": "a/b"}, "'a/b' cannot be an artifact's name", id="slash"),
        pytest.param({"artifactCollectionName": "x" * 129}, "cannot be an artifact's name", id="long name"),
        pytest.param({"artifactCollectionName": None}, "'' cannot be an artifact's name", id="no name"),
    ],
)
async def test_what_cannot_be_made_is_refused(client: Client, given: dict[str, Any], words: str) -> None:
    asked = {"entityName": "admin", "projectName": "p", "artifactTypeName": "t", "artifactCollectionName": "data"}
    asked |= {"digest": "x", "digestAlgorithm": "MANIFEST_MD5", **given}
    status, message = await client.fail(CREATE, input=asked)
    assert (status, words in message) == (400, True), message


async def test_metadata_may_hold_what_clients_write_for_nan(client: Client) -> None:
    assert (await create(client, content(), metadata='{"a": NaN}'))["metadata"] == '{"a": NaN}'


async def test_an_alias_is_taken_only_from_the_version_that_has_it(client: Client) -> None:
    first = await log(client, content())
    await log(client, content({"a.txt": b"second"}))
    await client.ask(DELETE_ALIASES, id=first["id"], aliases=wanted_aliases("latest"))
    assert aliases(await by_name(client, "data:v1")) == {"latest"}


async def test_an_alias_is_set_only_where_the_version_is(client: Client) -> None:
    done = await log(client, content())
    await log(client, content(), "other")
    status, message = await client.fail(ADD_ALIASES, id=done["id"], aliases=wanted_aliases("x", collection="other"))
    assert (status, "not a version of admin/p/other" in message) == (400, True)


async def test_an_inherited_time_to_live_can_be_restored(client: Client) -> None:
    made = await create(client, content(), ttlDurationSeconds=60)
    assert (made["ttlDurationSeconds"], made["ttlIsInherited"]) == (60, False)
    update = {"artifactID": made["id"], "ttlDurationSeconds": -1}
    changed = (await client.ask(UPDATE, input=update))["updateArtifact"]["artifact"]
    assert (changed["ttlDurationSeconds"], changed["ttlIsInherited"]) == (-1, True)


# --- listed -----------------------------------------------------------------------------------------------------------


class CountingReads:
    """Counts the read transactions of a database."""

    def __init__(self, services: Services) -> None:
        self._read = services.database.read
        self.count = 0

    async def read(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Count, and read."""
        self.count += 1
        return await self._read(work, *args, **kwargs)


async def test_all_jobs_are_listed_at_once_and_with_few_reads(client: Client) -> None:
    """The client asks without page sizes, and does not ask again."""
    for number in range(55):
        await log(client, content(), f"job-{number}", artifactTypeName="job")
    await log(client, content({"a.txt": b"second"}), "job-0", artifactTypeName="job")
    deleted = await log(client, content(), "job-deleted", artifactTypeName="job")
    await client.ask(DELETE, id=deleted["id"], aliases=True)
    counting: Any = CountingReads(client.context.services)
    client.context = replace(client.context, services=replace(client.context.services, database=counting))
    found = (await client.ask(JOBS))["project"]["artifactType"]["artifactCollections"]
    versions = {edge["node"]["name"]: edge["node"]["artifacts"]["edges"] for edge in found["edges"]}
    assert (found["totalCount"], len(versions)) == (56, 56)
    assert [len(versions[name]) for name in ("job-0", "job-1", "job-deleted")] == [2, 1, 0]
    assert [aliases(edge["node"]) for edge in versions["job-0"]] == [{"latest"}, set()]
    assert counting.count == 4, "project, type, collections, and the versions of all of them"


async def test_pages_of_versions_hold_while_new_ones_come(client: Client) -> None:
    for number in range(3):
        await log(client, content({"a": bytes([number])}))
    page = (await client.ask(COLLECTION, name="data", first=2))["project"]["artifactCollection"]["artifacts"]
    await log(client, content({"a": b"new"}))
    after = page["pageInfo"]["endCursor"]
    rest = (await client.ask(COLLECTION, name="data", first=2, after=after))["project"]["artifactCollection"]
    edges = page["edges"] + rest["artifacts"]["edges"]
    assert [edge["version"] for edge in edges] == ["v2", "v1", "v0"]
    assert rest["artifacts"]["totalCount"] == 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param('order: "-size"', "cannot be ordered by '-size'", id="order"),
        pytest.param('filters: "{\\"state\\": \\"PENDING\\"}"', "cannot be filtered", id="filter"),
        pytest.param('filters: "{"', "is not JSON", id="no JSON"),
    ],
)
async def test_what_cannot_be_listed_is_refused(client: Client, arguments: str, words: str) -> None:
    await log(client, content())
    query = f"""query {{ project(name: "p", entityName: "admin") {{ artifactCollection(name: "data") {{
      artifacts({arguments}) {{ totalCount }}
    }} }} }}"""
    status, message = await client.fail(query)
    assert (status, words in message) == (400, True), message


async def test_where_a_version_is_says_its_own_collection(client: Client) -> None:
    done = await log(client, content())
    (edge,) = (await client.ask(LINEAGE, id=done["id"]))["artifact"]["artifactMemberships"]["edges"]
    assert (edge["node"]["versionIndex"], aliases(edge["node"])) == (0, {"latest"})
    collection = edge["node"]["artifactCollection"]
    assert (collection["__typename"], collection["name"], collection["project"]["name"]) == (
        "ArtifactSequence",
        "data",
        "p",
    )


async def test_files_that_are_asked_for_by_name_are_counted_alone(client: Client) -> None:
    done = await log(client, content({"a": b"1", "b": b"2"}, model="s3://bucket/model"))
    for names, count in ((["a"], 1), (["model", "b"], 2), (None, 3)):
        assert (await client.ask(LIST_FILES, id=done["id"], names=names))["artifact"]["files"]["totalCount"] == count


# --- by digest --------------------------------------------------------------------------------------------------------


def _credentials(secret: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"api:{secret}".encode()).decode()}


async def test_contents_are_found_by_digest(client: Client, services: Services, tmp_path: Path) -> None:
    await log(client, content({"a.txt": b"hello"}))
    waits = await create(client, content({"b.txt": b"waits"}))
    await client.ask(
        """mutation($files: [CreateArtifactFileSpecInput!]!) {
          createArtifactFiles(input: {artifactFiles: $files}) { files { edges { node { uploadUrl } } } }
        }""",
        files=[{"artifactID": waits["id"], "name": "b.txt", "md5": _md5(b"waits")}],
    )
    admin = _credentials((tmp_path / "data" / "admin-api-key").read_text().strip())
    async with TestClient(TestServer(build_app(services))) as http:
        for path in (
            f"/artifactsV2/default/admin/p/data/birth/{_hex(b'hello')}/a.txt",
            f"/artifactsV2/default/admin/p/data/artifact/birth/{_hex(b'hello')}/a.txt",
            f"/artifacts/admin/{_hex(b'hello')}",
        ):
            async with http.get(path, headers=admin) as answer:
                assert (answer.status, await answer.read()) == (200, b"hello")
        for path, status in (
            (f"/artifacts/admin/{_hex(b'waits')}", 404),
            (f"/artifacts/admin/{_hex(b'unknown')}", 404),
            ("/artifacts/admin/nonsense", 404),
        ):
            async with http.get(path, headers=admin) as answer:
                assert answer.status == status
        async with http.get(f"/artifacts/admin/{_hex(b'hello')}") as answer:
            assert answer.status == 401


def _hex(stored: bytes) -> str:
    return hashlib.md5(stored, usedforsecurity=False).hexdigest()


def _md5(stored: bytes) -> str:
    return base64.b64encode(hashlib.md5(stored, usedforsecurity=False).digest()).decode()
