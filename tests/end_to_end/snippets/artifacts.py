"""Artifacts are logged, versioned, tagged, changed, linked and looked at, as the guides have it."""

from datetime import timedelta
from pathlib import Path

import wandb
from wandb.apis.public import ArtifactCollection
from wandb.errors import CommError

from tests.end_to_end.snippets.checks import once, refusal, shows

PLACE = "admin/artifact-guides"


def filled(artifact_name: str, files: dict[str, str], *, incremental: bool = False) -> wandb.Artifact:
    """Return an artifact with files of these names."""
    made = wandb.Artifact(
        artifact_name, "dataset", incremental=incremental, metadata={"files": len(files), "nan": float("nan")}
    )
    for file_name, text in files.items():
        with made.new_file(file_name) as file:
            file.write(text)
    return made


@once
def log_versions() -> None:
    """Log two versions, link the second one, and take the first one back in."""
    with wandb.init(entity="admin", project="artifact-guides", id="maker") as run:
        run.log_artifact(filled("data", {"a": "1", "b": "1"}), aliases=["first"], tags=["raw"]).wait()
        increment = filled("data", {"b": "2", "c": "3"}, incremental=True)
        assert increment.incremental
        last = run.log_artifact(increment, tags=["raw", "two words"]).wait()
        run.use_artifact("data:first")
        run.link_artifact(last, "shop/best", aliases=["prod"])
        run.link_artifact(last, "wandb-registry-dataset/Numbers", aliases=["prod"])


def newest() -> wandb.Artifact:
    """Return the second of these as the server has it."""
    log_versions()
    return wandb.Api().artifact(f"{PLACE}/data:latest")


@shows("wandb.Run.log_artifact", "Artifact.tags", "Artifact.version", "Artifact.metadata", "Artifact.manifest")
@shows("Artifact.incremental")
def log_an_incremental_artifact() -> None:
    found = newest()
    assert (found.version, found.tags, found.metadata["files"]) == ("v1", ["raw", "two words"], 2)
    assert sorted(found.manifest.entries) == ["a", "b", "c"]
    folder = Path(found.download(root="increments"))
    found.verify(root=str(folder))
    assert {file.name: file.read_text() for file in folder.iterdir()} == {"a": "1", "b": "2", "c": "3"}


@shows("wandb.Run.upsert_artifact", "wandb.Run.finish_artifact", "Artifact.distributed_id")
def runs_of_a_group_log_one_version_together() -> None:
    for number in range(3):
        with wandb.init(entity="admin", project="artifact-guides", group="group") as run:
            part = filled("together", {f"part{number}": str(number)})
            made = (run.finish_artifact if number == 2 else run.upsert_artifact)(part)
            assert made.distributed_id == "group"
    found = wandb.Api().artifact(f"{PLACE}/together:latest")
    assert (found.version, sorted(found.manifest.entries)) == ("v0", ["part0", "part1", "part2"])


@shows("Artifact.new_draft", "Artifact.remove", "Artifact.new_file", "Artifact.save", "Artifact.wait")
def make_a_new_version_from_a_draft() -> None:
    with wandb.init(entity="admin", project="artifact-guides") as run:
        run.log_artifact(filled("drafted", {"a": "1", "b": "1"})).wait()
        draft = run.use_artifact("drafted:latest").new_draft()
        draft.remove("a")
        with draft.new_file("c") as file:
            file.write("new")
        draft.save()
        draft.wait()
    found = wandb.Api().artifact(f"{PLACE}/drafted:latest")
    assert (found.version, sorted(found.manifest.entries)) == ("v1", ["b", "c"])


@shows("wandb.Run.link_artifact", "Artifact.is_link", "Artifact.source_artifact", "Artifact.linked_artifacts")
@shows("Artifact.source_name", "Artifact.source_version", "Artifact.source_project")
@shows("Api.artifact", "Artifact.qualified_name")
def link_a_version_to_a_portfolio() -> None:
    source = newest()
    linked = wandb.Api().artifact("admin/shop/best:prod")
    assert (linked.is_link, linked.version, linked.qualified_name) == (True, "v0", "admin/shop/best:prod")
    assert (linked.source_name, linked.source_version, linked.source_project) == ("data:v1", "v1", "artifact-guides")
    assert linked.source_artifact.qualified_name == f"{PLACE}/data:v1"
    names = sorted(each.qualified_name for each in source.linked_artifacts)
    assert names == ["admin/shop/best:v0", "launchbay/wandb-registry-dataset/Numbers:v0"]
    assert Path(linked.download(root="linked"), "c").read_text() == "3"


