"""Views of a project: reports, drafts and workspaces, kept as they were sent."""

from typing import Any

from tests.server.conftest import Client

PLACE = {"entityName": "admin", "projectName": "p"}
UPSERT = """mutation($input: UpsertViewInput!) { upsertView(input: $input) {
  inserted view { id type name displayName description spec project { name entityName } } } }"""
LIST = """query($type: String = "runs", $name: String, $user: String, $first: Int, $after: String) {
  project(name: "p", entityName: "admin") {
    allViews(viewType: $type, viewName: $name, userName: $user, first: $first, after: $after) {
      edges { node { name user { username } } cursor } pageInfo { hasNextPage }
    }
  }
}"""


async def upsert(client: Client, **values: Any) -> Any:
    """Make or change a view; returns the answer."""
    return (await client.ask(UPSERT, input={**PLACE, "createdUsing": "WANDB_SDK", **values}))["upsertView"]


async def names(client: Client, **asked: Any) -> list[str]:
    """Return the names of the views of a type."""
    found = (await client.ask(LIST, **asked))["project"]["allViews"]["edges"]
    return [edge["node"]["name"] for edge in found]


async def test_a_report_is_kept_to_the_byte_and_changed_by_its_id(client: Client) -> None:
    spec = '{"b": 1, "a": [1.0,  "ü"]}'
    made = await upsert(client, type="runs", name="r", displayName="Title", description="", spec=spec)
    assert made["inserted"]
    view = made["view"]
    assert (view["spec"], view["project"]) == (spec, {"name": "p", "entityName": "admin"})
    changed = await upsert(client, id=view["id"], displayName="Other")
    assert (changed["inserted"], changed["view"]) == (False, {**view, "displayName": "Other"})
    read = await client.ask("query($id: ID!) { view(id: $id) { displayName spec } }", id=view["id"])
    assert read["view"] == {"displayName": "Other", "spec": spec}


async def test_views_are_listed_by_type_name_and_user(client: Client) -> None:
    for name, kind in {"a": "runs", "draft": "runs/draft", "b": "runs", "nw-1-v": "project-view"}.items():
        await upsert(client, type=kind, name=name)
    assert await names(client) == ["a", "b"]
    assert await names(client, type="runs/draft") == ["draft"]
    assert await names(client, type="project-view", name="nw-1-v") == ["nw-1-v"]
    assert await names(client, name="b", user="admin") == ["b"]
    assert await names(client, user="somebody") == []
    first = (await client.ask(LIST, first=1))["project"]["allViews"]
    assert first["pageInfo"]["hasNextPage"]
    assert await names(client, first=1, after=first["edges"][0]["cursor"]) == ["b"]


async def test_a_deleted_view_is_gone(client: Client) -> None:
    view = (await upsert(client, name="a"))["view"]
    delete = "mutation($id: ID!) { deleteView(input: {id: $id, deleteDrafts: true}) { success pendingDrafts } }"
    assert (await client.ask(delete, id=view["id"]))["deleteView"] == {"success": True, "pendingDrafts": 0}
    assert await names(client) == []
    assert (await client.fail(delete, id=view["id"]))[0] == 404
    assert (await client.fail(UPSERT, input={**PLACE, "id": view["id"]}))[0] == 404
