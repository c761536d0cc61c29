"""The SDL understands what the stock client says."""

import pytest
from graphql import GraphQLInputObjectType, GraphQLObjectType, validate

from server.graphql import load_schema
from server.resolvers import ALL_RESOLVERS
from tests.server.stock_documents import stock_documents

SCHEMA = load_schema(ALL_RESOLVERS)

DOCUMENTS = {
    key: document for key, document in stock_documents().items() if not key.startswith("sdk/data_types/eval_table/")
}


def test_the_collector_finds_the_documents() -> None:
    assert len(stock_documents()) > 150
    assert {"go:UpsertBucket", "sdk/launch/api:popFromRunQueue", "apis/public/runs:CreateRunFiles"} <= set(DOCUMENTS)
    assert {"composed:createLaunchAgent", "composed:pushToRunQueueByName-2", "composed:Runs-2"} <= set(DOCUMENTS)


@pytest.mark.parametrize("key", sorted(DOCUMENTS))
def test_a_document_of_the_stock_client_is_valid(key: str) -> None:
    assert [error.message for error in validate(SCHEMA, DOCUMENTS[key])] == []


def test_every_mutation_does_something() -> None:
    """A mutation without a resolver answers null, which the client takes for success."""
    mutations = SCHEMA.mutation_type
    assert mutations is not None
    assert [name for name, field in mutations.fields.items() if field.resolve is None] == []


@pytest.mark.parametrize(
    ("type_name", "fields"),
    [
        ("CreateRunQueueInput", {"defaultResourceConfigID", "prioritizationMode"}),
        ("PushToRunQueueInput", {"templateVariableValues", "priority"}),
        ("FailRunQueueItemInput", {"message"}),
        ("CreateLaunchAgentInput", {"agentConfig", "version"}),
        ("LaunchAgent", {"id", "name", "stopPolling"}),
    ],
)
def test_the_probes_of_older_clients_find_what_they_look_for(type_name: str, fields: set[str]) -> None:
    found = SCHEMA.type_map[type_name]
    assert isinstance(found, GraphQLInputObjectType | GraphQLObjectType)
    assert fields <= set(found.fields)
