"""Teams: who is in them, who may change them, and what a service account may do."""

import asyncio
import base64
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer, make_mocked_request
from sqlalchemy import Connection

from server.app import build_app
from server.authentication import RIGHTS, Authenticator, rights_changed
from server.context import Services
from server.errors import Conflict
from server.resolvers.users import new_secret
from server.start import opened
from server.storage import users
from server.wakeups import wait
from tests.postgres import Cluster
from tests.server.conftest import Client, Clock, make_client
from tests.server.launching import PUSH_BY_NAME, by_name, until_somebody_waits

CREATE_TEAM = """mutation CreateTeam($teamName: String!, $teamAdminUserName: String) {
  createTeam(input: {teamName: $teamName, teamAdminUserName: $teamAdminUserName}) { entity { id name isTeam } } }"""
INVITE = """mutation CreateInvite($entity: String!, $email: String, $username: String, $admin: Boolean) {
  createInvite(input: {entityName: $entity, email: $email, username: $username, admin: $admin}) {
    invite { id name email createdAt toUser { name } } } }"""
REMOVE = """mutation DeleteInvite($id: String, $entity: String) {
  deleteInvite(input: {id: $id, entityName: $entity}) { success } }"""
ACCOUNT = """mutation CreateServiceAccount($entity: String!, $description: String!) {
  createServiceAccount(input: {entityName: $entity, description: $description}) { user { id } apiKey { name } } }"""
TEAM = """query GetTeamEntity($name: String!) { entity(name: $name) {
  id name isTeam entityType members { id admin pending email username name accountType apiKey role } } }"""
CREATE_USER = """mutation CreateUserFromAdmin($email: String!, $admin: Boolean) {
  createUser(input: {email: $email, admin: $admin}) { user { id name username email admin } } }"""
SEARCH = """query SearchUsers($text: String) { users(query: $text) { edges { node {
  username email teams { edges { node { name } } } } } } }"""
VIEWER = """{ viewer { id username email entity admin
  teams { edges { node { name } } } apiKeys { edges { node { id name } } } } }"""


POP = "mutation ($input: PopFromRunQueueInput!) { popFromRunQueue(input: $input) { runQueueItemId } }"
QUEUE = """mutation { upsertRunQueue(input: {entityName: "team", projectName: "model-registry", queueName: "q",
  resourceType: "local-process", resourceConfig: "{}"}) { success } }"""


async def _members(client: Client, team: str = "team") -> dict[str, dict[str, Any]]:
    return {member["name"]: member for member in (await client.ask(TEAM, name=team))["entity"]["members"]}


async def _fresh(services: Services, name: str) -> Client:
    """Return a client whose rights are those of this moment."""
    services.viewers.forget()
    return await make_client(services, name)


@pytest.fixture
async def owner(services: Services) -> Client:
    """The client of `ann`, who has made the team `team`."""
    ann = await make_client(services, "ann")
    made = await ann.ask(CREATE_TEAM, teamName="team")
    assert made["createTeam"]["entity"]["isTeam"]
    return await _fresh(services, "ann")


async def test_who_makes_a_team_is_its_admin(owner: Client) -> None:
    assert {name: (one["role"], one["admin"], one["pending"]) for name, one in (await _members(owner)).items()} == {
        "ann": ("admin", True, False)
    }


async def test_names_are_taken_without_regard_to_case(owner: Client) -> None:
    for name in ("TEAM", "Ann"):
        status, message = await owner.fail(CREATE_TEAM, teamName=name)
        assert (status, message) == (400, f"The name {name!r} is taken by entity {name.lower()!r}. Choose another.")
    status, message = await owner.fail(CREATE_TEAM, teamName="a/b")
    assert (status, "use 1 to 64 letters" in message) == (400, True)


async def test_of_names_that_are_asked_for_at_once_one_is_given(services: Services) -> None:
    clients = [await make_client(services, name) for name in ("ann", "bob", "cat")]
    wanted = zip(clients, ("Same", "same", "SAME"), strict=True)
    answers = await asyncio.gather(
        *(who.executor.execute(CREATE_TEAM, {"teamName": name}, None, who.context) for who, name in wanted)
    )
    assert sorted(status for status, _ in answers) == [200, 400, 400], answers


