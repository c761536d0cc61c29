"""Registries: made, changed, searched, and open to whom their members and their visibility say."""

import json
from typing import Any

import pytest

from server.context import Services
from tests.server.conftest import Client, Clock, make_client
from tests.server.test_artifact_links import LINK, TAG, UNLINK, link_input
from tests.server.test_artifacts import ADD_ALIASES, CURRENT_MANIFEST, LIST_FILES, USE, content, log, read
from tests.server.test_teams import CREATE_TEAM, INVITE

FIELDS = """id name description access createdAt updatedAt allowAllArtifactTypesInRegistry
  entity { name organization { name } } artifactTypes(includeAll: true) { edges { node { name } } }"""
UPSERT = f"""mutation($input: UpsertModelInput!) {{
  upsertModel(input: $input) {{ inserted project {{ {FIELDS} }} }}
}}"""
RENAME = f"""mutation($old: String!, $new: String!) {{
  renameProject(input: {{entityName: "launchbay", oldProjectName: $old, newProjectName: $new}}) {{
    inserted project {{ {FIELDS} }}
  }}
}}"""
DELETE = "mutation($id: String!) { deleteModel(input: {id: $id}) { success } }"
ONE = f"""query($name: String!) {{ entity(name: "launchbay") {{ project(name: $name) {{ {FIELDS} }} }} }}"""
MEMBERS = """query($name: String!) { project(name: $name, entityName: "launchbay") {
  members { id username role { name } } teamMembers { team { id name isTeam } role { name } }
} }"""
ADD = "mutation($input: CreateProjectMembersInput!) { createProjectMembers(input: $input) { success } }"
REMOVE = "mutation($input: DeleteProjectMembersInput!) { deleteProjectMembers(input: $input) { success } }"
SET_USER = "mutation($input: UpdateProjectMemberInput!) { updateProjectMember(input: $input) { success } }"
SET_TEAM = "mutation($input: UpdateProjectTeamMemberInput!) { updateProjectTeamMember(input: $input) { success } }"
SEARCH = """query($registries: JSONString, $collections: JSONString, $versions: JSONString, $order: String,
                  $first: Int, $projects: String, $artifactCollections: String, $artifactMemberships: String) {
  organization(name: "launchbay") { advancedRegistryFeatures { advancedSearch } orgEntity { entityType
    projects(filters: $registries, order: $order, first: $first, after: $projects) {
      edges { node { name } } pageInfo { hasNextPage endCursor }
    }
    artifactCollections(projectFilters: $registries, filters: $collections, order: $order, first: $first,
                        after: $artifactCollections, collectionTypes: [PORTFOLIO]) {
      totalCount edges { node { __typename name } } pageInfo { hasNextPage endCursor }
    }
    artifactMemberships(projectFilters: $registries, collectionFilters: $collections, filters: $versions, first: $first,
                        after: $artifactMemberships) {
      edges { node { versionIndex artifactCollection { name } } } pageInfo { hasNextPage endCursor }
    }
  } }
}"""


async def upsert(client: Client, name: str, **more: Any) -> dict[str, Any]:
    """Make or change a registry."""
    given = {"entityName": "launchbay", "name": f"wandb-registry-{name}", **more}
    answer = (await client.ask(UPSERT, input=given))["upsertModel"]
    return {**answer["project"], "inserted": answer["inserted"]}


def at(registry: str) -> dict[str, Any]:
    """Return where to link to."""
    return {"entityName": "launchbay", "projectName": f"wandb-registry-{registry}"}


async def names(client: Client, **filters: Any) -> list[str]:
    """Return `registry` names, or what of it a search finds: `collection`, `collection:vN`."""
    given = {key: json.dumps(value) for key, value in filters.items() if key != "order"}
    found = (await client.ask(SEARCH, **given, order=filters.get("order")))["organization"]["orgEntity"]
    if "versions" in filters:
        nodes = [edge["node"] for edge in found["artifactMemberships"]["edges"]]
        return [f"{node['artifactCollection']['name']}:v{node['versionIndex']}" for node in nodes]
    listed = found["artifactCollections"] if "collections" in filters else found["projects"]
    return [edge["node"]["name"].removeprefix("wandb-registry-") for edge in listed["edges"]]


