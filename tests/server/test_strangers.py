"""Who is no member learns nothing: the answer is the same whether a thing is there or not.

Every mutation and every root query of the SDL is asked twice by a stranger, once with the names and ids of things that
are there, once with those of things that are not. One that is added is tried without a word here.
"""

import base64
import json
from collections.abc import Mapping
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from graphql import (
    GraphQLEnumType,
    GraphQLField,
    GraphQLInputObjectType,
    GraphQLList,
    GraphQLNonNull,
    GraphQLObjectType,
    get_named_type,
)
from sqlalchemy import Connection

from protocol.names import run_storage_id
from server.app import build_app
from server.context import Services
from server.graphql import load_schema
from server.ids import encode
from server.resolvers import ALL_RESOLVERS
from server.resolvers.users import new_secret
from server.storage import users
from tests.server.conftest import Client, make_client
from tests.server.launching import acknowledge, make_agent, make_queue, pop, push, start_run
from tests.server.sweeping import CREATE_AGENT, make_sweep
from tests.server.test_artifacts import content, log

SCHEMA = load_schema(ALL_RESOLVERS)

ABOUT_ONESELF = {"generateApiKey", "createTeam", "viewer", "serverInfo"}
"""What a stranger may do, as it is about nobody else."""
NAMES = {"admin": "nobody", "p": "nothing", "q": "none", "run1": "run9", "data": "dust"}
"""Names of what is there -> of what is not."""
NAMED = {
    "entity": "admin",
    "entityName": "admin",
    "project": "p",
    "projectName": "p",
    "modelName": "p",
    "artifactEntityName": "admin",
    "artifactProjectName": "p",
    "queueName": "q",
    "runName": "run1",
    "artifactCollectionName": "data",
    "artifactSequenceName": "data",
}
"""What a field of this name names."""
NAME_OF = {"entity": "admin", "organization": "admin", "project": "p", "model": "p", "upsertModel": "p"}
"""What a plain `name` names, by operation."""
IDS = {
    "runQueueItemId": "item",
    "queueID": "queue",
    "queueIDs": "queue",
    "queues": "queue",
    "runQueues": "queue",
    "launchAgentId": "agent",
    "artifactID": "artifact",
    "artifactSequenceID": "collection",
    "artifactCollectionID": "collection",
    "defaultResourceConfigID": "config",
    "sweep": "sweep name",
    "runId": "run",
    "clientID": "client",
}
ID_OF = {
    "deleteRun": "run",
    "stopRun": "run",
    "upsertBucket": "run",
    "notifyScriptableRunAlert": "run",
    "deleteApiKey": "key",
    "deleteInvite": "user",
    "upsertSweep": "sweep",
    "deleteSweep": "sweep",
    "agentHeartbeat": "sweep agent",
    "launchAgent": "agent",
    "runQueueItem": "item",
    "artifact": "artifact",
    "artifactCollection": "collection",
}
"""What a plain `id` is of, by operation."""

Things = Mapping[str, str]


@pytest.fixture
async def things(services: Services, client: Client) -> Things:
    """One of everything, owned by `admin`, by kind."""
    queue = await make_queue(client)
    agent = await make_agent(client, queue)
    item = await push(client)
    assert await pop(client, agent) == item
    assert await acknowledge(client, item)
    await start_run(client)
    sweep = await make_sweep(client)
    asked = await client.ask(CREATE_AGENT, host="h", projectName="p", entityName="admin", sweep=sweep["name"])
    artifact = await log(client, content({"a": b"b"}))
    key = await client.ask("mutation { generateApiKey(input: {}) { apiKey { id } } }")
    return {
        "queue": queue,
        "agent": agent,
        "item": item,
        "run": run_storage_id("admin", "p", "run1"),
        "sweep": sweep["id"],
        "sweep name": sweep["name"],
        "sweep agent": asked["createAgent"]["agent"]["id"],
        "artifact": artifact["id"],
        "collection": encode("ArtifactCollection", 1),
        "config": encode("DefaultResourceConfig", 1),
        "key": key["generateApiKey"]["apiKey"]["id"],
        "user": encode("User", 1),
        "client": "unknown",
    }


def _missing(wire: str) -> str:
    """Return an id of the same kind that nothing has."""
    try:
        kind, *rest = base64.b64decode(wire, validate=True).decode().split(":")
    except ValueError:
        return "gone-gone"
    if kind == "Run":
        return run_storage_id("nobody", "nothing", "run9")
    assert len(rest) == 1
    return encode(kind, 987_654)


