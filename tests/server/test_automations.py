"""Automations made, read, changed and deleted; what cannot be one is refused by name."""

import json
from typing import Any

import pytest

from server.context import Services
from server.database.postgresql import PostgresDatabase
from tests.server.automating import (
    ALL,
    CREATE,
    CREATE_SLACK,
    DELETE,
    TRIGGER,
    UPDATE,
    automate,
    in_project,
    make_webhook,
    project_id,
    webhook,
)
from tests.server.conftest import Client, make_client
from tests.server.test_teams import CREATE_TEAM

OF_ENTITY = f"""query($entity: String!, $filters: JSONString, $first: Int, $after: String) {{ entity(name: $entity) {{
  triggers(filters: $filters, first: $first, after: $after) {{
    edges {{ node {{ {TRIGGER} }} }} pageInfo {{ endCursor hasNextPage }} }} }} }}"""
OF_VIEWER = "{ viewer { projects(first: 10) { edges { node { name triggers { name } } } } } }"
STATES = json.dumps({"run_filter": '{"$and": []}', "run_state_filter": {"states": ["FINISHED"]}})


def threshold(**values: Any) -> str:
    """Return the filter of a metric, as the client sends it."""
    asked = {"name": "loss", "agg_op": None, "window_size": 1, "cmp_op": "$gt", "threshold": 5, **values}
    return json.dumps({"run_filter": '{"$and": []}', "run_metric_filter": {"threshold_filter": asked}})


async def names(client: Client, entity: str = "admin", **page: Any) -> list[str]:
    """Return the names of an entity's automations."""
    found = (await client.ask(OF_ENTITY, entity=entity, **page))["entity"]["triggers"]
    return [edge["node"]["name"] for edge in found["edges"]]


async def test_an_automation_is_made_read_changed_and_deleted(client: Client) -> None:
    place = in_project(await project_id(client))
    hook = await make_webhook(client, "https://ci.example/hook")
    made = await automate(client, "first", "RUN_STATE", STATES, **place, **webhook(hook, {"a": "${run_id}"}))
    await automate(client, "second", "LINK_MODEL", ALL, **place)
    assert made["scope"] == {"id": place["scopeID"]}
    assert made["triggeringCondition"] == {"eventType": "RUN_STATE", "filter": STATES}
    assert made["triggeredAction"]["requestPayload"] == '{"a": "${run_id}"}'
    assert await names(client) == ["first", "second"]
    assert await names(client, filters='{"name": "second"}') == ["second"]
    assert await names(client, first=1) == ["first"]
    by_project = (await client.ask(OF_VIEWER))["viewer"]["projects"]["edges"]
    assert [each["node"]["triggers"] for each in by_project if each["node"]["name"] == "p"] == [
        [{"name": "first"}, {"name": "second"}]
    ]
    changed = await client.ask(UPDATE, input={"id": made["id"], "enabled": False, "description": "why"})
    shown = changed["updateFilterTrigger"]["trigger"]
    assert shown == {**made, "enabled": False, "description": "why"}
    other = await project_id(client, "other")
    event = {"triggeringEventType": "CREATE_ARTIFACT", "eventFilter": ALL}
    changed = await client.ask(UPDATE, input={"id": made["id"], "name": "third", **in_project(other), **event})
    shown = changed["updateFilterTrigger"]["trigger"]
    assert (shown["name"], shown["scope"]["id"]) == ("third", other)
    assert json.loads(shown["triggeringCondition"]["filter"]) == {"filter": ALL}, "as the client expects it"
    await client.ask(DELETE, id=made["id"])
    assert await names(client) == ["second"]
    assert (await client.fail(DELETE, id=made["id"]))[0] == 404
    assert (await client.fail(UPDATE, input={"id": made["id"]}))[0] == 404, "on which the client makes a new one"