async def test_only_an_admin_of_the_server_makes_a_team_for_somebody_else(services: Services, client: Client) -> None:
    bob = await make_client(services, "bob")
    assert (await bob.fail(CREATE_TEAM, teamName="t", teamAdminUserName="admin"))[0] == 403
    await client.ask(CREATE_TEAM, teamName="t", teamAdminUserName="bob")
    assert (await _members(await _fresh(services, "bob"), "t"))["bob"]["admin"]
    assert (await client.fail(CREATE_TEAM, teamName="u", teamAdminUserName="nobody")) == (
        404,
        "There is no user 'nobody'.",
    )


async def test_an_invited_user_is_a_member_at_once_and_gone_at_once(services: Services, owner: Client) -> None:
    bob = await make_client(services, "bob")
    assert (await bob.ask(TEAM, name="team"))["entity"] is None
    invited = (await owner.ask(INVITE, entity="team", username="bob"))["createInvite"]["invite"]
    assert invited["toUser"] == {"name": "bob"}
    bob = await _fresh(services, "bob")
    assert (await _members(bob))["bob"]["role"] == "member"
    assert (await bob.fail(INVITE, entity="team", username="ann"))[0] == 403
    assert (await bob.fail(ACCOUNT, entity="team", description="ci")) == (
        403,
        "Only an admin of team 'team' may do this.",
    )
    assert (await owner.ask(REMOVE, id=(await _members(bob))["bob"]["id"], entity="team"))["deleteInvite"]["success"]
    bob = await _fresh(services, "bob")
    assert (await bob.ask(TEAM, name="team"))["entity"] is None


async def test_an_invite_waits_for_the_user_with_that_address(
    services: Services, client: Client, owner: Client
) -> None:
    await owner.ask(INVITE, entity="team", email="New.One@Example.com", admin=True)
    waiting = (await _members(owner))["New.One@Example.com".lower()]
    assert (waiting["pending"], waiting["role"]) == (True, "admin")
    made = (await client.ask(CREATE_USER, email="new.one@example.com"))["createUser"]["user"]
    assert made["username"] == "new.one"
    assert (await _members(owner))["new.one"]["role"] == "admin"
    assert len(await _members(owner)) == 2, "the invite is gone"


async def test_of_one_name_in_any_case_only_one_is_made(services: Services) -> None:
    names = ("Same", "same", "SAME", "sAme")
    clients = [await make_client(services, f"user-{number}") for number in range(len(names))]
    answers = await asyncio.gather(
        *(
            client.executor.execute(CREATE_TEAM, {"teamName": name}, None, client.context)
            for client, name in zip(clients, names, strict=True)
        )
    )
    assert sorted(status for status, _ in answers) == [200, 400, 400, 400]
    assert all("is taken" in str(body) for status, body in answers if status == 400)


async def test_an_invite_is_taken_back(owner: Client, client: Client) -> None:
    await owner.ask(INVITE, entity="team", email="x@example.com")
    invite = (await _members(owner))["x@example.com"]["id"]
    assert (await owner.ask(REMOVE, id=invite, entity="team"))["deleteInvite"]["success"]
    assert (await owner.fail(REMOVE, id=invite, entity="team")) == (404, "Nobody with this id is in team 'team'.")
    await client.ask(CREATE_USER, email="x@example.com")
    assert list(await _members(owner)) == ["ann"]


async def test_a_team_keeps_an_admin(services: Services, owner: Client) -> None:
    await make_client(services, "bob")
    ann = (await _members(owner))["ann"]["id"]
    for refused in (
        await owner.fail(REMOVE, id=ann, entity="team"),
        await owner.fail(INVITE, entity="team", username="ann"),
    ):
        assert refused == (400, "Team 'team' would have no admin. Make somebody else one first: invite him as admin.")
    await owner.ask(INVITE, entity="team", username="bob", admin=True)
    assert (await owner.ask(REMOVE, id=ann, entity="team"))["deleteInvite"]["success"]


async def test_of_two_admins_who_leave_at_once_one_stays(services: Services, owner: Client) -> None:
    await make_client(services, "bob")
    await owner.ask(INVITE, entity="team", username="bob", admin=True)
    clients = {"ann": owner, "bob": await _fresh(services, "bob")}
    members = await _members(owner)
    answers = await asyncio.gather(
        *(
            who.executor.execute(REMOVE, {"id": members[name]["id"], "entity": "team"}, None, who.context)
            for name, who in clients.items()
        )
    )
    assert sorted(status for status, _ in answers) == [200, 400]
    services.viewers.forget()
    (left,) = (await _members(await make_client(services, "admin"))).values()
    assert left["role"] == "admin"