@shows("Api.artifacts", "ArtifactCollection.artifacts", "Artifact.version", "Artifact.source_version", "Artifact.files")
def list_linked_versions_and_download_them() -> None:
    portfolio, registry = "admin/shop/papers", "launchbay/wandb-registry-dataset/papers"
    with wandb.init(entity="admin", project="artifact-guides") as run:
        old, new = (run.log_artifact(filled("paper", {"text": text})).wait() for text in ("old", "newer"))
        for version in (new, old):
            run.link_artifact(version, "shop/papers")
            run.link_artifact(version, "wandb-registry-dataset/papers")
    api = wandb.Api()
    for path in (portfolio, registry):
        for listed in (api.artifacts("dataset", path), api.artifact_collection("dataset", path).artifacts()):
            found = list(listed)
            assert [(each.name, each.version, each.source_version) for each in found] == [
                ("papers:v1", "v1", "v0"),
                ("papers:v0", "v0", "v1"),
            ]
            assert [each.aliases for each in found] == [["latest"], []]
            assert [file.size for each in found for file in each.files()] == [3, 5]
            folders = [each.download(root=each.version, skip_cache=True) for each in found]
            assert [Path(folder, "text").read_text() for folder in folders] == ["old", "newer"]


@shows("Artifact.link", "Artifact.unlink", "Api.artifact_exists")
def unlink_an_artifact() -> None:
    with wandb.init(entity="admin", project="artifact-guides") as run:
        made = run.log_artifact(filled("unlinked", {"a": "1"})).wait()
    linked = made.link("shop/passing")
    assert wandb.Api().artifact_exists("admin/shop/passing:latest")
    linked.unlink()
    assert not wandb.Api().artifact_exists("admin/shop/passing:latest")
    assert wandb.Api().artifact_exists(f"{PLACE}/unlinked:v0")


@shows("wandb.Run.link_model", "wandb.Run.log_model", "wandb.Run.use_model")
def log_link_and_use_a_model() -> None:
    Path("model.bin").write_text("weights")
    with wandb.init(entity="admin", project="artifact-guides") as run:
        run.log_model("model.bin", name="net")
        run.link_model("model.bin", registered_model_name="fine", name="net", aliases=["prod"])
        path = run.use_model("net:latest")
        assert Path(path).read_text() == "weights"
    assert wandb.Api().artifact("admin/model-registry/fine:prod").type == "model"


@shows("Artifact.aliases", "Artifact.description", "Artifact.ttl", "Artifact.save", "Artifact.tags")
def change_aliases_tags_metadata_description_and_ttl() -> None:
    with wandb.init(entity="admin", project="artifact-guides") as run:
        run.log_artifact(filled("changed", {"a": "1"})).wait()
    found = wandb.Api().artifact(f"{PLACE}/changed:v0")
    found.aliases.append("best")
    found.tags = ["new"]
    found.description, found.ttl = "said", timedelta(days=1)
    found.metadata["more"] = [1]
    found.save()
    again = wandb.Api().artifact(f"{PLACE}/changed:best")
    assert (again.tags, again.description, again.ttl) == (["new"], "said", timedelta(days=1))
    assert again.metadata["more"] == [1]
    assert sorted(again.aliases) == ["best", "latest"]


