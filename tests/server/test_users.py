"""Users, their keys, and what a stranger learns: nothing."""

import pytest

from server.context import Services
from server.storage import users
from tests.server.conftest import Client, make_client

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


async def test_somebody_elses_key_is_not_taken_back(services: Services, client: Client) -> None:
    key = (await client.ask(GENERATE))["generateApiKey"]["apiKey"]
    eve = await make_client(services, "eve")
    assert not (await eve.ask(DELETE, id=key["id"]))["deleteApiKey"]["success"]
    assert await services.database.read(users.viewer_by_key, key["name"])


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