async def test_everybody_is_in_one_organization(services: Services, client: Client) -> None:
    fellow = await make_client(services, "fellow")
    await client.ask(CREATE_TEAM, teamName="team")
    client = await make_client(services)
    query = """query($name: String!) { entity(name: $name) {
      organization { name orgEntity { name entityType } } user { organizations { name } }
    } }"""
    organization = {"name": "launchbay", "orgEntity": {"name": "launchbay", "entityType": "organization"}}
    assert (await client.ask(query, name="team"))["entity"] == {"organization": organization, "user": None}
    own = (await fellow.ask(query, name="fellow"))["entity"]
    assert own == {"organization": None, "user": {"organizations": [{"name": "launchbay"}]}}
    assert (await client.ask('query { organization(name: "other") { name } }'))["organization"] is None


async def test_a_registry_is_made_changed_renamed_and_deleted(services: Services, clock: Clock) -> None:
    client = await make_client(services, "maker")
    made = await upsert(client, "Things", access="RESTRICTED", description="d", artifactTypes=[{"name": "dataset"}])
    assert made["inserted"]
    assert (made["name"], made["access"], made["description"]) == ("wandb-registry-Things", "RESTRICTED", "d")
    assert made["entity"] == {"name": "launchbay", "organization": {"name": "launchbay"}}
    assert [edge["node"]["name"] for edge in made["artifactTypes"]["edges"]] == ["dataset"]
    clock.now += 60
    client = await make_client(services, "maker")
    changed = await upsert(client, "things", access="PRIVATE", allowAllArtifactTypesInRegistry=False)
    assert not changed["inserted"], "names differ by more than case"
    assert (changed["access"], changed["description"]) == ("PRIVATE", "d")
    assert changed["updatedAt"] > changed["createdAt"]
    renamed = await client.ask(RENAME, old="wandb-registry-things", new="wandb-registry-stuff")
    assert renamed["renameProject"]["project"]["id"] == made["id"]
    assert (await client.ask(ONE, name="wandb-registry-things"))["entity"]["project"] is None
    assert (await client.ask(ONE, name="wandb-registry-stuff"))["entity"]["project"]["id"] == made["id"]
    taken = await client.fail(RENAME, old="wandb-registry-stuff", new="wandb-registry-Model")
    assert taken == (400, "'launchbay' has a project 'wandb-registry-Model' already.")
    assert (await client.ask(DELETE, id=made["id"]))["deleteModel"] == {"success": True}
    assert (await client.ask(ONE, name="wandb-registry-stuff"))["entity"]["project"] is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": "things"}, "'things' cannot be a registry's name"),
        ({"name": "wandb-registry-"}, "cannot be a registry's name"),
        ({"name": "wandb-registry-a/b"}, "cannot be a project's name"),
        ({"name": "wandb-registry-x", "access": "USER_WRITE"}, "cannot have the access 'USER_WRITE'"),
    ],
)
async def test_what_can_be_no_registry_is_refused(client: Client, given: dict[str, Any], message: str) -> None:
    status, told = await client.fail(UPSERT, input={"entityName": "launchbay", **given})
    assert (status, message in told) == (400, True), told


async def test_only_registries_are_renamed_and_deleted(client: Client) -> None:
    made = await client.ask(UPSERT, input={"entityName": "admin", "name": "mine"})
    status, told = await client.fail(DELETE, id=made["upsertModel"]["project"]["id"])
    assert (status, told) == (404, "There is no such registry.")


async def test_nothing_but_links_is_in_the_organization(client: Client) -> None:
    with pytest.raises(AssertionError, match="is the organization, which has registries and nothing else"):
        await log(client, content(), **at("model"))
    made = await log(client, content())
    status, told = await client.fail(LINK, input=link_input(made["id"], **at("missing")))
    assert (status, told) == (404, "There is no project launchbay/wandb-registry-missing, or you may not see it.")


