"""The registry: collections of links that the whole organization finds, searched and looked after."""

from collections.abc import Callable
from typing import Any

import wandb
from wandb.apis.public.registries import Registry
from wandb.errors import CommError
from wandb.sdk.lib.service.service_connection import WandbApiFailedError

from tests.end_to_end.snippets.artifacts import filled
from tests.end_to_end.snippets.checks import once, refusal, shows


@once
def stock() -> None:
    """Fill a registry of animals."""
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


def stocked() -> wandb.Api:
    """Return the public API of a server with this registry."""
    stock()
    return wandb.Api()


@shows("wandb.Run.use_artifact", "wandb.Run.link_artifact")
def use_an_artifact_of_a_registry() -> None:
    stocked()
    with wandb.init(entity="admin", project="zoo") as run:
        for name in ("wandb-registry-Animals/dogs:production", "launchbay/wandb-registry-animals/dogs:v0"):
            used = run.use_artifact(name)
            assert (used.source_name, used.entity) == ("dogs:v0", "launchbay")
            used.download(root="used")
        found = [each.name for each in wandb.Api().run(f"admin/zoo/{run.id}").used_artifacts()]
    assert found == ["dogs:v0"]


@shows("Api.artifact", "Artifact.aliases", "Artifact.save")
def add_an_alias_in_a_registry() -> None:
    api = wandb.Api()
    with wandb.init(entity="admin", project="zoo") as run:
        made = run.log_artifact(filled("fish", {"file": "fish"})).wait()
        run.link_artifact(made, "wandb-registry-dataset/Fish")
    newest = api.artifact("wandb-registry-dataset/Fish:latest")
    newest.aliases.append("candidate")
    newest.save()
    found = api.artifact("wandb-registry-dataset/Fish:candidate")
    assert (found.version, sorted(found.aliases)) == ("v0", ["candidate", "latest"])


@shows("Api.registries", "Registries.collections", "Registries.versions", "Registry.collections", "Registry.versions")
@shows("Registries.length")
def search_registries_collections_and_versions() -> None:
    api = stocked()
    registries = api.registries(filter={"name": {"$regex": "nimal"}})
    assert ([registry.name for registry in registries], registries.length) == (["Animals"], 1)
    assert next(each.name for each in api.registries(organization="launchbay", order="-name")) == "model"
    collections = api.registries(filter={"name": "Animals"}).collections(order="+name")
    assert [each.name for each in collections] == ["birds", "cats", "dogs"]
    wanted = {"$or": [{"tag": "big"}, {"alias": "production"}]}
    found = api.registries().collections(filter={"name": {"$regex": "^(dogs|birds)$"}}).versions(filter=wanted)
    assert [each.name for each in found] == ["dogs:v0", "dogs:v1", "birds:v0"]
    registry = api.registry("Animals")
    assert [each.name for each in registry.collections(filter={"tag": "fly"})] == ["birds"]
    above = {"metadata.number": {"$gt": 0}, "$not": {"version": "v1"}}
    assert [each.name for each in registry.versions(filter=above, per_page=1)] == ["dogs:v0", "birds:v0"]


@shows("Api.registry", "Api.create_registry", "Registry.name", "Registry.full_name", "Registry.path", "Registry.entity")
@shows("Registry.description", "Registry.visibility", "Registry.artifact_types", "Registry.allow_all_artifact_types")
@shows("Registry.save", "Registry.delete", "Registry.load", "Registry.organization", "Registry.create")
@shows("Registry.created_at", "Registry.updated_at", "Registry.id", "Registry.internal_id")
def create_change_and_delete_a_registry() -> None:
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


def model(name: str, **metadata: Any) -> wandb.Artifact:
    """Return an artifact of another type, with a file."""
    made = wandb.Artifact(name, "model", metadata=metadata)
    with made.new_file("weights") as file:
        file.write(name)
    return made


@shows("wandb.Run.link_artifact", "Artifact.link", "Artifact.unlink", "Artifact.tags", "Api.artifact_exists")
def link_only_allowed_types_and_unlink() -> None:
    api = wandb.Api()
    api.create_registry("Strict", visibility="organization", artifact_types=["model"])
    with wandb.init(entity="admin", project="strict") as run:
        linked = run.link_artifact(model("net"), "wandb-registry-Strict/nets", aliases=["prod"])
        assert linked is not None
        assert (linked.qualified_name, linked.source_name) == ("launchbay/wandb-registry-Strict/nets:v0", "net:v0")
        data = run.log_artifact(filled("data", {"a": "1"})).wait()
        refused = refusal(lambda: data.link("wandb-registry-Strict/data"), CommError)
        assert "takes no artifacts of type 'dataset'. It takes: model." in refused
        again = run.log_artifact(model("other")).wait().link("launchbay/wandb-registry-Strict/nets")
        assert again.version == "v1"
    first = wandb.Api().artifact("wandb-registry-Strict/nets:v0")
    first.tags = ["checked"]
    first.save()
    assert wandb.Api().artifact("admin/strict/net:v0").tags == ["checked"]
    first.unlink()
    assert not wandb.Api().artifact_exists("wandb-registry-Strict/nets:v0")
    assert wandb.Api().artifact_exists("wandb-registry-Strict/nets:v1")
    assert wandb.Api().artifact_exists("admin/strict/net:v0")