async def test_a_name_is_taken_once_in_an_entity(client: Client) -> None:
    place = in_project(await project_id(client))
    made = await automate(client, "first", "RUN_STATE", STATES, **place)
    second = await automate(client, "second", "RUN_STATE", STATES, **place)
    given = {"enabled": True, "triggeringEventType": "RUN_STATE", "eventFilter": STATES, "triggeredActionConfig": {}}
    again = {"name": "first", "triggeredActionType": "NO_OP", **given, **place}
    assert (await client.fail(CREATE, input=again))[0] == 409, "on which the client fetches that one"
    assert (await client.fail(UPDATE, input={"id": second["id"], "name": "first"}))[0] == 409
    await client.ask(UPDATE, input={"id": made["id"], "name": "first"})


REFUSED = (
    ("UPDATE_ARTIFACT_ALIAS", ALL, "UPDATE_ARTIFACT_ALIAS"),
    ("LINK_MODEL", '{"color": "red"}', "'color'"),
    ("LINK_MODEL", "{", "not JSON"),
    ("ADD_COLLECTION_TAG", '{"alias": "a"}', "'alias'"),
    ("RUN_STATE", "{}", "run_state_filter"),
    ("RUN_STATE", '{"run_state_filter": {"states": ["ASLEEP"]}}', "RUNNING"),
    ("RUN_STATE", '{"run_state_filter": {"states": [["FAILED"]]}}', "RUNNING"),
    ("RUN_STATE", "[" * 100_000, "not JSON"),
    ("RUN_STATE", '{"run_filter": "{", "run_state_filter": {"states": ["FAILED"]}}', "run_filter is not JSON"),
    ("RUN_STATE", '{"run_filter": {"size": 1}, "run_state_filter": {"states": ["FAILED"]}}', "'size'"),
    ("RUN_METRIC", STATES, "run_metric_filter"),
    ("RUN_METRIC", threshold(agg_op="MEDIAN"), "agg_op"),
    ("RUN_METRIC", threshold(agg_op="MAX", window_size=1001), "window_size"),
    ("RUN_METRIC", threshold(cmp_op="$eq"), "cmp_op"),
    ("RUN_METRIC", threshold(threshold="5"), "threshold"),
    ("RUN_METRIC", threshold(threshold=10**400), "threshold"),
    ("RUN_METRIC", threshold(threshold=float("nan")), "threshold"),
    ("RUN_METRIC", threshold(name=""), "name it"),
)
"""Events with filters that they cannot have, and what is said of these."""


async def test_an_event_that_cannot_be_is_refused(client: Client) -> None:
    place = in_project(await project_id(client))
    for event, wanted, said in REFUSED:
        given = {"name": "a", "enabled": True, "triggeringEventType": event, "eventFilter": wanted}
        action = {"triggeredActionType": "NO_OP", "triggeredActionConfig": {}}
        status, message = await client.fail(CREATE, input={**given, **action, **place})
        assert (status, said in message) == (400, True), message


async def test_an_expression_that_the_database_has_no_words_for_is_refused(client: Client) -> None:
    place = in_project(await project_id(client))
    wanted = {"$regex": r"\pL"}  # RE2's, and so SQLite's here, and not PostgreSQL's
    runs = {"run_filter": {"$or": [{"display_name": wanted}]}, "run_state_filter": {"states": ["FAILED"]}}
    refused: set[bool] = set()
    for event, told in (
        ("RUN_STATE", runs),
        ("RUN_STATE", {**runs, "run_filter": {"config.a": wanted}}),
        ("CREATE_ARTIFACT", {"alias": wanted}),
        ("CREATE_ARTIFACT", {"metadata.a": {"$not": wanted}}),
        ("ADD_COLLECTION_TAG", {"tag": wanted}),
    ):
        given = {"name": str(told), "enabled": True, "triggeringEventType": event, "eventFilter": json.dumps(told)}
        action = {"triggeredActionType": "NO_OP", "triggeredActionConfig": {}}
        status, body = await client.executor.execute(
            CREATE, {"input": {**given, **action, **place}}, None, client.context
        )
        refused.add(status == 400 and "invalid regular expression" in str(body))
    on_postgresql = isinstance(client.context.services.database, PostgresDatabase)
    assert refused == {on_postgresql}


