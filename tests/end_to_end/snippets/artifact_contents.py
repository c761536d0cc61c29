"""What a version of an artifact holds and what is known of it: files, folders, tables, sums, and where it lies."""

import hashlib
from base64 import b64encode
from datetime import datetime
from pathlib import Path
from typing import Any

import wandb

from tests.end_to_end.snippets.checks import differs, once, refusal, shows

PLACE = "admin/contents"
TABLE: Any = [[1, "a"], [2, "b"]]


def folder() -> Path:
    """Return a folder with two files."""
    made = Path("contents")
    (made / "deep").mkdir(parents=True, exist_ok=True)
    (made / "one").write_text("1")
    (made / "deep" / "two").write_text("22")
    return made


def filled() -> wandb.Artifact:
    """Return an artifact with a folder, a file and a table."""
    made = wandb.Artifact("filled", "dataset")
    made.add_dir(str(folder()), name="folder")
    made.add_file(str(folder() / "one"), name="alone")
    made.add(wandb.Table(columns=["x", "y"], data=TABLE), "table")
    return made


def one_file(name: str, path: Path) -> wandb.Artifact:
    """Return an artifact of one file."""
    made = wandb.Artifact(name, "dataset")
    made.add_file(str(path))
    return made


@once
def log_artifacts() -> None:
    """Log that artifact after two rows, and one of a single file."""
    with wandb.init(entity="admin", project="contents", id="filler") as run:
        run.log({"loss": 2})
        run.log({"loss": 1})
        run.log_artifact(filled(), aliases=["best"])
        run.log_artifact(one_file("single", folder() / "deep" / "two"))


def found() -> wandb.Artifact:
    """Return the first of these as the server has it."""
    log_artifacts()
    return wandb.Api().artifact(f"{PLACE}/filled:best")


def md5(data: bytes) -> str:
    """Return a sum as artifacts have it."""
    return b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def moment(text: str | None) -> datetime:
    """Return the moment that a text tells."""
    return datetime.fromisoformat(text or "never")


@shows("Artifact.add_dir", "Artifact.add_file", "Artifact.add", "Artifact.download", "Artifact.get")
def add_files_folders_and_tables_and_read_them_back() -> None:
    root = Path(found().download(root="back"))
    names = {str(file.relative_to(root)): file for file in root.rglob("*") if file.is_file()}
    assert sorted(names) == ["alone", "folder/deep/two", "folder/one", "table.table.json"]
    assert (names["alone"].read_text(), names["folder/deep/two"].read_text()) == ("1", "22")
    table: Any = found().get("table")
    assert (table.columns, table.data) == (["x", "y"], TABLE)


@shows("Artifact.download", "Artifact.get_path")
def download_a_part_of_an_artifact() -> None:
    root = Path(found().download(root="part", path_prefix="folder/deep"))
    assert [str(file.relative_to(root)) for file in root.rglob("*") if file.is_file()] == ["folder/deep/two"]
    assert Path(found().get_path("alone").download(root="alone")).read_text() == "1"


@shows("Artifact.checkout", "Artifact.verify")
def check_out_and_verify_an_artifact() -> None:
    root = Path(found().checkout(root="checked-out"))
    found().verify(root=str(root))
    (root / "stray").write_text("not in it")
    assert "not a member" in refusal(lambda: found().verify(root=str(root)), ValueError)
    found().checkout(root=str(root))
    assert not (root / "stray").exists()
    (root / "alone").write_text("changed")
    assert "alone" in refusal(lambda: found().verify(root=str(root)), ValueError)


@shows("Artifact.file")
def download_the_only_file() -> None:
    log_artifacts()
    single = wandb.Api().artifact(f"{PLACE}/single:latest")
    assert Path(single.file(root="single")).read_text() == "22"
    assert "more than one file" in refusal(lambda: found().file(), ValueError)


@shows("Artifact.size", "Artifact.digest", "Artifact.digest_algorithm", "Artifact.state", "Artifact.commit_hash")
def size_digest_and_state_of_an_artifact() -> None:
    read, made = found(), filled()
    made.finalize()
    assert (read.state, read.digest, read.size) == ("COMMITTED", made.digest, made.size)
    assert read.size == sum(
        file.stat().st_size for file in Path(read.download(root="sums")).rglob("*") if file.is_file()
    )
    assert read.digest_algorithm == made.digest_algorithm
    assert read.get_entry("folder/deep/two").digest == md5(b"22")
    assert read.commit_hash == found().commit_hash != wandb.Api().artifact(f"{PLACE}/single:v0").commit_hash


