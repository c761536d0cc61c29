"""Versions linked to collections of another project, and what is done with these collections."""

from typing import Any

import pytest

from protocol.names import run_storage_id
from server.context import Services
from server.expiry import delete_expired
from tests.server.conftest import Client, Clock, make_client
from tests.server.run_steps import start
from tests.server.test_artifacts import (
    ADD_ALIASES,
    CURRENT_MANIFEST,
    DELETE,
    DELETE_ALIASES,
    DELETE_SEQUENCE,
    LIST_FILES,
    UPDATE,
    USE,
    content,
    create,
    log,
    read,
    wanted_aliases,
)
from tests.server.test_teams import CREATE_TEAM, INVITE

MEMBERSHIP = """versionIndex aliases { alias }
  artifactCollection { __typename id name project { name entity { name } } tags { edges { node { name } } } }
  artifact { id versionIndex aliases { alias } artifactSequence { name } }"""
LINK = f"""mutation($input: LinkArtifactInput!) {{
  linkArtifact(input: $input) {{ versionIndex artifactMembership {{ {MEMBERSHIP} }} }}
}}"""
UNLINK = """mutation($id: ID!, $portfolio: ID!) {
  unlinkArtifact(input: {artifactID: $id, artifactPortfolioID: $portfolio}) { success }
}"""
BY_NAME = f"""query($entity: String = "admin", $project: String = "shop", $name: String!) {{
  project(name: $project, entityName: $entity) {{ artifactCollectionMembership(name: $name) {{ {MEMBERSHIP} }} }}
}}"""
LISTED = """query($name: String!) { project(name: "shop", entityName: "admin") {
  artifactCollections { totalCount edges { node {
    __typename name tags { edges { node { name } } } artifacts { totalCount edges { version node { id } } }
  } } }
  artifactCollection(name: $name) { artifacts(first: 2) { totalCount edges { version node { id } } } }
} }"""
WHERE = """query($id: ID!) { artifact(id: $id) { artifactMemberships { edges { node {
  versionIndex artifactCollection { __typename name }
} } } } }"""
CHANGE = """mutation($id: ID!, $name: String, $description: String) {
  updateArtifactPortfolio(input: {artifactPortfolioID: $id, name: $name, description: $description}) {
    artifactCollection { __typename name description }
  }
}"""
DELETE_PORTFOLIO = """mutation($id: ID!) {
  deleteArtifactPortfolio(input: {artifactPortfolioID: $id}) { artifactCollection { __typename state } }
}"""
MOVE = """mutation($id: ID!, $type: String!) {
  moveArtifactSequence(input: {artifactSequenceID: $id, destinationArtifactTypeName: $type}) {
    artifactCollection { name defaultArtifactType { name } }
  }
}"""
DELETE_RUN = """mutation($id: ID!, $artifacts: Boolean) {
  deleteRun(input: {id: $id, deleteArtifacts: $artifacts}) { clientMutationId }
}"""
PLACE = {"entityName": "admin", "projectName": "shop", "artifactCollectionName": "best"}
TAG = """mutation($input: CreateArtifactCollectionTagAssignmentsInput!) {
  createArtifactCollectionTagAssignments(input: $input) { tags { name } }
}"""
UNTAG = """mutation($input: DeleteArtifactCollectionTagAssignmentsInput!) {
  deleteArtifactCollectionTagAssignments(input: $input) { success }
}"""


def link_input(artifact_id: str, name: str = "best", *aliases: str, **more: Any) -> dict[str, Any]:
    """Return what is said of a link."""
    wanted = [{"alias": alias, "artifactCollectionName": name} for alias in aliases]
    place = {"entityName": "admin", "projectName": "shop", "artifactPortfolioName": name}
    return {"artifactID": artifact_id, **place, "aliases": wanted, **more}


async def link(client: Client, artifact_id: str, name: str = "best", *aliases: str, **more: Any) -> dict[str, Any]:
    """Link a version; returns its membership."""
    answer = await client.ask(LINK, input=link_input(artifact_id, name, *aliases, **more))
    return answer["linkArtifact"]["artifactMembership"]


async def by_name(client: Client, name: str, **place: str) -> dict[str, Any] | None:
    """Return a version of a collection."""
    project = (await client.ask(BY_NAME, name=name, **place))["project"]
    return project["artifactCollectionMembership"] if project else None


