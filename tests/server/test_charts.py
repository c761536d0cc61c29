"""Charts that people make, kept as they were sent."""

from typing import Any

from server.context import Services
from tests.server.conftest import Client, make_client

CREATE_CHART = """mutation($input: CreateCustomChartInput!) { createCustomChart(input: $input) { chart { id } } }"""
CHART = {"displayName": "Mine", "type": "vega2", "access": "PRIVATE", "spec": '{"b": 1,  "a": "\u00fc"}'}
READ = "query($id: ID!) { customChart(id: $id) { id name displayName type access spec } }"


async def create(client: Client, name: str, **values: Any) -> str:
    """Make a chart of the first user; returns its id."""
    answer = await client.ask(CREATE_CHART, input={**CHART, "entity": "admin", "name": name, **values})
    return answer["createCustomChart"]["chart"]["id"]


async def test_a_chart_is_kept_to_the_byte_and_made_again_under_its_name(client: Client) -> None:
    assert await create(client, "a/b") == "admin/a/b", "what `wandb.plot_table` is given"
    found = (await client.ask(READ, id="admin/a/b"))["customChart"]
    assert found == {**CHART, "id": "admin/a/b", "name": "a/b"}
    await create(client, "other")
    assert await create(client, "a/b", displayName="Changed", spec="{}") == "admin/a/b"
    found = (await client.ask(READ, id="admin/a/b"))["customChart"]
    assert (found["displayName"], found["spec"]) == ("Changed", "{}")
    assert (await client.ask(READ, id="admin/other"))["customChart"]["displayName"] == "Mine"


async def test_a_private_chart_is_its_entitys_and_a_public_one_everybodys(client: Client, services: Services) -> None:
    stranger = await make_client(services, "eve")
    await create(client, "open", access="PUBLIC")
    await create(client, "closed")
    assert (await stranger.ask(READ, id="admin/open"))["customChart"]["name"] == "open"
    for name in ("closed", "none"):
        assert await stranger.fail(READ, id=f"admin/{name}") == (404, "There is no such chart.")


async def test_a_chart_that_cannot_be_is_refused(client: Client) -> None:
    for values, said in (({"name": ""}, "1 to 128"), ({"name": "n" * 129}, "1 to 128"), ({"access": "OPEN"}, "PUBLIC")):
        status, message = await client.fail(CREATE_CHART, input={**CHART, "entity": "admin", "name": "chart", **values})
        assert status == 400
        assert said in message