async def test_who_is_invited_must_be_named(owner: Client) -> None:
    assert (await owner.fail(INVITE, entity="team"))[1] == "Say whom to invite: a `username`, or an `email` address."
    status, message = await owner.fail(INVITE, entity="team", username="nobody")
    assert (status, message[:28]) == (404, "There is no user 'nobody'. I")
    status, message = await owner.fail(INVITE, entity="ann", username="ann")
    assert (status, message) == (404, "There is no team 'ann'.")


async def test_users_are_made_by_admins_of_the_server(services: Services, client: Client) -> None:
    bob = await make_client(services, "bob")
    assert await bob.fail(CREATE_USER, email="a@b.c") == (403, "Only an admin of the server makes users.")
    first = (await client.ask(CREATE_USER, email="bob@example.com"))["createUser"]["user"]
    assert first["username"] == "bob-2", "the name is taken"
    assert await client.fail(CREATE_USER, email="BOB@example.com") == (
        400,
        "There is a user with the e-mail address BOB@example.com already.",
    )
    assert (await client.fail(CREATE_USER, email="bob"))[1] == "'bob' is not an e-mail address."


async def test_people_find_those_of_their_teams(services: Services, client: Client, owner: Client) -> None:
    await make_client(services, "anton")
    await client.ask(CREATE_USER, email="ann_b@example.com")

    async def found(who: Client, text: str) -> list[str]:
        return [edge["node"]["username"] for edge in (await who.ask(SEARCH, text=text))["users"]["edges"]]

    assert await found(client, "an") == ["ann", "ann_b", "anton"]
    assert await found(client, "example.com") == ["ann_b"]
    assert await found(client, "n_b") == ["ann_b"], "a beginning or an end"
    assert await found(client, "%") == []
    assert await found(owner, "an") == ["ann"]
    await owner.ask(INVITE, entity="team", username="anton")
    assert await found(owner, "an") == ["ann", "anton"]


async def test_of_fellows_only_what_is_shared_is_shown(services: Services, owner: Client) -> None:
    bob = await make_client(services, "bob")
    await bob.ask(CREATE_TEAM, teamName="hidden")
    await owner.ask(INVITE, entity="team", username="bob")
    (found,) = (await owner.ask(SEARCH, text="bob"))["users"]["edges"]
    assert found["node"]["teams"]["edges"] == [{"node": {"name": "team"}}]


async def test_two_users_of_one_address_are_none(services: Services, client: Client) -> None:
    await client.ask(CREATE_USER, email="one@example.com")

    def again(connection: Connection) -> int:
        return users.create_user(connection, "other", now=services.clock(), email="One@example.com")

    with pytest.raises(Conflict, match="There is a user with the e-mail address"):
        await services.database.write(again)


