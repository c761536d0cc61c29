"""Deliveries reach their receivers, at least once and over every failure, and none that nobody allowed."""

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import Connection

from server.automations import messages, reach, sending
from server.automations.sending import FIRST_PAUSE_SECONDS, KEPT_SECONDS, MAX_ATTEMPTS, Sender
from server.context import Services
from server.ids import decode, encode
from server.storage import deliveries as storage
from server.storage import integrations
from server.storage.deliveries import LEASE_SECONDS
from tests.server.automating import (
    ALL,
    CREATE_SLACK,
    CREATE_WEBHOOK,
    DELETE,
    Receiver,
    automate,
    deliveries,
    in_project,
    make_webhook,
    project_id,
    receiving,
    send_due,
    webhook,
)
from tests.server.conftest import Client, Clock, make_client
from tests.server.run_steps import start
from tests.server.test_artifacts import content, log
from tests.server.test_teams import CREATE_TEAM, INVITE, REMOVE

ALERT = "mutation($input: NotifyScriptableRunAlertInput!) { notifyScriptableRunAlert(input: $input) { success } }"
ALERTS = '{ entity(name: "admin") { alerts { title text severity projectName runName } } }'
INTEGRATIONS = """query($entity: String!) { entity(name: $entity) { integrations { edges { node {
  ... on GenericWebhookIntegration { id name urlEndpoint getsAlerts } ... on SlackIntegration { id channelName }
} } } } }"""
DELETE_INTEGRATION = "mutation($id: ID!) { deleteIntegration(input: {id: $id}) { success } }"


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """A receiver of webhooks."""
    async with receiving() as receiver:
        yield receiver


async def on_version(client: Client, integration: str, payload: Any = None) -> None:
    """Have new versions told to a webhook."""
    place = in_project(await project_id(client))
    await automate(client, "new", "CREATE_ARTIFACT", ALL, **place, **webhook(integration, payload))


async def make_version(client: Client, text: bytes = b"1", **values: Any) -> dict[str, Any]:
    """Log a version."""
    return await log(client, content({"a": text}), **values)


async def have_waiting(services: Services, integration: str, count: int) -> None:
    """Have so many deliveries wait for a webhook of the first user's, as alerts do."""

    def work(connection: Connection) -> None:
        row = integrations.by_id(connection, decode("Integration", integration))
        assert row is not None
        for number in range(count):
            about = {"number": number, "alert_title": "t", "alert_text": "", "alert_severity": "INFO"}
            storage.add(
                connection,
                entity_id=row.entity_id,
                automation_id=None,
                integration_id=row.id,
                event_type="RUN_ALERT",
                variables=about,
                now=services.clock(),
            )

    await services.database.write(work)


async def start_of(client: Client, entity: str, name: str) -> None:
    """Start a run of an entity's project `p`."""
    upsert = "mutation($input: UpsertBucketInput!) { upsertBucket(input: $input) { inserted } }"
    await client.ask(upsert, input={"entityName": entity, "modelName": "p", "name": name, "host": "h"})


async def outcome(client: Client) -> tuple[str, int, str | None]:
    """Return state, attempts and last answer of the newest delivery."""
    last = (await deliveries(client))[-1]
    return last["state"], last["attempts"], last["answer"]


async def test_a_webhook_gets_the_payload_signed(client: Client, services: Services, receiver: Receiver) -> None:
    hook = await make_webhook(client, receiver.url, accessToken="opensesame", secret="quiet")
    payload = {
        "ref": "${artifact_version_string}",
        "nested": ["${artifact_collection_name} of ${project_name}", {"by": "${event_author}", "n": 1}],
        "metadata": "${artifact_metadata.size.width} ${artifact_metadata.none}|",
        "unknown": "${later}",
        "token": "${ACCESS_TOKEN}",
    }
    await on_version(client, hook, payload)
    version = await make_version(client, metadata=json.dumps({"size": {"width": 3}, "quote": '"'}))
    await send_due(services)
    (body,) = receiver.taken()
    assert body == {
        "ref": "admin/p/data:v0",
        "nested": ["data of p", {"by": "admin", "n": 1}],
        "metadata": "3 |",
        "unknown": "${later}",
        "token": "opensesame",
    }
    (headers,) = receiver.headers
    assert headers["Authorization"] == "Bearer opensesame"
    assert headers["X-Wandb-Signature"] == hmac.new(b"quiet", receiver.raw[0], hashlib.sha256).hexdigest()
    assert await outcome(client) == ("DONE", 1, "200")
    await send_due(services)
    assert receiver.taken() == []
    assert version["state"] == "COMMITTED"