@shows(
    "ArtifactCollection.tags", "ArtifactCollection.name", "ArtifactCollection.description", "ArtifactCollection.type"
)
@shows("ArtifactCollection.save", "ArtifactCollection.delete", "Api.artifact_collection", "ArtifactCollection.aliases")
@shows("Api.artifact_collection_exists", "ArtifactCollection.is_sequence", "ArtifactCollection.artifacts")
def change_and_delete_a_collection() -> None:
    with wandb.init(entity="admin", project="artifact-guides") as run:
        made = run.log_artifact(filled("old-name", {"a": "1"})).wait()
        run.link_artifact(made, "shop/shelf")
    api = wandb.Api()
    collection = api.artifact_collection("dataset", f"{PLACE}/old-name")
    collection.name, collection.description, collection.type = "new-name", "of it", "numbers"
    collection.tags = ["b", "a"]
    collection.save()
    found = wandb.Api().artifact_collection("numbers", f"{PLACE}/new-name")
    assert (found.description, sorted(found.tags), found.aliases) == ("of it", ["a", "b"], ["latest"])
    assert [each.name for each in found.artifacts()] == ["new-name:v0"]
    shelf = api.artifact_collection("dataset", "admin/shop/shelf")
    assert (found.is_sequence(), shelf.is_sequence()) == (True, False)
    shelf.name = "rack"
    shelf.save()
    _delete(wandb.Api().artifact_collection("dataset", "admin/shop/rack"))
    assert api.artifact_exists(f"{PLACE}/new-name:v0"), "a link was deleted, and not the version"
    _delete(found)
    assert not api.artifact_collection_exists(f"{PLACE}/new-name", "numbers")


def _delete(collection: ArtifactCollection) -> None:
    collection.delete()


@shows("Artifact.delete")
def delete_a_version_with_its_aliases() -> None:
    with wandb.init(entity="admin", project="artifact-guides") as run:
        for text in ("1", "2"):
            run.log_artifact(filled("deleted", {"a": text})).wait()
    found = wandb.Api().artifact(f"{PLACE}/deleted:latest")
    assert "has the aliases latest" in refusal(found.delete, CommError)
    found.delete(delete_aliases=True)
    assert wandb.Api().artifact(f"{PLACE}/deleted:latest").version == "v0"


@shows("Artifact.logged_by", "Artifact.used_by", "Run.logged_artifacts", "Run.used_artifacts")
def lineage_of_an_artifact() -> None:
    log_versions()
    first = wandb.Api().artifact(f"{PLACE}/data:first")
    maker = first.logged_by()
    assert maker is not None
    assert (maker.id, [run.id for run in first.used_by()]) == ("maker", ["maker"])
    assert [each.name for each in maker.logged_artifacts()] == ["data:v0", "data:v1"]
    assert [each.name for each in maker.used_artifacts()] == ["data:v0"]


@shows("Artifact.add_reference", "Artifact.get_entry", "Artifact.files", "Artifact.file_count")
def add_references_to_files_and_to_other_artifacts() -> None:
    Path("far.txt").write_text("far away")
    near = newest().get_entry("c").ref_url()
    with wandb.init(entity="admin", project="artifact-guides") as run:
        made = wandb.Artifact("references", "dataset")
        made.add_reference(Path("far.txt").absolute().as_uri(), name="far")
        made.add_reference(near, name="near")
        run.log_artifact(made).wait()
    found = wandb.Api().artifact(f"{PLACE}/references:latest")
    assert (found.file_count, found.get_entry("far").size) == (2, 8)
    assert sorted(file.name for file in found.files()) == ["far", "near"]
    folder = found.download(root="references")
    assert sorted(file.name for file in Path(folder).iterdir()) == ["far", "near"]
    assert Path(folder, "near").read_text() == "3"


@shows("Api.artifacts", "Api.artifact_types", "Api.artifact_type", "Api.artifact_collections")
@shows("ArtifactType.name", "ArtifactType.collections", "ArtifactType.collection")
def list_artifacts_their_types_and_collections() -> None:
    log_versions()
    api = wandb.Api()
    assert [found.name for found in api.artifacts("dataset", f"{PLACE}/data")] == ["data:v1", "data:v0"]
    assert [found.name for found in api.artifacts("dataset", f"{PLACE}/data", tags=["two words"])] == ["data:v1"]
    kind = api.artifact_type("dataset", PLACE)
    assert kind.name in [each.name for each in api.artifact_types(PLACE)]
    assert "data" in [each.name for each in api.artifact_collections(PLACE, "dataset")]
    found = kind.collections(filters={"name": {"$regex": "^da"}}, order="-name")
    assert [each.name for each in found] == ["data"]
    assert kind.collection("data").name == "data"