class _Question:
    """An operation with everything that it requires, and whatever names or identifies something."""

    def __init__(self, operation: str, things: Things, *, there: bool) -> None:
        self._operation, self._things, self._there = operation, things, there

    def arguments(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        found = {name: self._value(name, field.type) for name, field in fields.items()}
        return {
            name: value
            for name, value in found.items()
            if value is not None or isinstance(fields[name].type, GraphQLNonNull)
        }

    def _value(self, name: str, kind: Any) -> Any:
        required = isinstance(kind, GraphQLNonNull)
        plain = kind.of_type if required else kind
        if isinstance(plain, GraphQLList):
            inner = plain.of_type.of_type if isinstance(plain.of_type, GraphQLNonNull) else plain.of_type
            value = self._value(name, GraphQLNonNull(inner) if required or name in IDS else inner)
            return None if value is None else [value]
        if name in NAMED:
            return NAMED[name] if self._there else NAMES[NAMED[name]]
        if name == "name" and self._operation in NAME_OF:
            return NAME_OF[self._operation] if self._there else NAMES[NAME_OF[self._operation]]
        thing = ID_OF.get(self._operation) if name == "id" else IDS.get(name)
        if thing:
            return self._things[thing] if self._there else _missing(self._things[thing])
        if not required:
            return None
        if isinstance(plain, GraphQLInputObjectType):
            return self.arguments(plain.fields)
        if isinstance(plain, GraphQLEnumType):
            return next(iter(plain.values))
        spec = json.dumps({"entity": "admin" if self._there else "nobody", "project": "p", "uri": "placeholder-x"})
        defaults: dict[str, Any] = {"JSONString": spec, "Int": 1, "Boolean": True, "Float": 1.0, "Int64": 1, "JSON": {}}
        return defaults.get(plain.name, "x")


def _document(kind: str, name: str, field: GraphQLField) -> str:
    declared = ", ".join(f"${argument}: {given.type}" for argument, given in field.args.items())
    passed = ", ".join(f"{argument}: ${argument}" for argument in field.args)
    result = get_named_type(field.type)
    fields = ["success"] if isinstance(result, GraphQLObjectType) and "success" in result.fields else ["__typename"]
    chosen = "{ " + " ".join(fields) + " }" if isinstance(result, GraphQLObjectType) else ""
    return f"{kind}{f'({declared})' if declared else ''} {{ {name}{f'({passed})' if passed else ''} {chosen} }}"


def _operations() -> list[tuple[str, str, GraphQLField]]:
    assert SCHEMA.mutation_type is not None
    assert SCHEMA.query_type is not None
    found = [("mutation", *entry) for entry in SCHEMA.mutation_type.fields.items()]
    found += [("query", *entry) for entry in SCHEMA.query_type.fields.items()]
    return [entry for entry in found if entry[1] not in ABOUT_ONESELF]


async def _answer(eve: Client, kind: str, name: str, field: GraphQLField, things: Things, *, there: bool) -> str:
    variables = _Question(name, things, there=there).arguments(field.args)
    _, body = await eve.executor.execute(_document(kind, name, field), variables, None, eve.context)
    text = json.dumps(body)
    for present, missing in [*NAMES.items(), *((wire, _missing(wire)) for wire in things.values())]:
        text = text.replace(f"'{present}'", "'_'").replace(f"'{missing}'", "'_'")
    assert "is not a valid" not in text, body
    assert "Variable" not in text, f"the question is no question: {body}"
    return text


async def test_every_answer_is_the_same_whether_a_thing_is_there_or_not(
    services: Services, client: Client, things: Things
) -> None:
    eve = await make_client(services, "eve")
    wrong: list[str] = []
    for kind, name, field in _operations():
        real = await _answer(eve, kind, name, field, things, there=True)
        none = await _answer(eve, kind, name, field, things, there=False)
        data = (json.loads(real).get("data") or {}).get(name)
        told = "errors" in json.loads(real) or data in (None, {"success": False}) or name == "users"
        if real != none or not told:
            wrong.append(f"{name}\n  {real}\n  {none}")
    assert not wrong, "\n".join(wrong)


async def test_the_questions_are_real_ones(services: Services, client: Client, things: Things) -> None:
    """The owner gets other answers for what is there than for what is not, nearly everywhere."""
    same: list[str] = []
    for kind, name, field in _operations():
        if name.startswith(("delete", "stop", "commit", "fail", "finish")):
            continue
        real = await _answer(client, kind, name, field, things, there=True)
        none = await _answer(client, kind, name, field, things, there=False)
        if real == none:
            same.append(name)
    assert len(same) < 20, same


async def test_routes_beside_graphql(services: Services, things: Things) -> None:
    secret = new_secret()

    def make_eve(connection: Connection) -> None:
        user_id = users.create_user(connection, "eve", now=services.clock())
        users.create_key(connection, user_id, secret, now=services.clock())

    await services.database.write(make_eve)
    headers = {"Authorization": "Basic " + base64.b64encode(f"api:{secret}".encode()).decode()}
    routes = [
        ("POST", "/files/{entity}/{project}/{run}/file_stream", {"complete": True, "exitcode": 0}),
        ("GET", "/launchbay/item-log?item={item}", None),
        ("POST", "/launchbay/item-log?item={item}&offset=0", None),
        ("GET", "/artifacts/{entity}/00", None),
    ]
    there = {"entity": "admin", "project": "p", "run": "run1", "item": things["item"], "artifact": things["artifact"]}
    gone = {"entity": "nobody", "project": "nothing", "run": "run9"}
    gone |= {name: _missing(there[name]) for name in ("item", "artifact")}
    async with TestClient(TestServer(build_app(services))) as http:
        for method, path, body in routes:
            answers: list[tuple[int, str]] = []
            for named in (there, gone):
                answer = await http.request(method, path.format(**named), json=body, headers=headers)
                text = await answer.text()
                for name in ("entity", "project", "run"):
                    text = text.replace(f"'{named[name]}'", "'_'")
                answers.append((answer.status, text.replace(path.format(**named), path)))
            assert answers[0] == answers[1], path
            assert answers[0][0] in {401, 403, 404}, path
            anonymous = await http.request(method, path.format(**there), json=body)
            assert anonymous.status == 401, path