async def test_without_a_payload_all_that_is_known_is_sent(
    client: Client, services: Services, receiver: Receiver
) -> None:
    await on_version(client, await make_webhook(client, receiver.url))
    version = await make_version(client)
    await send_due(services)
    assert receiver.taken() == [
        {
            "automation_name": "new",
            "event_type": "CREATE_ARTIFACT",
            "event_author": "admin",
            "entity_name": "admin",
            "project_name": "p",
            "artifact_collection_name": "data",
            "artifact_version": f"wandb-artifact://_id/{version['id']}",
            "artifact_version_string": "admin/p/data:v0",
            "artifact_version_index": "v0",
        }
    ]
    assert "Authorization" not in receiver.headers[0]
    assert "X-Wandb-Signature" not in receiver.headers[0]


async def test_a_slack_channel_gets_a_message_without_orders(
    client: Client, services: Services, receiver: Receiver
) -> None:
    made = await client.ask(CREATE_SLACK, input={"entityName": "admin", "channelName": "#ml", "url": receiver.url})
    told = {"title": "<!channel> ${artifact_collection_name}", "message": "a & b", "severity": "WARN"}
    config = {"integrationID": made["createSlackIntegration"]["integration"]["id"], **told}
    action = {"triggeredActionType": "NOTIFICATION", "triggeredActionConfig": {"notificationActionInput": config}}
    await automate(client, "new", "CREATE_ARTIFACT", ALL, **in_project(await project_id(client)), **action)
    await make_version(client)
    await send_due(services)
    ((text,),) = [body.values() for body in receiver.taken()]
    head, said, *about = text.splitlines()
    assert (head, said) == ("*[WARN] &lt;!channel&gt; data*", "a &amp; b")
    assert "artifact_version_string: admin/p/data:v0" in about


async def test_doing_nothing_is_done(client: Client, services: Services) -> None:
    await automate(client, "new", "CREATE_ARTIFACT", ALL, **in_project(await project_id(client)))
    await make_version(client)
    assert await outcome(client) == ("DONE", 0, None)
    await send_due(services)


async def test_what_fails_is_tried_again_ever_more_rarely(
    client: Client, services: Services, receiver: Receiver, clock: Clock
) -> None:
    await on_version(client, await make_webhook(client, receiver.url))
    await make_version(client)
    receiver.statuses = [500, 429]
    await send_due(services)
    assert await outcome(client) == ("WAITING", 1, "500")
    await send_due(services)
    assert len(receiver.taken()) == 1, "not due"
    clock.now += FIRST_PAUSE_SECONDS
    await send_due(services)
    assert await outcome(client) == ("WAITING", 2, "429")
    clock.now += FIRST_PAUSE_SECONDS
    await send_due(services)
    assert len(receiver.taken()) == 1
    clock.now += FIRST_PAUSE_SECONDS
    await send_due(services)
    assert await outcome(client) == ("DONE", 3, "200")
    assert len({headers["X-Launchbay-Delivery"] for headers in receiver.headers}) == 1


async def test_no_delivery_passes_for_one_of_an_automation_that_was_deleted(
    client: Client, services: Services, receiver: Receiver, clock: Clock
) -> None:
    hook = await make_webhook(client, receiver.url)
    place = in_project(await project_id(client))
    for text in (b"1", b"2"):
        made = await automate(client, "new", "CREATE_ARTIFACT", ALL, **place, **webhook(hook))
        await make_version(client, text)
        await send_due(services)
        await client.ask(DELETE, id=made["id"])
        clock.now += 1
    first, second = (headers["X-Launchbay-Delivery"] for headers in receiver.headers)
    assert first != second