@shows("Registries.collections", "Registries.versions", "Api.registries", "Registry.collections", "Registry.versions")
def filter_collections_and_versions_of_a_registry() -> None:
    api = wandb.Api()
    api.create_registry("Nets", visibility="organization", description="that see")
    with wandb.init(entity="admin", project="nets") as run:
        for number, name in enumerate(("resnet", "yolo-s", "yolo-l")):
            net = model(name, score=number / 2, deep={"number": number})
            version = run.log_artifact(net, tags=["cnn"] if number else []).wait()
            run.link_artifact(version, f"wandb-registry-Nets/{name}", aliases=["prod" if number == 2 else "staging"])
    for name, tags, description in (("yolo-s", ["yolo", "vision"], "small"), ("yolo-l", ["yolo"], "large")):
        collection = api.artifact_collection("model", f"launchbay/wandb-registry-Nets/{name}")
        collection.tags, collection.description = tags, description
        collection.save()
    resnet, small, large = "resnet", "yolo-s", "yolo-l"
    wanted: list[tuple[Any, list[str]]]
    wanted = [
        (None, [resnet, small, large]),
        ({"tag": "yolo"}, [small, large]),
        ({"tag": {"$in": ["vision", "none"]}}, [small]),
        ({"tag": {"$nin": ["vision"]}}, [resnet, large]),
        ({"tag": {"$exists": False}}, [resnet]),
        ({"description": {"$regex": "^sm"}}, [small]),
        ({"name": {"$contains": "olo"}}, [small, large]),
        ({"name": {"$not": {"$regex": "yolo"}}}, [resnet]),
        ({"name": {"$ne": "resnet"}}, [small, large]),
        ({"$and": [{"tag": "yolo"}, {"name": {"$regex": "-l$"}}]}, [large]),
        ({"$nor": [{"name": "resnet"}, {"tag": "vision"}]}, [large]),
        ({"created_at": {"$gt": "2020-01-01"}, "updated_at": {"$lt": "2020-01-01"}}, []),
    ]
    registries = api.registries(filter={"name": "Nets", "description": {"$regex": "see$"}})
    for asked, names in wanted:
        assert [each.name for each in registries.collections(filter=asked, order="+created_at")] == names, asked
    wanted = [
        (None, [resnet, small, large]),
        ({"alias": "prod"}, [large]),
        ({"alias": {"$in": ["prod", "none"]}}, [large]),
        ({"alias": {"$ne": "prod"}}, [resnet, small]),
        ({"$or": [{"alias": "staging"}, {"tag": "cnn"}]}, [resnet, small, large]),
        ({"tag": {"$exists": True}, "$nor": [{"alias": "prod"}]}, [small]),
        ({"metadata.score": {"$gte": 0.5, "$lt": 1}}, [small]),
        ({"metadata.deep.number": {"$in": [0, 2]}}, [resnet, large]),
        ({"metadata.none": {"$exists": True}}, []),
        ({"version": "v1"}, []),
        ({"created_at": {"$gte": "2020-01-01"}, "updated_at": {"$gte": "2020-01-01"}}, [resnet, small, large]),
    ]
    for asked, names in wanted:
        found = registries.collections().versions(filter=asked)
        assert [each.name for each in found] == [f"{name}:v0" for name in names], asked
    narrowed = registries.collections(filter={"tag": "yolo"}).versions(filter={"alias": "staging"})
    assert [each.qualified_name for each in narrowed] == ["launchbay/wandb-registry-Nets/yolo-s:v0"]


@shows("Registry.members", "Registry.user_members", "Registry.team_members")
@shows("Registry.add_members", "Registry.update_member", "Registry.remove_members")
def members_and_roles_of_a_registry() -> None:
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


def _succeeds(attempt: Callable[[wandb.Api], object], api: wandb.Api) -> bool:
    """Return whether somebody may do this."""
    try:
        attempt(api)
    except (CommError, ValueError, WandbApiFailedError):
        return False
    return True


@shows("Registry.add_members", "Registry.update_member", "Api.registries", "Artifact.link", "Artifact.download")
def roles_of_a_team_in_a_registry() -> None:
    api = wandb.Api()
    team = api.create_team("crew")
    account = team.create_service_account("of-the-crew")
    assert account is not None
    registry = api.create_registry("Guarded", visibility="restricted")
    with wandb.init(entity="admin", project="guarded") as run:
        run.link_artifact(model("net"), "wandb-registry-Guarded/nets")
    with wandb.init(entity="crew", project="theirs") as run:
        run.log_artifact(model("other")).wait()
    registry.add_members(team)

    def rename(theirs: wandb.Api) -> None:
        guarded = theirs.registry("Guarded")
        guarded.description = "theirs"
        guarded.save()

    path = "wandb-registry-Guarded/nets:v0"
    attempts: list[Callable[[wandb.Api], object]] = [
        lambda theirs: theirs.artifact(path),
        lambda theirs: theirs.artifact(path).download(root="guarded"),
        lambda theirs: theirs.artifact("crew/theirs/other:v0").link("wandb-registry-Guarded/theirs"),
        rename,
    ]
    for allowed, role in enumerate(("restricted_viewer", "viewer", "member", "admin"), 1):
        registry.update_member(team, role)
        theirs = wandb.Api(api_key=account.api_key)
        succeeded = [_succeeds(attempt, theirs) for attempt in attempts]
        assert succeeded == [number < allowed for number in range(len(attempts))], role
    registry.remove_members(team)
    assert "Guarded" not in [each.name for each in wandb.Api(api_key=account.api_key).registries()]