def _aliases(node: dict[str, Any] | None) -> list[str]:
    assert node is not None
    return sorted(each["alias"] for each in node["aliases"])


async def test_a_version_is_linked_under_a_number_of_its_own(client: Client) -> None:
    first, second = [await log(client, content({"a": text})) for text in (b"1", b"2")]
    linked = await link(client, second["id"], "best", "prod")
    assert linked["versionIndex"] == 0
    assert linked["artifactCollection"]["__typename"] == "ArtifactPortfolio"
    assert linked["artifactCollection"]["project"] == {"name": "shop", "entity": {"name": "admin"}}
    assert linked["artifact"]["versionIndex"] == 1, "its own number stays"
    assert _aliases(linked) == ["latest", "prod"]
    assert _aliases(linked["artifact"]) == ["latest", "latest", "prod"], "those of all places"
    assert (await link(client, first["id"]))["versionIndex"] == 1
    assert _aliases(await by_name(client, "best:v0")) == ["prod"]
    newest = await by_name(client, "best:latest")
    assert newest is not None
    assert newest["artifact"]["id"] == first["id"]


async def test_linking_again_adds_aliases_and_nothing_else(client: Client) -> None:
    made, other = await log(client, content()), await log(client, content({"b": b""}))
    for version in (made, other, made):
        await link(client, version["id"], "best", "again")
    assert _aliases(await by_name(client, "best:v0")) == ["again"]
    assert _aliases(await by_name(client, "best:v1")) == ["latest"], "nothing has become newer"
    assert await by_name(client, "best:v2") is None


async def test_linked_versions_are_listed_with_their_numbers_there(client: Client) -> None:
    made = [await log(client, content({"a": bytes([number])})) for number in range(4)]
    for version in (made[2], made[0], made[3]):
        await link(client, version["id"])
    await client.ask(DELETE, id=made[3]["id"], aliases=True)
    expected = {
        "totalCount": 2,
        "edges": [
            {"version": "v1", "node": {"id": made[0]["id"]}},
            {"version": "v0", "node": {"id": made[2]["id"]}},
        ],
    }
    project = (await client.ask(LISTED, name="best"))["project"]
    assert project["artifactCollection"]["artifacts"] == expected
    assert [edge["node"]["artifacts"] for edge in project["artifactCollections"]["edges"]] == [expected]
    assert _aliases(await by_name(client, "best:v1")) == ["latest"], "it means the newest that is left"
    places = (await client.ask(WHERE, id=made[0]["id"]))["artifact"]["artifactMemberships"]["edges"]
    shown = [(edge["node"]["artifactCollection"], edge["node"]["versionIndex"]) for edge in places]
    assert shown == [
        ({"__typename": "ArtifactSequence", "name": "data"}, 0),
        ({"__typename": "ArtifactPortfolio", "name": "best"}, 1),
    ]


async def test_what_is_unlinked_stays_where_it_was_logged(client: Client) -> None:
    first, second = [await log(client, content({"a": text})) for text in (b"1", b"2")]
    for version in (first, second):
        linked = await link(client, version["id"])
    portfolio = linked["artifactCollection"]["id"]
    await client.ask(UNLINK, id=second["id"], portfolio=portfolio)
    assert await by_name(client, "best:v1") is None
    assert _aliases(await by_name(client, "best:v0")) == ["latest"]
    left = await read(client, second["id"])
    assert left is not None
    assert (left["state"], left["aliases"]) == ("COMMITTED", [{"alias": "latest"}])
    status, message = await client.fail(UNLINK, id=second["id"], portfolio=portfolio)
    assert (status, message) == (400, "The artifact is not linked to 'best'.")
    own = first["artifactSequence"]["id"]
    status, message = await client.fail(UNLINK, id=first["id"], portfolio=own)
    assert (status, message) == (400, "The artifact was logged to 'data'. Delete it, if that is what you want.")
    assert (await link(client, second["id"]))["versionIndex"] == 2, "numbers are never given out again"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"artifactPortfolioName": "a/b"}, "'a/b' cannot be an artifact's name"),
        ({"artifactPortfolioName": "data", "projectName": "p"}, "Runs log versions to 'data'"),
        (
            {"artifactPortfolioName": "models"},
            "Artifact 'models' has type 'model'; it cannot be linked to as 'dataset'",
        ),
        ({"projectName": None}, "Say where to link to"),
        ({"entityName": "elsewhere"}, "There is no entity"),
        ({"artifactID": None}, "There is no such artifact"),
        ({"aliases": [{"alias": "a:b", "artifactCollectionName": "best"}]}, "'a:b' cannot be an alias"),
    ],
)
async def test_what_cannot_be_linked_is_refused(client: Client, more: dict[str, Any], message: str) -> None:
    made = await log(client, content())
    model = await log(client, content({"m": b""}), "m", artifactTypeName="model")
    await link(client, model["id"], "models")
    _, told = await client.fail(LINK, input=link_input(made["id"], **more))
    assert message in told


