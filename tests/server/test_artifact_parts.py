"""Versions whose manifest comes in parts: increments to the newest version, and what several runs make together."""

from typing import Any

from server.context import Services
from tests.server.conftest import Client, make_client
from tests.server.test_artifacts import (
    COMMIT,
    CURRENT_MANIFEST,
    LIST_FILES,
    MANIFEST,
    Content,
    by_name,
    commit,
    content,
    create,
    key_of,
    log,
    manifest_input,
    md5,
    put,
    upload_files,
)

UPDATE = """mutation($id: ID!, $digest: String, $base: ID) {
  updateArtifactManifest(input: {artifactManifestID: $id, digest: $digest, baseArtifactID: $base}) {
    artifactManifest { id file { uploadUrl } }
  }
}"""


async def add_part(client: Client, artifact_id: str, wanted: Content, kind: str, base: str | None = None) -> str:
    """Announce and upload a part as a client does; returns its id."""
    given = manifest_input(artifact_id, b"", name=f"wandb_manifest.{kind.lower()}.json", digest="", type=kind)
    answer = await client.ask(MANIFEST, input={**given, "baseArtifactID": base})
    manifest = answer["createArtifactManifest"]["artifactManifest"]
    assert manifest["file"]["uploadUrl"] is None
    await upload_files(client, artifact_id, wanted.files)
    answer = await client.ask(UPDATE, id=manifest["id"], digest=md5(wanted.manifest), base=base)
    url = answer["updateArtifactManifest"]["artifactManifest"]["file"]["uploadUrl"]
    await put(client.context.services, key_of(url), wanted.manifest)
    return manifest["id"]


async def test_an_increment_is_added_to_the_newest_version(client: Client) -> None:
    first = await log(client, content({"a": b"1", "b": b"1"}, far="s3://bucket/x"))
    added = content({"b": b"2", "c": b"3"})
    made = await create(client, added, clientID="second")
    assert made["artifactSequence"]["latestArtifact"]["id"] == first["id"]
    await add_part(client, made["id"], added, "INCREMENTAL", first["id"])
    done = await commit(client, made["id"])
    whole = content({"a": b"1", "b": b"2", "c": b"3"}, far="s3://bucket/x")
    assert (done["digest"], done["fileCount"], done["size"]) == (whole.digest, 4, 3 + 7)
    listed = (await client.ask(LIST_FILES, id=made["id"]))["artifact"]["files"]["edges"]
    assert [edge["node"]["name"] for edge in listed] == ["a", "b", "c", "far"]
    manifest = (await client.ask(CURRENT_MANIFEST, id=made["id"]))["artifact"]["currentManifest"]["file"]
    assert manifest["name"] == "wandb_manifest.json"
    stored = await client.context.services.objects.read(key_of(manifest["directUrl"]))
    assert stored is not None
    assert b"s3://bucket/x" in stored
    again = await create(client, whole, clientID="third")
    assert (again["id"], again["state"]) == (made["id"], "COMMITTED"), "it is known by what it is as a whole"


async def test_the_first_increment_is_all_there_is(client: Client) -> None:
    added = content({"a": b"1"})
    made = await create(client, added)
    await add_part(client, made["id"], added, "INCREMENTAL")
    assert (await commit(client, made["id"]))["digest"] == added.digest


async def test_several_runs_make_one_version(client: Client) -> None:
    before = await log(client, content({"old": b"0"}))
    parts = [content({f"part{number}": bytes([number])}) for number in range(3)]
    made: set[str] = set()
    for number, part in enumerate(parts):
        version = await create(client, part, distributedID="group", clientID=f"client {number}")
        assert version["state"] == "PENDING"
        made.add(version["id"])
        # Clients say a base here, too, and mean nothing by it.
        await add_part(client, version["id"], part, "PATCH", before["id"])
    (artifact_id,) = made
    done = await commit(client, artifact_id)
    whole = content({f"part{number}": bytes([number]) for number in range(3)})
    assert (done["digest"], done["versionIndex"], done["fileCount"]) == (whole.digest, 1, 3)
    next_one = await create(client, parts[0], distributedID="group", clientID="later")
    assert next_one["id"] != artifact_id, "what is final is not made any further"
    named = await by_name(client, "data:latest")
    assert named is not None
    assert named["id"] == artifact_id


async def test_a_part_that_never_arrived_is_missed_at_the_commit(client: Client) -> None:
    part = content({"a": b"1"})
    made = await create(client, part, distributedID="group")
    given = manifest_input(made["id"], b"", digest="", type="PATCH")
    answer = await client.ask(MANIFEST, input=given)
    manifest_id = answer["createArtifactManifest"]["artifactManifest"]["id"]
    assert "its manifest was never uploaded" in (await client.fail(COMMIT, id=made["id"]))[1]
    await client.ask(UPDATE, id=manifest_id, digest=md5(part.manifest))
    assert "its manifest was never uploaded" in (await client.fail(COMMIT, id=made["id"]))[1]
    _, told = await client.fail(UPDATE, id=manifest_id, digest=md5(b"other"))
    assert told == "This manifest has another digest already. Log the artifact again."
    _, told = await client.fail(UPDATE, id=manifest_id, digest="")
    assert told == "'' is not an MD5 in base64."


async def test_nobody_adds_to_what_he_cannot_read(services: Services, client: Client) -> None:
    secret: dict[str, Any] = await log(client, content({"secret": b"s"}))
    eve = await make_client(services, "eve")
    added = content({"a": b"1"})
    made = await create(eve, added, entityName="eve")
    given = manifest_input(made["id"], b"", digest="", type="INCREMENTAL", baseArtifactID=secret["id"])
    assert (await eve.fail(MANIFEST, input=given))[0] == 404
    part = await add_part(eve, made["id"], added, "INCREMENTAL")
    assert (await eve.fail(UPDATE, id=part, digest=md5(added.manifest), base=secret["id"]))[0] == 404
