"""Run queues: made, changed, read and deleted; and pushed to, on both paths."""

import json
from typing import Any

import pytest

from server.context import Services
from tests.server.conftest import Client, Clock, make_client
from tests.server.launching import (
    CREATE_QUEUE,
    PUSH_BY_ID,
    PUSH_BY_NAME,
    SPEC,
    UPSERT_QUEUE,
    by_name,
    make_queue,
    pop,
    push,
    push_by_id,
    read_item,
)

VARIABLES = {"cpu": {"schema": {"type": "integer", "default": 2, "maximum": 8}}}
CONFIG = {"resource_args": {"local-container": {"cpus": "{{cpu}}", "env": ["A=1"]}}}
WITH_VARIABLES = {"resourceConfig": json.dumps(CONFIG), "templateVariables": json.dumps(VARIABLES)}


async def test_a_queue_is_made_with_its_config_and_read_back(client: Client) -> None:
    config = await client.ask(
        """mutation CreateDefaultResourceConfig($config: JSONString!, $variables: JSONString) {
             createDefaultResourceConfig(input: {
               entityName: "admin", resource: "local-container", config: $config, templateVariables: $variables
             }) { defaultResourceConfigID success }
           }""",
        config=json.dumps(CONFIG),
        variables=json.dumps(VARIABLES),
    )
    config_id = config["createDefaultResourceConfig"]["defaultResourceConfigID"]
    given = {"entityName": "admin", "projectName": "model-registry", "queueName": "q", "access": "PROJECT"}
    await client.ask(CREATE_QUEUE, input={**given, "defaultResourceConfigID": config_id, "prioritizationMode": "V0"})
    data = await client.ask(
        """query GetRunQueueMetadata($id: ID!) {
             project(name: "model-registry", entityName: "admin") {
               runQueue(name: "q") {
                 access defaultResourceConfigID prioritizationMode externalLinks
                 project { name } defaultResourceConfig { id }
               }
               runQueues { name createdBy access pendingCount }
             }
             entity(name: "admin") {
               defaultResourceConfig(id: $id) { config resource templateVariables { name schema } }
             }
           }""",
        id=config_id,
    )
    assert data["project"]["runQueue"] == {
        "access": "PROJECT",
        "defaultResourceConfigID": config_id,
        "prioritizationMode": "V0",
        "externalLinks": {"links": []},
        "project": {"name": "model-registry"},
        "defaultResourceConfig": {"id": config_id},
    }
    assert [queue["pendingCount"] for queue in data["project"]["runQueues"]] == [0]
    assert data["entity"]["defaultResourceConfig"] == {
        "config": CONFIG,
        "resource": "local-container",
        "templateVariables": [{"name": "cpu", "schema": '{"type":"integer","default":2,"maximum":8}'}],
    }


async def test_a_name_is_taken_once(client: Client) -> None:
    given = {"entityName": "admin", "projectName": "model-registry", "queueName": "q", "access": "PROJECT"}
    await client.ask(CREATE_QUEUE, input=given)
    status, message = await client.fail(CREATE_QUEUE, input=given)
    assert (status, "already" in message) == (400, True)


async def test_a_config_of_another_entity_is_not_lent(client: Client, services: Services) -> None:
    await make_queue(client, **WITH_VARIABLES)
    known = await client.ask(
        '{ project(entityName: "admin", name: "model-registry") { runQueue(name: "q") { defaultResourceConfigID } } }'
    )
    stranger = await make_client(services, "eve")
    given = {"entityName": "eve", "projectName": "model-registry", "queueName": "q", "access": "PROJECT"}
    config_id = known["project"]["runQueue"]["defaultResourceConfigID"]
    status, _ = await stranger.fail(CREATE_QUEUE, input={**given, "defaultResourceConfigID": config_id})
    assert status == 404