async def test_only_what_is_complete_is_linked(client: Client) -> None:
    made = await create(client, content(), clientID="mine")
    _, told = await client.fail(LINK, input=link_input(made["id"]))
    assert "still being uploaded" in told
    done = await log(client, content({"x": b""}), clientID="done")
    assert (await link(client, "", artifactID=None, clientID="done"))["artifact"]["id"] == done["id"]


async def test_aliases_in_a_collection_of_links_are_its_own(client: Client) -> None:
    made = await log(client, content())
    await link(client, made["id"])
    there = {"artifactCollectionName": "best", "entityName": "admin", "projectName": "shop"}
    await client.ask(ADD_ALIASES, id=made["id"], aliases=[{"alias": "prod", **there}])
    assert _aliases(await by_name(client, "best:prod")) == ["latest", "prod"]
    await client.ask(ADD_ALIASES, id=made["id"], aliases=wanted_aliases("own"))
    await client.ask(DELETE_ALIASES, id=made["id"], aliases=[{"alias": "prod", **there}])
    assert _aliases(await by_name(client, "best:v0")) == ["latest"]
    assert _aliases(await by_name(client, "data:v0", project="p")) == ["latest", "own"]


async def test_who_sees_a_link_reads_the_version_and_changes_nothing(services: Services) -> None:
    owner, fellow = await make_client(services), await make_client(services, "fellow")
    await owner.ask(CREATE_TEAM, teamName="team")
    await owner.ask(INVITE, entity="team", username="fellow")
    fellow, stranger = await make_client(services, "fellow"), await make_client(services, "eve")
    await owner.ask('mutation { upsertModel(input: {name: "p", entityName: "fellow"}) { inserted } }')
    made = await log(owner, content())
    assert await read(fellow, made["id"]) is None
    await link(owner, made["id"], entityName="team")
    assert await read(fellow, made["id"]) is not None
    assert await read(stranger, made["id"]) is None
    files = (await fellow.ask(LIST_FILES, id=made["id"]))["artifact"]["files"]["edges"]
    manifest = (await fellow.ask(CURRENT_MANIFEST, id=made["id"]))["artifact"]["currentManifest"]
    assert files[0]["node"]["directUrl"]
    assert manifest["file"]["directUrl"]
    await fellow.ask('mutation { upsertBucket(input: {name: "r", modelName: "p", entityName: "fellow"}) { inserted } }')
    await fellow.ask(USE, id=made["id"], entity="fellow", run="r")
    for forbidden in (
        fellow.fail(UPDATE, input={"artifactID": made["id"], "description": "mine"}),
        fellow.fail(DELETE, id=made["id"], aliases=True),
        fellow.fail(LINK, input=link_input(made["id"], entityName="fellow")),
    ):
        assert (await forbidden)[0] == 403
    assert (await fellow.fail(ADD_ALIASES, id=made["id"], aliases=wanted_aliases("x")))[0] == 400
    there = {"artifactCollectionName": "best", "entityName": "team", "projectName": "shop"}
    await fellow.ask(ADD_ALIASES, id=made["id"], aliases=[{"alias": "prod", **there}])
    found = await by_name(fellow, "best:prod", entity="team")
    assert found is not None
    await fellow.ask(UNLINK, id=made["id"], portfolio=found["artifactCollection"]["id"])
    assert await read(fellow, made["id"]) is None