class TestAtOnce:
    """What is taken from somebody is gone at once, whatever is remembered and wherever he waits."""

    async def test_who_was_removed_is_refused_by_the_next_answer(self, services: Services, owner: Client) -> None:
        await make_client(services, "bob")
        await owner.ask(INVITE, entity="team", username="bob")
        key = await _key_of(services, "bob")
        seen = '{ entity(name: "team") { name } }'
        async with TestClient(TestServer(build_app(services))) as http:
            assert (await _ask(http, key, seen))["data"]["entity"] == {"name": "team"}
            await owner.ask(REMOVE, id=(await _members(owner))["bob"]["id"], entity="team")
            assert (await _ask(http, key, seen))["data"]["entity"] is None

    async def test_who_was_removed_while_waiting_gets_nothing(self, services: Services, owner: Client) -> None:
        await make_client(services, "bob")
        await owner.ask(INVITE, entity="team", username="bob")
        await owner.ask(QUEUE)
        bobs, anns = await _key_of(services, "bob"), await _key_of(services, "ann")
        queue = {"entityName": "team", "projectName": "model-registry", "queueName": "q"}
        async with TestClient(TestServer(build_app(services))) as http:
            waiting = asyncio.create_task(_ask(http, bobs, POP, wait=60, input=queue))
            await until_somebody_waits(owner)
            await owner.ask(REMOVE, id=(await _members(owner))["bob"]["id"], entity="team")
            spec = {"entity": "team", "project": "p", "docker": {"docker_image": "busybox"}}
            pushed = await _ask(http, anns, PUSH_BY_NAME, input=by_name(spec, entityName="team"))
            assert (await waiting)["data"]["popFromRunQueue"] is None
            assert "is not a member" in (await _ask(http, bobs, POP, input=queue))["errors"][0]["message"]
            popped = await _ask(http, anns, POP, input=queue)
        assert popped["data"]["popFromRunQueue"] == {
            "runQueueItemId": pushed["data"]["pushToRunQueueByName"]["runQueueItemId"]
        }

    async def test_what_was_read_before_a_change_is_not_remembered_after_it(self, services: Services) -> None:
        key = await _key_of(services, "admin")
        reads = services.database.read

        async def read_slowly(*arguments: Any) -> Any:
            found = await reads(*arguments)
            rights_changed(services)
            return found

        request = make_mocked_request("GET", "/", headers={"Authorization": f"Bearer {key}"})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(services.database, "read", read_slowly)
            assert (await Authenticator(services).viewer(request)).username == "admin"
        assert services.viewers.get((users.hash_key(key), ""), services.clock()) is None

    async def test_every_server_of_a_database_knows(self, tmp_path: Path, cluster: Cluster, migrated: str) -> None:
        url = cluster.copy_of(migrated)
        async with opened(tmp_path / "a", url) as here, opened(tmp_path / "a", url) as there:
            key = (tmp_path / "a" / "admin-api-key").read_text().strip()
            request = make_mocked_request("GET", "/", headers={"Authorization": f"Bearer {key}"})
            admin = await make_client(here, "admin")
            asked = Authenticator(replace(there, clock=Clock()))  # which forgets nothing for its age
            with there.wakeups.listening([("anything", 0)]) as connected:
                while not await wait(connected, 0.1):
                    here.wakeups.notify(("anything", 0))
            with there.wakeups.listening([RIGHTS]) as hears:
                assert "team" not in (await asked.viewer(request)).entities
                await admin.ask(CREATE_TEAM, teamName="team")
                assert await wait(hears, 10)
            await asyncio.sleep(0)  # for who was woken together with us
            assert "team" in (await asked.viewer(request)).entities
        cluster.drop(url)


