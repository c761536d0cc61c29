"""Who is no member learns nothing: the answer is the same whether a thing is there or not, and changes nothing.

Every mutation and every root query of the SDL, and every route beside it, is asked three times by a stranger: for what
is there, for what is missing where other things are, and for what is missing altogether. So that these are questions at
all, the owner asks them too, and gets an answer each time.
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from string import Template
from typing import Any, cast

import pytest
from aiohttp.test_utils import TestClient, TestServer
from graphql import GraphQLObjectType, get_named_type, is_leaf_type
from sqlalchemy import Connection

from protocol.names import run_storage_id
from server.app import build_app
from server.context import Services
from server.graphql import load_schema
from server.resolvers import ALL_RESOLVERS
from server.resolvers.users import new_secret
from server.storage import users
from tests.server import automating, launching, sweeping
from tests.server.conftest import Client, make_client
from tests.server.run_steps import UPSERT as UPSERT_RUN
from tests.server.stranger_cases import ABOUT_ONESELF, MUTATIONS, QUERIES, Case
from tests.server.test_artifacts import FILES, MANIFEST, commit, content, create, key_of, manifest_input, md5, put
from tests.server.test_charts import CHART, CREATE_CHART
from tests.server.test_teams import CREATE_TEAM, INVITE

SCHEMA = load_schema(ALL_RESOLVERS)

Things = Mapping[str, str]
"""Names and ids, by what they are of."""


@dataclass(frozen=True)
class Worlds:
    """What is there, and twice what is not."""

    owner: Client
    stranger: Client
    there: Things
    missing: tuple[Things, Things]


@pytest.fixture
async def worlds(services: Services) -> Worlds:
    """Everything that there can be, once of the owner's and once of the stranger's."""
    owner, stranger = await make_client(services, "olga"), await make_client(services, "eve")
    there, own = await _everything(services, "olga"), await _everything(services, "eve")
    services.viewers.forget()
    owner = await make_client(services, "olga")
    inside, nowhere = _missing(there, "olga"), _missing(there, "nobody")
    owned = {f"own_{name}": value for name, value in own.items()}
    return Worlds(owner, stranger, {**there, **owned}, ({**inside, **owned}, {**nowhere, **owned}))


async def _everything(services: Services, entity: str) -> dict[str, str]:
    """Make one of everything for a user."""
    client = await make_client(services, entity)
    place = {"entityName": entity, "projectName": f"project-{entity}"}
    names = {
        name: f"{name}-{entity}"
        for name in ("project", "queue", "run", "collection", "portfolio", "team", "client_id", "chart")
    }
    things = {"entity": entity, **names, "registry": f"wandb-registry-{entity}", **_texts(entity)}
    things |= await _who(services, client, entity, things)
    things |= await _runs(client, place, things)
    things |= await _artifacts(await make_client(services, entity), place, things)
    things |= await _launch(client, place, things)
    things |= await _sweep(client, place)
    things |= await _view(client, place)
    things |= await _automations(client, entity, things)
    await client.ask(CREATE_CHART, input={**CHART, "entity": entity, "name": things["chart"]})
    return things


def _texts(entity: str) -> dict[str, str]:
    """Return what names something inside of a JSON text, as GraphQL writes such a text."""
    project = f"project-{entity}"
    spec = json.dumps({"entity": entity, "project": project, "docker": {"docker_image": "busybox"}})
    scheduler = {"queue": "queue-eve", "run_queue_project": "project-eve", "run_spec": spec}
    return {"spec": json.dumps(spec), "scheduler": json.dumps(json.dumps(scheduler))}


async def _who(services: Services, client: Client, entity: str, things: Things) -> dict[str, str]:
    email = f"{entity}@example.com"

    def add_mail(connection: Connection) -> None:
        fellow = users.create_user(connection, f"fellow-{entity}", now=0, email=email)
        team = users.entity_by_name(connection, things["team"])
        assert team is not None
        users.add_member(connection, team.id, fellow, "member")

    await client.ask(CREATE_TEAM, teamName=things["team"])
    await services.database.write(add_mail)
    client = await make_client(services, entity)
    invite = await client.ask(INVITE, entity=things["team"], email=f"later-{email}")
    members = await client.ask(
        "query ($name: String) { entity(name: $name) { members { id username } } }", name=things["team"]
    )
    team = await client.ask("query ($name: String) { entity(name: $name) { id } }", name=things["team"])
    registry = await client.ask(
        "mutation ($input: UpsertModelInput!) { upsertModel(input: $input) { project { id } } }",
        input={"entityName": "launchbay", "name": things["registry"], "access": "RESTRICTED"},
    )
    key = await client.ask("mutation { generateApiKey(input: {}) { apiKey { id } } }")
    return {
        "email": email,
        "invite": invite["createInvite"]["invite"]["id"],
        "member": next(one["id"] for one in members["entity"]["members"] if one["username"] == f"fellow-{entity}"),
        "key": key["generateApiKey"]["apiKey"]["id"],
        "team_id": team["entity"]["id"],
        "registry_id": registry["upsertModel"]["project"]["id"],
    }


async def _runs(client: Client, place: Mapping[str, str], things: Things) -> dict[str, str]:
    given = {"entityName": place["entityName"], "modelName": place["projectName"], "name": things["run"]}
    await client.ask(UPSERT_RUN, input={**given, "host": "box"})
    announced = await client.ask(
        "mutation ($input: CreateRunFilesInput!) { createRunFiles(input: $input) { files { id uploadUrl } } }",
        input={**place, "runName": things["run"], "files": ["a.txt"]},
    )
    (file,) = announced["createRunFiles"]["files"]
    await put(client.context.services, key_of(file["uploadUrl"]), b"a")
    run_id = run_storage_id(place["entityName"], place["projectName"], things["run"])
    return {"run_id": run_id, "file": file["id"], "object": key_of(file["uploadUrl"])}


async def _artifacts(client: Client, place: Mapping[str, str], things: Things) -> dict[str, str]:
    services, mine = client.context.services, things["entity"].encode()
    found = _contents(mine)
    for state, text in (("artifact", mine), ("complete", mine + b"2"), ("pending", mine + b"3")):
        wanted = content({"a.txt": text})
        client_id = {"clientID": things["client_id"]} if state == "artifact" else {}
        made = await create(client, wanted, things["collection"], **place, **client_id)
        found |= {state: made["id"], "collection_id": made["artifactSequence"]["id"]}
        if state == "pending":
            part = manifest_input(made["id"], b"", **place, digest="", type="PATCH")
            answer = await client.ask(MANIFEST, input=part)
            found["manifest"] = answer["createArtifactManifest"]["artifactManifest"]["id"]
            continue
        answer = await client.ask(MANIFEST, input=manifest_input(made["id"], wanted.manifest, **place))
        url = answer["createArtifactManifest"]["artifactManifest"]["file"]["uploadUrl"]
        await put(services, key_of(url), wanted.manifest)
        specs = [{"artifactID": made["id"], "name": "a.txt", "md5": md5(text)}]
        answer = await client.ask(FILES, files=specs)
        (file,) = answer["createArtifactFiles"]["files"]["edges"]
        await put(services, key_of(file["node"]["uploadUrl"]), text)
        found["content"] = file["node"]["storagePath"]
        if state == "artifact":
            await commit(client, made["id"])
    linked = await client.ask(
        "mutation ($input: LinkArtifactInput!) { linkArtifact(input: $input) { artifactMembership "
        "{ artifactCollection { id } } } }",
        input={**place, "artifactPortfolioName": things["portfolio"], "artifactID": found["artifact"]},
    )
    return {**found, "portfolio_id": linked["linkArtifact"]["artifactMembership"]["artifactCollection"]["id"]}


async def _launch(client: Client, place: Mapping[str, str], things: Things) -> dict[str, str]:
    queue = {**place, "queueName": things["queue"]}
    await client.ask(launching.UPSERT_QUEUE, input={**queue, "resourceType": "local-process", "resourceConfig": "{}"})
    data = await client.ask(
        """query ($entityName: String, $projectName: String, $queueName: String!) {
             project(entityName: $entityName, name: $projectName) {
               runQueue(name: $queueName) { id defaultResourceConfigID } } }""",
        **queue,
    )
    queue_id = data["project"]["runQueue"]["id"]
    agent = await launching.make_agent(client, queue_id, **place)
    held, broken = [await _popped(client, queue, things, agent) for _ in range(2)]
    waiting, _spare = [await _pushed(client, queue, things) for _ in range(2)]
    config = data["project"]["runQueue"]["defaultResourceConfigID"]
    return {
        "queue_id": queue_id,
        "config": config,
        "agent": agent,
        "held": held,
        "broken": broken,
        "waiting": waiting,
    }


async def _pushed(client: Client, queue: Mapping[str, str], things: Things) -> str:
    given = {**queue, "runSpec": json.loads(things["spec"])}
    data = await client.ask(launching.PUSH_BY_NAME, input=given)
    return data["pushToRunQueueByName"]["runQueueItemId"]


async def _popped(client: Client, queue: Mapping[str, str], things: Things, agent: str) -> str:
    await _pushed(client, queue, things)
    data = await client.ask(launching.POP, input={**queue, "launchAgentId": agent})
    return data["popFromRunQueue"]["runQueueItemId"]


async def _sweep(client: Client, place: Mapping[str, str]) -> dict[str, str]:
    sweep = await sweeping.make_sweep(client, None, **place)
    agent = await client.ask(sweeping.CREATE_AGENT, host="h", sweep=sweep["name"], **place)
    return {"sweep_id": sweep["id"], "sweep": sweep["name"], "sweep_agent": agent["createAgent"]["agent"]["id"]}


async def _view(client: Client, place: Mapping[str, str]) -> dict[str, str]:
    mutation = "mutation($input: UpsertViewInput!) { upsertView(input: $input) { view { id } } }"
    return {"view": (await client.ask(mutation, input={**place, "name": "v"}))["upsertView"]["view"]["id"]}


async def _automations(client: Client, entity: str, things: Things) -> dict[str, str]:
    project = await automating.project_id(client, things["project"], entity)
    integration = await automating.make_webhook(client, "https://a.example/", entityName=entity)
    states = json.dumps({"run_state_filter": {"states": ["FAILED"]}})
    place = automating.in_project(project)
    made = await automating.automate(client, "automation", "RUN_STATE", states, **place)
    return {"project_id": project, "integration": integration, "trigger": made["id"]}


def _missing(there: Things, entity: str) -> Things:
    """Return names and ids of the same kinds that nothing has; the entity may be there."""
    found = {name: _missing_one(name, value) for name, value in there.items()}
    run_id = run_storage_id(entity, found["project"], found["run"])
    return {**found, **_contents(b"nothing"), "entity": entity, **_texts(entity), "run_id": run_id}


def _contents(stored: bytes) -> dict[str, str]:
    """Return what identifies contents."""
    return {"md5": md5(stored), "digest": base64.b64decode(md5(stored)).hex()}


def _missing_one(name: str, value: str) -> str:
    try:
        kind, number = base64.b64decode(value, validate=True).decode().split(":")
    except ValueError:
        return f"missing-{name}"
    return base64.b64encode(f"{kind}:{int(number) + 987_654}".encode()).decode()


def _document(case: Case, kind: str, things: Things) -> str:
    root = SCHEMA.mutation_type if kind == "mutation" else SCHEMA.query_type
    assert root is not None
    given = Template(case.arguments).substitute(things)
    given = f"input: {{{given}}}" if kind == "mutation" else given
    chosen = Template(case.selection).substitute(things) or _plain(root.fields[case.field].type)
    return f"{kind} {{ {case.field}({given}) {{ {chosen} }} }}"


def _plain(kind: Any) -> str:
    """Return a selection of all that is plain in a type."""
    shape = get_named_type(kind)
    if not isinstance(shape, GraphQLObjectType):
        return "__typename"
    fields = {name: get_named_type(field.type) for name, field in shape.fields.items() if not field.args}
    return " ".join(name if is_leaf_type(kind) else f"{name} {{ __typename }}" for name, kind in fields.items())


async def _ask(client: Client, case: Case, kind: str, things: Things) -> tuple[int, str, Any]:
    """Return status and text of an answer, the names and ids in it taken out, and its data."""
    document = _document(case, kind, things)
    status, body = await client.executor.execute(document, {}, None, client.context)
    assert "Cannot query" not in str(body), f"{document}\n{body}"
    return status, _without_names(json.dumps(body), things), cast("Any", body.get("data"))


def _without_names(text: str, things: Things) -> str:
    values = {name: value for name, value in things.items() if not name.startswith("own_")}
    for name, value in sorted(values.items(), key=lambda entry: -len(entry[1])):
        text = text.replace(f"'{value}'", f"<{name}>")
        text = text if name == "entity" else text.replace(value, f"<{name}>")
        text = text.replace(f" {value}/", f" <{name}>/")
    return text


def _says_nothing(data: Any) -> bool:
    if isinstance(data, dict):
        return all(_says_nothing(value) for value in cast("dict[str, Any]", data).values())
    return data in (None, False, [])


CASES = [("query", case) for case in QUERIES] + [("mutation", case) for case in MUTATIONS]


def test_every_operation_has_a_case() -> None:
    assert SCHEMA.mutation_type is not None
    assert SCHEMA.query_type is not None
    asked = {case.field for _, case in CASES}
    assert set(SCHEMA.mutation_type.fields) | set(SCHEMA.query_type.fields) == asked | set(ABOUT_ONESELF)


async def test_a_stranger_gets_one_answer_and_changes_nothing(worlds: Worlds) -> None:
    wrong: list[str] = []
    for kind, case in CASES:
        status, text, data = await _ask(worlds.stranger, case, kind, worlds.there)
        others = [(await _ask(worlds.stranger, case, kind, things))[:2] for things in worlds.missing]
        quiet = case.only_alike or status in {401, 403, 404} or (status == 200 and _says_nothing(data))
        if not quiet or any(other != (status, text) for other in others):
            wrong.append("\n  ".join([_document(case, kind, worlds.there), f"{status} {text}", *map(str, others)]))
    assert not wrong, "\n".join(wrong)
    # Now the owner: who finds everything as it was, and whose questions are the same ones.
    for kind, case in CASES:
        if case.is_the_owners:
            status, text, data = await _ask(worlds.owner, case, kind, worlds.there)
            if status != 200 or "errors" in text or _says_nothing(data):
                wrong.append(f"{_document(case, kind, worlds.there)}\n  {status} {text}")
    assert not wrong, "\n".join(wrong)


ROUTES = (
    ("POST", "/files/{entity}/{project}/{run}/file_stream", "/files/$entity/$project/$run/file_stream"),
    ("GET", "/launchbay/item-log", "/launchbay/item-log?item=$held"),
    ("POST", "/launchbay/item-log", "/launchbay/item-log?item=$held&offset=0"),
    ("GET", "/artifacts/{entity}/{digest}", "/artifacts/$entity/$digest"),
    (
        "GET",
        "/artifactsV2/{region}/{entity}/{project}/{collection}/{birth}/{digest}/{name}",
        "/artifactsV2/default/$entity/$project/$collection/b/$digest/a.txt",
    ),
    (
        "GET",
        "/artifactsV2/{region}/{entity}/{project}/{collection}/{artifact}/{birth}/{digest}/{name}",
        "/artifactsV2/default/$entity/$project/$collection/x/b/$digest/a.txt",
    ),
    ("GET", "/storage/{key}", "/storage/$object"),
    ("PUT", "/storage/{key}", "/storage/$object"),
)
"""Method and pattern of a route, and a path of it."""
FOR_ALL = {("GET", "/healthz"), ("POST", "/graphql")}


async def test_routes_beside_graphql_tell_a_stranger_nothing(services: Services, worlds: Worlds) -> None:
    app = build_app(services)
    served = {
        (route.method, route.resource.canonical)
        for route in app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    assert served == {route[:2] for route in ROUTES} | FOR_ALL
    keys = {name: await _key(services, name) for name in ("eve", "olga")}
    async with TestClient(TestServer(app)) as http:
        for method, pattern, template in ROUTES:
            paths = [Template(template).substitute(things) for things in (worlds.there, *worlds.missing)]
            answers = [await _request(http, method, path, keys["eve"]) for path in paths]
            bare = {
                (status, _without_names(text, things))
                for (status, text), things in zip(answers, (worlds.there, *worlds.missing), strict=True)
            }
            assert len(bare) == 1, (pattern, answers)
            assert answers[0][0] in {403, 404}, (pattern, answers)
            if pattern == "/storage/{key}":  # for who has a signed URL, whoever he is
                continue
            assert (await _request(http, method, paths[0], None))[0] == 401, pattern
            assert (await _request(http, method, paths[0], keys["olga"]))[0] in {200, 302}, pattern


async def _key(services: Services, name: str) -> str:
    secret = new_secret()

    def work(connection: Connection) -> None:
        row = users.user_by_name(connection, name)
        assert row is not None
        users.create_key(connection, row.id, secret, now=services.clock())

    await services.database.write(work)
    return secret


async def _request(http: TestClient[Any, Any], method: str, path: str, key: str | None) -> tuple[int, str]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    body = b"{}" if method == "POST" else None
    async with http.request(method, path, data=body, headers=headers, allow_redirects=False) as answer:
        return answer.status, await answer.text()