async def test_an_upsert_replaces_everything(client: Client) -> None:
    await make_queue(client, **WITH_VARIABLES, prioritizationMode="V0", externalLinks='{"links": [{"label": "l"}]}')
    first = await push(client, priority=3)
    await make_queue(client)
    await push(client)
    data = await client.ask(
        """{ project(entityName: "admin", name: "model-registry") { runQueue(name: "q") {
               prioritizationMode externalLinks defaultResourceConfig { templateVariables { name } } pendingCount
           } } }"""
    )
    assert data["project"]["runQueue"] == {
        "prioritizationMode": "DISABLED",
        "externalLinks": {"links": []},
        "defaultResourceConfig": {"templateVariables": []},
        "pendingCount": 2,
    }
    assert await pop(client) == first, "without priorities, the oldest is next"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"resourceType": "local-proces"}, "Did you mean 'local-process'"),
        ({"queueName": ""}, "1 to 64"),
        ({"queueName": "n" * 65}, "1 to 64"),
        ({"resourceConfig": "{"}, "not JSON"),
        ({"resourceConfig": '{"a": "{{cpu}}"}'}, "not declared"),
        ({"templateVariables": '{"cpu": {"schema": {"type": "list"}}}'}, "'list'"),
    ],
)
async def test_a_bad_queue_is_refused(client: Client, change: dict[str, str], said: str) -> None:
    good = {"entityName": "admin", "projectName": "m", "queueName": "q", "resourceType": "kubernetes"}
    status, message = await client.fail(UPSERT_QUEUE, input={**good, "resourceConfig": "{}", **change})
    assert (status, said in message) == (400, True), message


async def test_a_queue_without_a_config_is_told_as_an_error_not_as_a_crash(client: Client) -> None:
    """The stock client asks for the config with a null id."""
    status, message = await client.fail(
        """query GetDefaultResourceConfig($entityName: String!, $id: ID!) {
             entity(name: $entityName) { defaultResourceConfig(id: $id) { config } }
           }""",
        entityName="admin",
        id=None,
    )
    assert status == 400, "a 5xx would be retried for minutes"
    assert "'$id'" in message


async def test_queues_are_deleted_with_their_items(client: Client) -> None:
    queue_id = await make_queue(client)
    item = await push(client)
    data = await client.ask(
        "mutation DeleteRunQueue($id: ID!) { deleteRunQueues(input: {queueIDs: [$id]}) { success clientMutationId } }",
        id=queue_id,
    )
    assert data["deleteRunQueues"]["success"]
    status, _ = await client.fail("query item($id: ID!) { runQueueItem(id: $id) { state } }", id=item)
    assert status == 404


async def test_a_strangers_queues_are_not_to_be_seen(client: Client, services: Services) -> None:
    queue_id = await make_queue(client)
    stranger = await make_client(services, "eve")
    assert (await stranger.fail(PUSH_BY_NAME, input=by_name()))[0] == 403
    assert (await stranger.fail(PUSH_BY_ID, input={"queueID": queue_id, "runSpec": json.dumps(SPEC)}))[0] == 404
    assert (await stranger.ask('{ project(entityName: "admin", name: "model-registry") { id } }'))["project"] is None


async def test_a_push_returns_the_completed_spec_as_text(client: Client) -> None:
    await make_queue(client, **WITH_VARIABLES)
    data = await client.ask(PUSH_BY_NAME, input=by_name(templateVariableValues='{"cpu": 4}', priority=2))
    spec = json.loads(data["pushToRunQueueByName"]["runSpec"])
    assert spec["resource"] == "local-container"
    assert spec["resource_args"] == {"local-container": {"cpus": 4, "env": ["A=1"]}}
    assert spec["author"] == "admin"
    item = await read_item(client, data["pushToRunQueueByName"]["runQueueItemId"])
    assert (item["runSpec"], item["priority"], item["createdBy"]) == (spec, 2, "admin")
    assert item["runQueue"] == {"name": "q", "pendingCount": 1, "project": {"name": "model-registry"}}


@pytest.mark.parametrize(
    ("spec", "more", "said"),
    [
        ({}, {"templateVariableValues": '{"cpu": 9}'}, "at most 8"),
        ({}, {"templateVariableValues": '{"gpu": 1}'}, "no template variable 'gpu'"),
        ({"resource_args": {"local-container": {}}}, {}, "has template variables"),
        ({"resource": "kubernetes"}, {}, "'kubernetes'"),
        ({"project": "a/b"}, {}, "cannot be a project's name"),
        ({}, {"priority": 0}, "V0"),
    ],
)
async def test_both_paths_refuse_with_the_same_words(
    client: Client, spec: dict[str, object], more: dict[str, Any], said: str
) -> None:
    queue_id = await make_queue(client, **WITH_VARIABLES)
    pushed = {**SPEC, **spec}
    named = await client.fail(PUSH_BY_NAME, input=by_name(pushed, **more))
    by_id = await client.fail(PUSH_BY_ID, input={"queueID": queue_id, "runSpec": json.dumps(pushed), **more})
    assert named == by_id
    assert (named[0], said in named[1]) == (400, True), named


