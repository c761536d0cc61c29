"""Users, their keys, and what a stranger learns: nothing."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from server.context import Services
from server.start import ADMIN_KEY_FILE, opened
from server.storage import users
from tests.server.conftest import Client, make_client
from tests.server.run_steps import UPSERT as UPSERT_RUN
from tests.server.test_artifacts import FILES, MANIFEST, commit, content, create, key_of, manifest_input, md5, put

GENERATE = """mutation ($description: String) {
  generateApiKey(input: {description: $description}) { apiKey { id name description } } }"""
DELETE = "mutation ($id: String!) { deleteApiKey(input: {id: $id}) { success } }"


async def test_a_key_is_shown_once_stored_hashed_and_can_be_taken_back(services: Services, client: Client) -> None:
    key = (await client.ask(GENERATE, description="for a test"))["generateApiKey"]["apiKey"]
    assert len(key["name"]) == 40
    viewer = await services.database.read(users.viewer_by_key, key["name"])
    assert viewer is not None
    assert viewer.username == "admin"
    assert (await client.ask(DELETE, id=key["id"]))["deleteApiKey"]["success"]
    assert await services.database.read(users.viewer_by_key, key["name"]) is None


async def test_another_database_leaves_the_first_users_key_in_the_folder_as_it_is(tmp_path: Path) -> None:
    """The first one has it only as a hash, so that nobody could use that any more."""
    keys: list[str] = []
    for found in ("", None, "no key\n"):
        if found is not None:
            (tmp_path / ADMIN_KEY_FILE).write_text(found)
        async with opened(tmp_path) as services:
            keys.append((tmp_path / ADMIN_KEY_FILE).read_text().strip())
            viewer = await services.database.read(users.viewer_by_key, keys[-1])
            assert viewer is not None
            assert viewer.username == "admin"
        for file in tmp_path.glob("launchbay.db*"):
            file.unlink()
    first, kept, other = keys
    assert first == kept != other


async def test_somebody_elses_key_is_not_taken_back(services: Services, client: Client) -> None:
    key = (await client.ask(GENERATE))["generateApiKey"]["apiKey"]
    eve = await make_client(services, "eve")
    assert not (await eve.ask(DELETE, id=key["id"]))["deleteApiKey"]["success"]
    assert await services.database.read(users.viewer_by_key, key["name"])


async def test_keys_are_listed_to_their_owner_and_to_admins_who_may_take_them_back(
    services: Services, client: Client
) -> None:
    bob = await make_client(services, "bob")
    key = (await bob.ask(GENERATE))["generateApiKey"]["apiKey"]
    shown = {"id": key["id"], "name": f"{key['name'][:4]}...{key['name'][-4:]}"}
    assert await _listed_keys(bob, "bob") == [shown]
    assert await _listed_keys(client, "bob") == [shown]
    assert (await client.ask(DELETE, id=key["id"]))["deleteApiKey"]["success"]
    assert await services.database.read(users.viewer_by_key, key["name"]) is None


async def test_keys_are_not_listed_to_fellows(services: Services) -> None:
    bob = await make_client(services, "bob")
    await bob.ask(GENERATE)
    await _share_a_team(services, "bob", "carol")
    carol = await make_client(services, "carol")
    assert await _listed_keys(carol, "bob") == []


async def _listed_keys(client: Client, name: str) -> list[Any]:
    search = "query ($q: String) { users(query: $q) { edges { node { apiKeys { edges { node { id name } } } } } } }"
    (found,) = (await client.ask(search, q=name))["users"]["edges"]
    return [edge["node"] for edge in found["node"]["apiKeys"]["edges"]]


async def _share_a_team(services: Services, *names: str) -> None:
    """Make users who are members of one team, `team`."""
    for name in names:
        await make_client(services, name)

    def join(connection: Connection) -> None:
        team_id = users.create_entity(connection, "team", "team", services.clock())
        for name in names:
            row = users.user_by_name(connection, name)
            assert row is not None
            users.add_member(connection, team_id, row.id, "member")

    await services.database.write(join)


OWNER = """query ($entity: String!) { models(entityName: $entity) { edges { node { name user {
  username email teams { edges { node { name } } } apiKeys { edges { node { id } } } } } } } }"""


async def test_a_project_has_an_owner(services: Services) -> None:
    await _share_a_team(services, "bob", "carol")
    bob = await make_client(services, "bob")
    await bob.ask(GENERATE)
    await bob.ask('mutation { upsertModel(input: {name: "p", entityName: "team"}) { inserted } }')
    carol = await make_client(services, "carol")
    (project,) = (await carol.ask(OWNER, entity="team"))["models"]["edges"]
    assert project["node"]["user"] == {
        "username": "bob",
        "email": "",
        "teams": {"edges": [{"node": {"name": "team"}}]},
        "apiKeys": {"edges": []},
    }


async def test_storage_is_what_files_and_contents_take(services: Services, client: Client) -> None:
    async def stored(entity: str) -> int:
        asked = "query ($entity: String) { entity(name: $entity) { storageBytes } }"
        return (await client.ask(asked, entity=entity))["entity"]["storageBytes"]

    assert await stored("admin") == 0
    place = {"entityName": "admin", "projectName": "p"}
    await client.ask(UPSERT_RUN, input={"entityName": "admin", "modelName": "p", "name": "r", "host": "box"})
    announced = await client.ask(
        "mutation ($input: CreateRunFilesInput!) { createRunFiles(input: $input) { files { uploadUrl } } }",
        input={**place, "runName": "r", "files": ["here.txt", "not-yet.txt"]},
    )
    await put(services, key_of(announced["createRunFiles"]["files"][0]["uploadUrl"]), b"1234567")
    assert await stored("admin") == 7
    wanted = content({"a.txt": b"12345", "again.txt": b"12345"})
    made = await create(client, wanted, "data", **place)
    answer = await client.ask(MANIFEST, input=manifest_input(made["id"], wanted.manifest, **place))
    url = answer["createArtifactManifest"]["artifactManifest"]["file"]["uploadUrl"]
    await put(services, key_of(url), wanted.manifest)
    specs = [{"artifactID": made["id"], "name": "a.txt", "md5": md5(b"12345")}]
    answer = await client.ask(FILES, files=specs)
    await put(services, key_of(answer["createArtifactFiles"]["files"]["edges"][0]["node"]["uploadUrl"]), b"12345")
    await commit(client, made["id"])
    assert await stored("admin") == 7 + 5, "shared contents count once"
    await make_client(services, "bob")
    assert await stored("bob") == 0


@pytest.mark.parametrize(
    "query",
    [
        '{ project(name: "p", entityName: "admin") { name } }',
        '{ entity(name: "admin") { name } }',
    ],
)
async def test_a_stranger_sees_null(services: Services, client: Client, query: str) -> None:
    make = """mutation { upsertModel(input: {name: "p", entityName: "admin"}) { inserted } }"""
    assert (await client.ask(make))["upsertModel"]["inserted"]
    assert None not in (await client.ask(query)).values()
    eve = await make_client(services, "eve")
    assert list((await eve.ask(query)).values()) == [None]


async def test_a_stranger_makes_nothing(services: Services) -> None:
    eve = await make_client(services, "eve")
    make = """mutation { upsertModel(input: {name: "p", entityName: "admin"}) { inserted } }"""
    status, message = await eve.fail(make)
    assert status == 403
    assert message == ("User 'eve' is not a member of entity 'admin', or there is no such entity. Use one of: eve.")


@pytest.mark.parametrize("name", ["", "a/b", "a:b", "x" * 129])
async def test_a_bad_project_name_is_refused(client: Client, name: str) -> None:
    make = "mutation ($name: String) { upsertModel(input: {name: $name}) { inserted } }"
    status, message = await client.fail(make, name=name)
    assert status == 400
    assert "cannot be a project's name" in message


async def test_projects_are_found_without_regard_to_case(client: Client) -> None:
    make = 'mutation { upsertModel(input: {name: "MyProject"}) { inserted project { name } } }'
    again = 'mutation { upsertModel(input: {name: "myproject"}) { inserted project { name } } }'
    assert (await client.ask(make))["upsertModel"]["inserted"]
    found = (await client.ask(again))["upsertModel"]
    assert (found["inserted"], found["project"]["name"]) == (False, "MyProject")