async def test_it_is_given_up_in_the_end(
    client: Client, services: Services, clock: Clock, unused_tcp_port: int
) -> None:
    await on_version(client, await make_webhook(client, f"http://127.0.0.1:{unused_tcp_port}/secret-path"))
    await make_version(client)
    for _ in range(MAX_ATTEMPTS):
        assert (await outcome(client))[0] == "WAITING"
        await send_due(services)
        clock.now += 3600
    state, attempts, answer = await outcome(client)
    assert (state, attempts) == ("FAILED", MAX_ATTEMPTS)
    assert answer is not None
    assert "Connect call failed" in answer
    assert "secret-path" not in answer


async def test_another_answer_ends_it(client: Client, services: Services, receiver: Receiver) -> None:
    await on_version(client, await make_webhook(client, receiver.url))
    for status in (302, 404):
        await make_version(client, b"%d" % status)
        receiver.statuses = [status]
        await send_due(services)
        assert await outcome(client) == ("FAILED", 1, str(status))
        assert len(receiver.taken()) == 1, "redirects are not followed"


async def test_nothing_is_told_of_an_answer_that_is_no_http(client: Client) -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH\r\n")
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        await on_version(client, await make_webhook(client, f"http://127.0.0.1:{port}/secret-path"))
        await make_version(client)
        await send_due(client.context.services)
    assert await outcome(client) == ("WAITING", 1, "the answer was no HTTP")


async def test_what_a_server_took_and_never_sent_is_due_again(
    client: Client, services: Services, receiver: Receiver, clock: Clock
) -> None:
    await on_version(client, await make_webhook(client, receiver.url))
    await make_version(client)
    assert len(await services.database.claim(storage.take, 10, (), clock())) == 1
    await send_due(services)
    assert receiver.taken() == [], "somebody else has it"
    clock.now += LEASE_SECONDS
    await send_due(services)
    assert len(receiver.taken()) == 1
    assert await outcome(client) == ("DONE", 2, "200")


async def test_what_nobody_comes_through_with_is_given_up(
    client: Client, services: Services, receiver: Receiver, clock: Clock
) -> None:
    await on_version(client, await make_webhook(client, receiver.url))
    await make_version(client)
    for _ in range(MAX_ATTEMPTS):
        await services.database.claim(storage.take, 10, (), clock())
        clock.now += LEASE_SECONDS
    await send_due(services)
    assert (await outcome(client))[0] == "FAILED"
    assert receiver.taken() == []


async def test_a_late_word_of_an_attempt_that_was_given_up_counts_for_nothing(
    client: Client, services: Services, receiver: Receiver, clock: Clock
) -> None:
    await on_version(client, await make_webhook(client, receiver.url))
    await make_version(client)
    ((delivery_id, _),) = await services.database.claim(storage.take, 10, (), clock())
    row = await services.database.read(storage.by_id, delivery_id)
    assert row is not None
    clock.now += LEASE_SECONDS
    await send_due(services)
    await services.database.write(storage.end, row, storage.FAILED, "late", clock())
    assert await outcome(client) == ("DONE", 2, "200")


async def test_several_servers_send_each_once(client: Client, services: Services, receiver: Receiver) -> None:
    await have_waiting(services, await make_webhook(client, receiver.url), 30)
    while len(receiver.bodies) < 30:  # not all at once to one receiver
        await asyncio.gather(*(send_due(services) for _ in range(4)))
    assert sorted(body["number"] for body in receiver.taken()) == list(range(30))


