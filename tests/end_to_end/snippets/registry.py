"""The registry: collections of links that the whole organization finds, searched and looked after."""

from functools import cache

import wandb
from wandb.apis.public.registries import Registry

from tests.end_to_end.snippets.artifacts import filled
from tests.end_to_end.snippets.checks import shows


@cache
def stocked() -> wandb.Api:
    """Return the public API of a server with a registry of animals."""
    api = wandb.Api()
    api.create_registry("Animals", visibility="organization", description="of all kinds")
    with wandb.init(entity="admin", project="zoo") as run:
        for number, name in enumerate(("cats", "dogs", "dogs", "birds")):
            made = filled(name, {f"file{number}": name})
            made.metadata["number"] = number
            version = run.log_artifact(made, tags=["big"] if number > 1 else []).wait()
            run.link_artifact(version, f"wandb-registry-Animals/{name}", aliases=["production"] if number % 2 else [])
    birds = api.artifact_collection("dataset", "launchbay/wandb-registry-Animals/birds")
    birds.tags, birds.description = ["fly"], "with feathers"
    birds.save()
    return api


@shows("wandb.Run.use_artifact", "wandb.Run.link_artifact")
def a_version_is_used_from_a_registry() -> None:
    stocked()
    with wandb.init(entity="admin", project="zoo") as run:
        for name in ("wandb-registry-Animals/dogs:production", "launchbay/wandb-registry-animals/dogs:v0"):
            used = run.use_artifact(name)
            assert (used.source_name, used.entity) == ("dogs:v0", "launchbay")
            used.download(root="used")
        found = [each.name for each in wandb.Api().run(f"admin/zoo/{run.id}").used_artifacts()]
    assert found == ["dogs:v0"]


@shows("Api.artifact", "Artifact.aliases", "Artifact.save")
def aliases_in_a_registry_are_moved() -> None:
    newest = stocked().artifact("wandb-registry-Animals/dogs:latest")
    newest.aliases.append("candidate")
    newest.save()
    found = wandb.Api().artifact("wandb-registry-Animals/dogs:candidate")
    assert (found.version, sorted(found.aliases)) == ("v1", ["candidate", "latest"])


@shows("Api.registries", "Registries.collections", "Registries.versions", "Registry.collections", "Registry.versions")
@shows("Registries.length")
def registries_are_searched() -> None:
    registries = stocked().registries(filter={"name": {"$regex": "nimal"}})
    assert ([registry.name for registry in registries], registries.length) == (["Animals"], 1)
    assert next(each.name for each in stocked().registries(organization="launchbay", order="-name")) == "model"
    collections = stocked().registries(filter={"name": "Animals"}).collections(order="+name")
    assert [each.name for each in collections] == ["birds", "cats", "dogs"]
    wanted = {"$or": [{"tag": "big"}, {"alias": "production"}]}
    found = stocked().registries().collections(filter={"name": {"$regex": "^(dogs|birds)$"}}).versions(filter=wanted)
    assert [each.name for each in found] == ["dogs:v0", "dogs:v1", "birds:v0"]
    registry = stocked().registry("Animals")
    assert [each.name for each in registry.collections(filter={"tag": "fly"})] == ["birds"]
    above = {"metadata.number": {"$gt": 0}, "$not": {"version": "v1"}}
    assert [each.name for each in registry.versions(filter=above, per_page=1)] == ["dogs:v0", "birds:v0"]


@shows("Api.registry", "Api.create_registry", "Registry.name", "Registry.full_name", "Registry.path", "Registry.entity")
@shows("Registry.description", "Registry.visibility", "Registry.artifact_types", "Registry.allow_all_artifact_types")
@shows("Registry.save", "Registry.delete", "Registry.load", "Registry.organization", "Registry.create")
@shows("Registry.created_at", "Registry.updated_at", "Registry.id", "Registry.internal_id")
def a_registry_is_made_changed_and_deleted() -> None:
    api = wandb.Api()
    made = api.create_registry("Passing", visibility="restricted", artifact_types=["dataset"])
    assert (made.name, made.full_name, made.path[0]) == ("Passing", "wandb-registry-Passing", made.entity)
    assert (made.visibility, made.allow_all_artifact_types) == ("restricted", False)
    made.description, made.visibility, made.name = "said", "organization", "Renamed"
    made.artifact_types.append("model")
    made.save()
    found = api.registry("Renamed", made.organization)
    assert (found.id, found.internal_id, found.description) == (made.id, made.internal_id, "said")
    assert (found.visibility, list(found.artifact_types)) == ("organization", ["dataset", "model"])
    assert (found.updated_at or "") >= found.created_at
    found.load()
    _delete(found)
    assert "Renamed" not in [each.name for each in api.registries()]
    assert Registry.create(api, "launchbay", "Renamed", "restricted").name == "Renamed"


def _delete(registry: Registry) -> None:
    registry.delete()


@shows("Registry.members", "Registry.user_members", "Registry.team_members")
@shows("Registry.add_members", "Registry.update_member", "Registry.remove_members")
def a_registry_has_members_with_roles() -> None:
    api = wandb.Api()
    user, team = api.create_user("keeper@example.com"), api.create_team("keepers")
    registry = api.create_registry("Members", visibility="restricted")
    assert [each.role for each in registry.members()] == ["admin"]
    registry.add_members(user, team).update_member(user, "member").update_member(team, "restricted_viewer")
    roles = {each.user.username: each.role for each in registry.user_members()}
    assert roles == {"admin": "admin", "keeper": "member"}
    assert [(each.team.name, each.role) for each in registry.team_members()] == [("keepers", "restricted_viewer")]
    registry.remove_members(user, team)
    assert len(registry.members()) == 1