async def test_a_registry_takes_the_types_that_it_allows(client: Client) -> None:
    await upsert(client, "strict", artifactTypes=[{"name": "model"}], allowAllArtifactTypesInRegistry=False)
    made = await log(client, content())
    status, told = await client.fail(LINK, input=link_input(made["id"], **at("strict")))
    assert (status, "takes no artifacts of type 'dataset'. It takes: model." in told) == (400, True), told
    await upsert(client, "strict", allowAllArtifactTypesInRegistry=True)
    await client.ask(LINK, input=link_input(made["id"], **at("strict")))


async def _roles(services: Services, role: str) -> tuple[Client, Client, dict[str, str], str]:
    """Return the admin of a restricted registry, somebody with a role in it, a linked version and the collection."""
    owner, member = await make_client(services, "owner"), await make_client(services, "somebody")
    registry = await upsert(owner, "r", access="RESTRICTED")
    owner = await make_client(services, "owner")
    made = await log(owner, content(), entityName="owner")
    linked = await owner.ask(LINK, input=link_input(made["id"], **at("r")))
    who = (await member.ask("query { viewer { id } }"))["viewer"]["id"]
    given = {"projectId": registry["id"], "userIds": [who]}
    if role:
        await owner.ask(ADD, input=given)
        await owner.ask(SET_USER, input={"projectId": registry["id"], "userId": who, "userProjectRole": role})
    collection = linked["linkArtifact"]["artifactMembership"]["artifactCollection"]["id"]
    return owner, await make_client(services, "somebody"), {"id": made["id"], "registry": registry["id"]}, collection


@pytest.mark.parametrize("role", ["", "restricted_viewer", "viewer", "member", "admin"])
async def test_a_role_opens_what_it_says(services: Services, role: str) -> None:
    _, somebody, things, collection = await _roles(services, role)
    rank = ("", "restricted_viewer", "viewer", "member", "admin").index(role)
    version = things["id"]
    assert (await read(somebody, version) is not None) == (rank >= 1)
    assert (await somebody.ask(ONE, name="wandb-registry-r"))["entity"]["project"] is None or rank >= 1
    assert await names(somebody, versions={}) == (["best:v0"] if rank else [])
    assert ("r" in await names(somebody)) == (rank >= 1)
    await somebody.ask(UPSERT, input={"name": "p", "entityName": "somebody"})
    await somebody.ask(
        'mutation { upsertBucket(input: {name: "r", modelName: "p", entityName: "somebody"}) { inserted } }'
    )
    there = {**at("r"), "artifactCollectionName": "best"}
    tries: list[tuple[int, str, dict[str, Any]]] = [
        (2, CURRENT_MANIFEST, {"id": version}),
        (2, LIST_FILES, {"id": version}),
        (2, USE, {"id": version, "entity": "somebody", "run": "r"}),
        (3, ADD_ALIASES, {"id": version, "aliases": [{"alias": "prod", **there}]}),
        (3, TAG, {"input": {**there, "tags": [{"tagName": "t"}]}}),
        (4, UPSERT, {"input": {"entityName": "launchbay", "name": "wandb-registry-r", "description": "d"}}),
        (4, ADD, {"input": {"projectId": things["registry"], "userIds": []}}),
        (3, UNLINK, {"id": version, "portfolio": collection}),
        (4, DELETE, {"id": things["registry"]}),
    ]
    for needed, document, given in tries:
        status, body = await somebody.executor.execute(document, given, None, somebody.context)
        wanted = 200 if rank >= needed else 403 if rank else 404
        data: Any = body["data"]
        hidden = rank == 0 and (status == 400 or data == {"artifact": None})
        assert status == wanted or hidden, (document, body)