async def test_one_that_does_not_answer_holds_up_nobody_else(
    client: Client, services: Services, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "TIMEOUT_SECONDS", 600)  # none of its attempts makes room by coming to an end
    forever = asyncio.Event()

    async def hang(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await forever.wait()
        writer.close()

    listening = await asyncio.start_server(hang, "127.0.0.1", 0)
    try:
        slow = await make_webhook(client, f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/", "slow")
        await have_waiting(services, slow, 30)
        await have_waiting(services, await make_webhook(client, receiver.url), 1)
        async with asyncio.timeout(60), Sender(services) as sender:
            while not receiver.bodies:
                await sender.start_due()
                await sender.rest()
    finally:
        forever.set()
        listening.close()


async def test_what_ended_long_ago_is_forgotten(
    client: Client, services: Services, receiver: Receiver, clock: Clock
) -> None:
    await on_version(client, await make_webhook(client, receiver.url))
    await make_version(client)
    await send_due(services)
    clock.now += KEPT_SECONDS + 1
    await make_version(client, b"2")
    await send_due(services)
    assert len(await deliveries(client)) == 1


# --- whom it may be sent to -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.0.1", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("::", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:10.0.0.1", False),
        ("::ffff:93.184.216.34", True),
        ("2002:7f00:1::", False),
        ("64:ff9b::a00:1", False),
        ("64:ff9b::5db8:d822", True),
        ("ff02::1", False),
        ("fec0::2", False),
        ("64:ff9b:1::a00:1", False),
        ("::127.0.0.1", False),
        ("168.63.129.16", False),
        ("192.0.0.192", False),
        ("2130706433", False),
        ("0x7f.1", False),
        ("localhost", False),
    ],
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert reach.is_public(address) is public


async def test_nobody_but_an_admin_of_the_server_has_it_reach_its_own_network(
    client: Client, services: Services, receiver: Receiver
) -> None:
    member = await make_client(services, "mallory")
    place = in_project(await project_id(member, "p", "mallory"))
    for number, host in enumerate(("127.0.0.1", "localhost", "[::ffff:127.0.0.1]")):
        url = receiver.url.replace("127.0.0.1", host)
        hook = await make_webhook(member, url, f"hook{number}", entityName="mallory")
        await automate(member, host, "RUN_STATE", STATES, **place, **webhook(hook))
    await start_of(member, "mallory", "r")
    await send_due(services)
    assert receiver.taken() == []
    found = await deliveries(member, "mallory")
    assert [(each["state"], each["attempts"]) for each in found] == [("WAITING", 1)] * 3
    assert all("not an address of the public internet" in each["answer"] for each in found), found


STATES = json.dumps({"run_filter": '{"$and": []}', "run_state_filter": {"states": ["RUNNING"]}})


async def test_what_is_no_url_to_send_to_is_refused(client: Client) -> None:
    for url in (
        "ftp://a/b",
        "https:///x",
        "nothing",
        "https://user:word@a/b",
        "https://a b/",
        "https://a:0/",
        "http://a:x/",
    ):
        given = {"entityName": "admin", "name": "n", "urlEndpoint": url}
        status, message = await client.fail(CREATE_WEBHOOK, input=given)
        assert status == 400
        assert url not in message, "it may be a secret"


async def test_integrations_are_made_by_admins_of_a_team_and_listed_by_its_members(
    client: Client, services: Services
) -> None:
    await client.ask(CREATE_TEAM, teamName="crew")
    await make_client(services, "mia")
    await client.ask(INVITE, entity="crew", username="mia")
    admin, member, stranger = [await make_client(services, name) for name in ("admin", "mia", "eve")]
    given = {"entityName": "crew", "name": "ci", "urlEndpoint": "https://ci.example/x", "secret": "s3cret"}
    assert (await member.fail(CREATE_WEBHOOK, input=given))[0] == 403
    made = await admin.ask(CREATE_WEBHOOK, input={**given, "accessToken": "t0ken"})
    wire_id = made["createGenericWebhookIntegration"]["integration"]["id"]
    assert (await admin.fail(CREATE_WEBHOOK, input=given))[0] == 400, "there is one of that name"
    assert "no secrets by name" in (await admin.fail(CREATE_WEBHOOK, input={**given, "secretRef": "X"}))[1]
    assert "cannot be" in (await admin.fail(CREATE_WEBHOOK, input={**given, "name": "a/b"}))[1]
    wrong = await admin.fail(CREATE_WEBHOOK, input={**given, "accessToken": "t0k\nen"})
    assert wrong[0] == 400
    assert "t0k" not in wrong[1]
    listed = await member.ask(INTEGRATIONS, entity="crew")
    (edge,) = listed["entity"]["integrations"]["edges"]
    assert edge["node"] == {"id": wire_id, "name": "ci", "urlEndpoint": "https://ci.example/x", "getsAlerts": False}
    assert "s3cret" not in str(listed)
    assert (await stranger.ask(INTEGRATIONS, entity="launchbay"))["entity"]["integrations"]["edges"] == []
    place = in_project(await project_id(admin, "p", "crew"))
    used = await automate(member, "deploy", "RUN_STATE", STATES, **place, **webhook(wire_id))
    assert (await member.fail(DELETE_INTEGRATION, id=wire_id))[0] == 403
    assert "used by automations: deploy" in (await admin.fail(DELETE_INTEGRATION, id=wire_id))[1]
    await member.ask("mutation($id: ID!) { deleteTrigger(input: {triggerID: $id}) { success } }", id=used["id"])
    await admin.ask(DELETE_INTEGRATION, id=wire_id)
    assert (await member.ask(INTEGRATIONS, entity="crew"))["entity"]["integrations"]["edges"] == []


async def test_what_a_member_uses_elsewhere_keeps_no_integration(client: Client, services: Services) -> None:
    await client.ask(CREATE_TEAM, teamName="crew")
    await make_client(services, "mia")
    await client.ask(INVITE, entity="crew", username="mia")
    admin, member = [await make_client(services, name) for name in ("admin", "mia")]
    hook = await make_webhook(admin, "https://ci.example/x", entityName="crew")
    place = in_project(await project_id(member, "p", "mia"))
    await automate(member, "private", "RUN_STATE", STATES, **place, **webhook(hook))
    await automate(member, "stays", "RUN_STATE", STATES, **place)
    await admin.ask(DELETE_INTEGRATION, id=hook)
    listed = '{ project(name: "p", entityName: "mia") { triggers { name } } }'
    assert (await member.ask(listed))["project"]["triggers"] == [{"name": "stays"}]


async def test_who_leaves_a_team_hears_of_it_no_more_and_starts_nothing_there(
    client: Client, services: Services, receiver: Receiver
) -> None:
    await client.ask(CREATE_TEAM, teamName="crew")
    await make_client(services, "mia")
    await client.ask(INVITE, entity="crew", username="mia")
    mia = await make_client(services, "mia")
    of_team = await make_webhook(client, receiver.url, "shared", entityName="crew")
    of_mia = await make_webhook(mia, "https://mia.example/", "own", entityName="mia")
    in_team = in_project(await project_id(mia, "p", "crew"))
    own = in_project(await project_id(mia, "p", "mia"))
    await automate(mia, "of the team's, to herself", "RUN_STATE", STATES, **in_team, **webhook(of_mia))
    await automate(mia, "of the team's, to the team", "RUN_STATE", STATES, **in_team, **webhook(of_team))
    await automate(mia, "of her own, to the team", "RUN_STATE", STATES, **own, **webhook(of_team))
    await start_of(mia, "mia", "first")
    await send_due(services)
    assert [body["automation_name"] for body in receiver.taken()] == ["of her own, to the team"]
    await client.ask(REMOVE, entity="crew", id=encode("User", mia.context.viewer.id))
    await start_of(mia, "mia", "second")
    await start_of(client, "crew", "third")
    await send_due(services)
    assert [body["automation_name"] for body in receiver.taken()] == ["of the team's, to the team"]
    refused = [each for each in await deliveries(client, "crew") if each["integrationName"] == "own"]
    assert [(each["state"], each["answer"]) for each in refused] == [
        ("FAILED", "who has it sent there may do so no more")
    ]


# --- alerts -----------------------------------------------------------------------------------------------------------


async def alert(client: Client, title: str = "Loss is NaN", **values: Any) -> None:
    """Have a run alert."""
    given = {"entityName": "admin", "projectName": "p", "runName": "r", "title": title, "text": "at step 3"}
    await client.ask(ALERT, input={**given, **values})


async def test_an_alert_is_kept_and_reaches_who_asks_for_alerts(
    client: Client, services: Services, receiver: Receiver
) -> None:
    await start(client)
    await make_webhook(client, receiver.url, "loud", getsAlerts=True)
    await make_webhook(client, receiver.url, "quiet")
    slack = {"entityName": "admin", "channelName": "#ml", "url": receiver.url, "getsAlerts": True}
    await client.ask(CREATE_SLACK, input=slack)
    await alert(client, severity="ERROR")
    listed = (await client.ask(ALERTS))["entity"]["alerts"]
    assert listed == [
        {"title": "Loss is NaN", "text": "at step 3", "severity": "ERROR", "projectName": "p", "runName": "r"}
    ]
    await send_due(services)
    bodies = receiver.taken()
    assert len(bodies) == 2
    plain = next(body for body in bodies if "alert_title" in body)
    assert (plain["event_type"], plain["run_id"]) == ("RUN_ALERT", "r")
    assert (plain["alert_title"], plain["alert_text"], plain["alert_severity"]) == ("Loss is NaN", "at step 3", "ERROR")
    text = next(body["text"] for body in bodies if "text" in body)
    assert text.splitlines()[:2] == ["*[ERROR] Loss is NaN*", "at step 3"]
    assert "run_id: r" in text


async def test_an_alert_of_a_teams_run_reaches_who_made_the_run(
    client: Client, services: Services, receiver: Receiver
) -> None:
    await client.ask(CREATE_TEAM, teamName="crew")
    member = await make_client(services, "admin")
    await make_webhook(member, receiver.url, "mine", getsAlerts=True)
    await start_of(member, "crew", "r")
    await alert(member, entityName="crew")
    await send_due(services)
    assert len(receiver.taken()) == 1


async def test_an_alert_of_a_teams_run_does_not_reach_who_has_left(client: Client, services: Services) -> None:
    await client.ask(CREATE_TEAM, teamName="crew")
    await make_client(services, "mia")
    await client.ask(INVITE, entity="crew", username="mia")
    mia = await make_client(services, "mia")
    await make_webhook(mia, "https://mia.example/", entityName="mia", getsAlerts=True)
    await start_of(mia, "crew", "r")
    await alert(client, "before", entityName="crew")
    await client.ask(REMOVE, entity="crew", id=encode("User", mia.context.viewer.id))
    await alert(client, "after", entityName="crew")
    assert len(await deliveries(client, "crew")) == 1


async def test_an_alert_that_comes_again_too_soon_is_dropped(client: Client, clock: Clock) -> None:
    await start(client)
    for title, seconds in (("a", 0), ("a", 59), ("b", 59), ("a", 61), ("a", 61)):
        clock.now += seconds - (clock.now % 1000 if seconds == 0 else 0)
        await alert(client, title, waitDuration=60_000)
    assert [each["title"] for each in (await client.ask(ALERTS))["entity"]["alerts"]] == ["a", "a", "b", "a"]


def test_a_value_never_becomes_more_than_a_text() -> None:
    payload = json.dumps({"name": "${run_name}", "list": ["${run_name}"]})
    hostile = '", "admin": true, "x": "${event_author}'
    body = json.loads(messages.webhook_body({"payload": payload}, {"run_name": hostile, "event_author": "eve"}, None))
    assert body == {"name": hostile, "list": [hostile]}


async def test_what_is_on_its_way_at_the_end_of_a_server_is_sent_by_the_next(
    client: Client, services: Services, clock: Clock
) -> None:
    arrived, forever = asyncio.Event(), asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.set()
        await forever.wait()
        writer.close()

    listening = await asyncio.start_server(hang, "127.0.0.1", 0)
    try:
        port = listening.sockets[0].getsockname()[1]
        await on_version(client, await make_webhook(client, f"http://127.0.0.1:{port}/"))
        await make_version(client)
        async with Sender(services) as sender:
            await sender.start_due()
            await arrived.wait()
        assert await outcome(client) == ("WAITING", 1, None)
        clock.now += LEASE_SECONDS
        assert len(await services.database.claim(storage.take, 10, (), clock())) == 1
    finally:
        forever.set()
        listening.close()