async def test_collections_of_links_are_renamed_and_deleted(client: Client) -> None:
    await start(client)
    made = await log(client, content())
    portfolio = (await link(client, made["id"]))["artifactCollection"]["id"]
    changed = await client.ask(CHANGE, id=portfolio, name="finest", description="of all")
    assert changed["updateArtifactPortfolio"]["artifactCollection"] == {
        "__typename": "ArtifactPortfolio",
        "name": "finest",
        "description": "of all",
    }
    assert await by_name(client, "finest:latest") is not None
    deleted = await client.ask(DELETE_PORTFOLIO, id=portfolio)
    assert deleted["deleteArtifactPortfolio"]["artifactCollection"]["state"] == "DELETED"
    assert await by_name(client, "finest:latest") is None
    left = await read(client, made["id"])
    assert left is not None
    assert left["state"] == "COMMITTED"
    assert (await link(client, made["id"], "finest"))["versionIndex"] == 0, "the name is free again"


async def test_what_is_deleted_with_its_collection_or_its_run_is_the_latest_nowhere(client: Client) -> None:
    kept = await log(client, content({"a": b"kept"}), "kept")
    gone = await log(client, content({"a": b"gone"}), "gone")
    await start(client, "r")
    by_run = await log(client, content({"a": b"by a run"}), "kept", runName="r")
    for version in (kept, gone, by_run):
        await link(client, version["id"], "best", "latest", "prod")
    await client.ask(DELETE_RUN, id=run_storage_id("admin", "p", "r"), artifacts=True)
    await client.ask(DELETE_SEQUENCE, id=gone["artifactSequence"]["id"])
    for name, project in (("best:latest", "shop"), ("kept:latest", "p")):
        found = await by_name(client, name, project=project)
        assert found is not None
        assert found["artifact"]["id"] == kept["id"]
    assert await by_name(client, "best:prod") is None


async def test_what_has_expired_is_deleted_unless_it_is_linked(client: Client, clock: Clock) -> None:
    lives = {"linked": 60, "short": 60, "long": 3600, "off": -2}
    made = {
        name: await log(client, content({"a": name.encode()}), ttlDurationSeconds=seconds)
        for name, seconds in lives.items()
    }
    portfolio = (await link(client, made["linked"]["id"]))["artifactCollection"]["id"]
    database, clock.now = client.context.services.database, clock.now + 60
    assert await database.write(delete_expired, clock.now) == 1
    states = {name: await read(client, each["id"]) for name, each in made.items()}
    assert [name for name, each in states.items() if each and each["state"] == "DELETED"] == ["short"]
    await client.ask(UNLINK, id=made["linked"]["id"], portfolio=portfolio)
    await client.ask(DELETE, id=made["off"]["id"], aliases=True)
    assert await database.write(delete_expired, clock.now + 3600) == 2
    assert await by_name(client, "data:latest", project="p") is None


async def test_a_collection_is_tagged(client: Client) -> None:
    made = await log(client, content())
    await link(client, made["id"])
    tagged = await client.ask(TAG, input={**PLACE, "tags": [{"tagName": "b"}, {"tagName": "a"}]})
    assert tagged["createArtifactCollectionTagAssignments"]["tags"] == [{"name": "a"}, {"name": "b"}]
    await client.ask(UNTAG, input={**PLACE, "tags": [{"tagName": "a"}, {"tagName": "none"}]})
    found = await by_name(client, "best:latest")
    assert found is not None
    expected = {"edges": [{"node": {"name": "b"}}]}
    assert found["artifactCollection"]["tags"] == expected
    listed = (await client.ask(LISTED, name="best"))["project"]["artifactCollections"]["edges"]
    assert [edge["node"]["tags"] for edge in listed] == [expected]
    status, _ = await client.fail(TAG, input={**PLACE, "artifactCollectionName": "other", "tags": []})
    assert status == 404


async def test_a_collection_gets_another_type(client: Client) -> None:
    made = await log(client, content())
    moved = await client.ask(MOVE, id=made["artifactSequence"]["id"], type="model")
    assert moved["moveArtifactSequence"]["artifactCollection"]["defaultArtifactType"] == {"name": "model"}
    changed = await read(client, made["id"])
    assert changed is not None
    assert changed["artifactType"] == {"name": "model"}
    status, _ = await client.fail(MOVE, id=made["artifactSequence"]["id"], type="")
    assert status == 400