async def test_a_role_comes_by_oneself_by_a_team_or_by_being_there(services: Services) -> None:
    owner, fellow = await make_client(services, "owner"), await make_client(services, "fellow")
    await owner.ask(CREATE_TEAM, teamName="team")
    owner = await make_client(services, "owner")
    await owner.ask(INVITE, entity="team", username="fellow")
    registry = await upsert(owner, "r", access="PRIVATE")
    owner, fellow = await make_client(services, "owner"), await make_client(services, "fellow")
    made = await log(fellow, content(), entityName="fellow")
    assert "r" in await names(fellow), "whoever is here sees what is open to all"
    link = link_input(made["id"], **at("r"))
    status, told = await fellow.fail(LINK, input=link)
    assert (status, told) == (
        403,
        "Your role in launchbay/wandb-registry-r is viewer; that needs the role member. Ask an admin of it.",
    )
    team = (await owner.ask('query { entity(name: "team") { id } }'))["entity"]["id"]
    await owner.ask(ADD, input={"projectId": registry["id"], "teamIds": [team]})
    await owner.ask(SET_TEAM, input={"projectId": registry["id"], "teamId": team, "teamProjectRole": "member"})
    listed = (await owner.ask(MEMBERS, name="wandb-registry-r"))["project"]
    assert [(each["username"], each["role"]["name"]) for each in listed["members"]] == [("owner", "admin")]
    assert [(each["team"]["name"], each["role"]["name"]) for each in listed["teamMembers"]] == [("team", "member")]
    fellow = await make_client(services, "fellow")
    await fellow.ask(LINK, input=link)
    await owner.ask(REMOVE, input={"projectId": registry["id"], "teamIds": [team]})
    fellow = await make_client(services, "fellow")
    assert (await fellow.fail(LINK, input=link))[0] == 403
    assert (await owner.fail(REMOVE, input={"projectId": registry["id"], "teamIds": [team]}))[0] == 404
    given = {"projectId": registry["id"], "teamId": team, "teamProjectRole": "king"}
    assert "There is no role 'king'" in (await owner.fail(SET_TEAM, input=given))[1]


async def test_the_first_registries_are_everybodys(services: Services) -> None:
    somebody = await make_client(services, "somebody")
    made = await log(somebody, content(), entityName="somebody")
    await somebody.ask(LINK, input=link_input(made["id"], **at("Model")))
    assert await names(somebody) == ["dataset", "model"]
    _, told = await somebody.fail(UPSERT, input={"entityName": "launchbay", "name": "wandb-registry-model"})
    assert "that needs the role admin" in told


@pytest.fixture
async def stocked(services: Services, clock: Clock) -> Client:
    """A client of registries `a` and `b` with collections and versions."""
    client = await make_client(services)
    for registry in ("a", "b"):
        await upsert(client, registry, description=f"of {registry}")
        clock.now += 100
    client = await make_client(services)
    for number, (registry, collection) in enumerate([("a", "cats"), ("a", "dogs"), ("a", "dogs"), ("b", "birds")]):
        metadata = {"size": number, "kind": {"name": f"k{number}"}, "good": number > 1, "text": "1", "none": None}
        text = json.dumps(metadata | ({"bad": float("nan"), "zero": "\x00"} if number else {}))
        tags = [{"tagName": "big"}] if number > 1 else []
        made = await log(client, content({"f": bytes([number])}), metadata=text, tags=tags)
        await client.ask(LINK, input=link_input(made["id"], collection, f"n{number}", **at(registry)))
        clock.now += 100
    await client.ask(TAG, input={**at("b"), "artifactCollectionName": "birds", "tags": [{"tagName": "fly"}]})
    return client


async def test_registries_and_collections_are_searched(stocked: Client) -> None:
    async def registries(wanted: Any, order: str = "+name") -> list[str]:
        return await names(stocked, registries=wanted, order=order)

    async def collections(wanted: Any, order: str = "+name") -> list[str]:
        return await names(stocked, collections=wanted, order=order)

    assert await registries({}) == ["a", "b", "dataset", "model"]
    assert await registries({"name": "wandb-registry-b"}) == ["b"]
    assert await registries({"name": {"$regex": "^(b|model)$"}}, "-name") == ["model", "b"]
    assert await registries({"name": {"$regex": "^wandb-registry-b"}}) == ["b"]
    assert await registries({"description": {"$contains": "of"}}, "-created_at") == ["b", "a"]
    assert await registries({"$not": {"description": {"$exists": False}}}) == ["a", "b"]
    assert await registries({"created_at": {"$gt": "2027-01-15T08:00:50Z"}}) == ["b"]
    assert await collections({"name": {"$in": ["cats", "birds"]}}) == ["birds", "cats"]
    assert await collections({"tag": "fly"}) == ["birds"]
    assert await collections({"tag": {"$ne": "fly"}}, "-created_at") == ["dogs", "cats"]
    by_id = (await stocked.ask(ONE, name="wandb-registry-a"))["entity"]["project"]["id"]
    assert await names(stocked, registries={"id": by_id}, collections={}) == ["cats", "dogs"]
    _, told = await stocked.fail(SEARCH, registries='{"color": 1}')
    assert "There is no filter by 'color'" in told
    _, told = await stocked.fail(SEARCH, order="+size")
    assert "There is no order by '+size'" in told or "There is no order by 'size'" in told