class TestServiceAccounts:
    """A team's own account, and for whom it acts."""

    async def test_its_key_is_shown_to_who_made_it_and_only_for_a_while(
        self, services: Services, client: Client, owner: Client, clock: Clock
    ) -> None:
        made = (await owner.ask(ACCOUNT, entity="team", description="CI"))["createServiceAccount"]
        members = (await owner.ask(TEAM, name="team"))["entity"]["members"]
        assert (members[-1]["accountType"], members[-1]["name"]) == ("SERVICE", "CI")
        assert members[-1]["apiKey"] == made["apiKey"]["name"]
        assert (await client.ask(TEAM, name="team"))["entity"]["members"][-1]["apiKey"] is None
        clock.now += 61
        assert (await owner.ask(TEAM, name="team"))["entity"]["members"][-1]["apiKey"] is None

    async def test_it_acts_for_members_of_its_team_with_its_own_rights(self, services: Services, owner: Client) -> None:
        key = (await owner.ask(ACCOUNT, entity="team", description="ci"))["createServiceAccount"]["apiKey"]["name"]
        await make_client(services, "stranger")
        async with TestClient(TestServer(build_app(services))) as http:
            plain = (await _ask(http, key, VIEWER))["data"]["viewer"]
            assert plain["entity"] == "team"
            assert plain["teams"]["edges"] == [{"node": {"name": "team"}}]
            ann = (await _ask(http, key, VIEWER, acts_for="ann"))["data"]["viewer"]
            assert (ann["username"], ann["entity"], ann["admin"]) == ("ann", "team", False)
            assert ann["apiKeys"]["edges"] == [], "her keys are hers"
            assert (await _ask(http, key, VIEWER, acts_for="stranger"))["data"]["viewer"]["username"] == plain[
                "username"
            ]
            own = await _ask(http, key, '{ entity(name: "ann") { name } }', acts_for="ann")
            assert own["data"]["entity"] is None, "what is hers alone stays closed"
            refused = await _ask(
                http, key, "mutation { generateApiKey(input: {}) { apiKey { name } } }", acts_for="ann"
            )
            assert refused["errors"][0]["message"].startswith("A service account has one key")
            for mutation in (
                'mutation { createInvite(input: {entityName: "team", username: "stranger"}) { invite { id } } }',
                'mutation { createTeam(input: {teamName: "more"}) { entity { id } } }',
            ):
                assert "errors" in await _ask(http, key, mutation, acts_for="ann")

    async def test_what_it_pushes_is_the_members(self, services: Services, owner: Client) -> None:
        key = (await owner.ask(ACCOUNT, entity="team", description="ci"))["createServiceAccount"]["apiKey"]["name"]
        async with TestClient(TestServer(build_app(services))) as http:
            make = """mutation { upsertRunQueue(input: {entityName: "team", projectName: "model-registry",
              queueName: "q", resourceType: "local-process", resourceConfig: "{}"}) { success } }"""
            assert (await _ask(http, key, make))["data"]["upsertRunQueue"]["success"]
            spec = {"entity": "team", "project": "p", "docker": {"docker_image": "busybox"}}
            given = by_name(spec, entityName="team")
            pushed = await _ask(http, key, PUSH_BY_NAME, acts_for="ann", input=given)
            item = pushed["data"]["pushToRunQueueByName"]["runQueueItemId"]
            seen = await _ask(http, key, "query ($id: ID!) { runQueueItem(id: $id) { createdBy runSpec } }", id=item)
            assert seen["data"]["runQueueItem"]["createdBy"] == "ann"
            assert seen["data"]["runQueueItem"]["runSpec"]["author"] == "ann"

    async def test_it_sees_nobody_of_a_members_other_teams(self, services: Services, owner: Client) -> None:
        key = (await owner.ask(ACCOUNT, entity="team", description="ci"))["createServiceAccount"]["apiKey"]["name"]
        await make_client(services, "anton")
        await owner.ask(CREATE_TEAM, teamName="hers")
        ann = await _fresh(services, "ann")
        await ann.ask(INVITE, entity="hers", username="anton")
        async with TestClient(TestServer(build_app(services))) as http:
            answer = await _ask(http, key, SEARCH, acts_for="ann", text="an")
        assert [edge["node"]["username"] for edge in answer["data"]["users"]["edges"]] == ["ann"]

    async def test_it_ends_with_its_place_in_the_team(self, services: Services, owner: Client) -> None:
        key = (await owner.ask(ACCOUNT, entity="team", description="ci"))["createServiceAccount"]["apiKey"]["name"]
        async with TestClient(TestServer(build_app(services))) as http:
            assert (await _ask(http, key, VIEWER))["data"]["viewer"]["entity"] == "team"
            account = (await _members(owner))["ci"]
            await owner.ask(REMOVE, id=account["id"], entity="team")
            assert "API key is not known" in (await _ask(http, key, VIEWER))["errors"][0]["message"]

    async def test_it_stays_in_its_team(self, services: Services, owner: Client) -> None:
        await owner.ask(ACCOUNT, entity="team", description="ci")
        username = (await _members(owner))["ci"]["username"]
        await owner.ask(CREATE_TEAM, teamName="other")
        ann = await _fresh(services, "ann")
        assert (await ann.fail(INVITE, entity="other", username=username))[0] == 404
        assert (await ann.fail(INVITE, entity="team", username=username, admin=True))[0] == 404

    async def test_a_persons_key_acts_for_nobody_else(self, services: Services, owner: Client) -> None:
        secret = await _key_of(services, "ann")
        async with TestClient(TestServer(build_app(services))) as http:
            assert (await _ask(http, secret, VIEWER, acts_for="admin"))["data"]["viewer"]["username"] == "ann"


async def _key_of(services: Services, username: str) -> str:
    """Make a key of a user."""
    secret = new_secret()

    def give_key(connection: Connection) -> None:
        row = users.user_by_name(connection, username)
        assert row is not None
        users.create_key(connection, row.id, secret, now=services.clock())

    await services.database.write(give_key)
    return secret


async def _ask(
    http: TestClient[Any, Any], key: str, query: str, acts_for: str = "", wait: int = 0, **variables: Any
) -> Any:
    """Send GraphQL over HTTP."""
    authorization = base64.b64encode(f"api:{key}".encode()).decode()
    headers = {"Authorization": f"Basic {authorization}", "X-WANDB-USERNAME": acts_for, "Prefer": f"wait={wait}"}
    answer = await http.post("/graphql", json={"query": query, "variables": variables}, headers=headers)
    return await answer.json()