async def test_an_unknown_queue_is_told_with_those_that_there_are(client: Client) -> None:
    await make_queue(client, "a")
    await make_queue(client, "b")
    status, message = await client.fail(PUSH_BY_NAME, input=by_name(queue="c"))
    assert status == 404
    assert message == "Entity 'admin' has no queue 'c'. It has: a, b."


async def test_a_run_of_another_entity_needs_the_right_to_it(client: Client, services: Services) -> None:
    stranger = await make_client(services, "eve")
    given = {"entityName": "eve", "projectName": "model-registry", "queueName": "q", "resourceType": "kubernetes"}
    await stranger.ask(UPSERT_QUEUE, input={**given, "resourceConfig": "{}"})
    status, _ = await stranger.fail(PUSH_BY_NAME, input={**by_name(SPEC), "entityName": "eve"})
    assert status == 403


class TestTwins:
    """The stock client's second push of a spec, by id, after a slow one by name."""

    async def test_finds_the_first(self, client: Client) -> None:
        queue_id = await make_queue(client)
        item = await push(client)
        assert await push_by_id(client, queue_id) == item

    async def test_finds_it_even_when_an_agent_has_taken_it(self, client: Client) -> None:
        queue_id = await make_queue(client)
        item = await push(client)
        assert await pop(client) == item
        assert await push_by_id(client, queue_id) == item
        assert await pop(client) is None

    async def test_finds_it_once(self, client: Client) -> None:
        queue_id = await make_queue(client)
        items = {await push(client), await push_by_id(client, queue_id), await push_by_id(client, queue_id)}
        assert len(items) == 2

    async def test_finds_one_for_each_push_by_name(self, client: Client) -> None:
        queue_id = await make_queue(client)
        named = {await push(client), await push(client)}
        assert len(named) == 2, "people run the same job twice"
        assert {await push_by_id(client, queue_id), await push_by_id(client, queue_id)} == named

    async def test_is_no_twin_of_a_push_by_id(self, client: Client) -> None:
        queue_id = await make_queue(client)
        assert await push_by_id(client, queue_id) != await push_by_id(client, queue_id)

    async def test_is_no_twin_a_minute_later(self, client: Client, clock: Clock) -> None:
        queue_id = await make_queue(client)
        item = await push(client)
        clock.now += 61
        assert await push_by_id(client, queue_id) != item

    async def test_is_no_twin_of_another_spec_value_user_or_queue(self, client: Client, services: Services) -> None:
        queue_id = await make_queue(client, **WITH_VARIABLES)
        other_queue = await make_queue(client, "q2", **WITH_VARIABLES)
        item = await push(client, templateVariableValues='{"cpu": 1}')
        others = {
            await push_by_id(client, queue_id, templateVariableValues='{"cpu": 3}'),
            await push_by_id(client, queue_id, {**SPEC, "name": "n"}, templateVariableValues='{"cpu": 1}'),
            await push_by_id(client, other_queue, templateVariableValues='{"cpu": 1}'),
        }
        assert item not in others
        assert len(others) == 3
        assert await push_by_id(client, queue_id, templateVariableValues='{"cpu": 1}') == item


async def test_items_are_listed_newest_first_in_pages_and_by_state(client: Client) -> None:
    await make_queue(client)
    items = [await push(client) for _ in range(5)]
    await pop(client)

    async def listed(**arguments: object) -> tuple[list[str], str]:
        data = await client.ask(
            """query items($first: Int, $after: String, $states: [String!]) {
                 project(entityName: "admin", name: "model-registry") { runQueue(name: "q") {
                   runQueueItems(first: $first, after: $after, states: $states) {
                     edges { node { id waitingReason } } pageInfo { endCursor hasNextPage }
                   }
                 } }
               }""",
            **arguments,
        )
        found = data["project"]["runQueue"]["runQueueItems"]
        return [edge["node"]["id"] for edge in found["edges"]], found["pageInfo"]["endCursor"]

    first, cursor = await listed(first=2)
    rest, _ = await listed(first=10, after=cursor)
    assert [*first, *rest] == list(reversed(items))
    assert (await listed(first=2, states=["PENDING"]))[0] == [items[4], items[3]]
    assert (await listed(first=9, states=["leased"]))[0] == [items[0]]