async def test_an_action_that_cannot_be_is_refused(client: Client) -> None:
    place = in_project(await project_id(client))
    hook = await make_webhook(client, "https://ci.example/hook")
    given = {"name": "a", "enabled": True, "triggeringEventType": "RUN_STATE", "eventFilter": STATES, **place}
    asked = {"integrationID": hook}
    for kind, config, said in (
        ("QUEUE_JOB", {"queueJobActionInput": {}}, "QUEUE_JOB"),
        ("GENERIC_WEBHOOK", {}, "genericWebhookActionInput"),
        ("GENERIC_WEBHOOK", {"genericWebhookActionInput": {**asked, "requestPayload": "{"}}, "not JSON"),
        ("GENERIC_WEBHOOK", {"genericWebhookActionInput": {**asked, "requestPayload": "[" * 100_000}}, "not JSON"),
        ("GENERIC_WEBHOOK", {"genericWebhookActionInput": {**asked, "requestPayload": "[" * 101 + "]" * 101}}, "deep"),
        ("GENERIC_WEBHOOK", {"genericWebhookActionInput": {"integrationID": "SW50OjE="}}, "id of a Integration"),
        ("NOTIFICATION", {"notificationActionInput": asked}, "takes no NOTIFICATION"),
    ):
        action = {"triggeredActionType": kind, "triggeredActionConfig": config}
        assert said in (await client.fail(CREATE, input={**given, **action}))[1]


async def test_a_scope_is_a_project_a_team_or_the_organization(client: Client, services: Services) -> None:
    entity = "query($name: String!) { entity(name: $name) { id } }"
    await client.ask(CREATE_TEAM, teamName="crew")
    for name, works in (("crew", True), ("launchbay", True), ("admin", False)):
        wire_id = (await client.ask(entity, name=name))["entity"]["id"]
        given = {"scopeType": "ENTITY", "scopeID": wire_id}
        if works:
            made = await automate(client, name, "RUN_STATE", STATES, **given)
            assert made["scope"] == {"id": wire_id}
            assert await names(client, name) == [name]
        else:
            with pytest.raises(AssertionError, match="those of teams"):
                await automate(client, name, "RUN_STATE", STATES, **given)


async def test_automations_of_a_registry_are_its_admins(client: Client, services: Services) -> None:
    made = await client.ask(
        "mutation($input: UpsertModelInput!) { upsertModel(input: $input) { project { id } } }",
        input={"entityName": "launchbay", "name": "wandb-registry-zoo", "access": "PRIVATE"},
    )
    registry = made["upsertModel"]["project"]["id"]
    automation = await automate(client, "zoo", "LINK_MODEL", ALL, **in_project(registry))
    viewer = await make_client(services, "vera")
    with pytest.raises(AssertionError, match="needs the role admin"):
        await automate(viewer, "mine", "LINK_MODEL", ALL, **in_project(registry))
    assert await names(viewer, "launchbay") == []
    by_project = '{ project(entityName: "launchbay", name: "wandb-registry-zoo") { triggers { name } } }'
    assert (await viewer.ask(by_project))["project"]["triggers"] == []
    assert (await client.ask(by_project))["project"]["triggers"] == [{"name": "zoo"}]
    assert (await viewer.fail(DELETE, id=automation["id"]))[0] == 404
    everywhere = "{ organization { triggers { edges { node { name } } } } }"
    assert len((await client.ask(everywhere))["organization"]["triggers"]["edges"]) == 1
    assert (await viewer.ask(everywhere))["organization"]["triggers"]["edges"] == []


async def test_a_slack_message_is_no_webhook(client: Client) -> None:
    given = {"entityName": "admin", "channelName": "#models", "url": "https://hooks.slack.example/services/T/B/x"}
    made = (await client.ask(CREATE_SLACK, input=given))["createSlackIntegration"]["integration"]
    assert (made["teamName"], made["channelName"]) == ("hooks.slack.example", "#models")
    place = in_project(await project_id(client))
    with pytest.raises(AssertionError, match="takes no GENERIC_WEBHOOK"):
        await automate(client, "a", "RUN_STATE", STATES, **place, **webhook(made["id"]))