VERSIONS: list[tuple[Any, list[str]]] = [
    ({}, ["cats:v0", "dogs:v0", "dogs:v1", "birds:v0"]),
    ({"tag": "big"}, ["dogs:v1", "birds:v0"]),
    ({"alias": "latest"}, ["cats:v0", "dogs:v1", "birds:v0"]),
    ({"$or": [{"alias": "n0"}, {"tag": "big"}]}, ["cats:v0", "dogs:v1", "birds:v0"]),
    ({"version": "v1"}, ["dogs:v1"]),
    ({"version": {"$gte": 1}}, ["dogs:v1"]),
    ({"metadata.size": 1}, ["dogs:v0"]),
    ({"metadata.size": {"$gt": 1}}, ["dogs:v1", "birds:v0"]),
    ({"metadata.size": {"$in": [0, 3]}}, ["cats:v0", "birds:v0"]),
    ({"metadata.kind.name": "k2"}, ["dogs:v1"]),
    ({"metadata.kind.name": {"$regex": "[01]$"}}, ["cats:v0", "dogs:v0"]),
    ({"metadata.good": True}, ["dogs:v1", "birds:v0"]),
    ({"metadata.good": 1}, []),
    ({"metadata.text": 1}, []),
    ({"metadata.text": {"$contains": "1"}, "metadata.size": {"$lte": 0}}, ["cats:v0"]),
    ({"metadata.none": None, "metadata.size": 0}, ["cats:v0"]),
    ({"metadata.bad": {"$exists": False}}, ["cats:v0"]),
    ({"metadata.other": {"$exists": True}}, []),
    ({"metadata.size": {"$ne": 1}}, ["cats:v0", "dogs:v1", "birds:v0"]),
    ({"created_at": {"$lt": "2027-01-15T08:05:00Z"}}, ["cats:v0"]),
]


async def test_versions_are_searched(stocked: Client) -> None:
    wrong = [
        (wanted, found, expected)
        for wanted, expected in VERSIONS
        if (found := await names(stocked, versions=wanted)) != expected
    ]
    assert not wrong
    assert await names(stocked, versions={}, collections={"name": "dogs"}) == ["dogs:v0", "dogs:v1"]
    assert await names(stocked, versions={}, registries={"name": "wandb-registry-b"}) == ["birds:v0"]


@pytest.mark.parametrize(
    "wanted", [{"version": "first"}, {'metadata.a"b': 1}, {"metadata.size": {"$gt": [1]}}, {"metadata.a": 10**400}]
)
async def test_what_no_version_can_be_filtered_by_is_said(client: Client, wanted: Any) -> None:
    assert (await client.fail(SEARCH, versions=json.dumps(wanted)))[0] == 400


@pytest.mark.parametrize("kind", ["projects", "artifactCollections", "artifactMemberships"])
async def test_a_search_goes_page_by_page(stocked: Client, kind: str) -> None:
    everything = await _pages(stocked, kind, 100)
    assert len(everything) == 1
    assert [node for page in await _pages(stocked, kind, 1) for node in page] == everything[0]


async def _pages(client: Client, kind: str, size: int) -> list[list[Any]]:
    pages: list[list[Any]] = []
    after: str | None = None
    while True:
        found = (await client.ask(SEARCH, first=size, **{kind: after}))["organization"]["orgEntity"][kind]
        pages.append([edge["node"] for edge in found["edges"]])
        after = found["pageInfo"]["endCursor"]
        if not found["pageInfo"]["hasNextPage"]:
            return pages