@shows("Artifact.id", "Artifact.name", "Artifact.entity", "Artifact.project", "Artifact.type", "Artifact.collection")
@shows("Artifact.url", "Artifact.history_step", "Artifact.json_encode")
@differs("Artifact.use_as", "always None: the client has given it up")
def identity_of_an_artifact() -> None:
    read = found()
    assert (read.entity, read.project, read.name, read.type) == ("admin", "contents", "filled:best", "dataset")
    assert read.id == wandb.Api().artifact(f"{PLACE}/filled:v0").id
    assert (read.collection.name, read.collection.type) == ("filled", "dataset")
    assert read.url.endswith("/admin/contents/artifacts/dataset/filled/v0")
    assert read.history_step == 1, "the last row before it"
    with wandb.init(entity="admin", project="contents") as run:
        used = run.use_artifact("filled:best", use_as="training data")
        assert used.use_as is None
        run.config["data"] = used
        name = run.id
    told = {"_type": "artifactVersion", "_version": "v0", "sequenceName": "filled", "version": "v0", "id": read.id}
    assert used.json_encode() == {**told, "usedAs": None}
    assert wandb.Api().run(f"{PLACE}/{name}").config["data"] == used.json_encode()


@shows("Artifact.source_entity", "Artifact.source_collection", "Artifact.source_qualified_name", "Artifact.linked_at")
@shows("Artifact.created_at", "Artifact.updated_at")
def source_and_times_of_a_linked_artifact() -> None:
    with wandb.init(entity="admin", project="contents") as run:
        made = run.log_artifact(one_file("linked", folder() / "one")).wait()
        run.link_artifact(made, "shelves/shelf")
    read, linked = wandb.Api().artifact(f"{PLACE}/linked:v0"), wandb.Api().artifact("admin/shelves/shelf:latest")
    assert (linked.source_entity, linked.source_qualified_name) == ("admin", f"{PLACE}/linked:v0")
    assert (linked.source_collection.name, linked.source_collection.project) == ("linked", "contents")
    assert (linked.created_at, read.linked_at) == (read.created_at, None)
    assert moment(linked.linked_at) >= moment(read.created_at)
    read.description = "said"
    read.save()
    assert moment(wandb.Api().artifact(f"{PLACE}/linked:v0").updated_at) >= moment(read.created_at)


@shows("Artifact.is_draft", "Artifact.finalize", "Artifact.get_added_local_path_name")
def an_artifact_is_a_draft_until_it_is_logged() -> None:
    draft, file = wandb.Artifact("draft", "dataset"), str(folder() / "one")
    draft.add_file(file, name="renamed")
    assert draft.get_added_local_path_name(file) == "renamed"
    assert (draft.is_draft(), found().is_draft()) == (True, False)
    draft.finalize()
    assert "finalized" in refusal(lambda: draft.add_file(file, name="late"), AttributeError)


@shows(
    "ArtifactType.id", "ArtifactType.load", "Project.artifacts_types", "Project.collections", "Api.artifact_versions"
)
def list_artifact_types_and_collections_of_a_project() -> None:
    log_artifacts()
    api = wandb.Api()
    project = api.project("contents", "admin")
    kinds = {kind.name: kind for kind in project.artifacts_types()}
    assert kinds["dataset"].id == kinds["dataset"].load().id == api.artifact_type("dataset", PLACE).id
    some = project.collections(filters={"name": {"$in": ["filled", "other"]}}, order="+name")
    assert [(each.name, each.type) for each in some] == [("filled", "dataset")]
    assert [version.name for version in api.artifact_versions("dataset", f"{PLACE}/filled")] == ["filled:v0"]


@shows("ArtifactCollection.id", "ArtifactCollection.entity", "ArtifactCollection.project", "ArtifactCollection.load")
@shows("ArtifactCollection.project_id", "ArtifactCollection.project_internal_id", "ArtifactCollection.change_type")
@shows("ArtifactCollection.created_at", "ArtifactCollection.updated_at")
def change_the_type_of_a_collection() -> None:
    with wandb.init(entity="admin", project="contents") as run:
        run.log_artifact(one_file("typed", folder() / "one"))
    api = wandb.Api()
    collection = api.artifact_collection("dataset", f"{PLACE}/typed")
    assert (collection.entity, collection.project) == ("admin", "contents")
    assert collection.project_id == api.project("contents", "admin").id
    assert collection.project_internal_id
    assert collection.load("admin", "contents", "dataset", "typed").id == collection.id
    collection.change_type("numbers")
    changed = wandb.Api().artifact_collection("numbers", f"{PLACE}/typed")
    assert (changed.id, changed.created_at) == (collection.id, collection.created_at)
    assert moment(changed.updated_at) >= moment(changed.created_at)


@differs(
    "Artifact.download", "after one with `skip_cache`, what the process downloads next is written over its last file"
)
def download_without_the_cache() -> None:
    past = Path(found().download(root="past", path_prefix="folder/deep", skip_cache=True), "folder", "deep", "two")
    assert past.read_text() == "22"
    found().get_entry("alone").download(root="next")
    assert past.read_text() == "1"
